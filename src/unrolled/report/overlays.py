"""Where a network looked in a picture, word by word: the picture, then one of it for each word, lit where the
weights are."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from unrolled.errors import InputError
from unrolled.report.captions import Looked
from unrolled.report.figures import png

Floats = NDArray[np.floating[Any]]

INK: Final = "#18202b"
MUTED: Final = "#566172"
RULE: Final = "#d5dae1"
GLOW: Final = np.array([223, 90, 16]) / 255
PAPER: Final = 0.62
"""How far the picture recedes under its overlay, to white."""
STRONGEST: Final = 0.85
"""How much of the picture the brightest place hides."""
SPREAD: Final = 0.55
"""Of the bell curve by which a place shines, in places."""
ACROSS: Final = 8
"""Panels in a row, the picture among them."""


def overlay_sheet(rows: Sequence[Looked], across: int = ACROSS) -> bytes:
    """A contact sheet as a PNG: for each picture a row, or several where it has many words.

    Args:
        across: panels side by side, at least 2: the picture, and words.
    """
    if not rows or across < 2:
        raise InputError("a sheet of overlays has a picture at least, and room for it and a word")
    words = across - 1
    lines = [(row, k) for row in rows for k in range(0, max(len(row.words), 1), words)]
    columns = 1 + min(words, max(max(len(row.words) for row in rows), 3))
    more = any(row.title for row in rows) + any("\n" in _in_lines(row.below, 28) for row in rows)
    figure = Figure(figsize=(1.45 * columns + 0.25, (1.85 + 0.1 * more) * len(lines) + 0.15), dpi=130)
    grid = figure.add_gridspec(
        len(lines), columns, left=0.012, right=0.988, wspace=0.08, hspace=0.34 + 0.1 * more,
        top=1 - 0.48 / (1.95 * len(lines) + 0.15), bottom=0.3 / (1.95 * len(lines) + 0.15),
    )  # fmt: skip
    for line, (row, begin) in enumerate(lines):
        if not begin:
            axes = figure.add_subplot(grid[line, 0])
            _panel(axes, row.picture / 255)
            axes.set_title(
                _in_lines(row.title, 22), loc="left", fontsize=8.5, color=INK, pad=4, fontweight="bold"
            )
            axes.set_xlabel(_in_lines(row.below, 28), fontsize=7, color=MUTED, labelpad=3, loc="left")
        height, width = row.picture.shape[:2]
        weights = np.zeros((0, 1, 1)) if row.weights is None else row.weights
        strongest = max((float(smooth(each, height, width).max()) for each in weights), default=1.0)
        for k, word in enumerate(row.words[begin : begin + words]):
            axes = figure.add_subplot(grid[line, k + 1])
            _panel(axes, lit(row.picture, weights[begin + k], strongest))
            axes.set_title(textwrap.shorten(word, 16, placeholder="…"), fontsize=9.5, color=INK, pad=4)
            axes.set_xlabel(
                f"up to {weights[begin + k].max():.0%} in a place", fontsize=6.5, color=MUTED, labelpad=3
            )
    return png(figure)


def lit(picture: NDArray[np.uint8], weights: Floats, strongest: float) -> Floats:
    """A picture that recedes, but for a glow where weights (h, w) are; from 0 to 1, (H, W, 3).

    Args:
        strongest: what shines most, as `smooth` has it.
    """
    height, width = picture.shape[:2]
    glow = smooth(weights, height, width)
    grey = (picture / 255) @ np.array([0.299, 0.587, 0.114])
    faint = PAPER + (1 - PAPER) * grey[..., None]
    alpha = STRONGEST * np.clip(glow / max(strongest, 1e-9), 0, 1)[..., None]
    found: Floats = (1 - alpha) * faint + alpha * (0.75 * GLOW + 0.25 * GLOW * grey[..., None])
    return found


def smooth(weights: Floats, height: int, width: int) -> Floats:
    """Weights (h, w) as a surface (height, width) without corners: near a place it is what the weights around
    it are on average, by a bell curve."""
    h, w = weights.shape
    found: Floats = _bells(height, h) @ weights @ _bells(width, w).T
    return found


def _in_lines(text: str, width: int) -> str:
    """Two lines at most, about as wide as a panel."""
    return "\n".join(textwrap.wrap(text, width, max_lines=2, placeholder=" …"))


def _bells(size: int, places: int) -> Floats:
    """(size, places), rows that add to 1."""
    at = (np.arange(size) + 0.5) / size * places
    bells = np.exp(-0.5 * ((at[:, None] - np.arange(places) - 0.5) / SPREAD) ** 2)
    found: Floats = bells / bells.sum(1, keepdims=True)
    return found


def _panel(axes: Axes, pixels: Floats) -> None:
    axes.imshow(pixels, vmin=0, vmax=1, interpolation="antialiased")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(RULE)
        spine.set_linewidth(0.8)
