"""Two ways to compute the same tensors, timed in turn in one process.

What is timed is checked first: if any tensor differs by more than rounding, nothing is timed. The two sides
alternate, so a machine that slows down slows both; the ratio is taken pair by pair.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

Compute = Callable[[], Mapping[str, Tensor]]


class MismatchError(Exception):
    """The two sides do not compute the same."""


@dataclass(frozen=True)
class Comparison:
    """Seconds of each side, and peer / ours: above 1 we are faster."""

    ours: tuple[float, ...]
    peer: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        return sorted(peer / ours for ours, peer in zip(self.ours, self.peer, strict=True))

    @property
    def ratio(self) -> float:
        """The median over the pairs."""
        return statistics.median(self.ratios)


def check(ours: Compute, peer: Compute, tolerance: float) -> None:
    """Raise `MismatchError` if a tensor differs by more than `tolerance`, relative to its largest element."""
    mine, theirs = ours(), peer()
    if mine.keys() != theirs.keys():
        raise MismatchError(f"one side has {sorted(mine)}, the other {sorted(theirs)}")
    for name, expected in theirs.items():
        error = float((mine[name] - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
        if not error <= tolerance:
            raise MismatchError(f"{name} differs by {error:.1e}")


def compare(ours: Compute, peer: Compute, *, tolerance: float = 1e-4, rounds: int = 10) -> Comparison:
    """Check, warm up, and time both sides in turn, `rounds` times each.

    Raises:
        MismatchError: they do not compute the same; nothing was timed.
    """
    check(ours, peer, tolerance)
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 1):
        for side, taken in zip((ours, peer), times, strict=True):
            began = time.perf_counter()
            side()
            if turn:  # the first turn warms up
                taken.append(time.perf_counter() - began)
    return Comparison(tuple(times[0]), tuple(times[1]))
