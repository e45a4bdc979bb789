"""The compiled recurrence as operators of torch, so that a graph of torch.compile or torch.export keeps it.

`unrolled::recurrence` and `unrolled::recurrence_backward` run the plans of `recurrence`. Everything they need
is an argument: the cell as its graph's key, the names of the parameters as a layout (see `Stacked`), and what
the forward pass saves as its last result. A graph that was kept therefore runs in another process too, where
`unrolled` has been imported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd import forward_ad

from unrolled.compile.cache import SOURCE
from unrolled.compile.engine import host_cannot
from unrolled.compile.loop import Loop, loop_of
from unrolled.compile.passes import saved_elements
from unrolled.compile.recurrence import (
    Prepared,
    again,
    by_name,
    in_memory,
    inputs_of,
    prepared_for,
)
from unrolled.errors import BackendError, InputError
from unrolled.graph import Graph
from unrolled.leaves import Leaves
from unrolled.parameters import EACH, Stacked, Untied, tensors_of
from unrolled.rows import Rows, check_steps, room
from unrolled.tracing import constant

LIBRARY: Final = torch.library.Library("unrolled", "FRAGMENT")  # type: ignore[no-untyped-call]

Tensors = tuple[Tensor, list[Tensor], list[Tensor], list[Tensor], list[Tensor], list[Tensor]]
"""x, what is given before the loop, the initial states, the tensors of the parameters, those of `Rows` where
sequences differ in length, and those of `Leaves` where there are any."""

_TENSORS: Final = (
    "Tensor x, Tensor[] before, Tensor[] states, Tensor[] parameters, Tensor[] rows, Tensor[] leaves"
)
_RESULTS: Final = "Tensor[] outputs, Tensor saved, Tensor?[] upstream"
_HOW: Final = "str source, str graph, str handed_on, str layout, bool reverse"
"""`source` is nothing to the operator: with it, torch's cache of compiled graphs tells apart versions of this
library, which may save other things."""
for _schema in (
    f"recurrence({_HOW}, bool save, {_TENSORS}) -> Tensor[]",
    f"recurrence_backward({_HOW}, bool needs_x, bool needs_parameters, {_TENSORS}, {_RESULTS}) -> Tensor[]",
):
    LIBRARY.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))  # type: ignore[no-untyped-call]


def recur_in_graph(
    graph: Graph,
    x: Tensor,
    state: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
    rows: Rows | None,
    leaves: Leaves | None,
    handed_on: tuple[str, ...],
    reverse: bool,
    others: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What `recurrence.recur` does for `graph.returning(handed_on)`, as a call of the operator; torch.compile
    traces this."""
    states = [state[name] for name in graph.states]
    laid_out: Stacked | Untied
    if isinstance(parameters, Untied):
        laid_out = Untied({name: parameters.tensors[name] for name in graph.parameters if name in parameters})
    elif isinstance(parameters, Stacked) and parameters.layout is not None:
        laid_out = parameters
    else:
        laid_out = Stacked.of(graph.parameters, parameters)
    tensors = tensors_of(laid_out)
    names = " ".join(handed_on)
    key = graph.key_returning(handed_on)
    loop = _loop(key, names, states[0].dtype)
    x, before = inputs_of(loop, x, parameters, rows, others)
    save = torch.is_grad_enabled() and any(t.requires_grad for t in (x, *before, *states, *tensors))
    results = torch.ops.unrolled.recurrence(
        SOURCE, key, names, laid_out.layout, reverse, save, x, before, states, tensors,
        [] if rows is None else [rows.lengths, rows.offsets, *[rows.order] * (rows.order is not None)],
        [] if leaves is None else list(leaves.tensors.values()),
    )  # fmt: skip
    return by_name(loop, results[:-1])


@constant
def _loop(key: str, handed_on: str, dtype: torch.dtype) -> Loop:
    """The loop of the graph with this key."""
    return loop_of(_graph(key), dtype, tuple(handed_on.split()))


@lru_cache
def _graph(key: str) -> Graph:
    if (reason := host_cannot()) is not None:
        raise BackendError(f"unrolled::recurrence cannot run: {reason}; layers with backend='reference' can")
    return Graph.from_key(key)


def _laid_out(layout: str, tensors: Sequence[Tensor]) -> Stacked | Untied:
    """The parameters in these tensors."""
    if layout.startswith(EACH):
        return Untied(dict(zip(layout.removeprefix(EACH).split("|"), tensors, strict=True)))
    return Stacked(tuple(tensors), _parts(layout, tuple(t.shape[0] for t in tensors)))


