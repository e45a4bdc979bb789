"""Learned tensors by name: those that every step has in common, and those that each step has for itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from torch import Tensor

EACH: Final = "each step: "
"""Before a layout, as text: every step has its own."""


def tensors_of(parameters: Mapping[str, Tensor]) -> list[Tensor]:
    """The tensors that parameters are in."""
    if isinstance(parameters, Stacked):
        return [*parameters.tensors]
    return [*(parameters.tensors if isinstance(parameters, Untied) else parameters).values()]


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


class Untied(Mapping[str, Tensor]):
    """Parameters of which every step has its own, as the layers of a deep network have. By name one finds
    those of the first step, which tell the shapes.

    Attributes:
        tensors: by name, each with the steps as its first axis.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors

    @property
    def layout(self) -> str:
        """The names of the parameters in each tensor, as text: "each step: f.h|f.bias"."""
        return EACH + "|".join(self.tensors)

    def each(self) -> list[dict[str, Tensor]]:
        """The parameters of every step."""
        unbound = [value.unbind() for value in self.tensors.values()]
        return [dict(zip(self.tensors, values, strict=True)) for values in zip(*unbound, strict=True)]

    def at(self, t: int) -> dict[str, Tensor]:
        """The parameters of one step."""
        return {name: value[t] for name, value in self.tensors.items()}

    def map(self, change: Callable[[Tensor], Tensor]) -> Untied:
        """Those that `change` makes of the tensors."""
        return Untied({name: change(value) for name, value in self.tensors.items()})

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name][0]

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)
