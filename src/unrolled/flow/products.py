"""Products of Jacobians over thousands of steps, whose singular values no float can hold.

A product is kept as Q diag(exp l) R: Q orthogonal, l logarithms, R of ordinary numbers. One more factor J
makes J Q diag(exp l) = Q' U diag(exp l) with U upper triangular, whose rows are scaled to ordinary numbers
again, and their sizes go into l. Columns stand in falling order of size beforehand, so that nothing grows
when a row is scaled (stable products of many matrices: Loh et al. 1989; Bai, Lee, Li & Xu 2011,
doi:10.1016/j.laa.2010.06.023).

Singular values of diag(exp l) R come from alternating triangular factorisations from either side, each of
which shrinks what couples two of them by the square of their ratio; where a block that is coupled to no other
is small in range, from its own decomposition.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor

from unrolled.flow.values import in_threads

RANGE: Final = 20.0
"""Natural logarithms of singular values may differ by so much in a block that is decomposed at once: the
smallest is then right to seven digits."""

TURNS: Final = 50
"""Pairs of factorisations, at most."""

STILL: Final = 1e-5
"""Logarithms that move by less in a turn have been found."""

APART: Final = 1e-13
"""What is smaller couples nothing."""


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
    """The logarithms of the singular values of diag(exp logs) R, the largest first."""
    S = R.shape[1]
    for _ in range(TURNS):
        alive = (logs > -math.inf) & (R != 0).any(1)
        order = logs[alive].argsort(descending=True)
        logs, R = logs[alive][order], R[alive][order]
        if not len(logs):
            break
        # R = M V with V orthogonal and M lower triangular; diag(exp l) M = N diag(exp l).
        M = torch.linalg.qr(R.mT, mode="r").R.mT
        N = M * torch.exp((logs[:, None] - logs).clamp(max=0.0))
        # N = Q U, and U diag(exp l) has its rows scaled again.
        R, new = _scaled(torch.linalg.qr(N, mode="r").R, logs)
        if (found := _by_blocks(new, R)) is not None:
            logs = found
            break
        moved = (new - logs).abs().max()
        logs = new
        if moved < STILL:
            break
    logs = logs.sort(descending=True).values
    return torch.cat([logs, logs.new_full((S - len(logs),), -math.inf)])


def _by_blocks(logs: Tensor, R: Tensor) -> Tensor | None:
    """The same for R upper triangular, if it falls into blocks of little range."""
    n = len(logs)
    above = R.abs().triu(1)
    # The largest entry above and to the right of a place, for the cuts between neighbours.
    corner = above.cummax(0).values.flip(1).cummax(1).values.flip(1)
    cuts = [0, *(k for k in range(1, n) if corner[k - 1, k] < APART), n]
    found = []
    for first, end in pairwise(cuts):
        own, block = logs[first:end], R[first:end, first:end]
        top = own.max()
        if end - first == 1:
            found.append(own + block[0].abs().log())
            continue
        if float(top - own.min()) > RANGE:
            return None
        found.append(torch.linalg.svdvals(torch.exp(own - top)[:, None] * block).log() + top)
    return torch.cat(found)
