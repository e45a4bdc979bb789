"""What every kernel needs and no cell changes, compiled once for a precision.

A team of workers carries out the lists of jobs in a context, an array of 64-bit integers:

    begin
    for each chunk, as many time steps as have `chunk rows`: before, the steps of the cell, after
    end

The rows of a step are those of the sequences that have it: sequences are sorted, the longest first, so they
are the first ones. A place of all steps holds the rows of step 0, then those of step 1, and so on;
`offsets` says where each step begins, up to T, and once more what is at T. `lengths` says how many steps each
sequence has, none or more.

A job is the address of its routine, how many words follow, and those words: `JOBS` names them. Workers meet
where the list says `meet`, and after the steps of a chunk. Strides are in elements. A chunk's rows are those
of its time steps, in the order of time.

Weights are read from *panels*: `wide` units side by side for every element of the operand, then the next
`wide` units. Units beyond the last whole panel have panels of one vector each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from unrolled.compile.emit import Emitter
from unrolled.compile.machine import machine

HEADER: Final = {
    name: place
    for place, name in enumerate(
        (
            "steps",
            "T",
            "B",
            "chunk rows",
            "reversed",
            "by units",
            "begin",
            "before",
            "after",
            "end",
            "fault",
            "offsets",
            "lengths",
            "order",
            "ragged",
            "mask",
        )
    )
} | {"arrived": 16, "meeting": 24}
"""The first words of a context. What workers write lies on cache lines of its own.

Where every step has its own parameters, those of a chunk are packed together: step t has the slot t & `mask`.
Otherwise there is one slot, and the mask is 0.
"""

FIRST: Final = 32
"""The first word that is free."""

ARGUMENTS: Final = "ptr %job, ptr %context, i64 %begin, i64 %end, i64 %worker, i64 %workers"

JOBS: Final[dict[str, tuple[str, ...]]] = {}
"""The words of each job."""

PRINTERS: Final[list[Callable[[Job], None]]] = []


class Job(Emitter):
    """The body of one job: `printer(e)` prints it with these words and the loops of `Emitter`."""

    def __init__(self, scalar: str, lanes: int, fields: tuple[str, ...]) -> None:
        super().__init__(scalar, lanes)
        self.fields = fields

    def word(self, name: str, kind: str = "i64") -> str:
        return self.load(self.at("%job", str(2 + self.fields.index(name)), "i64"), kind)

    def pointer(self, name: str) -> str:
        return self.word(name, "ptr")

    def header(self, name: str, kind: str = "i64") -> str:
        return self.load(self.at("%context", str(HEADER[name]), "i64"), kind)

    def share(self, count: str) -> tuple[str, str]:
        """This worker's part of `count` things: the first, and the one after the last."""
        ends = (self.integer_of("mul", count, w) for w in ("%worker", self.integer_of("add", "%worker", 1)))
        first, end = (self.integer_of("udiv", product, "%workers") for product in ends)
        return first, end

    def vectors(self, width: str) -> str:
        """How many vectors hold a width."""
        return self.integer_of("udiv", self.integer_of("add", width, self.lanes - 1), self.lanes)

    def first_row(self, t: str) -> str:
        """The first row of a step in a place of all steps."""
        return self.load(self.at(self.header("offsets", "ptr"), t, "i64"), "i64")

    def rows_of_chunk(self) -> tuple[str, str]:
        """The first row of the chunk, and how many there are."""
        first = self.first_row("%begin")
        return first, self.integer_of("sub", self.first_row("%end"), first)

    def steps_apart(self) -> str:
        """How many steps of the chunk have their own parameters, each `apart` from the next; 1 where all have
        one."""
        return self.larger("1", self.integer_of("sub", "%end", "%begin"))

    def of_step(self, parameter: str, t: str) -> str:
        """The parameter of a step, from that of the first one."""
        return self.at(parameter, self.integer_of("mul", t, self.word("apart")))

    def slot(self, place: str, t: str) -> str:
        """A step's part of a place that has one for each slot, `slot` apart."""
        number = self.integer_of("and", t, self.header("mask"))
        return self.at(place, self.integer_of("mul", number, self.word("slot")))

    def if_whole(self, name: str, first: str) -> str:
        """The first row of the chunk in a place of all steps; 0 in one of the chunk's."""
        return self.choose(self.emit(f"icmp ne i64 {self.word(name)}, 0"), first, "0", "i64")

    def left(self, width: str, vector: str) -> str:
        """The mask of the lanes of a vector that are within a width."""
        return self.first_lanes(self.integer_of("sub", width, self.integer_of("mul", vector, self.lanes)))


