"""Attention: a learned way to read a memory, by a weighted mean of what is there or by one place drawn.

The scores are in `unrolled.attend`. A memory is prepared once, and read by any number of queries.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn

from unrolled.attend import Memory
from unrolled.errors import InputError, check_sizes

SCORES: Final = ("additive", "location", "dot", "scaled", "general")

CHANNELS: Final = 8
"""Of the convolution over the last weights, for location-aware scores."""

TAPS: Final = 15
"""How many places that convolution sees, an odd number."""


class Attention(nn.Module):
    """What a query reads of a memory.

        additive   e = v · tanh(W q + U m + b)
        location   e = v · tanh(W q + U m + L (F * α of the step before) + b)
        dot        e = q · m
        scaled     e = q · m / √M
        general    e = q · U m

    Args:
        query_size: H, the width of queries.
        memory_size: M, the width of what is in the memory.
        score: one of `SCORES`.
        width: A, of additive and location-aware scores; H if not given.

    Shapes: memory (B, S, M), mask (B, S); queries (B, H) or (T, B, H); contexts (B, M) or (T, B, M), weights
        (B, S) or (T, B, S).

    Raises:
        InputError: no such score, or widths do not fit it.

    Source: Bahdanau, Cho & Bengio 2015, arXiv:1409.0473; Luong, Pham & Manning 2015, arXiv:1508.04025;
    Chorowski et al. 2015, arXiv:1506.07503; Vaswani et al. 2017, arXiv:1706.03762 for the scale.
    """

    def __init__(
        self, query_size: int, memory_size: int, score: str = "additive", width: int | None = None
    ) -> None:
        super().__init__()
        check_sizes(query_size=query_size, memory_size=memory_size)
        if score not in SCORES:
            raise InputError(f"no score {score!r}; there are {', '.join(SCORES)}")
        if width is not None:
            check_sizes(width=width)
            if score not in ("additive", "location"):
                raise InputError(f"score {score!r} has no width of its own: leave width out")
        if score in ("dot", "scaled") and query_size != memory_size:
            raise InputError(
                f"score {score!r} multiplies queries of {query_size} with a memory of {memory_size}: "
                "take 'general', or equal widths"
            )
        self.query_size, self.memory_size, self.score = query_size, memory_size, score
        width = width or query_size
        if score in ("additive", "location"):
            self.query = nn.Linear(query_size, width, bias=False)
            self.key = nn.Linear(memory_size, width)
            self.scores = nn.Parameter(torch.empty(width))
            nn.init.uniform_(self.scores, -1 / math.sqrt(width), 1 / math.sqrt(width))
        elif score == "general":
            self.key = nn.Linear(memory_size, query_size, bias=False)
        if score == "location":
            self.convolution = nn.Conv1d(1, CHANNELS, TAPS, bias=False)
            self.location = nn.Linear(CHANNELS, width, bias=False)

    def memory(self, values: Tensor, mask: Tensor | None = None) -> Memory:
        """What there is to look at, prepared.

        Args:
            values: (B, S, M).
            mask: (B, S) of bools, true where there is something; everywhere if not given. Nothing is seen of
                what is elsewhere, not even NaN.

        Raises:
            InputError: a shape does not fit.
        """
        if values.ndim != 3 or values.shape[2] != self.memory_size:
            raise InputError(
                f"the memory has shape {tuple(values.shape)}, expected (B, S, {self.memory_size})"
            )
        closed = values.new_zeros(values.shape[:2])
        if mask is not None:
            if mask.dtype != torch.bool or mask.shape != values.shape[:2]:
                raise InputError(
                    f"the mask is {mask.dtype} of shape {tuple(mask.shape)}, expected bools of "
                    f"{tuple(values.shape[:2])}"
                )
            closed = closed.masked_fill(~mask, -torch.inf)
            values = values.masked_fill(~mask[..., None], 0.0)
        if self.score == "dot":
            return Memory(values, values, closed)
        if self.score == "scaled":
            return Memory(values / math.sqrt(self.memory_size), values, closed)
        keys = self.key(values)
        if self.score == "general":
            return Memory(keys, values, closed)
        taps = None
        if self.score == "location":
            taps = self.location.weight @ self.convolution.weight[:, 0]
        return Memory(keys, values, closed, self.query.weight, self.scores, taps)

    def forward(self, queries: Tensor, memory: Memory, last: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Contexts and weights.

        Args:
            last: the weights of the step before (B, S), which location-aware scores see.

        Raises:
            InputError: a shape does not fit; or many queries at once where each must see the weights before.
        """
        if queries.ndim not in (2, 3) or queries.shape[-1] != self.query_size:
            raise InputError(
                f"queries have shape {tuple(queries.shape)}, expected (B, {self.query_size}) or (T, B, "
                f"{self.query_size})"
            )
        if self.score == "location" and queries.ndim == 3:
            raise InputError("location-aware attention goes step by step: give queries (B, H), one at a time")
        weights = memory.weights(queries, last)
        return memory.mean(weights), weights

    def extra_repr(self) -> str:
        return f"{self.query_size}, {self.memory_size}, score={self.score!r}"


def doubly_stochastic(
    weights: Tensor, mask: Tensor | None = None, steps: Tensor | None = None, tau: float = 1.0
) -> Tensor:
    """How unevenly places are looked at over all steps: Σ_s (τ − Σ_t α_ts)², averaged over sequences.

    Args:
        weights: (T, B, S).
        mask: (B, S), true where there is something.
        steps: (T, B), true where there is a step; all of them if not given.
        tau: how much a place should get.

    Source: Xu et al. 2015, arXiv:1502.03044, equation 14.
    """
    if steps is not None:
        weights = weights * steps[..., None]
    missing = (tau - weights.sum(0)).square()
    if mask is not None:
        missing = missing * mask
    return missing.sum(-1).mean()
