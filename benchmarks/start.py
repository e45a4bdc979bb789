"""What it takes to begin, each in a fresh process: importing the library, compiling a new cell, and loading
its kernels from the cache on disk.

`python -m benchmarks.start CELL THREADS` is one such process.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator

import torch
from torch import sigmoid, tanh

from benchmarks.child import ChildError, child
from benchmarks.family import Family, Record, Settings, Size
from benchmarks.layers import TrainingStep, inputs
from benchmarks.paired import quartiles
from unrolled import Recurrent, cell
from unrolled.cells import find

IMPORT, COMPILE, LOAD = 0.3, 0.7, 0.005
SIZE = Size(8, 2, 16, 16)

IMPORTING = "import time, torch; t = time.perf_counter(); import unrolled; print(time.perf_counter() - t)"


@cell(states="h")
def mine(x, h, W):  # type: ignore[no-untyped-def]
    """A cell of one's own."""
    keep = sigmoid(W.keep(x, h))
    new = tanh(W.new(x, h))
    return keep * h + (1 - keep) * new


CELLS = ("mine", "lstm_peephole")


def first_step(name: str) -> float:
    """The seconds by which the first training step through kernels takes longer than the next ones."""
    chosen = mine if name == "mine" else find(name)
    tensors = inputs(SIZE)
    TrainingStep(Recurrent(chosen, SIZE.D, SIZE.H, backend="reference"), *tensors)()  # torch is awake
    step = TrainingStep(Recurrent(chosen, SIZE.D, SIZE.H, backend="cpu"), *tensors)
    took = []
    for _ in range(4):
        began = time.perf_counter()
        step()
        took.append(time.perf_counter() - began)
    return took[0] - min(took[1:])


def measure(settings: Settings) -> Iterator[Record]:
    try:
        seconds = [child("-c", IMPORTING) for _ in range(settings.rounds)]
        yield _record("import, beyond torch's", seconds, IMPORT)
        for name in CELLS:
            compiled: list[float] = []
            loaded: list[float] = []
            for _ in range(min(5, settings.rounds)):
                with tempfile.TemporaryDirectory() as folder:
                    environment = {"UNROLLED_CACHE": folder, "UNROLLED_KERNEL_CACHE": "1"}
                    for times in (compiled, loaded):
                        command = ("-m", "benchmarks.start", name, settings.threads)
                        times.append(child(*command, environment=environment))
            told = "one's own cell" if name == "mine" else name
            yield _record(f"{told}, compiled", compiled, COMPILE)
            yield _record(f"{told}, from the cache", loaded, LOAD)
    except ChildError as error:
        yield Record("a fresh process", note=str(error))


def _record(subject: str, seconds: list[float], bar: float) -> Record:
    low, median, high = quartiles(seconds)
    return Record(subject, median, low, high, bar=bar, turns=len(seconds))


FAMILIES = (
    Family(
        "start",
        "To begin: import, compile a cell, load it from the cache",
        measure,
        unit="s",
        caption="Medians over fresh processes. For a cell, the first training step: forward and backward "
        "with everything that happens once, less a later step; torch itself has run before.",
    ),
)

if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[2]))
    print(json.dumps(first_step(sys.argv[1])))
