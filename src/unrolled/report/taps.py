"""Figures of networks with delay taps, from records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter, ScalarFormatter

from unrolled.report.figures import png

GREY: Final = "#777777"
TRUTH: Final = "#18202b"
ELMAN: Final = "#8a94a3"
NARX: Final = "#c8501e"


def latch_figure(record: Mapping[str, Any]) -> bytes:
    """Trainings that succeed by the length of the strings, and derivatives by lag, as a PNG.

    Args:
        record: of `unrolled.tasks.narx_latch.Latching`, as plain data.
    """
    figure = Figure(figsize=(10, 4.2), dpi=120, layout="constrained")
    shares, reach = figure.subplots(1, 2)
    orders, lengths = record["orders"], record["lengths"]
    for place, each in enumerate(orders):
        style = {"color": _ramp(place, len(orders)), "linewidth": 1.8}
        name = "lag 1" if each["order"] == 1 else f"lags 1 to {each['order']}"
        shares.plot(lengths, each["shares"], "o-", markersize=3.5, label=name, **style)
        if each["half"]:
            shares.plot(
                [each["half"]] * 2, [0, 0.5], color=style["color"], linewidth=0.9, linestyle=(0, (2, 2))
            )
        reach.plot(range(len(each["derivatives"])), each["derivatives"], label=name, **style)
    shares.axhline(0.5, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
    _lengths(shares, lengths)
    _shares(shares, 0)
    shares.set_xlabel("length of the strings")
    shares.set_title("trainings that latch the class", loc="left", fontsize=10)
    _legend(shares)
    reach.axhline(0.01, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
    reach.annotate("1% left", (30, 0.0105), fontsize=8, color="#555555", ha="right", va="bottom")
    reach.set_yscale("log")
    reach.set_xlim(0, 30)
    reach.set_ylim(3e-3, 1.2)
    reach.set_xlabel("n, steps back")
    reach.set_title("$|d y_t\\, / \\, d y_{t-n}|$ where a class is held", loc="left", fontsize=10)
    return _finished(figure)


def automata_figure(record: Mapping[str, Any]) -> bytes:
    """Accuracy on Tomita's grammars, and trainings that know a symbol of long ago, as a PNG.

    Args:
        record: of `unrolled.tasks.narx_automata.Automata`, as plain data.
    """
    figure = Figure(figsize=(10, 4.2), dpi=120, layout="constrained")
    grammars, held = figure.subplots(1, 2, width_ratios=(1.25, 1))
    colours = {"Elman": ELMAN, "NARX": NARX}
    for side, kind in ((-0.17, "Elman"), (0.17, "NARX")):
        places = range(len(record["grammars"]))
        means = [sum(g["right"][kind]) / len(g["right"][kind]) for g in record["grammars"]]
        size = record["sizes"]["grammar"][kind]
        grammars.bar(
            [k + side for k in places], means, 0.3, color=colours[kind], label=f"{kind}, {size} parameters"
        )
        for k, each in zip(places, record["grammars"], strict=True):
            runs = each["right"][kind]
            grammars.plot([k + side] * len(runs), runs, ".", color=TRUTH, markersize=4, zorder=3)
        length = record["sizes"]["symbol"][kind]
        held.plot(
            record["lengths"], record["held"][kind], "o-", color=colours[kind], linewidth=1.8, markersize=4,
            label=f"{kind}, {length} parameters",
        )  # fmt: skip
        if record["half"][kind]:
            held.plot(
                [record["half"][kind]] * 2,
                [0, 0.5],
                color=colours[kind],
                linewidth=0.9,
                linestyle=(0, (2, 2)),
            )
    for k, each in enumerate(record["grammars"]):
        grammars.plot([k - 0.36, k + 0.36], [each["commonest"]] * 2, color=GREY, linewidth=1)
    _shares(grammars, 0.5)
    grammars.set_xticks(range(len(record["grammars"])), [str(g["number"]) for g in record["grammars"]])
    grammars.set_xlabel("Tomita's grammar")
    grammars.set_title(
        "right answers in longer strings (grey: always the commoner class)", loc="left", fontsize=10
    )
    _legend(grammars)
    held.axhline(0.5, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
    _lengths(held, record["lengths"])
    _shares(held, 0)
    held.set_xlabel("length of the strings")
    held.set_title("trainings that know the third symbol at the end", loc="left", fontsize=10)
    _legend(held)
    return _finished(figure)


def forecast_figure(record: Mapping[str, Any]) -> bytes:
    """A free-run forecast beside the truth, and how far it is off, as a PNG.

    Args:
        record: of `unrolled.tasks.narx_forecast.Forecast`, as plain data.
    """
    figure = Figure(figsize=(10, 6), dpi=120, layout="constrained")
    runs, off = figure.subplots(2, 1, height_ratios=(2.2, 1), sharex=True)
    truth, before = record["truth"], record["before"]
    steps = range(len(truth))
    name, *others = record["forecasts"]
    for single in record["single"]:
        if single is not None:
            runs.plot(steps, single, color=NARX, linewidth=0.6, alpha=0.3)
    shown = before[-len(truth) // 2 :]
    runs.plot(range(-len(shown), 1), [*shown, truth[0]], color=GREY, linewidth=1.2, label="learned from")
    runs.plot(steps, truth, color=TRUTH, linewidth=1.6, label="what came")
    error = record["errors_of"][name]
    runs.plot(steps, record["forecasts"][name], color=NARX, linewidth=1.6, label=f"{name}: {error:.3f}")
    styles = {"linear network": "#1f5fa8", "nearest past": "#129c7f"}
    for other in others:
        if other in styles:
            label = f"{other}: {record['errors_of'][other]:.3f}"
            runs.plot(
                steps, record["forecasts"][other], color=styles[other], linewidth=0.9, alpha=0.8, label=label
            )
    low, high = min(*truth, *shown), max(*truth, *shown)
    runs.set_ylim(low - 0.15 * (high - low), high + 0.45 * (high - low))
    runs.axvline(0, ymax=0.8, color=GREY, linewidth=0.8)
    runs.set_title(
        f"{record['label']}: a free run, and its error over the variance of what came",
        loc="left",
        fontsize=10,
    )
    runs.legend(frameon=False, fontsize=9, ncols=3, loc="upper left")
    off.plot(
        steps,
        [a - b for a, b in zip(record["forecasts"][name], truth, strict=True)],
        color=NARX,
        linewidth=1.2,
    )
    off.axhline(0, color=GREY, linewidth=0.8)
    off.set_ylabel("forecast − what came")
    off.set_xlabel("steps after the last that was seen")
    off.set_xlim(-len(shown), len(truth))
    return _finished(figure)


def identify_figure(record: Mapping[str, Any]) -> bytes:
    """Models in place of their plants, in closed loop, as a PNG.

    Args:
        record: with `plants`, those of `unrolled.tasks.narx_identify.Identified`, as plain data.
    """
    rows = [(each, k) for each in record["plants"] for k in range(len(each["truth"][0]))]
    figure = Figure(figsize=(10, 1.2 + 1.75 * len(rows)), dpi=120, layout="constrained")
    all_axes = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    for axes, (each, k) in zip(all_axes, rows, strict=True):
        last = 200
        steps = range(min(last, len(each["truth"])))
        linear, narx = each["free"]["ARX"], each["free"]["NARX"]
        if linear is not None:
            axes.plot(steps, [v[k] for v in linear[:last]], color="#1f5fa8", linewidth=1, label="ARX")
        axes.plot(steps, [v[k] for v in each["truth"][:last]], color=TRUTH, linewidth=2.2, label="plant")
        if narx is not None:
            axes.plot(steps, [v[k] for v in narx[:last]], color=NARX, linewidth=1.1, label="NARX")
        channel = f", output {k + 1}" if len(each["truth"][0]) > 1 else ""
        errors = {name: each["free_run"][name] for name in ("NARX", "ARX")}
        told = ", ".join(f"{n} {'diverged' if e is None else f'{e:.2g}'}" for n, e in errors.items())
        axes.set_title(
            f"{each['number']}  {each['name']}{channel}     free-run error: {told}", loc="left", fontsize=9
        )
        axes.set_xlim(0, len(steps) - 1)
        axes.margins(y=0.12)
    all_axes[0].legend(frameon=False, fontsize=8, loc="upper right", ncols=3)
    all_axes[-1].set_xlabel("steps of the test, in closed loop from its beginning")
    return _finished(figure)


FIGURES: Final[dict[str, Callable[[Mapping[str, Any]], bytes]]] = {
    "latch": latch_figure,
    "automata": automata_figure,
    "forecast": forecast_figure,
    "identify": identify_figure,
}
"""By the name of the command."""


def _ramp(place: int, count: int) -> Any:
    return matplotlib.colormaps["plasma"](0.85 * (1 - place / max(count - 1, 1)) if count > 1 else 0.4)


def _lengths(axes: Axes, lengths: Sequence[int]) -> None:
    """Their logarithms, each marked."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator([*lengths]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())


def _shares(axes: Axes, least: float) -> None:
    """Percentages, with room above them for a legend."""
    axes.set_ylim(least - 0.03 * (1 - least), 1 + 0.15 * (1 - least))
    axes.yaxis.set_major_locator(FixedLocator([least + k * (1 - least) / 5 for k in range(6)]))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def _legend(axes: Axes) -> None:
    axes.legend(frameon=False, fontsize=9, ncols=4, loc="upper left", columnspacing=1.2, handlelength=1.4)


def _finished(figure: Figure) -> bytes:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    return png(figure)
