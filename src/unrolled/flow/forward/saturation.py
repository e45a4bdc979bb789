"""One unit that reads itself: where h_t = f(w h_{t-1} + b) ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor

from unrolled.errors import InputError, check_sizes
from unrolled.flow.forward.arguments import numbers, one_number
from unrolled.flow.forward.curves import legend
from unrolled.flow.forward.fixed_points import (
    FixedPoint,
    activated,
    check_activation,
    fixed_points,
    two_cycle,
)
from unrolled.flow.records import Record, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SETTLED: Final = 1e-14
"""A recursion has settled where a step, or two, move it by less than this part of 1 + |h|."""

ONE: Final = 1e-9
"""Two values that are as near to each other are one."""

NEAR: Final = 1e-3
"""A unit is saturated where it is as near to its limit."""

LARGE: Final = 1e15
"""A recursion that gets there diverges."""

COLOURS: Final = {"stable": "#2e7d32", "unstable": "#c8501e", "neutral": "#777777"}

Limit = tuple[float, ...]
"""What a series ends in: one value, the two that it jumps between beginning with the last, or nothing."""


@dataclass(frozen=True, repr=False)
class Saturation(Record):
    """h_t = f(w h_{t-1} + b) from several starts, beside its fixed points and its 2-cycle.

    Attributes:
        activation, w, b: of the recursion.
        h: (T + 1, starts), from the starts on; NaN beyond 1e15.
        fixed_points: all of them, by solving the equation, in order.
        cycle: the two values that it jumps between, by solving the equation; None if there are none.
        limits: what each start settled to: one value, two, or none where it diverges or has not settled.
        settled: the step from which on each start is within 0.001 of its limit; None if it has none.
        deviation: the largest difference between a limit and the solution next to it; NaN without limits.
        words: what there is to say of it.
    """

    activation: str
    w: float
    b: float
    h: Tensor
    fixed_points: tuple[FixedPoint, ...]
    cycle: tuple[float, float] | None
    limits: tuple[Limit, ...]
    settled: tuple[int | None, ...]
    deviation: float
    words: tuple[str, ...]

    def summary(self) -> str:
        b = f" {'+' if self.b > 0 else '-'} {number(abs(self.b))}" if self.b else ""
        head = f"h = {self.activation}({number(self.w)} h{b})"
        points = ", ".join(map(str, self.fixed_points))
        return "\n    ".join([head, f"fixed points: {points or 'none'}", *self.words])

    def _draw(self, ax: Axes) -> None:
        steps = [step for step in self.settled if step is not None]
        end = min(len(self.h), max([12, *(2 * step for step in steps)])) if steps else len(self.h)
        marker = "o" if end <= 60 else ""
        ax.plot(self.h[:end], color="#1f5fa8", alpha=0.7, linewidth=1.3, marker=marker, markersize=2.5)
        for point in self.fixed_points:
            label = f"{point.stability} fixed point"
            label = "" if label in ax.get_legend_handles_labels()[1] else label
            colour = COLOURS[point.stability]
            ax.axhline(point.value, color=colour, linestyle="--", linewidth=1.2, label=label)
        for value, label in zip(self.cycle or (), ("2-cycle", ""), strict=False):
            ax.axhline(value, color="#6a3d9a", linestyle="--", linewidth=1.2, label=label)
        ax.set_xlabel("step t")
        ax.set_ylabel("h$_t$")
        ax.set_title(self.summary().splitlines()[0], loc="left", fontsize=10)
        if self.fixed_points:
            legend(ax)


def saturation(activation: str, w: float, b: float = 0.0, x0: object = None, T: int = 1000) -> Saturation:
    """Run h_t = f(w h_{t-1} + b) until it settles, beside all solutions of the equation.

    These functions rise, so a unit goes to a fixed point, or for w < 0 to a 2-cycle, or without end. A
    sigmoid does not always settle to one value that w decides: w = -10 gives a 2-cycle, w = 10 and b = -5 two
    limits.

    Args:
        activation: "sigmoid", "tanh", "relu" or "softplus".
        w, b: the weight and the bias.
        x0: where to start, a number or (starts,); if not given between -1 and 1, and beside every unstable
            fixed point.
        T: steps at most.

    Raises:
        InputError: no such activation, or a number is not finite.
    """
    check_activation(activation)
    check_sizes(T=T)
    w, b = one_number("w", w), one_number("b", b)
    points = fixed_points(activation, w, b)
    cycle = two_cycle(activation, w, b, points)
    if x0 is None:
        doubtful = [p.value for p in points if p.stability == "unstable"]
        beside = [value + side * (1 + abs(value)) for value in doubtful for side in (-0.01, 0.01)]
        x0 = [*np.linspace(-1, 1, 8).tolist(), *beside]
    h = numbers("x0", x0).reshape(-1)
    if not len(h):
        raise InputError("x0 is empty, expected at least one number to start from")
    series = [h]
    for _ in range(T):
        h = activated(activation, w * h + b)
        series.append(torch.where(h.abs() < LARGE, h, math.nan))
        if len(series) > 2 and bool((_returned(series, 2) | series[-1].isnan()).all()):
            break
    every = torch.stack(series)
    limits = [_limit(own) for own in every.unbind(1)]
    settled = [_settled(own, limit) for own, limit in zip(every.unbind(1), limits, strict=True)]
    solutions = {1: [p.value for p in points], 2: [*(cycle or ())]}
    off = [
        min((abs(h - s) for s in solutions[len(limit)]), default=math.nan) for limit in limits for h in limit
    ]
    deviation = max(off, default=math.nan)
    words = _fates(every, limits, settled, points, w)
    if activation == "relu" and ((w == 1 and b == 0) or (w == -1 and b > 0)):
        words.append(f"every start {'from 0 on is a fixed point' if w > 0 else 'is on a 2-cycle of its own'}")
        deviation = math.nan
    elif neutral := [p for p in points if p.stability == "neutral"]:
        point = f"at {number(neutral[0].value)} the slope is {neutral[0].slope:.0f}"
        words.append(f"{point}: solutions meet or part there, and it is approached ever more slowly")
    return Saturation(
        activation, w, b, every, points, cycle, tuple(limits), tuple(settled), deviation, tuple(words)
    )


def _returned(h: Sequence[Tensor] | Tensor, steps: int) -> Tensor:
    """Whether the end of a series is where it was so many steps ago."""
    return (h[-1] - h[-1 - steps]).abs() <= SETTLED * (1 + h[-1].abs())


def _limit(h: Tensor) -> Limit:
    for steps in (1, 2):
        if len(h) > steps and _returned(h, steps):
            ends = tuple(float(h[-1 - k]) for k in range(steps))
            # What goes to and fro into a fixed point is on either side of it to the last.
            return ends if abs(ends[0] - ends[-1]) > ONE else ends[:1]
    return ()


def _settled(h: Tensor, limit: Limit) -> int | None:
    """The step from which on a series is near to its limit."""
    if not limit:
        return None
    steps_left = torch.arange(len(h) - 1, -1, -1)
    near = (h - h.new_tensor(limit)[steps_left % len(limit)]).abs() <= NEAR
    far = torch.nonzero(~near).flatten()
    return int(far[-1]) + 1 if len(far) else 0


def _fates(
    h: Tensor,
    limits: Sequence[Limit],
    settled: Sequence[int | None],
    points: Sequence[FixedPoint],
    w: float,
) -> list[str]:
    """What became of the starts, in words."""
    words = []
    distinct: list[float] = []
    for (value,) in (limit for limit in limits if len(limit) == 1):
        if all(abs(value - other) > 1e-6 * (1 + abs(value)) for other in distinct):
            distinct.append(value)
    if len(distinct) > 1:
        words.append(f"the limit depends on the start: {' or '.join(map(number, sorted(distinct)))}")
    elif distinct:
        words.append(f"it settles at {number(distinct[0])}")
    if pairs := [limit for limit in limits if len(limit) == 2]:
        words.append(f"it jumps between {' and '.join(map(number, sorted(pairs[0])))}: a 2-cycle")
    if known := [step for step in settled if step is not None]:
        words.append(f"within {NEAR} of that after {max(known)} steps at most")
    open_ended = [k for k, limit in enumerate(limits) if not limit]
    above = max([p.value for p in points], default=-math.inf)
    gone = [k for k in open_ended if h[-1, k].isnan() or (w > 0 and h[-1, k] > max(float(h[-2, k]), above))]
    if gone:
        words.append(f"{len(gone)} of {len(limits)} starts diverge: above them there is no fixed point")
    if len(gone) < len(open_ended):
        words.append(
            f"{len(open_ended) - len(gone)} of {len(limits)} starts have not settled in {len(h) - 1} steps"
        )
    return words
