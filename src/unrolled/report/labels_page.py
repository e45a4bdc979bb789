"""A training of labels as a page: how many are right, which is taken for which, gradient flow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from unrolled.report.accuracy_page import accuracy_lines
from unrolled.report.blocks import Finding, Heat, Item, Part, Section, Table, Text
from unrolled.report.page import page

SHOWN: Final = 40
"""Labels in a table of which was taken for which, at most: the most frequent."""

WITHOUT: Final = "without a recurrent network"


@dataclass(frozen=True)
class Labelled:
    """How good labels are: the share that is right and the mean F1, each with its 95% interval."""

    share: float
    low: float
    high: float
    f1: float
    f1_low: float
    f1_high: float

    @property
    def row(self) -> tuple[str, str]:
        return (
            f"{self.share:.1%} ({self.low:.1%} to {self.high:.1%})",
            f"{self.f1:.3f} ({self.f1_low:.3f} to {self.f1_high:.3f})",
        )


def labels_page(
    title: str,
    subtitle: str,
    metrics: Sequence[Mapping[str, Any]],
    found: Labelled,
    baselines: Mapping[str, Labelled],
    classes: Sequence[str],
    examples: str,
    flow: Part,
    footer: str,
) -> str:
    """The page as text.

    Args:
        metrics: the records of the run; the last with `confusion` has the counts of labels found (columns)
            for each that is right (rows).
        found: the network, on what is held out.
        baselines: what is reached without, by name.
        classes: the names of labels.
        examples: some of what is held out with the labels found.
        flow: what gradient flow shows.
    """
    rows = [(name, *each.row) for name, each in baselines.items()]
    accuracy: list[Item] = [
        Table("Accuracy and F1", "F1 is the mean over labels.", ("", "accuracy", "F1"), [
            *rows, ("network", *found.row),
        ]),
        accuracy_lines(metrics, {name: each.share for name, each in baselines.items()}, "network", WITHOUT),
    ]  # fmt: skip
    sections = [Section("Accuracy", "On what is held out, with 95% intervals.", accuracy)]
    counts = next((record["confusion"] for record in reversed(metrics) if "confusion" in record), None)
    if counts is not None:
        sections.append(Section("Labels", "Which are hard, and what they are taken for.", [
            *_labels(counts, classes)
        ]))  # fmt: skip
    if examples:
        sections.append(Section("Some of them", "Of what is held out.", [Text("", examples)]))
    best = max((each.share for each in baselines.values()), default=0.0)
    told = ", ".join(f"{name} {each.share:.1%}" for name, each in baselines.items())
    beaten = found.share > best
    verdict = Finding(
        "good" if found.low > best else "note" if beaten else "warning",
        f"{found.share:.1%} of the labels are right",
        f"From {found.low:.1%} to {found.high:.1%} with 95% confidence; {WITHOUT}: {told}.",
        "" if found.low > best else "Train longer, or give more to train on.",
        section="Accuracy",
    )
    return page(title, subtitle, [verdict, *flow.findings], [*sections, *flow.sections], footer)


def _labels(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> list[Item]:
    """A table of all labels that occur, and a map of the most frequent."""
    occurs = [sum(row) for row in counts]
    ordered = sorted(range(len(classes)), key=lambda k: -occurs[k])
    kept = sorted(ordered[:SHOWN])
    shares = [[counts[row][column] / max(1, occurs[row]) for column in kept] for row in kept]
    names = [classes[k] for k in kept]
    rows = []
    for k in ordered:
        if not occurs[k]:
            continue
        wrong = {classes[j]: n for j, n in enumerate(counts[k]) if n and j != k}
        mostly = max(wrong, key=lambda name: wrong[name], default="")
        found = sum(row[k] for row in counts)
        precision = counts[k][k] / found if found else None
        rows.append((classes[k], occurs[k], counts[k][k] / occurs[k], precision, mostly))
    return [
        Table(
            "Label by label", "Recall: the share that is found. Precision: of what is found, what is right.",
            ("label", "count", "recall", "precision", "mostly taken for"), rows, wide=True,
        ),
        Heat(
            "Found for each that is right", "Rows add up to 1, but for labels that are left out.",
            "found", "right", shares, names, names, 0.0, 1.0, "share",
        ),
    ]  # fmt: skip
