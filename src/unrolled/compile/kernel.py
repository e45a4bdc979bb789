"""Print the kernel of a step: the time steps of a chunk, as LLVM IR.

    for s: for each stage: for each tile of units: for each tile of rows:
        sums <- products                  (up to 6 rows x 4 vectors, kept in registers over the reduction)
        pointwise work on them, then stores

Workers share the rows, or, where there are few, the units; then they meet before a product reads what others
have written. Sizes are read at run time from the context, whose first words are those of `jobs.HEADER`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from unrolled.compile.context import Address, Draft, Kernel
from unrolled.compile.emit import ATTRIBUTES, Emitter
from unrolled.compile.machine import machine
from unrolled.compile.schedule import Stage
from unrolled.compile.stage import StagePrinter
from unrolled.compile.step import Step


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
    return _Printer(Draft(step, stages, names, list(written), addresses, sums, draws, scalar, lanes)).kernel()


_STAGE = (
    "ptr %context, i64 %s, i64 %t, i64 %origin, i1 %ends, i64 %first, i64 %count, i64 %left, i64 %right, "
    "i64 %worker, i64 %workers"
)
"""`s` counts in the order of the loop, `t` in that of time; `origin` is the first row of the chunk; `ends` is
whether these rows have no later step in time."""


class _Printer:
    """The kernel's functions, as they are printed."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.functions: list[str] = []
        self.intrinsics: set[str] = set()

    def kernel(self) -> tuple[str, Kernel]:
        for number, stage in enumerate(self.draft.stages):
            e = self._emitter()
            StagePrinter(self.draft, e, number, stage).print()
            self._function(e, f"internal void @stage_{number}({_STAGE})")
            if stage.reductions:
                e = self._emitter()
                StagePrinter(self.draft, e, number, stage).print_reductions()
                self._function(e, f"internal void @reduce_{number}({_STAGE})")
        self._steps()
        meet = "declare void @meet(ptr, i64)"
        text = "\n".join((*sorted(self.intrinsics), meet, *self.functions))
        return text, Kernel(self.draft.words, self.draft.used)

    def _emitter(self) -> Emitter:
        return Emitter(self.draft.scalar, self.draft.lanes)

    def _function(self, e: Emitter, signature: str) -> None:
        self.functions.append("\n".join((f"define {signature} {ATTRIBUTES} {{", *e.lines, "}")))
        self.intrinsics |= e.intrinsics

    def _overwrites(self) -> bool:
        """Whether a step writes what products of the step before may still be reading, before workers meet:
        of two rows in turn, the new value takes the place of the last but one."""
        operands = {self.draft.step.nodes[k].name for s in self.draft.stages for k in s.operands}
        places = {name: f"new {name}" for name in operands}
        places |= {name: name.replace("carry ", "next ", 1) for name in operands if name.startswith("carry ")}
        for stage in self.draft.stages:
            if stage.operands:
                return False
            stored = {self.draft.names[k] for k in stage.wanted if k in self.draft.names}
            stored |= {place for place, k in self.draft.written if k in stage.wanted}
            if not stored.isdisjoint(places.values()):
                return True
        return False

    def _steps(self) -> None:
        """The steps of a chunk: this worker's share of rows or units of every stage."""
        e = self._emitter()
        by_units = self.draft.by_units(e)
        backwards = e.emit(f"icmp ne i64 {self.draft.word(e, 'reversed')}, 0")
        each_step = e.emit(f"icmp ugt i64 {self.draft.word(e, 'ragged')}, {self.draft.word(e, 'by units')}")
        T, offsets = self.draft.word(e, "T"), self.draft.word(e, "offsets", "ptr")
        origin = e.load(e.at(offsets, "%origin", "i64"), "i64")
        following = e.integer_of("add", "%worker", 1)
        ranges = {}
        for width in dict.fromkeys(stage.width for stage in self.draft.stages):
            vectors = self.draft.vectors(e, width)
            stages = [s for s in self.draft.stages if s.width == width and s.destinations]
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
            written: set[int | str] = {n.name for n in self.draft.step.nodes if n.kind == "read"}
            if self._overwrites():
                e.branch(by_units, meet)
                written.clear()
            for number, stage in enumerate(self.draft.stages):
                nodes = self.draft.step.nodes  # a product has its matrix's name
                operands = {nodes[k].name if nodes[k].kind == "read" else k for k in stage.operands}
                if operands & written:
                    e.branch(by_units, meet)
                    written.clear()
                written |= set(stage.wanted)
                v0, v1 = ranges[stage.width]

                def call(name: str, v0: str = v0, v1: str = v1) -> None:
                    for ends, begin, stop in parts:
                        count = e.integer_of("sub", stop, begin)
                        line = (
                            f"call void @{name}(ptr %context, i64 {s}, i64 {t}, i64 {origin}, i1 {ends}, "
                            f"i64 {begin}, i64 {count}, i64 {v0}, i64 {v1}, i64 %worker, i64 %workers)"
                        )
                        some = e.emit(f"icmp sgt i64 {count}, 0")
                        e.branch(some, lambda line=line: e.do(line))  # type: ignore[misc]

                call(f"stage_{number}")
                if stage.reductions:
                    e.branch(by_units, meet)
                    written.clear()
                    call(f"reduce_{number}")
            return []

        e.loop("%begin", "%end", "1", step)
        e.do("ret void")
        arguments = "ptr %context, i64 %begin, i64 %end, i64 %origin, i64 %worker, i64 %workers"
        self._function(e, f"void @steps({arguments})")
