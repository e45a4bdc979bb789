"""The settings of models that label sequences, which are the options of their commands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from unrolled.errors import InputError
from unrolled.nn.pooling import POOLINGS
from unrolled.tasks.settings import (
    TrainingConfig,
    finite,
    from_zero,
    one_of,
    pattern_of,
    seeds,
    shares,
    sizes,
)

LONGEST: Final = 8
"""Letters of an ending, at most."""


@dataclass(frozen=True)
class LabelsConfig(TrainingConfig):
    """What all of them share: recurrent layers of any cell, read by a linear head."""

    cell: Annotated[str, "a cell of `unrolled cells`, as in 'lstm(peepholes=vector)', or FILE.py:NAME"] = (
        "gru"
    )
    hidden: Annotated[int, "units in each layer and direction (H)"] = 100
    layers: Annotated[int, "layers, one above the other"] = 1
    bidirectional: Annotated[bool, "a second cell reads from the end"] = True
    dropout: Annotated[float, "probability of dropping a value that a layer or the head reads"] = 0.5
    norm: Annotated[str | None, "layer or rms: the summed inputs of each gate are normalised [none]"] = None
    init: Annotated[tuple[str, ...], "PATTERN=INITIALISER, as in 'f.bias=1' or '*.h=orthogonal'"] = ()
    holdout: Annotated[float, "share that is kept for testing"] = 0.1
    split: Annotated[int, "seed by which these are drawn, whatever --seed is"] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes(self, "hidden", "layers")
        shares(self, "dropout")
        seeds(self, "split")
        if not 0 < self.holdout < 1:
            raise InputError(f"--holdout is a share above 0 and below 1, got {self.holdout}")

    @property
    def pooled(self) -> str | None:
        """How the steps of a sequence become one vector, see `unrolled.nn.Pooling`; None where every step has
        a label."""
        return None

    @property
    def initialisers(self) -> dict[str, str]:
        """What `init` of a layer is given."""
        return dict(pattern_of("init", text, "INITIALISER", "'f.bias=1'") for text in self.init)


@dataclass(frozen=True)
class WordsConfig(LabelsConfig):
    """What models that read words share."""

    embedding: Annotated[int, "width of a word's vector"] = 100
    lowercase: Annotated[bool, "words are looked up in lower case"] = True
    least: Annotated[int, "a word is known if the texts to train on have it so often"] = 2
    endings: Annotated[
        int, "also look up a word's last letters, up to so many, and whether it has capitals or digits"
    ] = 0
    word_dropout: Annotated[float, "probability of taking a word for an unknown one, in training"] = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes(self, "embedding", "least")
        shares(self, "word_dropout")
        from_zero(self, "endings")
        if self.endings > LONGEST:
            raise InputError(f"--endings must be at most {LONGEST}, got {self.endings}")


@dataclass(frozen=True)
class SentimentConfig(WordsConfig):
    """One label for a text."""

    pooling: Annotated[str, f"from all steps to one vector: {', '.join(POOLINGS)}"] = "max"
    steps: Annotated[int, "gradient steps to make"] = 800
    batch: Annotated[int, "texts in each step (B)"] = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "pooling", POOLINGS)

    @property
    def pooled(self) -> str:
        return self.pooling


@dataclass(frozen=True)
class TagsConfig(WordsConfig):
    """A tag for every word."""

    fine: Annotated[bool, "of the Brown corpus: all tags, with endings, instead of twelve classes"] = False
    lowercase: Annotated[bool, "words are looked up in lower case"] = False
    endings: Annotated[
        int, "also look up a word's last letters, up to so many, and whether it has capitals or digits"
    ] = 3
    dropout: Annotated[float, "probability of dropping a value that a layer or the head reads"] = 0.2
    steps: Annotated[int, "gradient steps to make"] = 2000
    batch: Annotated[int, "sentences in each step (B)"] = 32


@dataclass(frozen=True)
class FramesConfig(LabelsConfig):
    """A label for every frame of a picture sequence."""

    bidirectional: Annotated[bool, "a second cell reads from the end, so that it sees what comes"] = False
    channels: Annotated[int, "of the first convolution; the next have two and four times as many"] = 16
    frames: Annotated[int, "of moving digits: frames of a sequence (T)"] = 24
    canvas: Annotated[int | None, "of moving digits: height and width of a frame [twice a digit's]"] = None
    noise: Annotated[float, "of moving digits: standard deviation of what is added to each pixel"] = 0.1
    change: Annotated[float, "of moving digits: probability that another digit takes the place"] = 0.1
    hide: Annotated[float, "of moving digits: probability that one in sight hides in the next frame"] = 0.2
    reappear: Annotated[float, "of moving digits: probability that a hidden one is in sight again"] = 0.4
    holdout: Annotated[float, "share of every class of pictures that is kept for testing"] = 0.2
    dropout: Annotated[float, "probability of dropping a value that a layer or the head reads"] = 0.0
    steps: Annotated[int, "gradient steps to make"] = 800
    rate: Annotated[float, "learning rate"] = 4e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes(self, "channels", "frames", *(("canvas",) if self.canvas is not None else ()))
        finite(self, "noise")
        for name in ("change", "hide", "reappear"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"--{name} is a probability from 0 to 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class SeriesConfig(LabelsConfig):
    """One label for a series of numbers."""

    pooling: Annotated[str, f"from all steps to one vector: {', '.join(POOLINGS)}"] = "mean"
    hidden: Annotated[int, "units in each layer and direction (H)"] = 50
    dropout: Annotated[float, "probability of dropping a value that a layer or the head reads"] = 0.0
    holdout: Annotated[float, "share that is kept for testing, where no others are given for it"] = 0.2
    batch: Annotated[int, "series in each step (B)"] = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "pooling", POOLINGS)

    @property
    def pooled(self) -> str:
        return self.pooling
