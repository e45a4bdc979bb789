"""Numbers for readers: how they are written, and where they stand on an axis.

An axis is linear or logarithmic. What is not finite has no place on it, nor have zero and less on a
logarithmic one, nor numbers beyond 1e300 on a linear one, where differences would overflow.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Final, NamedTuple

MISSING: Final = "–"
HUGE: Final = 1e300
SUPERSCRIPTS: Final = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float | None, digits: int = 4) -> str:
    """A number to `digits` significant digits: thousands apart, a raised power of ten where it is far from 1.

    Whole numbers are written out: integers below 10¹⁵, other whole values below 10⁷.
    """
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if isinstance(value, Integral) and abs(value) < 10**15:
        text = f"{int(value):,}"
    elif float(value).is_integer() and abs(value) < 1e7:
        text = f"{value + 0.0:,.0f}"  # −0 is 0
    elif 1e-4 <= abs(value) < 1e7:
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        text = _without_zeros(f"{value:,.{decimals}f}")
    else:
        return scientific(value, digits)
    return text.replace("-", "−")


def scientific(value: float, digits: int = 4) -> str:
    """A number as a mantissa and a raised power of ten: 1.25×10⁻⁴⁰."""
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    mantissa = _without_zeros(mantissa).replace("-", "−")
    if int(exponent) == 0:
        return mantissa
    power = power_of_ten(int(exponent))
    return mantissa.replace("1", power) if mantissa in ("1", "−1") else f"{mantissa}×{power}"


def power_of_ten(exponent: int) -> str:
    """10⁻³, with 10⁰ and 10¹ written as 1 and 10."""
    return ("1", "10")[exponent] if exponent in (0, 1) else "10" + str(exponent).translate(SUPERSCRIPTS)


def _without_zeros(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


class Tick(NamedTuple):
    """A label at a fraction of the length of an axis."""

    at: float
    label: str


@dataclass(frozen=True)
class Scale:
    """An axis from `low` to `high`; on a logarithmic one these are exponents of ten."""

    low: float
    high: float
    log: bool = False

    def at(self, value: float) -> float | None:
        """At which fraction of its length a value stands, or None if it has no place."""
        if not has_place(value, self.log):
            return None
        return ((math.log10(value) if self.log else value) - self.low) / (self.high - self.low)


def has_place(value: float, log: bool) -> bool:
    """Whether a value can stand on an axis."""
    return math.isfinite(value) and (value > 0 if log else abs(value) < HUGE)


def scale_over(values: Iterable[float], log: bool, rounded: int = 0) -> Scale | None:
    """The axis that holds all values that have a place; None if there are none.

    Args:
        rounded: extend it to round numbers that are near, of about so many; 0 ends it at the extremes.
    """
    placed = [math.log10(v) if log else v for v in values if has_place(v, log)]
    if not placed:
        return None
    low, high = min(placed), max(placed)
    largest = max(abs(low), abs(high))
    if log:
        if high - low < 1e-9:
            low, high = low - 0.5, high + 0.5
        if rounded and high - low > 1.5:
            low, high = float(math.floor(low + 1e-9)), float(math.ceil(high - 1e-9))
        elif rounded:
            low, high = low - 0.05 * (high - low), high + 0.05 * (high - low)
        return Scale(low, high, log)
    if high - low <= max(1e-12 * largest, 1e-290):
        around = 0.1 * largest if largest > 1e-288 else 1.0
        low, high = low - around, high + around
    if rounded:
        step = _round_step(high - low, rounded)
        below, above = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
        # Half a step of empty paper would be too much.
        low = below if low - below < 0.5 * step else low - 0.05 * step
        high = above if above - high < 0.5 * step else high + 0.05 * step
    return Scale(low, high)


def ticks(scale: Scale, most: int, *, whole: bool = False) -> list[Tick]:
    """About as many labels as asked, at round numbers; only at whole ones if `whole`."""
    if scale.log:
        return _log_ticks(scale, most)
    values, labels = _round_numbers(scale.low, scale.high, most, whole)
    return _placed(scale, values, labels)


def _round_numbers(low: float, high: float, most: int, whole: bool = False) -> tuple[list[float], list[str]]:
    step = _round_step(high - low, most)
    if whole:
        step = max(step, 1.0)
    values = [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    largest = max((abs(value) for value in values), default=0.0)
    if largest >= 1e7 or largest < 1e-3:
        digits = math.floor(math.log10(max(largest, step))) - math.floor(math.log10(step) + 1e-9) + 1
        return values, [scientific(value, digits) for value in values]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return values, [f"{value:,.{decimals}f}".replace("-", "−") for value in values]


def _round_step(span: float, most: int) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that divides a span into at most so many steps."""
    power = 10.0 ** math.floor(math.log10(span / most))
    return next(m * power for m in (1.0, 2.0, 5.0, 10.0) if m * power * most >= span * (1 - 1e-9))


def _log_ticks(scale: Scale, most: int) -> list[Tick]:
    first, last = math.ceil(scale.low - 1e-9), math.floor(scale.high + 1e-9)
    powers = range(first, last + 1)
    if len(powers) < 3 and scale.low > -300 and scale.high < 300:
        values = [float(f"{m}e{e}") for e in range(first - 1, last + 1) for m in (1, 2, 5)]
        inside = _placed(scale, values, [number(value) for value in values])
        if scale.high - scale.low > 1 and len(inside) <= most + 2:
            return inside
        return _placed(scale, *_round_numbers(10.0**scale.low, 10.0**scale.high, most))
    stride = next(s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500) if len(powers) <= s * most)
    shown = [power for power in powers if power % stride == 0]
    near = all(-3 <= power <= 4 for power in shown)
    return [
        Tick(
            (power - scale.low) / (scale.high - scale.low),
            number(10.0**power) if near else power_of_ten(power),
        )
        for power in shown
    ]


def _placed(scale: Scale, values: Sequence[float], labels: Sequence[str]) -> list[Tick]:
    """The labels of those values that are on the axis."""
    places = [(scale.at(value), label) for value, label in zip(values, labels, strict=True)]
    return [Tick(at, label) for at, label in places if at is not None and -1e-9 <= at <= 1 + 1e-9]
