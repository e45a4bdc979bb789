"""Print one stage of a step: products of a register tile, and the pointwise work behind them, as LLVM IR."""

from __future__ import annotations

import math
from collections.abc import Callable

from unrolled.compile.chance import bernoulli, probability, row_bits
from unrolled.compile.context import Draft
from unrolled.compile.emit import Emitter
from unrolled.compile.machine import machine
from unrolled.compile.mathematics import FUNCTIONS
from unrolled.compile.schedule import LEAVES, Stage, is_row, levels
from unrolled.compile.step import Node
from unrolled.compile.tile import ROWS, accumulate, pieces
from unrolled.graph import PER_ROW

_JOIN = {"sum": ("add", 0.0), "mean": ("add", 0.0), "amax": ("maximum", -math.inf)}
"""How a reduction joins two values, and what it starts from."""


class StagePrinter:
    """One stage at one step, for a range of rows and of vectors of units."""

    def __init__(self, draft: Draft, e: Emitter, number: int, stage: Stage) -> None:
        self.draft = draft
        self.step = draft.step
        self.e = e
        self.number = number
        self.stage = stage
        self.wide = machine().group // max(len(stage.destinations), 1)
        self.compute, self.load = self._needed()
        self.stores = {k: self._places(k) for k in stage.wanted}
        self.sums = self._sums()

    # What is computed here

    def _name(self, k: int) -> str:
        """Where a node that is in memory lives."""
        node = self.step.nodes[k]
        return node.name if node.kind == "read" else self.draft.names[k]

    def _places(self, k: int) -> list[str]:
        """Where a node is stored to."""
        own = [self.draft.names[k]] if k in self.draft.names else []
        return own + [place for place, node in self.draft.written if node == k]

    def _sums(self) -> dict[str, list[int]]:
        """The sums that are taken in this stage: the first that has their width and can compute them."""
        found: dict[str, list[int]] = {}
        level = levels(self.step)
        for name, nodes in self.draft.sums.items():
            width, behind = self.step.nodes[nodes[0]].width, max(level[k] for k in nodes)
            stored: set[int] = set()
            can = []
            for s in self.draft.stages:
                stored |= {*s.wanted}
                if s.width == width and s.level >= behind and stored >= {*nodes}:
                    can.append(s)
            if can[0] is self.stage:
                found[name] = nodes
        return found

    def _needed(self) -> tuple[list[int], list[int]]:
        """What the pointwise work computes, in order, and what it loads."""
        stages = self.draft.stages
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
        """The pass over the units."""
        e, reductions = self.e, self.stage.reductions
        operands = {k: self._name(k) for k in self.stage.operands}
        places = [*map(self._name, self.load), *(name for names in self.stores.values() for name in names)]
        self._begin([*places, *map(_partial, reductions), *operands.values()])
        self.vectors = {
            name: self._of_step(f"vector {name}", "%t")
            for name in dict.fromkeys(n.name for n in self.step.nodes if n.kind == "vector")
        }
        slot = e.integer_of("and", "%t", self.draft.word(e, "mask"))
        self.totals = {name: self._of_step(f"sum {name}", slot) for name in self.sums}
        if self.stage.width == PER_ROW:
            self._numbers()
            e.do("ret void")
            return
        if reductions:
            e.loop("0", "%count", "1", self._nothing_yet)
        if not self.stage.destinations:
            self._tile("%first", "%count", "%left", e.integer_of("sub", "%right", "%left"))
            e.do("ret void")
            return
        slots = len(self.stage.destinations) * self.wide * ROWS
        self.stack = e.emit(f"alloca [{slots} x {e.vector}], align 64")
        panel = self._of_step(f"panel {self.number}", slot)
        self.widths = {k: self.draft.word(e, f"width {self.step.nodes[k].width}") for k in operands}
        per_vector = "0"
        for k in operands:
            users = len(self._users(k)) * self.draft.lanes
            per_vector = e.integer_of("add", per_vector, e.integer_of("mul", self.widths[k], users))
        vectors = self.draft.vectors(e, self.stage.width)
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
        e.do("ret void")

    def _of_step(self, name: str, number: str) -> str:
        """One of several places of a kind, `NAME apart`: of the first so many steps, or of the chunk's."""
        first, apart = self.draft.word(self.e, name, "ptr"), self.draft.word(self.e, f"{name} apart")
        return self.e.at(first, self.e.integer_of("mul", number, apart))

    def print_reductions(self) -> None:
        """What follows once all units were passed over: the reductions of each row, as numbers."""
        reductions = self.stage.reductions
        self._begin([*map(_partial, reductions), *(name for k in reductions for name in self._places(k))])
        self.e.loop("0", "%count", str(self.e.lanes), self._reduce)
        self.e.do("ret void")

    def _begin(self, places: list[str]) -> None:
        self.width = self.draft.word(self.e, f"width {self.stage.width}")
        self._steps_beside()
        self.bases = {name: self._base(name) for name in dict.fromkeys(places)}

    def _steps_beside(self) -> None:
        """The steps before and after this one in the order of the loop, and whether these rows have none."""
        e = self.e
        backwards = e.emit(f"icmp ne i64 {self.draft.word(e, 'reversed')}, 0")
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
        e, where = self.e, self.draft.address(name)
        word = {w: self.draft.word(e, f"{name} {w}", "ptr" if w in ("pointer", "start") else "i64")
                for w in where.words}  # fmt: skip
        pointer, row = word["pointer"], word["row"]
        if where.time in ("now", "last"):
            turn = e.integer_of("and", e.integer_of("add", "%s", int(where.time == "last")), 1)
            pointer = e.at(pointer, e.integer_of("mul", turn, word["turn"]))
        else:
            t, _ = self.beside.get(where.time, ("%t", ""))
            first = e.load(e.at(self.draft.word(e, "offsets", "ptr"), t, "i64"), "i64")
            if where.time == "chunk":
                first = e.integer_of("sub", first, "%origin")
            pointer = e.at(pointer, e.integer_of("mul", first, row))
        if where.own:
            pointer = e.at(pointer, e.integer_of("mul", "%worker", word["worker"]))
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
        e, lanes = self.e, self.draft.lanes
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
            unit = e.integer_of("mul", e.integer_of("add", v, vector), self.draft.lanes)
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
            padded = self.draft.address(self._name(k))
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
        for name, k in ((name, k) for k, names in self.stores.items() for name in names):
            if self.draft.address(name).padded:
                if k not in clean:
                    clean[k] = e.select(inside, value(k), e.splat(0.0))
                e.store(clean[k], self._at(name, row, unit))
            else:
                e.store_some(value(k), self._at(name, row, unit), inside)
        for k in self.stage.reductions:
            join, nothing = self._join(k)
            term = e.select(inside, value(self.step.nodes[k].args[0]), e.splat(nothing))
            address = self._at(_partial(k), row, "0")
            e.store(join(e, e.load(address), term), address)
        new = []
        for total, nodes in zip(sums, self.sums.values(), strict=True):
            for k in nodes:
                total = e.add(total, value(k))
            new.append(total)
        return new

    def _chance(self, node: Node) -> tuple[str, str]:
        """The key of what is drawn, and its probability in parts."""
        e, draws = self.e, self.draft.draws
        key = e.at(self.draft.word(e, "chances", "ptr"), str(draws.index(node.name)), "i64")
        return e.load(key, "i64"), e.load(e.at(key, str(len(draws)), "i64"), "i64")

    def _of_row(self, name: str, row: str, kind: str) -> str:
        """What a place of all steps has for a row of this one."""
        e = self.e
        step = e.load(e.at(self.draft.word(e, "offsets", "ptr"), "%t", "i64"), "i64")
        return e.load(e.at(self.draft.word(e, name, "ptr"), e.integer_of("add", step, row), kind), kind)

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

            for k, places in self.stores.items():
                self._store_numbers(value(k), places, r)
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
        size = self.draft.word(e, f"width {node.name}")
        return e.spread(e.scalar, e.emit(f"sitofp i64 {size} to {e.scalar}"))

    def _store_numbers(self, value: str, places: list[str], r: str) -> None:
        """Numbers of some rows, to where this worker finds them; those for all are the first worker's to
        store, where all have the same rows."""
        e = self.e
        left = e.integer_of("sub", "%count", r)
        another = e.emit(f"and i1 {self.draft.by_units(e)}, {e.emit('icmp ne i64 %worker, 0')}")
        shared = e.choose(another, "0", left, "i64")
        for name in places:
            count = left if self.draft.address(name).own else shared
            e.store_some(value, self._at(name, e.integer_of("add", r, "%first"), "0"), e.first_lanes(count))

    def _join(self, k: int) -> tuple[Callable[..., str], float]:
        """How a reduction joins two values, and what it starts from."""
        name, nothing = _JOIN[self.step.nodes[k].kind]
        return FUNCTIONS[name], nothing

    def _nothing_yet(self, r: str, carried: list[str]) -> list[str]:
        """A row's reductions before the first vector of units."""
        e = self.e
        for k in self.stage.reductions:
            _, nothing = self._join(k)
            e.store(e.splat(nothing), self._at(_partial(k), e.integer_of("add", r, "%first"), "0"))
        return carried

    def _reduce(self, r: str, carried: list[str]) -> list[str]:
        """From a vector for each row, and for each worker where they share the units, to a number."""
        e = self.e
        row, last = e.integer_of("add", r, "%first"), e.integer_of("sub", e.integer_of("sub", "%count", r), 1)
        rows = [e.integer_of("add", row, e.smaller(str(k), last)) for k in range(e.lanes)]
        for k in self.stage.reductions:
            join, _ = self._join(k)
            values = self._partials(k, rows)
            while len(values) > 1:  # half as many vectors with the neighbours of each joined
                pairs = list(zip(values[::2], values[1::2], strict=True))
                halves = ([e.shuffle(a, b, range(n, 2 * e.lanes, 2)) for n in (0, 1)] for a, b in pairs)
                values = [join(e, *half) for half in halves]
            value = values[0]
            if self.step.nodes[k].kind == "mean":
                size = e.spread(e.scalar, e.emit(f"sitofp i64 {self.width} to {e.scalar}"))
                value = e.div(value, size)
            self._store_numbers(value, self._places(k), r)
        return carried

    def _partials(self, k: int, rows: list[str]) -> list[str]:
        """A vector of a reduction for each of these rows; what workers have of it is joined."""
        e = self.e
        join, nothing = self._join(k)
        addresses = [self._at(_partial(k), row, "0") for row in rows]
        apart = self.draft.word(e, f"{_partial(k)} worker")

        def of_worker(w: str, values: list[str]) -> list[str]:
            offset = e.integer_of("mul", e.integer_of("sub", w, "%worker"), apart)
            pairs = zip(values, addresses, strict=True)
            return [join(e, value, e.load(e.at(address, offset))) for value, address in pairs]

        workers = e.choose(self.draft.by_units(e), "%workers", "1", "i64")
        return e.loop("0", workers, "1", of_worker, [(e.vector, e.splat(nothing))] * len(rows))

    def _add_to_sum(self, name: str, unit: str, term: str) -> None:
        """Kahan's sum: over many steps and rows plain addition loses digits."""
        e = self.e
        padded = e.integer_of("mul", self.draft.vectors(e, self.stage.width), self.draft.lanes)
        offset = e.integer_of("add", e.integer_of("mul", "%worker", e.integer_of("shl", padded, 1)), unit)
        address = e.at(self.totals[name], offset)
        lost_at = e.at(address, padded)
        total = e.load(address)
        term = e.sub(term, e.load(lost_at))
        after = e.add(total, term)
        e.store(e.sub(e.sub(after, total), term), lost_at)
        e.store(after, address)


def _partial(k: int) -> str:
    """Where a reduction's vectors of each row are, before they are joined."""
    return f"partial {k}"
