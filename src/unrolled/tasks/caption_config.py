"""The settings of captioners, which are the options of their command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final

from unrolled.errors import InputError
from unrolled.tasks.settings import TrainingConfig, finite, one_of, option_of, seeds, shares, sizes

IMAGES: Final = ("soft", "hard", "first", "every", "beside")

ENCODERS: Final = ("efficientnet-lite0", "small")

SCORES: Final = ("additive", "general")

ENTERS: Final = ("plain", "gated")

BASELINES: Final = ("average", "learned")


UNSAID: Final[Any] = None
"""A setting of which others decide."""


@dataclass(frozen=True)
class CaptionConfig(TrainingConfig):
    """How captions are learned; the text beside a type is the command's help."""

    image: Annotated[
        str,
        "how the picture enters: soft or hard attention over its places; or as a whole at the first step, at "
        "every step, or beside the recurrence (a multimodal layer)",
    ] = "soft"
    encoder: Annotated[
        str, "what looks at pictures: efficientnet-lite0, trained on ImageNet, or small, trained here"
    ] = "efficientnet-lite0"
    fine_tune: Annotated[bool, "train efficientnet-lite0 too, at --encoder-rate; takes far longer"] = False
    encoder_rate: Annotated[float, "with --fine-tune: its learning rate, as a share of --rate"] = 0.02
    cell: Annotated[str, "any cell of `unrolled cells`, as in 'lstm(peepholes=vector)'"] = "lstm"
    hidden: Annotated[int, "units of a state (H)"] = 512
    layers: Annotated[int, "layers of the cell"] = 1
    embedding: Annotated[int, "width of a word (E)"] = 128
    picture: Annotated[int, "width of a place of the picture, as the decoder sees it (M)"] = 512
    score: Annotated[str, "of attention: additive or general"] = "additive"
    width: Annotated[int, "of additive scores (A)"] = 64
    enters: Annotated[str, "how what is seen enters the step: plain, or gated by the state"] = "plain"
    neighbours: Annotated[
        float,
        "share of the captions of similar pictures in what is written; 0 for the network alone "
        "[0.5; 0 where what looks at pictures learns too]",
    ] = UNSAID
    dropout: Annotated[float, "of words and of what the decoder makes of them"] = 0.3
    picture_dropout: Annotated[float, "of the picture's features"] = 0.3
    smoothing: Annotated[float, "of labels"] = 0.1
    evenness: Annotated[float, "weight of the penalty for places that are never looked at"] = 0.0
    baseline: Annotated[str, "of hard attention's reward: average (moving) or learned"] = "average"
    reinforce: Annotated[float, "of hard attention: weight of the reward"] = 0.3
    entropy: Annotated[float, "of hard attention: weight of the entropy of where it looks"] = 0.01
    flips: Annotated[bool, "learn from mirrored pictures too"] = True
    words: Annotated[int, "size of the vocabulary, at most"] = 10_000
    longest: Annotated[int, "words of a caption that are learned, at most"] = 30
    holdout: Annotated[float, "share of the pictures that is kept for testing"] = 0.2
    split: Annotated[int, "seed by which these are drawn, whatever --seed is"] = 0
    evaluate_pictures: Annotated[int, "pictures that are captioned at a measurement, at most"] = 1000
    steps: Annotated[int, "gradient steps to make"] = 800
    batch: Annotated[int, "captions in each, with their pictures (B)"] = 32
    optimiser: Annotated[str, "sgd, adagrad, rmsprop, adam or adamw"] = "adamw"
    weight_decay: Annotated[float, "the optimiser's weight_decay, for matrices alone"] = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes(
            self, "hidden", "layers", "embedding", "picture", "width", "words", "longest", "evaluate_pictures"
        )
        seeds(self, "split")
        shares(self, "dropout", "picture_dropout", "smoothing")
        if self.neighbours is None:
            object.__setattr__(self, "neighbours", 0.0 if self.learned_encoder else 0.5)
        shares(self, "neighbours")
        if self.neighbours and self.learned_encoder:
            raise InputError("--neighbours are told by features that stay as they are: leave it out")
        finite(self, "evenness", "reinforce", "entropy", "encoder_rate")
        one_of(self, "image", IMAGES)
        one_of(self, "encoder", ENCODERS)
        one_of(self, "score", SCORES)
        one_of(self, "enters", ENTERS)
        one_of(self, "baseline", BASELINES)
        if not 0 < self.holdout < 1:
            raise InputError(f"--holdout is a share above 0 and below 1, got {self.holdout}")
        if self.fine_tune and self.encoder == "small":
            raise InputError("--fine-tune is for efficientnet-lite0: the small encoder always learns")
        if self.enters != "plain" and not self.inside:
            raise InputError(
                f"--enters {self.enters} is for pictures that enter every step, which {self.image} is not"
            )
        if self.evenness and self.image not in ("soft", "hard"):
            raise InputError(f"{option_of('evenness')} is for attention: --image soft or hard")

    @property
    def inside(self) -> bool:
        """Whether the picture enters every step."""
        return self.image in ("soft", "hard", "every")

    @property
    def places(self) -> bool:
        """Whether its places are told apart."""
        return self.image in ("soft", "hard")

    @property
    def learned_encoder(self) -> bool:
        """Whether what looks at pictures learns too."""
        return self.encoder == "small" or self.fine_tune
