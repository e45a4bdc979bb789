"""The cross-entropy of words from features, without all their logits at once.

    logits = V f + b,  loss = Σ (1 − ε) (−log p_target) + ε mean_v (−log p_v)

Some rows at a time are multiplied, turned into probabilities and, where gradients are wanted, multiplied back
at once; what is kept is as large as the features and the matrix, however many words there are. The part of
label smoothing is the same for all words, so it costs no pass over them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from unrolled.compile.memory import workspace
from unrolled.errors import InputError

AT_ONCE: Final = 1 << 21
"""Logits that are there at once."""


def word_loss(features: Tensor, head: torch.nn.Linear, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """The cross-entropy in nats, summed over all words.

    Args:
        features: (N, F).
        head: from features to the logits of V words, with a bias.
        targets: (N,), word numbers.
        smoothing: ε of label smoothing (Szegedy et al. 2016, arXiv:1512.00567).

    Raises:
        InputError: a shape does not fit.
    """
    if features.ndim != 2 or targets.shape != features.shape[:1]:
        raise InputError(
            f"features are (N, F) and targets (N,), got {tuple(features.shape)} and {tuple(targets.shape)}"
        )
    if head.bias is None:
        raise InputError("the layer that gives logits needs a bias")
    found: Tensor = _WordLoss.apply(features, head.weight, head.bias, targets, smoothing)  # type: ignore[no-untyped-call]
    return found


def _room(shape: Sequence[int], like: Tensor) -> Tensor:
    """Uninitialised memory; on a processor that of the step before, which is not new to the system."""
    if like.device.type == "cpu" and like.dtype in (torch.float32, torch.float64):
        return workspace(shape, like.dtype)
    return like.new_empty(shape)


class _WordLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, smoothing: float
    ) -> Tensor:
        N, V = len(features), len(weight)
        needed = any(ctx.needs_input_grad)
        d_features = torch.empty_like(features) if needed else None
        d_weight, d_bias = _room(weight.shape, weight), torch.zeros_like(bias)
        total = features.new_zeros(())
        rows = max(1, AT_ONCE // V)
        room = _room((min(rows, N), V), features)
        for begin in range(0, N, rows):
            part = slice(begin, begin + rows)
            f, wanted = features[part], targets[part, None]
            logits = torch.addmm(bias, f, weight.t(), out=room[: len(f)])
            picked, most = logits.gather(1, wanted), logits.amax(1)
            d = torch.softmax(logits, 1, out=logits)
            spread = (most - d.amax(1).log()).sum()  # log Σ exp of the logits, by the likeliest word
            total += spread - (1 - smoothing) * picked.sum()
            if d_features is None:
                continue
            d.scatter_add_(1, wanted, d.new_full(wanted.shape, smoothing - 1))
            torch.mm(d, weight, out=d_features[part])
            d_weight.addmm_(d.t(), f, beta=float(begin > 0))  # what is there at first counts nothing
            d_bias += d.sum(0)
        if not N:
            d_weight.zero_()
        if smoothing:
            even, all_features = weight.sum(0), features.sum(0)
            total -= smoothing / V * (all_features @ even + N * bias.sum())
            if d_features is not None:
                d_features -= smoothing / V * even
                d_weight -= smoothing / V * all_features
                d_bias -= smoothing / V * N
        if d_features is not None:
            ctx.save_for_backward(d_features, d_weight, d_bias)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        d_features, d_weight, d_bias = ctx.saved_tensors
        return g * d_features, g * d_weight, g * d_bias, None, None
