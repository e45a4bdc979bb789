"""Trainings from several seeds: how long they take, and what comes of them on what is held out."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from benchmarks.family import MINUTE, Record, Settings
from benchmarks.paired import quartiles
from unrolled.train.loop import Trainer

SEEDS: Final = 3


class Task(Protocol):
    """What can be trained."""

    @property
    def config(self) -> Any: ...

    def trainer(self) -> Trainer: ...


class Training(NamedTuple):
    """Minutes of all steps, and figures by name."""

    minutes: float
    figures: Mapping[str, float]


def seeds(settings: Settings) -> range:
    """From which trainings begin."""
    return range(1 if settings.quick else min(SEEDS, settings.rounds))


def minutes_of(task: Task) -> float:
    """Of all steps, which are made."""
    trainer = task.trainer()
    began = time.perf_counter()
    for _ in range(task.config.steps):
        trainer.advance()
    return (time.perf_counter() - began) / 60


def mean(name: str, figures: Sequence[float], bar: float | None = None, note: str = "") -> Record:
    """Of a figure over trainings."""
    low, _, high = quartiles(figures)
    told = f"{note}; " * bool(note) + "by seed: " + ", ".join(f"{each:.3g}" for each in figures)
    return Record(name, sum(figures) / len(figures), low, high, bar=bar, turns=len(figures), note=told)


def longest(name: str, minutes: Sequence[float], bar: float | None = None) -> Record:
    """Minutes of the longest training."""
    low, _, high = quartiles(minutes)
    return Record(name, max(minutes), low, high, bar=bar, turns=len(minutes), unit=MINUTE)