def job(*fields: str) -> Callable[[Callable[[Job], None]], Callable[[Job], None]]:
    def enter(printer: Callable[[Job], None]) -> Callable[[Job], None]:
        JOBS[printer.__name__] = fields
        PRINTERS.append(printer)
        return printer

    return enter


@job()
def meet(e: Job) -> None:
    """Wait for the others."""
    e.do("call void @meet(ptr %context, i64 %workers)")


@job("to", "count")
def clear(e: Job) -> None:
    """Set `count` elements, whole vectors, to 0."""
    to = e.pointer("to")
    first, end = e.share(e.integer_of("udiv", e.word("count"), e.lanes))

    def one(k: str, _: list[str]) -> list[str]:
        e.store(e.splat(0.0), e.at(to, e.integer_of("mul", k, e.lanes)))
        return []

    e.loop(first, end, "1", one)


@job("source", "source row", "turn", "start", "start row", "to", "to row", "width")
def copy_ends(e: Job) -> None:
    """What each sequence has after its last step in the order of the loop; `start` if it has no step. Where
    it goes, sequences are in the order of the batch.

    The source is a place of all steps, or two rows in turn, `turn` apart.
    """
    source, source_row, turn = e.pointer("source"), e.word("source row"), e.word("turn")
    start, start_row = e.pointer("start"), e.word("start row")
    to, to_row, width = e.pointer("to"), e.word("to row"), e.word("width")
    lengths, backwards = e.header("lengths", "ptr"), e.emit(f"icmp ne i64 {e.header('reversed')}, 0")
    in_turn = e.emit(f"icmp ne i64 {turn}, 0")
    first, end = e.share(e.header("B"))

    def row(b: str, _: list[str]) -> list[str]:
        length = e.load(e.at(lengths, b, "i64"), "i64")
        last = e.larger(e.integer_of("sub", length, 1), "0")
        t = e.choose(backwards, "0", last, "i64")
        s = e.choose(backwards, e.integer_of("sub", e.header("T"), 1), last, "i64")
        number = e.choose(in_turn, b, e.integer_of("add", e.first_row(t), b), "i64")
        at = e.at(source, e.integer_of("mul", e.integer_of("and", s, 1), turn))
        at = e.at(at, e.integer_of("mul", number, source_row))
        some = e.emit(f"icmp sgt i64 {length}, 0")
        at = e.choose(some, at, e.at(start, e.integer_of("mul", b, start_row)), "ptr")
        column = e.load(e.at(e.header("order", "ptr"), b, "i64"), "i64")
        _copy_row(e, at, e.at(to, e.integer_of("mul", column, to_row)), width)
        return []

    e.loop(first, end, "1", row)


@job("source", "to", "width")
def sort(e: Job) -> None:
    """States (B, width) in the order of the batch into that of the rows."""
    source, to, width, order = e.pointer("source"), e.pointer("to"), e.word("width"), e.header("order", "ptr")
    first, end = e.share(e.header("B"))

    def row(b: str, _: list[str]) -> list[str]:
        column = e.load(e.at(order, b, "i64"), "i64")
        there = e.at(source, e.integer_of("mul", column, width))
        _copy_row(e, there, e.at(to, e.integer_of("mul", b, width)), width)
        return []

    e.loop(first, end, "1", row)


