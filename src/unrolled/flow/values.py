"""Decompositions of many matrices, which torch does one after the other, on all of its threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")
Found = TypeVar("Found")

SMALL: Final = 32
"""Matrices smaller than this are not worth a thread."""


def each(work: Callable[[Item], Found], items: Sequence[Item]) -> Iterator[Found]:
    """What `work` makes of each item, in order; as many at once as torch has threads, each in one of them.
    What has not begun when nobody asks any more is left undone."""
    threads = min(torch.get_num_threads(), len(items))
    if threads <= 1:
        yield from map(work, items)
        return

    def alone(item: Item) -> Found:
        torch.set_num_threads(1)  # of the pool's thread
        return work(item)

    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads)
    try:
        yield from pool.map(alone, items)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def in_threads(work: Callable[[Tensor], tuple[Tensor, ...]], matrices: Tensor) -> tuple[Tensor, ...]:
    """`work` of (n, S, ...) matrices, in as many parts as there are threads; each part has one."""
    threads = min(torch.get_num_threads(), len(matrices))
    if threads <= 1 or matrices.shape[1] < SMALL:
        return work(matrices)
    found = each(work, matrices.tensor_split(threads))
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def singular_values(matrices: Tensor) -> Tensor:
    """The singular values of each of (n, S, S), the largest first: (n, S)."""
    # Transposed, as LAPACK reads them: that saves a copy.
    return in_threads(lambda part: (torch.linalg.svdvals(part.mT),), matrices)[0]


def spectral_radius(matrices: Tensor) -> Tensor:
    """The largest absolute value of an eigenvalue of each of (n, S, S), to four digits: (n,)."""

    def radius(part: Tensor) -> tuple[Tensor]:
        return (torch.linalg.eigvals(part.float()).abs().amax(-1).double(),)

    return in_threads(radius, matrices)[0]


def triangular(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Q and U of each of (n, S, k): Q with orthonormal columns, U upper triangular, its diagonal not
    negative."""

    def factored(part: Tensor) -> tuple[Tensor, Tensor]:
        Q, U = torch.linalg.qr(part)
        signs = torch.where(U.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(U)
        return Q * signs[:, None], U * signs[:, :, None]

    Q, U = in_threads(factored, matrices)
    return Q, U
