"""What a policy will take, before it runs: memory by what a segment takes, time by that of a few segments."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import torch

from unrolled.compile.memory import release
from unrolled.errors import InputError
from unrolled.unroll.chain import Losses, Step
from unrolled.unroll.checkpointed import Run
from unrolled.unroll.footprint import Footprint, Planned, measured, planned_for
from unrolled.unroll.policies import Checkpointed, amount
from unrolled.unroll.tape import detached, tensors_of

FEW: Final = 4
"""Segments that are timed."""

TURNS: Final = 2
"""How often, at least."""

ENOUGH: Final = 1.0
"""Seconds of timing after which there are no more turns."""


@dataclass(frozen=True)
class Speed:
    """Seconds that a segment takes: to be passed, and to be taped and gone back through."""

    passed: float
    taped: float


@dataclass(frozen=True)
class Plan:
    """What it will take to go back through so many segments.

    Attributes:
        planned: the schedule.
        footprint, speed: what a segment takes.
    """

    planned: Planned
    footprint: Footprint
    speed: Speed

    @property
    def passes(self) -> int:
        """Segments that run once more without a tape, those that do so twice counted twice."""
        return sum(a.end - a.first for a in self.planned.actions() if a.kind == "pass")

    @property
    def memory(self) -> int:
        """Bytes at once, besides parameters and their gradients."""
        return self.planned.schedule.peak

    @property
    def disk(self) -> int:
        """Bytes of stored states in a file."""
        return self.planned.schedule.stored * self.footprint.state if self.planned.folder else 0

    @property
    def seconds(self) -> float:
        return self.passes * self.speed.passed + self.planned.segments * self.speed.taped

    @property
    def full_memory(self) -> int:
        """Bytes at once if every tape is kept."""
        return self.planned.segments * self.footprint.tape + self.footprint.transient

    @property
    def full_seconds(self) -> float:
        """How long that takes, if there is memory."""
        return self.planned.segments * self.speed.taped

    def __str__(self) -> str:
        schedule = self.planned.schedule
        N, group = self.planned.segments, self.planned.group
        where = f"{amount(self.disk)} on disk" if self.planned.folder else "in memory"
        lines = [
            f"{N} segments, exact gradient in {amount(self.memory)} "
            f"({amount(self.full_memory)} if every tape is kept)",
            f"    {schedule.stored} stored states, {amount(self.footprint.state)} each, {where}",
            f"    {max(taped for _, taped in schedule.loads) * group} tapes at once, "
            f"{amount(self.footprint.tape)} each",
            f"    {amount(self.footprint.transient)} while a segment runs or is gone back through",
            f"    {self.passes} segments run again ({self.passes / N:.2f} of all)",
            f"time {duration(self.seconds)}, {self.seconds / self.full_seconds:.2f} of the "
            f"{duration(self.full_seconds)} that it takes if every tape is kept",
        ]
        return "\n".join(lines)


def duration(seconds: float) -> str:
    """A time as a reader would write it."""
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 120 else f"{seconds / 60:.3g} minutes"


def plan(
    step: Step, segments: Iterable[Any], state: Any = None, *, bptt: Checkpointed, count: int | None = None
) -> Plan:
    """What `through_time` will take with the same arguments. The first few segments run, some times; nothing
    is left of that.

    Args:
        count: how many segments there will be, if those that are given are only the first.

    Raises:
        BudgetError: the budget is too small; the message says how much it takes.
        InputError: bptt is not Checkpointed with memory.
    """
    if not isinstance(bptt, Checkpointed) or bptt.memory is None:
        raise InputError("a plan is for Checkpointed(memory=...), which is what can be planned")
    random = torch.get_rng_state()
    given = Losses(step, segments)
    first = Losses(step, [given.part(number)[0] for number in range(min(FEW, given.count))])
    _once(first, state, FEW)  # kernels are compiled
    footprint, *_ = measured(first, detached(state))
    found = planned_for(given.count if count is None else count, footprint, bptt)
    speed = _speed(first, state)
    release()  # what is planned for will take that
    torch.set_rng_state(random)
    return Plan(found, footprint, speed)


def _speed(chain: Losses, state: Any) -> Speed:
    """Seconds that a segment takes, from runs with and without passes, in turn."""
    times: dict[int, list[float]] = {chain.count: [], 1: []}
    began = time.perf_counter()
    while len(times[1]) < TURNS or time.perf_counter() - began < ENOUGH:
        for every, taken in times.items():
            start = time.perf_counter()
            _once(chain, state, every)
            taken.append(time.perf_counter() - start)
    whole, again = (statistics.median(times[every]) for every in (chain.count, 1))
    passed = (again - whole) / (chain.count - 1) if chain.count > 1 else whole
    return Speed(max(passed, 0.0), whole / chain.count)


def _once(chain: Losses, state: Any, every: int) -> None:
    run = Run(Losses(chain.step, chain.segments), state, Checkpointed(every=every))
    run.back([torch.ones(())], [None] * len(tensors_of(run.end)))