@job("batch", "rows", "width")
def pick(e: Job) -> None:
    """The packed rows of the chunk, from a padded batch (T, B, width)."""
    _places_of_chunk(e, lambda place, row, width: _copy_row(e, place, row, width), lambda place, width: None)


@job("batch", "rows", "width")
def put(e: Job) -> None:
    """The packed rows of the chunk into a padded batch (T, B, width), and 0 where there is no row."""

    def nothing(place: str, width: str) -> None:
        def one(v: str, _: list[str]) -> list[str]:
            e.store_some(e.splat(0.0), e.at(place, e.integer_of("mul", v, e.lanes)), e.left(width, v))
            return []

        e.loop("0", e.vectors(width), "1", one)

    _places_of_chunk(e, lambda place, row, width: _copy_row(e, row, place, width), nothing)


def _places_of_chunk(
    e: Job, known: Callable[[str, str, str], None], unknown: Callable[[str, str], None]
) -> None:
    """Do something with each place of a padded batch in the chunk's steps: one that has a row, or none."""
    batch, rows, width = e.pointer("batch"), e.pointer("rows"), e.word("width")
    B, order = e.header("B"), e.header("order", "ptr")
    first, end = e.share(e.integer_of("mul", e.integer_of("sub", "%end", "%begin"), B))

    def place(k: str, _: list[str]) -> list[str]:
        t = e.integer_of("add", "%begin", e.integer_of("udiv", k, B))
        b = e.integer_of("urem", k, B)
        top = e.first_row(t)
        count = e.integer_of("sub", e.first_row(e.integer_of("add", t, 1)), top)
        column = e.integer_of("add", e.integer_of("mul", t, B), e.load(e.at(order, b, "i64"), "i64"))
        there = e.at(batch, e.integer_of("mul", column, width))
        row = e.at(rows, e.integer_of("mul", e.integer_of("add", top, b), width))
        is_known = e.emit(f"icmp slt i64 {b}, {count}")
        e.branch(is_known, lambda: known(there, row, width))
        e.branch(e.emit(f"xor i1 {is_known}, true"), lambda: unknown(there, width))
        return []

    e.loop(first, end, "1", place)


def _copy_row(e: Job, source: str, to: str, width: str) -> None:
    def one(v: str, _: list[str]) -> list[str]:
        offset = e.integer_of("mul", v, e.lanes)
        mask = e.left(width, v)
        e.store_some(e.load_some(e.at(source, offset), mask), e.at(to, offset), mask)
        return []

    e.loop("0", e.vectors(width), "1", one)


