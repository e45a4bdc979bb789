"""Layers whose gradients go through time as a policy says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from unrolled.cell import Cell
from unrolled.errors import BudgetError, InputError
from unrolled.leaves import Leaves
from unrolled.nn.masks import Batch, Masks, Regulariser
from unrolled.nn.watch import watcher
from unrolled.parameters import Stacked, Untied, tensors_of
from unrolled.rows import Rows
from unrolled.scan import scan
from unrolled.unroll.outputs import in_chunks
from unrolled.unroll.policies import Checkpointed, Full, Truncated, amount, bytes_of, checked_policy

Layers = Callable[..., tuple[Tensor, dict[str, Tensor], dict[str, list[Tensor]]]]
Parameters = Mapping[str, Tensor]


def policy_of(bptt: object) -> Truncated | Checkpointed | None:
    """What a call of a layer asks for, or None if that is to keep everything.

    Raises:
        InputError: it is no policy, or torch.compile looks on.
    """
    policy = checked_policy(bptt)
    if not isinstance(policy, Full) and torch.compiler.is_compiling():
        raise InputError(
            "a layer's bptt is not for torch.compile: compile the step of unrolled.through_time instead"
        )
    if isinstance(policy, Checkpointed) and policy.journal is not None:
        raise InputError("journal is for unrolled.through_time, not for a layer's bptt")
    if isinstance(policy, Full) or not torch.is_grad_enabled() or watcher() is not None:
        return None
    return policy


def with_tensors(parameters: Parameters, tensors: Sequence[Tensor]) -> Parameters:
    """The same parameters in other tensors."""
    if isinstance(parameters, Stacked):
        return Stacked(tuple(tensors), parameters.parts)
    if isinstance(parameters, Untied):
        return Untied(dict(zip(parameters, tensors, strict=True)))
    return dict(zip(parameters, tensors, strict=True))


def part_of(batch: Batch, first: int, end: int) -> Batch:
    """Some steps of a padded batch."""
    rows = batch.rows and Rows.of_batch(
        end - first, (batch.rows.unsort(batch.rows.lengths) - first).clamp(0, end - first)
    )
    resets = None if batch.resets is None else batch.resets[first:end]
    return batch._replace(T=end - first, rows=rows, resets=resets)


def layers_in_chunks(
    layers: Layers,
    regulariser: Regulariser,
    training: bool,
    x: Tensor,
    given: Mapping[str, Tensor],
    batch: Batch,
    masks: Masks | None,
    parameters: Sequence[Parameters],
    policy: Truncated | Checkpointed,
) -> tuple[Tensor, dict[str, Tensor], dict[str, list[Tensor]]]:
    """Run all layers on a chunk of time, then on the next: what `layers` returns of all steps.

    Args:
        layers: `layers(x, given, rows, drawing, parameters)`.
        masks: of these sequences; they go on after the last step.
    """
    counts = [len(tensors_of(each)) for each in parameters]
    names: dict[str, int] = {}

    def chunk(
        first: int, end: int, own: Sequence[Tensor], whole: Sequence[Tensor], state: Any
    ) -> tuple[list[Tensor], Any]:
        here = part_of(batch, first, end)
        carried, masks = state
        drawing = regulariser.drawing(masks, training, here)
        learned = [with_tensors(p, t) for p, t in zip(parameters, _split(whole, counts), strict=True)]
        y, after, values = layers(own[0], carried, here.rows, drawing, learned)
        if masks is not None and drawing is not None:
            drawing.finish()
        names.update((name, len(found)) for name, found in values.items())
        return [y, *(value for found in values.values() for value in found)], (after, masks)

    whole = [t for each in parameters for t in tensors_of(each)]
    (y, *rest), (end, after) = in_chunks(chunk, [x], whole, (dict(given), masks), policy)
    if masks is not None:
        masks.step, masks.sequences = after.step, after.sequences
    return y, end, dict(zip(names, _split(rest, [*names.values()]), strict=True))


def scan_in_chunks(
    cell: Cell,
    x: Tensor,
    state: Mapping[str, Tensor] | None,
    parameters: Parameters,
    policy: Truncated | Checkpointed,
    *,
    rows: Rows | None,
    leaves: Leaves | None,
    returning: Sequence[str],
    reverse: bool,
    backend: str,
) -> tuple[Any, dict[str, Tensor]]:
    """See `unrolled.scan.scan`: the same chunk by chunk, for a padded batch."""
    T, B = x.shape[:2]
    learned = tensors_of(parameters)
    untied = isinstance(parameters, Untied)
    whole_batch = Batch(T, B, rows=rows)

    def chunk(
        first: int, end: int, own: Sequence[Tensor], whole: Sequence[Tensor], state: Any
    ) -> tuple[list[Tensor], Any]:
        found, after = scan(
            cell,
            own[0],
            state,
            with_tensors(parameters, own[1:] if untied else whole),
            rows=part_of(whole_batch, first, end).rows,
            leaves=leaves and leaves.packed(slice(first * B, end * B)),
            returning=returning,
            reverse=reverse,
            backend=backend,
        )
        return [found[name] for name in returning] if returning else [found], after

    own, whole = ([x, *learned], []) if untied else ([x], learned)
    found, end = in_chunks(chunk, own, whole, dict(state or {}), policy, reverse)
    return dict(zip(returning, found, strict=True)) if returning else found[0], end


def share(policy: Truncated | Checkpointed, places: int, between: int) -> Truncated | Checkpointed:
    """The policy of each of some scans, between which there is so much in memory, in bytes.

    Raises:
        BudgetError: that alone is more than the budget.
    """
    if not isinstance(policy, Checkpointed) or policy.memory is None:
        return policy
    memory = bytes_of(policy.memory)
    if memory <= between:
        raise BudgetError(
            f"a budget of {amount(memory)} is too small: what layers hand on takes {amount(between)} alone, "
            "and a layer that reads backwards needs all of it"
        )
    return replace(policy, memory=(memory - between) // places)


def _split(tensors: Sequence[Tensor], counts: Sequence[int]) -> list[list[Tensor]]:
    rest = iter(tensors)
    return [[next(rest) for _ in range(count)] for count in counts]