@lru_cache
def _parts(layout: str, heights: tuple[int, ...]) -> dict[str, tuple[int, int, int]]:
    """Where each parameter of a layout is, as `Stacked` has it."""
    parts: dict[str, tuple[int, int, int]] = {}
    for place, (names, height) in enumerate(zip(layout.split("|"), heights, strict=False)):
        rows = height // len(names.split())
        parts |= {name: (place, k * rows, rows) for k, name in enumerate(names.split())}
    return parts


def _prepared(
    graph: str, handed_on: str, layout: str, reverse: bool, needs: tuple[bool, bool], tensors: Tensors
) -> tuple[Prepared, list[Tensor], Rows | None, Leaves | None]:
    """The plans for these tensors, the tensors that they take, the sequences, and what is drawn."""
    x, before, states, parameters, of_rows, of_leaves = tensors
    rows = Rows(of_rows[0], of_rows[1], of_rows[2] if of_rows[2:] else None) if of_rows else None
    leaves = Leaves(*map(in_memory, of_leaves)) if of_leaves else None
    if rows is not None and rows.order is not None:
        rows.check(x)
        check_steps(rows.lengths, rows.T)
        rows.room = rows.T * rows.B  # as is known without looking at the lengths
        leaves = leaves and leaves.packed(rows.index)
    loop = _loop(graph, handed_on, states[0].dtype)
    given = [x, *before, *states, *parameters]
    if odd := [t.dtype for t in given if t.dtype != loop.dtype and (t is not x or x.is_floating_point())]:
        raise InputError(f"a graph was made for tensors of one dtype, but has {loop.dtype} and {odd[0]}")
    state = dict(zip(loop.graph.states, states, strict=True))
    laid_out = _laid_out(layout, parameters)
    prepared = prepared_for(loop, x, state, parameters, laid_out, layout, rows, reverse, needs)
    return prepared, prepared.complete([in_memory(t) for t in given]), rows, leaves


@torch.library.impl(LIBRARY, "recurrence", "CPU")
def _forward(
    source: str, graph: str, handed_on: str, layout: str, reverse: bool, save: bool, *tensors: Any
) -> list[Tensor]:
    if forward_ad._current_level >= 0:  # results without tangents would count as constant
        raise BackendError("a compiled graph has no forward-mode derivatives; ask the layer itself for them")
    if not len(tensors[0]):  # sequences of no steps: nothing runs, and states end as they begin
        *outputs, saved = _results(graph, handed_on, layout, save, *tensors)
        return [*outputs[: -len(tensors[2])], *(state.clone() for state in tensors[2]), saved]
    needs = save and tensors[0].is_floating_point(), save
    prepared, given, rows, leaves = _prepared(graph, handed_on, layout, reverse, needs, tensors)
    return prepared.forward(given, save, rows, leaves)


@torch.library.register_fake("unrolled::recurrence", lib=LIBRARY)  # type: ignore[untyped-decorator]
def _(
    source: str, graph: str, handed_on: str, layout: str, reverse: bool, save: bool, *tensors: Any
) -> list[Tensor]:
    return _results(graph, handed_on, layout, save, *tensors)


def _results(graph: str, handed_on: str, layout: str, save: bool, *tensors: Any) -> list[Tensor]:
    """What the forward pass returns, without its numbers."""
    x, _, states, _, of_rows, _ = tensors
    loop = _loop(graph, handed_on, states[0].dtype)
    is_packed, is_padded = len(of_rows) == 2, len(of_rows) == 3
    leading, widths = x.shape[: 1 if is_packed else 2], _widths(loop.graph, layout, tensors)
    rows = math.prod(leading)
    if is_packed:
        rows = room(of_rows[1].shape[0] - 2, of_rows[0].shape[0], rows)
    saved = saved_elements(loop, widths, rows, not x.is_floating_point(), is_padded) if save else 0
    nodes, results = loop.step.nodes, loop.step.results
    outputs = ((*leading, widths[nodes[results[name]].width]) for name in loop.handed_on)
    shapes = *outputs, *(state.shape for state in states), (saved,)
    return [states[0].new_empty(shape) for shape in shapes]


