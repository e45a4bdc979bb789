"""From a loop and sizes to a context: what the team does, with which memory.

A plan is made once for each set of sizes. It holds the context's words; those that are addresses are known
up to where tensors begin, and filled in for each run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from unrolled.compile.kernel import Address
from unrolled.compile.loop import Compiled, Loop
from unrolled.compile.routines import FIRST, GROUP, HEADER, JOBS

CHUNK = 256
"""Rows of a chunk, at least, where there are as many."""

SMALL = 1 << 18
"""Multiply-adds below which the calling thread does the work alone."""

FEW = 4
"""Rows for each worker below which they share the units instead."""


@dataclass(frozen=True)
class Sizes:
    """What a plan depends on.

    widths: what each width symbol is.
    parts: for each parameter of the loop, the tensor it is in and its first element there.
    tokens: whether the input is token numbers.
    """

    T: int
    B: int
    widths: Mapping[str, int]
    parts: Mapping[str, tuple[int, int]]
    tokens: bool
    reverse: bool
    threads: int
    needs_x: bool
    needs_parameters: bool


@dataclass(frozen=True)
class At:
    """An address: elements behind the beginning of a tensor."""

    tensor: str
    element: int = 0


class Plan:
    """The context of one kernel for some sizes.

    Attributes:
        size: the elements of each workspace, `saved` and `work`, by name.
        places: where values are, at step 0 of the sequence, and their time and row strides.
        workers: how many threads carry it out.
    """

    def __init__(self, loop: Loop, compiled: Compiled, sizes: Sizes, backwards: bool) -> None:
        self.loop = loop
        self.compiled = compiled
        self.sizes = sizes
        self.size = {"saved": 0, "work": 0}
        self.places: dict[str, tuple[At, int, int]] = {}
        T, B = sizes.T, sizes.B
        largest = max(sizes.widths.values())
        self.workers = 1 if T * B * largest * largest < SMALL else sizes.threads
        by_units = self.workers > 1 and FEW * self.workers > B
        if not by_units:
            self.workers = min(self.workers, B)
        self.chunk = min(T, max(1, -(-CHUNK // B)))
        self.capacity = self.chunk * B
        self._words: list[int] = [0] * (FIRST + len(compiled.kernel.words))
        self._addresses: dict[int, At] = {}
        self._header(T=T, B=B, chunk=self.chunk, reversed=backwards)
        self._words[HEADER["by units"]] = by_units
        self._words[HEADER["steps"]] = compiled.program.address("steps")
        self._lists: dict[str, list[tuple[str, dict[str, int | At]]]] = {
            name: [] for name in ("begin", "before", "after", "end")
        }
        for name, size in sizes.widths.items():
            if f"width {name}" in compiled.kernel.words:
                self.word(f"width {name}", size)

    def _header(self, **words: int) -> None:
        for name, value in words.items():
            self._words[HEADER[name]] = int(value)

    def word(self, name: str, value: int | At) -> None:
        """Set a word of the context."""
        place = self.compiled.kernel.words[name]
        if isinstance(value, At):
            self._addresses[place] = value
        else:
            self._words[place] = value

    def has(self, name: str) -> bool:
        """Whether the kernel uses a place or a word."""
        words = self.compiled.kernel.words
        return name in words or f"{name} pointer" in words

    def take(self, workspace: str, elements: int) -> At:
        """Room for this many elements, from a cache line's beginning."""
        begin = self.size[workspace]
        self.size[workspace] = begin + -(-elements // 16) * 16
        return At(workspace, begin)

    def width(self, symbol: str) -> int:
        return self.sizes.widths[symbol]

    def place(self, name: str, at: At, time: int, row: int) -> None:
        """Where the kernel finds a value, if it uses it at all. `at` is step 0 of the sequence; the loop may
        begin at its other end."""
        self.places[name] = at, time, row
        if f"{name} pointer" not in self.compiled.kernel.words:
            return
        where = self.compiled.kernel.addresses[name]
        begin = at.element
        if where.time in ("whole", "chunk") and self._words[HEADER["reversed"]]:
            begin += (self.sizes.T - 1) * time if where.time == "whole" else 0
            time = -time
        self.word(f"{name} pointer", At(at.tensor, begin))
        self.word(f"{name} time", time)
        self.word(f"{name} row", row)

    def start(self, name: str, tensor: str, row: int) -> None:
        """Where a value is at the step that has none before it."""
        if f"{name} start" in self.compiled.kernel.words:
            self.word(f"{name} start", At(tensor))
            self.word(f"{name} start row", row)

    def turns(self, name: str, width: int, *others: str) -> At:
        """Two rows in turn, in the workspace, for a place and others that share it."""
        rows = self.sizes.B * self.loop.padded(width)
        at = self.take("work", 2 * rows)
        for each in (name, *others):
            self.place(each, at, rows, self.loop.padded(width))
        return at

    def rest(self) -> None:
        """Give the places that are nobody's business but the kernel's."""
        step = self.compiled.step
        for name, where in self.compiled.kernel.addresses.items():
            if self.compiled.kernel.words[f"{name} pointer"] not in self._addresses:
                assert where.time == "now", name
                self.turns(name, self.width(step.nodes[int(name.split()[-1])].width))

    def job(self, when: str, name: str, **words: int | At) -> None:
        """Add a job to a list; the words are those of `routines.JOBS`, with _ for blanks."""
        self._lists[when].append((name, {key.replace("_", " "): value for key, value in words.items()}))

    def meet(self, when: str) -> None:
        """Wait for the others, unless there is nothing to wait for."""
        if self.workers > 1 and self._lists[when] and self._lists[when][-1][0] != "meet":
            self._lists[when].append(("meet", {}))

    def parameter(self, name: str, gradient: bool = False) -> At:
        tensor, element = self.sizes.parts[name]
        return At(f"{'d_' if gradient else ''}parameter {tensor}", element)

    # Weights

    def stage_panels(self) -> None:
        """Pack what the stages' tiles read."""
        step, lanes = self.compiled.step, self.loop.lanes
        for number, stage in enumerate(self.compiled.stages):
            if not stage.destinations:
                continue
            wide = GROUP // len(stage.destinations)
            vectors = self.loop.vectors(self.width(stage.width))
            users = {
                k: [n for n, d in enumerate(stage.destinations) if any(t.operand == k for t in d.terms)]
                for k in stage.operands
            }
            per_vector = sum(self.width(step.nodes[k].width) * len(u) * lanes for k, u in users.items())
            panels = vectors // wide
            to = self.take("work", vectors * per_vector)
            self.word(f"panel {number}", to)
            offset = 0
            for k in stage.operands:
                elements = self.width(step.nodes[k].width)
                for place, n in enumerate(users[k]):
                    terms = [t for t in stage.destinations[n].terms if t.operand == k]
                    for again, term in enumerate(terms):
                        self._pack(
                            term.matrix, term.transposed, self.width(stage.width), elements, elements,
                            first=0, panels=panels, vectors=wide, to=to, panel=wide * per_vector,
                            step=len(users[k]) * wide * lanes, column=offset * wide + place * wide * lanes,
                            rest=At(to.tensor, to.element + panels * wide * per_vector),
                            rest_panel=per_vector, rest_step=len(users[k]) * lanes,
                            rest_column=offset + place * lanes, add=int(again > 0),
                        )  # fmt: skip
                offset += elements * len(users[k]) * lanes

    def _pack(
        self, matrix: str, transposed: bool, units: int, elements: int, padded: int, **words: int | At
    ) -> None:
        columns = units if transposed else elements
        self.job(
            "begin", "pack", weights=self.parameter(matrix), unit_step=1 if transposed else columns,
            element_step=columns if transposed else 1, units=units, elements=elements, padded=padded, **words,
        )  # fmt: skip

    def side_by_side(self, transposed: bool) -> tuple[At, int, int]:
        """Pack the matrices of all projections as one, or its transpose; the panels, how many are wide, and
        how many are not."""
        loop, lanes = self.loop, self.loop.lanes
        D = self.input_width
        heights = [self.width(loop.whole.nodes[k].width) for k in loop.projected]
        height = sum(map(loop.padded, heights))
        units, elements = (D, height) if transposed else (height, D)
        vectors = loop.vectors(units)
        panels = vectors // GROUP
        to = self.take("work", vectors * lanes * elements)
        begin = 0
        for k, rows in zip(loop.projected, heights, strict=True):
            name = loop.whole.nodes[k].name
            places: dict[str, int] = {
                "step": GROUP * lanes,
                "rest_step": lanes,
                "column": 0,
                "rest_column": 0,
            }
            if transposed:
                places |= {"column": begin * GROUP * lanes, "rest_column": begin * lanes}
            self._pack(
                name, transposed, D if transposed else rows, rows if transposed else D,
                loop.padded(rows) if transposed else D, first=0 if transposed else begin // lanes,
                panels=panels, vectors=GROUP, to=to, panel=GROUP * lanes * elements, **places,
                rest=At(to.tensor, to.element + panels * GROUP * lanes * elements),
                rest_panel=lanes * elements, add=0,
            )  # fmt: skip
            begin += loop.padded(rows)
        return to, panels, vectors % GROUP

    def table(self) -> At:
        """Pack the matrices of all projections as a row for each token."""
        loop = self.loop
        row, begin = self.projected_row, 0
        words = self.input_width
        to = self.take("work", words * row)
        for k in loop.projected:
            height = self.width(loop.whole.nodes[k].width)
            self._pack(
                loop.whole.nodes[k].name, False, height, words, words, first=0, panels=loop.vectors(height),
                vectors=1, to=to, panel=loop.lanes, step=row, column=begin, rest=to, rest_panel=0,
                rest_step=0, rest_column=0, add=0,
            )  # fmt: skip
            begin += loop.padded(height)
        return to

    @property
    def input_width(self) -> int:
        loop = self.loop
        return self.width(loop.whole.nodes[loop.whole.nodes[loop.projected[0]].args[0]].width)

    @property
    def projected_row(self) -> int:
        """The elements of all projections of a row, side by side."""
        return sum(self.loop.padded(self.width(self.loop.whole.nodes[k].width)) for k in self.loop.projected)

    def vectors_of_step(self) -> None:
        for name in self.compiled.kernel.words:
            if name.startswith("vector "):
                self.word(name, self.parameter(name.removeprefix("vector ")))

    # Running

    def finish(self) -> None:
        """Write the lists into the context."""
        addresses = {name: self.loop.team.address(f"job_{name}") for name in JOBS}
        for when, jobs in self._lists.items():
            self._words[HEADER[when]] = len(self._words)
            for name, words in jobs:
                begin = len(self._words)
                self._words += [addresses[name], 2 + len(JOBS[name])]
                assert words.keys() == set(JOBS[name]), (name, words.keys() ^ set(JOBS[name]))
                for field in JOBS[name]:
                    value = words[field]
                    if isinstance(value, At):
                        self._addresses[len(self._words)] = value
                        value = 0
                    self._words.append(value)
                assert len(self._words) == begin + 2 + len(JOBS[name])
            self._words.append(0)
        self._context = np.array(self._words, dtype=np.int64)
        self.tensors = tuple(dict.fromkeys(at.tensor for at in self._addresses.values()))
        size = np.dtype("f4" if self.loop.scalar == "float" else "f8").itemsize
        places = {name: k for k, name in enumerate(self.tensors)}
        self._where = np.array(list(self._addresses), dtype=np.intp)
        self._which = np.array([places[at.tensor] for at in self._addresses.values()], dtype=np.intp)
        self._offset = np.array([at.element * size for at in self._addresses.values()], dtype=np.int64)

    def run(self, tensors: Mapping[str, Any]) -> bool:
        """Carry it out on these tensors, by name; whether a token was none of the words."""
        context = self._context.copy()
        begins = np.array([tensors[name].data_ptr() for name in self.tensors], dtype=np.int64)
        context[self._where] = begins[self._which] + self._offset
        self.loop.team.run(context, self.workers)
        return bool(context[HEADER["fault"]])


def forward_plan(loop: Loop, sizes: Sizes, save: bool) -> Plan:
    """The forward pass.

    Tensors: `x`, `before K` for what is given, `start S`, `parameter N`, `y`, `end S`, `saved`, `work`.
    """
    compiled = loop.forward if save else loop.inference
    plan = Plan(loop, compiled, sizes, sizes.reverse)
    T, B = sizes.T, sizes.B
    plan.stage_panels()
    plan.vectors_of_step()
    _project(plan, save)
    _states(plan, "saved")
    for k in loop.saved if save else ():
        if loop.step.nodes[k].kind != "read":
            row = loop.padded(plan.width(loop.step.nodes[k].width))
            plan.place(f"value {k}", plan.take("saved", T * B * row), B * row, row)
    plan.rest()
    for name in loop.graph.states:
        width = plan.width(loop.graph.widths[name])
        at, row = _end(plan, f"new {name}")
        plan.job(
            "end", "copy", source=at, source_row=row, to=At(f"end {name}"), to_row=width, rows=B, width=width
        )
    plan.meet("begin")
    plan.meet("before")
    plan.finish()
    return plan


def _end(plan: Plan, name: str) -> tuple[At, int]:
    """Where the last step left a value, and its row stride."""
    kernel, T = plan.compiled.kernel, plan.sizes.T
    at = plan._addresses[kernel.words[f"{name} pointer"]]
    time = plan._words[kernel.words[f"{name} time"]]
    turn = {"whole": T - 1, "now": (T - 1) % 2}[kernel.addresses[name].time]
    return At(at.tensor, at.element + turn * time), plan._words[kernel.words[f"{name} row"]]


def _project(plan: Plan, save: bool) -> None:
    """The products of the input, a chunk at a time, and what else is there before the loop."""
    loop, sizes, B = plan.loop, plan.sizes, plan.sizes.B
    for k in (*loop.direct, *loop.given):
        width = plan.width(loop.whole.nodes[k].width)
        plan.place(f"before {k}", At("x" if k in loop.direct else f"before {k}"), B * width, width)
    if not loop.projected:
        return
    row = plan.projected_row
    whole = any(plan.compiled.kernel.addresses.get(f"before {k}") == Address() for k in loop.projected)
    rows = sizes.T * B if whole else plan.capacity
    at = plan.take("saved" if whole and save else "work", rows * row)
    column = 0
    for k in loop.projected:
        plan.place(f"before {k}", At(at.tensor, at.element + column), B * row, row)
        column += loop.padded(plan.width(loop.whole.nodes[k].width))
    if sizes.tokens:
        plan.job(
            "before", "look_up", tokens=At("x"), table=plan.table(), columns=row, words=plan.input_width,
            to=at, whole=int(whole),
        )  # fmt: skip
        return
    D = plan.input_width
    weights, panels, rest = plan.side_by_side(transposed=False)
    plan.job(
        "before", "product", operand=At("x"), operand_row=D, width=D, panels=panels, rest_panels=rest,
        columns=row, weights=weights, to=at, to_row=row, operand_whole=1, to_whole=int(whole), add=0,
    )  # fmt: skip


def _states(plan: Plan, workspace: str) -> None:
    """Where states are, old and new: the outputs, the workspace, or two rows in turn."""
    loop, (T, B) = plan.loop, (plan.sizes.T, plan.sizes.B)
    addresses = plan.compiled.kernel.addresses
    handed_on = loop.step.nodes[loop.step.results[loop.handed_on]].width
    for name in loop.graph.states:
        width = plan.width(loop.graph.widths[name])
        plan.start(name, f"start {name}", width)
        if name == loop.handed_on:
            continue
        row = loop.padded(width)
        where = addresses.get(f"new {name}") or addresses.get(name)
        if where is None:
            continue
        if where.time == "whole":
            _shifted(plan, name, plan.take(workspace, T * B * row), B * row, row)
        else:
            plan.turns(f"new {name}", width, name)
    width = plan.width(handed_on)
    if loop.handed_on in loop.graph.states:
        _shifted(plan, loop.handed_on, At("y"), B * width, width)
    else:
        plan.place(f"new {loop.handed_on}", At("y"), B * width, width)


def _shifted(plan: Plan, name: str, at: At, time: int, row: int) -> None:
    """A state in a place of all steps: the new one, and the old one a step behind it."""
    plan.place(f"new {name}", at, time, row)
    behind = -time if not plan.sizes.reverse else time
    plan.place(name, At(at.tensor, at.element + behind), time, row)


def backward_plan(loop: Loop, forward: Plan) -> Plan:
    """The backward pass after a forward pass.

    Tensors: those of the forward pass, and `d_y`, `d_end S`, `d_x`, `d_before K`, `d_start S`,
    `d_parameter N`.
    """
    sizes = forward.sizes
    compiled = loop.backward
    plan = Plan(loop, compiled, sizes, not sizes.reverse)
    B = sizes.B
    plan.stage_panels()
    plan.vectors_of_step()
    for name in loop.reads:
        if name in forward.places:
            plan.place(name, *forward.places[name])
    width = plan.width(loop.step.nodes[loop.step.results[loop.handed_on]].width)
    plan.place(f"upstream {loop.handed_on}", At("d_y"), B * width, width)
    for name in loop.graph.states:
        width = plan.width(loop.graph.widths[name])
        plan.start(name, f"start {name}", width)
        plan.start(f"carry {name}", f"d_end {name}", width)
        plan.turns(f"next {name}", width, f"carry {name}")
    for k in (*loop.direct, *loop.given):
        width = plan.width(loop.whole.nodes[k].width)
        plan.place(f"d_before {k}", At("d_x" if k in loop.direct else f"d_before {k}"), B * width, width)
    columns, row = _side_by_side(plan, loop.columns)
    for operand in loop.operands:
        _side_by_side(plan, (operand,))
    for name in loop.adjoint.vectors:
        width = loop.padded(plan.width(loop.width_of[name]))
        at = plan.take("work", plan.workers * 2 * width)
        plan.word(f"sum {name}", at)
        plan.job("begin", "clear", to=at, count=plan.workers * 2 * width)
        if sizes.needs_parameters:
            plan.job("end", "gather_sums", sums=at, part=2 * width, parts=plan.workers,
                     to=plan.parameter(name, gradient=True), width=plan.width(loop.width_of[name]))  # fmt: skip
    plan.rest()
    if sizes.needs_x and loop.projected:
        weights, panels, rest = plan.side_by_side(transposed=True)
        plan.job(
            "after", "product", operand=At("work", columns), operand_row=row, width=plan.projected_row,
            panels=panels, rest_panels=rest, columns=plan.input_width, weights=weights, to=At("d_x"),
            to_row=plan.input_width, operand_whole=0, to_whole=1,
            add=int(any(f"d_before {k}" in loop.adjoint.step.results for k in loop.direct)),
        )  # fmt: skip
    if sizes.needs_parameters:
        _matrix_gradients(plan, columns, row)
    for name in loop.graph.states:
        width = plan.width(loop.graph.widths[name])
        at, stride = _end(plan, f"next {name}")
        plan.job("end", "copy", source=at, source_row=stride, to=At(f"d_start {name}"), to_row=width, rows=B,
                 width=width)  # fmt: skip
    plan.meet("begin")
    plan.meet("after")
    plan.finish()
    return plan


def _width_of_result(plan: Plan, name: str) -> int:
    step = plan.compiled.step
    if name in step.results:
        return plan.loop.padded(plan.width(step.nodes[step.results[name]].width))
    return plan.loop.padded(plan.width(plan.loop.whole.nodes[int(name.removeprefix("d_before "))].width))


def _side_by_side(plan: Plan, names: tuple[str, ...]) -> tuple[int, int]:
    """Room for results of the adjoint side by side in the rows of a chunk: where it begins, and a row."""
    row = sum(_width_of_result(plan, name) for name in names)
    at = plan.take("work", plan.capacity * row)
    column = 0
    for name in names:
        plan.place(name, At(at.tensor, at.element + column), plan.sizes.B * row, row)
        column += _width_of_result(plan, name)
    if any(name not in plan.compiled.step.results for name in names):  # nothing depends on it
        plan.job("begin", "clear", to=at, count=plan.capacity * row)
    return at.element, row


def _matrix_gradients(plan: Plan, columns: int, row: int) -> None:
    """After each chunk, add to the gradient of every matrix."""
    loop, capacity, lanes = plan.loop, plan.capacity, plan.loop.lanes
    at_column = {}
    begin = 0
    for name in loop.columns:
        at_column[name] = begin
        begin += _width_of_result(plan, name)
    left = plan.take("work", capacity * row)
    if loop.columns:
        plan.job(
            "after", "gather_rows", source=At("work", columns), source_row=row, start=At("work", columns),
            start_row=0, shift=0, whole=0, width=row, panels=0, rest_panels=row // lanes, to=left,
            capacity=capacity,
        )  # fmt: skip
    jobs: list[dict[str, int | At]] = []

    def gathered(name: str, width: int) -> dict[str, int | At]:
        """The rows of an operand in panels."""
        vectors = loop.vectors(width)
        to = plan.take("work", capacity * vectors * lanes)
        panels: dict[str, int | At] = {"panels": vectors // GROUP, "rest_panels": vectors % GROUP}
        if name == "x":
            at, stride, words = At("x"), width, {"shift": 0, "whole": 1}
        else:
            at, time, stride = plan.places[name]
            whole = plan.loop.backward.kernel.addresses.get(name, Address()).time == "whole"
            words = {"shift": 0, "whole": int(whole)}
        start: At = at
        if name in loop.graph.states:
            behind = -1 if plan.sizes.reverse else 1
            at = At(at.tensor, at.element + behind * time)
            words["shift"], start = behind, At(f"start {name}")
        plan.job(
            "after", "gather_rows", source=at, source_row=stride, start=start,
            start_row=width if name in loop.graph.states else 0, width=width, to=to, capacity=capacity,
            **words, **panels,
        )  # fmt: skip
        return {"right": to, "width": width, "capacity": capacity, "to_row": width, **panels}

    def gradient(name: str, column: int, right: dict[str, int | At]) -> None:
        jobs.append(
            right
            | {
                "left": At(left.tensor, left.element + column * capacity),
                "units": plan.width(loop.width_of[name]),
                "to": plan.parameter(name, gradient=True),
            }
        )

    if loop.projected and not plan.sizes.tokens:
        right = gathered("x", plan.input_width)
        for k in loop.projected:
            gradient(loop.whole.nodes[k].name, at_column[f"d_before {k}"], right)
    uses: dict[int, list[tuple[str, str]]] = {}
    for name, pairs in loop.adjoint.matrices.items():
        for d, operand in pairs:
            uses.setdefault(operand, []).append((name, d))
    for operand, matrices in uses.items():
        right = gathered(loop.operand(operand), plan.width(loop.step.nodes[operand].width))
        for name, d in matrices:
            gradient(name, at_column[loop.column_of(d)], right)
    plan.meet("after")
    seen: set[At | int] = set()
    for words in jobs:
        again = words["to"] in seen
        if again:
            plan.meet("after")
        seen.add(words["to"])
        plan.job("after", "sum_products", again=int(again), **words)
    if loop.projected and plan.sizes.tokens:
        words_known = plan.input_width
        full = plan.projected_row
        table = plan.take("work", words_known * full)
        plan.job("begin", "clear", to=table, count=words_known * full)
        plan.job("after", "add_up", tokens=At("x"), table=table, columns=full, source=At("work", columns),
                 source_row=row)  # fmt: skip
        for k in loop.projected:
            name = loop.whole.nodes[k].name
            plan.job(
                "end", "turn", table=At(table.tensor, table.element + at_column[f"d_before {k}"]),
                table_row=full, words=words_known, units=plan.width(loop.width_of[name]),
                to=plan.parameter(name, gradient=True), to_row=words_known, add=int(name in loop.adjoint.matrices),
            )  # fmt: skip
