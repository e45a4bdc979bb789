"""Learned tensors by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

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

    @staticmethod
    def of(names: Iterable[str], parameters: Mapping[str, Tensor]) -> Stacked:
        """Each of these parameters as a tensor of its own, of those that are there."""
        there = [name for name in names if name in parameters]
        tensors = tuple(parameters[name] for name in there)
        return Stacked(tensors, {name: (k, 0, tensors[k].shape[0]) for k, name in enumerate(there)})

    @property
    def layout(self) -> str | None:
        """The names of the parameters in each tensor, as text: "i.x f.x|i.h f.h|bias". None where they do not
        share its rows equally."""
        names: list[str] = []
        for place, tensor in enumerate(self.tensors):
            here = sorted((first, rows, name) for name, (k, first, rows) in self.parts.items() if k == place)
            rows = tensor.shape[0] // max(len(here), 1)
            if [(first, count) for first, count, _ in here] != [(k * rows, rows) for k in range(len(here))]:
                return None
            names.append(" ".join([name for _, _, name in here]))
        return "|".join(names)

    def __getitem__(self, name: str) -> Tensor:
        place, first, rows = self.parts[name]
        return self.tensors[place].narrow(0, first, rows)

    def __contains__(self, name: object) -> bool:
        return name in self.parts

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)
