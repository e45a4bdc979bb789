"""Gradients that reach back so far and no further.

After every k1 segments, the gradient of what came out of them goes back through at most k2 segments. Each
segment has a tape with a beginning of its own, and a gradient stops where tapes end. That of losses is had
while the sequence runs, so that no more than k2 segments are in memory, however many there are.

Source: Williams & Peng 1990, doi:10.1162/neco.1990.2.4.490.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from unrolled.errors import InputError
from unrolled.unroll.chain import Chain, Losses, Step
from unrolled.unroll.policies import Truncated
from unrolled.unroll.results import results_of
from unrolled.unroll.tape import Sums, Tape, detached, tensors_of


class Window(NamedTuple):
    """The gradient of what comes out from `begin` up to `end`, back to `first`."""

    first: int
    begin: int
    end: int


def windows(count: int, policy: Truncated) -> list[Window]:
    """What a policy means for so many steps; the last window may be shorter.

    Raises:
        InputError: k1 is more than there is.
    """
    k1, k2 = policy.k1, policy.k2
    if count < k1:
        raise InputError(f"k1 is {k1}, but there are {count}")
    ends = [*range(k1, count, k1), count]
    return [Window(max(end - k2, 0), k1 * number, end) for number, end in enumerate(ends)]


class _Back:
    """Goes back through tapes, and adds up what it finds."""

    def __init__(self, start: Sequence[Tensor]) -> None:
        self.start = start
        self.sums = Sums()

    def through(
        self, tapes: Sequence[Tape], chain: Chain, d_outs: Sequence[Tensor | None], begin: int,
        d_end: Sequence[Tensor | None],
    ) -> None:  # fmt: skip
        """The gradient of what came out from the segment `begin` on."""
        d_state = [*d_end]
        for tape in reversed(tapes):
            seeds = chain.upstream(tape.number, d_outs) if tape.number >= begin else [None] * len(tape.outs)
            d_state, of_inputs = tape.back(seeds, d_state, self.sums, keep=True)
            chain.take(tape.number, of_inputs)
        if tapes[0].number == 0:  # nothing is cut off
            self.sums.add(self.start, d_state)


class _Passing(Losses):
    """Segments that come by one after the other."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.segment: Any = None

    def part(self, number: int) -> tuple[Any, list[Tensor]]:
        return self.segment, []


def truncated_losses(
    step: Step, segments: Iterable[Any], state: Any, policy: Truncated
) -> tuple[Tensor, Any]:
    """See `through_time`."""
    chain, back = _Passing(step), _Back(tensors_of(state))
    tapes: deque[Tape] = deque(maxlen=policy.k2)
    losses: list[Tensor] = []
    seed, done = torch.ones(()), 0
    state = detached(state)
    for number, chain.segment in enumerate(segments):
        tape, state = Tape.of(chain, number, state)
        tapes.append(tape)
        losses.append(tape.outs[0].detach())
        if number + 1 == done + policy.k1:
            back.through([*tapes], chain, [seed.to(losses[-1])], done, [None] * len(tape.end))
            done = number + 1
    if len(losses) < policy.k1:
        raise InputError(f"k1 is {policy.k1}, but there are {len(losses)} segments")
    if done < len(losses):
        back.through([*tapes], chain, [seed.to(losses[-1])], done, [None] * len(tapes[-1].end))
    total = torch.stack(losses).sum()
    of_all = [pair for pair in back.sums.values.values() if pair[0].requires_grad]
    if not of_all:
        return total, state
    leaves, gradients = zip(*of_all, strict=True)
    return _Known.apply(total, gradients, *leaves), state  # type: ignore[no-untyped-call]


class _Known(torch.autograd.Function):
    """A number whose gradients are known."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, gradients: tuple[Tensor, ...], *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*gradients)
        return total.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_total: Tensor) -> Any:
        return (None, None, *(d_total * gradient for gradient in ctx.saved_tensors))


def truncated(chain: Chain, state: Any, along: Sequence[Window]) -> tuple[list[Tensor], Any]:
    """What comes out of all segments, and the state behind the last; all tapes are kept.

    Args:
        along: windows of segments.
    """
    cut = _Cut(chain, state, along)
    return results_of(cut, cut.leaves, state)


class _Cut:
    """The forward pass, with a tape of each segment."""

    def __init__(self, chain: Chain, state: Any, along: Sequence[Window]) -> None:
        self.chain, self.along = chain, along
        self.start = tensors_of(state)
        self.tapes: list[Tape] = []
        self.end = detached(state)
        for number in range(chain.count):
            tape, self.end = Tape.of(chain, number, self.end)
            chain.keep(number, tape.outs)
            self.tapes.append(tape)
        self.leaves = [*{id(leaf): leaf for tape in self.tapes for leaf in tape.leaves}.values()]

    def back(self, d_outs: Sequence[Tensor | None], d_end: Sequence[Tensor | None]) -> list[Tensor | None]:
        """See `results.Run`."""
        back = _Back(self.start)
        for window in self.along:
            seeds = d_end if window.end == len(self.tapes) else [None] * len(d_end)
            back.through(self.tapes[window.first : window.end], self.chain, d_outs, window.begin, seeds)
        return [*self.chain.gradients(), *map(back.sums.of, (*self.leaves, *self.start))]
