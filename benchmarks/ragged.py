"""Sequences of different lengths, and states that begin anew, against the same layer over the whole batch."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from benchmarks.family import Family, Record, Settings, Size
from benchmarks.layers import PAIRS, inputs
from benchmarks.paired import Comparison, compare, interleave, refusal

LENGTHS, RESETS = 1.54, 0.91
"""Asked of the whole batch's time over ours: at most 0.65 of it, and at most a tenth more."""

BATCHES = 8
"""Batches that are taken in turn: no two have the same lengths."""


class Step:
    """A training step on batches in turn: outputs where there are steps, and every gradient.

    Args:
        given: what the layer is told of each batch.
        real: which steps of each batch count.
    """

    def __init__(
        self, layer: nn.Module, size: Size, given: list[dict[str, Tensor]], real: list[Tensor]
    ) -> None:
        self.layer = layer
        self.given, self.real = given, real
        x, d_y = inputs(size)
        self.x = x.requires_grad_()
        self.upstream = [d_y * mask for mask in real]
        self.done = 0

    def __call__(self) -> None:
        k = self.done % len(self.real)
        self.layer.zero_grad(set_to_none=True)
        self.x.grad = None
        y, _ = self.layer(self.x, **self.given[k])
        y.backward(self.upstream[k])
        self.y = y.detach()
        self.done += 1

    def tensors(self) -> dict[str, Tensor]:
        assert self.x.grad is not None
        real = self.real[(self.done - 1) % len(self.real)]
        gradients = {name: p.grad for name, p in self.layer.named_parameters() if p.grad is not None}
        return {"y": self.y * real, "d_x": self.x.grad, **gradients}


def sizes(settings: Settings) -> list[Size]:
    return [size for size in settings.sizes if size.B >= 16]


def lengths(settings: Settings) -> Iterator[Record]:
    for name in ("LSTM", "GRU"):
        for size in sizes(settings):
            layer = PAIRS[name][0](size.D, size.H)
            generator = torch.Generator().manual_seed(2)
            drawn = [torch.randint(1, size.T + 1, (size.B,), generator=generator) for _ in range(BATCHES)]
            real = [(torch.arange(size.T)[:, None] < some).unsqueeze(-1).float() for some in drawn]
            ours = Step(layer, size, [{"lengths": some} for some in drawn], real)
            whole = Step(layer, size, [{}] * BATCHES, real)
            yield compare(f"{name}, lengths from 1 to T", size, ours, whole, settings, LENGTHS)


def resets(settings: Settings) -> Iterator[Record]:
    for name in ("LSTM", "GRU"):
        for size in sizes(settings):
            layer = PAIRS[name][0](size.D, size.H)
            generator = torch.Generator().manual_seed(2)
            drawn = [torch.rand(size.T, size.B, generator=generator) < 1 / 25 for _ in range(BATCHES)]
            every = [torch.ones(1, 1, 1)] * BATCHES
            subject = f"{name}, a reset in 25 steps"
            ours = Step(layer, size, [{"resets": some} for some in drawn], every)
            slow = copy.deepcopy(layer)
            slow.backend = "reference"
            reference = Step(slow, size, ours.given, every)
            if refused := refusal(subject, size, RESETS, ours, reference):
                yield refused
                continue
            whole = Step(layer, size, [{}] * BATCHES, every)
            times = interleave(ours, whole, rounds=settings.rounds)
            yield Comparison(*times).record(subject, size, RESETS)


FAMILIES = (
    Family(
        "lengths",
        "Lengths drawn from 1 to T against all steps of the batch",
        lengths,
        mean=LENGTHS,
        caption="Forward and backward with all gradients; the peer is the same layer over the padding, whose "
        "outputs there are left out. Half of all steps are padding, so 2 is the most that can be had.",
    ),
    Family(
        "resets",
        "Episodes that begin anew in the midst of a batch, against none that do",
        resets,
        mean=RESETS,
        caption="Forward and backward with all gradients. The peer is the same layer without resets; that "
        "resets are right is checked against the PyTorch loop.",
    ),
)
