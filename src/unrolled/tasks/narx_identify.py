"""Simulated plants identified by NARX networks, beside linear networks with the same taps.

A network learns one step ahead (open loop) from a plant that is excited at random, without noise. Then it is
tested with other inputs: one step ahead, and as a model in place of the plant, in closed loop over the whole
test, without seeing an output of the plant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch

from unrolled.cells.narx import read_lags
from unrolled.errors import DivergedError, InputError, check_sizes
from unrolled.nn import ARX, NARX
from unrolled.tasks.narx_forecast import normalised_error
from unrolled.tasks.plants import PLANTS, Plant
from unrolled.train.levenberg import levenberg_marquardt


@dataclass(frozen=True)
class IdentifyConfig:
    """The plants, and how networks are fitted to them."""

    plants: Annotated[str, "which of the five examples of Narendra & Parthasarathy"] = "1-5"
    train: Annotated[int, "steps to learn from"] = 1000
    steps: Annotated[int, "steps of the test"] = 800
    hidden: Annotated[int, "hidden units"] = 20
    updates: Annotated[int, "steps of Levenberg-Marquardt"] = 200
    seed: Annotated[int, "of the random numbers"] = 0

    def __post_init__(self) -> None:
        check_sizes(train=self.train, steps=self.steps, hidden=self.hidden, updates=self.updates)
        if self.each_plant[-1] > len(PLANTS):
            raise InputError(f"there is no plant {self.each_plant[-1]}; they are numbered 1 to {len(PLANTS)}")

    @property
    def each_plant(self) -> tuple[int, ...]:
        return read_lags(self.plants, "plants", InputError)


@dataclass(frozen=True)
class Identified:
    """What was made of one plant. Errors are normalised: 1 is that of the mean.

    Attributes:
        number, name: of the plant.
        truth: its outputs in the test, (T, O).
        free: those of the models in closed loop, by name; None where the run diverged.
        one_step, free_run: errors by name.
    """

    number: int
    name: str
    truth: list[list[float]]
    free: dict[str, list[list[float]] | None]
    one_step: dict[str, float]
    free_run: dict[str, float | None]


def identify(plant: Plant, config: IdentifyConfig) -> Identified:
    """Both models of a plant."""
    generator = torch.Generator().manual_seed(100 * config.seed + plant.number)
    u = plant.excitation(config.train, generator)
    y = plant.run(u)
    scale = y.std(0)
    torch.manual_seed(100 * config.seed + plant.number)
    channels = plant.inputs, plant.outputs
    lags = plant.input_lags, plant.output_lags
    linear = ARX(*channels, *lags, dtype=torch.float64)
    linear.fit(u, y / scale)
    model = NARX(*channels, config.hidden, *lags, dtype=torch.float64)
    levenberg_marquardt(model, u, y / scale, config.updates)

    inputs = plant.test_inputs(config.steps + model.order)
    outputs = plant.run(inputs)
    truth = outputs[model.order :]
    free: dict[str, list[list[float]] | None] = {}
    one_step: dict[str, float] = {}
    free_run: dict[str, float | None] = {}
    for name, each in (("ARX", linear), ("NARX", model)):
        with torch.no_grad():
            one_step[name] = normalised_error(each.open_loop(inputs, outputs / scale) * scale, truth)
            try:
                start = each.state(inputs[: each.order], outputs[: each.order] / scale)
                found = each(inputs[each.order :], start)[0] * scale
            except DivergedError:
                free[name] = free_run[name] = None
                continue
        free[name], free_run[name] = found.tolist(), normalised_error(found, truth)
    return Identified(plant.number, plant.name, truth.tolist(), free, one_step, free_run)


def identified(config: IdentifyConfig, told: Callable[[str], Any] = lambda _: None) -> list[Identified]:
    """All plants.

    Args:
        told: called with a line after each.
    """
    found = []
    for number in config.each_plant:
        found.append(identify(PLANTS[number - 1], config))
        told(f"plant {number}: done")
    return found
