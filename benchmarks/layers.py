"""Our layers beside torch's: a training step, forward and backward with every gradient."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

import unrolled
from benchmarks.paired import Compute

GRID = (
    (25, 1, 64, 100),
    (50, 20, 65, 100),
    (64, 32, 128, 128),
    (128, 64, 256, 256),
    (128, 64, 512, 512),
    (100, 16, 1024, 1024),
    (1000, 1, 256, 256),
)
"""T, B, D, H."""

PEERS: dict[str, tuple[type[nn.Module], type[nn.Module]]] = {
    "LSTM": (unrolled.LSTM, nn.LSTM),
    "GRU": (unrolled.GRU, nn.GRU),
    "RNN": (unrolled.RNN, nn.RNN),
}


def training_step(layer: nn.Module, x: Tensor, d_y: Tensor) -> Compute:
    """Outputs, final state and all gradients of one step."""

    def run() -> dict[str, Tensor]:
        layer.zero_grad(set_to_none=True)
        x.grad = None
        y, _ = layer(x)
        y.backward(d_y)
        gradients = {f"d_{name}": p.grad for name, p in layer.named_parameters() if p.grad is not None}
        assert x.grad is not None
        return {"y": y.detach(), "d_x": x.grad, **gradients}

    return run


def cases() -> Iterator[tuple[str, Compute, Compute]]:
    """A name, our side and the peer's, for every layer and size."""
    for name, (ours, theirs) in PEERS.items():
        for T, B, D, H in GRID:
            torch.manual_seed(0)
            mine, peer = ours(D, H), theirs(D, H)
            peer.load_state_dict(mine.state_dict())
            x = torch.randn(T, B, D)
            d_y = torch.randn(T, B, H)
            sides = (training_step(layer, x.clone().requires_grad_(), d_y) for layer in (mine, peer))
            yield (f"{name:<4} against nn.{name:<4} T={T} B={B} D={D} H={H}", *sides)
