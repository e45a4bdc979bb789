"""Singular values and eigenvalues of many matrices at once."""

from __future__ import annotations

import torch
from torch import Tensor


def extreme_singular_values(matrices: Tensor, all_values: bool) -> Tensor:
    """The largest and the smallest singular value of each of (n, S, S), as (n, 2), or all as (n, S)."""
    values: Tensor = torch.linalg.svdvals(matrices)
    return values if all_values else values[:, [0, -1]]


def eigenvalue_radius(matrices: Tensor) -> Tensor:
    """The largest absolute value of an eigenvalue of each of (n, S, S): (n,)."""
    values: Tensor = torch.linalg.eigvals(matrices)
    return values.abs().amax(-1)
