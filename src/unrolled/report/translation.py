"""A run of a translator as a page: how it learned, how good it is, where it looks, sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from unrolled.report.page import Bars, Finding, Heat, Lines, Mark, Part, Section, Series, Table, Text, page

COMPARED: Final = 8
"""Sentences among the best and among the worst, on the page."""


@dataclass(frozen=True)
class Alignment:
    """Where a decoder looked in the source for each word that it wrote.

    Attributes:
        source, target: words.
        weights: a row for each word of the target, a column for each of the source.
        right: the right translation, if it is known.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    weights: tuple[tuple[float, ...], ...]
    right: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {
            "source": [*self.source],
            "target": [*self.target],
            "weights": [[round(value, 5) for value in row] for row in self.weights],
            "right": self.right,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Alignment:
        rows = tuple(tuple(float(weight) for weight in row) for row in value["weights"])
        return cls(tuple(value["source"]), tuple(value["target"]), rows, str(value["right"]))


def translation_page(
    title: str,
    subtitle: str,
    metrics: Sequence[Mapping[str, Any]],
    baselines: Mapping[str, Mapping[str, float]],
    translations: Sequence[Mapping[str, Any]],
    alignments: Sequence[Alignment],
    by_length: Mapping[str, Sequence[tuple[str, float, int]]],
    flow: Part,
    footer: str,
) -> str:
    """A run as one page.

    Args:
        metrics: the run's records.
        baselines: BLEU, chrF and share of exact sentences by name.
        translations: with `source`, `translation`, `right`, and `chrf` of the sentence.
        by_length: BLEU, and share of exact sentences, by length of the source: rows of a label, the figure,
            and how many sentences there are.
        flow: what gradient flow shows.
    """
    ends = [record["at_the_end"] for record in metrics if "at_the_end" in record]
    sections = [_learning(metrics, baselines)]
    findings = []
    if ends:
        end = ends[-1]
        findings.append(_verdict(end, baselines))
        sections.insert(0, _scores(end, baselines))
    if alignments:
        sections.append(_looks(alignments))
    if any(by_length.values()):
        sections.append(_lengths(by_length))
    if translations:
        sections.append(_sentences(translations))
    return page(title, subtitle, [*findings, *flow.findings], [*sections, *flow.sections], footer)


def _verdict(end: Mapping[str, Any], baselines: Mapping[str, Mapping[str, float]]) -> Finding:
    bleu = end["bleu"]
    names = {name: each["bleu"] for name, each in baselines.items()}
    beaten = all(bleu["score"] > value for value in names.values())
    told = ", ".join(f"{name} {value:.1f}" for name, value in names.items())
    around = " ({:.1f} to {:.1f} with 95% confidence)".format(*bleu["interval"]) if bleu["interval"] else ""
    return Finding(
        "good" if beaten else "warning",
        f"BLEU {bleu['score']:.1f}, chrF {end['chrf']['score']:.1f}, {end['exact']:.1%} exact",
        f"{bleu['name']} {bleu['score']:.1f}{around}; without a network: {told}.",
        "" if beaten else "Train for longer (`--steps`), or give more sentences.",
        section="At the end",
    )


def _scores(end: Mapping[str, Any], baselines: Mapping[str, Mapping[str, float]]) -> Section:
    rows: list[Sequence[str | float | None]] = [
        ("the translator, beam of 5", end["bleu"]["score"], end["chrf"]["score"], 100 * end["exact"])
    ]
    rows += [(name, each["bleu"], each["chrf"], 100 * each["exact"]) for name, each in baselines.items()]
    signatures = "\n\n".join(f"`{end[key]['name']}|{end[key]['signature']}`" for key in ("bleu", "chrf"))
    return Section(
        "At the end",
        "All held-out sentences, as the decoder writes them by itself.",
        [
            Table("Scores", "From 0 to 100, higher is better.", ("", "BLEU", "chrF", "exact, %"), rows),
            Text("Signatures", f"By sacrebleu; with these anybody computes the same.\n\n{signatures}"),
        ],
    )


def _learning(metrics: Sequence[Mapping[str, Any]], baselines: Mapping[str, Mapping[str, float]]) -> Section:
    held = [record for record in metrics if "held_out_nats_per_token" in record]
    steps = [record["step"] for record in held]
    marks = [Mark("y", each["bleu"], name) for name, each in baselines.items()]
    losses = smoothed([(r["step"], r["loss"]) for r in metrics if "loss" in r])
    return Section(
        "While it learned",
        "BLEU of the likeliest word each time, on the first held-out sentences.",
        [
            Lines(
                "Cross-entropy", "Lower is better. The loss may have label smoothing, the other has not.",
                "gradient steps", "nats per token",
                [
                    Series("loss in training, smoothed", [s for s, _ in losses], [v for _, v in losses]),
                    Series("held out", steps, [record["held_out_nats_per_token"] for record in held]),
                ],
            ),
            Lines(
                "Translations", "Higher is better; dashed is what is reached without a network.",
                "gradient steps", "from 0 to 100",
                [
                    Series("BLEU", steps, [record["bleu"] for record in held]),
                    Series("chrF", steps, [record["chrf"] for record in held]),
                    Series("exact, %", steps, [100 * record["exact"] for record in held]),
                ],
                marks=marks,
            ),
        ],
    )  # fmt: skip


def smoothed(points: Sequence[tuple[int, float]], most: int = 200) -> list[tuple[int, float]]:
    """Means of so many groups of points, each at its last."""
    size = max(1, -(-len(points) // most))
    groups = [points[k : k + size] for k in range(0, len(points), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def _looks(alignments: Sequence[Alignment]) -> Section:
    return Section(
        "Where it looks",
        "For each word that is written, how the weights of attention are spread over the source. Parts of a "
        "word are taken together.",
        [
            Heat(
                " ".join(each.target) or "(nothing)",
                f"Right would be: {each.right}" if each.right else "Rows add up to 1.",
                "source", "translation", each.weights, [*each.source], [*each.target], 0.0, 1.0, "weight",
            )
            for each in alignments
            if each.weights
        ],
    )  # fmt: skip


def _lengths(by_length: Mapping[str, Sequence[tuple[str, float, int]]]) -> Section:
    return Section(
        "By length",
        "Long sentences are where attention helps most.",
        [
            Bars(
                name,
                "Of held-out sentences whose source has so many words; how many there are is in brackets.",
                name,
                [f"{label} ({count:,})" for label, _, count in rows],
                [value for _, value, _ in rows],
            )
            for name, rows in by_length.items()
        ],
    )


def _sentences(translations: Sequence[Mapping[str, Any]]) -> Section:
    ordered = sorted(translations, key=lambda each: -each["chrf"])
    columns = ("source", "translation", "right", "chrF")
    parts = {"The best": ordered[:COMPARED], "The worst": ordered[::-1][:COMPARED]}
    return Section(
        "Sentences",
        "By chrF of the sentence.",
        [
            Table(
                name, "Held-out sentences.", columns,
                [(e["source"], e["translation"], e["right"], round(e["chrf"], 1)) for e in part], wide=True,
            )
            for name, part in parts.items()
        ],
    )  # fmt: skip