@job(
    "weights", "apart", "unit step", "element step", "units", "elements", "padded", "first", "panels",
    "vectors", "to", "slot", "panel", "step", "column", "rest", "rest panel", "rest step", "rest column",
    "add",
)  # fmt: skip
def pack(e: Job) -> None:
    """A matrix into panels, as vectors `first`, `first` + 1, ... of their units.

    Vector v of element k is at `to` + (v / vectors) * panel + k * step + column + (v % vectors) * lanes, and
    past the last of `panels` panels at `rest` + (v - panels * vectors) * `rest panel` + k * `rest step` +
    `rest column`. Elements past the last, up to `padded`, and units past the last are 0. With `add`, it is
    added to what is there. Where every step has its own matrix, all of the chunk are packed.
    """
    weights = e.pointer("weights")
    unit_step, element_step = e.word("unit step"), e.word("element step")
    units, elements, padded = e.word("units"), e.word("elements"), e.word("padded")
    to, rest, vectors = e.pointer("to"), e.pointer("rest"), e.word("vectors")
    whole = e.integer_of("mul", e.word("panels"), vectors)
    names = ("first", "panel", "step", "column", "rest panel", "rest step", "rest column")
    words = {name: e.word(name) for name in names}
    all_lanes = e.choose(
        e.emit(f"icmp ne i64 {e.word('add')}, 0"), "splat (i1 true)", "zeroinitializer", e.mask
    )
    side_by_side = e.emit(f"icmp eq i64 {unit_step}, 1")
    whole_vectors = e.vectors(units)
    begin, end = e.share(e.integer_of("mul", e.steps_apart(), whole_vectors))

    def vector(number: str, _: list[str]) -> list[str]:
        t = e.integer_of("add", "%begin", e.integer_of("udiv", number, whole_vectors))
        v = e.integer_of("urem", number, whole_vectors)
        place = e.integer_of("add", v, words["first"])
        beyond = e.integer_of("sub", place, whole)
        in_rest = e.emit(f"icmp sge i64 {beyond}, 0")
        panel = e.integer_of("udiv", place, vectors)
        within = e.integer_of("mul", e.integer_of("urem", place, vectors), e.lanes)
        offset = e.integer_of("add", e.integer_of("mul", panel, words["panel"]), words["column"])
        offset = e.integer_of("add", offset, within)
        other = e.integer_of("add", e.integer_of("mul", beyond, words["rest panel"]), words["rest column"])
        base = e.slot(e.choose(in_rest, e.at(rest, other), e.at(to, offset), "ptr"), t)
        step = e.choose(in_rest, words["rest step"], words["step"], "i64")
        first_unit = e.integer_of("mul", v, e.lanes)
        mask = e.left(units, v)
        source = e.at(e.of_step(weights, t), e.integer_of("mul", first_unit, unit_step))

        def put(k: str, value: str) -> None:
            address = e.at(base, e.integer_of("mul", k, step))
            e.store(e.add(e.load_some(address, all_lanes), value), address)

        def copied(k: str, _: list[str]) -> list[str]:
            put(k, e.load_some(e.at(source, e.integer_of("mul", k, element_step)), mask))
            return []

        def straight() -> None:
            e.loop("0", elements, "1", copied)

        def turned() -> None:
            left = e.integer_of("sub", units, first_unit)

            def block(b: str, _: list[str]) -> list[str]:
                k0 = e.integer_of("mul", b, e.lanes)
                some = e.left(elements, b)
                rows = []
                for u in range(e.lanes):
                    there = e.emit(f"icmp sgt i64 {left}, {u}")
                    row = e.choose(there, str(u), "0", "i64")
                    address = e.at(e.at(source, e.integer_of("mul", row, unit_step)), k0)
                    value = e.load_some(address, some)
                    rows.append(e.choose(there, value, e.splat(0.0), e.vector))
                columns = _transposed(e, rows)
                count = e.smaller(e.integer_of("sub", elements, k0), e.lanes)
                for j, column in enumerate(columns):
                    e.branch(
                        e.emit(f"icmp slt i64 {j}, {count}"),
                        lambda j=j, column=column: put(e.integer_of("add", k0, j), column),  # type: ignore[misc]
                    )
                return []

            e.loop("0", e.vectors(elements), "1", block)

        e.branch(side_by_side, straight)
        e.branch(e.emit(f"xor i1 {side_by_side}, true"), turned)

        def nothing(k: str, _: list[str]) -> list[str]:
            e.store(e.splat(0.0), e.at(base, e.integer_of("mul", k, step)))
            return []

        e.loop(elements, padded, "1", nothing)
        return []

    e.loop(begin, end, "1", vector)


def _transposed(e: Job, rows: list[str]) -> list[str]:
    """A square of vectors turned: exchange halves, quarters, ..., single elements of pairs of rows."""
    half = len(rows) // 2
    while half:
        low = [k + (k % (2 * half) >= half) * (e.lanes - half) for k in range(e.lanes)]
        high = [k + half + (k % (2 * half) >= half) * (e.lanes - half) for k in range(e.lanes)]
        new = list(rows)
        for k in range(len(rows)):
            if k % (2 * half) < half:
                new[k] = e.shuffle(rows[k], rows[k + half], low)
                new[k + half] = e.shuffle(rows[k], rows[k + half], high)
        rows = new
        half //= 2
    return rows


@job("source", "source row", "start", "start row", "shift", "whole", "width", "panels", "rest panels", "to",
      "capacity")  # fmt: skip
