"""Finite automata over 0 and 1: Tomita's seven grammars, and the strings that they accept.

Source: Tomita 1982, "Dynamic construction of finite automata from examples using hill-climbing", CogSci.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import torch
from torch import Tensor


@dataclass(frozen=True)
class Automaton:
    """States from 0, where it begins.

    Attributes:
        name: what it accepts, in words.
        moves: for each state those that follow on 0 and on 1.
        accepting: the states in which a string is accepted.
    """

    name: str
    moves: tuple[tuple[int, int], ...]
    accepting: frozenset[int]

    @cached_property
    def _accepts(self) -> Tensor:
        return torch.tensor([state in self.accepting for state in range(len(self.moves))])

    def classes(self, symbols: Tensor) -> Tensor:
        """Whether each beginning of strings is accepted.

        Args:
            symbols: (T, B), whole numbers 0 or 1.

        Returns:
            bools, (T, B): at t of the symbols up to t.
        """
        moves, state, found = torch.tensor(self.moves), torch.zeros(symbols.shape[1], dtype=torch.long), []
        for now in symbols:
            state = moves[state, now]
            found.append(self._accepts[state])
        return torch.stack(found)

    def accepted(self, length: int, count: int, generator: torch.Generator) -> Tensor | None:
        """Strings drawn from all accepted ones of a length, each as likely: (T, B); None if there is none.

        They are drawn symbol by symbol, each as likely as its share of the endings that are accepted.
        """
        ways = [self._accepts.double()]
        moves = torch.tensor(self.moves)
        for _ in range(length):
            ways.append(ways[-1][moves].sum(1))
        if not ways[-1][0]:
            return None
        state, found = torch.zeros(count, dtype=torch.long), []
        for left in range(length - 1, -1, -1):
            on_zero, on_one = ways[left][moves[state]].unbind(1)
            drawn = torch.rand(count, generator=generator, dtype=torch.float64)
            now = (drawn * (on_zero + on_one) >= on_zero).long()
            state = moves[state, now]
            found.append(now)
        return torch.stack(found)

    def strings(self, length: int, count: int, generator: torch.Generator) -> Tensor:
        """Strings (T, B), in turn an accepted one, if there is any, and one of all."""
        drawn = torch.randint(2, (length, count), generator=generator)
        accepted = self.accepted(length, count, generator)
        if accepted is not None:
            drawn[:, ::2] = accepted[:, ::2]
        return drawn


def one_hot(symbols: Tensor) -> Tensor:
    """Symbols (T, B) as vectors (T, B, 2)."""
    return torch.nn.functional.one_hot(symbols, 2).float()


def _automaton(name: str, moves: Sequence[tuple[int, int]], accepting: Sequence[int]) -> Automaton:
    return Automaton(name, tuple(moves), frozenset(accepting))


TOMITA: Final = (
    _automaton("1*", [(1, 0), (1, 1)], [0]),
    _automaton("(10)*", [(2, 1), (0, 2), (2, 2)], [0]),
    _automaton("after an odd run of 1, even runs of 0", [(0, 1), (2, 0), (3, 4), (2, 1), (4, 4)], [0, 1, 3]),
    _automaton("no 000", [(1, 0), (2, 0), (3, 0), (3, 3)], [0, 1, 2]),
    _automaton("even numbers of 0 and of 1", [(1, 2), (0, 3), (3, 0), (2, 1)], [0]),
    _automaton("as many 0 as 1, modulo 3", [(1, 2), (2, 0), (0, 1)], [0]),
    _automaton("0*1*0*1*", [(0, 1), (2, 1), (2, 3), (4, 3), (4, 4)], [0, 1, 2, 3]),
)
"""The seven, from the first on."""
