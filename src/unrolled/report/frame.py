"""A chart as HTML: a plot in SVG, with its ticks and labels as text around it.

The plot stretches to the width there is while texts and strokes keep their size, so one drawing is legible on
a phone and fills a wide screen. Nothing of it needs a script; the data beside a chart are what the page's
script shows under the pointer. A plot's height is in CSS pixels, its width is `WIDTH` units of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from unrolled.report.markup import escaped, inline, island, percent
from unrolled.report.scales import Tick

WIDTH: Final = 1000


@dataclass(frozen=True)
class Plot:
    """A drawing and what stands around it. Ticks are at fractions from the left and from the top.

    Args:
        drawing: SVG elements, `WIDTH` by `height`.
        over: HTML on top of the drawing.
        beside: HTML at its right.
        headroom: pixels above the drawing, for what stands over it.
        wide: it has the whole width of the page, and so room for more ticks.
        downwards: the rows are read from the top.
    """

    height: int
    drawing: str
    x_ticks: Sequence[Tick]
    x_label: str
    y_ticks: Sequence[Tick]
    y_label: str = ""
    over: str = ""
    beside: str = ""
    headroom: int = 6
    wide: bool = False
    downwards: bool = False


def figure(
    title: str, how: str, content: str, *, wide: bool = False, legend: str = "", note: str = ""
) -> str:
    """A card with a title, a legend, what it shows, and how to read that."""
    remark = f' <span class="aside">{inline(note)}</span>' if note else ""
    return (
        f'<figure class="card{" wide" if wide else ""}"><h3>{inline(title)}</h3>{legend}{content}'
        f"<figcaption>{inline(how)}{remark}</figcaption></figure>"
    )


def nothing(title: str, how: str) -> str:
    """The card of a figure without data."""
    return figure(title, how, '<p class="nothing">nothing to show</p>')


def chart(kind: str, summary: str, content: str, data: dict[str, Any], style: str = "") -> str:
    """What the keyboard reaches and the pointer asks; `summary` is for those who cannot see it."""
    return (
        f'<div class="chart {kind}{style}" tabindex="0" role="img" aria-label="{escaped(summary)}">'
        f"{content}{island({'kind': kind, **data})}</div>"
    )


def frame(plot: Plot) -> str:
    """A plot with its axes."""
    longest = max((tick.label for tick in plot.y_ticks), key=_wide, default="")
    rows = "".join(f'<span style="top:{percent(at)}">{escaped(label)}</span>' for at, label in plot.y_ticks)
    columns = "".join(
        f'<span style="left:{percent(at)}"{"" if always else " class=roomy"}>{escaped(label)}</span>'
        for (at, label), always in _uncrowded(plot.x_ticks, 800 if plot.wide else 400)
    )
    arrow = "↓" if plot.downwards else "↑"
    y_label = f'<div class="y-label"><i>{arrow}</i> {escaped(plot.y_label)}</div>' if plot.y_label else ""
    x_label = f'<div class="x-label">{escaped(plot.x_label)} <i>→</i></div>' if plot.x_label else ""
    return (
        f'{y_label}<div class="frame" style="padding-top:{plot.headroom}px">'
        f'<div class="ys"><b>{escaped(longest)}</b>{rows}</div>'
        f'<div class="plot" style="height:{plot.height}px"><svg viewBox="0 0 {WIDTH} {plot.height}"'
        f' preserveAspectRatio="none" aria-hidden="true">{plot.drawing}</svg>{plot.over}</div>'
        f'{plot.beside}<div class="xs">{columns}</div>{x_label}</div>'
    )


def _wide(label: str) -> float:
    """About how wide a label is, in digits."""
    return sum(0.4 if sign in ".,’" else 1.0 for sign in label)


def _uncrowded(labels: Sequence[Tick], room: int) -> list[tuple[Tick, bool]]:
    """The labels that fit side by side, and whether they do on a phone too."""
    need = 14 + 6.6 * max((len(tick.label) for tick in labels), default=0)
    kept = labels[:: max(1, math.ceil(len(labels) * need / room))]
    few = max(1, math.ceil(len(kept) * need / 230))
    return [(tick, k % few == 0) for k, tick in enumerate(kept)]


def flat(value: float) -> str:
    """A coordinate of a drawing."""
    return f"{round(value, 2):.7g}"


def evenly(labels: Sequence[str], room: float, need: float) -> list[Tick]:
    """A label at the middle of each of equal parts, or at every so many that they keep their distance."""
    stride = max(1, math.ceil(need * len(labels) / room))
    return [Tick((k + 0.5) / len(labels), labels[k]) for k in range(0, len(labels), stride)]
