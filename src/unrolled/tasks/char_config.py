"""The settings of character models, which are the options of their command."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Final

from unrolled.errors import InputError
from unrolled.tasks.char_time import read_bptt
from unrolled.tasks.settings import DTYPES, from_zero, option_of, pattern_of, plan_of, rates, seeds
from unrolled.train.loop import Plan
from unrolled.train.optimisers import SCHEDULES
from unrolled.unroll.policies import Policy

FORMERLY: Final[dict[str, Any]] = {
    "evaluate_characters": 0,
    "ngram_characters": 0,
    "norm": None,
    "batch_norm": False,
    "weight_norm": [],
    "weight_decay": 0.0,
}
"""Settings that runs may lack, as they did not always exist, and what was done then."""


@dataclass(frozen=True)
class CharConfig:
    """How a character model is built and trained; the text beside a type is the command line's help."""

    cell: Annotated[str, "a cell of `unrolled cells`, as in 'lstm(peepholes=vector)', or FILE.py:NAME"] = (
        "lstm"
    )
    hidden: Annotated[int, "units in each layer (H)"] = 256
    layers: Annotated[int, "layers, one above the other"] = 1
    dropout: Annotated[float, "probability of dropping a value between layers"] = 0.0
    norm: Annotated[str | None, "layer or rms: the summed inputs of each gate are normalised"] = None
    batch_norm: Annotated[bool, "values between layers are normalised over the batch"] = False
    weight_norm: Annotated[
        tuple[str, ...],
        "weight, spectral or spectral:LIMIT: recurrent matrices are normalised; others by "
        "PATTERN=KIND, as in '*.x=weight'",
    ] = ()
    init: Annotated[tuple[str, ...], "PATTERN=INITIALISER, as in 'f.bias=1' or '*.h=orthogonal'"] = ()
    steps: Annotated[int, "gradient steps to make"] = 2000
    batch: Annotated[int, "parallel streams through the text (B)"] = 32
    bptt: Annotated[
        str | int,
        "steps a gradient goes back: the length of a chunk (T); or 'truncated(k1=64, k2=256)': after every "
        "k1 steps the gradient of their losses, reaching k2 back; or 'checkpointed(steps=5000, "
        "memory=200MB)': the exact one, in so much memory",
    ] = 64
    reset: Annotated[float, "probability that a stream's state starts again at zero before a chunk"] = 0.02
    optimiser: Annotated[str, "sgd, adagrad, rmsprop, adam or adamw, as in 'sgd(momentum=0.9)'"] = "adam"
    weight_decay: Annotated[float, "the optimiser's weight_decay, for matrices alone"] = 0.0
    rate: Annotated[float, "learning rate"] = 5e-3
    schedule: Annotated[str, "the rate over time after the warm-up: constant, linear or cosine"] = "cosine"
    warmup: Annotated[int, "steps over which the rate rises at first"] = 50
    clip_norm: Annotated[float | None, "limit on the L2 norm of the whole gradient; 0 for none"] = 1.0
    clip_value: Annotated[float | None, "limit on each element of the gradient; 0 for none"] = None
    loss: Annotated[str, "mean or sum over the steps of a chunk (the streams are always averaged)"] = "mean"
    holdout: Annotated[float, "share of the text, at its end, that is kept out of training"] = 0.05
    evaluate_characters: Annotated[int, "measure at most so many held-out characters; 0 for all"] = 2_000_000
    ngram_characters: Annotated[
        int, "n-gram models count at most so many characters, the last of the training text; 0 for all"
    ] = 8_000_000
    evaluate_every: Annotated[int | None, "steps between measurements on the held-out text [a tenth]"] = None
    sample_every: Annotated[int | None, "steps between samples [a quarter of all]"] = None
    save_every: Annotated[int | None, "steps between checkpoints [a tenth]"] = None
    keep: Annotated[int, "checkpoints kept"] = 3
    sample_length: Annotated[int, "characters in each sample"] = 300
    temperature: Annotated[float, "of the samples"] = 0.8
    seed: Annotated[int, "of the initial weights, dropout and samples"] = 0
    dtype: Annotated[str, "float32 or float64"] = "float32"

    def __post_init__(self) -> None:
        if isinstance(self.bptt, str) and self.bptt.strip().lstrip("+-").isdecimal():
            object.__setattr__(self, "bptt", int(self.bptt))
        for name in ("hidden", "layers", "batch", "chunk", "keep"):
            if getattr(self, name) < 1:
                said = "bptt" if name == "chunk" else name
                raise InputError(f"--{said} must be at least 1, got {getattr(self, name)}")
        for name in ("hidden", "layers"):
            if getattr(self, name) > 1_000_000:
                raise InputError(f"--{name} must be at most a million, got {getattr(self, name)}")
        for name in ("temperature", "clip_norm", "clip_value"):
            if not math.isfinite(getattr(self, name) or 0):
                raise InputError(f"{option_of(name)} must be a finite number, got {getattr(self, name)}")
        seeds(self, "seed")
        from_zero(self, "steps", "warmup", "sample_length", "temperature", "clip_norm", "clip_value",
                  "evaluate_every", "sample_every", "save_every")  # fmt: skip
        for name, least in (("evaluate_characters", 2), ("ngram_characters", 5)):
            if getattr(self, name) < least and getattr(self, name) != 0:
                raise InputError(
                    f"{option_of(name)} must be at least {least}, or 0 for all, got {getattr(self, name)}"
                )
        if self.batch_norm and self.layers == 1:
            raise InputError("--batch-norm is between layers, and there is one: give --layers 2 or more")
        if not 0 <= self.reset <= 1:
            raise InputError(f"--reset is a probability from 0 to 1, got {self.reset}")
        rates(self)
        for name, choices in (("loss", ("mean", "sum")), ("schedule", SCHEDULES), ("dtype", DTYPES)):
            if getattr(self, name) not in choices:
                raise InputError(f"--{name} is {' or '.join(choices)}, got {getattr(self, name)!r}")

    @property
    def weight_norms(self) -> dict[str, str] | str | None:
        """What `weight_norm` of a layer is given.

        Raises:
            InputError: a kind for recurrent matrices is not the only one.
        """
        if not self.weight_norm:
            return None
        if len(self.weight_norm) == 1 and "=" not in self.weight_norm[0]:
            return self.weight_norm[0]
        return dict(pattern_of("weight-norm", text, "KIND", "'*.x=weight'") for text in self.weight_norm)

    @property
    def chunk(self) -> int:
        """The steps between two updates."""
        return read_bptt(self.bptt)[0]

    @property
    def policy(self) -> Policy:
        """How the gradient of a chunk goes through time."""
        return read_bptt(self.bptt)[1]

    @property
    def plan(self) -> Plan:
        """When to measure, save and sample."""
        return plan_of(self.steps, self.evaluate_every, self.save_every, self.sample_every, self.keep)
