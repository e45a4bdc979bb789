"""Exact gradients from stored states, between which segments run again.

The forward pass stores states and ends with the tapes of the last segments; the way back begins with those,
and goes on as the schedule says. To autograd it is one function of the parameters and the first state: hooks
fire once, and what comes after the loss may be anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks

from unrolled.errors import InputError
from unrolled.unroll.chain import Chain, Sums, Tape, detached, tensors_of, with_tensors
from unrolled.unroll.policies import Checkpointed, bytes_of
from unrolled.unroll.schedule import Action, Budget, Schedule, spaced

FINEST: Final = 256
"""Groups of segments that a schedule tells apart, at most."""

SAME: Final = {torch.float64: 1e-10}
"""How near, relatively, the loss of a segment that runs again must come; in other precisions 1e-4."""


def checkpointed(
    chain: Chain, segments: Iterable[Any], state: Any, policy: Checkpointed
) -> tuple[Tensor, Any]:
    """See `through_time`."""
    run = _Run(chain, [*segments], state, policy)
    total, *end = _Replayed.apply(run, *run.leaves, *tensors_of(state))  # type: ignore[no-untyped-call]
    return total, with_tensors(run.end, end)


class _Run:
    """The forward pass, and what is left of it for the way back."""

    def __init__(self, chain: Chain, segments: Sequence[Any], state: Any, policy: Checkpointed) -> None:
        if not segments:
            raise InputError("there are no segments")
        self.chain, self.segments = chain, segments
        self.casting = _casting()
        self.losses: list[Tensor] = []
        self.tapes: list[Tape] = []
        self.stored = {0: (detached(state), torch.get_rng_state())}
        self.state = self.stored[0][0]
        self.known: dict[int, Tensor] = {}
        self.forwards_done = False
        self.actions = self._actions(policy)
        for action in self.actions:
            self._do(action)
            if action.kind == "tape":
                break
        self.end, self.forwards_done = self.state, True

    @property
    def leaves(self) -> list[Tensor]:
        """The parameters that segments depend on."""
        return list(self.known.values())

    def _actions(self, policy: Checkpointed) -> Iterator[Action]:
        """What to do, for single segments; a budget is shared out by what the first takes."""
        count = len(self.segments)
        if policy.every is not None:
            return spaced(count, policy.every)
        state, tape = self._sizes()
        group = -(-count // FINEST)
        budget = Budget(bytes_of(policy.memory or 0), state, tape * group)
        actions = Schedule(-(-count // group), budget).actions()
        return (Action(a.kind, a.first * group, min(a.end * group, count)) for a in actions)

    def _sizes(self) -> tuple[int, int]:
        """The bytes of a stored state and of a tape, by those of the first segment, which runs once more."""
        taken: dict[int, int] = {}

        def count(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            taken[storage.data_ptr()] = storage.nbytes()
            return tensor.detach()  # an output that kept its own history would never be let go of

        with saved_tensors_hooks(count, lambda tensor: tensor):
            tape, after = Tape.of(self.chain, 0, self.segments[0], self.state)
        torch.set_rng_state(self.stored[0][1])
        self._know(0, tape)
        for tensor in (*tape.leaves, *tape.start):
            taken.pop(tensor.untyped_storage().data_ptr(), None)
        state = sum(t.untyped_storage().nbytes() for t in tensors_of(after))
        return state + self.stored[0][1].nbytes, sum(taken.values())

    def _know(self, number: int, tape: Tape) -> None:
        """Take note of the parameters of a tape; on the way back there can be no new ones."""
        for leaf in tape.leaves:
            if id(leaf) not in self.known and self.forwards_done:
                raise InputError(
                    f"segment {number} depends on a parameter of shape {tuple(leaf.shape)} that neither the "
                    "first segment nor the last ones depend on: with Checkpointed all must"
                )
            self.known.setdefault(id(leaf), leaf)

    def _do(self, action: Action) -> None:
        if action.kind == "load":
            self.state, random = self.stored[action.first]
            torch.set_rng_state(random)
        elif action.kind == "store":
            self.stored[action.first] = self.state, torch.get_rng_state()
        else:
            for number in range(action.first, action.end):
                self._segment(number, action.kind == "tape")

    def _segment(self, number: int, taped: bool) -> None:
        if taped:
            tape, self.state = Tape.of(self.chain, number, self.segments[number], self.state)
            self._know(number, tape)
            self.tapes.append(tape)
            loss = tape.loss.detach()
        else:
            with torch.no_grad():
                loss, after = self.chain.run(number, self.segments[number], detached(self.state))
            self.state = detached(after)
        if number == len(self.losses):
            self.losses.append(loss.clone())
        elif not _same(self.losses[number], loss):
            before, now = float(self.losses[number]), float(loss)
            raise InputError(
                f"the loss of segment {number} was {before:.9g}, but {now:.9g} when it ran again: what a "
                "step computes may depend on nothing but its segment, its state, parameters and torch's "
                "generator (masks of a layer belong into the state)"
            )

    def back(
        self, d_total: Tensor | None, d_end: Sequence[Tensor | None]
    ) -> tuple[list[Tensor | None], list[Tensor | None]]:
        """The gradients of the leaves and of the first state, from those of the loss and the last state."""
        if not self.stored:
            raise InputError(
                "the gradient of a checkpointed loss can be had once: what it needed is let go of"
            )
        leaves, d_state = self.leaves, list(d_end)
        sums = Sums()
        random = torch.get_rng_state()
        with self.casting():
            while True:
                while self.tapes:
                    d_state, found = self.tapes.pop().back(d_total, d_state, leaves)
                    sums.add(leaves, found)
                for action in self.actions:
                    if action.kind == "back":
                        del self.stored[action.first]
                        continue
                    self._do(action)
                    if action.kind == "tape":
                        break
                else:
                    break
        torch.set_rng_state(random)
        return [*map(sums.of, leaves)], d_state


class _Replayed(torch.autograd.Function):
    """The loss and the last state as a function of parameters and the first state."""

    @staticmethod
    def forward(ctx: Any, run: _Run, *tensors: Tensor) -> Any:
        ctx.run = run
        ctx.set_materialize_grads(False)
        given = {t.untyped_storage().data_ptr() for t in tensors}
        # What is returned gets a history that holds the run, so the run may not hold it.
        end = [
            t.clone() if t.untyped_storage().data_ptr() in given else t.detach() for t in tensors_of(run.end)
        ]
        ctx.mark_non_differentiable(*(t for t in end if not t.is_floating_point()))
        return (torch.stack(run.losses).sum(), *end)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_total: Tensor | None, *d_end: Tensor | None) -> Any:
        of_leaves, of_start = ctx.run.back(d_total, d_end)
        return (None, *of_leaves, *of_start)


def _same(before: Tensor, now: Tensor) -> bool:
    a, b = float(before), float(now)
    near = SAME.get(before.dtype, 1e-4)
    return math.isclose(a, b, rel_tol=near, abs_tol=near) or (math.isnan(a) and math.isnan(b)) or a == b


def _casting() -> Any:
    """What enters autocast as it is now."""
    kind = torch.get_autocast_dtype("cpu")
    enabled, cached = torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled()
    return lambda: torch.autocast("cpu", kind, enabled, cached)
