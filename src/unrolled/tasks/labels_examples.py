"""Sequences with labels: all of them in one tensor, and batches of them, padded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor

from unrolled.data.buckets import Buckets

NOTHING: Final = -100
"""The label where there is no step, which torch's cross-entropy leaves out."""

ROWS: Final = 256
"""Sequences that are labelled at once where a model is measured."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Padded sequences.

    Shapes: x (T, B, ...), lengths (B,), labels (B,), or (T, B) with `NOTHING` behind the end of each.
    """

    x: Tensor
    lengths: Tensor
    labels: Tensor

    def part(self, rows: int, steps: int) -> Batch:
        """The first rows, and of each at most its first steps."""
        lengths = self.lengths[:rows].clamp_max(steps)
        T = int(lengths.max())
        labels = self.labels[:rows] if self.labels.ndim == 1 else self.labels[:T, :rows]
        return Batch(self.x[:T, :rows], lengths, labels)


class Examples(Protocol):
    """What is trained on, or what is held out."""

    @property
    def sha256(self) -> str:
        """The same for the same numbers and labels in the same order."""

    def batch(self, step: int) -> Batch:
        """What is read after `step` steps are done."""

    def batches(self) -> Iterator[Batch]:
        """Every sequence once."""

    def few(self, count: int, steps: int) -> Batch:
        """So many sequences, cut to one length of so many steps at most; among shorter ones the longest."""


class Stored:
    """Sequences of any lengths.

    Args:
        sequences: M of them, (L, ...) each.
        labels: of each, or of each step of each.
        batch, seed: of what is read at each step, see `unrolled.data.buckets.Buckets`.
    """

    def __init__(
        self,
        sequences: Sequence[Tensor],
        labels: Sequence[int] | Sequence[Sequence[int]],
        batch: int = ROWS,
        seed: int = 0,
    ) -> None:
        lengths = torch.tensor([len(each) for each in sequences])
        self.lengths = lengths
        self.steps = torch.cat([*sequences])
        self.in_step = not isinstance(labels[0], int)
        every = ((each,) if isinstance(each, int) else each for each in labels)
        self.labels = torch.tensor([label for each in every for label in each])
        self._starts = lengths.cumsum(0) - lengths
        self._buckets = Buckets(lengths.tolist(), batch=batch, seed=seed)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def sha256(self) -> str:
        digest = hashlib.sha256(str((tuple(self.steps.shape), self.steps.dtype, self.in_step)).encode())
        for part in (self.steps, self.lengths, self.labels):
            digest.update(part.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def batch(self, step: int) -> Batch:
        return self.read(torch.from_numpy(self._buckets[step]))

    def batches(self) -> Iterator[Batch]:
        order = self.lengths.argsort(stable=True)
        for begin in range(0, len(order), ROWS):
            yield self.read(order[begin : begin + ROWS])

    def few(self, count: int, steps: int) -> Batch:
        key = torch.where(self.lengths <= steps, self.lengths, -self.lengths)
        order = key.argsort(stable=True, descending=True)
        places = order[:count]
        return self.read(places).part(count, min(steps, int(self.lengths[places].min())))

    def read(self, places: Tensor) -> Batch:
        """Some sequences, padded with zeros to the longest of them."""
        lengths = self.lengths[places]
        steps = torch.arange(int(lengths.max()))[:, None]
        there = steps < lengths
        index = torch.where(there, self._starts[places] + steps, 0)
        x = self.steps[index]
        x[~there] = 0
        if not self.in_step:
            return Batch(x, lengths, self.labels[places])
        return Batch(x, lengths, self.labels[index].masked_fill(~there, NOTHING))


def checksum(lines: Iterable[str]) -> str:
    """The same for the same lines in the same order."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(f"{line}\n".encode())
    return digest.hexdigest()
