"""A chaotic series forecast freely: NARX networks read their own forecasts.

Networks learn one step ahead from the first part of a series and then run on from its end without seeing
more. What they say is averaged, since every one of them loses the track at another step. Beside them stand
the mean, a linear network with as many taps, and the nearest window of the past with what came after it.

Source: Hübner, Abraham & Weiss 1989, doi:10.1103/PhysRevA.40.6354 (the laser); Weigend & Gershenfeld 1994,
Time Series Prediction (the competition: train on the first 1,000 steps, forecast the next 100).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Annotated, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unrolled.errors import DivergedError, InputError, check_sizes
from unrolled.nn import ARX, NARX
from unrolled.train.levenberg import levenberg_marquardt

PUBLISHED: Final = {"best entry of the competition": 0.028, "second": 0.080}
"""Errors on the laser's steps 1,000 to 1,100 that Weigend & Gershenfeld list."""


@dataclass(frozen=True)
class ForecastConfig:
    """What is forecast, and with which networks."""

    train: Annotated[int, "steps to learn from"] = 1000
    steps: Annotated[int, "steps to forecast"] = 100
    begin: Annotated[int, "steps of the series to leave out at first"] = 0
    lags: Annotated[int, "output lags, from 1 to this"] = 40
    hidden: Annotated[int, "hidden units of a network"] = 30
    networks: Annotated[int, "networks whose forecasts are averaged"] = 8
    updates: Annotated[int, "steps of Levenberg-Marquardt for each"] = 40
    decay: Annotated[float, "weight decay"] = 1e-5
    seed: Annotated[int, "of the random numbers"] = 0

    def __post_init__(self) -> None:
        sizes = {
            name: getattr(self, name) for name in ("train", "steps", "lags", "hidden", "networks", "updates")
        }
        check_sizes(**sizes)
        if self.begin < 0 or self.decay < 0:
            name = "begin" if self.begin < 0 else "decay"
            raise InputError(f"{name} must not be below 0, got {getattr(self, name)}")


@dataclass(frozen=True)
class Forecast:
    """What came, and what was forecast; see `normalised_error` for errors.

    Attributes:
        truth: of the steps forecast.
        before: the last steps that were learned from.
        single: the forecast of each network, None where it diverged; their errors are `errors`.
        forecasts: by name, of the average of the networks and of the others.
        errors_of: by name, theirs.
        one_step: the error of one step ahead of all networks together, with the truth read at each step.
    """

    label: str
    truth: list[float]
    before: list[float]
    single: list[list[float] | None]
    errors: list[float | None]
    forecasts: dict[str, list[float]]
    errors_of: dict[str, float]
    one_step: float

    @property
    def typical(self) -> float | None:
        """The error that half of the single networks stay below."""
        found = [error for error in self.errors if error is not None]
        return median(found) if found else None


def normalised_error(found: Tensor, truth: Tensor) -> float:
    """The mean square of what is between, over the variance of the truth, which is 1 for its mean; of several
    outputs the mean.

    Args:
        found, truth: (T, O).
    """
    return float(((found - truth).square().mean(0) / truth.var(0, unbiased=False)).mean())


def nearest(known: Tensor, lags: int, steps: int) -> Tensor:
    """What came after the window of the past that is most like the last one, (steps, 1)."""
    windows = known.squeeze(1).unfold(0, lags, 1)  # the last one is where we are
    candidates = windows[: len(windows) - steps]
    if not len(candidates):
        raise InputError(
            f"train={len(known)} steps leave no window of {lags} lags with {steps} steps after it: "
            "train on more"
        )
    at = int((candidates - windows[-1]).square().sum(1).argmin())
    return known[at + lags : at + lags + steps]


def forecast(
    label: str,
    series: NDArray[np.float64],
    config: ForecastConfig,
    told: Callable[[str], Any] = lambda _: None,
) -> Forecast:
    """The whole experiment.

    Args:
        series: (N,), of which `begin` to `begin + train` are learned, and the next `steps` forecast.
        told: called with a line after each network.

    Raises:
        InputError: the series is too short, or does not vary.
        DivergedError: every network's free run did.
    """
    end = config.begin + config.train
    if len(series) < end + config.steps:
        raise InputError(
            f"{label} has {len(series)} steps, but {config.begin} to leave out, {config.train} to learn from "
            f"and {config.steps} to forecast take {end + config.steps}"
        )
    if config.train <= config.lags:
        raise InputError(
            f"train={config.train} steps are too few for {config.lags} lags: give more, or fewer lags"
        )
    raw = torch.from_numpy(series[config.begin : end + config.steps].copy())[:, None]
    known = raw[: config.train]
    mean, deviation = known.mean(), known.std()
    if not deviation > 0:
        raise InputError(
            f"{label} is the same at all {config.train} steps to learn from: there is nothing to forecast"
        )
    values = (raw - mean) / deviation
    known, truth = values[: config.train], values[config.train :]
    lags = range(1, config.lags + 1)

    linear = ARX(0, 1, output_lags=lags, dtype=torch.float64)
    linear.fit(None, known)
    found: dict[str, Tensor] = {"mean": torch.zeros_like(truth)}
    with torch.no_grad():
        found["linear network"] = linear(config.steps, linear.state(None, known), limit=float("inf"))[0]
    found["nearest past"] = nearest(known, config.lags, config.steps)

    runs: list[Tensor | None] = []
    ahead = torch.zeros_like(truth)
    for k in range(config.networks):
        torch.manual_seed(1000 * config.seed + k)
        model = NARX(0, 1, config.hidden, output_lags=lags, dtype=torch.float64)
        levenberg_marquardt(model, None, known, config.updates, config.decay)
        with torch.no_grad():
            ahead += model.open_loop(None, truth, model.state(None, known)) / config.networks
            try:
                run = model(config.steps, model.state(None, known))[0]
            except DivergedError as diverged:
                runs.append(None)
                told(f"network {k + 1}: {diverged}")
                continue
        runs.append(run)
        told(f"network {k + 1} of {config.networks}: error {normalised_error(run, truth):.3f}")
    there = [run for run in runs if run is not None]
    if not there:
        raise DivergedError(
            f"the free runs of all {config.networks} networks diverged: use fewer hidden units"
        )
    found = {"NARX networks, averaged": torch.stack(there).mean(0), **found}

    def listed(value: Tensor) -> list[float]:
        return [float(number) for number in (value * deviation + mean).squeeze(1)]

    return Forecast(
        label,
        listed(truth),
        listed(known[-config.steps :]),
        [None if run is None else listed(run) for run in runs],
        [None if run is None else normalised_error(run, truth) for run in runs],
        {name: listed(value) for name, value in found.items()},
        {name: normalised_error(value, truth) for name, value in found.items()},
        normalised_error(ahead, truth),
    )
