"""All solutions of h = f(w h + b), and the 2-cycle that may take their place, by solving the equation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from unrolled.cells.rnn import POINTWISE
from unrolled.errors import InputError
from unrolled.flow.records import number
from unrolled.graph import OPERATIONS

EPSILON: Final = 2.0**-52

NEUTRAL: Final = 1e-9
"""Where a slope is as near to 1 it decides nothing."""

RANGES: Final = {
    "tanh": (-1.0, 1.0), "sigmoid": (0.0, 1.0), "relu": (0.0, math.inf), "softplus": (0.0, math.inf)
}  # fmt: skip
"""What each function lies between."""


@dataclass(frozen=True)
class FixedPoint:
    """Where h = f(w h + b).

    Attributes:
        value: h.
        slope: w f'(w h + b), which a small distance is multiplied by at each step.
        stability: "stable", "unstable", or "neutral" where |slope| is 1 and does not decide.
    """

    value: float
    slope: float
    stability: str

    def __str__(self) -> str:
        return f"{self.value:.6g} ({self.stability}, slope {number(self.slope)})"


def check_activation(activation: str) -> None:
    """
    Raises:
        InputError: there is no such activation.
    """
    if activation not in POINTWISE:
        raise InputError(f"no activation {activation!r}; there are {', '.join(POINTWISE)}")


def activated(activation: str, u: Tensor) -> Tensor:
    """f(u)."""
    value: Tensor = OPERATIONS[activation].run(u)
    return value


def fixed_points(activation: str, w: float, b: float) -> tuple[FixedPoint, ...]:
    """All solutions, in order: by bisection between the points where f(w h + b) - h turns, so that no piece
    of the line has more than one."""
    if activation == "relu":
        found = [0.0] * (b <= 0)
        if w != 1 and b and (value := b / (1 - w)) > 0:
            found.append(value)
    else:
        f = _step(activation, w, b)

        def left(h: float) -> float:
            return f(h) - h

        low, high = RANGES[activation]
        turns = sorted(h for u in _turns(activation, w) if low < (h := (u - b) / w) < high)
        if high == math.inf:  # beyond the last turn the sign is that of w - 1, or for w = 1 that of b
            high, sign = max([1.0, *turns]) * 2, w - 1 or b
            while sign and left(high) * sign <= 0:
                high *= 2
        ends = [low, *turns, high]
        values = [left(h) for h in ends]
        for k, h in enumerate(turns, 1):  # it touches 0 there, as far as rounding lets one see
            if abs(values[k]) <= 4 * EPSILON * (1 + abs(h)):
                values[k] = 0.0
        found = [h for h, value in zip(ends, values, strict=True) if not value]
        for k in range(len(ends) - 1):
            if values[k] * values[k + 1] < 0:
                found.append(_bisected(left, ends[k], ends[k + 1]))
    slopes = {h: _slope(activation, w, b, h) for h in sorted(found)}
    return tuple(FixedPoint(h, slope, _stability(slope)) for h, slope in slopes.items())


def two_cycle(
    activation: str, w: float, b: float, points: Sequence[FixedPoint]
) -> tuple[float, float] | None:
    """The two values that h jumps between. For w < 0 there is one fixed point; these functions have a
    negative Schwarzian derivative, or are straight, so that there is a 2-cycle, and one only, where that is
    unstable."""
    if w >= 0 or points[0].stability != "unstable":
        return None
    f = _step(activation, w, b)
    low = _bisected(lambda h: f(f(h)) - h, RANGES[activation][0], points[0].value)
    return low, f(low)


def _step(activation: str, w: float, b: float) -> Callable[[float], float]:
    """h to f(w h + b)."""
    return lambda h: float(activated(activation, torch.tensor(w * h + b, dtype=torch.float64)))


def _slope(activation: str, w: float, b: float, h: float) -> float:
    """d f(w h + b) / dh, from the right."""
    u = torch.tensor(w * h + b, dtype=torch.float64)
    if activation == "relu" and u == 0:
        return max(w, 0.0)
    (found,) = OPERATIONS[activation].adjoint(torch.ones_like(u), activated(activation, u), u)  # type: ignore[misc]
    return w * float(found)


def _stability(slope: float) -> str:
    return "neutral" if abs(abs(slope) - 1) < NEUTRAL else "stable" if abs(slope) < 1 else "unstable"


def _turns(activation: str, w: float) -> list[float]:
    """The u where f'(u) = 1 / w."""
    if activation == "softplus":
        return [-math.log(w - 1)] if w > 1 else []
    steepest, wide = (4, 2) if activation == "sigmoid" else (1, 1)
    if w <= steepest:
        return []
    u = math.atanh(min(math.sqrt(1 - steepest / w), 1 - EPSILON)) * wide
    return [-u, u]


def _bisected(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function changes its sign, to the last bit."""
    rising = function(low) < 0
    while low < (middle := (low + high) / 2) < high:
        value = function(middle)
        if not value:
            return middle
        low, high = (middle, high) if (value < 0) == rising else (low, middle)
    return min(low, high, key=lambda h: abs(function(h)))
