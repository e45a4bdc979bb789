"""Products of Jacobians over thousands of steps, whose singular values no float can hold.

A product is kept as Q diag(exp l) R: Q orthogonal, l logarithms, R of ordinary numbers. One more factor J
makes J Q diag(exp l) = Q' U diag(exp l) with U upper triangular, whose rows are scaled to ordinary numbers
again, and their sizes go into l. Columns stand in falling order of size beforehand, so that nothing grows
when a row is scaled (stable products of many matrices: Loh et al. 1989; Bai, Lee, Li & Xu 2011,
doi:10.1016/j.laa.2010.06.023).

Singular values of diag(exp l) R come from triangular factorisations from either side, each pair of which
shrinks what couples two values by the square of their ratio. After a few, only near ones are coupled, and
each value is had from a window of its neighbours, whose range is that of ordinary numbers.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from unrolled.flow.values import in_threads

TURNS: Final = 3
"""Pairs of factorisations. What is further apart than `MARGIN` is then coupled by less than 1e-20."""

STEP: Final = 4.0
"""Natural logarithms over which singular values are taken from one window."""

MARGIN: Final = 8.0
"""How far a window reaches beyond that on either side. So its range is at most 20, and what is taken from it
is right to ten digits."""


class LogProduct:
    """Products of square matrices (B, S, S) in float64, one for each sequence; at first the identity."""

    def __init__(self, B: int, S: int) -> None:
        self.Q = torch.eye(S, dtype=torch.float64).repeat(B, 1, 1)
        self.logs = torch.zeros(B, S, dtype=torch.float64)
        self.R = self.Q.clone()

    def append(self, J: Tensor) -> None:
        """Multiply by matrices (B, S, S) from the left."""
        columns = J @ self.Q
        order = (self.logs + columns.norm(dim=1).log()).argsort(dim=1, descending=True)
        self.Q, U = in_threads(torch.linalg.qr, columns.gather(2, order[:, None].expand_as(columns)))
        logs, R = self.logs.gather(1, order), self.R.gather(1, order[:, :, None].expand_as(self.R))
        rows, self.logs = _scaled(U, logs[:, None])
        self.R = rows @ R

    @property
    def log_singular_values(self) -> Tensor:
        """(B, S), the largest first; -inf is 0."""

        def each(part: Tensor) -> tuple[Tensor]:
            return (
                torch.stack([_singular(logs, R) for logs, R in zip(part[:, 0], part[:, 1:], strict=True)]),
            )

        return in_threads(each, torch.cat([self.logs[:, None], self.R], 1))[0]


def _scaled(matrix: Tensor, logs: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers up to 1, and the logarithms (..., S) of what their rows are to be multiplied by to give the
    matrix with its columns times exp(logs)."""
    sizes = matrix.abs().log() + logs
    largest = sizes.amax(-1)
    return matrix.sign() * torch.exp(sizes - largest.clamp(min=-1e300)[..., None]), largest


def _singular(logs: Tensor, R: Tensor) -> Tensor:
    """The logarithms of the singular values of diag(exp logs) R, the largest first; -inf for each column that
    R has more than rows."""
    S = R.shape[1]
    for _ in range(TURNS):
        alive = logs > -math.inf
        if not alive.any():
            return logs.new_full((S,), -math.inf)
        order = logs[alive].argsort(descending=True)
        logs, R = logs[alive][order], R[alive][order]
        # R = M V with V orthogonal and M lower triangular; diag(exp l) M = N diag(exp l).
        M = torch.linalg.qr(R.mT, mode="r").R.mT
        N = M * torch.exp((logs[:, None] - logs).clamp(max=0.0))
        # N = Q U, and U diag(exp l) has its rows scaled again.
        R, logs = _scaled(torch.linalg.qr(N, mode="r").R, logs)
    alive = logs > -math.inf
    found = _from_windows(logs, R) if alive.all() else _singular(logs[alive], R[alive])
    found = found[: len(logs)].sort(descending=True).values
    return torch.cat([found, logs.new_full((S - len(found),), -math.inf)])


def _from_windows(logs: Tensor, R: Tensor) -> Tensor:
    """The same for R upper triangular, where only near values are coupled."""
    sizes: list[float] = (logs + R.diagonal().abs().log()).tolist()
    n, first = len(sizes), 0
    found = []
    while first < n:
        end = first + 1
        while end < n and sizes[first] - sizes[end] <= STEP:
            end += 1
        low, high = first, end
        while low > 0 and sizes[low - 1] - sizes[first] <= MARGIN:
            low -= 1
        while high < n and sizes[end - 1] - sizes[high] <= MARGIN:
            high += 1
        own = logs[low:high]
        block = torch.exp(own - own.max())[:, None] * R[low:high, low:high]
        values = torch.linalg.svdvals(block).log() + own.max()
        found.append(values[first - low : end - low])
        first = end
    return torch.cat(found) if found else logs
