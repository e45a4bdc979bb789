"""All parameters in one tensor, so that clipping and the optimiser take one step for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import nn


def flatten(model: nn.Module, groups: Sequence[Mapping[str, Any]] = ()) -> nn.Parameter:
    """Make the parameters of a model, and their gradients, parts of one tensor and of its `grad`.

    The parameters stay the same objects with the same values. Elementwise optimisers do to the one what they
    would do to each.

    Args:
        groups: of an optimiser, with all parameters; their order, instead of the model's, see `parts_of`.
    """
    parameters = [p for group in groups for p in group["params"]] or list(model.parameters())
    whole = nn.Parameter(torch.cat([p.detach().flatten() for p in parameters]))
    whole.grad = torch.zeros_like(whole)
    ends = accumulate((p.numel() for p in parameters), initial=0)
    for parameter, (begin, end) in zip(parameters, pairwise(ends), strict=True):
        parameter.data = whole.data[begin:end].view_as(parameter)
        parameter.grad = whole.grad[begin:end].view_as(parameter)
    return whole


def parts_of(whole: nn.Parameter, groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The groups that it was flattened with, of one parameter each: a part of the one tensor."""
    assert whole.grad is not None
    found, begin = [], 0
    for group in groups:
        end = begin + sum(p.numel() for p in group["params"])
        part = nn.Parameter(whole.data[begin:end])
        part.grad = whole.grad[begin:end]
        found.append({**group, "params": [part]})
        begin = end
    return found
