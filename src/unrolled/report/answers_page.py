"""The page of a training that answers questions about pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unrolled.report.accuracy_page import accuracy_lines
from unrolled.report.blocks import Item
from unrolled.report.page import Finding, Part, Picture, Section, Table, page


@dataclass(frozen=True)
class Share:
    """The share of right answers to so many questions, and its 95% interval."""

    share: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.share:.1%} ({self.low:.1%} to {self.high:.1%})"


Kinds = Mapping[str, Mapping[str, Share]]
"""By kind of question, all of them first, and by who answers, the network last."""


@dataclass(frozen=True)
class Mistake:
    """A question that was answered wrongly."""

    question: str
    answer: str
    chance: float
    right: str
    kind: str


def answers_page(
    title: str,
    subtitle: str,
    metrics: Sequence[Mapping[str, Any]],
    kinds: Kinds,
    mistakes: Sequence[Mistake],
    sheets: Mapping[str, bytes],
    flow: Part,
    footer: str,
) -> str:
    """The page as text.

    Args:
        metrics: the records of the run; those with `test_accuracy`, `low` and `high` are measurements.
        kinds: how many are right.
        mistakes: those to be shown, the surest first.
        sheets: pictures of questions with where was looked, as PNGs by what is on them.
        flow: what gradient flow shows.
    """
    whole = next(iter(kinds.values()))
    *others, network = whole
    told: list[list[str | int]] = [
        [kind, own[network].count, *(f"{own[name].share:.1%}" for name in others), str(own[network])]
        for kind, own in kinds.items()
    ]
    accuracy: list[Item] = [
        Table(
            "Kinds of questions",
            "Shares of right answers, the network's with its 95% interval.",
            ("kind", "questions", *whole),
            told,
            wide=True,
        ),
        accuracy_lines(metrics, {name: whole[name].share for name in others}, network, "without looking"),
    ]
    sections = [
        Section(
            "Accuracy",
            "Of questions about pictures that were not trained on. Questions about one picture are right and "
            "wrong together: the 95% intervals count pictures.",
            accuracy,
        )
    ]
    if sheets:
        pictures: list[Item] = [
            Picture(
                name,
                "A picture is dark where the network did not look. Below it stand the likeliest answer and "
                "its probability, and the right answer if that is something else.",
                png,
                f"Questions about pictures, and the places that were looked at: {name.lower()}.",
                wide=True,
            )
            for name, png in sheets.items()
        ]
        sections.append(Section("Where it looked", "Attention is a weight for each place.", pictures))
    if mistakes:
        table = Table(
            "Mistakes",
            "Those first that the network was surest of.",
            ("question", "answer", "probability", "right answer", "kind"),
            [(each.question, each.answer, round(each.chance, 3), each.right, each.kind) for each in mistakes],
        )
        sections.append(Section("What it gets wrong", "Some of the questions that it did not see.", [table]))
    return page(title, subtitle, [*_findings(kinds), *flow.findings], [*sections, *flow.sections], footer)


def _findings(kinds: Kinds) -> list[Finding]:
    whole = next(iter(kinds.values()))
    *others, network = whole
    found = whole[network]
    beaten = all(found.low > whole[name].share for name in others)
    told = ", ".join(f"{name} {whole[name].share:.1%}" for name in others)
    findings = [
        Finding(
            "good" if beaten else "warning",
            f"{found.share:.1%} of the questions are answered rightly",
            f"From {found.low:.1%} to {found.high:.1%} with 95% confidence; without looking: {told}.",
            "" if beaten else "Train longer, or take another encoder of pictures.",
            section="Accuracy",
        )
    ]
    for kind, own in [*kinds.items()][1:] if others else ():
        best = max(others, key=lambda name: own[name].share)
        if beaten and own[network].low <= own[best].share:
            findings.append(
                Finding(
                    "note",
                    f"Pictures do not help with: {kind}",
                    f"The network has {own[network]}, {best} {own[best].share:.1%}, on {own[best].count:,} "
                    "questions.",
                    section="Accuracy",
                )
            )
    return findings
