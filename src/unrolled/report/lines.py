"""Line charts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any, Final, TypeAlias

from unrolled.report.blocks import Lines, Series, floats
from unrolled.report.colours import SERIES, ramp_style
from unrolled.report.frame import WIDTH, Plot, chart, figure, flat, frame, nothing
from unrolled.report.marks import LABEL_HEIGHT, marked
from unrolled.report.markup import escaped
from unrolled.report.scales import Scale, Tick, has_place, number, scale_over, ticks

HEIGHT: Final = 300
MOST_POINTS: Final = 2000

Places: TypeAlias = Sequence[float | None]
"""Coordinates; None where there is no point."""


@dataclass(frozen=True)
class Curve:
    """A series as it is drawn. `across` and `down` are coordinates, `shown` the points that are drawn."""

    name: str
    x: list[float]
    y: list[float]
    band: tuple[list[float], list[float]] | None
    across: Places
    down: Places
    edges: tuple[Places, Places] | None
    shown: list[int]
    paint: str
    style: str

    def stretches(self, down: Places) -> list[list[int]]:
        """The points between gaps."""
        groups = groupby(self.shown, lambda k: self.across[k] is not None and down[k] is not None)
        return [list(group) for there, group in groups if there]

    def last(self) -> int | None:
        """The last point that is drawn."""
        return next((run[-1] for run in reversed(self.stretches(self.down))), None)


def lines(item: Lines) -> str:
    """A line chart."""
    scales = _scales(item)
    if scales is None:
        return nothing(item.title, item.how)
    x_scale, y_scale = scales
    curves = [_curve(one, k, len(item.series), x_scale, y_scale) for k, one in enumerate(item.series)]
    y_ticks = [Tick(1 - at, label) for at, label in ticks(y_scale, 6)]
    x_ticks = ticks(x_scale, 8, whole=all(x.is_integer() for c in curves for x in c.x if math.isfinite(x)))
    paths = [path for curve in curves for path in _paths(curve, curve.down)]
    rules, labels, headroom = marked(item.marks, x_scale, y_scale, HEIGHT, paths)
    drawing = [
        f'<path class="grid" d="{"".join(f"M0 {flat(HEIGHT * tick.at)}H{WIDTH}" for tick in y_ticks)}"/>',
        f'<path class="axis" d="M0 {HEIGHT}H{WIDTH}"/>{rules}',
        *(f'<g class="series {c.paint}"{c.style} data-k="{k}">{_drawn(c)}</g>' for k, c in enumerate(curves)),
    ]
    beside = _ends(curves)
    plot = Plot(
        HEIGHT, "".join(drawing), x_ticks, item.x_label, y_ticks, item.y_label, labels, beside, headroom
    )
    whole = chart("lines", _summary(item, curves), frame(plot), _data(curves), " ended" if beside else "")
    return figure(item.title, item.how, whole, legend=_legend(curves), note=_lost(curves, item.log_y))


def _scales(item: Lines) -> tuple[Scale, Scale] | None:
    """Both axes, or None if there is no point."""
    across: list[float] = []
    down: list[float] = []
    for one in item.series:
        xs = floats(one.x, one.name)
        across += xs
        for values in (one.y, one.low, one.high):
            if values is not None:
                known = zip(xs, floats(values, one.name), strict=True)
                down += [value for x, value in known if has_place(x, item.log_x)]
    if not any(has_place(value, item.log_y) for value in down):
        return None
    across += [mark.at for mark in item.marks if mark.axis == "x"]
    down += [mark.at for mark in item.marks if mark.axis == "y"]
    x_scale, y_scale = scale_over(across, item.log_x), scale_over(down, item.log_y, rounded=5)
    return None if x_scale is None or y_scale is None else (x_scale, y_scale)


def _curve(one: Series, k: int, count: int, x_scale: Scale, y_scale: Scale) -> Curve:
    x, y = floats(one.x, one.name), floats(one.y, one.name)

    def height(value: float) -> float | None:
        at = y_scale.at(value)
        return None if at is None else HEIGHT * (1 - at)

    across = [None if (at := x_scale.at(value)) is None else WIDTH * at for value in x]
    down = [height(value) for value in y]
    shown = thinned(across, down)
    band = edges = None
    if one.low is not None and one.high is not None:
        band = floats(one.low, one.name), floats(one.high, one.name)
        low, high = ([height(value) for value in values] for values in band)
        if y_scale.log:  # a band that reaches zero goes to the foot of the chart
            low = [HEIGHT if value <= 0 else at for value, at in zip(band[0], low, strict=True)]
        edges = low, high
        shown = sorted({*shown, *thinned(across, low), *thinned(across, high)})
    paint, style = f"c{k + 1}", ""
    if count > SERIES:
        paint, style = "fan", f' style="{ramp_style(k / (count - 1))}"'
    return Curve(one.name, x, y, band, across, down, edges, shown, paint, style)


def thinned(across: Places, down: Places, most: int = MOST_POINTS) -> list[int]:
    """Which points of a line to draw: all, or of a long one those that a reader could tell apart.

    These are where the line enters and leaves each of `most` / 4 columns, and its lowest and highest point
    there, so that no peak is lost and every gap stays one (Jugel et al., 2014, M4).
    """
    if len(across) <= most:
        return list(range(len(across)))

    def column(k: int) -> int:
        place = across[k]
        return -1 if place is None or down[k] is None else int(place / WIDTH * most / 4)

    kept: list[int] = []
    for where, group in groupby(range(len(across)), column):
        members = list(group)
        chosen = {members[0], members[-1]}
        if where >= 0:
            height = {k: at for k in members if (at := down[k]) is not None}
            chosen |= {min(height, key=height.__getitem__), max(height, key=height.__getitem__)}
        kept += sorted(chosen)
    return kept


# Drawing


def _paths(curve: Curve, down: Places) -> list[list[tuple[float, float]]]:
    """The points between gaps."""
    paths = []
    for run in curve.stretches(down):
        points = ((curve.across[k], down[k]) for k in run)
        paths.append([(x, y) for x, y in points if x is not None and y is not None])
    return paths


def _drawn(curve: Curve) -> str:
    """The band, the line and, where they are few, the points."""
    band = ""
    if curve.edges:
        low, high = curve.edges
        # A band has a gap where either of its edges has one.
        low = [None if other is None else at for at, other in zip(low, high, strict=True)]
        high = [None if other is None else at for at, other in zip(high, low, strict=True)]
        for there, back in zip(_paths(curve, high), _paths(curve, low), strict=True):
            band += f'<path class="band" d="M{_text(there)}L{_text(back[::-1])}Z"/>'
    paths = _paths(curve, curve.down)
    path = "".join(f"M{_text(points)}{'h0' if len(points) == 1 else ''}" for points in paths)
    line = f'<path class="line" d="{path}"/>'
    if sum(map(len, paths)) > 30:
        return band + line
    dots = "".join(f"M{_text([point])}h0" for points in paths for point in points)
    return f'{band}{line}<path class="points" d="{dots}"/>'


def _text(points: Sequence[tuple[float, float]]) -> str:
    return "L".join(f"{flat(x)} {flat(y)}" for x, y in points)


def _legend(curves: Sequence[Curve]) -> str:
    if len(curves) > SERIES:
        ramp = "".join(f'<i class="{c.paint}"{c.style}></i>' for c in curves[:: math.ceil(len(curves) / 32)])
        names = [f"<span>{escaped(curve.name)}</span>" for curve in (curves[0], curves[-1])]
        return f'<div class="legend">{names[0]}<span class="fans">{ramp}</span>{names[1]}</div>'
    if len(curves) == 1 and not curves[0].name:
        return ""
    entries = "".join(
        f'<span class="series {curve.paint}" data-k="{k}"><svg viewBox="0 0 22 8" aria-hidden="true">'
        f'<path class="line" d="M2 4H20"/></svg>{escaped(curve.name)}</span>'
        for k, curve in enumerate(curves)
    )
    return f'<div class="legend">{entries}</div>'


def _ends(curves: Sequence[Curve]) -> str:
    """The names of lines where they end, if all end at the right. Where they fit, no legend is needed."""
    lasts = [curve.last() for curve in curves]
    if not 2 <= len(curves) <= SERIES or any(last is None for last in lasts):
        return ""
    heights = []
    for curve, k in zip(curves, lasts, strict=True):
        assert k is not None
        x, y = curve.across[k], curve.down[k]
        if x is None or y is None or x < 0.94 * WIDTH:
            return ""
        heights.append(y)
    longest = max((curve.name for curve in curves), key=len)
    names = "".join(
        f'<span class="series {one.paint}" data-k="{k}" style="top:{flat(y)}px">{escaped(one.name)}</span>'
        for k, (one, y) in enumerate(zip(curves, spread(heights, LABEL_HEIGHT, HEIGHT), strict=True))
    )
    return f'<div class="ends" aria-hidden="true"><b>{escaped(longest)}</b>{names}</div>'


def spread(heights: Sequence[float], apart: float, room: float) -> list[float]:
    """Nearby places that keep a distance, in the same order, between 0 and `room` if they fit."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    found = list(heights)
    for before, k in pairwise(order):
        found[k] = max(found[k], found[before] + apart)
    limit = max(room, apart * (len(order) - 1))
    for k in reversed(order):
        found[k] = min(found[k], limit)
        limit = found[k] - apart
    return found


