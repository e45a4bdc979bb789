"""Batches of examples of about the same length, so that little of them is padding."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from unrolled.errors import DataError, InputError, check_sizes


class Buckets:
    """Batches by length: which examples are read at which step.

    A pass through the examples shuffles them, puts them in the order of their lengths, cuts that into
    batches, and reads these in an order of their own. All of it is drawn anew for every pass, from the seed
    and the number of the pass alone, so that step n is the same whether the steps before it were made or not.

    Args:
        lengths: of N examples.
        batch: examples in a batch; the last of a pass may have fewer.
        tokens: or so many tokens at most, padding counted; a longer example is a batch of its own.
        seed: of the orders.

    Raises:
        InputError: neither or both of `batch` and `tokens` are given, or one is below 1.
        DataError: there are no examples.
    """

    def __init__(
        self, lengths: Sequence[int], *, batch: int | None = None, tokens: int | None = None, seed: int = 0
    ) -> None:
        if (batch is None) == (tokens is None):
            raise InputError("a batch has so many examples or so many tokens: give one of batch and tokens")
        check_sizes(**({"tokens": tokens} if batch is None else {"batch": batch}))
        if not len(lengths):
            raise DataError("there are no examples to make batches of.")
        self._lengths = np.asarray(lengths, dtype=np.int64)
        self._seed = seed
        ordered = np.sort(self._lengths)
        if batch is not None:
            ends = [*range(0, len(ordered), batch), len(ordered)]
        else:
            assert tokens is not None
            ends = [0]
            for place, length in enumerate(ordered.tolist()):
                if place > ends[-1] and (place + 1 - ends[-1]) * length > tokens:
                    ends.append(place)
            ends.append(len(ordered))
        self._parts = [*pairwise(ends)]
        self._pass: tuple[int, list[NDArray[np.int64]]] | None = None

    def __len__(self) -> int:
        """Batches of a pass."""
        return len(self._parts)

    def __getitem__(self, step: int) -> NDArray[np.int64]:
        """The places of the examples that are read after `step` steps are done."""
        number, place = divmod(step, len(self))
        if self._pass is None or self._pass[0] != number:
            self._pass = number, self._drawn(number)
        return self._pass[1][place]

    def _drawn(self, number: int) -> list[NDArray[np.int64]]:
        source = np.random.PCG64((self._seed, number))  # whose numbers are promised to stay
        order = np.argsort(source.random_raw(len(self._lengths)), kind="stable")
        order = order[np.argsort(self._lengths[order], kind="stable")]
        batches = np.argsort(source.random_raw(len(self)), kind="stable")
        return [order[slice(*self._parts[k])] for k in batches.tolist()]
