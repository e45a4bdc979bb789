"""Sequences of different lengths as torch packs them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from unrolled.rows import Rows


class Packed:
    """The rows of torch's `PackedSequence`."""

    def __init__(self, sequence: PackedSequence) -> None:
        self.sequence = sequence
        sizes = sequence.batch_sizes
        self.T, self.B = len(sizes), int(sizes[0])
        self.rows = Rows((sizes > torch.arange(self.B)[:, None]).sum(1))

    @property
    def index(self) -> Tensor:
        """The place of each packed row in the rows of the padded batch."""
        order = self.sequence.sorted_indices
        return self.rows.index_in(self.T, self.B, None if order is None else order.cpu())

    def unpack(self, y: Tensor) -> PackedSequence:
        """A sequence of other values."""
        s = self.sequence
        return PackedSequence(y, s.batch_sizes, s.sorted_indices, s.unsorted_indices)

    def start(self, given: Tensor) -> Tensor:
        return given if self.sequence.sorted_indices is None else given[:, self.sequence.sorted_indices]

    def end(self, final: Tensor) -> Tensor:
        return final if self.sequence.unsorted_indices is None else final[:, self.sequence.unsorted_indices]
