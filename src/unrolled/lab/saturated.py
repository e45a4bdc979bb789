"""Where one unit that reads itself ends, by its activation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from unrolled.flow.forward import Saturation, saturation
from unrolled.lab.experiment import Number, Result, Verdict, at_most, experiment
from unrolled.lab.networks import listed
from unrolled.report.page import Bars, Lines, Mark, Series
from unrolled.report.scales import number


@dataclass(frozen=True)
class Sweep:
    """How finely weights are tried.

    step: from one weight to the next.
    T: steps of each, at most.
    """

    step: float = 0.05
    T: int = 3000

    def over(self, activation: str, low: int, high: int, b: float = 0.0) -> dict[float, Saturation]:
        """What becomes of a unit, by its weight."""
        count = round((high - low) / self.step)
        weights = [low + (high - low) * k / count for k in range(count + 1)]
        return {w: saturation(activation, w, b, T=self.T) for w in weights}


def _limits(found: Saturation) -> list[float]:
    """What its starts end at, without those that are the same."""
    return sorted({round(value, 6) for limit in found.limits for value in limit})


def _apart(found: Saturation) -> float:
    """Between the highest and the lowest limit."""
    return max(_limits(found)) - min(_limits(found))


def _longest(found: Saturation) -> float | None:
    """The steps until all starts are near their limit; None if some are not."""
    known = [step for step in found.settled if step is not None]
    return float(max(known)) if len(known) == len(found.settled) else None


def _times(name: str, found: Mapping[float, Saturation]) -> Series:
    return Series(name, [*found], [_longest(each) for each in found.values()])


def _ends(more: str, found: Mapping[float, Saturation]) -> list[Series]:
    """The limits over the weight: the highest and the lowest that any start ends at."""
    limits = [_limits(each) for each in found.values()]
    return [
        Series(f"{name}{more}", [*found], [pick(each) if each else None for each in limits])
        for name, pick in (("highest", max), ("lowest", min))
    ]


@experiment(
    title="Where a sigmoid ends",
    lectures=("003",),
    claim="A sigmoid unit saturates within a limited number of steps whatever w is, at a value that "
    "depends on w and the bias alone.",
    statement="h ← σ(w h + b) from many starts: how many limits there are at w = −10, at w = 10 and b = "
    "−5, and at weights from −4 to 4 without a bias, where theory has one; at w = −4 and b = 2, where the "
    "slope is −1, how near it is to its limit after 20,000 steps.",
    verdict=Verdict(
        "fails", "w = −10 jumps between two values for ever, w = 10 with b = −5 has two limits, by the start"
    ),
    setup=Sweep(0.25),
    quick=Sweep(1.0, 500),
)
def sigmoid_saturates(setup: Sweep) -> Result:
    cycle, pair = saturation("sigmoid", -10.0), saturation("sigmoid", 10.0, -5.0)
    calm = [saturation("sigmoid", w / 2) for w in range(-8, 9)]
    T = 20000
    slow = saturation("sigmoid", -4.0, 2.0, x0=1.0, T=T)
    left = abs(float(slow.h[-1, 0]) - 0.5) * math.sqrt(8 * T / 3)
    assert cycle.cycle is not None
    low, high = cycle.cycle
    numbers = [
        Number("w = −10: limits, as one value has it", len(_limits(cycle)), 1, role="counterexample"),
        Number("w = −10: distance to the 2-cycle that solves the equation", cycle.deviation, 0.0, 1e-9),
        Number("w = −10: between the values of the 2-cycle", _apart(cycle), high - low, 1e-5),
        Number(
            "w = 10, b = −5: limits, as w and b alone have it", len(_limits(pair)), 1, role="counterexample"
        ),
        Number("w = 10, b = −5: distance to solutions of the equation", pair.deviation, 0.0, 1e-9),
        Number("w from −4 to 4: limits of each, at most", max(len(_limits(each)) for each in calm), 1),
        at_most("and steps to saturate, at most", max(_longest(each) or math.inf for each in calm), 30),
        Number("w = −4, b = 2: |h − ½| · √(8t / 3) after 20,000 steps", left, 1.0, 1e-3),
    ]
    found = {b: setup.over("sigmoid", -12, 12, b) for b in (0.0, -5.0)}
    times = Lines(
        "Steps until a sigmoid has saturated",
        "Until all starts are within 0.001 of where they end: few where the slope at the end is small, "
        "many where it is near 1 or −1. Gaps: some start had not settled.",
        "w",
        "steps",
        [_times(f"b = {number(b)}", every) for b, every in found.items()],
        log_y=True,
    )
    ends = Lines(
        "What it ends at, by its weight",
        "The highest and the lowest limit of any start; where they are one line there is one limit. Left of "
        "about −5.7 it jumps between them. With b = −5 and w above 7.8 there are two, and the start decides.",
        "w",
        "limits of h",
        [*_ends(", b = 0", found[0.0]), *_ends(", b = −5", found[-5.0])],
    )
    words = (
        "Below −4 the slope at the fixed point may be less than −1: the unit overshoots for ever. Above 4 "
        "there may be three fixed points, two of them stable. From −4 to 4 the claim is right."
    )
    return Result(numbers, [ends, times], words)


@experiment(
    title="Where a tanh ends",
    lectures=("003",),
    claim="A tanh unit is sensitive to w but saturates in the end; it prefers weights near 1.",
    statement="h ← tanh(w h): limits for weights from −3 to 3 against the solutions of the equation, and "
    "the steps that it takes; at w = 1 the size of h against √(3 / 2t).",
    verdict=Verdict("holds if", "w is above −1: from there down it jumps between two values"),
    setup=Sweep(),
    quick=Sweep(0.2, 1000),
)
def tanh_saturates(setup: Sweep) -> Result:
    found = setup.over("tanh", -3, 3)
    times = {w: _longest(each) for w, each in found.items()}
    settle = [w for w in found if w > -0.999 and abs(w - 1) > 1e-9]
    T = 20000
    slow = saturation("tanh", 1.0, x0=1.0, T=T)
    jumps = saturation("tanh", -2.0)
    known = {w: t for w, t in times.items() if t is not None and w > -0.999}
    numbers = [
        Number(
            "w above −1, but for 1: distance to a solution, at most",
            max(found[w].deviation for w in settle),
            0.0,
            1e-9,
            role="claim",
        ),
        at_most("steps that it takes, at most", max(known.values()), 200, "claim"),
        Number(
            "the weight at which it takes longest, among these",
            max(known, key=known.__getitem__),
            1.0,
            setup.step + 1e-9,
            role="claim",
        ),
        Number(
            "w = 1: h · √(2t / 3) after 20,000 steps", float(slow.h[-1, 0]) * math.sqrt(2 * T / 3), 1.0, 1e-3
        ),
        Number(
            "w = −2: values that a start ends at, as saturation has it",
            max(map(len, jumps.limits)),
            1,
            role="counterexample",
        ),
        Number("w = −2: distance to the 2-cycle", jumps.deviation, 0.0, 1e-9),
    ]
    figures = [
        Lines(
            "Steps until a tanh has settled",
            "It takes longest where the largest slope, w, is near 1 or −1: there what was put in is still "
            "to be seen after a hundred steps. That is the preference.",
            "w",
            "steps to within 0.001",
            [_times("tanh", found)],
            log_y=True,
            marks=[Mark("x", 1.0, "w = 1"), Mark("x", -1.0, "w = −1")],
        ),
        Lines(
            "What it ends at",
            "Between −1 and 1 it forgets everything. Above 1 it keeps one bit, the sign. Below −1 it "
            "jumps between both.",
            "w",
            "limits of h",
            _ends(" limit", found),
        ),
    ]
    words = (
        "At w = 1 it goes to 0 as the root of 3 / 2t, more slowly than any power of a number: the edge "
        "between forgetting and keeping a sign."
    )
    return Result(numbers, figures, words)


@experiment(
    title="Where a ReLU ends",
    lectures=("003",),
    claim="A ReLU unit is sensitive to w and can blow up.",
    statement="h ← max(0, w h) from 1: ln h after 200 steps against 200 ln w for w above 0, and 0 after "
    "one step below; with a bias of 1 the limit 1 / (1 − w).",
    verdict=Verdict("holds"),
)
def relu_blows_up(_: None) -> Result:
    T = 200
    numbers, curves = [], []
    for w in (0.5, 0.9, 1.0, 1.1):
        found = saturation("relu", w, x0=1.0, T=T)
        h = found.h[:, 0]
        last = len(h) - 1
        numbers.append(
            Number(
                f"w = {number(w)}: ln h after {last} steps",
                float(h[-1].log()),
                last * math.log(w),
                1e-9,
                role="claim",
            )
        )
        curves.append(Series(f"w = {number(w)}", range(len(h)), listed(h)))
    gone = saturation("relu", -1.0, x0=1.0, T=T)
    numbers.append(Number("w = −1: h after one step", float(gone.h[1, 0]), 0.0))
    still = saturation("relu", 0.9, 1.0, x0=1.0, T=2000)
    numbers.append(Number("w = 0.9, b = 1: limit", still.limits[0][0], 10.0, 1e-9))
    figure = Lines(
        "A ReLU unit that reads itself",
        "Straight lines: above 1 it grows without end, below it vanishes, and at 1 it keeps its value.",
        "step t",
        "h",
        curves,
        log_y=True,
        marks=[Mark("y", 1.0, "start")],
    )
    bars = Bars(
        "Steps until one unit of each kind has settled",
        "From starts between −1 and 1, to within 0.001 of where they end. A ReLU at 1.5 never does.",
        "steps",
        [f"{name}, w = {number(w)}" for name in ("sigmoid", "tanh", "relu") for w in (0.5, 0.9, 1.5)],
        [_longest(saturation(name, w)) for name in ("sigmoid", "tanh", "relu") for w in (0.5, 0.9, 1.5)],
    )
    return Result(
        numbers,
        [figure, bars],
        "For a state above 0 a ReLU is the linear recursion, and for w below 0 it is dead.",
    )
