"""Torch's optimisers by name, learning-rate schedules, and clipping."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.optim import Optimizer

from unrolled.errors import InputError
from unrolled.options import read_call

OPTIMISERS: Final[dict[str, type[Optimizer]]] = {
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}

SCHEDULES: Final = ("constant", "linear", "cosine")


def make_optimiser(text: str, parameters: Iterable[Any], rate: float) -> Optimizer:
    """The optimiser that text such as "adam" or "sgd(momentum=0.9)" asks for.

    Args:
        text: a name of `OPTIMISERS`, with torch's options in brackets; a pair is written betas=0.9/0.99.
        parameters: tensors, or groups of them as torch has them.
        rate: the learning rate.

    Raises:
        InputError: no such optimiser or option; the message lists what there is.
    """
    name, options = read_call(text)
    if name not in OPTIMISERS:
        raise InputError(f"no optimiser {name!r}; there are {', '.join(OPTIMISERS)}")
    kind = OPTIMISERS[name]
    known = {
        p.name: p.default
        for p in inspect.signature(kind).parameters.values()
        if p.name not in ("lr", "capturable", "differentiable") and isinstance(p.default, float | int | tuple)
    }
    values: dict[str, Any] = {}
    for key, value in options.items():
        if key not in known:
            raise InputError(f"optimiser {name} has no option {key!r}; it has {', '.join(known)}")
        values[key] = _read(f"option {key} of {name}", value, known[key])
    try:
        if "fused" in inspect.signature(kind).parameters:  # one pass over memory
            values["fused"] = True
        return kind(parameters, lr=rate, **values)  # type: ignore[call-arg]
    except ValueError as error:
        raise InputError(f"optimiser {text!r}: {error}") from error


def _read(what: str, value: str, default: object) -> Any:
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False}[value.lower()]
        numbers = tuple(float(part) for part in value.split("/"))
        if len(numbers) != (len(default) if isinstance(default, tuple) else 1):
            raise ValueError
    except (KeyError, ValueError):
        example = {bool: "true or false", tuple: "two numbers as in 0.9/0.99"}.get(type(default), "a number")
        raise InputError(f"{what} cannot be {value!r}; it takes {example}") from None
    return numbers if isinstance(default, tuple) else numbers[0]


@dataclass(frozen=True)
class Schedule:
    """The learning rate by step: a linear rise over `warmup` steps, then constant or falling to 0."""

    rate: float
    kind: str = "constant"
    warmup: int = 0
    steps: int = 0

    def __post_init__(self) -> None:
        if self.kind not in SCHEDULES:
            raise InputError(f"no schedule {self.kind!r}; there are {', '.join(SCHEDULES)}")

    def __call__(self, step: int) -> float:
        """The rate of the step after `step` steps are done."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        done = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        fall = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
        return self.rate * fall[self.kind]


@dataclass(frozen=True)
class Clip:
    """Limits on the gradient, applied in this order.

    value: every element is brought into ±value (elementwise clipping changes the direction).
    norm: all gradients together are scaled so that their L2 norm, √(Σ g²), is at most this (Pascanu,
        Mikolov & Bengio 2013, arXiv:1211.5063).
    """

    value: float | None = None
    norm: float | None = None

    def __post_init__(self) -> None:
        for name, limit in (("value", self.value), ("norm", self.norm)):
            if limit is not None and not limit > 0:
                raise InputError(f"clipping by {name} needs a limit above 0, got {limit}")

    def __call__(self, gradients: Sequence[Tensor]) -> float:
        """Clip in place; returns the L2 norm over all gradients before clipping."""
        norm = left = _norm(gradients)
        if self.value is not None:
            for gradient in gradients:
                gradient.clamp_(-self.value, self.value)
            left = _norm(gradients) if self.norm is not None else norm
        if self.norm is not None and left > self.norm:
            for gradient in gradients:
                gradient.mul_(self.norm / left)
        return norm


def _norm(gradients: Sequence[Tensor]) -> float:
    return math.hypot(*(torch.linalg.vector_norm(gradient).item() for gradient in gradients))
