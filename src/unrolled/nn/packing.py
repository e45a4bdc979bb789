"""From a padded batch to packed rows, and back: sequences of different lengths, and states that begin anew.

Where the state returns to its initial value, a sequence is cut. The pieces are sequences of their own, sorted
with all others, so neither padding nor a reset costs a step.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from unrolled.errors import InputError
from unrolled.rows import Rows


class Packing:
    """How the rows of a batch (T, B, ...) are packed.

    Args:
        T, B: the size of the batch.
        lengths: the steps of each sequence, (B,); T for all if not given.
        resets: (T, B); a sequence begins anew before the steps that are marked.

    Attributes:
        rows: the pieces of the sequences, the longest first.
    """

    def __init__(self, T: int, B: int, lengths: Tensor | None, resets: Tensor | None) -> None:
        self.T, self.B = T, B
        long = torch.full((B,), T) if lengths is None else lengths.detach().to("cpu", torch.long)
        begins = torch.zeros(B, T, dtype=torch.bool)
        if resets is not None:
            begins |= resets.detach().to("cpu").t() & (torch.arange(T) < long[:, None])
        anew = begins[:, 0].clone() if T else torch.zeros(B, dtype=torch.bool)
        begins[:, 0] = True
        sequence, first = begins.nonzero(as_tuple=True)
        is_last = torch.cat((sequence[1:] != sequence[:-1], torch.ones(1, dtype=torch.bool)))
        end = torch.where(is_last, long[sequence], first.roll(-1))
        size, order = (end - first).sort(descending=True, stable=True)
        self.rows = Rows(size)
        self.sequence = sequence[order]
        self.index = self.rows.index(T, B, first[order], self.sequence)
        # Which pieces take the state that was given, and which leave theirs behind, by direction.
        is_first = first[order] == 0
        is_last = is_last[order]
        self._takes = is_first & ~anew[self.sequence], is_last
        self._leaves = tuple(
            place[self.sequence[place].argsort()]
            for place in (kind.nonzero().squeeze(1) for kind in (is_last, is_first))
        )

    def pack(self, x: Tensor) -> Tensor:
        """The packed rows (N, ...) of a batch (T, B, ...)."""
        return x.flatten(0, 1).index_select(0, self.index.to(x.device))

    def unpack(self, y: Tensor) -> Tensor:
        """The batch (T, B, ...) of packed rows, and 0 where there is none."""
        whole = y.new_zeros(self.T * self.B, *y.shape[1:])
        return whole.index_copy(0, self.index.to(y.device), y).view(self.T, self.B, *y.shape[1:])

    def start(self, given: Tensor, initial: Tensor, reverse: bool) -> Tensor:
        """The states of the pieces before their first steps, from those of the sequences (B, H), and those to
        which they return."""
        takes = self._takes[reverse].to(given.device)
        of = self.sequence.to(given.device)
        return torch.where(takes[:, None], given.index_select(0, of), initial.index_select(0, of))

    def end(self, final: Tensor, reverse: bool) -> Tensor:
        """The states of the sequences (B, H) after their last steps."""
        return final.index_select(0, self._leaves[reverse].to(final.device))


class Packed:
    """The rows of torch's `PackedSequence`."""

    def __init__(self, sequence: PackedSequence) -> None:
        self.sequence = sequence
        sizes = sequence.batch_sizes
        self.B = int(sizes[0])
        self.rows = Rows((sizes > torch.arange(self.B)[:, None]).sum(1))

    def unpack(self, y: Tensor) -> PackedSequence:
        """A sequence of other values."""
        s = self.sequence
        return PackedSequence(y, s.batch_sizes, s.sorted_indices, s.unsorted_indices)

    def start(self, given: Tensor, initial: Tensor, reverse: bool) -> Tensor:
        return given if self.sequence.sorted_indices is None else given[self.sequence.sorted_indices]

    def end(self, final: Tensor, reverse: bool) -> Tensor:
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
