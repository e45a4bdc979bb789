"""Bar charts, from top to bottom."""

from __future__ import annotations

import math
from typing import Final

from unrolled.report.blocks import Bars, floats
from unrolled.report.frame import WIDTH, Plot, chart, evenly, figure, flat, frame, nothing
from unrolled.report.markup import percent
from unrolled.report.scales import has_place, number, scale_over, ticks

ROW: Final = 30
THIN_ROW: Final = 12
"""The height of a row where there are more than forty."""


def bars(item: Bars) -> str:
    """A bar chart."""
    values = floats(item.values, item.title)
    low, high = (values if v is None else floats(v, item.title) for v in (item.low, item.high))
    scale = scale_over([0.0, *values, *low, *high], log=False, rounded=5)
    if scale is None or not any(has_place(value, log=False) for value in values):
        return nothing(item.title, item.how)
    row = ROW if len(values) <= 40 else THIN_ROW
    height = row * len(values)
    x_ticks = ticks(scale, 6)
    zero = WIDTH * (scale.at(0.0) or 0.0)
    drawing = f'<path class="grid" d="{"".join(f"M{flat(WIDTH * t.at)} 0V{height}" for t in x_ticks)}"/>'
    texts = []
    for k, value in enumerate(values):
        at = scale.at(value)
        texts.append(number(value))
        if at is not None:
            left, right = sorted((zero, WIDTH * at))
            side = "bar below" if value < 0 else "bar"
            drawing += (
                f'<rect class="{side}" x="{flat(left)}" y="{flat((k + 0.2) * row)}"'
                f' width="{flat(right - left)}" height="{flat(0.6 * row)}"/>'
            )
        if item.low is not None:
            start, end = scale.at(low[k]), scale.at(high[k])
            texts[-1] += f" ({number(low[k])} to {number(high[k])})"
            if start is not None and end is not None:
                place = f"M{flat(WIDTH * start)} {flat((k + 0.5) * row)}H{flat(WIDTH * end)}"
                drawing += f'<path class="error" d="{place}"/>'
    drawing += f'<path class="axis" d="M{flat(zero)} 0V{height}"/>'
    shown = [number(value, 3) for value in values]
    longest = max(shown, key=len)
    beside = f'<div class="values" aria-hidden="true"><b>{longest}</b>' + "".join(
        f'<span style="top:{percent((k + 0.5) / len(values))}">{shown[k]}</span>'
        for k in range(0, len(values), math.ceil(16 / row))
    )
    plot = Plot(
        height, drawing, x_ticks, item.x_label, evenly(item.labels, height, 16), beside=f"{beside}</div>"
    )
    listed = ", ".join(f"{label} {text}" for label, text in zip(item.labels[:20], texts, strict=False))
    more = f", and {len(values) - 20} more" if len(values) > 20 else ""
    summary = f"{item.title}. Bar chart of {item.x_label or 'values'}: {listed}{more}."
    data = {"labels": [*item.labels], "text": texts, "value": item.x_label}
    style = " tall" if row == ROW else ""
    return figure(item.title, item.how, chart("bars", summary, frame(plot), data, style))
