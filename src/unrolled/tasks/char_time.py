"""How the gradient of a character model goes through time: what `--bptt` says.

A chunk is what lies between two gradient steps. Its gradient ends where it begins; or it is had in a budget
of memory, from segments of the chunk that run again; or it reaches further back than the chunk, or less far.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unrolled.data import Segments
from unrolled.errors import InputError
from unrolled.nn.stack import RecurrentStack
from unrolled.options import read_call
from unrolled.unroll import Checkpointed, Full, Truncated, through_time
from unrolled.unroll.outputs import in_pieces
from unrolled.unroll.policies import Policy
from unrolled.unroll.tape import detached

State = Mapping[str, Tensor]

FORMS = (
    "a number of steps, truncated(k1=64, k2=256), full(steps=500) or checkpointed(steps=5000, memory=200MB)"
)


def read_bptt(text: str | int) -> tuple[int, Policy]:
    """The steps of a chunk, and how its gradient goes through time, in steps.

    Raises:
        InputError: it is none of `FORMS`.
    """
    if isinstance(text, int):
        return text, Full()
    name, options = read_call(text)
    takes = {
        "truncated": ("k1", "k2"),
        "full": ("steps",),
        "checkpointed": ("steps", "memory", "every", "disk", "folder"),
    }
    if name not in takes:
        raise InputError(f"cannot read --bptt {text!r}; write {FORMS}")
    if unknown := [key for key in options if key not in takes[name]]:
        raise InputError(f"--bptt {name} has no option {unknown[0]!r}; it has {', '.join(takes[name])}")
    values: dict[str, Any] = {
        key: _whole(key, value) if key in ("k1", "k2", "steps", "every") else value
        for key, value in options.items()
    }
    if missing := [key for key in takes[name][: 1 + (name == "truncated")] if key not in values]:
        raise InputError(f"--bptt {name} needs {missing[0]}: write {FORMS}")
    if name == "truncated":
        return values["k1"], Truncated(**values)
    steps = values.pop("steps")
    return steps, Checkpointed(**values) if name == "checkpointed" else Full()


def _whole(key: str, value: str) -> int:
    if not value.isdecimal() or not int(value):
        raise InputError(f"{key} of --bptt must be a whole number of at least 1, got {value!r}")
    return int(value)


def step_of(model: nn.Module) -> Callable[[Any, Any], tuple[Tensor, Any]]:
    """The step of a character model for `through_time`: the cross-entropy in nats of a chunk of tokens and
    targets (T, B), summed over steps and averaged over streams."""

    def step(chunk: tuple[Tensor, Tensor], state: State | None) -> tuple[Tensor, State]:
        inputs, targets = chunk
        logits, after = model(inputs, state)
        return summed_loss(logits, targets), after

    return step


def losses_of(model: nn.Module, chunk: tuple[Tensor, Tensor]) -> Tensor:
    """The cross-entropy in nats of every step and stream of a chunk of tokens and targets (T, B)."""
    inputs, targets = chunk
    logits, _ = model(inputs)
    return F.cross_entropy(logits.movedim(-1, 1), targets, reduction="none")


def losses_on(model: nn.Module, chunk: tuple[Tensor, Tensor, State | None]) -> Tensor:
    """The same of a chunk that goes on from a state."""
    inputs, targets, state = chunk
    return losses_of(cast(nn.Module, partial(model, state=state)), (inputs, targets))


def summed_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """The cross-entropy in nats of logits (T, B, V), summed over steps and averaged over streams."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum") / targets.shape[1]


def in_budget(
    model: nn.Module, inputs: Tensor, targets: Tensor, state: State | None, policy: Checkpointed
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a chunk, whose exact gradient is had in a budget, and the state after it.

    Raises:
        BudgetError: not even single steps fit.
    """

    def attempt(steps: int, each: Checkpointed) -> tuple[Tensor, Any]:
        segments = Segments(inputs, targets, steps=steps)
        return through_time(step_of(model), segments, state, bptt=each)

    T, B = inputs.shape
    loss, after = in_pieces(attempt, T, B, policy)
    return loss, detached(after)


class Reaching:
    """The gradient of a chunk's losses reaches k2 steps back from its end, with the parameters as they are.

    Where that is further than the chunk, what came before it runs again, from the state that was before that.

    Attributes:
        before: tokens and resets (t, B) of the steps before the next chunk that it reaches, and as `start.h`
            and so on the state before these.
    """

    def __init__(self, layer: RecurrentStack, head: nn.Module, reach: int) -> None:
        self.layer, self.head, self.reach = layer, head, reach
        self.before: dict[str, Tensor] = {}

    def __call__(
        self, inputs: Tensor, targets: Tensor, state: State | None, again: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a chunk, and the state after it.

        Args:
            state: before the chunk; None where the sequence begins.
            again: (B,), the streams that begin anew with it.
        """
        steps = len(inputs)
        resets = torch.zeros(inputs.shape, dtype=torch.bool)
        if again is not None:
            resets[0] = again
        if state is None:
            self.before = {}
        start = state or self.layer.initial_state(inputs.shape[1])
        if self.before:
            start = _start(self.before)
            inputs = torch.cat([self.before["tokens"], inputs])
            resets = torch.cat([self.before["resets"], resets])
        # What the next gradient does not reach, or, where they reach less than a chunk, this one.
        further = self.reach > steps
        left = max(len(inputs) - (self.reach - steps), 0) if further else steps - self.reach
        outputs, state = [], start
        if left:
            with torch.set_grad_enabled(further):
                y, state = self.layer(inputs[:left], state, resets=_any(resets[:left]))
                outputs.append(y)
            start = detached(state)
        y, state = self.layer(inputs[left:], state, resets=_any(resets[left:]))
        outputs.append(y)
        if further:
            self.before = {"tokens": inputs[left:], "resets": resets[left:]}
            self.before |= {f"start.{name}": value for name, value in start.items()}
            return summed_loss(self.head(torch.cat(outputs)[-steps:]), targets), detached(state)
        with torch.no_grad():
            unreached = summed_loss(self.head(outputs[0]), targets[:left])
        return unreached + summed_loss(self.head(outputs[1]), targets[left:]), detached(state)


def _start(before: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("start."): value for name, value in before.items() if name.startswith("start.")}


def _any(resets: Tensor) -> Tensor | None:
    return resets if resets.any() else None
