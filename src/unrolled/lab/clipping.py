"""Clipping the gradient: what it does at a cliff, and what a missing square root does to it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from unrolled.cells import indrnn
from unrolled.lab.experiment import Number, Result, Verdict, at_least, at_most, experiment, near
from unrolled.lab.networks import gaussian, layer_of, listed
from unrolled.nn.recurrent import Recurrent
from unrolled.report.blocks import Item
from unrolled.report.page import Heat, Lines, Mark, Series
from unrolled.train.optimisers import Clip

STEPS: Final = 50
TARGET: Final = 0.7
START: Final = 1 / (1 + math.exp(-0.5))
"""The state before the first step, as in the paper."""

FAR: Final = 0.05
"""A loss from which descent does not come back: the unit is saturated."""


@dataclass(frozen=True)
class Cliff:
    """Sizes of the descent.

    starts: places from which it begins.
    updates: from each.
    rate: of learning.
    limit: on the gradient's norm, where it is clipped.
    """

    starts: int = 64
    updates: int = 400
    rate: float = 2.0
    limit: float = 1.0


class Units:
    """hₜ = σ(w hₜ₋₁ + b) for 50 steps, and the loss (h_50 - 0.7)², for many w and b side by side."""

    def __init__(self, w: Tensor, b: Tensor) -> None:
        cell = indrnn.with_options(activation="sigmoid")
        self.layer: Recurrent = layer_of(cell, 1, len(w), {"h.x": 0.0, "u": w, "h.bias": b})
        own = self.layer.parameters_of("l0")
        self.parameters = [own["u"], own["h.bias"]]
        self.start = {"h": torch.full((1, 1, len(w)), START, dtype=torch.float64)}
        self.x = torch.zeros(STEPS, 1, 1, dtype=torch.float64)

    def losses(self) -> Tensor:
        """That of each unit."""
        found: Tensor = (self.layer(self.x, self.start)[0][-1, 0] - TARGET).square()
        return found

    def gradients(self) -> tuple[Tensor, list[Tensor]]:
        """The losses, and their gradients by w and by b, each (units,)."""
        losses = self.losses()
        return losses.detach(), [*torch.autograd.grad(losses.sum(), self.parameters)]

    def descend(self, setup: Cliff, clip: Clip | None) -> tuple[Tensor, Tensor]:
        """Gradient descent of each unit for itself.

        Returns:
            the places before each update, (updates, units, 2), and the losses there.
        """
        places, every = [], []
        for _ in range(setup.updates):
            losses, found = self.gradients()
            places.append(torch.stack([p.detach().clone() for p in self.parameters], -1))
            every.append(losses)
            if clip is not None:
                for k in range(len(losses)):
                    clip([gradient[k : k + 1] for gradient in found])
            with torch.no_grad():
                for parameter, gradient in zip(self.parameters, found, strict=True):
                    parameter -= setup.rate * gradient
        return torch.stack(places), torch.stack(every)


@experiment(
    title="Clipping at a cliff",
    lectures=("002",),
    claim="Exploding gradients are dealt with by scaling the gradient where its norm is too big.",
    statement="One sigmoid unit over 50 steps (Pascanu, Mikolov & Bengio 2013): the gradient on the wall "
    "of its loss against the closed form; gradient descent from places next to the wall with and without "
    "a limit on the norm.",
    verdict=Verdict("holds"),
    setup=Cliff(),
    quick=Cliff(starts=48, updates=300),
)
def clipping_at_a_cliff(setup: Cliff) -> Result:
    w = torch.tensor([7.0], dtype=torch.float64)
    wall = 0.5 - w * START  # where h stands still, and is unstable
    _, found = Units(w, wall).gradients()
    slope = START * (1 - START)
    factor = float(w) * slope
    size = 2 * (TARGET - START) * slope * (factor**STEPS - 1) / (factor - 1) * math.hypot(1.0, START)
    norm = math.hypot(*(float(gradient) for gradient in found))
    _, beside = Units(w, wall + 0.3).gradients()
    flat = math.hypot(*(float(gradient) for gradient in beside))
    near_wall = 5 + 2 * torch.rand(setup.starts, dtype=torch.float64)
    above = 0.5 - near_wall * START + 0.05 + 0.3 * torch.rand(setup.starts, dtype=torch.float64)
    free, free_losses = Units(near_wall, above).descend(setup, None)
    held, held_losses = Units(near_wall, above).descend(setup, Clip(norm=setup.limit))
    lost, kept = ((losses[-1] > FAR).double().sum() for losses in (free_losses, held_losses))
    longest, short = (float(places.diff(dim=0).norm(dim=-1).max()) for places in (free, held))
    reach = setup.rate * setup.limit
    numbers = [
        near("on the wall, w = 7: norm of the gradient", norm, size, 1e-3),
        at_most("0.3 beside it: norm of the gradient", flat, 0.1),
        at_least(f"without a limit: of {setup.starts} starts are thrown off", float(lost), 1),
        at_most(f"limit {setup.limit:g}: of {setup.starts} starts are thrown off", float(kept), 0, "claim"),
        Number("limit: longest update over rate × limit, at most", short / reach, 1.0, 1e-9, "≤", "claim"),
        at_least("without: longest update over rate × limit", longest / reach, 3.0),
    ]
    worst = int(free_losses[-1].argmax())
    bs, ws = torch.linspace(-5, -1, 97, dtype=torch.float64), torch.linspace(3, 8, 81, dtype=torch.float64)
    grid = torch.cartesian_prod(ws.flip(0), bs)
    surface = Units(grid[:, 0].contiguous(), grid[:, 1].contiguous()).losses().detach().view(81, 97)
    figures: list[Item] = [
        Heat(
            "The loss over both weights",
            "Along the edge between the two plains the loss falls like a wall: there the gradient is up "
            "to 10¹⁰.",
            "b",
            "w",
            surface.tolist(),
            (-5.0, -1.0),
            (8.0, 3.0),
            0.0,
            0.5,
            "loss",
        ),
        Lines(
            "Descent from next to the wall",
            "The start that fares worst without a limit. One step onto the wall throws it so far that the "
            "unit is saturated and nothing is left to learn from. With the limit it comes down.",
            "update",
            "loss",
            [Series("without a limit", range(setup.updates), listed(free_losses[:, worst])),
             Series(f"norm at most {setup.limit:g}", range(setup.updates), listed(held_losses[:, worst]))],
            log_y=True,
        ),
        Lines(
            "Where it goes",
            "The way of the same descent in the plane of both weights.",
            "b",
            "w",
            [Series("without a limit", *_way(free[:, worst])), Series("norm at most "
            f"{setup.limit:g}", *_way(held[:, worst]))],
        ),
    ]  # fmt: skip
    words = (
        "Of "
        f"{setup.starts} starts {int(lost)} are thrown onto a plain when nothing limits the gradient, the "
        "longest jump is "
        f"{longest:.3g}; with a limit of {setup.limit:g} on the norm none is. Clipping does not make "
        "gradients right: it bounds what a wrong one can do."
    )
    return Result(numbers, figures, words)


def _way(places: Tensor) -> tuple[list[float], list[float]]:
    w, b = places.unbind(-1)
    return listed(b), listed(w)


def as_printed(gradient: Tensor, limit: float) -> Tensor:
    """Clipping with the sum of squares in place of the norm, as the lecture prints it."""
    grad_norm = (gradient * gradient).sum()
    return gradient * (limit / grad_norm) if grad_norm > limit else gradient


def clipped(gradient: Tensor, limit: float) -> Tensor:
    """Clipping of the norm."""
    found = gradient.clone()
    Clip(norm=limit)([found])
    return found


@experiment(
    title="A norm without its root",
    lectures=("002",),
    claim="With `grad_norm = np.sum(grad * grad)` and `grad *= threshold / grad_norm` a gradient is "
    "scaled to the threshold where it is too big.",
    statement="The norm behind clipping at 5 for gradients of 1,000 numbers and of norms from 0.1 to "
    "1,000, with the norm and as printed; and the steps of descent on ½ ‖p‖² from 100 down to 5, against "
    "closed forms.",
    verdict=Verdict(
        "fails",
        "without the square root what is left is threshold / ‖grad‖: of a norm of 100 0.05 instead of 5, "
        "and one of 3 is clipped though it is small",
    ),
)
def norm_without_root(_: None) -> Result:
    limit, rate, far = 5.0, 0.1, 100.0
    direction = torch.nn.functional.normalize(gaussian(1000), dim=0)
    sizes = torch.logspace(-1, 3, 61, dtype=torch.float64)
    right, printed = (
        [float(clip(size * direction, limit).norm()) for size in sizes] for clip in (clipped, as_printed)
    )
    numbers = []
    for size in (3.0, 100.0):
        found = float(as_printed(size * direction, limit).norm())
        numbers.append(near(f"norm {size:g}, as printed: what is left", found, limit / size, 1e-12))
        numbers.append(
            near("the same, as clipping to 5 has it", found, min(size, limit), 0.01, "counterexample")
        )
        numbers.append(
            near(
                f"norm {size:g}, clipped: what is left",
                float(clipped(size * direction, limit).norm()),
                min(size, limit),
                1e-12,
            )
        )
    cosine = float(torch.nn.functional.cosine_similarity(clipped(far * direction, limit), direction, dim=0))
    numbers.append(Number("cosine between the clipped gradient and its own", cosine, 1.0, 1e-12))
    each = far * direction
    Clip(value=0.5)([each])
    turned = float(torch.nn.functional.cosine_similarity(each, direction, dim=0))
    numbers.append(at_most("where each element is clipped instead: cosine", turned, 0.99))
    ways = {
        name: _descended(far * direction, clip, limit, rate)
        for name, clip in (("norm", clipped), ("as printed", as_printed))
    }
    numbers.append(
        near("steps from 100 to 5, clipped", len(ways["norm"]) - 1, (far - limit) / (rate * limit), 0.01)
    )
    numbers.append(
        near(
            "steps from 100 to 5, as printed",
            len(ways["as printed"]) - 1,
            (far**2 - limit**2) / (2 * rate * limit),
            0.01,
        )
    )
    figures: list[Item] = [
        Lines(
            "The norm behind clipping at 5",
            "As printed, the larger the gradient, the less is left of it: an explosion all but stops the "
            "learning.",
            "norm before",
            "norm behind",
            [Series("with the norm", listed(sizes), right), Series("as printed", listed(sizes), printed)],
            log_x=True,
            log_y=True,
            marks=[Mark("y", limit, "threshold")],
        ),
        Lines(
            "Descent from far away",
            "Equal steps with the norm; as printed the first steps are the smallest.",
            "update",
            "‖p‖",
            [Series(name, range(len(way)), way) for name, way in ways.items()],
            log_x=True,
        ),
    ]
    return Result(
        numbers,
        figures,
        f"As printed it takes {len(ways['as printed']) - 1:,} steps, with the norm {len(ways['norm']) - 1}.",
    )


def _descended(p: Tensor, clip: Callable[[Tensor, float], Tensor], limit: float, rate: float) -> list[float]:
    """The norms on the way of gradient descent on ½ ‖p‖² from p to the limit."""
    norms = [float(p.norm())]
    while norms[-1] > limit:
        p = p - rate * clip(p, limit)
        norms.append(float(p.norm()))
    return norms
