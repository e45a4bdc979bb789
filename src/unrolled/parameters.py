"""Learned tensors by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor


class Stacked(Mapping[str, Tensor]):
    """Parameters by name that are rows of a few tensors, so that gradients need not be put together.

    Attributes:
        tensors: the contiguous tensors.
        parts: for each parameter its tensor's place in `tensors`, its first row, and how many it has.
    """

    def __init__(self, tensors: tuple[Tensor, ...], parts: Mapping[str, tuple[int, int, int]]) -> None:
        self.tensors = tensors
        self.parts = parts

    def __getitem__(self, name: str) -> Tensor:
        place, first, rows = self.parts[name]
        return self.tensors[place].narrow(0, first, rows)

    def __contains__(self, name: object) -> bool:
        return name in self.parts

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)
