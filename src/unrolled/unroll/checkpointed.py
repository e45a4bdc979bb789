"""Exact gradients from stored states, between which segments run again.

The forward pass stores states and ends with the tapes of the last segments; the way back begins with those,
and goes on as the schedule says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from unrolled.errors import InputError
from unrolled.unroll.chain import Chain
from unrolled.unroll.footprint import Holes, measured, planned_for
from unrolled.unroll.policies import Checkpointed, bytes_of
from unrolled.unroll.schedule import Action, spaced
from unrolled.unroll.stored import Stored
from unrolled.unroll.tape import Sums, Tape, detached


class Run:
    """The forward pass, and what is left of it for the way back."""

    def __init__(self, chain: Chain, state: Any, policy: Checkpointed) -> None:
        self.chain = chain
        self.casting = _casting()
        self.tapes: list[Tape] = []
        self.state = detached(state)
        self.start = self.state, torch.get_rng_state()
        self.known = {id(t): t for t in chain.shared}
        self.forwards_done = self.done = False
        self._begun: tuple[Tape, Any] | None = None
        self._holes = Holes(0 if policy.memory is None else bytes_of(policy.memory))
        self.d_state: list[Tensor | None] = []
        self.sums = Sums()
        self.actions = self._actions(policy)
        self._go_forwards()

    def _go_forwards(self) -> None:
        for action in self.actions:
            self._do(action)
            if action.kind == "tape":
                break
        self.end, self.forwards_done = self.state, True

    def _actions(self, policy: Checkpointed) -> Iterator[Action]:
        """What to do, for single segments; a budget is shared out by what the first takes."""
        count = self.chain.count
        if policy.every is not None:
            self.stored = Stored(-(-count // policy.every) - 1, self.start[1])
            return spaced(count, policy.every)
        footprint, tape, after = measured(self.chain, self.state)
        self._begun = tape, after
        planned = planned_for(count, footprint, policy)
        self._holes.tape = footprint.tape
        self.stored = Stored(planned.schedule.stored, self.start[1], planned.folder)
        return planned.actions()

    def _know(self, tape: Tape) -> None:
        """Take note of the parameters of a tape; on the way back there can be no new ones."""
        for leaf in tape.leaves:
            if id(leaf) not in self.known and self.forwards_done:
                raise InputError(
                    f"segment {tape.number} depends on a parameter of shape {tuple(leaf.shape)} that neither "
                    "the first segment nor the last ones depend on: with Checkpointed all must"
                )
            self.known.setdefault(id(leaf), leaf)

    def _do(self, action: Action) -> None:
        if action.kind == "load":
            self.state, random = self.stored.get(action.first) if action.first else self.start
            torch.set_rng_state(random)
        elif action.kind == "store":
            self.stored.put(action.first, self.state, torch.get_rng_state())
        elif action.kind == "back":
            if action.first:
                self.stored.drop(action.first)
        else:
            for number in range(action.first, action.end):
                self._segment(number, action.kind == "tape")

    def _segment(self, number: int, taped: bool) -> None:
        begun, self._begun = self._begun, None
        if taped or begun:
            self._holes.turn()
            tape, after = begun or Tape.of(self.chain, number, self.state)
            self._know(tape)
            if taped:
                self.tapes.append(tape)
            outs = tape.outs
        else:
            segment, _ = self.chain.part(number)
            with torch.no_grad():
                outs, after = self.chain.run(number, segment, detached(self.state))
        self.state = detached(after)
        self.chain.keep(number, outs)

    def back(self, d_outs: Sequence[Tensor | None], d_end: Sequence[Tensor | None]) -> list[Tensor | None]:
        """See `results.Run`."""
        if self.done:
            raise InputError("the gradient of what is checkpointed can be had once: what it needed is gone")
        self.d_state = list(d_end)
        self._go_back(d_outs)
        found = [*self.chain.gradients(), *map(self.sums.of, self.known.values()), *self.d_state]
        self.done = True
        del self.stored, self.sums, self.d_state  # autograd copies what somebody else holds
        return found

    def _go_back(self, d_outs: Sequence[Tensor | None]) -> None:
        random = torch.get_rng_state()
        with self.casting():
            while True:
                while self.tapes:
                    tape = self.tapes.pop()
                    upstream = self.chain.upstream(tape.number, d_outs)
                    self.d_state, of_inputs = tape.back(upstream, self.d_state, self.sums)
                    self.chain.take(tape.number, of_inputs)
                    del tape, upstream, of_inputs
                    self._holes.turn()
                for action in self.actions:
                    self._do(action)
                    if action.kind == "tape":
                        break
                else:
                    break
        torch.set_rng_state(random)


def _casting() -> Any:
    """What enters autocast as it is now."""
    kind = torch.get_autocast_dtype("cpu")
    enabled, cached = torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled()
    return lambda: torch.autocast("cpu", kind, enabled, cached)
