"""Results as one picture: bars rise from 1 where we are faster and hang where we are not."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import Bbox

from benchmarks.family import Family, Record
from benchmarks.results import Section
from benchmarks.table import number

BLUES = ("#1f5fa8", "#9db8d9", "#5b8fc7", "#123a68", "#c9d8ea")
SHORT = "#c8501e"
GREY = "#777777"
DASHED = (0, (4, 3))

LAYOUT: tuple[tuple[float, tuple[tuple[float, tuple[str, ...]], ...]], ...] = (
    (3.2, ((1, ("lstm", "lstm-inference")), (1, ("gru", "gru-inference")), (1, ("rnn", "rnn-inference")))),
    (3.4, ((1.7, ("loop",)), (1.3, ("jax",)))),
    (3.4, ((1, ("zoo",)),)),
    (2.1, ((1, ("compile",)), (1, ("memory",)))),
    (1.6, ((1, ("char",)), (1, ("sgemm",)))),
    (3.0, ((1, ("lengths",)), (1, ("resets",)))),
    (3.2, ((1, ("regularisers",)), (1, ("norms",)))),
    (2.0, ((1, ("start",)),)),
    (2.3, ((1, ("stream",)),)),
    (4.2, ((1, ("budgets",)), (0.8, ("million",)))),
    (1.4, ((1, ("checkpoints",)),)),
    (2.8, ((1, ("long_memory",)),)),
    (2.0, ((1.2, ("spectra",)), (1, ("flow",)))),
    (5.4, ((1, ("deep",)),)),
    (2.3, ((1, ("digits",)),)),
    (2.2, ((1, ("attention",)),)),
    (1.9, ((1.2, ("translation",)), (1, ("symbols",)))),
    (1.5, ((1, ("translation-speed",)),)),
    (2.1, ((1, ("labels",)), (1.6, ("captions",)))),
    (1.3, ((1, ("vqa",)),)),
)
"""Rows by height; in each, panels by width; in each, families."""

BARS = {
    "lstm",
    "gru",
    "rnn",
    "lstm-inference",
    "gru-inference",
    "rnn-inference",
    "loop",
    "jax",
    "lengths",
    "resets",
    "regularisers",
    "norms",
}
"""Families that are drawn over the grid."""


def draw(families: Mapping[str, Family], sections: Mapping[str, Section], form: str = "svg") -> bytes:
    """The picture of what there is, at least one section, as "svg" or "png"."""
    rows: list[tuple[float, list[tuple[float, list[str]]]]] = []
    for height, panels in LAYOUT:
        there = [(width, [n for n in names if n in sections]) for width, names in panels]
        if there := [panel for panel in there if panel[1]]:
            rows.append((height, there))
    figure = Figure(figsize=(11, sum(height for height, _ in rows)), dpi=100, layout="constrained")
    bands = figure.subfigures(len(rows), 1, height_ratios=[height for height, _ in rows], squeeze=False)
    for band, (_, shown) in zip(bands[:, 0], rows, strict=True):
        axes = band.subplots(1, len(shown), width_ratios=[width for width, _ in shown], squeeze=False)[0]
        for ax, (_, names) in zip(axes, shown, strict=True):
            _panel(ax, [(families[name], sections[name].records) for name in names])
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for band in bands[:, 0]:  # the solver's last bits change from run to run
        band.bbox_relative.set_points(band.bbox_relative.get_points().round(4))
    for ax in figure.axes:
        ax.set_position(Bbox(ax.get_position().get_points().round(4)))
    with matplotlib.rc_context({"svg.hashsalt": "unrolled"}):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=form, metadata={"Date": None} if form == "svg" else None)
    return buffer.getvalue()


def _panel(ax: Axes, shown: Sequence[tuple[Family, Sequence[Record]]]) -> None:
    family, records = shown[0]
    if any(record.curve for record in records):
        _learning(ax, family, records)
        return
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8)
    keys: list[Patch | Line2D] = []
    if family.name in BARS:
        keys = _bars(ax, shown)
    elif family.name == "zoo":
        keys = _dots(ax, family, records)
    else:
        _lines(ax, family, records)
    columns = 2 if len(keys) > 4 else 1
    title = family.title.removesuffix(", training")
    ax.set_title(title, loc="left", fontsize=10, pad=8 + 11 * -(-len(keys) // columns))
    if keys:
        ax.legend(
            handles=keys, frameon=False, fontsize=7.5, loc="lower left", bbox_to_anchor=(0, 1.01),
            ncols=columns, borderaxespad=0, borderpad=0, labelspacing=0.25, handlelength=1.6,
        )  # fmt: skip


def _bars(ax: Axes, shown: Sequence[tuple[Family, Sequence[Record]]]) -> list[Patch | Line2D]:
    """Bars at every size, side by side for every subject of every family."""
    series = [
        (family, subject if len(shown) == 1 else family.title.rpartition(", ")[2], points)
        for family, records in shown
        for subject in dict.fromkeys(record.subject for record in records)
        if (points := [record for record in records if record.subject == subject and record.size])
    ]
    sizes = list(dict.fromkeys(point.size for _, _, points in series for point in points))
    width = 0.8 / max(1, len(series))
    keys: list[Patch | Line2D] = []
    for k, (family, name, of_one) in enumerate(series):
        for point in of_one:
            at = sizes.index(point.size) + width * (k - (len(series) - 1) / 2)
            _bar(ax, family, point, at, width, BLUES[k % len(BLUES)])
        mean = family.means(of_one).get(of_one[0].subject)
        told = f"{name}: mean {number(mean.figure)}" if mean else name
        told += f", asked {mean.bar:g}" if mean and mean.bar else ""
        keys.append(Patch(color=BLUES[k % len(BLUES)], label=told))
    points = [point for _, _, of_one in series for point in of_one]
    keys += [
        Line2D([], [], color=GREY, linestyle=DASHED, label=f"asked of every point: {bar:g}")
        for bar in sorted({point.bar for point in points if point.bar})
    ]
    if any(
        family.verdict(point.figure, point.bar) == "below" for family, _, found in series for point in found
    ):
        keys.append(Patch(facecolor="none", edgecolor=SHORT, linewidth=1.6, label="less than asked"))
    _ratios(ax, points)
    ax.set_xticks(range(len(sizes)), ["\n".join(map(str, size or ())) for size in sizes], linespacing=1.1)
    ax.tick_params(axis="x", length=0, labelsize=7.5)
    ax.annotate("T\nB\nD\nH", (0, 0), xycoords="axes fraction", xytext=(-3, -3.5), textcoords="offset points",
                ha="right", va="top", fontsize=7.5, linespacing=1.1, color=GREY)  # fmt: skip
    ax.set_xlim(-0.6, len(sizes) - 0.4)
    return keys


def _bar(ax: Axes, family: Family, point: Record, at: float, width: float, colour: str) -> None:
    if point.figure is None or point.low is None or point.high is None:
        _mismatch(ax, at)
        return
    short = family.verdict(point.figure, point.bar) == "below"
    ax.bar(
        at, point.figure - 1, 0.92 * width, bottom=1, color=colour,
        edgecolor=SHORT if short else colour, linewidth=1.6 if short else 0,
    )  # fmt: skip
    ax.plot([at, at], [point.low, point.high], color="#333333", linewidth=0.8)


def _ratios(ax: Axes, points: Sequence[Record]) -> None:
    """A logarithmic axis about 1 that shows every point, its quartiles and its bar."""
    values = [
        value for point in points for value in (point.figure, point.low, point.high, point.bar) if value
    ]
    low, high = min([0.9, *values]) / 1.1, max([1.1, *values]) * 1.1
    ax.set_yscale("log")
    ax.set_ylim(low, high)
    _ticks(ax.yaxis, low, high)
    ax.axhline(1, color="#333333", linewidth=0.8)
    for bar in {point.bar for point in points if point.bar}:
        ax.axhline(bar, color=GREY, linewidth=0.8, linestyle=DASHED)


def _ticks(axis: Axis, low: float, high: float) -> None:
    """Few and round ones on a logarithmic axis of ratios."""
    fine, coarse = (
        (0.5, 0.6, 0.7, 0.8, 1, 1.2, 1.5, 2, 2.5, 3),
        (0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 20, 50),
    )
    axis.set_major_locator(
        FixedLocator([t for t in (fine if high / low < 4 else coarse) if low <= t <= high])
    )
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _dots(ax: Axes, family: Family, records: Sequence[Record]) -> list[Patch | Line2D]:
    """A column of points for every subject; its mean is a dash."""
    subjects = list(dict.fromkeys(record.subject for record in records))
    for point in records:
        at = subjects.index(point.subject)
        if point.figure is None:
            _mismatch(ax, at)
            continue
        colour = SHORT if family.verdict(point.figure, point.bar) == "below" else BLUES[0]
        alone = point.size is not None and point.size.B == 1
        ax.plot(at, point.figure, "o", markersize=4.5, color=colour, fillstyle="none" if alone else "full")
    for subject, mean in family.means(records).items():
        at = subjects.index(subject)
        ax.plot([at - 0.3, at + 0.3], [mean.figure] * 2, color="#333333", linewidth=1.6)
    _ratios(ax, records)
    ax.set_xticks(range(len(subjects)), subjects, rotation=35, ha="right", rotation_mode="anchor")
    ax.set_xlim(-0.6, len(subjects) - 0.4)

    def dot(colour: str, fill: Literal["full", "none"], label: str) -> Line2D:
        return Line2D(
            [], [], color=colour, marker="o", linestyle="", markersize=4.5, fillstyle=fill, label=label
        )

    return [
        dot(BLUES[0], "full", "a size of the grid"),
        dot(BLUES[0], "none", "a size with B = 1"),
        dot(SHORT, "full", "less than asked"),
        Line2D([], [], color="#333333", linewidth=1.6, label=f"geometric mean, asked {family.mean:g}"),
        Line2D([], [], color=GREY, linestyle=DASHED, label="asked of every point, and with B = 1"),
    ]


def _lines(ax: Axes, family: Family, records: Sequence[Record]) -> None:
    """A lying bar for every record in the family's unit, its number at the right, and where it should be."""
    records = [record for record in records if record.unit in ("", family.unit)]
    values = [value for record in records for value in (record.figure, record.bar) if value]
    least, most = min([1.0, *values]), max([1.0, *values])
    linear = family.unit not in ("", "s") or (not family.unit and most / least < 2)
    start = 0.0 if linear else least / 3 if family.unit else 1.0
    low, high = 0.0 if linear else min(start, least) / 1.1, most * 1.1
    ax.set_xlim(low, high)
    if not linear:
        ax.set_xscale("log")
        _ticks(ax.xaxis, low, high)
    if not family.unit:
        ax.axvline(1, color="#333333", linewidth=0.8)
    ax.set_xlabel({"": "", "s": "seconds"}.get(family.unit, family.unit), fontsize=8)
    for k, record in enumerate(records):
        told = "mismatch" if record.refused else "none"
        if record.figure is not None:
            short = family.verdict(record.figure, record.bar) in ("below", "above")
            ax.barh(k, record.figure - start, 0.6, left=start, color=SHORT if short else BLUES[0])
            told = number(record.figure)
        if record.bar:
            ax.plot([record.bar] * 2, [k - 0.42, k + 0.42], color="#333333", linewidth=1.6)
            told += f" (asked {record.bar:g})"
        ax.annotate(told, (1.0, k), xycoords=("axes fraction", "data"), fontsize=8, va="center",
                    xytext=(4, 0), textcoords="offset points", annotation_clip=False)  # fmt: skip
    names = [record.subject + (f"\n{record.size}" if record.size else "") for record in records]
    ax.set_yticks(range(len(names)), names, fontsize=8, linespacing=1.0)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(names) - 0.4, -0.6)