# What the page's script and screen readers say


def _summary(item: Lines, curves: Sequence[Curve]) -> str:
    parts = [f"{item.title}. Line chart of {item.y_label or 'values'} over {item.x_label or 'x'}."]
    for curve in curves[:SERIES]:
        drawn = [k for run in curve.stretches(curve.down) for k in run]
        if drawn:
            first, last = drawn[0], drawn[-1]
            values = [curve.y[k] for k in drawn]
            parts.append(
                f"{curve.name}: {number(curve.y[first])} at {number(curve.x[first])}, {number(curve.y[last])}"
                f" at {number(curve.x[last])}, lowest {number(min(values))}, highest {number(max(values))}."
            )
    if len(curves) > SERIES:
        parts.append(f"And {len(curves) - SERIES} more lines.")
    return " ".join(parts)


def _lost(curves: Sequence[Curve], log: bool) -> str:
    """A remark on values that are numbers but have no place on the axis."""
    lost = sum(math.isfinite(value) and not has_place(value, log) for curve in curves for value in curve.y)
    if not lost:
        return ""
    many = f"{number(lost)} values are" if lost > 1 else "One value is"
    return f"{many} {'zero or less' if log else 'too large'} and so not drawn."


def _data(curves: Sequence[Curve]) -> dict[str, Any]:
    """Where the pointer may stop, and for each series its points: the stop, the height and the text."""
    stops: dict[float, str] = {}
    points = []
    for curve in curves:
        known = [(k, round(x, 2)) for k in curve.shown if (x := curve.across[k]) is not None]
        stops |= {x: number(curve.x[k]) for k, x in known}
        points.append(known)
    order = {x: n for n, x in enumerate(sorted(stops))}
    series = [
        {
            "name": curve.name,
            "paint": curve.paint,
            "style": curve.style[8:-1],
            "at": [order[x] for _, x in known],
            "y": [None if (y := curve.down[k]) is None else round(y, 2) for k, _ in known],
            "text": [_value(curve, k) for k, _ in known],
        }
        for curve, known in zip(curves, points, strict=True)
    ]
    return {"height": HEIGHT, "x": list(order), "labels": [stops[x] for x in order], "series": series}


def _value(curve: Curve, k: int) -> str:
    if curve.band is None:
        return number(curve.y[k])
    low, high = curve.band
    return f"{number(curve.y[k])} ({number(low[k])} to {number(high[k])})"
