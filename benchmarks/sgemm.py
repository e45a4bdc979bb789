"""A training step of our LSTM beside the matrix product of this machine."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import torch

from benchmarks.family import Family, Record, Settings, Size
from benchmarks.layers import TrainingStep, inputs, pair
from benchmarks.paired import Comparison, interleave, refusal
from benchmarks.zoo import multiply_adds
from unrolled.cells import lstm

LEAST = 0.95
SQUARES = (1024, 2048)


class Product:
    """A square product of matrices."""

    def __init__(self, n: int) -> None:
        self.multiply_adds = n**3
        self.a, self.b, self.c = torch.randn(3, n, n)

    def __call__(self) -> None:
        torch.mm(self.a, self.b, out=self.c)


def measure(settings: Settings) -> Iterator[Record]:
    sizes = [size for size in settings.sizes if size.B >= 32 and size.H >= 256] or [Size(16, 32, 256, 256)]
    for size in sizes:
        layer, theirs = pair("LSTM", size)
        x, d_y = inputs(size)
        ours = TrainingStep(layer, x, d_y)
        if refused := refusal("LSTM", size, LEAST, ours, TrainingStep(theirs, x, d_y)):
            yield refused
            continue
        work = 3 * size.T * size.B * multiply_adds(lstm.graph, size)
        products = [Product(n) for n in SQUARES]
        times, *others = interleave(ours, *products, rounds=settings.rounds)
        fastest = tuple(
            min(s / p.multiply_adds for s, p in zip(turn, products, strict=True)) * work
            for turn in zip(*others, strict=True)
        )
        rates = [2e-9 * work / statistics.median(seconds) for seconds in (times, fastest)]
        note = f"{rates[0]:.0f} GF/s of {rates[1]:.0f}"
        yield Comparison(times, fastest).record("LSTM", size, 0.95, note)


FAMILIES = (
    Family(
        "sgemm",
        "LSTM, training, against torch's matrix product",
        measure,
        caption="The peer's time is what `torch.mm` takes for as many multiply-adds, the best of 1024 and "
        "2048 squared in the same turn.",
    ),
)
