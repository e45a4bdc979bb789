"""Print the kernel of a step: all time steps of a slice of the batch, as LLVM IR.

    for t: for each stage: for each tile of units: for each tile of rows:
        accumulators <- products          (up to 6 rows x 4 vectors, kept in registers over the reduction)
        pointwise work on them, then stores

Sizes are read at run time from the context, an array of 64-bit integers whose layout `Context` gives. What is
stored is addressed by pointer, time stride and row stride, in elements; time runs from 0 up whatever the
direction, since the caller chooses the pointer and the sign of the stride. Rows are padded to whole vectors,
and what is stored there is 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from unrolled.compile.emit import BITS, Emitter
from unrolled.compile.mathematics import FUNCTIONS
from unrolled.compile.schedule import GROUP, Stage, levels
from unrolled.compile.step import Step

ROWS = 6
"""Rows of the largest register tile."""


@dataclass
class Context:
    """Where the kernel finds what it needs: the places in the array of integers, in order of appearance."""

    places: dict[str, int] = field(default_factory=dict)

    def place(self, name: str) -> int:
        return self.places.setdefault(name, len(self.places))


@dataclass(frozen=True)
class Kernel:
    """The text of a kernel and the layout of its context.

    The context has `NAME pointer`, `NAME time` and `NAME row` for all that is read or written at a time and
    a row, and `T`, `B`, `padded W` and `width W` for each width symbol W, `vector NAME`, `panel S` for
    stage S and `sum NAME`.
    """

    text: str
    context: Context


def print_kernel(
    step: Step,
    stages: tuple[Stage, ...],
    names: Mapping[int, str],
    written: Iterable[tuple[str, int]],
    sums: Mapping[str, list[int]],
    scalar: str,
    lanes: int,
    attributes: str,
) -> Kernel:
    """The kernel of a scheduled step.

    Args:
        names: where a stored node lives, by node; a read lives under its own name.
        written: further places to store nodes to, as pairs (place, node).
        sums: for each learned vector, the nodes whose sum over time and rows is wanted.
        attributes: LLVM function attributes.
    """
    return _Printer(step, stages, names, list(written), sums, scalar, lanes, attributes).kernel()


@dataclass
class _Printer:
    """The arguments of `print_kernel`, and what was printed so far."""

    step: Step
    stages: tuple[Stage, ...]
    names: Mapping[int, str]
    written: list[tuple[str, int]]
    sums: Mapping[str, list[int]]
    scalar: str
    lanes: int
    attributes: str
    context: Context = field(default_factory=Context)
    functions: list[str] = field(default_factory=list)
    intrinsics: set[str] = field(default_factory=set)

    def kernel(self) -> Kernel:
        for number, stage in enumerate(self.stages):
            if stage.destinations:
                for vectors in dict.fromkeys((self._vectors(stage), 1)):
                    for rows in range(1, ROWS + 1):
                        self._tile(number, stage, rows, vectors)
            else:
                self._tile(number, stage, 1, 1)
        self._rows()
        self._entry()
        text = "\n".join((*sorted(self.intrinsics), *self.functions))
        return Kernel(text, self.context)

    @staticmethod
    def _vectors(stage: Stage) -> int:
        """Vectors of units side by side in a tile: as many as the accumulators have room for."""
        return GROUP // len(stage.destinations)

    def _function(self, e: Emitter, signature: str) -> None:
        self.functions.append("\n".join((f"define {signature} {self.attributes} {{", *e.lines, "}")))
        self.intrinsics |= e.intrinsics

    # Addresses

    def _load_place(self, e: Emitter, name: str) -> str:
        address = e.emit(f"getelementptr i64, ptr %context, i64 {self.context.place(name)}")
        return e.emit(f"load i64, ptr {address}")

    def _pointer(self, e: Emitter, name: str) -> str:
        address = e.emit(f"getelementptr i64, ptr %context, i64 {self.context.place(name)}")
        return e.emit(f"load ptr, ptr {address}")

    def _base(self, e: Emitter, name: str) -> tuple[str, str]:
        """The address of a place at this time and row 0, and its row stride."""
        pointer = self._pointer(e, f"{name} pointer")
        time = "%t"
        if name.startswith(("carry ", "next ")):  # two rows in turn: what a step reads stays while it writes
            turn = e.emit(f"add i64 %t, {int(name.startswith('next '))}")
            time = e.emit(f"and i64 {turn}, 1")
        offset = e.emit(f"mul i64 {time}, {self._load_place(e, f'{name} time')}")
        base = e.emit(f"getelementptr {self.scalar}, ptr {pointer}, i64 {offset}")
        return base, self._load_place(e, f"{name} row")

    def _at(self, e: Emitter, base: tuple[str, str], row: str, column: str) -> str:
        offset = e.emit(f"add i64 {e.emit(f'mul i64 {row}, {base[1]}')}, {column}")
        return e.emit(f"getelementptr {self.scalar}, ptr {base[0]}, i64 {offset}")

    def _load(self, e: Emitter, address: str) -> str:
        return e.emit(f"load {e.vector}, ptr {address}, align {BITS[self.scalar] // 8}")

    def _store(self, e: Emitter, value: str, address: str) -> None:
        e.do(f"store {e.vector} {value}, ptr {address}, align {BITS[self.scalar] // 8}")

    # Tiles

    def _tile(self, number: int, stage: Stage, rows: int, vectors: int) -> None:
        """One register tile: `rows` rows and `vectors` vectors of units of one stage."""
        e = Emitter(self.scalar, self.lanes)
        bytes_of_vector = self.lanes * BITS[self.scalar] // 8
        slots = len(stage.destinations) * vectors * rows
        stack = ""
        if slots:
            stack = e.emit(f"alloca [{slots} x {e.vector}], align {bytes_of_vector}")
            accumulators = self._products(e, number, stage, rows, vectors)
            for slot, value in enumerate(accumulators):
                address = e.emit(f"getelementptr {e.vector}, ptr {stack}, i64 {slot}")
                e.do(f"store {e.vector} {value}, ptr {address}, align {bytes_of_vector}")
        bases: dict[str, tuple[str, str]] = {}
        for name in self._touched(stage):
            bases[name] = self._base(e, name)
        constants = {
            node.name: self._pointer(e, f"vector {node.name}")
            for node in self.step.nodes
            if node.kind == "vector"
        }
        totals = {name: self._pointer(e, f"sum {name}") for name in self._sums_of(stage)}

        def row(r: str, _: list[str]) -> list[str]:
            at = e.emit(f"add i64 %row, {r}")
            for v in range(vectors):
                unit = e.emit(f"add i64 %unit, {v * self.lanes}")
                self._behind(e, stage, stack, rows, vectors, r, v, at, unit, bases, constants, totals)
            return []

        e.loop("0", str(rows), "1", row)
        e.do("ret void")
        arguments = "ptr %context, i64 %t, i64 %row, i64 %unit, i64 %worker"
        self._function(e, f"internal void @tile_{number}_{rows}_{vectors}({arguments})")

    def _products(self, e: Emitter, number: int, stage: Stage, rows: int, vectors: int) -> list[str]:
        """The accumulators, by destination, vector and row."""
        size = len(stage.destinations) * vectors
        values = [e.splat(0.0)] * (size * rows)
        panel = self._pointer(e, f"panel {number}")
        per_unit = "0"
        counts = []
        for operand in stage.operands:
            users = [
                k for k, d in enumerate(stage.destinations) if any(t.operand == operand for t in d.terms)
            ]
            width = self._load_place(e, f"width {self.step.nodes[operand].width}")
            counts.append((operand, users, width))
            per_unit = e.emit(f"add i64 {per_unit}, {e.emit(f'mul i64 {width}, {len(users)}')}")
        offset = e.emit(f"mul i64 %unit, {per_unit}")
        weights = e.emit(f"getelementptr {self.scalar}, ptr {panel}, i64 {offset}")
        for operand, users, width in counts:
            base = self._base(e, self._name(operand))
            sources = []
            for r in range(rows):
                sources.append(self._at(e, base, e.emit(f"add i64 %row, {r}"), "0"))
            step = len(users) * vectors * self.lanes
            mine = [(k * vectors + v) * rows + r for k in users for v in range(vectors) for r in range(rows)]

            def body(k: str, carried: list[str], sources: list[str] = sources, weights: str = weights,
                     step: int = step, users: list[int] = users) -> list[str]:  # fmt: skip
                at = e.emit(
                    f"getelementptr {self.scalar}, ptr {weights}, i64 {e.emit(f'mul i64 {k}, {step}')}"
                )
                columns = [
                    self._load(e, e.emit(f"getelementptr {self.scalar}, ptr {at}, i64 {c * self.lanes}"))
                    for c in range(len(users) * vectors)
                ]
                new = list(carried)
                for r in range(rows):
                    address = e.emit(f"getelementptr {self.scalar}, ptr {sources[r]}, i64 {k}")
                    element = e.emit(f"load {self.scalar}, ptr {address}")
                    spread = e.spread(self.scalar, element)
                    for c, column in enumerate(columns):
                        new[c * rows + r] = e.fma(column, spread, carried[c * rows + r])
                return new

            results = e.loop("0", width, "1", body, [(e.vector, values[k]) for k in mine])
            for k, value in zip(mine, results, strict=True):
                values[k] = value
            length = e.emit(f"mul i64 {width}, {step}")
            weights = e.emit(f"getelementptr {self.scalar}, ptr {weights}, i64 {length}")
        return values

    # Pointwise work

    def _name(self, node: int) -> str:
        """Where a node that is in memory lives."""
        return self.step.nodes[node].name if self.step.nodes[node].kind == "read" else self.names[node]

    def _needed(self, stage: Stage) -> tuple[list[int], list[int]]:
        """What the pointwise work of a stage computes, in order, and what it loads."""
        here = {d.node for d in stage.destinations}
        earlier = {k for s in self.stages[: self.stages.index(stage)] for k in s.wanted}
        wanted = [*stage.wanted, *self._sum_nodes(stage)]
        compute: dict[int, None] = {}
        load: dict[int, None] = {}

        def visit(k: int) -> None:
            node = self.step.nodes[k]
            if k in compute or k in load or node.kind in ("constant", "vector"):
                return
            if node.kind == "read" or (k in earlier and k not in here):
                load[k] = None
                return
            args = node.args
            if k in here:
                args = next(d.others for d in stage.destinations if d.node == k)
            for arg in args:
                visit(arg)
            compute[k] = None

        for k in wanted:
            visit(k)
        return list(compute), list(load)

    def _sum_nodes(self, stage: Stage) -> list[int]:
        return [k for nodes in self._sums_of(stage).values() for k in nodes]

    def _sums_of(self, stage: Stage) -> dict[str, list[int]]:
        """The sums that are taken in this stage: the first that has their width and can compute them."""
        found: dict[str, list[int]] = {}
        level = levels(self.step)
        for name, nodes in self.sums.items():
            width, behind = self.step.nodes[nodes[0]].width, max(level[k] for k in nodes)
            can = [s for s in self.stages if s.width == width and s.level >= behind]
            if can[0] is stage:
                found[name] = nodes
        return found

    def _touched(self, stage: Stage) -> list[str]:
        _, load = self._needed(stage)
        stored = [self.names[k] for k in stage.wanted if k in self.names]
        stored += [place for place, k in self.written if k in stage.wanted]
        return list(dict.fromkeys([*(self._name(k) for k in load), *stored]))

    def _behind(
        self, e: Emitter, stage: Stage, stack: str, rows: int, vectors: int, r: str, v: int, at: str,
        unit: str, bases: Mapping[str, tuple[str, str]], constants: Mapping[str, str],
        totals: Mapping[str, str],
    ) -> None:  # fmt: skip
        """The pointwise work of one row and one vector of units, and its stores."""
        values: dict[int, str] = {}

        def value(k: int) -> str:
            node = self.step.nodes[k]
            if k not in values:
                if node.kind == "constant":
                    values[k] = e.splat(node.value)
                elif node.kind == "vector":
                    address = e.emit(f"getelementptr {self.scalar}, ptr {constants[node.name]}, i64 {unit}")
                    values[k] = self._load(e, address)
            return values[k]

        compute, load = self._needed(stage)
        for k in load:
            values[k] = self._load(e, self._at(e, bases[self._name(k)], at, unit))
        for k in compute:
            node = self.step.nodes[k]
            place = next((p for p, d in enumerate(stage.destinations) if d.node == k), None)
            if place is None:
                values[k] = FUNCTIONS[node.kind](e, *(value(arg) for arg in node.args))
                continue
            slot = e.emit(f"add i64 {r}, {(place * vectors + v) * rows}")
            total = self._load(e, e.emit(f"getelementptr {e.vector}, ptr {stack}, i64 {slot}"))
            for other in stage.destinations[place].others:
                total = e.add(total, value(other))
            values[k] = total
        inside = self._mask(e, stage.width, unit)
        stores = [(self.names[k], k) for k in stage.wanted if k in self.names]
        stores += [(place, k) for place, k in self.written if k in stage.wanted]
        clean = {k: e.select(inside, value(k), e.splat(0.0)) for _, k in stores}
        for name, k in stores:
            self._store(e, clean[k], self._at(e, bases[name], at, unit))
        for name, nodes in self._sums_of(stage).items():
            padded = self._load_place(e, f"padded {stage.width}")
            double = e.emit(f"shl i64 {padded}, 1")
            offset = e.emit(f"add i64 {e.emit(f'mul i64 %worker, {double}')}, {unit}")
            address = e.emit(f"getelementptr {self.scalar}, ptr {totals[name]}, i64 {offset}")
            lost_at = e.emit(f"getelementptr {self.scalar}, ptr {address}, i64 {padded}")
            total, lost = self._load(e, address), self._load(e, lost_at)
            for k in nodes:  # Kahan's sum: over many steps and rows plain addition loses digits
                term = e.sub(value(k), lost)
                after = e.add(total, term)
                lost = e.sub(e.sub(after, total), term)
                total = after
            self._store(e, total, address)
            self._store(e, lost, lost_at)

    def _mask(self, e: Emitter, width: str, unit: str) -> str:
        """Which lanes of this vector are units and not padding."""
        left = e.emit(f"sub i64 {self._load_place(e, f'width {width}')}, {unit}")
        kind = f"<{self.lanes} x i64>"
        spread = e.spread("i64", left)
        numbers = ", ".join(f"i64 {k}" for k in range(self.lanes))
        return e.emit(f"icmp slt {kind} <{numbers}>, {spread}")

    # Loops

    def _rows(self) -> None:
        """All time steps of the rows from %first on."""
        e = Emitter(self.scalar, self.lanes)
        steps = self._load_place(e, "T")
        pieces = e.emit(f"udiv i64 {e.emit(f'add i64 %count, {ROWS - 1}')}, {ROWS}")
        height = e.emit(f"udiv i64 %count, {pieces}")
        higher = e.emit(f"urem i64 %count, {pieces}")

        def all_rows(number: int, vectors: int, t: str, unit: str) -> None:
            def piece(k: str, _: list[str]) -> list[str]:
                one_more = e.emit(f"icmp slt i64 {k}, {higher}")
                rows = e.emit(f"add i64 {height}, {e.emit(f'zext i1 {one_more} to i64')}")
                before = e.emit(f"select i1 {one_more}, i64 {k}, i64 {higher}")
                row = e.emit(f"add i64 {e.emit(f'mul i64 {k}, {height}')}, {before}")
                row = e.emit(f"add i64 {row}, %first")
                labels = [e.name("h") for _ in range(ROWS)]
                after = e.name("h")
                cases = " ".join(f"i64 {n}, label %{label}" for n, label in enumerate(labels, 1))
                e.do(f"switch i64 {rows}, label %{after} [ {cases} ]")
                for n, label in enumerate(labels, 1):
                    e.lines.append(f"{label}:")
                    e.do(
                        f"call void @tile_{number}_{n}_{vectors}"
                        f"(ptr %context, i64 {t}, i64 {row}, i64 {unit}, i64 %worker)"
                    )
                    e.do(f"br label %{after}")
                e.lines.append(f"{after}:")
                return []

            e.loop("0", pieces, "1", piece)

        def time(t: str, _: list[str]) -> list[str]:
            for number, stage in enumerate(self.stages):
                padded = self._load_place(e, f"padded {stage.width}")
                if not stage.destinations:

                    def one(row: str, _: list[str], number: int = number, padded: str = padded) -> list[str]:
                        def unit(j: str, _: list[str]) -> list[str]:
                            at = e.emit(f"add i64 %first, {row}")
                            e.do(
                                f"call void @tile_{number}_1_1"
                                f"(ptr %context, i64 {t}, i64 {at}, i64 {j}, i64 %worker)"
                            )
                            return []

                        e.loop("0", padded, str(self.lanes), unit)
                        return []

                    e.loop("0", "%count", "1", one)
                    continue
                vectors = self._vectors(stage)
                wide = vectors * self.lanes
                whole = e.emit(f"mul i64 {e.emit(f'udiv i64 {padded}, {wide}')}, {wide}")

                def tiles(j: str, _: list[str], number: int = number, vectors: int = vectors) -> list[str]:
                    all_rows(number, vectors, t, j)
                    return []

                def rest(j: str, _: list[str], number: int = number) -> list[str]:
                    all_rows(number, 1, t, j)
                    return []

                e.loop("0", whole, str(wide), tiles)
                if vectors > 1:
                    e.loop(whole, padded, str(self.lanes), rest)
            return []

        e.loop("0", steps, "1", time)
        e.do("ret void")
        self._function(e, "internal void @rows(ptr %context, i64 %first, i64 %count, i64 %worker)")

    def _entry(self) -> None:
        """One worker of a team: its share of the rows."""
        e = Emitter(self.scalar, self.lanes)
        rows = self._load_place(e, "B")
        first = e.emit(f"udiv i64 {e.emit(f'mul i64 {rows}, %worker')}, %workers")
        following = e.emit("add i64 %worker, 1")
        end = e.emit(f"udiv i64 {e.emit(f'mul i64 {rows}, {following}')}, %workers")
        count = e.emit(f"sub i64 {end}, {first}")
        go, after = e.name("b"), e.name("b")
        e.do(f"br i1 {e.emit(f'icmp sgt i64 {count}, 0')}, label %{go}, label %{after}")
        e.lines.append(f"{go}:")
        e.do(f"call void @rows(ptr %context, i64 {first}, i64 {count}, i64 %worker)")
        e.do(f"br label %{after}")
        e.lines.append(f"{after}:")
        e.do("ret void")
        self._function(e, "void @entry(ptr %context, i64 %worker, i64 %workers)")
