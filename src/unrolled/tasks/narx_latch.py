"""How long a network with delay taps keeps information: the latching problem.

The class of a string is told at its first step and asked for at its last; between there is noise. A network
of one neuron, y_t = tanh(W u_t + e_t + Σ w_k y_{t−k}), must learn to hold on to it. The longer the string,
the fewer trainings succeed; the more taps, the longer the strings may be. Why is seen in the derivative of
the last output with respect to earlier ones: with taps of the same total weight it reaches further back.

The networks of many trainings are the units of one cell, and none sees another.

Source: Lin, Horne, Tiňo & Giles 1996, doi:10.1109/72.548162; the problem is that of Bengio, Simard & Frasconi
1994, doi:10.1109/72.279181.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Final

import torch
from torch import Tensor, nn, tanh

from unrolled.cells.narx import read_lags, tapped, taps
from unrolled.errors import InputError, check_sizes
from unrolled.flow import gradient_by_lag
from unrolled.nn import Recurrent
from unrolled.scan import scan

TARGET: Final = 0.8
"""What the output should be at the end, of either sign by class."""
NEAR: Final = 0.6
"""How far it may be from that."""
NOISE: Final = 0.155
"""Noise is uniform up to this, of either sign."""
QUIET: Final = 3
"""Steps at the beginning that are without noise."""
BATCH: Final = 30
HELD_OUT: Final = 200
EVERY: Final = 10
"""Updates between looks at held-out strings."""
WEIGHT: Final = 1.25
"""The total weight of the taps of the network whose derivatives are shown."""
LAGS: Final = 60
LEFT: Final = 0.01


@dataclass(frozen=True)
class LatchConfig:
    """The latching problem."""

    orders: Annotated[str, "output lags go up to each of these; the first is the measure of the others"] = (
        "1,2,4,6"
    )
    lengths: Annotated[str, "steps of the strings"] = "3,5,7,10,14,20,28,40,56,80"
    runs: Annotated[int, "trainings for each of them"] = 200
    updates: Annotated[int, "gradient steps of a training, at most"] = 500
    rate: Annotated[float, "the learning rate"] = 0.1
    seed: Annotated[int, "of the random numbers"] = 0

    def __post_init__(self) -> None:
        check_sizes(runs=self.runs, updates=self.updates)
        if not self.rate > 0:
            raise InputError(f"rate must be above 0, got {self.rate}")
        _ = self.each_order, self.each_length

    @property
    def each_order(self) -> tuple[int, ...]:
        return read_lags(self.orders, "orders", InputError)

    @property
    def each_length(self) -> tuple[int, ...]:
        return read_lags(self.lengths, "lengths", InputError, least=QUIET)


@dataclass(frozen=True)
class Order:
    """What networks of one order did.

    Attributes:
        order: output lags 1 to this.
        shares: by length of the strings, the share of trainings that succeeded.
        half: the length at which half of them do; None if that is not between the lengths tried.
        derivatives: |d y_t / d y_{t−n}| by n from 0, at the total weight `WEIGHT`.
        left: the first n at which `LEFT` of the derivative at 0 is left.
    """

    order: int
    shares: list[float]
    half: float | None
    derivatives: list[float]
    left: int | None


@dataclass(frozen=True)
class Latching:
    """Orders at the lengths of `lengths`."""

    lengths: list[int]
    runs: int
    orders: list[Order]

    def ratio(self, order: Order) -> float | None:
        """How many times as long as by the first order information is kept."""
        first = self.orders[0].half
        return order.half / first if order.half and first else None


@tapped("y")
def latch(x: Any, y: Any, W: Any, *, lags: str = "1") -> Any:
    """Neurons that see themselves alone.

        y ← tanh(W_y x + Σ w_k ⊙ y_{t−k})

    Source: Lin, Horne, Tiňo & Giles 1996, doi:10.1109/72.548162.
    """
    total = W.y(x, bias=False)
    for name, value in taps(y, "y", lags).items():
        total = total + W[f"w_{name}"] * value
    return tanh(total)


def strings(length: int, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Strings of both classes in turn, (T, B, 3): the class at the first step in two columns, noise in the
    third; and what the last output should be, (B,)."""
    first = torch.arange(count) % 2
    x = torch.zeros(length, count, 3)
    x[0, torch.arange(count), first] = 1
    noise = (
        torch.rand(length - QUIET, count, generator=generator) if length > QUIET else torch.zeros(0, count)
    )
    x[QUIET:, :, 2] = NOISE * (2 * noise - 1)
    return x, TARGET * (1 - 2 * first.float())