def _widths(graph: Graph, layout: str, tensors: Tensors) -> dict[str, int]:
    """What the width symbols are. Nothing is compared: sizes may be symbols of torch's own."""
    x, _, states, parameters, *_ = tensors
    found = {graph.widths[name]: state.shape[1] for name, state in zip(graph.states, states, strict=True)}
    if x.is_floating_point():
        found.setdefault(graph.widths[graph.inputs[0]], x.shape[-1])
    untied = layout.startswith(EACH)
    for text, tensor in zip(layout.removeprefix(EACH).split("|"), parameters, strict=False):
        names = text.split()
        sizes = tensor.shape[1:] if untied else (tensor.shape[0] // len(names), *tensor.shape[1:])
        for symbol, size in zip(graph.parameters[names[0]].shape, sizes, strict=True):
            found.setdefault(symbol, size)
    return found


@torch.library.impl(LIBRARY, "recurrence_backward", "CPU")
def _backward(
    source: str,
    graph: str,
    handed_on: str,
    layout: str,
    reverse: bool,
    needs_x: bool,
    needs_parameters: bool,
    *rest: Any,
) -> list[Tensor]:
    *tensors, outputs, saved, upstream = rest
    x, before, states, parameters, *_ = tensors
    if not len(x):
        ends = zip(states, upstream[len(outputs) :], strict=True)
        d_states = [torch.zeros_like(state) if d is None else d.clone() for state, d in ends]
        others = [*[x] * needs_x, *before], [*parameters * needs_parameters]
        d_x, d_parameters = ([torch.zeros_like(t) for t in each] for each in others)
        return [*d_x, *d_states, *d_parameters]
    needs = needs_x, needs_parameters
    prepared, given, rows, leaves = _prepared(graph, handed_on, layout, reverse, needs, tuple(tensors))
    needed = [needs_x, *[True] * len((*before, *states)), *[needs_parameters] * len(parameters)]
    needed += [False] * (len(given) - len(needed))
    found = prepared.backward(given, outputs, saved, upstream, needed, rows, leaves)
    return [d for d in found if d is not None]


@torch.library.register_fake("unrolled::recurrence_backward", lib=LIBRARY)  # type: ignore[untyped-decorator]
def _(*given: Any) -> list[Tensor]:
    needs_x, needs_parameters, x, before, states, parameters = given[5:11]
    of = (*[x] * needs_x, *before, *states, *parameters * needs_parameters)
    return [t.new_empty(t.shape) for t in of]


# Derivatives


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    *ctx.how, ctx.save, x, before, states, parameters, rows, leaves = inputs
    outputs = output[: len(output) - 1 - len(states)]
    ctx.counts = len(before), len(states), len(parameters), len(rows), len(leaves)
    ctx.outputs = len(outputs)
    ctx.save_for_backward(x, *before, *states, *parameters, *rows, *leaves, *outputs, output[-1])
    ctx.mark_non_differentiable(output[-1])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, upstream: Sequence[Tensor | None]) -> Any:
    """The gradients; where they are differentiated again, through the step on tensors."""
    if not ctx.save:
        raise BackendError("this graph was made for inference: make it where gradients are enabled")
    x, *others, saved = ctx.saved_tensors
    *groups, outputs = _split(others, (*ctx.counts, ctx.outputs))
    tensors: Any = (x, *groups)
    needs_x, *asked = ctx.needs_input_grad[6:]
    needs = needs_x, any(asked[-3])
    upstream = list(upstream[:-1])
    if torch.is_grad_enabled():
        _, graph, handed_on, layout, reverse = ctx.how
        prepared, given, rows, leaves = _prepared(graph, handed_on, layout, reverse, needs, tensors)
        d_x, *rest = again(prepared, given, upstream, rows, leaves)
    else:
        found = torch.ops.unrolled.recurrence_backward(*ctx.how, *needs, *tensors, outputs, saved, upstream)
        d_x, *rest = found if needs_x else (None, *found)
    rest += [None] * (sum(ctx.counts) - len(rest))
    pairs = zip(_split(rest, ctx.counts), asked, strict=True)
    return (*[None] * 6, d_x, *([d if a else None for d, a in zip(*pair, strict=True)] for pair in pairs))


def _split(values: Sequence[Any], counts: Sequence[int]) -> list[list[Any]]:
    """So many values after each other."""
    rest = iter(values)
    return [[next(rest) for _ in range(count)] for count in counts]


def _refuse(ctx: Any, *upstream: Any) -> Any:
    raise BackendError("second derivatives do not go through a compiled graph; ask the layer itself for them")


torch.library.register_autograd("unrolled::recurrence", _differentiate, setup_context=_keep, lib=LIBRARY)
torch.library.register_autograd("unrolled::recurrence_backward", _refuse, lib=LIBRARY)
