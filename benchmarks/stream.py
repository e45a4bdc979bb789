"""One step at a time: `layer.step` and a `Streamer` against `nn.LSTMCell`."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

import unrolled
from benchmarks.family import Family, Record, Settings, Size
from benchmarks.paired import compare

STEP, STREAMER = 2.0, 4.0
"""Asked at one row and 256 units."""


class Cell:
    """Torch's cell; the state is kept from step to step."""

    def __init__(self, cell: nn.LSTMCell, x: Tensor) -> None:
        self.cell, self.x = cell, x
        self.state = (torch.zeros(1, cell.hidden_size),) * 2

    def __call__(self) -> None:
        with torch.no_grad():
            self.state = self.cell(self.x, self.state)

    def tensors(self) -> dict[str, Tensor]:
        return dict(zip("hc", self.state, strict=True))


class OneStep:
    """Our layer, which is given its state and returns it."""

    def __init__(self, layer: unrolled.LSTM, x: Tensor) -> None:
        self.layer, self.x = layer, x
        self.state = tuple(layer.initial_state(1).values())

    def __call__(self) -> None:
        with torch.no_grad():
            _, self.state = self.layer.step(self.x, self.state)

    def tensors(self) -> dict[str, Tensor]:
        return {name: value[0] for name, value in self.layer.by_name(self.state).items()}


class Stream:
    """Our streamer, which keeps its state."""

    def __init__(self, layer: unrolled.LSTM, x: Tensor) -> None:
        self.streamer, self.x = unrolled.Streamer(layer), x

    def __call__(self) -> None:
        self.streamer(self.x)

    def tensors(self) -> dict[str, Tensor]:
        return {name: value[0] for name, value in self.streamer.state.items()}


def measure(settings: Settings) -> Iterator[Record]:
    for H in (256,) if settings.quick else (64, 256, 512):
        size = Size(1, 1, H, H)
        torch.manual_seed(0)
        layer, cell, x = unrolled.LSTM(H, H), nn.LSTMCell(H, H), torch.randn(1, H)
        cell.load_state_dict({name.removesuffix("_l0"): p for name, p in layer.state_dict().items()})
        for subject, side, bar in (("layer.step", OneStep, STEP), ("Streamer", Stream, STREAMER)):
            asked = bar if H == 256 else None
            yield compare(subject, size, side(layer, x), Cell(cell, x), settings, asked)


FAMILIES = (
    Family(
        "stream",
        "An LSTM one step at a time against nn.LSTMCell",
        measure,
        caption="One row, without gradients.",
    ),
)
