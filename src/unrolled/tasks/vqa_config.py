"""The settings of visual question answering, which are the options of its command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from unrolled.cells import find
from unrolled.errors import InputError
from unrolled.nn.pooling import POOLINGS
from unrolled.tasks.settings import TrainingConfig, from_zero, one_of, option_of, seeds, shares, sizes

ANSWERS: Final = ("classes", "choice", "words")
"""How an answer is found: among the commonest ones, among those given with the question, word by word."""

ENCODERS: Final = ("small", "efficientnet-lite0")

FUSIONS: Final = ("product", "concatenation")

SCORES: Final = ("additive", "dot", "scaled", "general")

SIDES: Final = (8, 1024)
"""Pixels of a picture's side, at least and at most."""


@dataclass(frozen=True)
class VqaConfig(TrainingConfig):
    """How a network that answers questions about pictures is built and trained."""

    answers: Annotated[
        str,
        "classes: one of the commonest answers; choice: one of those given with a question, or of four that "
        "are drawn where none are; words: written word by word",
    ] = "classes"
    most_answers: Annotated[int, "of --answers classes: the commonest answers of training, so many"] = 1000
    cell: Annotated[str, "that reads questions, as in 'lstm(peepholes=vector)'"] = "lstm"
    embedding: Annotated[int, "width of a word"] = 32
    hidden: Annotated[int, "units of the cell (H)"] = 64
    layers: Annotated[int, "layers of the cell"] = 1
    bidirectional: Annotated[bool, "read questions in both directions"] = False
    pooling: Annotated[str, f"from a question's steps to one vector: {', '.join(POOLINGS)}"] = "last"
    words: Annotated[int, "most words that are told apart, the commonest of training"] = 10_000
    encoder: Annotated[
        str,
        "of pictures: small, trained from scratch, or efficientnet-lite0, trained on photographs and kept",
    ] = "small"
    size: Annotated[int, "of --encoder small: pixels of a picture's side"] = 64
    channels: Annotated[
        str, "of --encoder small: channels of its convolutions, each of which halves the sides"
    ] = "32,64,64"
    score: Annotated[str, f"of attention: {', '.join(SCORES)}"] = "additive"
    width: Annotated[int | None, "of additive scores [H]"] = None
    glimpses: Annotated[int, "looks at a picture, each from what was seen in the one before"] = 1
    fusion: Annotated[str, "of question and picture: product or concatenation"] = "product"
    fused: Annotated[int, "units of what they become"] = 128
    dropout: Annotated[float, "of words and of what question and picture become, in training"] = 0.0
    question_only: Annotated[
        int | None,
        "steps that the same network is trained without pictures, to compare [--steps]; 0: it is not",
    ] = None
    holdout: Annotated[float, "share of the questions kept for testing, where none are apart"] = 0.1
    split: Annotated[int, "seed by which these are drawn, whatever --seed is"] = 0
    steps: Annotated[int, "gradient steps to make"] = 2000
    batch: Annotated[int, "pictures in each step, with all their questions"] = 32
    rate: Annotated[float, "learning rate"] = 4e-3
    clip_norm: Annotated[float | None, "limit on the L2 norm of the whole gradient; 0 for none"] = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (
            ("answers", ANSWERS), ("pooling", POOLINGS), ("encoder", ENCODERS), ("score", SCORES),
            ("fusion", FUSIONS),
        ):  # fmt: skip
            one_of(self, name, known)
        sizes(self, "most_answers", "embedding", "hidden", "layers", "words", "size", "glimpses", "fused")
        seeds(self, "split")
        shares(self, "dropout")
        from_zero(self, "question_only")
        if not 0 < self.holdout < 1:
            raise InputError(f"--holdout is a share above 0 and below 1, got {self.holdout}")
        if self.words <= 4:
            raise InputError(f"--words must be above 4, got {self.words}")
        if self.width is not None:
            sizes(self, "width")
            if self.score != "additive":
                raise InputError(f"--width is for --score additive, and {self.score} has none: leave it out")
        if not SIDES[0] <= self.size <= SIDES[1]:
            raise InputError(f"--size must be from {SIDES[0]} to {SIDES[1]} pixels, got {self.size}")
        if self.size >> len(self.widths) < 1:
            raise InputError(
                f"--channels {self.channels} halve a picture {len(self.widths)} times, too often for "
                f"--size {self.size}: give fewer, or a larger picture"
            )
        if self.encoder != "small":
            for name in ("size", "channels"):
                if getattr(self, name) != getattr(VqaConfig, name):
                    raise InputError(f"{option_of(name)} is for --encoder small: leave it out")
        if self.answers != "classes" and self.most_answers != VqaConfig.most_answers:
            raise InputError("--most-answers is for --answers classes: leave it out")
        find(self.cell)  # a misspelt cell is told before pictures are read

    @property
    def baseline_steps(self) -> int:
        """Of the network without pictures."""
        return self.steps if self.question_only is None else self.question_only

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the convolutions.

        Raises:
            InputError: they are not whole numbers from 1.
        """
        try:
            found = tuple(int(part) for part in self.channels.split(","))
        except ValueError:
            found = ()
        if not found or not all(1 <= width <= 4096 for width in found):
            raise InputError(f"--channels are numbers from 1 to 4096 as in 32,64,64, got {self.channels!r}")
        return found
