"""Print the kernel of a step: the time steps of a chunk, as LLVM IR.

    for s: for each stage: for each tile of units: for each tile of rows:
        sums <- products                  (up to 6 rows x 4 vectors, kept in registers over the reduction)
        pointwise work on them, then stores

Workers share the rows, or, where there are few, the units; then they meet before a product reads what others
have written. Sizes are read at run time from the context, whose first words are those of `jobs.HEADER`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from unrolled.compile.chance import bernoulli, probability, row_bits
from unrolled.compile.emit import ATTRIBUTES, Emitter
from unrolled.compile.jobs import FIRST, HEADER
from unrolled.compile.machine import machine
from unrolled.compile.mathematics import FUNCTIONS
from unrolled.compile.schedule import LEAVES, Stage, is_row, levels
from unrolled.compile.step import Node, Step
from unrolled.compile.tile import ROWS, accumulate, pieces
from unrolled.graph import PER_ROW


@dataclass(frozen=True)
class Address:
    """How a kernel finds a value at a step.

    time: "whole" in a place of all steps, "behind" and "ahead" in one but of the step before or after, in the
        order of the loop; "chunk" in a place of a chunk's steps; "now" and "last" in one of two places in
        turn, that of this step or that of the last.
    start: whether the value is somewhere else for rows that have no such step.
    padded: whether rows are whole vectors.
    """

    time: str = "whole"
    start: bool = False
    padded: bool = True

    @property
    def words(self) -> tuple[str, ...]:
        """What the context holds of it."""
        turn = ("turn",) if self.time in ("now", "last") else ()
        return ("pointer", "row", *turn, *(("start", "start row") if self.start else ()))


@dataclass(frozen=True)
class Kernel:
    """The words of a kernel's context by name, and how it finds what it reads and writes.

    The words are those of each address, as in `h pointer`, and `width W` for each width symbol,
    `vector NAME`, `panel S` for stage S, `sum NAME`, and what `Leaves.tensors` has.
    """

    words: Mapping[str, int]
    addresses: Mapping[str, Address]


def print_kernel(
    step: Step,
    stages: tuple[Stage, ...],
    names: Mapping[int, str],
    written: Iterable[tuple[str, int]],
    addresses: Mapping[str, Address],
    sums: Mapping[str, list[int]],
    draws: tuple[str, ...],
    scalar: str,
    lanes: int,
) -> tuple[str, Kernel]:
    """The text of a scheduled step's kernel, and what its context holds.

    Args:
        names: where a stored node lives, by node; a read lives under its own name.
        written: further places to store nodes to, as pairs (place, node).
        addresses: how to find a place; others are two rows in turn.
        sums: for each learned vector, the nodes whose sum over time and rows is wanted.
        draws: the names of what is drawn, in order.
    """
    return _Printer(step, stages, names, list(written), addresses, sums, draws, scalar, lanes).kernel()


_STAGE = (
    "ptr %context, i64 %s, i64 %t, i64 %origin, i1 %ends, i64 %first, i64 %count, i64 %left, i64 %right, "
    "i64 %worker"
)
"""`s` counts in the order of the loop, `t` in that of time; `origin` is the first row of the chunk; `ends` is
whether these rows have no later step in time."""


@dataclass
class _Printer:
    """The arguments of `print_kernel`, and what was printed so far."""

    step: Step
    stages: tuple[Stage, ...]
    names: Mapping[int, str]
    written: list[tuple[str, int]]
    addresses: Mapping[str, Address]
    sums: Mapping[str, list[int]]
    draws: tuple[str, ...]
    scalar: str
    lanes: int
    words: dict[str, int] = field(default_factory=dict)
    used: dict[str, Address] = field(default_factory=dict)
    functions: list[str] = field(default_factory=list)
    intrinsics: set[str] = field(default_factory=set)

    def kernel(self) -> tuple[str, Kernel]:
        for number, stage in enumerate(self.stages):
            e = Emitter(self.scalar, self.lanes)
            _StagePrinter(self, e, number, stage).print()
            self._function(e, f"internal void @stage_{number}({_STAGE})")
        self._steps()
        meet = "declare void @meet(ptr, i64)"
        text = "\n".join((*sorted(self.intrinsics), meet, *self.functions))
        return text, Kernel(self.words, self.used)

    def _function(self, e: Emitter, signature: str) -> None:
        self.functions.append("\n".join((f"define {signature} {ATTRIBUTES} {{", *e.lines, "}")))
        self.intrinsics |= e.intrinsics

    def word(self, e: Emitter, name: str, kind: str = "i64") -> str:
        """A word of the context."""
        place = HEADER.get(name) or self.words.setdefault(name, FIRST + len(self.words))
        return e.load(e.at("%context", str(place), "i64"), kind)

    def address(self, name: str) -> Address:
        found = self.addresses.get(name)
        if found is None:  # the kernel's own
            number = name.split()[-1]
            found = Address("now", padded=not (number.isdigit() and self._is_own_row(name, int(number))))
        return self.used.setdefault(name, found)

    def _is_own_row(self, name: str, k: int) -> bool:
        return self.names.get(k) == name and is_row(self.step, k)

    def vectors(self, e: Emitter, width: str) -> str:
        """How many vectors hold a width."""
        size = self.word(e, f"width {width}")
        return e.integer_of("udiv", e.integer_of("add", size, self.lanes - 1), self.lanes)

    def _overwrites(self) -> bool:
        """Whether a step writes what products of the step before may still be reading, before workers meet:
        of two rows in turn, the new value takes the place of the last but one."""
        operands = {self.step.nodes[k].name for s in self.stages for k in s.operands}
        places = {name: f"new {name}" for name in operands}
        places |= {name: name.replace("carry ", "next ", 1) for name in operands if name.startswith("carry ")}
        for stage in self.stages:
            if stage.operands:
                return False
            stored = {self.names[k] for k in stage.wanted if k in self.names}
            stored |= {place for place, k in self.written if k in stage.wanted}
            if not stored.isdisjoint(places.values()):
                return True
        return False

    def _steps(self) -> None:
        """The steps of a chunk: this worker's share of rows or units of every stage."""
        e = Emitter(self.scalar, self.lanes)
        by_units = e.emit(f"icmp ne i64 {self.word(e, 'by units')}, 0")
        backwards = e.emit(f"icmp ne i64 {self.word(e, 'reversed')}, 0")
        each_step = e.emit(f"icmp ugt i64 {self.word(e, 'ragged')}, {self.word(e, 'by units')}")
        T, offsets = self.word(e, "T"), self.word(e, "offsets", "ptr")
        origin = e.load(e.at(offsets, "%origin", "i64"), "i64")
        following = e.integer_of("add", "%worker", 1)
        ranges = {}
        for width in dict.fromkeys(stage.width for stage in self.stages):
            vectors = self.vectors(e, width)
            stages = [s for s in self.stages if s.width == width and s.destinations]
            wide = {machine().group // len(s.destinations) for s in stages}
            ends = []
            for w in ("%worker", following):
                even = end = e.integer_of("udiv", e.integer_of("mul", vectors, w), "%workers")
                for size in sorted(wide - {1}):  # no wide tile is cut in two, of whichever stage
                    up = e.integer_of("and", e.integer_of("add", even, size - 1), -size)
                    whole = e.integer_of("and", vectors, -size)
                    end = e.choose(e.emit(f"icmp slt i64 {even}, {whole}"), up, end, "i64")
                ends.append(end)
            ranges[width] = (
                e.choose(by_units, ends[0], "0", "i64"),
                e.choose(by_units, ends[1], vectors, "i64"),
            )

        def meet() -> None:
            e.do("call void @meet(ptr %context, i64 %workers)")

        def step(s: str, _: list[str]) -> list[str]:
            t = e.choose(backwards, e.integer_of("sub", e.integer_of("sub", T, 1), s), s, "i64")
            top, after, last = (e.load(e.at(e.at(offsets, t, "i64"), str(k), "i64"), "i64") for k in range(3))
            rows, going_on = e.integer_of("sub", after, top), e.integer_of("sub", last, after)
            shares = (
                e.integer_of("udiv", e.integer_of("mul", rows, w), "%workers") for w in ("%worker", following)
            )
            first, end = (
                e.choose(by_units, every, share, "i64")
                for every, share in zip(("0", rows), shares, strict=True)
            )
            middle = e.larger(first, e.smaller(end, going_on))
            parts = (("false", first, middle), ("true", middle, end))
            e.branch(each_step, meet)
            written: set[int | str] = {n.name for n in self.step.nodes if n.kind == "read"}
            if self._overwrites():
                e.branch(by_units, meet)
                written.clear()
            for number, stage in enumerate(self.stages):
                nodes = self.step.nodes  # a product has its matrix's name
                operands = {nodes[k].name if nodes[k].kind == "read" else k for k in stage.operands}
                if operands & written:
                    e.branch(by_units, meet)
                    written.clear()
                written |= set(stage.wanted)
                v0, v1 = ranges[stage.width]
                for ends, begin, stop in parts:
                    count = e.integer_of("sub", stop, begin)
                    call = (
                        f"call void @stage_{number}(ptr %context, i64 {s}, i64 {t}, i64 {origin}, i1 {ends}, "
                        f"i64 {begin}, i64 {count}, i64 {v0}, i64 {v1}, i64 %worker)"
                    )
                    e.branch(e.emit(f"icmp sgt i64 {count}, 0"), lambda call=call: e.do(call))  # type: ignore[misc]
            return []

        e.loop("%begin", "%end", "1", step)
        e.do("ret void")
        arguments = "ptr %context, i64 %begin, i64 %end, i64 %origin, i64 %worker, i64 %workers"
        self._function(e, f"void @steps({arguments})")


_JOIN = {"sum": ("add", 0.0), "mean": ("add", 0.0), "amax": ("maximum", -math.inf)}
"""How a reduction joins two values, and what it starts from."""


class _StagePrinter:
    """One stage at one step, for a range of rows and of vectors of units."""

    def __init__(self, printer: _Printer, e: Emitter, number: int, stage: Stage) -> None:
        self.printer = printer
        self.step = printer.step
        self.e = e
        self.number = number
        self.stage = stage
        self.wide = machine().group // max(len(stage.destinations), 1)
        self.compute, self.load = self._needed()
        self.stores = [(printer.names[k], k) for k in stage.wanted if k in printer.names]
        self.stores += [(place, k) for place, k in printer.written if k in stage.wanted]
        self.sums = self._sums()

    # What is computed here

    def _name(self, k: int) -> str:
        """Where a node that is in memory lives."""
        node = self.step.nodes[k]
        return node.name if node.kind == "read" else self.printer.names[k]

    def _sums(self) -> dict[str, list[int]]:
        """The sums that are taken in this stage: the first that has their width and can compute them."""
        found: dict[str, list[int]] = {}
        level = levels(self.step)
        for name, nodes in self.printer.sums.items():
            width, behind = self.step.nodes[nodes[0]].width, max(level[k] for k in nodes)
            stored: set[int] = set()
            can = []
            for s in self.printer.stages:
                stored |= {*s.wanted}
                if s.width == width and s.level >= behind and stored >= {*nodes}:
                    can.append(s)
            if can[0] is self.stage:
                found[name] = nodes
        return found

    def _needed(self) -> tuple[list[int], list[int]]:
        """What the pointwise work computes, in order, and what it loads."""
        stages = self.printer.stages
        here = {d.node: d for d in self.stage.destinations}
        before = stages[: stages.index(self.stage)]
        earlier = {k for s in before for k in (*s.wanted, *s.reductions)}
        compute: dict[int, None] = {}
        load: dict[int, None] = {}

        def visit(k: int) -> None:
            node = self.step.nodes[k]
            if k in compute or k in load or node.kind in LEAVES:
                return
            if node.kind == "read" or (k in earlier and k not in here):
                load[k] = None
                return
            for arg in here[k].others if k in here else node.args:
                visit(arg)
            compute[k] = None

        reduced = (self.step.nodes[k].args[0] for k in self.stage.reductions)
        for k in (*self.stage.wanted, *reduced, *(k for nodes in self._sums().values() for k in nodes)):
            visit(k)
        return list(compute), list(load)

    # Printing

    def print(self) -> None:
        e = self.e
        self.width = self.printer.word(e, f"width {self.stage.width}")
        touched = dict.fromkeys([*(self._name(k) for k in self.load), *(name for name, _ in self.stores)])
        for k in self.stage.reductions:
            touched |= {f"partial {k}": None, self.printer.names[k]: None}
        operands = {k: self._name(k) for k in self.stage.operands}
        self._steps_beside()
        self.bases = {name: self._base(name) for name in (*touched, *operands.values())}
        self.vectors = {
            name: self.printer.word(e, f"vector {name}", "ptr")
            for name in dict.fromkeys(n.name for n in self.step.nodes if n.kind == "vector")
        }
        self.totals = {name: self.printer.word(e, f"sum {name}", "ptr") for name in self.sums}
        if self.stage.width == PER_ROW:
            self._numbers()
            e.do("ret void")
            return
        if not self.stage.destinations:
            self._tile("%first", "%count", "%left", e.integer_of("sub", "%right", "%left"))
            self._reduce()
            e.do("ret void")
            return
        slots = len(self.stage.destinations) * self.wide * ROWS
        self.stack = e.emit(f"alloca [{slots} x {e.vector}], align 64")
        panel = self.printer.word(e, f"panel {self.number}", "ptr")
        self.widths = {k: self.printer.word(e, f"width {self.step.nodes[k].width}") for k in operands}
        per_vector = "0"
        for k in operands:
            users = len(self._users(k)) * self.printer.lanes
            per_vector = e.integer_of("add", per_vector, e.integer_of("mul", self.widths[k], users))
        vectors = self.printer.vectors(e, self.stage.width)
        whole = e.integer_of("mul", e.integer_of("udiv", vectors, self.wide), self.wide)
        first_narrow = e.larger("%left", whole)
        wide_tiles = e.integer_of(
            "udiv", e.larger(e.integer_of("sub", e.smaller(whole, "%right"), "%left"), "0"), self.wide
        )
        narrow_tiles = e.larger(e.integer_of("sub", "%right", first_narrow), "0")

        def tile(k: str, _: list[str]) -> list[str]:
            is_wide = e.emit(f"icmp slt i64 {k}, {wide_tiles}")
            wide_one = e.integer_of("add", "%left", e.integer_of("mul", k, self.wide))
            narrow_one = e.integer_of("add", first_narrow, e.integer_of("sub", k, wide_tiles))
            v = e.choose(is_wide, wide_one, narrow_one, "i64")
            weights = e.at(panel, e.integer_of("mul", v, per_vector))

            def products(height: int, vectors: int, at: str) -> None:
                self._products(height, vectors, e.integer_of("add", at, "%first"), weights)

            def behind(rows: str, at: str) -> None:
                wide = e.choose(is_wide, str(self.wide), "1", "i64")
                self._tile(e.integer_of("add", at, "%first"), rows, v, wide)

            pieces(e, "%count", products, (is_wide, self.wide), behind)
            return []

        e.loop("0", e.integer_of("add", wide_tiles, narrow_tiles), "1", tile)
        self._reduce()
        e.do("ret void")

    def _steps_beside(self) -> None:
        """The steps before and after this one in the order of the loop, and whether these rows have none."""
        e = self.e
        backwards = e.emit(f"icmp ne i64 {self.printer.word(e, 'reversed')}, 0")
        begins = e.emit("icmp eq i64 %t, 0")
        later, earlier = e.integer_of("add", "%t", 1), e.integer_of("sub", "%t", 1)
        self.beside = {}
        for name, in_time in (("behind", (earlier, later)), ("ahead", (later, earlier))):
            none = tuple("%ends" if t == later else begins for t in in_time)
            lacks = e.choose(backwards, none[1], none[0], "i1")
            t = e.choose(backwards, in_time[1], in_time[0], "i64")
            self.beside[name] = e.choose(lacks, "%t", t, "i64"), lacks

    def _base(self, name: str) -> tuple[str, str]:
        """The address of a place at this step and row 0, and its row stride."""
        e, where = self.e, self.printer.address(name)
        word = {w: self.printer.word(e, f"{name} {w}", "ptr" if w in ("pointer", "start") else "i64")
                for w in where.words}  # fmt: skip
        pointer, row = word["pointer"], word["row"]
        if where.time in ("now", "last"):
            turn = e.integer_of("and", e.integer_of("add", "%s", int(where.time == "last")), 1)
            pointer = e.at(pointer, e.integer_of("mul", turn, word["turn"]))
        else:
            t, _ = self.beside.get(where.time, ("%t", ""))
            first = e.load(e.at(self.printer.word(e, "offsets", "ptr"), t, "i64"), "i64")
            if where.time == "chunk":
                first = e.integer_of("sub", first, "%origin")
            pointer = e.at(pointer, e.integer_of("mul", first, row))
        if where.start:
            _, lacks = self.beside["ahead" if where.time == "ahead" else "behind"]
            pointer = e.choose(lacks, word["start"], pointer, "ptr")
            row = e.choose(lacks, word["start row"], row, "i64")
        return pointer, row

    def _at(self, name: str, row: str, column: str) -> str:
        pointer, stride = self.bases[name]
        return self.e.at(pointer, self.e.integer_of("add", self.e.integer_of("mul", row, stride), column))

    def _users(self, operand: int) -> list[int]:
        """The destinations that an operand enters."""
        return [
            k for k, d in enumerate(self.stage.destinations) if any(t.operand == operand for t in d.terms)
        ]

    def _products(self, rows: int, vectors: int, row: str, weights: str) -> None:
        """The sums of one register tile, left on the stack by destination, vector and row."""
        e, lanes = self.e, self.printer.lanes
        values = [e.splat(0.0)] * (len(self.stage.destinations) * vectors * rows)
        for operand in self.stage.operands:
            users, width = self._users(operand), self.widths[operand]
            sources = [self._at(self._name(operand), e.integer_of("add", row, r), "0") for r in range(rows)]
            step = len(users) * vectors * lanes
            mine = [(k * vectors + v) * rows + r for k in users for v in range(vectors) for r in range(rows)]
            start = [values[k] for k in mine]
            results = accumulate(e, start, sources, "1", weights, str(step), width)
            for k, value in zip(mine, results, strict=True):
                values[k] = value
            weights = e.at(weights, e.integer_of("mul", width, step))
        for k, value in enumerate(values):
            column, r = divmod(k, rows)
            place, v = divmod(column, vectors)
            e.store_whole(value, e.at(self.stack, str((place * self.wide + v) * ROWS + r), e.vector))

    def _tile(self, first: str, rows: str, vector: str, vectors: str) -> None:
        """The pointwise work on some rows and vectors of units, and its stores."""
        e = self.e

        def one_vector(v: str, _: list[str]) -> list[str]:
            unit = e.integer_of("mul", e.integer_of("add", v, vector), self.printer.lanes)
            inside = e.first_lanes(e.integer_of("sub", self.width, unit))

            def one_row(r: str, sums: list[str]) -> list[str]:
                return self._behind(r, v, e.integer_of("add", first, r), unit, inside, sums)

            nothing = [(e.vector, e.splat(0.0))] * len(self.sums)
            totals = e.loop("0", rows, "1", one_row, nothing)
            for name, total in zip(self.sums, totals, strict=True):
                self._add_to_sum(name, unit, total)
            return []

        e.loop("0", vectors, "1", one_vector)

    def _behind(self, r: str, v: str, row: str, unit: str, inside: str, sums: list[str]) -> list[str]:
        """One row and one vector of units; returns the sums with this row's terms."""
        e = self.e
        values: dict[int, str] = {}

        def value(k: int) -> str:
            node = self.step.nodes[k]
            if k not in values:
                if node.kind == "vector":
                    values[k] = e.load_some(e.at(self.vectors[node.name], unit), inside)
                elif node.kind == "bernoulli":
                    values[k] = self._bernoulli(node, row, unit)
                elif node.kind == "reset":
                    values[k] = self._reset(row)
                else:
                    values[k] = self._leaf(node)
            return values[k]

        for k in self.load:
            if is_row(self.step, k):
                values[k] = e.spread(e.scalar, e.load(self._at(self._name(k), row, "0"), e.scalar))
                continue
            address = self._at(self._name(k), row, unit)
            padded = self.printer.address(self._name(k))
            whole = padded.padded and not padded.start
            values[k] = e.load(address) if whole else e.load_some(address, inside)
        for k in self.compute:
            place = next((p for p, d in enumerate(self.stage.destinations) if d.node == k), None)
            if place is None:
                node = self.step.nodes[k]
                args = [value(arg) for arg in node.args]
                values[k] = args[0] if node.kind == "spread" else FUNCTIONS[node.kind](e, *args)
                continue
            slot = e.integer_of("add", e.integer_of("mul", v, ROWS), r)
            slot = e.integer_of("add", slot, place * self.wide * ROWS)
            total = e.load_whole(e.at(self.stack, slot, e.vector))
            for other in self.stage.destinations[place].others:
                total = e.add(total, value(other))
            values[k] = total
        clean: dict[int, str] = {}
        for name, k in self.stores:
            if self.printer.address(name).padded:
                if k not in clean:
                    clean[k] = e.select(inside, value(k), e.splat(0.0))
                e.store(clean[k], self._at(name, row, unit))
            else:
                e.store_some(value(k), self._at(name, row, unit), inside)
        for k in self.stage.reductions:
            kind, (operand,) = self.step.nodes[k].kind, self.step.nodes[k].args
            join, nothing = _JOIN[kind]
            term = e.select(inside, value(operand), e.splat(nothing))
            address = self._at(f"partial {k}", row, "0")
            at_first = e.emit(f"icmp eq i64 {unit}, 0")
            before = e.choose(at_first, e.splat(nothing), e.load(address), e.vector)
            e.store(FUNCTIONS[join](e, before, term), address)
        new = []
        for total, nodes in zip(sums, self.sums.values(), strict=True):
            for k in nodes:
                total = e.add(total, value(k))
            new.append(total)
        return new

    def _chance(self, node: Node) -> tuple[str, str]:
        """The key of what is drawn, and its probability in parts."""
        e, draws = self.e, self.printer.draws
        key = e.at(self.printer.word(e, "chances", "ptr"), str(draws.index(node.name)), "i64")
        return e.load(key, "i64"), e.load(e.at(key, str(len(draws)), "i64"), "i64")

    def _of_row(self, name: str, row: str, kind: str) -> str:
        """What a place of all steps has for a row of this one."""
        e = self.e
        step = e.load(e.at(self.printer.word(e, "offsets", "ptr"), "%t", "i64"), "i64")
        return e.load(e.at(self.printer.word(e, name, "ptr"), e.integer_of("add", step, row), kind), kind)

    def _bernoulli(self, node: Node, row: str, unit: str) -> str:
        """A draw for a row and a vector of units."""
        key, threshold = self._chance(node)
        place = self._of_row("origins" if node.value else "places", row, "i64")
        return bernoulli(self.e, row_bits(self.e, key, place), unit, threshold)

    def _reset(self, row: str) -> str:
        """Whether the state of a row begins anew, for a vector of units."""
        e = self.e
        return e.spread("i1", e.emit(f"icmp ne i8 {self._of_row('resets', row, 'i8')}, 0"))

    def _numbers(self) -> None:
        """What is one number a row, for a vector of rows at a time."""
        e = self.e

        def some_rows(r: str, _: list[str]) -> list[str]:
            row, there = e.integer_of("add", r, "%first"), e.first_lanes(e.integer_of("sub", "%count", r))
            values = {k: e.load_some(self._at(self._name(k), row, "0"), there) for k in self.load}

            def value(k: int) -> str:
                node = self.step.nodes[k]
                if k not in values:
                    if node.kind in LEAVES:
                        values[k] = self._leaf(node)
                    else:
                        values[k] = FUNCTIONS[node.kind](e, *(value(a) for a in node.args))
                return values[k]

            for name, k in self.stores:
                e.store_some(value(k), self._at(name, row, "0"), there)
            return []

        e.loop("0", "%count", str(e.lanes), some_rows)

    def _leaf(self, node: Node) -> str:
        """What is the same for all rows and units."""
        e = self.e
        if node.kind == "constant":
            return e.splat(node.value)
        if node.kind == "rate":
            _, threshold = self._chance(node)
            return e.spread(e.scalar, probability(e, threshold))
        assert node.kind == "size", node.kind
        size = self.printer.word(e, f"width {node.name}")
        return e.spread(e.scalar, e.emit(f"sitofp i64 {size} to {e.scalar}"))

    def _reduce(self) -> None:
        """After the last vector of units: from a vector for each row to a number, some rows at a time."""
        e = self.e

        def some_rows(r: str, _: list[str]) -> list[str]:
            row, left = e.integer_of("add", r, "%first"), e.integer_of("sub", "%count", r)
            there, last = e.first_lanes(left), e.integer_of("sub", left, 1)
            rows = [e.integer_of("add", row, e.smaller(str(k), last)) for k in range(e.lanes)]
            for k in self.stage.reductions:
                kind = self.step.nodes[k].kind
                values = [e.load(self._at(f"partial {k}", at, "0")) for at in rows]
                while len(values) > 1:  # half as many vectors with the neighbours of each joined
                    pairs = list(zip(values[::2], values[1::2], strict=True))
                    halves = ([e.shuffle(a, b, range(n, 2 * e.lanes, 2)) for n in (0, 1)] for a, b in pairs)
                    values = [FUNCTIONS[_JOIN[kind][0]](e, *half) for half in halves]
                value = values[0]
                if kind == "mean":
                    size = e.spread(e.scalar, e.emit(f"sitofp i64 {self.width} to {e.scalar}"))
                    value = e.div(value, size)
                e.store_some(value, self._at(self.printer.names[k], row, "0"), there)
            return []

        if self.stage.reductions:
            e.loop("0", "%count", str(e.lanes), some_rows)

    def _add_to_sum(self, name: str, unit: str, term: str) -> None:
        """Kahan's sum: over many steps and rows plain addition loses digits."""
        e = self.e
        padded = e.integer_of("mul", self.printer.vectors(e, self.stage.width), self.printer.lanes)
        offset = e.integer_of("add", e.integer_of("mul", "%worker", e.integer_of("shl", padded, 1)), unit)
        address = e.at(self.totals[name], offset)
        lost_at = e.at(address, padded)
        total = e.load(address)
        term = e.sub(term, e.load(lost_at))
        after = e.add(total, term)
        e.store(e.sub(e.sub(after, total), term), lost_at)
        e.store(after, address)
