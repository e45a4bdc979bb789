"""What a classifier is measured by, and what is reached without one that is deep."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

Z: Final = 1.959964
"""Standard deviations on either side of a mean that hold 95% of a normal distribution."""

ROUNDS: Final = 200
"""Of L-BFGS for the linear classifier, at most."""

PENALTY: Final = 1e-3
"""Times half the square of its weights."""


@dataclass(frozen=True)
class Accuracy:
    """So many right of so many."""

    right: int
    count: int

    @property
    def share(self) -> float:
        return self.right / self.count

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% confidence interval (Wilson 1927), which holds near 0 and 1 too.

        (p + z²/2n ± z √(p (1 − p)/n + z²/4n²)) / (1 + z²/n)
        """
        p, n = self.share, self.count
        middle, half = p + Z**2 / (2 * n), Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
        return max(0.0, (middle - half) / (1 + Z**2 / n)), min(1.0, (middle + half) / (1 + Z**2 / n))

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.share:.1%} ({low:.1%} to {high:.1%})"


def majority(train: Tensor, test: Tensor) -> Accuracy:
    """Always the commonest label (N,) of those to train on."""
    commonest = train.bincount().argmax()
    return Accuracy(int((test == commonest).sum()), len(test))


def linear(inputs: Tensor, labels: Tensor, test_inputs: Tensor, test_labels: Tensor) -> Accuracy:
    """Multinomial logistic regression of inputs (N, D) to convergence, with a small penalty on weights."""
    classes = int(max(labels.max(), test_labels.max())) + 1
    mean = inputs.mean(0)
    weight = torch.zeros(classes, inputs.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    centred = inputs - mean
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=ROUNDS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        scores = F.linear(centred, weight, bias)
        loss = F.cross_entropy(scores, labels) + PENALTY / 2 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        found = F.linear(test_inputs - mean, weight, bias).argmax(1)
    return Accuracy(int((found == test_labels).sum()), len(test_labels))
