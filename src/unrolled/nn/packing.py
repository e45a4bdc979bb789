"""From a padded batch to packed rows, and back, for sequences of different lengths."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from unrolled.errors import InputError
from unrolled.rows import Rows


class _Pick(torch.autograd.Function):
    """Some of the rows, each once; torch does not know that, and adds up what comes back."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, index: Tensor) -> Tensor:
        return x.index_select(0, index)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.count = len(inputs[0])
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Any:
        return _Put.apply(d, *ctx.saved_tensors, ctx.count), None  # type: ignore[no-untyped-call]


class _Put(torch.autograd.Function):
    """So many rows, 0 but for those that are given."""

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, index: Tensor, count: int) -> Tensor:
        return y.new_zeros(count, *y.shape[1:]).index_copy_(0, index, y)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Any:
        return _Pick.apply(d, *ctx.saved_tensors), None, None  # type: ignore[no-untyped-call]


class Packing:
    """How the rows of a batch (T, B, ...) of sequences of different lengths are packed.

    Args:
        T, B: the size of the batch.
        lengths: the steps of each sequence, (B,).

    Attributes:
        rows: the sequences, the longest first.
        index: the place of each packed row in the rows of the batch.
    """

    def __init__(self, T: int, B: int, lengths: Tensor) -> None:
        self.T, self.B = T, B
        size, self.order = lengths.detach().to("cpu", torch.long).sort(descending=True, stable=True)
        self.rows = Rows(size)
        self.index = self.rows.index(T, B, self.order)

    def pack(self, x: Tensor) -> Tensor:
        """The packed rows (N, ...) of a batch (T, B, ...)."""
        rows: Tensor = _Pick.apply(x.flatten(0, 1), self.index.to(x.device))  # type: ignore[no-untyped-call]
        return rows

    def unpack(self, y: Tensor) -> Tensor:
        """The batch (T, B, ...) of packed rows, and 0 where there is none."""
        whole: Tensor = _Put.apply(y, self.index.to(y.device), self.T * self.B)  # type: ignore[no-untyped-call]
        return whole.view(self.T, self.B, *y.shape[1:])

    def start(self, given: Tensor) -> Tensor:
        """The states of the batch (B, H) in the order of the rows."""
        return given[self.order.to(given.device)]

    def end(self, final: Tensor) -> Tensor:
        """States in the order of the batch."""
        return torch.empty_like(final).index_copy(0, self.order.to(final.device), final)


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
        return self.rows.index(self.T, self.B, None if order is None else order.cpu())

    def unpack(self, y: Tensor) -> PackedSequence:
        """A sequence of other values."""
        s = self.sequence
        return PackedSequence(y, s.batch_sizes, s.sorted_indices, s.unsorted_indices)

    def start(self, given: Tensor) -> Tensor:
        return given if self.sequence.sorted_indices is None else given[self.sequence.sorted_indices]

    def end(self, final: Tensor) -> Tensor:
        return final if self.sequence.unsorted_indices is None else final[self.sequence.unsorted_indices]


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
    low, high = map(int, found.aminmax()) if B else (0, 0)
    if low < 0 or high > T:
        raise InputError(f"lengths go from 0 to {T}, the steps of x, but one is {low if low < 0 else high}")
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
