"""Products of the rows of a chunk: with weights, and with each other."""

from __future__ import annotations

from collections.abc import Callable

from unrolled.compile.emit import Emitter
from unrolled.compile.jobs import Job, job
from unrolled.compile.machine import machine
from unrolled.compile.tile import ROWS, accumulate, pieces


@job("operand", "operand row", "width", "panels", "rest panels", "columns", "weights", "to", "to row",
      "operand whole", "to whole", "add")  # fmt: skip
def product(e: Job) -> None:
    """The rows of the chunk times panels: `columns` columns of the result, added to with `add`.

    `operand whole`, `to whole`: the place is that of all time steps, not of the chunk's.
    """
    begin, count = e.rows_of_chunk()
    operand, to, weights = e.pointer("operand"), e.pointer("to"), e.pointer("weights")
    operand_row, to_row, width = e.word("operand row"), e.word("to row"), e.word("width")
    panels, columns, add = e.word("panels"), e.word("columns"), e.word("add")
    operand = e.at(operand, e.integer_of("mul", e.if_whole("operand whole", begin), operand_row))
    to = e.at(to, e.integer_of("mul", e.if_whole("to whole", begin), to_row))
    block = 8 * ROWS
    blocks = e.integer_of("udiv", e.integer_of("add", count, block - 1), block)
    first, end = _items(e, panels, blocks)

    def item(k: str, _: list[str]) -> list[str]:
        panel = e.integer_of("udiv", k, blocks)
        row = e.integer_of("mul", e.integer_of("urem", k, blocks), block)
        rows = e.smaller(e.integer_of("sub", count, row), block)
        vector, wide = _panel(e, panel, panels)
        column = e.integer_of("mul", vector, e.lanes)
        _call_strip(
            e, wide,
            e.at(operand, e.integer_of("mul", row, operand_row)), operand_row, "1",
            e.at(weights, e.integer_of("mul", column, width)), width,
            e.at(e.at(to, e.integer_of("mul", row, to_row)), column), to_row,
            e.integer_of("sub", columns, column), add, rows,
        )  # fmt: skip
        return []

    e.loop(first, end, "1", item)


def _call_strip(e: Job, wide: str, rows: str, row: str, step: str, panel: str, width: str, to: str,
                to_row: str, left: str, add: str, count: str) -> None:  # fmt: skip
    e.do(
        f"call void @strip(ptr {rows}, i64 {row}, i64 {step}, ptr {panel}, i64 {width}, ptr {to}, "
        f"i64 {to_row}, i64 {left}, i64 {add}, i64 {count}, i1 {wide})"
    )


def _items(e: Job, panels: str, blocks: str) -> tuple[str, str]:
    """This worker's part of all pairs of a panel and a block, by panel; a wide panel is the work of several
    narrow ones."""
    wide = e.integer_of("mul", panels, blocks)
    cost = e.integer_of("mul", wide, machine().group)
    narrow = e.integer_of("mul", e.word("rest panels"), blocks)
    first, end = e.share(e.integer_of("add", cost, narrow))

    def item(at: str) -> str:
        up = e.integer_of("udiv", e.integer_of("add", at, machine().group - 1), machine().group)
        beyond = e.integer_of("add", wide, e.integer_of("sub", at, cost))
        return e.choose(e.emit(f"icmp slt i64 {at}, {cost}"), up, beyond, "i64")

    return item(first), item(end)


def _panel(e: Job, panel: str, whole: str) -> tuple[str, str]:
    """The first vector of a panel, and whether it is a wide one."""
    is_whole = e.emit(f"icmp slt i64 {panel}, {whole}")
    wide = e.integer_of("mul", panel, machine().group)
    beyond = e.integer_of("add", panel, e.integer_of("mul", whole, machine().group - 1))
    return e.choose(is_whole, wide, beyond, "i64"), is_whole


@job("left", "units", "right", "panels", "rest panels", "width", "capacity", "to", "apart", "to row",
      "again")  # fmt: skip
