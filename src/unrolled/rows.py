"""Sequences of different lengths: which of them have which steps.

Sequences are sorted, the longest first, and their rows lie packed: those of step 0, then those of step 1, and
so on. The rows of a step are then the first ones of the step before, in whichever direction one goes, and a
step that few sequences have costs as much as these few.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Final

import torch
from torch import Tensor

from unrolled.errors import InputError

States = Mapping[str, Tensor]


ROUND: Final = 16
"""Plans are made for round numbers, so that the next batch finds one."""


def rounded(number: int, to: int = ROUND) -> int:
    return -(-number // to) * to


def check_steps(lengths: Tensor, T: int) -> None:
    """
    Raises:
        InputError: a length is not from 0 to T.
    """
    low, high = map(int, lengths.aminmax()) if len(lengths) else (0, 0)
    if low < 0 or high > T:
        raise InputError(f"lengths go from 0 to {T}, the steps of x, but one is {low if low < 0 else high}")


def room(T: int, B: int, steps: int) -> int:
    """The rows that are planned for."""
    return rounded(steps, rounded(T * B) // ROUND)


class Rows:
    """Some sequences, the longest first.

    Args:
        lengths: how many steps each has, none or more; (B,) whole numbers that do not rise.
        offsets: (T + 2,): each step's first row, and twice the number of all; computed if not given. There
            may be more steps than the longest has; they have no rows.
        order: the column of each sequence in a padded batch (T, B, ...), where what goes in and comes out is
            such a batch; without it, that is packed rows.
        steps: those of all sequences together, where offsets are not to be looked at.
    """

    def __init__(
        self,
        lengths: Tensor,
        offsets: Tensor | None = None,
        order: Tensor | None = None,
        steps: int | None = None,
    ) -> None:
        self.order = order
        self._steps = steps
        if offsets is not None:
            self.lengths, self.offsets = lengths, offsets
            return
        with torch.inference_mode(False):
            self.lengths = lengths.detach().to("cpu", torch.long, copy=True)
            self.offsets = _offsets(self.lengths, rounded(int(self.lengths[0])))

    @staticmethod
    def of_batch(T: int, lengths: Tensor) -> Rows:
        """The sequences of a padded batch of T steps, from their lengths in any order."""
        lengths, order = lengths.detach().to("cpu", torch.long).sort(descending=True, stable=True)
        return Rows(lengths, _offsets(lengths, T), order)

    @property
    def T(self) -> int:
        """Steps, at least those of the longest."""
        return self.offsets.shape[0] - 2  # a symbol where a graph is made, which len() is not

    @property
    def B(self) -> int:
        return self.lengths.shape[0]

    def check(self, x: Tensor) -> None:
        """
        Raises:
            InputError: x has not these sequences.
        """
        if self.order is None and x.shape[0] != self.steps:
            raise InputError(f"x has {x.shape[0]} rows, but its sequences have {self.steps} steps together")
        if self.order is not None and x.shape[:2] != (self.T, self.B):
            raise InputError(
                f"x has shape {tuple(x.shape)}, but its sequences are padded to ({self.T}, {self.B})"
            )

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """What kernels read of it, by name."""
        order = torch.arange(self.B) if self.order is None else self.order
        return {"offsets": self.offsets, "lengths": self.lengths, "order": order}

    @cached_property
    def places(self) -> list[int]:
        """`offsets` as numbers."""
        found: list[int] = self.offsets.tolist()
        return found

    @property
    def steps(self) -> int:
        """The steps of all sequences together."""
        if self._steps is None:
            self._steps = int(self.offsets[-1])
        return self._steps

    @cached_property
    def room(self) -> int:
        """The rows that are planned for."""
        return room(self.T, self.B, self.steps)

    @cached_property
    def index(self) -> Tensor:
        """Where the packed rows are in the rows of a padded batch."""
        return self.index_in(self.T, self.B, self.order)

    def index_in(self, T: int, B: int, order: Tensor | None = None) -> Tensor:
        """Where the packed rows are in the rows of (T, B, ...).

        Args:
            order: the column there of each sequence; in order if not given.
        """
        t = torch.arange(self.T)[:, None]
        order = torch.arange(self.B) if order is None else order
        return (t * B + order)[t < self.lengths]

    def pack(self, batch: Tensor) -> Tensor:
        """The packed rows (N, ...) of a padded batch (T, B, ...)."""
        return batch.flatten(0, 1).index_select(0, self.index.to(batch.device))

    def unpack(self, rows: Tensor) -> Tensor:
        """The padded batch of packed rows, and 0 where there is none."""
        whole = rows.new_zeros(self.T * self.B, *rows.shape[1:])
        return whole.index_copy(0, self.index.to(rows.device), rows).view(self.T, self.B, *rows.shape[1:])

    @property
    def there(self) -> Tensor:
        """Where a padded batch has steps: bools (T, B)."""
        return torch.arange(self.T)[:, None] < self.unsort(self.lengths)

    def blank(self, batch: Tensor) -> Tensor:
        """A padded batch (T, B, ...), and 0 where there is no step."""
        there = self.there.to(batch.device)
        return batch.masked_fill(~(there if batch.ndim == 2 else there[..., None]), 0)

    def sort(self, states: Tensor) -> Tensor:
        """States in the order of a padded batch (B, W) in that of the rows."""
        assert self.order is not None
        return states.index_select(0, self.order.to(states.device))

    def unsort(self, states: Tensor) -> Tensor:
        """Back from `sort`."""
        assert self.order is not None
        return torch.empty_like(states).index_copy(0, self.order.to(states.device), states)

    def walk(
        self, start: States, reverse: bool, step: Callable[[int, int, int, States], tuple[States, Any]]
    ) -> tuple[list[Any], dict[str, Tensor]]:
        """Take all steps, each with the rows that it has.

        Args:
            start: the states of all sequences before their first steps.
            step: `step(t, first, end, states)` returns the new states and whatever is kept of a step, whose
                rows are those from `first` to `end`.

        Returns:
            what was kept, in the order of time, and the states of all sequences after their last steps.
        """
        kept: list[Any] = []
        ended: list[States] = []
        states = _rows(start, 0, 0) if reverse else start
        have = 0 if reverse else self.B
        for t in reversed(range(self.T)) if reverse else range(self.T):
            first, end = self.places[t], self.places[t + 1]
            count = end - first
            if not count:
                continue
            if count < have:
                ended.append(_rows(states, count, have))
                states = _rows(states, 0, count)
            elif count > have:
                fresh = _rows(start, have, count)
                states = _joined([states, fresh]) if have else fresh
            have = count
            states, value = step(t, first, end, states)
            kept.append(value)
        if reverse and have < self.B:
            ended.append(_rows(start, have, self.B))
        return kept[::-1] if reverse else kept, _joined([states, *reversed(ended)])


def _offsets(lengths: Tensor, T: int) -> Tensor:
    """Each step's first row, up to T, and once more what is at T: sums of how many sequences are longer."""
    counts = torch.searchsorted(-lengths, torch.arange(1, -T - 1, -1))  # first of those longer than -1: all
    return counts.cumsum(0) - lengths.shape[0]


def _rows(states: States, first: int, end: int) -> States:
    if all(len(value) == end - first for value in states.values()):
        return states
    return {name: value[first:end] for name, value in states.items()}


def _joined(parts: list[States]) -> dict[str, Tensor]:
    if len(parts) == 1:
        return dict(parts[0])
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
