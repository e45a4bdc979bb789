"""The settings of picture classifiers, which are the options of their command."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Final

from unrolled.errors import InputError, check_sizes
from unrolled.nn.dense import ACTIVATIONS
from unrolled.options import read_call
from unrolled.train.loop import Plan
from unrolled.train.optimisers import SCHEDULES
from unrolled.unroll.policies import bytes_of

NETWORKS: Final = ("plain", "residual", "highway", "dense", "conv-residual", "conv-dense")
"""Cells through depth, and from the fourth on others."""

STARTS: Final = {
    "residual": {"depth": 20, "width": 64, "growth": 16},
    "conv-residual": {"depth": 2, "width": 16, "growth": 8},
    "conv-dense": {"depth": 4, "width": 16, "growth": 8},
}
"""Sizes where none are given; those of the first for all other networks."""

UNSAID: Final[Any] = None
"""A size of which that decides."""

MOST: Final = 1_000_000
"""Of every size."""


@dataclass(frozen=True)
class DigitsConfig:
    """How a classifier of pictures is built and trained; the text beside a type is the command's help."""

    network: Annotated[
        str,
        "plain, residual, highway (cells through depth, with options as in 'highway(carry_bias=3)', or any "
        "cell of `unrolled cells`), dense, conv-residual or conv-dense",
    ] = "residual"
    activation: Annotated[str, f"f of every layer: {', '.join(ACTIVATIONS)}"] = "relu"
    depth: Annotated[
        int, "layers; of a convolutional network blocks of a stage, or layers of a block [20; 2, 4]"
    ] = UNSAID
    width: Annotated[
        int, "units of a layer, of dense at first; of conv-residual channels at first [64; 16]"
    ] = UNSAID
    growth: Annotated[int, "of dense and conv-dense: units or channels that each layer adds [16; 8]"] = UNSAID
    norm: Annotated[str | None, "normalise what the matrices give: layer, rms or batch [none]"] = None
    weight_norm: Annotated[
        str | None,
        "of cells through depth: weight, spectral or spectral:LIMIT; matrices are normalised [none]",
    ] = None
    memory: Annotated[
        str | None,
        "of cells through depth: layers run again so that they take so much memory, as in 5MB [none]",
    ] = None
    init: Annotated[tuple[str, ...], "PATTERN=INITIALISER, as in '*.bias=0' or 'f.h=orthogonal'"] = ()
    steps: Annotated[int, "gradient steps to make"] = 500
    batch: Annotated[int, "pictures in each (B)"] = 64
    optimiser: Annotated[str, "sgd, adagrad, rmsprop, adam or adamw, as in 'adamw(weight_decay=0.01)'"] = (
        "adam"
    )
    rate: Annotated[float, "learning rate"] = 2e-3
    schedule: Annotated[str, "the rate over time after the warm-up: constant, linear or cosine"] = "cosine"
    warmup: Annotated[int, "steps over which the rate rises at first"] = 20
    weight_decay: Annotated[float, "the optimiser's weight_decay, for matrices alone"] = 0.0
    clip_norm: Annotated[float | None, "limit on the L2 norm of the whole gradient; 0 for none"] = 1.0
    clip_value: Annotated[float | None, "limit on each element of the gradient; 0 for none"] = None
    holdout: Annotated[float, "share of every class that is kept for testing"] = 0.2
    split: Annotated[int, "seed by which these are drawn, whatever --seed is"] = 0
    evaluate_every: Annotated[int | None, "steps between measurements on the test pictures [a tenth]"] = None
    show_every: Annotated[int | None, "steps between looks at the gradient by layer [a quarter of all]"] = (
        None
    )
    save_every: Annotated[int | None, "steps between checkpoints [a tenth]"] = None
    keep: Annotated[int, "checkpoints kept"] = 3
    seed: Annotated[int, "of the initial weights and the order of pictures"] = 0
    dtype: Annotated[str, "float32 or float64"] = "float32"

    def __post_init__(self) -> None:
        for name, value in STARTS.get(self.network, STARTS["residual"]).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for name in ("depth", "width", "growth", "batch", "keep"):
            check_sizes(**{f"--{name}": getattr(self, name)})
            if getattr(self, name) > MOST:
                raise InputError(f"--{name} must be at most a million, got {getattr(self, name)}")
        for name in ("clip_norm", "clip_value"):
            if not 0 <= (getattr(self, name) or 0) < math.inf:
                raise InputError(
                    f"--{name.replace('_', '-')} must be a finite number from 0, got {getattr(self, name)}"
                )
        for name in ("steps", "warmup", "seed", "split", "evaluate_every", "show_every", "save_every"):
            if (getattr(self, name) or 0) < 0:
                raise InputError(f"--{name.replace('_', '-')} cannot be negative, got {getattr(self, name)}")
        for name in ("seed", "split"):
            if getattr(self, name) >= 2**63:
                raise InputError(f"--{name} must be below 2^63, got {getattr(self, name)}")
        if not 0 < self.rate <= 1e30:  # torch cannot hold what Adam makes of more
            raise InputError(f"--rate must be above 0 and at most 1e30, got {self.rate}")
        if not 0 <= self.weight_decay < math.inf:
            raise InputError(f"--weight-decay must be a number from 0, got {self.weight_decay}")
        if self.weight_decay and "weight_decay" in read_call(self.optimiser)[1]:
            raise InputError("--weight-decay and weight_decay= of --optimiser: give one of them")
        if not 0 < self.holdout < 1:
            raise InputError(f"--holdout is a share above 0 and below 1, got {self.holdout}")
        for name, choices in (
            ("activation", ACTIVATIONS),
            ("schedule", SCHEDULES),
            ("dtype", ("float32", "float64")),
        ):
            if getattr(self, name) not in choices:
                raise InputError(f"--{name} is one of {', '.join(choices)}, got {getattr(self, name)!r}")
        if self.memory is not None:
            bytes_of(self.memory)
        name, options = read_call(self.network)
        if options and name in NETWORKS[3:]:
            raise InputError(f"--network {name} takes no options in brackets: its settings are options here")
        for setting in ("memory", "weight_norm"):
            if name in NETWORKS[3:] and getattr(self, setting) is not None:
                option = f"--{setting.replace('_', '-')}"
                raise InputError(f"{option} is for cells through depth, which {name} is not: leave it out")
        if name.startswith("conv-"):
            for setting, default in (("activation", "relu"), ("norm", None), ("init", ())):
                if getattr(self, setting) != default:
                    raise InputError(f"--{setting} is not for {name}, which has relu and batch normalisation")

    @property
    def plan(self) -> Plan:
        """When to measure, save and show."""

        def every(asked: int | None, times: int) -> int:
            return max(1, self.steps // times) if asked is None else asked

        return Plan(
            self.steps,
            evaluate_every=every(self.evaluate_every, 10),
            save_every=every(self.save_every, 10),
            show_every=every(self.show_every, 4),
            keep=self.keep,
        )
