"""Pooling over time: from the outputs of a recurrent layer at every step to one vector for the sequence.

`last` takes what is there behind the last step, `mean` and `max` the average and the largest value of every
unit over all steps, and `attention` an average whose weights are learned:

    a_t = softmax over t of v·tanh(W y_t + b),    pooled = Σ_t a_t y_t

(Yang et al. 2016, doi:10.18653/v1/N16-1174). Steps beyond a sequence's length, or that a mask leaves out,
are not read: NaNs there change neither the result nor a gradient. Of a sequence without steps every pooling
gives zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from unrolled.errors import InputError, check_sizes
from unrolled.nn.checks import checked_lengths

POOLINGS: Final = ("last", "mean", "max", "attention")


class Pooling(nn.Module):
    """One vector for a sequence of them.

    Args:
        kind: last, mean, max or attention.
        width: W, of the vectors.
        bidirectional: of what two directions are joined, `last` takes the second half of the units from the
            first step, which is the last that the second direction made.

    Shapes: y (T, B, W), or (T, W) without a batch; pooled (B, W), or (W,).

    Raises:
        InputError: an argument or an input does not fit.

    Source: Yang et al., 2016, doi:10.18653/v1/N16-1174, for attention.
    """

    def __init__(
        self,
        kind: str,
        width: int,
        *,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if kind not in POOLINGS:
            raise InputError(f"no pooling {kind!r}; there are {', '.join(POOLINGS)}")
        check_sizes(width=width)
        if bidirectional and width % 2:
            raise InputError(f"two directions have as many units each, but width is {width}")
        self.kind, self.width, self.bidirectional = kind, width, bidirectional
        if kind == "attention":
            self.read = nn.Linear(width, width, device=device, dtype=dtype)
            self.score = nn.Linear(width, 1, bias=False, device=device, dtype=dtype)

    def forward(
        self, y: Tensor, lengths: Tensor | Sequence[int] | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Pool.

        Args:
            lengths: (B,), how many steps each sequence has.
            mask: bools (T, B), True where there is something to read; both may be given.
        """
        batched = self._check(y, lengths, mask)
        y = y if batched else y.unsqueeze(1)
        there = self._there(y, lengths, mask)
        y = y.masked_fill(~there.unsqueeze(-1), 0)
        pooled = self._pooled(y, there)
        return pooled if batched else pooled.squeeze(0)

    def weights(
        self, y: Tensor, lengths: Tensor | Sequence[int] | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """How much each step counts, (T, B): what `mean` and `attention` weight the vectors with. They add up
        to 1 over the steps of a sequence that has some.

        Raises:
            InputError: it is another kind of pooling.
        """
        if self.kind not in ("mean", "attention"):
            raise InputError(f"pooling {self.kind!r} has no weights; mean and attention have")
        batched = self._check(y, lengths, mask)
        y = y if batched else y.unsqueeze(1)
        there = self._there(y, lengths, mask)
        found = self._weights(y.masked_fill(~there.unsqueeze(-1), 0), there)
        return found if batched else found.squeeze(1)

    def extra_repr(self) -> str:
        return f"{self.kind}, {self.width}" + ", bidirectional=True" * self.bidirectional

    def _pooled(self, y: Tensor, there: Tensor) -> Tensor:
        if self.kind in ("mean", "attention"):
            return (self._weights(y, there).unsqueeze(-1) * y).sum(0)
        some = there.any(0).unsqueeze(-1)
        if self.kind == "max":
            lowest = torch.finfo(y.dtype).min
            return torch.where(some, y.masked_fill(~there.unsqueeze(-1), lowest).amax(0), 0)
        steps = torch.arange(len(y), device=y.device).unsqueeze(-1)
        rows = torch.arange(y.shape[1], device=y.device)
        last = torch.where(there, steps, 0).amax(0)
        if not self.bidirectional:
            return y[last, rows]
        first = torch.where(there, steps, len(y) - 1).amin(0)
        half = self.width // 2
        return torch.cat([y[last, rows, :half], y[first, rows, half:]], 1)

    def _weights(self, y: Tensor, there: Tensor) -> Tensor:
        if self.kind == "mean":
            return there / there.sum(0).clamp_min(1).to(y.dtype)
        scores = self.score(torch.tanh(self.read(y))).squeeze(-1)
        # Where a sequence has no steps, a softmax over nothing would be NaN.
        weights = torch.softmax(scores.masked_fill(~there, torch.finfo(y.dtype).min), 0)
        return torch.where(there, weights, 0)

    def _check(self, y: Tensor, lengths: object, mask: object) -> bool:
        """Whether y has a batch."""
        if not isinstance(y, Tensor):
            raise InputError(f"y is a {type(y).__name__}, expected a tensor")
        batched = y.ndim == 3
        if y.ndim not in (2, 3) or y.shape[-1] != self.width:
            raise InputError(f"y has shape {tuple(y.shape)}, expected (T, B, {self.width})")
        if not len(y):
            raise InputError("y has no steps: there is nothing to pool over")
        if not batched and (lengths is not None or mask is not None):
            raise InputError("lengths and masks are those of a batch, but y has none: use y.unsqueeze(1)")
        return batched

    def _there(self, y: Tensor, lengths: Tensor | Sequence[int] | None, mask: Tensor | None) -> Tensor:
        """Which steps are read: bools (T, B)."""
        T, B = y.shape[:2]
        there = torch.ones(T, B, dtype=torch.bool, device=y.device)
        if lengths is not None:
            found = checked_lengths(lengths, T, B).to(y.device)
            there = torch.arange(T, device=y.device).unsqueeze(-1) < found
        if mask is None:
            return there
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or tuple(mask.shape) != (T, B):
            what = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
            raise InputError(f"mask is {what}, expected a tensor of bools {(T, B)}")
        return there & mask
