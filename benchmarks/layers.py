"""Our layers beside torch's: a training step, forward and backward with every gradient, and inference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

import unrolled
from benchmarks.family import Family, Record, Settings, Size
from benchmarks.paired import compare

PAIRS: dict[str, tuple[type[nn.Module], type[nn.Module]]] = {
    "LSTM": (unrolled.LSTM, nn.LSTM),
    "GRU": (unrolled.GRU, nn.GRU),
    "RNN": (unrolled.RNN, nn.RNN),
}

ASKED = {"LSTM": (1.35, 0.95), "GRU": (3.0, 1.3), "RNN": (2.5, 1.2)}
"""Of the geometric mean, and of every point."""


class Inference:
    """A layer's outputs and final states, and nothing kept for gradients."""

    def __init__(self, layer: nn.Module, x: Tensor) -> None:
        self.layer = layer
        self.x = x

    def __call__(self) -> None:
        with torch.no_grad():
            self.y, self.state = self.layer(self.x)

    def tensors(self) -> dict[str, Tensor]:
        return outputs(self.y, self.state)


class TrainingStep:
    """A layer's outputs, final states, and the gradients of its input and of every parameter."""

    def __init__(self, layer: nn.Module, x: Tensor, d_y: Tensor) -> None:
        self.layer = layer
        self.x = x.clone().requires_grad_()
        self.d_y = d_y

    def __call__(self) -> None:
        self.layer.zero_grad(set_to_none=True)
        self.x.grad = None
        y, self.state = self.layer(self.x)
        y.backward(self.d_y)
        self.y = y.detach()

    def tensors(self) -> dict[str, Tensor]:
        gradients = {f"d_{n}": p.grad for n, p in self.layer.named_parameters()} | {"d_x": self.x.grad}
        return outputs(self.y, self.state) | {n: d for n, d in gradients.items() if d is not None}


def outputs(y: Tensor, state: Tensor | tuple[Tensor, ...] | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Outputs and final states by name, however a layer gives its states."""
    if isinstance(state, Mapping):
        states = list(state.values())
    else:
        states = [state] if isinstance(state, Tensor) else list(state)
    return {"y": y} | {f"final state {k}": value.detach() for k, value in enumerate(states)}


def inputs(size: Size) -> tuple[Tensor, Tensor]:
    """x, and the gradient of the outputs."""
    torch.manual_seed(1)
    return torch.randn(size.T, size.B, size.D), torch.randn(size.T, size.B, size.H)


def training(name: str, settings: Settings) -> Iterator[Record]:
    for size in settings.sizes:
        ours, theirs = pair(name, size)
        x, d_y = inputs(size)
        sides = TrainingStep(ours, x, d_y), TrainingStep(theirs, x, d_y)
        yield compare(name, size, *sides, settings, ASKED[name][1])


def inference(name: str, settings: Settings) -> Iterator[Record]:
    for size in settings.sizes:
        ours, theirs = pair(name, size)
        x, _ = inputs(size)
        yield compare(name, size, Inference(ours, x), Inference(theirs, x), settings, ASKED[name][1])


def pair(name: str, size: Size) -> tuple[nn.Module, nn.Module]:
    """Our layer and torch's with the same parameters."""
    torch.manual_seed(0)
    ours, theirs = (kind(size.D, size.H) for kind in PAIRS[name])
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def _family(name: str, what: str) -> Family:
    measure = training if what == "training" else inference
    return Family(
        name=name.lower() + ("" if what == "training" else "-inference"),
        title=f"{name} against nn.{name}, {what}",
        measure=lambda settings: measure(name, settings),
        mean=ASKED[name][0],
        caption="Forward and backward with the gradients of x and of every parameter."
        if what == "training"
        else "Forward only, under `torch.no_grad`.",
    )


FAMILIES = tuple(_family(name, what) for what in ("training", "inference") for name in PAIRS)
