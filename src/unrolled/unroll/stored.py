"""Stored states, side by side in blocks of memory or in a memory-mapped file.

Each on its own would lie between what comes and goes, and keep that memory from being used again.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as tree

from unrolled.errors import BudgetError
from unrolled.unroll.policies import amount
from unrolled.unroll.tape import tensors_of, with_tensors

LINE: Final = 64
BLOCK: Final = 1 << 20
NOTHING: Final = torch.empty(0, device="cpu")


class Stored:
    """States, and what torch's generator was then, by the number of the segment that follows.

    Args:
        most: how many there are at once, at most.
        random: what the generator was before the first segment; it takes room only where it changes.
        folder: where their file is to be; None to keep them in memory.
    """

    def __init__(self, most: int, random: Tensor, folder: str | None = None) -> None:
        self.most, self._random, self.folder = most, random, folder
        self._slots: dict[int, int] = {}
        self._rest: dict[int, tuple[Any, Tensor]] = {}  # what of a state is no tensor; the generator's
        self._free: list[int] = []
        self._like: list[Tensor] = []
        self._sizes: list[int] = []
        self._draws = False
        self._blocks: dict[int, mmap.mmap] = {}
        self._file: Any = None

    def put(self, number: int, state: Any, random: Tensor) -> None:
        """Store a state.

        Raises:
            BudgetError: there is no room where the file is.
        """
        tensors = tensors_of(state)
        rest = with_tensors(state, [NOTHING] * len(tensors))
        if torch.equal(random, self._random):
            random = self._random
        elif not self._sizes:
            self._draws = True
        if self._draws:
            tensors.append(random)
        if not self._sizes:
            self._begin([t.new_empty(()).expand(t.shape) for t in tensors])
        self._rest[number] = rest, NOTHING if self._draws else random
        places = torch.split(self._new(number), self._sizes)
        for place, t in zip(places, tensors, strict=True):
            place[: t.nbytes] = t.cpu().contiguous().view(-1).view(torch.uint8)

    def _begin(self, like: list[Tensor]) -> None:
        """Take note of what all states are like."""
        self._like = like
        self._sizes = [max(-(-t.numel() * t.itemsize // LINE), 1) * LINE for t in like]
        if self.folder is not None and self.most:
            self._file = self._room(self.folder)

    def _new(self, number: int) -> Tensor:
        slot = self._slots[number] = self._free.pop() if self._free else len(self._slots)
        return self._bytes(slot)

    def get(self, number: int) -> tuple[Any, Tensor]:
        """A copy of a state."""
        places = torch.split(self._bytes(self._slots[number]), self._sizes)
        found = [
            place[: t.numel() * t.itemsize].clone().view(t.dtype).view(t.shape).to(t.device)
            for place, t in zip(places, self._like, strict=True)
        ]
        rest, random = self._rest[number]
        return with_tensors(rest, found), found[-1] if self._draws else random

    def notes(self) -> dict[str, Any]:
        """All there is, without a copy, for `take`."""
        states = [
            (number, self._bytes(slot), tree.tree_leaves(self._rest[number][0]), self._rest[number][1])
            for number, slot in self._slots.items()
        ]
        return {"like": self._like, "draws": self._draws, "states": states}

    def take(self, notes: Mapping[str, Any], structure: tree.TreeSpec) -> int:
        """Store what another had; returns the last number, 0 if there is none.

        Args:
            structure: of a state.
        """
        number, self._draws = 0, notes["draws"]
        if notes["states"]:
            self._begin(notes["like"])
        for number, numbers, leaves, random in notes["states"]:
            self._new(number)[:] = numbers
            self._rest[number] = tree.tree_unflatten(leaves, structure), random
        return int(number)

    def drop(self, number: int) -> None:
        """Let go of a state."""
        self._free.append(self._slots.pop(number))
        del self._rest[number]
        there = {slot // self._in_a_block for slot in self._slots.values()} if self._blocks else set()
        for block in self._blocks.keys() - there:
            del self._blocks[block]

    @property
    def _in_a_block(self) -> int:
        """States that lie in one piece of memory, which is let go of when none is left in it."""
        return max(BLOCK // max(sum(self._sizes), 1), 1)

    def _room(self, folder: str) -> Any:
        size = self.most * sum(self._sizes)
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - it lives as long as the states
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
        except OSError as error:
            file.close()
            raise BudgetError(
                f"states take {amount(size)} on disk, and {folder} has no room for that "
                f"({error.strerror}): lower disk, or give another folder"
            ) from None
        weakref.finalize(self, file.close)
        return file

    def _bytes(self, slot: int) -> Tensor:
        size = sum(self._sizes)
        if self._file is not None:
            # Mapped for as long as it takes: pages that stay mapped are memory of the process.
            mapped: Any = np.memmap(self._file, np.uint8, "r+", slot * size, (size,))
        else:
            block, place = divmod(slot, self._in_a_block)
            if block not in self._blocks:
                self._blocks[block] = mmap.mmap(-1, self._in_a_block * size)
            mapped = np.frombuffer(self._blocks[block], np.uint8, size, place * size)
        return torch.from_numpy(mapped)
