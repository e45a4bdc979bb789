"""A training of labels as a figure: accuracy over time, and which label was taken for which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unrolled.report.figures import accuracy_axes, png

NUMBERED: Final = 13
"""With at most so many labels, every share is written into its square."""

SHOWN: Final = 24
"""Labels that are shown, at most: the most frequent."""


def labels_figure(
    metrics: Sequence[Mapping[str, Any]], baselines: Mapping[str, float], classes: Sequence[str], title: str
) -> bytes:
    """Accuracy over training steps beside the baselines, and how often which label was found, as a PNG.

    Args:
        metrics: the records of a run; those with `accuracy` are training steps, those with `test_accuracy`,
            `low` and `high` measurements, and the last with `confusion` has the counts of labels found
            (columns) for each that is right (rows).
        baselines: accuracies by name.
        classes: the names of labels.
    """
    counts = next((r["confusion"] for r in reversed(metrics) if "confusion" in r), None)
    figure = Figure(figsize=(10, 4.4), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
    accuracy_axes(left, metrics, baselines)
    _confusion(right, counts, classes)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    return png(figure)


def _confusion(axes: Axes, counts: Sequence[Sequence[int]] | None, classes: Sequence[str]) -> None:
    if counts is None:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "labels are counted at the end", ha="center", va="center", color="#777777")
        return
    table = np.asarray(counts, dtype=np.float64)
    kept = np.sort(np.argsort(-table.sum(1), kind="stable")[:SHOWN])
    of = np.maximum(table.sum(1, keepdims=True), 1)
    shares, names = (table / of)[np.ix_(kept, kept)], [classes[k] for k in kept]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="equal")
    small = 7 if len(names) > NUMBERED else 8
    axes.set_xticks(
        range(len(names)),
        names,
        rotation=90 if len(names) > 4 and max(map(len, names)) > 3 else 0,
        fontsize=small,
    )
    axes.set_yticks(range(len(names)), names, fontsize=small)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("found")
    axes.set_ylabel("right" if len(names) == len(classes) else f"right ({len(names)} most frequent)")
    if len(names) > NUMBERED:
        return
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.005 or row == column:
            axes.text(
                column, row, f"{100 * share:.0f}", ha="center", va="center",
                fontsize=9 if len(names) < 6 else 6.5, color="white" if share > 0.5 else "#335577",
            )  # fmt: skip
    axes.set_title("of each right label, % found as", fontsize=9, color="#555555", loc="left")
