"""Two ways to compute the same tensors, timed in turn in one process.

What is timed is checked first: if any tensor differs by more than rounding, nothing is timed. The sides take
turns, so a machine that slows down slows all of them; a ratio is taken within each turn.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from benchmarks.family import Record, Settings, Size

TURN = 0.005
"""Seconds that a side is repeated for in its turn, where once is shorter."""

ENOUGH = 1.0
"""Seconds after which a case that has its rounds needs no more."""


TOLERANCE = 1e-4
"""How much two results may differ, relative to the largest element."""

MAGNIFIED = 5e-3
"""The same against the exact result, where the equations magnify rounding."""

UNSTEADY = 1.5
"""Quartiles further apart than this, as a ratio, are remarked upon."""


class Side(Protocol):
    """One way to compute something. Calling it is what is timed."""

    def __call__(self) -> object:
        """Compute."""

    def tensors(self) -> Mapping[str, Tensor]:
        """What the last call computed, by name."""


class MismatchError(Exception):
    """Two sides do not compute the same."""


@dataclass(frozen=True)
class Comparison:
    """Seconds of each side by turn."""

    ours: tuple[float, ...]
    peer: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """Peer / ours in each turn: above 1 we are faster."""
        return [peer / ours for ours, peer in zip(self.ours, self.peer, strict=True)]

    def record(self, subject: str, size: Size | None, bar: float | None, note: str = "") -> Record:
        low, median, high = quartiles(self.ratios)
        if high > UNSTEADY * low:
            note = "; ".join(filter(None, [note, "unsteady: is something else running?"]))
        ours, peer = ((min(side), statistics.median(side)) for side in (self.ours, self.peer))
        return Record(subject, median, low, high, size, bar, ours, peer, len(self.ours), note)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The lower quartile, the median and the upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def same(
    mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor], exact: Callable[[], Side] | None = None
) -> None:
    """Raise `MismatchError` if a tensor differs by more than rounding.

    Args:
        exact: makes a side in double precision. Some equations magnify rounding, so that two right results
            differ; there, ours may be at most twice as far from the exact result as theirs is.
    """
    if mine.keys() != theirs.keys():
        raise MismatchError(f"one side has {sorted(mine)}, the other {sorted(theirs)}")
    apart = {}
    for name, expected in theirs.items():
        if mine[name].shape != expected.shape:
            raise MismatchError(f"{name} is {tuple(mine[name].shape)} and {tuple(expected.shape)}")
        if not (difference := _apart(mine[name], expected)) <= TOLERANCE:
            apart[name] = difference
    if apart and exact is not None:
        side = exact()
        side()
        right = side.tensors()
        apart = {
            name: difference
            for name, difference in apart.items()
            if not _apart(mine[name], right[name]) <= min(MAGNIFIED, 2 * _apart(theirs[name], right[name]))
        }
    for name, difference in apart.items():
        raise MismatchError(f"{name} differs by {difference:.1e}")


def _apart(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest element."""
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30))


def refusal(
    subject: str, size: Size | None, bar: float | None, ours: Side, peer: Side,
    exact: Callable[[], Side] | None = None,
) -> Record | None:  # fmt: skip
    """Run both once; a record that names the first tensor that differs, or None if all are the same."""
    ours()
    peer()
    try:
        same(ours.tensors(), peer.tensors(), exact)
    except MismatchError as error:
        return Record(subject, size=size, bar=bar, note=str(error), refused=True)
    return None


def interleave(*sides: Callable[[], object], rounds: int) -> list[tuple[float, ...]]:
    """The seconds of each side, turn by turn; every second turn goes the other way round.

    A short side is repeated in its turn, and a short case gets up to ten times as many turns.
    """
    repeats = [max(1, math.ceil(TURN / _seconds(side, 1))) for side in sides]  # this also warms up
    took = sum(_seconds(side, n) * n for side, n in zip(sides, repeats, strict=True))
    times: list[list[float]] = [[] for _ in sides]
    for turn in range(min(10 * rounds, max(rounds, int(ENOUGH / took)))):
        order = list(zip(sides, repeats, times, strict=True))
        for side, n, taken in reversed(order) if turn % 2 else order:
            taken.append(_seconds(side, n))
    return [tuple(taken) for taken in times]


def _seconds(side: Callable[[], object], repeats: int) -> float:
    began = time.perf_counter()
    for _ in range(repeats):
        side()
    return (time.perf_counter() - began) / repeats


def compare(
    subject: str, size: Size | None, ours: Side, peer: Side, settings: Settings, bar: float | None,
    note: str = "",
) -> Record:  # fmt: skip
    """Check both sides, then time them; sides that differ are refused, and the record says so."""
    if refused := refusal(subject, size, bar, ours, peer):
        return refused
    return Comparison(*interleave(ours, peer, rounds=settings.rounds)).record(subject, size, bar, note)
