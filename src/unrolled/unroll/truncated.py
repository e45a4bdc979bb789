"""Gradients that reach back so far and no further.

After every k1 segments, the gradient of their losses goes back through at most k2 segments. Tapes of the last
k2 are kept, each with a beginning of its own, and a gradient stops where they end. It is had while the
sequence runs, so that no more than k2 segments are in memory, however many there are.

Source: Williams & Peng 1990, doi:10.1162/neco.1990.2.4.490.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from unrolled.errors import InputError
from unrolled.unroll.chain import Chain, Sums, Tape, detached, tensors_of
from unrolled.unroll.policies import Truncated


def truncated(chain: Chain, segments: Iterable[Any], state: Any, policy: Truncated) -> tuple[Tensor, Any]:
    """See `through_time`."""
    begin = tensors_of(state)
    tapes: deque[Tape] = deque(maxlen=policy.k2)
    losses: list[Tensor] = []
    sums, of_begin = Sums(), Sums()
    since, number = 0, -1
    state = detached(state)

    def back() -> None:
        """The gradient of the losses since the last time."""
        d_state: list[Tensor | None] = [None] * len(tensors_of(state))
        for age, tape in enumerate(reversed(tapes)):
            seed = torch.ones_like(tape.loss) if age < since else None
            d_state, found = tape.back(seed, d_state, tape.leaves, keep=True)
            sums.add(tape.leaves, found)
        if len(tapes) == number + 1:  # nothing is cut off
            of_begin.add(begin, d_state)

    for number, segment in enumerate(segments):
        tape, state = Tape.of(chain, number, segment, state)
        tapes.append(tape)
        losses.append(tape.loss.detach())
        since += 1
        if since == policy.k1:
            back()
            since = 0
    if number + 1 < policy.k1:
        raise InputError(f"k1 is {policy.k1}, but there are {number + 1} segments")
    if since:
        back()
    total = torch.stack(losses).sum()
    of_all = sums.values | {key: value for key, value in of_begin.values.items() if value[0].requires_grad}
    if not of_all:
        return total, state
    leaves, gradients = zip(*of_all.values(), strict=True)
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
