"""The settings of picture classifiers, which are the options of their command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final

from unrolled.errors import InputError
from unrolled.nn.dense import ACTIVATIONS
from unrolled.options import read_call
from unrolled.tasks.settings import TrainingConfig, one_of, option_of, seeds, sizes
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


@dataclass(frozen=True)
class DigitsConfig(TrainingConfig):
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
    holdout: Annotated[float, "share of every class that is kept for testing"] = 0.2
    split: Annotated[int, "seed by which these are drawn, whatever --seed is"] = 0
    steps: Annotated[int, "gradient steps to make"] = 500
    batch: Annotated[int, "pictures in each (B)"] = 64
    seed: Annotated[int, "of the initial weights and the order of pictures"] = 0

    def __post_init__(self) -> None:
        for name, value in STARTS.get(self.network, STARTS["residual"]).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        super().__post_init__()
        sizes(self, "depth", "width", "growth")
        seeds(self, "split")
        if not 0 < self.holdout < 1:
            raise InputError(f"--holdout is a share above 0 and below 1, got {self.holdout}")
        one_of(self, "activation", ACTIVATIONS)
        if self.memory is not None:
            bytes_of(self.memory)
        name, options = read_call(self.network)
        if options and name in NETWORKS[3:]:
            raise InputError(f"--network {name} takes no options in brackets: its settings are options here")
        for setting in ("memory", "weight_norm"):
            if name in NETWORKS[3:] and getattr(self, setting) is not None:
                raise InputError(
                    f"{option_of(setting)} is for cells through depth, which {name} is not: leave it out"
                )
        if name.startswith("conv-"):
            for setting, default in (("activation", "relu"), ("norm", None), ("init", ())):
                if getattr(self, setting) != default:
                    raise InputError(f"--{setting} is not for {name}, which has relu and batch normalisation")
