"""Numbers as colours: heat maps, and text with a value behind each piece."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unrolled.report.blocks import Axis, Heat, Spans, floats, grid, is_range
from unrolled.report.colours import SHADES, pictures
from unrolled.report.frame import WIDTH, Plot, chart, evenly, figure, flat, frame, nothing
from unrolled.report.markup import escaped, inline
from unrolled.report.scales import Scale, Tick, number, ticks

MOST_CELLS: Final = 65_536
MOST_COLUMNS: Final = 512
MOST_ROWS: Final = 256


def heat(item: Heat) -> str:
    """A heat map."""
    values = grid(item.values, item.title)
    if not np.isfinite(values).any():
        return nothing(item.title, item.how)
    cells, (down, across) = averaged(values)
    rows, columns = cells.shape
    height = 28 * rows if rows <= 10 else min(420, max(280, 6 * rows))
    wide = columns > 64
    # Two images rather than one with two sources: a browser that prints does not wait for another source.
    light, dark = pictures(_fractions(cells, item.low, item.high, item.diverging), item.diverging)
    images = f'<img class="light" src="{light}" alt=""><img class="dark" src="{dark}" alt="">'
    x_ticks, x_names = _axis(item.x, values.shape[1], across, 8)
    y_ticks, y_names = _axis(item.y, values.shape[0], down, max(2, height // 50))
    if not is_range(item.y):
        y_ticks = evenly(y_names, height, 15)
    lines = ""
    if columns <= 32 and rows <= 32:
        lines = "".join(f"M{flat(WIDTH * k / columns)} 0V{height}" for k in range(1, columns))
        lines += "".join(f"M0 {flat(height * k / rows)}H{WIDTH}" for k in range(1, rows))
        lines = f'<path class="cells" d="{lines}"/>'
    plot = Plot(
        height, lines, x_ticks, item.x_label, y_ticks, item.y_label, images, wide=wide, downwards=True
    )
    names = [item.y_label or "row", item.x_label or "column", item.value_label]
    data = {
        "names": names, "x": x_names, "y": y_names,
        "text": " ".join(number(float(value), 3) for value in cells.flat),
    }  # fmt: skip
    note = f"Each cell is the mean of {down} × {across} values." if down * across > 1 else ""
    content = chart("heat", _heat_summary(item, values), frame(plot), data)
    return figure(item.title, item.how, content, wide=wide, legend=_heat_legend(item, values), note=note)


def _heat_summary(item: Heat, values: NDArray[np.float64]) -> str:
    rows, columns = values.shape
    finite = values[np.isfinite(values)]
    low, middle, high = (number(float(value)) for value in (finite.min(), np.median(finite), finite.max()))
    return (
        f"{item.title}. Heat map of {item.value_label}, {rows} by {columns} values from {low} to {high},"
        f" half of them below {middle}."
    )


def averaged(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], tuple[int, int]]:
    """A large table as the means of equal blocks, which pass over what is missing, and the blocks' size."""
    rows, columns = values.shape
    down, across = math.ceil(rows / MOST_ROWS), math.ceil(columns / MOST_COLUMNS)
    while math.ceil(rows / down) * math.ceil(columns / across) > MOST_CELLS:
        down += 1
    if down * across == 1:
        return values, (1, 1)
    padded = np.pad(values, ((0, -rows % down), (0, -columns % across)), constant_values=math.nan).reshape(
        -(-rows // down), down, -(-columns // across), across
    )
    there = ~np.isnan(padded)
    with np.errstate(invalid="ignore", over="ignore"):
        total = np.where(there, padded, 0.0).sum(axis=(1, 3))
        return total / there.sum(axis=(1, 3)), (down, across)


def _fractions(cells: NDArray[np.float64], low: float, high: float, diverging: bool) -> NDArray[np.float64]:
    """Where on the ramp each value stands, 0 to 1."""
    low, high = _ends(low, high, diverging)
    with np.errstate(invalid="ignore", over="ignore"):
        return np.clip((cells - low) / (high - low), 0.0, 1.0)


def _ends(low: float, high: float, diverging: bool) -> tuple[float, float]:
    """What the ends of the ramp stand for."""
    if diverging and low < 0 < high:
        high = max(-low, high)
        return -high, high
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _axis(axis: Axis, size: int, block: int, most: int) -> tuple[list[Tick], list[str]]:
    """The ticks of an axis, and what each row or column of cells is called."""
    starts = range(0, size, block)
    if is_range(axis):
        first, last = (float(end) for end in axis)
        step = (last - first) / (size - 1) if size > 1 else 0.0
        names = [number(first + step * k) for k in range(size)]
        if step == 0.0:
            return [Tick(0.5, names[0])], _joined(names, starts, block)
        whole = first.is_integer() and last.is_integer()
        marks = ticks(Scale(min(first, last), max(first, last)), most, whole=whole)
        places = [Tick(at if step > 0 else 1 - at, label) for at, label in marks]
        places = [Tick((at * (size - 1) + 0.5) / size, label) for at, label in places]
        return places, _joined(names, starts, block)
    names = [str(label) for label in axis]
    return [Tick((k + 0.5) / size, name) for k, name in enumerate(names)], _joined(names, starts, block)


def _joined(names: list[str], starts: range, block: int) -> list[str]:
    """The names of blocks: of their first and last row."""
    if block == 1:
        return names
    return [f"{names[k]} to {names[min(k + block, len(names)) - 1]}" for k in starts]


def _heat_legend(item: Heat, values: NDArray[np.float64]) -> str:
    low, high = _ends(item.low, item.high, item.diverging)
    known = values[~np.isnan(values)]
    texts = (
        ("≤ " if known.min() < low else "") + number(low),
        ("≥ " if known.max() > high else "") + number(high),
    )
    missing = '<span><i class="none"></i>no value</span>' if np.isnan(values).any() else ""
    return _ramp(item.value_label, "div" if item.diverging else "seq", texts) + f"{missing}</div>"


def _ramp(name: str, kind: str, ends: tuple[str, str]) -> str:
    low, high = map(escaped, ends)
    return (
        f'<div class="legend"><span>{inline(name)}</span><span class="ramp"><b>{low}</b>'
        f'<i class="{kind}"></i><b>{high}</b></span>'
    )


def spans(item: Spans) -> str:
    """A text whose pieces are coloured."""
    values = floats((value for _, value in item.spans), item.title)
    if not values:
        return nothing(item.title, item.how)
    most = max(abs(item.low), abs(item.high)) or 1.0
    pieces = []
    for (piece, _), value in zip(item.spans, values, strict=True):
        shade = "none" if math.isnan(value) else _shade(value / most)
        # The sign of a line's end is drawn by the style sheet, so that the text is copied as it is.
        end = " end" if piece.startswith("\n") else ""
        pieces.append(f'<span class="{shade}{end}">{escaped(piece)}</span>')
    known = [value for value in values if math.isfinite(value)]
    text = "".join(piece for piece, _ in item.spans)
    between = f"{number(min(known))} to {number(max(known))}" if known else "nothing known"
    summary = f"{item.title}. {item.value_label} of each piece, {between}. The text: {text[:500]}"
    ends = number(-most), number(most)
    content = f'<div class="plot text">{"".join(pieces)}</div>'
    data = {"name": item.value_label, "text": " ".join(number(value) for value in values)}
    legend = _ramp(item.value_label, "tint", ends) + "</div>"
    return figure(item.title, item.how, chart("spans", summary, content, data), wide=True, legend=legend)


def _shade(fraction: float) -> str:
    """The class of a piece: n8 is the lowest, p8 the highest, empty next to 0."""
    step = round(SHADES * min(max(fraction, -1.0), 1.0))
    return f"n{-step}" if step < 0 else f"p{step}" if step else ""
