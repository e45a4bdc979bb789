"""Simulated plants whose equations are to be found again: the five examples of Narendra & Parthasarathy.

    1   y_{k+1} = 0.3 y_k + 0.6 y_{k−1} + 0.6 sin(π u_k) + 0.3 sin(3π u_k) + 0.1 sin(5π u_k)
    2   y_{k+1} = y_k y_{k−1} (y_k + 2.5) / (1 + y_k² + y_{k−1}²) + u_k
    3   y_{k+1} = y_k / (1 + y_k²) + u_k³
    4   y_{k+1} = (y_k y_{k−1} y_{k−2} u_{k−1} (y_{k−2} − 1) + u_k) / (1 + y_{k−1}² + y_{k−2}²)
    5   a_{k+1} = a_k / (1 + b_k²) + u_k,  b_{k+1} = a_k b_k / (1 + b_k²) + v_k

All begin at rest. They are excited by inputs that are uniform at random, and tested with sine waves.

Source: Narendra & Parthasarathy 1990, doi:10.1109/72.80202, examples 1 to 5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

Values = Sequence[Sequence[float]]
"""The latest first, each one number for each channel."""


@dataclass(frozen=True)
class Plant:
    """One of them.

    Attributes:
        number: of the example.
        name: what it is, in words.
        step: the next outputs from the last inputs and outputs.
        inputs, outputs: how many.
        input_lags, output_lags: those that its equation has. y_{k+1} depends on u_k, which is one step ago.
        amplitude: inputs are uniform up to this, of either sign.
        test: the inputs at step k that it is tested with.
    """

    number: int
    name: str
    step: Callable[[Values, Values], tuple[float, ...]]
    inputs: int
    outputs: int
    input_lags: tuple[int, ...]
    output_lags: tuple[int, ...]
    amplitude: float
    test: Callable[[int], tuple[float, ...]]

    def run(self, u: Tensor) -> Tensor:
        """The outputs (T, O) for inputs (T, I), in float64; the first is that of rest: it saw no input."""
        read = u.tolist()
        earlier = [[0.0] * self.inputs] * (max(self.input_lags) - 1)
        y: list[Sequence[float]] = [(0.0,) * self.outputs] * max(self.output_lags)
        begin = len(y) - 1
        for k in range(len(read) - 1):
            seen = [*reversed(earlier + read[: k + 1])]
            y.append(self.step(seen[: max(self.input_lags)], y[::-1][: max(self.output_lags)]))
        return torch.tensor(y[begin:], dtype=torch.float64)

    def excitation(self, steps: int, generator: torch.Generator) -> Tensor:
        """Inputs (T, I) at random."""
        drawn = torch.rand(steps, self.inputs, generator=generator, dtype=torch.float64)
        return self.amplitude * (2 * drawn - 1)

    def test_inputs(self, steps: int) -> Tensor:
        """The inputs (T, I) that it is tested with."""
        return torch.tensor([self.test(k) for k in range(steps)], dtype=torch.float64)


def _first(u: Values, y: Values) -> tuple[float, ...]:
    (v,) = u[0]
    driven = 0.6 * math.sin(math.pi * v) + 0.3 * math.sin(3 * math.pi * v) + 0.1 * math.sin(5 * math.pi * v)
    return (0.3 * y[0][0] + 0.6 * y[1][0] + driven,)


def _second(u: Values, y: Values) -> tuple[float, ...]:
    (a,), (b,) = y
    return (a * b * (a + 2.5) / (1 + a * a + b * b) + u[0][0],)


def _third(u: Values, y: Values) -> tuple[float, ...]:
    ((a,),) = y
    return (a / (1 + a * a) + u[0][0] ** 3,)


def _fourth(u: Values, y: Values) -> tuple[float, ...]:
    (a,), (b,), (c,) = y
    return ((a * b * c * u[1][0] * (c - 1) + u[0][0]) / (1 + b * b + c * c),)


def _fifth(u: Values, y: Values) -> tuple[float, ...]:
    ((a, b),) = y
    return a / (1 + b * b) + u[0][0], a * b / (1 + b * b) + u[0][1]


def _sine(k: int, period: float) -> float:
    return math.sin(2 * math.pi * k / period)


def _changing(k: int) -> tuple[float, ...]:
    return (_sine(k, 250) if k <= 500 else 0.8 * _sine(k, 250) + 0.2 * _sine(k, 25),)


PLANTS: Final = (
    Plant(1, "linear in y, sines of u", _first, 1, 1, (1,), (1, 2), 1.0, lambda k: (_sine(k, 250),)),
    Plant(2, "a fraction of y, plus u", _second, 1, 1, (1,), (1, 2), 2.0, lambda k: (_sine(k, 25),)),
    Plant(
        3, "a fraction of y, plus u³", _third, 1, 1, (1,), (1,), 2.0, lambda k: (_sine(k, 25) + _sine(k, 10),)
    ),
    Plant(4, "a fraction of y and u", _fourth, 1, 1, (1, 2), (1, 2, 3), 1.0, _changing),
    Plant(
        5,
        "two inputs, two outputs",
        _fifth,
        2,
        2,
        (1,),
        (1,),
        1.0,
        lambda k: (_sine(k, 25), math.cos(2 * math.pi * k / 25)),
    ),
)
