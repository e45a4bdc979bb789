"""The memory that a training step needs besides what was there before it, each in a fresh process.

`python -m benchmarks.memory LAYER THREADS T B D H` is one such process.
"""

from __future__ import annotations

import json
import re
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import unrolled
from benchmarks.child import ChildError, child
from benchmarks.family import Family, Record, Settings, Size
from benchmarks.layers import TrainingStep, inputs
from benchmarks.paired import quartiles

MOST = 8.0
LARGE, SMALL = Size(512, 64, 512, 512), Size(128, 16, 256, 256)


class CellLoop(nn.Module):
    """The loop over `nn.LSTMCell`."""

    def __init__(self, D: int, H: int) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(D, H)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        h = c = x.new_zeros(x.shape[1], self.cell.hidden_size)
        outputs = []
        for x_t in x.unbind():
            h, c = self.cell(x_t, (h, c))
            outputs.append(h)
        return torch.stack(outputs), (h[None], c[None])


LAYERS: dict[str, Callable[[int, int], nn.Module]] = {
    "LSTM": unrolled.LSTM,
    "nn.LSTM": nn.LSTM,
    "loop over nn.LSTMCell": CellLoop,
}


def peak() -> int:
    """The most memory that this process has held, in bytes, since it began or since `forget`."""
    try:
        (kilobytes,) = re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
        return 1024 * int(kilobytes)
    except (OSError, ValueError):
        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def forget() -> None:
    """Begin a new peak at what is held now, where the system can (Linux); elsewhere an earlier peak stays,
    and growth below it is not seen."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def growth(work: Callable[[], object]) -> int:
    """The bytes by which the peak of this process rises while `work` is done."""
    forget()
    before = peak()
    work()
    return peak() - before


def step_of(name: str, size: Size) -> TrainingStep:
    torch.manual_seed(0)
    layer = LAYERS[name](size.D, size.H)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -(size.H**-0.5), size.H**-0.5)
    return TrainingStep(layer, *inputs(size))


def one(name: str, size: Size) -> dict[str, Any]:
    """The growth of one training step, and what tells whether it computed the same as the others."""
    step_of(name, Size(2, 2, size.D, 16))()  # kernels are compiled and threads started
    step = step_of(name, size)
    grown = growth(step)
    return {"bytes": grown, "norms": sorted(float(value.norm()) for value in step.tensors().values())}


def measure(settings: Settings) -> Iterator[Record]:
    size = SMALL if settings.quick else LARGE
    expected: list[float] = []
    for name in LAYERS:
        bar = MOST if name == "LSTM" else None
        found, reason = [], ""
        for _ in range(min(3, settings.rounds)):
            try:
                result = child("-m", "benchmarks.memory", name, settings.threads, *size)
            except ChildError as error:
                reason = str(error)
                break
            expected = expected or result["norms"]
            if not agree(result["norms"], expected):
                reason = "it does not compute what the others do"
                break
            found.append(result["bytes"] / (4 * size.T * size.B * size.H))
        if reason:
            yield Record(name, size=size, bar=bar, note=reason, refused=True)
        else:
            low, median, high = quartiles(found)
            yield Record(name, median, low, high, size, bar, turns=len(found))


def agree(found: list[float], expected: list[float]) -> bool:
    """Whether the norms of all results are the same."""
    return len(found) == len(expected) and all(
        abs(a - b) <= 1e-4 * abs(b) for a, b in zip(found, expected, strict=True)
    )


FAMILIES = (
    Family(
        "memory",
        "Memory of a training step",
        measure,
        unit="T·B·H floats",
        caption="How far the peak resident memory of a fresh process rises in one step, forward and "
        "backward, above what it held before. x, the parameters and the gradient of the outputs are there "
        "already; everything else counts: outputs, d_x and the gradients of the parameters too.",
    ),
)

if __name__ == "__main__":
    name, threads, *numbers = sys.argv[1:]
    torch.set_num_threads(int(threads))
    print(json.dumps(one(name, Size(*map(int, numbers)))))