def _learning(ax: Axes, family: Family, records: Sequence[Record]) -> None:
    """In place of `ax` one for every problem: what is before the comma of a subject. Lines for what is behind
    it, over minutes; the baseline is 1."""
    curves = [record for record in records if record.curve]
    problems = list(dict.fromkeys(record.subject.partition(", ")[0] for record in curves))
    places, figure = ax.get_subplotspec(), ax.figure
    assert places is not None
    ax.remove()
    grid = places.subgridspec(1, len(problems), wspace=0.1)
    for k, problem in enumerate(problems):
        panel = figure.add_subplot(grid[k])
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8)
        panel.axhline(1, color=GREY, linewidth=0.8, linestyle=DASHED)
        panel.annotate("without a memory", (1, 1), xycoords=("axes fraction", "data"), fontsize=7.5,
                       ha="right", xytext=(0, 6), textcoords="offset points", color=GREY)  # fmt: skip
        for record in curves:
            name, _, kind = record.subject.partition(", ")
            if name == problem:
                colour = BLUES[0] if kind == "exact" else SHORT
                panel.plot(*zip(*record.curve, strict=True), color=colour, linewidth=1.3, label=kind)
                size = record.size
        panel.set_ylim(0, 1.3)
        panel.set_xlim(left=0)
        panel.set_xlabel("minutes of training", fontsize=8)
        panel.set_ylabel(f"error, {family.unit}", fontsize=8)
        panel.set_title(f"{problem}, T = {size.T:,}" if size else problem, loc="left", fontsize=10, pad=8)
        panel.legend(frameon=False, fontsize=7.5, loc="center", bbox_to_anchor=(0.5, 0.4))


def _mismatch(ax: Axes, at: float) -> None:
    ax.annotate("mismatch", (at, 1), rotation=90, fontsize=7, ha="center", va="bottom", color=SHORT)