def gather_rows(e: Job) -> None:
    """The rows of the chunk into panels, so that a sum over rows reads them in order.

    A panel holds `capacity` rows. A row is that of `shift` steps earlier, and one of `start` where its
    sequence has no such step.
    """
    begin, _ = e.rows_of_chunk()
    source, source_row = e.pointer("source"), e.word("source row")
    start, start_row = e.pointer("start"), e.word("start row")
    width, to, capacity = e.word("width"), e.pointer("to"), e.word("capacity")
    panels, shift = e.word("panels"), e.word("shift")
    offset = e.integer_of("sub", e.if_whole("whole", begin), begin)
    first, end = e.share(e.integer_of("sub", "%end", "%begin"))

    def step(n: str, _: list[str]) -> list[str]:
        t = e.integer_of("add", "%begin", n)
        here = e.first_row(t)
        count = e.integer_of("sub", e.first_row(e.integer_of("add", t, 1)), here)
        earlier = e.integer_of("sub", t, shift)
        known = e.emit(f"icmp ult i64 {earlier}, {e.header('T')}")
        earlier = e.choose(known, earlier, t, "i64")
        there = e.first_row(earlier)
        rows_there = e.integer_of("sub", e.first_row(e.integer_of("add", earlier, 1)), there)
        rows_there = e.choose(known, rows_there, "0", "i64")
        base = e.at(source, e.integer_of("mul", e.integer_of("add", there, offset), source_row))
        place = e.integer_of("sub", here, begin)

        def row(r: str, _: list[str]) -> list[str]:
            usual = e.at(base, e.integer_of("mul", r, source_row))
            other = e.at(start, e.integer_of("mul", r, start_row))
            address = e.choose(e.emit(f"icmp slt i64 {r}, {rows_there}"), usual, other, "ptr")
            number = e.integer_of("add", place, r)

            def piece(vectors: int, vector: str) -> None:
                panel = e.at(to, e.integer_of("mul", e.integer_of("mul", vector, e.lanes), capacity))
                panel = e.at(panel, e.integer_of("mul", number, vectors * e.lanes))
                for k in range(vectors):
                    v = e.integer_of("add", vector, k)
                    value = e.load_some(e.at(address, e.integer_of("mul", v, e.lanes)), e.left(width, v))
                    e.store(value, e.at(panel, str(k * e.lanes)))

            def whole(p: str, _: list[str]) -> list[str]:
                piece(machine().group, e.integer_of("mul", p, machine().group))
                return []

            def rest(p: str, _: list[str]) -> list[str]:
                piece(1, e.integer_of("add", p, e.integer_of("mul", panels, machine().group)))
                return []

            e.loop("0", panels, "1", whole)
            e.loop("0", e.word("rest panels"), "1", rest)
            return []

        e.loop("0", count, "1", row)
        return []

    e.loop(first, end, "1", step)


@job("tokens", "table", "columns", "words", "to", "whole")
def look_up(e: Job) -> None:
    """A row of the table for each row of the chunk; `fault` becomes a token that is none of the words."""
    begin, count = e.rows_of_chunk()
    tokens = e.at(e.pointer("tokens"), begin, "i64")
    table, to, columns, words = e.pointer("table"), e.pointer("to"), e.word("columns"), e.word("words")
    to = e.at(to, e.integer_of("mul", e.if_whole("whole", begin), columns))
    first, end = e.share(count)

    def row(r: str, _: list[str]) -> list[str]:
        token = e.load(e.at(tokens, r, "i64"), "i64")
        known = e.emit(f"icmp ult i64 {token}, {words}")
        fault = e.at("%context", str(HEADER["fault"]), "i64")
        e.branch(e.emit(f"xor i1 {known}, true"), lambda: e.do(f"store i64 {token}, ptr {fault}"))
        safe = e.choose(known, token, "0", "i64")
        source = e.at(table, e.integer_of("mul", safe, columns))
        _copy_row(e, source, e.at(to, e.integer_of("mul", r, columns)), columns)
        return []

    e.loop(first, end, "1", row)


