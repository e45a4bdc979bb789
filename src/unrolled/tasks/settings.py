"""Settings that all trainings share, which are options of their commands, and how settings are checked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from unrolled.errors import InputError, check_sizes
from unrolled.options import read_call
from unrolled.train.loop import Plan
from unrolled.train.optimisers import SCHEDULES

MOST: Final = 1_000_000
"""Of every size."""

DTYPES: Final = ("float32", "float64")


@dataclass(frozen=True)
class TrainingConfig:
    """How any model is trained, and when it is measured; the text beside a type is the command's help.

    A task's own configuration inherits these, gives what has other defaults anew, and in its `__post_init__`
    calls this one's.
    """

    steps: Annotated[int, "gradient steps to make"] = 1000
    batch: Annotated[int, "sequences in each step (B)"] = 32
    optimiser: Annotated[str, "sgd, adagrad, rmsprop, adam or adamw, as in 'adamw(weight_decay=0.01)'"] = (
        "adam"
    )
    rate: Annotated[float, "learning rate"] = 2e-3
    schedule: Annotated[str, "the rate over time after the warm-up: constant, linear or cosine"] = "cosine"
    warmup: Annotated[int, "steps over which the rate rises at first"] = 20
    weight_decay: Annotated[float, "the optimiser's weight_decay, for matrices alone"] = 0.0
    clip_norm: Annotated[float | None, "limit on the L2 norm of the whole gradient; 0 for none"] = 1.0
    clip_value: Annotated[float | None, "limit on each element of the gradient; 0 for none"] = None
    evaluate_every: Annotated[int | None, "steps between measurements on what is held out [a tenth]"] = None
    show_every: Annotated[int | None, "steps between looks at what it does [a quarter of all]"] = None
    save_every: Annotated[int | None, "steps between checkpoints [a tenth]"] = None
    keep: Annotated[int, "checkpoints kept"] = 3
    seed: Annotated[
        int, "of the initial weights, of what is drawn at random, and of the order of examples"
    ] = 0
    dtype: Annotated[str, "float32 or float64"] = "float32"

    def __post_init__(self) -> None:
        sizes(self, "batch", "keep")
        from_zero(self, "steps", "warmup", "evaluate_every", "show_every", "save_every")
        seeds(self, "seed")
        finite(self, "clip_norm", "clip_value")
        rates(self)
        one_of(self, "schedule", SCHEDULES)
        one_of(self, "dtype", DTYPES)

    @property
    def plan(self) -> Plan:
        """When to measure, save and show."""
        return plan_of(self.steps, self.evaluate_every, self.save_every, self.show_every, self.keep)


CHANGEABLE: Final = ("steps", "evaluate_every", "show_every", "save_every", "keep")
"""The settings that may change when a run goes on; the others would make it another run."""


def plan_of(steps: int, evaluate: int | None, save: int | None, show: int | None, keep: int) -> Plan:
    """A plan in which what is not said is a tenth of all steps, or a quarter between things to show."""

    def every(asked: int | None, times: int) -> int:
        return max(1, steps // times) if asked is None else asked

    return Plan(
        steps,
        evaluate_every=every(evaluate, 10),
        save_every=every(save, 10),
        show_every=every(show, 4),
        keep=keep,
    )


def option_of(name: str) -> str:
    """How the command line calls a setting."""
    return f"--{name.replace('_', '-')}"


def sizes(config: object, *names: str) -> None:
    """
    Raises:
        InputError: one of these settings is no whole number from 1 to a million.
    """
    for name in names:
        value = getattr(config, name)
        check_sizes(**{option_of(name): value})
        if value > MOST:
            raise InputError(f"{option_of(name)} must be at most a million, got {value}")


def from_zero(config: object, *names: str) -> None:
    """
    Raises:
        InputError: one of these settings is below 0.
    """
    for name in names:
        if (getattr(config, name) or 0) < 0:
            raise InputError(f"{option_of(name)} cannot be negative, got {getattr(config, name)}")


def seeds(config: object, *names: str) -> None:
    """
    Raises:
        InputError: one of these settings is no seed.
    """
    from_zero(config, *names)
    for name in names:
        if getattr(config, name) >= 2**63:
            raise InputError(f"{option_of(name)} must be below 2^63, got {getattr(config, name)}")


def finite(config: object, *names: str) -> None:
    """
    Raises:
        InputError: one of these settings is below 0 or not finite.
    """
    for name in names:
        if not 0 <= (getattr(config, name) or 0) < math.inf:
            raise InputError(f"{option_of(name)} must be a finite number from 0, got {getattr(config, name)}")


def shares(config: object, *names: str) -> None:
    """
    Raises:
        InputError: one of these settings is no probability below 1.
    """
    for name in names:
        if not 0 <= getattr(config, name) < 1:
            raise InputError(
                f"{option_of(name)} is a probability from 0 and below 1, got {getattr(config, name)}"
            )


def one_of(config: object, name: str, choices: Iterable[str]) -> None:
    """
    Raises:
        InputError: a setting is none of these words.
    """
    if getattr(config, name) not in (known := tuple(choices)):
        raise InputError(f"{option_of(name)} is one of {', '.join(known)}, got {getattr(config, name)!r}")


def rates(config: Any) -> None:
    """
    Raises:
        InputError: `rate` or `weight_decay` will not do, or the optimiser has the last as well.
    """
    if not 0 < config.rate <= 1e30:  # torch cannot hold what Adam makes of more
        raise InputError(f"--rate must be above 0 and at most 1e30, got {config.rate}")
    if not 0 <= config.weight_decay < math.inf:
        raise InputError(f"--weight-decay must be a number from 0, got {config.weight_decay}")
    if config.weight_decay and "weight_decay" in read_call(config.optimiser)[1]:
        raise InputError("--weight-decay and weight_decay= of --optimiser: give one of them")


def as_settings(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a configuration, as JSON gives them back."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in recorded.items()}


def pattern_of(option: str, text: str, what: str, example: str) -> tuple[str, str]:
    """The two sides of PATTERN=WHAT.

    Raises:
        InputError: it is not of this form.
    """
    pattern, equals, how = text.partition("=")
    if not (pattern.strip() and equals and how.strip()):
        raise InputError(f"cannot read --{option} {text!r}; write PATTERN={what}, as in {example}")
    return pattern.strip(), how.strip()
