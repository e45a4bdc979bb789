"""All families, in the order of the table."""

from __future__ import annotations

from benchmarks import (
    attention,
    budgets,
    char,
    deep,
    digits,
    flow,
    jax_scan,
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
    zoo,
)
from benchmarks.family import Family

FAMILIES: dict[str, Family] = {
    family.name: family
    for module in (
        layers, loop, jax_scan, zoo, ragged, regularised, stream, sgemm, char, memory, budgets, long_memory,
        flow, deep, digits, attention, translation, start,
    )
    for family in module.FAMILIES
}  # fmt: skip
