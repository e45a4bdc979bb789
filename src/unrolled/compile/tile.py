"""The register tile: up to six rows times a few vectors of sums of products, kept in registers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from unrolled.compile.emit import Emitter

ROWS: Final = 6
"""Rows of the largest tile."""

SUMS: Final = 4
"""Sums of a single row that grow side by side, at least, since each waits for its own last addition."""


def accumulate(
    e: Emitter, start: Sequence[str], rows: Sequence[str], step: str, panel: str, panel_step: str, width: str
) -> list[str]:
    """Add the products of rows with the columns of a panel, over the width of the rows.

    The sums of a single row are cut into several chains of additions each.

    Args:
        start: the sums so far, by column and row.
        rows: the address of each row's first element.
        step: how far the next element of a row is.
        panel: the address of the panel: vectors side by side, the columns.
        panel_step: how far the next vectors are, in elements.
    """
    columns = len(start) // len(rows)
    chains = max(1, SUMS // len(start)) if len(rows) == 1 else 1

    def add(k: str, sums: list[str]) -> list[str]:
        offset = k if step == "1" else e.integer_of("mul", k, step)
        at = e.at(panel, e.integer_of("mul", k, panel_step))
        weights = [e.load(e.at(at, str(c * e.lanes))) for c in range(columns)]
        new = list(sums)
        for r, row in enumerate(rows):
            element = e.spread(e.scalar, e.load(e.at(row, offset), e.scalar))
            for c, weight in enumerate(weights):
                new[c * len(rows) + r] = e.fma(weight, element, sums[c * len(rows) + r])
        return new

    def several(k: str, sums: list[str]) -> list[str]:
        each = [sums[at : at + len(start)] for at in range(0, len(sums), len(start))]
        done = [add(e.integer_of("add", k, n) if n else k, part) for n, part in enumerate(each)]
        return [value for part in done for value in part]

    if chains == 1:
        return e.loop("0", width, "1", add, [(e.vector, value) for value in start])
    together = e.integer_of("sub", width, e.integer_of("urem", width, chains))
    first = [*start, *[e.splat(0.0)] * (len(start) * (chains - 1))]
    sums = e.loop("0", together, str(chains), several, [(e.vector, value) for value in first])
    while len(sums) > len(start):
        half = len(sums) // 2
        sums = [e.add(a, b) for a, b in zip(sums[:half], sums[half:], strict=True)]
    return e.loop(together, width, "1", add, [(e.vector, value) for value in sums])


def pieces(
    e: Emitter,
    count: str,
    call: Callable[[int, int, str], None],
    wide: tuple[str, int],
    then: Callable[[str, str], None] | None = None,
) -> None:
    """Cut rows into tiles of nearly equal height, since single leftover rows are slow: 16 is 6 + 5 + 5.

    Args:
        call: `call(height, vectors, first)` prints the work of one tile.
        wide: a bit, and how many vectors wide a tile is where it is set; elsewhere it is one vector.
        then: `then(height, first)` prints what follows each tile.
    """
    number = e.integer_of("udiv", e.integer_of("add", count, ROWS - 1), ROWS)
    height = e.integer_of("udiv", count, e.emit(f"call i64 @llvm.umax.i64(i64 {number}, i64 1)"))
    higher = e.integer_of("sub", count, e.integer_of("mul", number, height))
    e.intrinsics.add("declare i64 @llvm.umax.i64(i64, i64)")
    is_wide, vectors = wide
    kinds = dict.fromkeys((vectors, 1))

    def piece(k: str, _: list[str]) -> list[str]:
        one_more = e.emit(f"icmp slt i64 {k}, {higher}")
        rows = e.integer_of("add", height, e.emit(f"zext i1 {one_more} to i64"))
        first = e.integer_of("add", e.integer_of("mul", k, height), e.smaller(k, higher))
        which = (
            e.integer_of("add", rows, e.choose(is_wide, "0", str(ROWS), "i64")) if len(kinds) > 1 else rows
        )
        labels = [(n, v, e.name("h")) for v in kinds for n in range(1, ROWS + 1)]
        after = e.name("h")
        cases = " ".join(f"i64 {k}, label %{label}" for k, (_, _, label) in enumerate(labels, 1))
        e.do(f"switch i64 {which}, label %{after} [ {cases} ]")
        for n, v, label in labels:
            e.lines.append(f"{label}:")
            call(n, v, first)
            e.do(f"br label %{after}")
        e.lines.append(f"{after}:")
        if then:
            then(rows, first)
        return []

    e.loop("0", number, "1", piece)
