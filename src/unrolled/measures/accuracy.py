"""Shares of right answers, with an interval that holds near 0 and 1 too."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Final

from unrolled.errors import InputError

Z: Final = 1.959964
"""Standard deviations on either side of a mean that hold 95% of a normal distribution."""


def wilson(p: float, n: float) -> tuple[float, float]:
    """The 95% confidence interval of a share p of n (Wilson 1927), which holds near 0 and 1 too.

    (p + z²/2n ± z √(p (1 − p)/n + z²/4n²)) / (1 + z²/n)
    """
    middle, half = p + Z**2 / (2 * n), Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    return max(0.0, (middle - half) / (1 + Z**2 / n)), min(1.0, (middle + half) / (1 + Z**2 / n))


@dataclass(frozen=True)
class Accuracy:
    """So many right of so many."""

    right: int
    count: int

    @property
    def share(self) -> float:
        return self.right / self.count

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% confidence interval, see `wilson`."""
        return wilson(self.share, self.count)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.share:.1%} ({low:.1%} to {high:.1%})"


def check_pairs(found: Sequence[object], expected: Sequence[object]) -> None:
    """
    Raises:
        InputError: there are not as many, or none.
    """
    if len(found) != len(expected):
        raise InputError(
            f"there are {len(found)} answers to measure and {len(expected)} to measure them by: give one each"
        )
    if not len(found):
        raise InputError("there is nothing to measure: give at least one answer")


def exact_match(found: Sequence[Hashable], expected: Sequence[Hashable]) -> Accuracy:
    """How many are exactly what was expected.

    Args:
        found, expected: (N,), whatever can be compared: sentences, tuples of tokens, labels.

    Raises:
        InputError: there are not as many, or none.
    """
    check_pairs(found, expected)
    return Accuracy(sum(a == b for a, b in zip(found, expected, strict=True)), len(found))
