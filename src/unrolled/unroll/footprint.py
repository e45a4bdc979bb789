"""What one segment takes, as measured on it."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any, Final
from weakref import WeakKeyDictionary

import torch

from unrolled.compile.memory import LARGE, resident, trim
from unrolled.errors import BudgetError
from unrolled.unroll.chain import Chain
from unrolled.unroll.meter import Meter
from unrolled.unroll.policies import Checkpointed, bytes_of
from unrolled.unroll.schedule import Action, Budget, Schedule, schedule
from unrolled.unroll.tape import Sums, Tape, tensors_of


@dataclass(frozen=True)
class Footprint:
    """Bytes: of the state behind a segment, of its tape, and of what comes and goes while it runs or is gone
    back through."""

    state: int
    tape: int
    transient: int


HOLES: Final = 1.5
"""How much what comes and goes takes, against its size: it leaves holes that not everything fits into."""

REST: Final = 1.02
"""How much tapes and states take, against the numbers in them: the rest is what they are kept in."""

FINEST: Final = 512
"""Groups of segments that a schedule tells apart, at most."""

NEAR: Final = 0.75
"""Where the process has grown by so much of the budget, free memory goes back to the system: tapes, and what
comes and goes between them, leave holes, which would add up to a tenth of it."""

OFTEN: Final = 16
"""And then when tapes of so much of the budget have come and gone: looking for holes takes time."""


_known: WeakKeyDictionary[Any, dict[tuple[int, int], int]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Planned:
    """A schedule for groups of segments.

    folder: where stored states go; None for memory.
    """

    segments: int
    group: int
    schedule: Schedule
    folder: str | None

    def actions(self) -> Iterator[Action]:
        """What to do, for single segments."""
        for a in self.schedule.actions():
            yield Action(a.kind, a.first * self.group, min(a.end * self.group, self.segments))


def planned_for(segments: int, footprint: Footprint, policy: Checkpointed) -> Planned:
    """How a budget is shared out. States go to disk where fewer segments run again then.

    Raises:
        BudgetError: the budget is too small; the message says how much it takes.
    """
    group = -(-segments // FINEST)
    memory, disk = (bytes_of(size) if size is not None else 0 for size in (policy.memory, policy.disk))
    state, tape = int(REST * footprint.state), int(REST * footprint.tape)
    while True:
        budget = Budget(memory, state, tape * group, footprint.transient, disk)
        if group == 1 or Schedule.least(-(-segments // group), budget) <= memory:
            break
        group = -(-group // 2)
    found = schedule(-(-segments // group), budget)
    if disk:
        with suppress(BudgetError):
            without = schedule(found.segments, replace(budget, disk=0))
            found = found if found.passes < without.passes else without
    folder = policy.folder or tempfile.gettempdir()
    return Planned(segments, group, found, folder if found.budget.disk else None)


class Holes:
    """Gives free memory back to the system, as tapes come and go.

    Args:
        memory: the budget, for what the process takes from now on.

    Attributes:
        tape: the bytes of a tape, when they are known.
    """

    tape = 0

    def __init__(self, memory: int) -> None:
        self._most = resident() + NEAR * memory
        self._often = max(memory // OFTEN, LARGE)
        self._turned = 0

    def turn(self) -> None:
        """A tape is to come, or has gone."""
        self._turned += self.tape
        if self._turned > self._often:
            self._turned = 0
            if resident() > self._most:
                trim()


def _eagerly() -> AbstractContextManager[Any]:
    """A step that torch compiles runs as it was written: compiled code would not tell what it takes, which is
    no more."""
    compiles = "torch._dynamo" in sys.modules
    return torch.compiler.set_stance("force_eager") if compiles else nullcontext()


def measured(chain: Chain, state: Any) -> tuple[Footprint, Tape, Any]:
    """What the first segment takes; its tape, which can still be used, and the state behind it.

    It is gone back through once more than it would be, unless a segment of the same maker, as in the last
    step of a training, took as much on its way forwards.
    """
    known = _known_of(chain.maker)
    with _eagerly(), Meter() as meter:
        tape, after = Tape.of(chain, 0, state)
        forwards = meter.now, meter.peak
        if forwards not in known:
            meter.peak = meter.now
            d_outs = [torch.ones_like(out) for out in tape.outs]
            d_end = [torch.zeros_like(t) if t.is_floating_point() else None for t in tape.end]
            sums = Sums()
            found = tape.back(d_outs, d_end, sums, keep=True)
            known[forwards] = max(forwards[1], meter.peak - sums.bytes)
            del found, d_outs, d_end
    whole, peak = forwards[0], known[forwards]
    state_bytes = sum(t.untyped_storage().nbytes() for t in tensors_of(after))
    return Footprint(state_bytes, whole, int(HOLES * (peak - whole))), tape, after


def _known_of(maker: Any) -> dict[tuple[int, int], int]:
    """The most that segments of a maker took, by what was there behind their way forwards and at most on
    it."""
    try:
        return _known.setdefault(maker, {})
    except TypeError:  # nothing can be noted of it
        return {}
