"""Gradients through what is drawn: REINFORCE with a baseline.

Where a step draws one place with the probabilities α, the mean reward R has the gradient

    E[(R − b) ∇ log α_chosen]

for any baseline b that does not depend on what is drawn. An entropy term keeps weights from settling early.

Source: Williams 1992, doi:10.1007/BF00992696; for attention Xu et al. 2015, arXiv:1502.03044, section 4.1;
Mnih et al. 2014, arXiv:1406.6247.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unrolled.errors import InputError


def log_probability(weights: Tensor, chosen: Tensor) -> Tensor:
    """log α of the places drawn; 0 where nothing was.

    Args:
        weights: (..., S).
        chosen: (...), −1 where there was nothing to draw.
    """
    there = chosen >= 0
    probability = weights.gather(-1, chosen.clamp(min=0)[..., None]).squeeze(-1)
    return torch.where(there, probability, 1.0).log()


def entropy(weights: Tensor) -> Tensor:
    """−Σ α log α of weights (..., S), in nats; a place of weight 0 adds nothing."""
    each: Tensor = torch.special.entr(weights)
    return each.sum(-1)


def reinforce(
    weights: Tensor,
    chosen: Tensor,
    reward: Tensor,
    baseline: Tensor,
    steps: Tensor | None = None,
    entropy_weight: float = 0.0,
) -> Tensor:
    """A loss whose gradient is that of minus the mean reward, and minus `entropy_weight` times the entropy.

    Args:
        weights: (T, B, S).
        chosen: (T, B).
        reward, baseline: (T, B) or (B,); no gradient flows through them.
        steps: (T, B), true where there is a step; all of them if not given.

    Returns:
        a number, the mean over steps.
    """
    advantage = (reward - baseline).detach()
    each = -advantage * log_probability(weights, chosen) - entropy_weight * entropy(weights)
    if steps is None:
        return each.mean()
    return (each * steps).sum() / steps.sum().clamp(min=1)


class MovingAverage(nn.Module):
    """A baseline that is the average of earlier rewards, b ← γ b + (1 − γ) mean R; the first reward at first.

    Args:
        decay: γ.
    """

    value: Tensor
    count: Tensor

    def __init__(self, decay: float = 0.9) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise InputError(f"decay must be from 0 and below 1, got {decay}")
        self.decay = decay
        self.register_buffer("value", torch.zeros(()))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, reward: Tensor) -> Tensor:
        """The baseline for these rewards, as it was before them; in training it then takes them in."""
        before = self.value.clone() if self.count else reward.detach().mean()
        if self.training:
            new = reward.detach().mean()
            self.value.copy_(self.decay * before + (1 - self.decay) * new)
            self.count += 1
        return before.expand_as(reward)


class LearnedBaseline(nn.Module):
    """A baseline that is a linear function of what is known before the draw, fitted to the rewards.

    Args:
        width: of the features, such as a state (T, B, H), through which no gradient flows.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(..., width) to (...)."""
        value: Tensor = self.linear(features.detach()).squeeze(-1)
        return value

    def loss(self, baseline: Tensor, reward: Tensor, steps: Tensor | None = None) -> Tensor:
        """The mean square of what the baseline misses."""
        each = (baseline - reward.detach()).square()
        return each.mean() if steps is None else (each * steps).sum() / steps.sum().clamp(min=1)
