"""Small networks with weights of one's choice, in float64, and what they do from a given state on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from unrolled.cell import Cell
from unrolled.cells import rnn
from unrolled.flow.jacobian import jacobians
from unrolled.flow.trace import Place, Recording, record
from unrolled.nn.deep import Deep
from unrolled.nn.recurrent import Recurrent


def layer_of(cell: Cell, D: int, H: int, weights: Mapping[str, Tensor | float] | None = None) -> Recurrent:
    """One layer of a cell, with some parameters given.

    Args:
        weights: by parameter, as in {"h.h": W}; a number fills it. The others are drawn as ever.
    """
    layer = Recurrent(cell, D, H, dtype=torch.float64)
    own = layer.parameters_of("l0")
    with torch.no_grad():
        for name, value in (weights or {}).items():
            own[name].copy_(torch.as_tensor(value, dtype=torch.float64).expand(own[name].shape))
    return layer


def plain(
    W: Tensor | float, activation: str = "tanh", *, u: Tensor | float = 0.0, b: float = 0.0
) -> Recurrent:
    """Aₜ = f(W Aₜ₋₁ + u xₜ + b), with an input of one unit.

    Args:
        W: a matrix, or the weight of one unit.
        u: (H,), or a number for every unit.
    """
    H = len(W) if isinstance(W, Tensor) else 1
    u = u[:, None] if isinstance(u, Tensor) else u
    return layer_of(rnn.with_options(activation=activation), 1, H, {"h.h": W, "h.x": u, "h.bias": b})


class From(nn.Module):
    """A layer that starts from given states.

    Args:
        state: by name, each (1, B, H); None for the layer's own.
    """

    def __init__(self, layer: Recurrent, state: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.layer, self.state = layer, state

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.layer(x, self.state)[0]
        return outputs


def run(layer: Recurrent, T: int, start: Tensor | None = None, x: Tensor | None = None) -> Recording:
    """T steps of a layer of one state.

    Args:
        start: the state before them, (B, H); the layer's own if not given.
        x: what it reads, (T, B, D); nothing if not given.
    """
    B = 1 if start is None else len(start)
    start = None if start is None else start.double()
    x = torch.zeros(T, B, layer.input_size, dtype=torch.float64) if x is None else x
    (name,) = layer.cell.states
    return record(From(layer, None if start is None else {name: start[None]}), x)


def walk(layer: Recurrent, T: int, start: Tensor | None = None, x: Tensor | None = None) -> Place:
    """What a layer of one state does in T steps; see `run`."""
    return run(layer, T, start, x).places[0]


def factors_of(place: Place) -> Tensor:
    """The Jacobians of all steps, or layers, for the first row, (T, S, S)."""
    return torch.cat([*jacobians(place.of_sequences(1))])[:, 0]


def product_of(factors: Tensor) -> Tensor:
    """J_T ... J_1, for factors (T, S, S)."""
    whole = torch.eye(factors.shape[-1], dtype=factors.dtype)
    for J in factors:
        whole = J @ whole
    return whole


def scaled(W: Tensor, radius: float) -> Tensor:
    """A matrix of this spectral radius."""
    found: Tensor = W * (radius / torch.linalg.eigvals(W).abs().max())
    return found


def gaussian(*shape: int, scale: float = 1.0) -> Tensor:
    """Normally distributed numbers."""
    return scale * torch.randn(*shape, dtype=torch.float64)


def off(found: Tensor, truth: Tensor) -> float:
    """The largest difference as a part of the largest number."""
    return float((found - truth).abs().max() / truth.abs().max())


def listed(values: Any) -> list[float]:
    """Numbers for a figure."""
    return [float(value) for value in values]


def deep(
    cell: Cell, depth: int, weights: Mapping[str, Tensor | float] | None = None, *, tied: bool = False
) -> Deep:
    """A cell through depth, with some parameters given; its biases are 0 otherwise.

    Args:
        weights: by parameter, as in {"f.h": W}, each (depth, H, H), or (H, H) for every layer; a matrix among
            them says how wide the layers are.
    """
    given = {name: torch.as_tensor(value, dtype=torch.float64) for name, value in (weights or {}).items()}
    width = max(value.shape[-1] for value in given.values() if value.ndim)
    network = Deep(cell, width, depth, tied=tied, dtype=torch.float64)
    own = network.stacked()
    with torch.no_grad():
        for name, value in own.items():
            if name.endswith(".bias"):
                value.zero_()
        for name, value in given.items():
            own[name].copy_(value.expand(own[name].shape))
    return network
