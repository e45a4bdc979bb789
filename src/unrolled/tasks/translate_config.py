"""The settings of translators, which are the options of their command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final

from unrolled.data.subwords import KINDS
from unrolled.errors import InputError
from unrolled.nn.attention import SCORES
from unrolled.nn.seq2seq import BRIDGES
from unrolled.tasks.settings import (
    CHANGEABLE,
    TrainingConfig,
    from_zero,
    one_of,
    option_of,
    seeds,
    shares,
    sizes,
)

PLACES: Final = ("none", "after", "inside")

ENTERS: Final = ("plain", "gated", "fed")

SCORE_OF: Final = {"none": None, "after": "general", "inside": "additive"}
"""The score where none is given: of all steps at once products are cheaper."""

SAMPLING: Final = ("linear", "exponential", "sigmoid")

UNSAID: Final[Any] = None
"""A setting of which others decide."""

MAY_CHANGE: Final = (*CHANGEABLE, "translated")
"""The settings that may change when a run goes on."""


@dataclass(frozen=True)
class TranslateConfig(TrainingConfig):
    """How a translator is built and trained; the text beside a type is the command's help."""

    cell: Annotated[str, "of encoder and decoder: any cell of `unrolled cells`, or FILE.py:NAME"] = "lstm"
    hidden: Annotated[int, "units of a state of the decoder (H)"] = 256
    embedding: Annotated[int, "width of a word (E)"] = 256
    layers: Annotated[int, "of encoder and decoder"] = 1
    bidirectional: Annotated[bool, "the encoder reads from both ends"] = True
    encoder_hidden: Annotated[int | None, "units of each direction of the encoder [H, or H/2 with two]"] = (
        None
    )
    bridge: Annotated[
        str | None,
        "final states of the encoder: pass them on, or map them [pass where widths are equal, else map]",
    ] = None
    attention: Annotated[str, "none; after the recurrence (Luong); inside the step (Bahdanau)"] = "after"
    score: Annotated[str, f"of attention: {', '.join(SCORES)} [general after, additive inside]"] = UNSAID
    score_width: Annotated[int | None, "of additive scores [H]"] = None
    enters: Annotated[
        str, f"how what is seen enters the step, of attention inside: {', '.join(ENTERS)} (input feeding)"
    ] = "plain"
    lexical: Annotated[
        bool, "attention sees the words' own vectors beside the encoder's states [yes, but for dot, scaled]"
    ] = UNSAID
    dropout: Annotated[float, "of words, between layers and of features"] = 0.3
    norm: Annotated[str | None, "normalise the summed inputs of the cell: layer or rms [none]"] = None
    vocabulary: Annotated[str, f"{' or '.join(KINDS)}, learned from the sentences to train on"] = "subwords"
    vocabulary_size: Annotated[int, "tokens of a vocabulary at most"] = 2000
    joint: Annotated[bool, "one vocabulary of both languages, in which a token has one vector"] = True
    tied: Annotated[bool, "words that the decoder reads and writes have the same vectors"] = True
    lowercase: Annotated[bool, "sentences are read, and written, in lower case"] = False
    longest: Annotated[int, "tokens of a sentence to train on, at most; longer ones are left out"] = 80
    label_smoothing: Annotated[float, "share of probability that goes to all words alike"] = 0.1
    scheduled_sampling: Annotated[
        float, "share of words that the decoder reads of its own at the end, in place of the right ones"
    ] = 0.0
    sampling_schedule: Annotated[str, f"how that share rises: {', '.join(SAMPLING)}"] = "linear"
    holdout: Annotated[int, "sentences held out"] = 1000
    split: Annotated[int, "seed by which these are drawn, whatever --seed is"] = 0
    translated: Annotated[int, "held-out sentences that are translated at each measurement; 0 for all"] = 500
    steps: Annotated[int, "gradient steps to make"] = 9000
    batch: Annotated[int, "sentences in each step (B)"] = 32
    batch_tokens: Annotated[
        int | None, "or tokens of the target in each step, padding counted, in place of --batch"
    ] = None
    optimiser: Annotated[str, "sgd, adagrad, rmsprop, adam or adamw, as in 'adamw(weight_decay=0.01)'"] = (
        "adam(betas=0.9/0.98)"
    )
    rate: Annotated[float, "learning rate"] = 3e-3
    warmup: Annotated[int, "steps over which the rate rises at first"] = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes(self, "hidden", "embedding", "layers", "vocabulary_size", "longest", "holdout")
        for name in ("encoder_hidden", "score_width", "batch_tokens"):
            if getattr(self, name) is not None:
                sizes(self, name)
        from_zero(self, "translated")
        seeds(self, "split")
        shares(self, "dropout", "label_smoothing", "scheduled_sampling")
        one_of(self, "attention", PLACES)
        one_of(self, "vocabulary", KINDS)
        one_of(self, "sampling_schedule", SAMPLING)
        one_of(self, "enters", ENTERS)
        if self.bridge is not None:
            one_of(self, "bridge", BRIDGES)
        if self.attention == "none":
            usual = {
                "score": (None,), "score_width": (None,), "enters": ("plain",), "lexical": (None, False),
            }  # fmt: skip
            for name, unset in usual.items():
                if getattr(self, name) not in unset:
                    raise InputError(f"{option_of(name)} is of attention, and there is none: leave it out")
        if self.score is None:
            object.__setattr__(self, "score", SCORE_OF[self.attention])
        if self.lexical is None:
            # Products of queries with what is seen ask for equal widths.
            wide = self.attention != "none" and self.score not in ("dot", "scaled")
            object.__setattr__(self, "lexical", wide)
        if self.attention != "none":
            one_of(self, "score", SCORES)
        if self.attention == "after" and self.enters != "plain":
            raise InputError(f"--enters {self.enters} is for --attention inside")
        if self.sampling_schedule != "linear" and not self.scheduled_sampling:
            raise InputError("--sampling-schedule is for --scheduled-sampling, a share above 0")

    @property
    def width(self) -> int:
        """Units of each direction of the encoder."""
        return self.encoder_hidden or max(1, self.hidden // (1 + self.bidirectional))
