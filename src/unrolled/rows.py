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

States = Mapping[str, Tensor]


ROUND: Final = 16
"""Plans are made for round numbers, so that the next batch finds one."""


def rounded(number: int, to: int = ROUND) -> int:
    return -(-number // to) * to


def room(T: int, B: int, steps: int) -> int:
    """The rows that are planned for."""
    return rounded(steps, rounded(T * B) // ROUND)


class Rows:
    """Some sequences, the longest first.

    Args:
        lengths: how many steps each has, none or more; (B,) whole numbers that do not rise.
        offsets: (T + 2,): each step's first row, and twice the number of all; computed if not given. There
            may be more steps than the longest has; they have no rows.
        steps: those of all sequences together, where offsets are not to be looked at.
    """

    def __init__(self, lengths: Tensor, offsets: Tensor | None = None, steps: int | None = None) -> None:
        self._steps = steps
        if offsets is not None:
            self.lengths, self.offsets = lengths, offsets
            return
        with torch.inference_mode(False):
            self.lengths = lengths.detach().to("cpu", torch.long, copy=True)
            counts = torch.bincount(self.lengths).flip(0).cumsum(0).flip(0)[1:]  # those longer than t
            end = self.lengths.sum().view(1)
            nothing = end.expand(rounded(len(counts)) - len(counts) + 1)
            self.offsets = torch.cat((counts.new_zeros(1), counts.cumsum(0), nothing))

    @property
    def T(self) -> int:
        """Steps, at least those of the longest."""
        return self.offsets.shape[0] - 2  # a symbol where a graph is made, which len() is not

    @property
    def B(self) -> int:
        return self.lengths.shape[0]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What kernels read of it, by name."""
        return {"offsets": self.offsets, "lengths": self.lengths}

    @cached_property
    def places(self) -> list[int]:
        """`offsets` as numbers."""
        return [int(k) for k in self.offsets]

    @property
    def steps(self) -> int:
        """The steps of all sequences together."""
        return self.places[-1] if self._steps is None else self._steps

    @property
    def sequence_of_row(self) -> Tensor:
        """Which sequence each packed row is of, (N,)."""
        row = torch.arange(self.steps)
        return row - self.offsets[torch.searchsorted(self.offsets, row, right=True) - 1]

    @property
    def _there(self) -> Tensor:
        """(T, B): which steps each sequence has."""
        return torch.arange(self.T)[:, None] < self.lengths

    def index(self, T: int, B: int, first: Tensor | None = None, sequence: Tensor | None = None) -> Tensor:
        """Where the packed rows are in the rows of (T, B, ...).

        Args:
            first: the step there at which each of these sequences begins; 0 if not given.
            sequence: the column there of each; in order if not given.
        """
        t = torch.arange(self.T)[:, None]
        first = torch.zeros_like(self.lengths) if first is None else first
        sequence = torch.arange(self.B) if sequence is None else sequence
        return ((first + t) * B + sequence)[self._there]

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


def _rows(states: States, first: int, end: int) -> States:
    if all(len(value) == end - first for value in states.values()):
        return states
    return {name: value[first:end] for name, value in states.items()}


def _joined(parts: list[States]) -> dict[str, Tensor]:
    if len(parts) == 1:
        return dict(parts[0])
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
