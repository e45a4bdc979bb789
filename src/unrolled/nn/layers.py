"""One pass over all layers and directions of a stack."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unrolled.nn.masks import Drawing
from unrolled.nn.through_time import scan_in_chunks
from unrolled.nn.watch import watcher
from unrolled.rows import Rows
from unrolled.scan import scan
from unrolled.unroll.policies import Checkpointed, Truncated

if TYPE_CHECKING:
    from unrolled.nn.stack import RecurrentStack


def run_layers(
    stack: RecurrentStack,
    x: Tensor,
    given: Mapping[str, Tensor] | None,
    rows: Rows | None,
    drawing: Drawing | None,
    parameters: Sequence[Mapping[str, Tensor]],
    returning: tuple[str, ...],
    policy: Truncated | Checkpointed | None = None,
) -> tuple[Tensor, dict[str, Tensor], dict[str, list[Tensor]]]:
    """Run all layers on a batch, or on the packed rows of sequences.

    Args:
        parameters: of each layer and direction.
        returning: what is wanted at every step.
        policy: of each layer and direction for itself, for a batch.

    Returns:
        the outputs, the final states of the batch, and values at every step for each layer and direction.
    """
    finals: list[dict[str, Tensor]] = []
    own = stack.regulariser.training if stack.training else stack.regulariser.evaluation
    cell = own if drawing is None else drawing.cell(stack.training)
    output = stack.cell.graph.output
    kept: dict[str, list[Tensor]] = {name: [] for name in returning}
    looking_on = watcher()
    for layer in range(stack.num_layers):
        if layer and stack.batch_norm is not None:
            x = _normal_batch(stack, x, rows, layer)
        if layer and stack.dropout and stack.training:
            if drawing is not None and drawing.masks is not None:
                x = drawing.dropout(x, stack.dropout, len(finals))
            else:
                x = F.dropout(x, stack.dropout)
        outputs = []
        for reverse in map(bool, range(1 + stack.bidirectional)):
            place = len(finals)
            state = {name: value[place] for name, value in given.items()} if given else None
            run: Callable[..., Any] = scan if policy is None else partial(scan_in_chunks, policy=policy)
            if looking_on is not None:
                run = partial(looking_on, stack, place)
            values, final = run(
                cell,
                x,
                state,
                parameters[place],
                rows=rows,
                leaves=None if drawing is None else drawing.leaves(cell, place, reverse),
                returning=(output, *returning) if returning else (),
                reverse=reverse,
                backend=stack.backend,
            )
            for name in kept:
                kept[name].append(values[name])
            outputs.append(values[output] if returning else values)
            finals.append(final)
        x = torch.cat(outputs, -1) if stack.bidirectional else outputs[0]
    # Copies, and of one layer too: programs detach states in place, which a view forbids.
    end = {name: torch.stack([f[name] for f in finals]) for name in stack.cell.states}
    return x, end, kept


def _normal_batch(stack: RecurrentStack, x: Tensor, rows: Rows | None, layer: int) -> Tensor:
    """What a layer reads, normalised over the steps that there are."""
    assert stack.batch_norm is not None
    norm = stack.batch_norm[f"l{layer}"]
    if rows is None or rows.order is None:
        normal: Tensor = norm(x.flatten(0, -2)).view(x.shape)
        return normal
    return rows.unpack(norm(rows.pack(x)))
