"""Sequences of different lengths: torch's packed ones, and what is given with a padded batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from unrolled.errors import InputError
from unrolled.rows import Rows, check_steps
from unrolled.tracing import watched


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


def checked_lengths(lengths: object, T: int, B: int) -> Tensor:
    """Lengths as a tensor.

    Raises:
        InputError: they are not B whole numbers from 0 to T.
    """
    try:
        found = torch.as_tensor(lengths)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"lengths is a {type(lengths).__name__}, expected {B} whole numbers") from None
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise InputError(f"lengths is {found.dtype}, expected whole numbers")
    if tuple(found.shape) != (B,):
        raise InputError(f"lengths has shape {tuple(found.shape)}, expected ({B},): one for each sequence")
    if not (torch.compiler.is_compiling() or watched((found,))):  # then whoever runs the graph sees to it
        check_steps(found, T)
    return found


def checked_resets(resets: object, shape: tuple[int, int]) -> Tensor:
    """A mask of resets.

    Raises:
        InputError: it is not a tensor of bools of this shape.
    """
    if not isinstance(resets, Tensor):
        raise InputError(f"resets is a {type(resets).__name__}, expected a tensor of bools {shape}")
    if resets.dtype != torch.bool:
        raise InputError(f"resets is {resets.dtype}, expected torch.bool")
    if tuple(resets.shape) != shape:
        raise InputError(f"resets has shape {tuple(resets.shape)}, expected {shape}, as the steps of x")
    return resets
