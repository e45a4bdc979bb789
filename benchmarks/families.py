"""All families, in the order of the table."""

from __future__ import annotations

from benchmarks import (
    budgets,
    char,
    jax_scan,
    layers,
    loop,
    memory,
    ragged,
    regularised,
    sgemm,
    start,
    stream,
    zoo,
)
from benchmarks.family import Family

FAMILIES: dict[str, Family] = {
    family.name: family
    for module in (
        layers,
        loop,
        jax_scan,
        zoo,
        ragged,
        regularised,
        stream,
        sgemm,
        char,
        memory,
        budgets,
        start,
    )
    for family in module.FAMILIES
}
