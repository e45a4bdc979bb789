"""Chunks of time that hand on values at every step, for layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Final, TypeVar

import torch
from torch import Tensor

from unrolled.errors import BudgetError
from unrolled.unroll.chain import check_same
from unrolled.unroll.checkpointed import Run
from unrolled.unroll.policies import Checkpointed, Truncated
from unrolled.unroll.results import results_of
from unrolled.unroll.truncated import Window, truncated, windows

R = TypeVar("R")

Chunk = Callable[[int, int, Sequence[Tensor], Sequence[Tensor], Any], tuple[list[Tensor], Any]]
"""`chunk(first, end, own, whole, state)`: the values of the steps from `first` to `end`, the first axis time,
and the state behind them, from what these steps have for themselves, tensors that all chunks share, and the
state before them."""

ROWS: Final = 512
"""Rows of a chunk, at least, if memory lets them: fewer would not be worth a call."""

FINE: Final = 256
"""Chunks of a sequence, at most, beyond that."""


class Outputs:
    """A sequence cut into chunks.

    Args:
        own: what each step has for itself, (T, ...), such as x; whole: what all chunks share. Both may learn.
        edges: where chunks begin, and T.
        reverse: the last chunk comes first.
    """

    def __init__(
        self,
        chunk: Chunk,
        own: Sequence[Tensor],
        whole: Sequence[Tensor],
        edges: Sequence[int],
        reverse: bool,
    ) -> None:
        self.chunk = self.maker = chunk
        self.own = own
        self.spans = [*pairwise(edges)][:: -1 if reverse else 1]
        self.count = len(self.spans)
        self.inputs = [t for t in own if t.requires_grad]
        self.whole = [t.detach().requires_grad_(t.requires_grad) for t in whole]
        self.shared = [t for t in self.whole if t.requires_grad]
        self._behind = {id(t): outer for t, outer in zip(self.whole, whole, strict=True)}
        self._values: list[Tensor] = []
        self._last: list[Tensor] = []  # the norm of what came out at the last step of each chunk
        self._d_own: list[Tensor] = []

    def behind(self, leaf: Tensor) -> Tensor:
        return self._behind.get(id(leaf), leaf)

    def part(self, number: int) -> tuple[Any, list[Tensor]]:
        first, end = self.spans[number]
        parts = [t[first:end].detach().requires_grad_(t.requires_grad) for t in self.own]
        return parts, [t for t in parts if t.requires_grad]

    def run(self, number: int, segment: Any, state: Any) -> tuple[list[Tensor], Any]:
        return self.chunk(*self.spans[number], segment, self.whole, state)

    def keep(self, number: int, outs: Sequence[Tensor]) -> None:
        first, end = self.spans[number]
        last = outs[0].detach()[-1].norm()
        if number < len(self._last):
            check_same(f"the norm of what comes out at step {end - 1}", self._last[number], last)
            return
        if not number:
            self._values = [out.new_empty(len(self.own[0]), *out.shape[1:]) for out in outs]
        for values, out in zip(self._values, outs, strict=True):
            values[first:end] = out.detach()
        self._last.append(last)

    def outs(self) -> list[Tensor]:
        values, self._values = self._values, []
        return values

    def upstream(self, number: int, d_outs: Sequence[Tensor | None]) -> list[Tensor | None]:
        first, end = self.spans[number]
        return [None if d is None else d[first:end] for d in d_outs]

    def take(self, number: int, gradients: Sequence[Tensor | None]) -> None:
        first, end = self.spans[number]
        self._d_own = self._d_own or [torch.zeros_like(t) for t in self.inputs]
        for whole, d in zip(self._d_own, gradients, strict=True):
            if d is not None:
                whole[first:end] += d

    def gradients(self) -> list[Tensor | None]:
        found, self._d_own = self._d_own, []  # autograd copies what somebody else holds
        return [*found] if found else [None] * len(self.inputs)


def in_pieces(attempt: Callable[[int, Checkpointed], R], T: int, B: int, policy: Checkpointed) -> R:
    """`attempt(steps, policy)` in pieces of so many steps: those that the policy says, or those that are
    worth a call, or as many as the budget has room for.

    Args:
        attempt: takes a policy for pieces.
        policy: for steps.

    Raises:
        BudgetError: there is no room even for single steps.
    """
    if policy.every is not None:
        return attempt(policy.every, Checkpointed(every=1))
    steps = min(max(-(-T // FINE), -(-ROWS // max(B, 1))), T)
    while True:
        try:
            return attempt(steps, policy)
        except BudgetError:
            if steps <= 1:
                raise
            steps //= 2


def in_chunks(
    chunk: Chunk,
    own: Sequence[Tensor],
    whole: Sequence[Tensor],
    state: Any,
    policy: Truncated | Checkpointed,
    reverse: bool = False,
) -> tuple[list[Tensor], Any]:
    """The values of all steps and the state behind the last, with gradients as the policy says, in steps.

    Raises:
        BudgetError: the budget is too small even for chunks of one step.
        InputError: k1 is more steps than there are.
    """
    T, B = own[0].shape[:2]

    def turned(edges: list[int]) -> list[int]:
        return [T - step for step in reversed(edges)] if reverse else edges

    if isinstance(policy, Truncated):
        along = windows(T, policy)
        edges = sorted({0, *(step for window in along for step in window)})
        steps = [Window(*map(edges.index, window)) for window in along]
        return truncated(Outputs(chunk, own, whole, turned(edges), reverse), state, steps)

    def attempt(steps: int, each: Checkpointed) -> tuple[list[Tensor], Any]:
        chain = Outputs(chunk, own, whole, turned([*range(0, T, steps), T]), reverse)
        run = Run(chain, state, each)
        return results_of(run, run.known.values(), state)

    return in_pieces(attempt, T, B, policy)
