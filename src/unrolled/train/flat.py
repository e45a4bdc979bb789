"""All parameters in one tensor, so that clipping and the optimiser take one step for all of them."""

from __future__ import annotations

from itertools import accumulate, pairwise

import torch
from torch import nn


def flatten(model: nn.Module) -> nn.Parameter:
    """Make the parameters of a model, and their gradients, parts of one tensor and of its `grad`.

    The parameters stay the same objects with the same values. Elementwise optimisers do to the one what they
    would do to each.
    """
    parameters = list(model.parameters())
    whole = nn.Parameter(torch.cat([p.detach().flatten() for p in parameters]))
    whole.grad = torch.zeros_like(whole)
    ends = accumulate((p.numel() for p in parameters), initial=0)
    for parameter, (begin, end) in zip(parameters, pairwise(ends), strict=True):
        parameter.data = whole.data[begin:end].view_as(parameter)
        parameter.grad = whole.grad[begin:end].view_as(parameter)
    return whole
