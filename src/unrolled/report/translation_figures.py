"""Figures of translators: a training, where words are looked for, and how good they are by length."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from unrolled.report.colours import SEQUENTIAL
from unrolled.report.figures import png
from unrolled.report.translation import Alignment, smoothed

BLUE, ORANGE, GREEN, GREY = "#1f5fa8", "#c8501e", "#129c7f", "#777777"
SERIES: Final = (BLUE, ORANGE, GREEN, "#8a2560", "#a67c00", "#2f93c6")
DASHED: Final = (0, (4, 3))

PALE: Final = LinearSegmentedColormap.from_list("pale", SEQUENTIAL[0][:7])
"""From paper to blue, so that black numbers can be read on all but the darkest."""

CELL: Final = 0.36
"""Inches of a word's row and column."""

MANY: Final = 24
"""Words of a sentence from which on rows and columns are narrower, and no numbers stand in them."""

MOST: Final = 60
"""Words of either side that are drawn."""


def alignment_figure(alignments: Sequence[Alignment]) -> bytes:
    """Heat maps of source words (columns) and written words (rows), one for each sentence, as a PNG."""
    drawn = [each for each in alignments if each.weights]
    if not drawn:
        figure = Figure(figsize=(5, 1.2), dpi=120, layout="constrained")
        axes = figure.add_subplot()
        axes.set_axis_off()
        axes.text(0.5, 0.5, "nothing was written, or nothing was looked at", ha="center", color=GREY)
        return png(figure)
    columns = 1 if len(drawn) == 1 else 2
    rows = [drawn[k : k + columns] for k in range(0, len(drawn), columns)]
    longest = max(len(side[:MOST]) for each in drawn for side in (each.source, each.target))
    cell = CELL if longest < MANY else max(0.15, CELL * MANY / longest / 1.6)
    tall = [max(cell * len(each.target[:MOST]) + _room(each.source) for each in row) for row in rows]
    wide = max(cell * len(each.source[:MOST]) + _room(each.target) for each in drawn)
    figure = Figure(figsize=(columns * wide + 0.4, sum(tall) + 0.35), dpi=120, layout="constrained")
    grid = figure.add_gridspec(len(rows), columns, height_ratios=tall)
    for down, row in enumerate(rows):
        for across, each in enumerate(row):
            axes = figure.add_subplot(grid[down, across])
            _map(axes, each, small=longest >= MANY)
            # Of one size everywhere, from the upper left corner on.
            axes.set_xlim(-0.5, max(min(len(one.source), MOST) for one in drawn) - 0.5)
            axes.set_ylim(max(min(len(one.target), MOST) for one in row) - 0.5, -0.5)
            axes.set_anchor("NW")
    return png(figure)


def _room(words: Sequence[str]) -> float:
    """Inches for words along one side."""
    return 0.35 + 0.085 * max(map(len, words), default=1)


def _map(axes: Axes, each: Alignment, small: bool) -> None:
    source, target = each.source[:MOST], each.target[:MOST]
    weights = [row[:MOST] for row in each.weights[:MOST]]
    axes.imshow(weights, cmap=PALE, vmin=0, vmax=1, aspect="equal")
    size = 7 if small else 9
    axes.set_xticks(range(len(source)), source, rotation=90, fontsize=size)
    axes.set_yticks(range(len(target)), target, fontsize=size)
    axes.xaxis.tick_top()
    axes.tick_params(length=0, colors="#222222")
    axes.spines[:].set_visible(False)
    right, bottom = len(source) - 0.5, len(target) - 0.5
    axes.vlines(
        [k - 0.5 for k in range(len(source) + 1)],
        -0.5,
        bottom,
        color="white",
        linewidth=0.6 if small else 1.2,
    )
    axes.hlines(
        [k - 0.5 for k in range(len(target) + 1)], -0.5, right, color="white", linewidth=0.6 if small else 1.2
    )
    for row, values in enumerate(weights):
        for column, value in enumerate(values):
            if value >= 0.095 and not small:
                colour = "white" if value > 0.6 else "#33475b"
                axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=6.5,
                          color=colour)  # fmt: skip


def training_figure(
    metrics: Sequence[Mapping[str, Any]], baselines: Mapping[str, Mapping[str, float]], title: str
) -> bytes:
    """Cross-entropy and BLEU over training steps, beside what is reached without a network, as a PNG.

    Args:
        metrics: the records of a run; those with `loss` are training steps, those with
            `held_out_nats_per_token` and `bleu` measurements.
        baselines: BLEU and more by name.
    """
    losses = smoothed([(r["step"], r["loss"]) for r in metrics if "loss" in r])
    held = [r for r in metrics if "held_out_nats_per_token" in r]
    figure = Figure(figsize=(10, 4.2), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    if losses:
        left.plot(*zip(*losses, strict=True), color=BLUE, linewidth=1.3, label="training (smoothed)")
    steps = [r["step"] for r in held]
    last = max([*steps, *(step for step, _ in losses)], default=0) or 1
    if held:
        left.plot(steps, [r["held_out_nats_per_token"] for r in held], "o-", color=ORANGE, markersize=4,
                  label="held-out sentences")  # fmt: skip
        right.plot(steps, [r["bleu"] for r in held], "o-", color=ORANGE, markersize=4, label="BLEU")
        right.plot(steps, [r["chrf"] for r in held], "o-", color="#e8b08f", markersize=3, label="chrF")
    for name, value in baselines.items():
        right.axhline(value["bleu"], color=GREY, linewidth=0.8, linestyle=DASHED)
        right.annotate(f"{name}: BLEU {value['bleu']:.1f}", (last, value["bleu"]), ha="right", va="bottom",
                       xytext=(0, 2), textcoords="offset points", fontsize=8, color="#555555")  # fmt: skip
    left.set_ylabel("nats per token")
    right.set_ylabel("from 0 to 100")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.set_xlim(0, last)
        axes.set_xlabel("gradient steps")
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=9)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    return png(figure)


def lengths_figure(curves: Mapping[str, Sequence[tuple[float, float]]], what: str, title: str) -> bytes:
    """How good translations are by the length of the source, a line for each run, as a PNG.

    Args:
        curves: lengths and figures, by name.
        what: "BLEU", or "exact" for shares from 0 to 1.
    """
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for k, (name, points) in enumerate(curves.items()):
        known = [(x, y) for x, y in points if math.isfinite(y)]
        axes.plot(*zip(*known, strict=True), "o-", color=SERIES[k % len(SERIES)], markersize=3.5,
                  linewidth=1.4, label=name)  # fmt: skip
    axes.set_xlabel("words of the source")
    if what == "BLEU":
        axes.set_ylabel("BLEU")
        axes.set_ylim(bottom=0)
    else:
        axes.set_ylabel(what)
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlim(left=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_title(title, loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=9)
    return png(figure)
