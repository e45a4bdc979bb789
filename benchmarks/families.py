"""All families, in the order of the table."""

from __future__ import annotations

from benchmarks import (
    attention,
    budgets,
    captions,
    char,
    deep,
    digits,
    flow,
    jax_scan,
    labels,
    layers,
    long_memory,
    loop,
    memory,
    ragged,
    regularised,
    sgemm,
    start,
    stream,
    translation,
    vqa,
    zoo,
)
from benchmarks.family import Family

FAMILIES: dict[str, Family] = {
    family.name: family
    for module in (
        layers, loop, jax_scan, zoo, ragged, regularised, stream, sgemm, char, memory, budgets, long_memory,
        flow, deep, digits, attention, translation, labels, captions, vqa, start,
    )
    for family in module.FAMILIES
}  # fmt: skip