@job("tokens", "table", "columns", "source", "source row")
def add_up(e: Job) -> None:
    """Add each row of the chunk to its token's row of the table; workers share the columns."""
    begin, count = e.rows_of_chunk()
    tokens = e.at(e.pointer("tokens"), begin, "i64")
    table, source, columns = e.pointer("table"), e.pointer("source"), e.word("columns")
    source_row = e.word("source row")
    first, end = e.share(e.integer_of("udiv", columns, e.lanes))

    def row(r: str, _: list[str]) -> list[str]:
        token = e.load(e.at(tokens, r, "i64"), "i64")
        to = e.at(table, e.integer_of("mul", token, columns))
        here = e.at(source, e.integer_of("mul", r, source_row))

        def one(v: str, _: list[str]) -> list[str]:
            offset = e.integer_of("mul", v, e.lanes)
            address = e.at(to, offset)
            e.store(e.add(e.load(address), e.load(e.at(here, offset))), address)
            return []

        e.loop(first, end, "1", one)
        return []

    e.loop("0", count, "1", row)


@job("table", "table row", "words", "units", "to", "to row", "add")
def turn(e: Job) -> None:
    """to[u, k] = table[k, u], or is added to what is there."""
    adds = e.emit(f"icmp ne i64 {e.word('add')}, 0")
    table, to = e.pointer("table"), e.pointer("to")
    table_row, to_row, words, units = e.word("table row"), e.word("to row"), e.word("words"), e.word("units")
    first, end = e.share(e.vectors(units))

    def column(v: str, _: list[str]) -> list[str]:
        unit = e.integer_of("mul", v, e.lanes)
        source = e.at(table, unit)

        def block(b: str, _: list[str]) -> list[str]:
            k0 = e.integer_of("mul", b, e.lanes)
            last = e.integer_of("sub", words, 1)
            rows = [
                e.load(
                    e.at(source, e.integer_of("mul", e.smaller(e.integer_of("add", k0, j), last), table_row))
                )
                for j in range(e.lanes)
            ]
            some = e.left(words, b)
            for j, value in enumerate(_transposed(e, rows)):
                at = e.integer_of("add", unit, j)
                address = e.at(e.at(to, e.integer_of("mul", at, to_row)), k0)

                def put(value: str = value, address: str = address) -> None:
                    before = e.load_some(address, e.choose(adds, some, "zeroinitializer", e.mask))
                    e.store_some(e.add(before, value), address, some)

                e.branch(e.emit(f"icmp slt i64 {at}, {units}"), put)
            return []

        e.loop("0", e.vectors(words), "1", block)
        return []

    e.loop(first, end, "1", column)


@job("sums", "slot", "part", "parts", "to", "apart", "width", "again")
def gather_sums(e: Job) -> None:
    """Add up what each worker summed: `parts` rows, `part` elements apart; with `again` to what is there."""
    sums, part, to, width = e.pointer("sums"), e.word("part"), e.pointer("to"), e.word("width")
    vectors = e.vectors(width)
    first, end = e.share(e.integer_of("mul", e.steps_apart(), vectors))

    def one(number: str, _: list[str]) -> list[str]:
        t = e.integer_of("add", "%begin", e.integer_of("udiv", number, vectors))
        v = e.integer_of("urem", number, vectors)
        mine, there = e.slot(sums, t), e.of_step(to, t)
        offset = e.integer_of("mul", v, e.lanes)

        def add(p: str, total: list[str]) -> list[str]:
            return [e.add(total[0], e.load(e.at(e.at(mine, e.integer_of("mul", p, part)), offset)))]

        left = e.left(width, v)
        wanted = e.choose(e.emit(f"icmp ne i64 {e.word('again')}, 0"), left, "zeroinitializer", e.mask)
        start = e.load_some(e.at(there, offset), wanted)
        (total,) = e.loop("0", e.word("parts"), "1", add, [(e.vector, start)])
        e.store_some(total, e.at(there, offset), left)
        return []

    e.loop(first, end, "1", one)
