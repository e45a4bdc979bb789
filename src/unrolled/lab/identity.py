"""Is it easier to have weights of zero than to be the identity?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unrolled.cell import Cell, cell
from unrolled.cells import find
from unrolled.lab.experiment import Number, Result, Verdict, at_least, at_most, experiment, near
from unrolled.lab.networks import gaussian
from unrolled.nn.deep import Deep
from unrolled.report.blocks import Item
from unrolled.report.page import Bars, Lines, Series


@cell(states="h")
def linear(x: Any, h: Any, W: Any) -> Any:
    """A layer without an activation."""
    return W.f(x, h, bias=False)


@cell(states="h")
def linear_residual(x: Any, h: Any, W: Any) -> Any:
    """The same beside a skip."""
    return W.f(x, h, bias=False) + h


@dataclass(frozen=True)
class Fit:
    """How the identity is learned.

    width, depth: units and layers.
    updates, rate, decay: of gradient descent.
    rows: examples.
    scale: of the weights at first.
    """

    width: int = 8
    depth: int = 4
    updates: int = 600
    rate: float = 0.2
    decay: float = 0.01
    rows: int = 512
    scale: float = 0.1


@dataclass(frozen=True)
class Fitted:
    """What came of a training: the losses on the way, and the weights before and behind."""

    losses: list[float]
    before: Tensor
    behind: Tensor

    @property
    def moved(self) -> float:
        return float((self.behind - self.before).norm())

    def reached(self, loss: float) -> float:
        """The first update with less than this loss; infinite if there is none."""
        return next((k for k, each in enumerate(self.losses) if each < loss), math.inf)


def fit(kind: Cell, depth: int, A: Tensor, setup: Fit, decay: float, init: str | None = None) -> Fitted:
    """Gradient descent on mean ‖f(A) − A‖² + decay / 2 ‖W‖²."""
    start: Mapping[str, str] = {"*.h": init or f"normal:{setup.scale}"}
    network = Deep(kind, setup.width, depth, init=start, dtype=torch.float64)
    weights = [*network.parameters()]
    optimiser = torch.optim.SGD(weights, setup.rate, weight_decay=decay)
    before = torch.cat([p.detach().flatten() for p in weights]).clone()
    losses = []
    for _ in range(setup.updates):
        loss = (network(A) - A).square().sum(1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return Fitted(losses, before, torch.cat([p.detach().flatten() for p in weights]))


@experiment(
    title="Zero weights or the identity",
    lectures=("000", "001"),
    claim="It is easier for a layer to have weights of zero, as a residual one needs to pass everything "
    "on, than to be the identity.",
    statement="Learning y = x from the same small weights, plain beside residual: how far the weights of "
    "one linear layer have to go; the loss with weight decay against that of ridge regression; updates "
    "until four layers of tanh are within 0.01.",
    verdict=Verdict(
        "holds if",
        "weights begin near 0, or are decayed: a plain layer that begins as the "
        "identity has nothing to learn",
    ),
    setup=Fit(),
    quick=Fit(updates=300),
)
def zero_weights(setup: Fit) -> Result:
    H, L = setup.width, setup.depth
    A = gaussian(setup.rows, H, scale=0.5)
    one = {
        name: fit(kind, 1, A, setup, 0.0) for name, kind in (("plain", linear), ("residual", linear_residual))
    }
    needed = {
        "plain": float((one["plain"].before.view(H, H) - torch.eye(H)).norm()),
        "residual": float(one["residual"].before.norm()),
    }
    decayed = {
        name: fit(kind, 1, A, setup, setup.decay)
        for name, kind in (("plain", linear), ("residual", linear_residual))
    }
    S = A.T @ A / len(A)
    ridge = 2 * S @ torch.linalg.inv(2 * S + setup.decay * torch.eye(H)) - torch.eye(H)
    four = {
        name: fit(find(kind), L, A, setup, setup.decay)
        for name, kind in (
            ("plain, tanh", "rnn"), ("residual, tanh", "residual(activation=tanh)"),
            ("plain, ReLU", "rnn(activation=relu)"), ("residual, ReLU", "residual"),
        )
    }  # fmt: skip
    updates = range(setup.updates)
    begun = fit(linear, L, A, setup, 0.0, "identity")
    numbers = [
        near("one linear layer, plain: distance that weights go", one["plain"].moved, needed["plain"], 1e-3),
        near("residual: distance that weights go", one["residual"].moved, needed["residual"], 1e-3),
        at_most("the same, against plain", one["residual"].moved, one["plain"].moved / 2, "claim"),
        near("decay, plain: loss", decayed["plain"].losses[-1], float((ridge @ S @ ridge.T).trace()), 1e-3),
        at_most("decay, residual: loss", decayed["residual"].losses[-1], 1e-12, "claim"),
        at_most(
            f"{L} layers of tanh, residual: updates to 0.01",
            four["residual, tanh"].reached(0.01),
            60,
            "claim",
        ),
        at_least(f"{L} layers of tanh, plain: loss in the end", four["plain, tanh"].losses[-1], 0.1, "claim"),
        at_least("linear, begun as the identity: loss at first", begun.losses[0], 0.01, "counterexample"),
        Number("linear, begun as the identity: loss in the end", begun.losses[-1], 0.0, 1e-20),
    ]
    figures: list[Item] = [
        Lines(
            f"Learning the identity with {L} layers",
            f"From weights of size {setup.scale:g}, with weight decay {setup.decay:g}. What is residual "
            "begins near the identity and is led there by the decay as well.",
            "update",
            "mean ‖f(x) − x‖²",
            [Series(name, updates, [max(k, 1e-14) for k in found.losses]) for name, found in four.items()],
            log_y=True,
        ),
        Bars(
            "How far the weights of one layer have to go",
            f"From their start to a solution, for {H} units: to the identity, whose norm is √{H}, or to 0.",
            "distance",
            ["plain, linear", "residual, linear"],
            [one["plain"].moved, one["residual"].moved],
        ),
    ]  # fmt: skip
    words = (
        "A decay pulls towards 0: for the residual layer that is the solution, for the plain one away "
        "from it. Plain layers of tanh or ReLU cannot be the identity at all."
    )
    return Result(numbers, figures, words)
