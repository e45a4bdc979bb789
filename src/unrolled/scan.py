"""Run one cell over one sequence.

This is the only place that loops over time. The reference backend calls the cell's own equations on tensors,
step by step, and autograd does the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from unrolled.cell import Cell
from unrolled.errors import InputError

BACKENDS: Final = ("auto", "reference")


def scan(
    cell: Cell,
    x: Tensor,
    state: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
    *,
    reverse: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, dict[str, Tensor]]:
    """Apply a cell at every step of a sequence, with the same parameters.

    Args:
        cell: a cell of one input.
        x: (T, B, D) of floats, or (T, B) of token numbers, each standing for a one-hot vector of width D.
        state: the initial states by name, each (B, H).
        parameters: the cell's learned tensors by name.
        reverse: run from the last step to the first; outputs stay in the order of x.
        backend: "auto", or "reference" for the plain PyTorch loop.

    Returns:
        the outputs (T, B, H): the cell's first output at every step, or else its first state; and the states
        after the last step run, by name.

    Raises:
        InputError: an unknown backend.
    """
    if backend not in BACKENDS:
        raise InputError(f"no backend {backend!r}; there are {', '.join(BACKENDS)}")
    if len(cell.inputs) != 1:
        raise InputError(f"a scan feeds a cell one input, but {cell.name!r} takes {cell.inputs or 'none'}")
    if missing := [key for key in cell.states if key not in state]:
        raise InputError(f"the state {missing[0]!r} is missing; there are {', '.join(state) or 'none'}")
    (name,) = cell.inputs
    state = {key: state[key] for key in cell.states}
    if not x.is_floating_point() and (graph := cell.graph_using(parameters)).uses_directly(name):
        # An equation that adds x itself to something needs the one-hot vector after all.
        width = graph.sizes(parameters)[graph.widths[name]]
        x = F.one_hot(x.long(), width).to(state[cell.states[0]].dtype)
    handed_on = len(cell.states) if cell.outputs else 0
    outputs = []
    for x_t in reversed(x.unbind()) if reverse else x.unbind():
        results = cell.run({name: x_t} | state, parameters)
        state = dict(zip(cell.states, results, strict=False))
        outputs.append(results[handed_on])
    return torch.stack(outputs[::-1] if reverse else outputs), state
