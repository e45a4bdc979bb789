"""What a classifier is measured by, and what is reached without one that is deep."""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from unrolled.measures.accuracy import Accuracy as Accuracy

ROUNDS: Final = 200
"""Of L-BFGS for the linear classifier, at most."""

PENALTY: Final = 1e-3
"""Times half the square of its weights."""


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
