"""Dashed reference lines across a chart, with labels that keep out of the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final, NamedTuple, TypeAlias

from unrolled.report.blocks import Mark
from unrolled.report.frame import WIDTH, flat
from unrolled.report.markup import escaped, percent
from unrolled.report.scales import Scale

LABEL_HEIGHT: Final = 18
LETTER: Final = 16.0
"""The width of a letter in a chart half as wide as the page."""

Path: TypeAlias = Sequence[tuple[float, float]]
"""Points in the coordinates of a plot."""


class Spot(NamedTuple):
    """Where a label may stand."""

    left: float
    top: float
    right: float
    bottom: float


def marked(
    marks: Sequence[Mark], x_scale: Scale, y_scale: Scale, height: int, paths: Sequence[Path]
) -> tuple[str, str, int]:
    """The lines as SVG, the labels as HTML, and how far these reach above the plot.

    Labels of the x axis stand above the plot, one below the other. Those of the y axis stand on their line or
    below it, at the right or the left: where they hide least.
    """
    rules, labels = "", ""
    upright = sum(mark.axis == "x" and x_scale.at(mark.at) is not None for mark in marks)
    above = headroom = LABEL_HEIGHT * upright + 6
    taken: list[Spot] = []
    for mark in marks:
        at = (x_scale if mark.axis == "x" else y_scale).at(mark.at)
        if at is None:
            continue
        if mark.axis == "x":
            rules += f'<path class="mark" d="M{flat(WIDTH * at)} {4 - above}V{height}"/>'
            side, room = ("right", at) if at > 0.6 else ("left", 1 - at)
            style = f"{side}:{percent(1 - room)};max-width:{percent(room)};top:{2 - above}px"
            above -= LABEL_HEIGHT
        else:
            down = height * (1 - at)
            rules += f'<path class="mark" d="M0 {flat(down)}H{WIDTH}"/>'
            spot = min(_spots(mark.label, down, height), key=lambda spot: _hidden(spot, paths, taken))
            taken.append(spot)
            style = f"{'left' if spot.left == 0 else 'right'}:0;top:{percent(spot.top / height)}"
        labels += f'<span class="mark-label" style="{style}">{escaped(mark.label)}</span>'
    return rules, labels, headroom


def _spots(label: str, down: float, height: int) -> Iterator[Spot]:
    width = min(LETTER * (len(label) + 2), 0.7 * WIDTH)
    for top in (down - LABEL_HEIGHT, down + 1):
        if -6 <= top <= height - LABEL_HEIGHT:
            yield Spot(WIDTH - width, top, WIDTH, top + LABEL_HEIGHT)
            yield Spot(0, top, width, top + LABEL_HEIGHT)


def _hidden(spot: Spot, paths: Sequence[Path], taken: Sequence[Spot]) -> int:
    """How many pieces of lines a label would hide; another label counts for all of them."""
    count = 0
    for other in taken:
        apart = other.bottom <= spot.top or spot.bottom <= other.top
        count += 0 if apart or other.right <= spot.left or spot.right <= other.left else 10**6
    for path in paths:
        for start, end in pairwise(path):
            (x0, y0), (x1, y1) = sorted((start, end))
            if x1 < spot.left or spot.right < x0:
                continue
            slope = (y1 - y0) / (x1 - x0) if x1 > x0 else 0.0
            first = y0 + slope * (max(x0, spot.left) - x0)
            last = y0 + slope * (min(x1, spot.right) - x0) if x1 > x0 else y1
            count += min(first, last) < spot.bottom and spot.top < max(first, last)
    return count
