"""The loss of a whole sequence, to be differentiated, from a step that computes that of a segment."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from unrolled.errors import InputError
from unrolled.unroll.chain import Losses, Step, run_step
from unrolled.unroll.checkpointed import Run
from unrolled.unroll.noted import Noted
from unrolled.unroll.policies import Full, Policy, Truncated, checked_policy
from unrolled.unroll.results import results_of
from unrolled.unroll.truncated import truncated_losses


def through_time(
    step: Step, segments: Iterable[Any], state: Any = None, *, bptt: Policy | None = None
) -> tuple[Tensor, Any]:
    """The sum of the losses of a sequence's segments, to be differentiated, and the state behind them.

        def step(chunk, state):
            tokens, targets = chunk
            y, state = layer(embedding(tokens), state)
            return cross_entropy(head(y).flatten(0, 1), targets.flatten(), reduction="sum"), state

        loss, state = through_time(step, chunks, state, bptt=Checkpointed(memory="200MB"))
        loss.backward()

    What is large, such as logits, belongs into the step: then there is one segment of it at a time. Hooks on
    parameters see one gradient, that of all segments.

    Args:
        step: `loss, state = step(segment, state)`; the loss is one number. What it computes may depend on
            these two, on parameters, and on torch's generator. It may run more than once for a segment.
        segments: what the step is given, in order: chunks of time, or single steps. One that is a sequence,
            such as `unrolled.data.Segments`, is asked for each when it runs, and `Checkpointed` keeps none.
        state: before the first segment: tensors, in tuples, lists, dicts or masks of a layer.
        bptt: `Full()`, `Truncated(k1, k2)` or `Checkpointed(memory)`: which gradient, in how much memory.

    Raises:
        InputError: a step gives something else, nothing fits the budget, or a step that runs again gives
            another loss than before.
    """
    bptt = checked_policy(bptt)
    if isinstance(bptt, Full) or not torch.is_grad_enabled():
        losses = []
        for number, segment in enumerate(segments):
            (loss,), state = run_step(step, number, segment, state)
            losses.append(loss)
        if not losses:
            raise InputError("there are no segments")
        return torch.stack(losses).sum(), state
    if isinstance(bptt, Truncated):
        return truncated_losses(step, segments, state, bptt)
    kind = Run if bptt.journal is None else Noted
    run = kind(Losses(step, segments), state, bptt)
    (total,), state = results_of(run, run.known.values(), state)
    return total, state
