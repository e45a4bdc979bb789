"""Figures from records."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import PercentFormatter, ScalarFormatter


def loss_figure(metrics: Sequence[Mapping[str, Any]], baselines: Mapping[str, float], title: str) -> bytes:
    """Bits per character over training steps, beside the baselines, as a PNG.

    Args:
        metrics: the records of a run; those with `bits_per_character` are training steps, those with
            `held_out_bits_per_character` measurements on the held-out text.
        baselines: bits per character by name.
    """
    training = [(r["step"], r["bits_per_character"]) for r in metrics if "bits_per_character" in r]
    held_out = [
        (r["step"], r["held_out_bits_per_character"]) for r in metrics if "held_out_bits_per_character" in r
    ]
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    if training:
        axes.plot(*zip(*training, strict=True), color="#9db8d9", linewidth=0.8)
        axes.plot(*zip(*_smoothed(training), strict=True), color="#1f5fa8", label="training (smoothed)")
    if held_out:
        axes.plot(*zip(*held_out, strict=True), "o-", color="#c8501e", markersize=4, label="held-out text")
    last = max((step for step, _ in training + held_out), default=0) or 1
    axes.set_xlim(0, last * 1.14)
    for name, value in baselines.items():
        axes.axhline(value, color="#777777", linewidth=0.8, linestyle=(0, (4, 3)))
        axes.annotate(
            f"{name} {value:.2f}", (last * 1.135, value), ha="right", va="bottom", fontsize=8, color="#555555"
        )
    axes.set_xlabel("gradient steps")
    axes.set_ylabel("bits per character")
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_ylim(bottom=math.floor(min((bits for _, bits in training + held_out if bits), default=0)))
    axes.spines[["top", "right"]].set_visible(False)
    if training or held_out:
        axes.legend(frameon=False, loc="lower left", fontsize=9)
    return png(figure)


def truncation_figure(losses: Sequence[Mapping[str, Any]], whole: str, title: str) -> bytes:
    """The cosine and the ratio of norms between truncated and exact gradients as they reach back, as a PNG.

    Args:
        losses: records with `k2`, `parameter`, `cosine` and `norm_ratio`.
        whole: the name of all parameters together, which is drawn above the others.
    """
    figure = Figure(figsize=(9, 4.5), dpi=120, layout="constrained")
    names = sorted(dict.fromkeys(r["parameter"] for r in losses), key=lambda name: name == whole)
    colours = matplotlib.colormaps["viridis"]
    both = figure.subplots(1, 2, sharex=True)
    for axes, key, label in zip(both, ("cosine", "norm_ratio"), ("cosine", "ratio of norms"), strict=True):
        for place, name in enumerate(names):
            points = [(r["k2"], r[key]) for r in losses if r["parameter"] == name and r[key] is not None]
            if not points:
                continue
            style: dict[str, Any] = {"color": colours(place / max(len(names) - 1, 1)), "linewidth": 1.0}
            if name == whole:
                style = {"color": "#c8501e", "linewidth": 2.2, "marker": "o", "markersize": 4}
            axes.plot(*zip(*points, strict=True), label=name, **style)
        axes.axhline(1, color="#777777", linewidth=0.8, linestyle=(0, (4, 3)))
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.set_xlabel("steps that the gradient reaches back (k2)")
        axes.set_ylabel(f"{label}, truncated and exact gradient")
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*both[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    return png(figure)


def accuracy_figure(
    metrics: Sequence[Mapping[str, Any]], baselines: Mapping[str, float], title: str
) -> bytes:
    """Accuracy over training steps beside the baselines, and the gradient by layer, as a PNG.

    Args:
        metrics: the records of a run; those with `accuracy` are training steps, those with `test_accuracy`,
            `low` and `high` measurements, and those with `gradient_by_layer` the norms of all layers.
        baselines: accuracies by name.
    """
    figure = Figure(figsize=(10, 4.2), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
    accuracy_axes(left, metrics, baselines)
    looks = [r for r in metrics if "gradient_by_layer" in r]
    for record, colour in zip(looks[:1] + looks[1:][-1:], ("#9db8d9", "#1f5fa8"), strict=False):
        norms = record["gradient_by_layer"]
        points = [(k, norm) for k, norm in enumerate(norms, 1) if norm]
        many = len(norms) > 40
        right.plot(
            [k for k, _ in points], [norm for _, norm in points], "." if many else "o-",
            color=colour, markersize=2.5 if many else 3.5,
            label=f"after {record['step']:,} steps" if record["step"] else "at first",
        )  # fmt: skip
    right.set_yscale("log")
    right.set_xlabel("layer")
    right.set_ylabel("norm of the gradient of its parameters")
    if looks:
        right.legend(frameon=False, fontsize=9)
    right.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    return png(figure)


def accuracy_axes(axes: Axes, metrics: Sequence[Mapping[str, Any]], baselines: Mapping[str, float]) -> None:
    """Accuracy over training steps, that on what is held out with its 95% interval, and the baselines.

    Args:
        metrics, baselines: see `accuracy_figure`.
    """
    training = [(r["step"], r["accuracy"]) for r in metrics if "accuracy" in r]
    tested = [(r["step"], r["test_accuracy"], r["low"], r["high"]) for r in metrics if "test_accuracy" in r]
    last = max((row[0] for row in training + tested), default=0) or 1
    if training:
        axes.plot(*zip(*_smoothed(training), strict=True), color="#1f5fa8", label="training (smoothed)")
    if tested:
        steps, shares, lows, highs = zip(*tested, strict=True)
        axes.fill_between(steps, lows, highs, color="#c8501e", alpha=0.18, linewidth=0)
        axes.plot(steps, shares, "o-", color="#c8501e", markersize=4, label="test, with 95% confidence")
    for name, value in baselines.items():
        axes.axhline(value, color="#777777", linewidth=0.8, linestyle=(0, (4, 3)))
        axes.annotate(
            f"{name} {value:.1%}", (last, value), ha="right", va="top" if value > 0.5 else "bottom",
            xytext=(0, -3 if value > 0.5 else 2), textcoords="offset points", fontsize=8, color="#555555",
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )  # fmt: skip
    axes.set_ylim(0, 1.02)
    axes.set_xlim(0, last)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("gradient steps")
    axes.set_ylabel("accuracy")
    if training or tested:
        crossed = any(0.35 < value < 0.65 for value in baselines.values())
        axes.legend(frameon=False, loc="lower right" if crossed else "center right", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def png(figure: Figure) -> bytes:
    """A figure as a file."""
    with matplotlib.rc_context({"svg.hashsalt": "unrolled"}):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _smoothed(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """A moving average over about the last fiftieth of all points, or over a third of those so far."""
    window = len(points) / 50
    value, smooth = points[0][1], []
    for k, (step, bits) in enumerate(points):
        value += (bits - value) / max(1.0, min(window, k / 3))
        smooth.append((step, value))
    return smooth