def share_that_latch(order: int, length: int, config: LatchConfig) -> float:
    """The share of trainings after which every held-out string of this length ends near its target."""
    generator = torch.Generator().manual_seed(1_000_003 * config.seed + 1009 * length + order)
    cell = latch.with_options(lags=f"1-{order}")

    def drawn(*shape: int) -> Tensor:
        return (torch.rand(shape, generator=generator) - 0.5).requires_grad_()

    learned = {name: drawn(config.runs) for name in cell.parameters if name != "y.x"}
    of_class, of_noise = drawn(config.runs, 2), torch.ones(config.runs, 1)

    def last(x: Tensor) -> Tensor:
        parameters = {"y.x": torch.cat([of_class, of_noise], 1), **learned}
        return scan(cell, x, None, parameters)[1]["y1"]

    held_out, wanted = strings(length, HELD_OUT, generator)
    optimiser = torch.optim.SGD([of_class, *learned.values()], lr=config.rate)
    latched = torch.zeros(config.runs, dtype=torch.bool)
    for update in range(config.updates + 1):
        if update % EVERY == 0 or update == config.updates:
            with torch.no_grad():
                latched |= ((last(held_out) - wanted[:, None]).abs() < NEAR).all(0)
            if latched.all() or update == config.updates:
                break
        x, target = strings(length, BATCH, generator)
        loss = (last(x) - target[:, None]).square().mean(0).sum() / 2  # runs do not see each other
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    return float(latched.float().mean())


def half_at(lengths: Sequence[int], shares: Sequence[float]) -> float | None:
    """The length at which a share falls below one half, on a line through the logarithms of two lengths."""
    points = [*zip(lengths, shares, strict=True)]
    for (shorter, above), (longer, below) in pairwise(points):
        if above >= 0.5 > below:
            return float(shorter * (longer / shorter) ** ((above - 0.5) / (above - below)))
    return None


def derivatives(order: int) -> list[float]:
    """|d y_t / d y_{t−n}| of one neuron by n, where it holds on to a class.

    Its taps share the weight `WEIGHT` equally, so that networks of all orders rest at the same output.
    """
    layer = Recurrent(f"delayed_rnn(lags=1-{order})", 1, 1, dtype=torch.float64)
    with torch.no_grad():
        for name, value in layer.named_parameters():
            value.fill_(WEIGHT / order if name.startswith("l0.h.h") else 0.0)
    rest = 1.0
    for _ in range(200):
        rest = math.tanh(WEIGHT * rest)
    state = {name: torch.full((1, 1, 1), rest, dtype=torch.float64) for name in layer.cell.states}

    def losses(model: nn.Module, x: Tensor) -> Tensor:
        y: Tensor = model(x, state)[0]
        return y.squeeze(-1)

    (profile,) = gradient_by_lag(layer, torch.zeros(LAGS, 1, 1, dtype=torch.float64), losses).profiles
    found = profile.states["h1"] if order > 1 else profile.norm
    return [float(value) for value in found[:LAGS]]


def latching(config: LatchConfig, told: Callable[[str], Any] = lambda _: None) -> Latching:
    """The whole experiment.

    Args:
        told: called with a line after each order.
    """
    lengths, orders = [*config.each_length], []
    for order in config.each_order:
        shares = [share_that_latch(order, length, config) for length in lengths]
        found = derivatives(order)
        left = next((n for n, value in enumerate(found) if value <= LEFT * found[0]), None)
        orders.append(Order(order, shares, half_at(lengths, shares), found, left))
        told(f"output lags 1 to {order}: done")
    return Latching(lengths, config.runs, orders)
