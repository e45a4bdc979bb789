"""Training of a captioner as a terminal shows it, and a run of one as a page: how good its captions are, the
best and the worst with their pictures, and how it learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from unrolled.errors import InputError
from unrolled.report.page import Finding, Lines, Mark, Part, Picture, Section, Series, Table, Text, page
from unrolled.report.terminal import TerminalObserver

FIGURES: Final = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "CIDEr-D", "noun, %")


@dataclass(frozen=True, eq=False)
class Looked:
    """A picture, what was written of it, and where was looked for each word.

    Shapes: picture (H, W, 3) of bytes; weights (T, h, w) of T words, each adding to 1, or None where places
        are not told apart, and then there are no words.
    """

    picture: NDArray[np.uint8]
    words: Sequence[str]
    weights: NDArray[np.floating[Any]] | None
    title: str = ""
    below: str = ""
    """In small letters under the picture."""

    def __post_init__(self) -> None:
        shape = (0,) if self.weights is None else self.weights.shape
        if shape[0] != len(self.words) or len(shape) != (1 if self.weights is None else 3):
            raise InputError(f"{len(self.words)} words cannot have weights of shape {shape}")


class CaptionObserver(TerminalObserver):
    """As for a character model, with BLEU-4, CIDEr-D and the noun; baselines are shares of right nouns."""

    unit = "pictures"

    def evaluated(self, record: Mapping[str, Any]) -> None:
        better, training = self._beside(lambda value: record["noun"] > value)
        looked = f", {record['on_object']:.2f} x on the object" if "on_object" in record else ""
        self._console.print(
            f"step {record['step']:>6}   held-out BLEU-4 [bold]{record['bleu_4']:.1f}[/bold], CIDEr-D "
            f"{record['cider_d']:.2f}, noun [bold]{record['noun']:.1%}[/bold]{better}{looked}{training}",
            highlight=False,
        )

    def _numbers(self) -> str:
        return f"loss {self._smooth['loss']:.3f}  {self._smooth['rate_of_units']:,.0f} pictures/s"


def caption_page(
    title: str,
    subtitle: str,
    metrics: Sequence[Mapping[str, Any]],
    baselines: Mapping[str, Mapping[str, Any]],
    pictures: Mapping[str, Sequence[tuple[bytes, str, str]]],
    flow: Part,
    footer: str,
) -> str:
    """A run as one page.

    Args:
        metrics: the run's records.
        baselines: figures by name, as `unrolled.tasks.caption_scores.Scores` has them.
        pictures: by a heading, such as "The best captions": each a PNG with where was looked, its heading,
            and a text that tells of it.
        flow: what gradient flow shows.
    """
    ends = [record["at_the_end"] for record in metrics if "at_the_end" in record]
    sections, findings = [_learning(metrics, baselines)], []
    if ends:
        findings = [*_verdict(ends[-1], baselines)]
        sections.insert(0, _scores(ends[-1], baselines))
    for heading, some in pictures.items():
        items = [Picture(name, told, png, f"{name}. {told}", wide=True) for png, name, told in some]
        how = (
            "Where it looked for each word; the brightest place of a row has the most weight. "
            if items
            else ""
        )
        sections.insert(-1, Section(heading, how + "Sorted by CIDEr-D.", items))
    return page(title, subtitle, [*findings, *flow.findings], [*sections, *flow.sections], footer)


def _row(name: str, scores: Mapping[str, Any]) -> tuple[str | float, ...]:
    return (name, *scores["bleu"], scores["cider"], 100 * scores["right"] / scores["count"])


def _verdict(end: Mapping[str, Any], baselines: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    scores, focus = end["scores"], end["focus"]
    share = scores["right"] / scores["count"]
    best = {
        "BLEU-4": max((each["bleu"][3] for each in baselines.values()), default=0.0),
        "noun": max((each["right"] / each["count"] for each in baselines.values()), default=0.0),
    }
    beaten = scores["bleu"][3] > best["BLEU-4"] and share > best["noun"]
    names = ", ".join(
        f"{name} {each['bleu'][3]:.1f} and {each['right'] / each['count']:.1%}"
        for name, each in baselines.items()
    )
    found = [
        Finding(
            "good" if beaten else "warning",
            f"BLEU-4 {scores['bleu'][3]:.1f}, CIDEr-D {scores['cider']:.2f}, the noun right for {share:.1%}",
            f"Without a network that writes, BLEU-4 and nouns: {names}.",
            "" if beaten else "Train for longer (`--steps`), give more pictures, or more dropout.",
            section="At the end",
        )
    ]
    if focus is not None:
        found.append(
            Finding(
                "good" if focus["weights"] >= 1.5 else "note",
                f"{focus['weights']:.2f} times as much weight on the object as equal weights have",
                f"One map for all pictures has {focus['same']:.2f}; objects cover {focus['share']:.0%} of a "
                "picture.",
                section="At the end",
            )
        )
    return found


def _scores(end: Mapping[str, Any], baselines: Mapping[str, Mapping[str, Any]]) -> Section:
    rows: list[Sequence[str | float | None]] = [_row("the captioner, a beam of 5", end["scores"])]
    if end["alone"] != end["scores"]:
        rows.append(_row("the network alone", end["alone"]))
    rows += [_row(name, each) for name, each in reversed([*baselines.items()])]
    return Section(
        "At the end",
        "Captions of all pictures that are held out, beside what people wrote of them.",
        [
            Table(
                "Scores",
                "BLEU from 0 to 100, CIDEr-D from 0 to 10, and how often the noun is that of people. The "
                "nearest neighbour is the caption of the picture with the most similar features.",
                ("", *FIGURES),
                rows,
                wide=True,
            ),
            Text("Signature", f"BLEU by sacrebleu: `{end['scores']['signature']}`"),
        ],
    )


def _learning(metrics: Sequence[Mapping[str, Any]], baselines: Mapping[str, Mapping[str, Any]]) -> Section:
    held = [record for record in metrics if "bleu_4" in record]
    steps = [record["step"] for record in held]
    losses = [(record["step"], record["loss"]) for record in metrics if "loss" in record]
    losses = losses[:: max(1, len(losses) // 300)]
    nouns = [Mark("y", 100 * each["right"] / each["count"], name) for name, each in baselines.items()]
    bleus = [Mark("y", each["bleu"][3], name) for name, each in baselines.items()]
    return Section(
        "While it learned",
        "The network alone, with the likeliest word each time, on pictures that are held out. Dashed is what "
        "is reached without a network that writes.",
        [
            Lines(
                "The noun", "How often the noun is that of people.", "gradient steps", "% of pictures",
                [Series("captioner", steps, [100 * record["noun"] for record in held])], marks=nouns,
            ),
            Lines(
                "BLEU-4", "Higher is better.", "gradient steps", "from 0 to 100",
                [Series("captioner", steps, [record["bleu_4"] for record in held])], marks=bleus,
            ),
            Lines(
                "Loss", "Cross-entropy of the words to learn, with label smoothing.", "gradient steps",
                "nats per word", [Series("training", [s for s, _ in losses], [v for _, v in losses])],
            ),
        ],
    )  # fmt: skip
