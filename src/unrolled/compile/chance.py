"""Print the draws of `unrolled.leaves`: the same bits, for a row and a vector of units."""

from __future__ import annotations

from unrolled.compile.emit import Emitter
from unrolled.leaves import BITS, GOLDEN32, GOLDEN64, MIX, SPLITMIX


def probability(e: Emitter, threshold: str) -> str:
    """The number that parts stand for."""
    return e.emit(
        f"fmul {e.scalar} {e.emit(f'sitofp i64 {threshold} to {e.scalar}')}, {e.number(2.0**-BITS)}"
    )


def row_bits(e: Emitter, key: str, place: str) -> str:
    """The 64 bits of a place."""
    z = e.integer_of("add", key, e.integer_of("mul", place, GOLDEN64))
    for shift, factor in SPLITMIX:
        z = e.integer_of("xor", z, e.integer_of("lshr", z, shift))
        if factor is not None:
            z = e.integer_of("mul", z, factor)
    return z


def bernoulli(e: Emitter, bits: str, unit: str, threshold: str) -> str:
    """The mask of the draws of a vector of units from `unit` on."""
    kind = f"<{e.lanes} x i32>"

    def half(shift: int) -> str:
        number = e.emit(f"trunc i64 {e.integer_of('lshr', bits, shift)} to i32")
        return e.spread("i32", number)

    def of(instruction: str, a: str, b: str | int) -> str:
        return e.emit(f"{instruction} {kind} {a}, {f'splat (i32 {b})' if isinstance(b, int) else b}")

    first = e.spread("i32", e.emit(f"trunc i64 {unit} to i32"))
    units = of("add", first, f"<{', '.join(f'i32 {k}' for k in range(e.lanes))}>")
    b = of("add", of("mul", units, GOLDEN32), half(0))
    for step, (shift, factor) in enumerate(MIX):
        b = of("xor", b, of("lshr", b, shift))
        if factor is not None:
            b = of("mul", b, factor)
        if not step:
            b = of("xor", b, half(32))
    limit = e.spread("i32", e.emit(f"trunc i64 {threshold} to i32"))
    return of("icmp slt", of("lshr", b, 32 - BITS), limit)
