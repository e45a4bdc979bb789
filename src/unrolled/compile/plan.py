"""From a loop and sizes to a context: what the team does, with which memory.

A plan is made once for each set of sizes. It holds the context's words; those that are addresses are known
up to where tensors begin, and filled in for each run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from struct import Struct

import numpy as np
from torch import Tensor

from unrolled.compile.jobs import FIRST, HEADER, JOBS
from unrolled.compile.loop import Compiled, Loop
from unrolled.errors import no_such_token
from unrolled.graph import PER_ROW

CHUNK = 768
"""Rows of a chunk, about: all gradients of matrices are read and written once a chunk."""

SMALL = 1 << 19
"""Multiply-adds below which the calling thread does the work alone."""

PACKED = 1 << 19
"""Bytes of packed matrices of a chunk whose steps have their own: they should stay in a processor's cache."""

FEW = 4
"""Rows for each worker below which they share the units instead."""


def in_lines(elements: int) -> int:
    """So many elements in whole cache lines."""
    return -(-elements // 16) * 16


@dataclass(frozen=True)
class Sizes:
    """What a plan depends on.

    widths: what each width symbol is.
    parts: for each parameter of the loop, the tensor it is in and its first element there.
    tokens: whether the input is token numbers.
    steps: room for the steps of all sequences together; None where each has T.
    padded: whether tensors are a padded batch's, which comes and goes as packed rows.
    untied: of how many tensors of parameters every step has its own, the first ones.
    alone: whether every step is a chunk of its own, since something happens between them.
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
    steps: int | None = None
    padded: bool = False
    untied: int = 0
    alone: bool = False

    @property
    def ragged(self) -> bool:
        return self.steps is not None

    @property
    def rows(self) -> int:
        """The rows of a place of all steps."""
        return self.T * self.B if self.steps is None else self.steps


@dataclass(frozen=True)
class At:
    """An address: elements behind the beginning of a tensor."""

    tensor: str
    element: int = 0


class Plan:
    """The context of one kernel for some sizes.

    Attributes:
        size: the elements of each workspace, `saved` and `work`, by name.
        places: where values are, at the first row of step 0, and their row strides.
        inside: where the packed rows of a padded batch's tensors are, and its states in their order.
        workers: how many threads carry it out.
    """

    def __init__(self, loop: Loop, compiled: Compiled, sizes: Sizes, backwards: bool) -> None:
        self.loop = loop
        self.compiled = compiled
        self.sizes = sizes
        self.size = {"saved": 0, "work": 0}
        self.places: dict[str, tuple[At, int]] = {}
        self.inside: dict[str, At] = {}
        T, B = sizes.T, sizes.B
        products = sum(math.prod(map(self.width, p.shape)) for p in loop.graph.parameters.values())
        little = sizes.rows * products < SMALL
        self.workers = 1 if little else sizes.threads
        by_units = self.workers > 1 and FEW * self.workers > B
        if not by_units:
            self.workers = min(self.workers, B)
        chunk = CHUNK if sizes.ragged else -(-T // max(round(sizes.rows / CHUNK), 1)) * B  # about the same
        self.slots = self._slots(products) if sizes.untied else 1
        if sizes.untied or sizes.alone:
            chunk = self.slots * B
        self.capacity = min(sizes.rows, CHUNK - 1 + B if sizes.ragged else chunk)
        self._words: list[int] = [0] * (FIRST + len(compiled.kernel.words))
        self._addresses: dict[int, At] = {}
        self._header(T=T, B=B, reversed=backwards)
        self._words[HEADER["chunk rows"]] = chunk
        self._words[HEADER["by units"]] = by_units
        self._words[HEADER["ragged"]] = sizes.ragged
        self._words[HEADER["mask"]] = self.slots - 1
        for name in ("offsets", "lengths", "order"):
            self._addresses[HEADER[name]] = At(name)
        self._words[HEADER["steps"]] = compiled.program.address("steps")
        self._lists: dict[str, list[tuple[str, dict[str, int | At]]]] = {
            name: [] for name in ("begin", "before", "after", "end")
        }
        for name in ("chances", "places", "origins", "resets"):
            if name in compiled.kernel.words:
                self.word(name, At(name))
        for name, size in (*sizes.widths.items(), (PER_ROW, 1)):
            if f"width {name}" in compiled.kernel.words:
                self.word(f"width {name}", size)

    def _slots(self, products: int) -> int:
        """How many steps with their own parameters make a chunk: a power of two."""
        size = products * self.loop.dtype.itemsize
        most = max(1, min(CHUNK // self.sizes.B, PACKED // size, self.sizes.T))
        return 1 << (most.bit_length() - 1)

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
        self.size[workspace] = begin + in_lines(elements)
        return At(workspace, begin)

    def at(self, tensor: str) -> At:
        """Where the rows of a tensor are."""
        return self.inside.get(tensor, At(tensor))

    def width(self, symbol: str) -> int:
        return 1 if symbol == PER_ROW else self.sizes.widths[symbol]

    def row(self, symbol: str) -> int:
        """The elements of a row: whole vectors, or one number."""
        return 1 if symbol == PER_ROW else self.loop.padded(self.width(symbol))

    def place(self, name: str, at: At, row: int, turn: int = 0) -> None:
        """Where the kernel finds a value, if it uses it at all: at the first row of step 0, or of the chunk,
        or in two places in turn, `turn` apart."""
        self.places[name] = at, row
        if f"{name} pointer" not in self.compiled.kernel.words:
            return
        self.word(f"{name} pointer", at)
        self.word(f"{name} row", row)
        if f"{name} turn" in self.compiled.kernel.words:
            self.word(f"{name} turn", turn)

    def start(self, name: str, tensor: str, row: int) -> None:
        """Where a value is at the step that has none before it."""
        if f"{name} start" in self.compiled.kernel.words:
            self.word(f"{name} start", self.at(tensor))
            self.word(f"{name} start row", row)

    def turns(self, name: str, row: int, *others: str, own: bool = False) -> At:
        """Two rows in turn, in the workspace, for a place and others that share it.

        Args:
            own: whether each worker has its own, if workers share the units.
        """
        rows = self.sizes.B * row
        apart = in_lines(2 * rows) if self._words[HEADER["by units"]] else 0
        if own:
            self.word(f"{name} worker", apart)
        at = self.take("work", max(2 * rows, apart * self.workers * own))
        for each in (name, *others):
            self.place(each, at, row, rows)
        return at

    def rest(self) -> None:
        """Give the places that are nobody's business but the kernel's."""
        step = self.compiled.step
        for name, where in self.compiled.kernel.addresses.items():
            if self.compiled.kernel.words[f"{name} pointer"] not in self._addresses:
                assert where.time == "now", name
                what, number = name.split()
                row = self.loop.lanes if what == "partial" else self.row(step.nodes[int(number)].width)
                self.turns(name, row, own=where.own)

    def job(self, when: str, name: str, **words: int | At) -> None:
        """Add a job to a list; the words are those of `jobs.JOBS`, with _ for blanks."""
        self._lists[when].append((name, {key.replace("_", " "): value for key, value in words.items()}))

    def meet(self, when: str) -> None:
        """Wait for the others, unless there is nothing to wait for."""
        if self.workers > 1 and self._lists[when] and self._lists[when][-1][0] != "meet":
            self._lists[when].append(("meet", {}))

    def parameter(self, name: str, gradient: bool = False) -> At:
        """Where a parameter is; of those that every step has, the first."""
        tensor, element = self.sizes.parts[name]
        return At(f"{'d_' if gradient else ''}parameter {tensor}", element)

    def apart(self, name: str) -> int:
        """How far behind a parameter of a step that of the next is: 0 where all steps have one."""
        shape = self.loop.graph.parameters[name].shape
        own = self.sizes.parts[name][0] < self.sizes.untied
        return math.prod(map(self.width, shape)) if own else 0

    @property
    def on_parameters(self) -> str:
        """The list of the jobs that read parameters: once, or before every step."""
        return "before" if self.sizes.untied else "begin"

    # Weights

    def stage_panels(self) -> None:
        """Pack what the stages' tiles read."""
        step, lanes = self.compiled.step, self.loop.lanes
        for number, stage in enumerate(self.compiled.stages):
            if not stage.destinations:
                continue
            wide = self.loop.group // len(stage.destinations)
            vectors = self.loop.vectors(self.width(stage.width))
            users = {
                k: [n for n, d in enumerate(stage.destinations) if any(t.operand == k for t in d.terms)]
                for k in stage.operands
            }
            per_vector = sum(self.width(step.nodes[k].width) * len(u) * lanes for k, u in users.items())
            panels = vectors // wide
            slot = in_lines(vectors * per_vector)
            to = self.take("work", slot * self.slots)
            self.word(f"panel {number}", to)
            self.word(f"panel {number} apart", slot)
            offset = 0
            for k in stage.operands:
                elements = self.width(step.nodes[k].width)
                for place, n in enumerate(users[k]):
                    terms = [t for t in stage.destinations[n].terms if t.operand == k]
                    for again, term in enumerate(terms):
                        self._pack(
                            term.matrix, term.transposed, self.width(stage.width), elements, elements,
                            first=0, panels=panels, vectors=wide, to=to, slot=slot, panel=wide * per_vector,
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
            self.on_parameters, "pack", weights=self.parameter(matrix), apart=self.apart(matrix),
            unit_step=1 if transposed else columns,
            element_step=columns if transposed else 1, units=units, elements=elements, padded=padded, **words,
        )  # fmt: skip

    def times(self, when: str, matrix: At, units: int, elements: int, transposed: bool,
              **words: int | At) -> None:  # fmt: skip
        """The rows of a chunk times a matrix that is no parameter of the cell.

        Args:
            matrix: where it is, (units, elements), or (elements, units) to be transposed.
            words: `operand` and where the product goes, as in `products.product`.
        """
        lanes, group = self.loop.lanes, self.loop.group
        vectors = self.loop.vectors(units)
        panels = vectors // group
        to = self.take("work", vectors * lanes * elements)
        self.job(
            "begin", "pack", weights=matrix, apart=0, unit_step=1 if transposed else elements,
            element_step=units if transposed else 1, units=units, elements=elements, padded=elements, first=0,
            panels=panels, vectors=group, to=to, slot=0, panel=group * lanes * elements, step=group * lanes,
            column=0, rest=At(to.tensor, to.element + panels * group * lanes * elements),
            rest_panel=lanes * elements, rest_step=lanes, rest_column=0, add=0,
        )  # fmt: skip
        self.job(when, "product", width=elements, panels=panels, rest_panels=vectors % group, columns=units,
                 weights=to, **words)  # fmt: skip

    def side_by_side(self, transposed: bool) -> tuple[At, int, int]:
        """Pack the matrices of all projections as one, or its transpose; the panels, how many are wide, and
        how many are not."""
        loop, lanes, group = self.loop, self.loop.lanes, self.loop.group
        D = self.input_width
        heights = [self.width(loop.whole.nodes[k].width) for k in loop.projected]
        height = sum(map(loop.padded, heights))
        units, elements = (D, height) if transposed else (height, D)
        vectors = loop.vectors(units)
        panels = vectors // self.loop.group
        to = self.take("work", vectors * lanes * elements)
        begin = 0
        for k, rows in zip(loop.projected, heights, strict=True):
            name = loop.whole.nodes[k].name
            column = begin * lanes if transposed else 0
            self._pack(
                name, transposed, D if transposed else rows, rows if transposed else D,
                loop.padded(rows) if transposed else D, first=0 if transposed else begin // lanes,
                panels=panels, vectors=group, to=to, slot=0, panel=group * lanes * elements,
                step=group * lanes, column=column * group, rest_step=lanes, rest_column=column,
                rest=At(to.tensor, to.element + panels * group * lanes * elements),
                rest_panel=lanes * elements, add=0,
            )  # fmt: skip
            begin += loop.padded(rows)
        return to, panels, vectors % self.loop.group

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
                vectors=1, to=to, slot=0, panel=loop.lanes, step=row, column=begin, rest=to, rest_panel=0,
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
        for word in self.compiled.kernel.words:
            if word.startswith("vector ") and not word.endswith(" apart"):
                name = word.removeprefix("vector ")
                self.word(word, self.parameter(name))
                self.word(f"{word} apart", self.apart(name))

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
        self.tensors = tuple(dict.fromkeys(at.tensor for at in self._addresses.values()))
        self._pack_addresses = Struct(f"{len(self.tensors)}q").pack
        size = 4 if self.loop.scalar == "float" else 8
        moves = [
            (place, self.tensors.index(at.tensor), at.element * size) for place, at in self._addresses.items()
        ]
        whole, where = np.array(self._words, dtype=np.int64), np.array(moves, dtype=np.int64)
        begun = whole.copy()
        begun[HEADER["begin"]] = len(whole) - 1  # the end of the last list: nothing is done
        records = [
            np.array([code.ctypes.data, len(code), where.ctypes.data, len(where)], dtype=np.int64)
            for code in (whole, begun)
        ]
        self._kept = whole, begun, where, records
        self._records = [record.ctypes.data for record in records]

    def addresses(self, tensors: Mapping[str, Tensor]) -> bytes:
        """Where these tensors are, by name. They must outlive it."""
        return self._pack_addresses(*[tensors[name].data_ptr() for name in self.tensors])

    def run(self, addresses: bytes, begun: bool = False) -> None:
        """Carry it out on tensors.

        Args:
            begun: an earlier run has left packed weights in `work`, so what comes first is left out.

        Raises:
            InputError: a token is none of the words.
        """
        if token := self.loop.team.run(self._records[begun], addresses, self.workers):
            raise no_such_token(token, self.input_width)
