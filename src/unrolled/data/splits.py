"""A part to train on and a held-out part, with nothing of the one in the other."""

from collections.abc import Hashable, Iterable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from unrolled.errors import DataError, check_sizes

_Record = TypeVar("_Record")


def shuffled(count: int, seed: int) -> NDArray[np.int64]:
    """The numbers from 0 to count - 1 in a random order: the same for the same seed, on every machine."""
    drawn = np.random.PCG64(seed).random_raw(count)  # whose numbers are promised to stay
    return np.argsort(drawn, kind="stable")


def hold_out(
    records: Sequence[_Record], keys: Sequence[Iterable[Hashable]], count: int, seed: int = 0
) -> tuple[list[_Record], list[_Record]]:
    """Draw records at random to be held out; those that share a key stay together.

    Args:
        records: N records.
        keys: N sets of keys, such as the sentences of a pair.
        count: how many to hold out. Fewer are where the groups that share keys leave no other way.
        seed: of the drawing; the same parts for the same seed, on every machine.

    Returns:
        Those to train on and those held out, each in the order of `records`.

    Raises:
        InputError: `count` is below 1.
        DataError: one of the parts is empty.
    """
    check_sizes(count=count)
    groups = _groups(keys)
    sizes = np.bincount(groups, minlength=len(groups))
    chosen, left = set(), min(count, max(len(records) - 1, 0))
    for place in shuffled(len(records), seed):
        group = groups[place]
        if group not in chosen and sizes[group] <= left:
            chosen.add(group)
            left -= int(sizes[group])
    parts: tuple[list[_Record], list[_Record]] = [], []
    for record, group in zip(records, groups, strict=True):
        parts[group in chosen].append(record)
    if count >= len(records) or not chosen:
        raise DataError(
            f"{count:,} of {len(records):,} records cannot be held out with nothing of them in training: "
            "hold out fewer, or give more."
        )
    return parts


def plain(text: str) -> str:
    """A text as a key: its letters and digits, without case; the text itself where it has none."""
    return "".join(filter(str.isalnum, text.casefold())) or text


def _groups(keys: Sequence[Iterable[Hashable]]) -> list[int]:
    """For each record the number of the first one that it is connected with by keys (union-find)."""
    parent = list(range(len(keys)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = place = parent[parent[place]]
        return place

    owner: dict[Hashable, int] = {}
    for place, own in enumerate(keys):
        for key in own:
            first, second = sorted((root(place), root(owner.setdefault(key, place))))
            parent[second] = first
    return [root(place) for place in range(len(keys))]
