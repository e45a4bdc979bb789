"""Accuracy over a training, as a figure of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unrolled.report.blocks import Lines, Mark, Series


def accuracy_lines(
    metrics: Sequence[Mapping[str, Any]], baselines: Mapping[str, float], network: str, beside: str
) -> Lines:
    """Accuracy on what is held out, with its interval, over training steps.

    Args:
        metrics: the records of a run; those with `test_accuracy`, `low` and `high` are measurements.
        baselines: shares that are right, by name.
        network: what the network's line is called.
        beside: how baselines are reached: "without looking".
    """
    tested = [record for record in metrics if "test_accuracy" in record]
    steps, shares, lows, highs = (
        [record[key] for record in tested] for key in ("step", "test_accuracy", "low", "high")
    )
    return Lines(
        "Over training",
        f"On what is held out, with its 95% interval; dashed is what is reached {beside}.",
        "gradient steps",
        "accuracy",
        [Series(network, steps, shares, lows, highs)],
        marks=[Mark("y", share, f"{name} {share:.1%}") for name, share in baselines.items()],
    )