def sum_products(e: Job) -> None:
    """The gradient of a matrix: to[u, k] is the sum over rows of left[row, u] * right[row, k].

    `left` is in panels of one vector, `right` in wide ones. The first chunk writes, later ones add; with
    `again` all add. Where every step has its own matrix, each gets the sum over its rows.
    """
    top, count = e.rows_of_chunk()
    left, right, to = e.pointer("left"), e.pointer("right"), e.pointer("to")
    units, width, to_row = e.word("units"), e.word("width"), e.word("to row")
    panels, capacity = e.word("panels"), e.word("capacity")
    backwards = e.emit(f"icmp ne i64 {e.header('reversed')}, 0")
    at_start = e.emit("icmp eq i64 %begin, 0")
    at_end = e.emit(f"icmp eq i64 %end, {e.header('T')}")
    own = e.emit(f"icmp ne i64 {e.word('apart')}, 0")
    is_first = e.choose(own, "true", e.choose(backwards, at_end, at_start, "i1"), "i1")
    add = e.choose(is_first, e.word("again"), "1", "i64")
    groups = e.vectors(units)
    blocks = e.integer_of("mul", groups, e.choose(own, e.steps_apart(), "1", "i64"))
    first, end = _items(e, panels, blocks)

    def item(k: str, _: list[str]) -> list[str]:
        panel, block = e.integer_of("udiv", k, blocks), e.integer_of("urem", k, blocks)
        t = e.integer_of("add", "%begin", e.integer_of("udiv", block, groups))
        unit = e.integer_of("mul", e.integer_of("urem", block, groups), e.lanes)
        row = e.choose(own, e.integer_of("sub", e.first_row(t), top), "0", "i64")
        of_step = e.integer_of("sub", e.first_row(e.integer_of("add", t, 1)), e.first_row(t))
        rows_here = e.choose(own, of_step, count, "i64")
        rows = e.smaller(e.integer_of("sub", units, unit), e.lanes)
        vector, wide = _panel(e, panel, panels)
        column = e.integer_of("mul", vector, e.lanes)
        across = e.integer_of("mul", row, e.choose(wide, str(machine().group * e.lanes), str(e.lanes), "i64"))
        down = e.integer_of("mul", row, e.lanes)
        _call_strip(
            e, wide,
            e.at(e.at(left, e.integer_of("mul", unit, capacity)), down), "1", str(e.lanes),
            e.at(e.at(right, e.integer_of("mul", column, capacity)), across), rows_here,
            e.at(e.at(e.of_step(to, t), e.integer_of("mul", unit, to_row)), column), to_row,
            e.integer_of("sub", width, column), add, rows,
        )  # fmt: skip
        return []

    e.loop(first, end, "1", item)


def print_tiles(scalar: str, lanes: int, add: Callable[[Emitter, str], None]) -> None:
    """The register tiles of products, and the strip that cuts rows into them; `add` takes each function."""
    for vectors in (machine().group, 1):
        for rows in range(1, ROWS + 1):
            e = Emitter(scalar, lanes)
            _tile(e, rows, vectors)
            add(e, f"internal void @tile_{rows}_{vectors}({_TILE})")
    e = Emitter(scalar, lanes)
    _strip(e)
    add(e, f"internal void @strip({_TILE}, i64 %count, i1 %wide)")


_TILE = "ptr %rows, i64 %row, i64 %step, ptr %panel, i64 %width, ptr %to, i64 %to_row, i64 %left, i64 %add"


def _tile(e: Emitter, rows: int, vectors: int) -> None:
    """One register tile of a product: `rows` rows of the result times `vectors` vectors."""
    sources = [e.at("%rows", e.integer_of("mul", "%row", r)) for r in range(rows)]
    masks = [e.first_lanes(e.integer_of("sub", "%left", v * e.lanes)) for v in range(vectors)]
    addresses = [
        e.at(e.at("%to", e.integer_of("mul", "%to_row", r)), str(v * e.lanes))
        for v in range(vectors)
        for r in range(rows)
    ]
    adds = e.emit("icmp ne i64 %add, 0")
    wanted = [e.choose(adds, mask, "zeroinitializer", e.mask) for mask in masks]
    start = [e.load_some(address, wanted[k // rows]) for k, address in enumerate(addresses)]
    sums = accumulate(e, start, sources, "%step", "%panel", str(vectors * e.lanes), "%width")
    for k, (value, address) in enumerate(zip(sums, addresses, strict=True)):
        e.store_some(value, address, masks[k // rows])
    e.do("ret void")


def _strip(e: Emitter) -> None:
    """Any number of rows, in tiles."""

    def tile(height: int, vectors: int, first: str) -> None:
        rows = e.at("%rows", e.integer_of("mul", first, "%row"))
        to = e.at("%to", e.integer_of("mul", first, "%to_row"))
        e.do(
            f"call void @tile_{height}_{vectors}(ptr {rows}, i64 %row, i64 %step, ptr %panel, i64 %width, "
            f"ptr {to}, i64 %to_row, i64 %left, i64 %add)"
        )

    pieces(e, "%count", tile, ("%wide", machine().group))
    e.do("ret void")
