"""What to store of a chain of segments, and what to run again, in so much memory.

A sequence is a chain of segments, each from a state to the next. To go back through a segment its *tape* is
needed: what its forward pass saves. A state can be stored, and segments *passed*: run without a tape. Let
P(n, j) be the fewest passes with which n segments can be gone back through, where j states are stored besides
the one they begin from:

    P(n, j) = 0                                              if the tapes of n fit beside j states
            = min over y: y + P(n - y, j + 1) + P(y, j)      pass y segments and store the state behind them,
                                                             go back through the rest, then through those y

With tapes as large as states that is binomial checkpointing; where no segment is passed twice it is the
square-root rule.

Sources: Griewank & Walther 2000, doi:10.1145/347837.347846; Gruslys et al. 2016, arXiv:1606.03401.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final, Literal

import numpy as np

from unrolled.errors import BudgetError
from unrolled.unroll.policies import amount

Kind = Literal["pass", "store", "tape", "back", "load"]


@dataclass(frozen=True)
class Action:
    """One thing to do with the segments from `first` up to `end`.

    pass: run them from the state at `first`, and keep only the state behind them. store: keep the state
    at `first`. tape: run them and keep their tapes. back: go back through them, and let go of their tapes and
    of the state at `first`. load: go on from the stored state at `first`.
    """

    kind: Kind
    first: int
    end: int


@dataclass(frozen=True)
class Budget:
    """How much fits.

    memory: bytes for all, besides the state before the first segment.
    state, tape: bytes of a stored state, and of the tape of one segment.
    transient: bytes that come and go while a segment runs, or is gone back through.
    disk: bytes for the stored states elsewhere; 0 where they are in memory with the rest.
    """

    memory: int
    state: int
    tape: int
    transient: int = 0
    disk: int = 0

    def at_once(self, stored: int = 0) -> int:
        """The segments whose tapes fit beside so many states."""
        states = stored * self.state
        if self.disk:
            return (self.memory - self.transient) // max(self.tape, 1) if states <= self.disk else 0
        return max(self.memory - self.transient - states, 0) // max(self.tape, 1)


NEVER: Final = 1 << 29


class Schedule:
    """The fewest passes for so many segments in a budget.

    Raises:
        BudgetError: the budget is too small for any schedule.
    """

    def __init__(self, segments: int, budget: Budget) -> None:
        self.segments, self.budget = segments, budget
        if budget.memory < (needed := self.least(segments, budget)):
            raise BudgetError(f"a budget of {amount(budget.memory)} is too small: it takes {amount(needed)}")
        if 0 < budget.disk < budget.state and budget.at_once() < segments:
            raise BudgetError(f"{amount(budget.disk)} on disk hold no state of {amount(budget.state)}")

    @staticmethod
    def least(segments: int, budget: Budget) -> int:
        """The smallest budget, in bytes, in which there is a schedule."""
        one_by_one = budget.tape + budget.state * (segments > 1 and not budget.disk)
        return budget.transient + min(one_by_one, segments * budget.tape)

    @property
    def passes(self) -> int:
        """How often segments are passed, all together."""
        return int(self._table[0][self.segments, 0])

    @cached_property
    def loads(self) -> list[tuple[int, int]]:
        """The states that are stored, and the segments that are taped, whenever they are the most."""
        stored, found = 0, []
        for action in self.actions():
            if action.kind == "store":
                stored += 1
            elif action.kind == "tape":
                found.append((stored, action.end - action.first))
            elif action.kind == "back":
                stored -= action.first > 0
        return found

    @property
    def stored(self) -> int:
        """The states that are stored at once, at most."""
        return max(stored for stored, _ in self.loads)

    @property
    def peak(self) -> int:
        """The bytes that it takes, which may be less than the budget."""
        state = 0 if self.budget.disk else self.budget.state
        return self.budget.transient + max(
            stored * state + taped * self.budget.tape for stored, taped in self.loads
        )

    def actions(self) -> Iterator[Action]:
        """What to do, in order. Up to the first tape it is the forward pass."""
        parts = self._table[1]
        waiting = [(0, self.segments)]  # from the states that are stored
        while waiting:
            first, end = waiting.pop()
            if end < self.segments:
                yield Action("load", first, first)
            while y := int(parts[end - first, len(waiting)]):
                yield Action("pass", first, first + y)
                yield Action("store", first + y, first + y)
                waiting.append((first, first + y))
                first += y
            yield Action("tape", first, end)
            yield Action("back", first, end)

    @cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        """P(n, j), and the y that gives it; 0 where all are taped."""
        N, states = self.segments, 0
        while states < N and self.budget.at_once(states):
            states += 1
        at_once = np.array([self.budget.at_once(j) for j in range(states)])
        passes = np.full((N + 1, states + 1), NEVER, dtype=np.int32)
        parts = np.zeros((N + 1, states), dtype=np.int32)
        passes[0] = 0
        numbers = np.arange(N + 1, dtype=np.int32)
        for n in range(1, N + 1):
            costs = numbers[1:n, None] + passes[n - 1 : 0 : -1, 1:] + passes[1:n, :-1]
            if n > 1:
                parts[n] = costs.argmin(0) + 1
                passes[n, :-1] = np.minimum(costs.min(0), NEVER)
            fits = at_once >= n
            parts[n, fits], passes[n, :-1][fits] = 0, 0
        return passes, parts


@lru_cache(64)
def schedule(segments: int, budget: Budget) -> Schedule:
    """The schedule for so many segments; making one may take a tenth of a second."""
    return Schedule(segments, budget)


def spaced(segments: int, every: int) -> Iterator[Action]:
    """Store a state before every so many segments, and tape so many at once."""
    starts = range(0, segments, every)
    for first in starts[:-1]:
        yield Action("pass", first, first + every)
        yield Action("store", first + every, first + every)
    for first in reversed(starts):
        if first != starts[-1]:
            yield Action("load", first, first)
        end = min(first + every, segments)
        yield Action("tape", first, end)
        yield Action("back", first, end)
