"""From a padded batch to packed rows, and back: sequences of different lengths, and states that begin anew.

Where the state returns to its initial value, a sequence is cut. The pieces are sequences of their own, sorted
with all others, so neither padding nor a reset costs a step.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from unrolled.errors import InputError
from unrolled.rows import Rows, rounded


class _Pick(torch.autograd.Function):
    """Some of the rows, each once; torch does not know that, and adds up what comes back."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, index: Tensor) -> Tensor:
        return x.index_select(0, index)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.count = inputs[0].shape[0]
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
    """How the rows of a batch (T, B, ...) are packed.

    Args:
        T, B: the size of the batch.
        lengths: the steps of each sequence, (B,); T for all if not given.
        resets: (T, B); a sequence begins anew before the steps that are marked.

    Attributes:
        rows: the pieces of the sequences, the longest first.
        index: the place of each packed row in the rows of the batch.
        sequence, begins: the sequence that each piece is of, and the place of its first row.
    """

    def __init__(self, T: int, B: int, lengths: Tensor | None, resets: Tensor | None) -> None:
        self.T, self.B = T, B
        long = torch.full((B,), T) if lengths is None else lengths.detach().to("cpu", torch.long)
        sequence, first, size = torch.arange(B), torch.zeros(B, dtype=torch.long), long
        is_first = is_last = torch.ones(B, dtype=torch.bool)
        anew = torch.zeros(B, dtype=torch.bool)
        if resets is not None:
            begins = resets.detach().to("cpu").t() & (torch.arange(T) < long[:, None])
            anew = begins[:, 0].clone()
            begins[:, 0] = True
            sequence, first = begins.nonzero(as_tuple=True)
            is_first = first == 0
            is_last = is_first.roll(-1)
            # As many pieces as the next batch may have, the last of them empty.
            more = rounded(len(sequence)) - len(sequence)
            size = torch.where(is_last, long[sequence], first.roll(-1)) - first
            sequence, first, size, is_first, is_last = (
                F.pad(value, (0, more)) for value in (sequence, first, size, is_first, is_last)
            )
        size, order = size.sort(descending=True, stable=True)
        self.rows = Rows(size)
        self.sequence, first, is_first, is_last = (
            value[order] for value in (sequence, first, is_first, is_last)
        )
        self.index = self.rows.index(T, B, first, self.sequence)
        self.begins = first * B + self.sequence
        # Which pieces take the state that was given, and which leave theirs behind, by direction.
        self._takes = is_first & ~anew[self.sequence], is_last
        self._leaves = tuple(
            place[self.sequence[place].argsort()]
            for place in (kind.nonzero().squeeze(1) for kind in (is_last, is_first))
        )

    def pack(self, x: Tensor) -> Tensor:
        """The packed rows (N, ...) of a batch (T, B, ...)."""
        rows: Tensor = _Pick.apply(x.flatten(0, 1), self.index.to(x.device))  # type: ignore[no-untyped-call]
        return rows

    def unpack(self, y: Tensor) -> Tensor:
        """The batch (T, B, ...) of packed rows, and 0 where there is none."""
        whole: Tensor = _Put.apply(y, self.index.to(y.device), self.T * self.B)  # type: ignore[no-untyped-call]
        return whole.view(self.T, self.B, *y.shape[1:])

    def start(self, given: Tensor, initial: Tensor, reverse: bool) -> Tensor:
        """The states of the pieces before their first steps, from those of the sequences (B, H), and those to
        which they return."""
        takes = self._takes[reverse].to(given.device)
        of = self.sequence.to(given.device)
        return torch.where(takes[:, None], given.index_select(0, of), initial.index_select(0, of))

    def origins(self, known: Tensor, shift: Tensor | int) -> Tensor:
        """The place where the sequence of each piece began, from those of the sequences so far (B,); places
        of this batch are `shift` further on."""
        return torch.where(self._takes[False], known[self.sequence], shift + self.begins)

    def end(self, final: Tensor, reverse: bool) -> Tensor:
        """The states of the sequences (B, H) after their last steps."""
        return final.index_select(0, self._leaves[reverse].to(final.device))


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
        return self.rows.index(self.T, self.B, sequence=None if order is None else order.cpu())

    def origins(self, known: Tensor, shift: Tensor | int) -> Tensor:
        order = self.sequence.sorted_indices
        return known if order is None else known[order.cpu()]

    def unpack(self, y: Tensor) -> PackedSequence:
        """A sequence of other values."""
        s = self.sequence
        return PackedSequence(y, s.batch_sizes, s.sorted_indices, s.unsorted_indices)

    def start(self, given: Tensor, initial: Tensor, reverse: bool) -> Tensor:
        return given if self.sequence.sorted_indices is None else given[self.sequence.sorted_indices]

    def end(self, final: Tensor, reverse: bool) -> Tensor:
        return final if self.sequence.unsorted_indices is None else final[self.sequence.unsorted_indices]


def checked_lengths(lengths: object, B: int) -> Tensor:
    """Lengths as a tensor.

    Raises:
        InputError: they are not B whole numbers.
    """
    try:
        found = torch.as_tensor(lengths)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"lengths is a {type(lengths).__name__}, expected {B} whole numbers") from None
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise InputError(f"lengths is {found.dtype}, expected whole numbers")
    if tuple(found.shape) != (B,):
        raise InputError(f"lengths has shape {tuple(found.shape)}, expected ({B},): one for each sequence")
    return found


def check_steps(lengths: Tensor, T: int) -> None:
    """
    Raises:
        InputError: a length is not from 0 to T.
    """
    low, high = map(int, lengths.aminmax()) if len(lengths) else (0, 0)
    if low < 0 or high > T:
        raise InputError(f"lengths go from 0 to {T}, the steps of x, but one is {low if low < 0 else high}")


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
