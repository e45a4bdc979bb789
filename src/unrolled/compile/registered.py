"""The compiled recurrence as operators of torch, so that a graph of torch.compile or torch.export keeps it.

`unrolled::recurrence` and `unrolled::recurrence_backward` run the plans of `recurrence`. Everything they need
is an argument: the cell as its graph's key, the names of the parameters as a layout (see `Stacked`), and what
the forward pass saves as its last result. A graph that was kept therefore runs in another process too, where
`unrolled` has been imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd import forward_ad

from unrolled.compile.engine import host_cannot
from unrolled.compile.loop import Loop, loop_of
from unrolled.compile.passes import saved_elements
from unrolled.compile.recurrence import Prepared, again, in_memory, inputs_of, prepared_for
from unrolled.errors import BackendError, InputError
from unrolled.graph import Graph
from unrolled.parameters import Stacked
from unrolled.tracing import constant

LIBRARY: Final = torch.library.Library("unrolled", "FRAGMENT")  # type: ignore[no-untyped-call]

Tensors = tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]
"""x, what is given before the loop, the initial states, and the tensors of the parameters."""

_TENSORS: Final = "Tensor x, Tensor[] before, Tensor[] states, Tensor[] parameters"
_RESULTS: Final = "Tensor y, Tensor saved, Tensor?[] upstream"
for _schema in (
    f"recurrence(str graph, str layout, bool reverse, bool save, {_TENSORS}) -> Tensor[]",
    "recurrence_backward(str graph, str layout, bool reverse, bool needs_x, bool needs_parameters, "
    f"{_TENSORS}, {_RESULTS}) -> Tensor[]",
):
    LIBRARY.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))  # type: ignore[no-untyped-call]


def recur_in_graph(
    graph: Graph,
    x: Tensor,
    state: Mapping[str, Tensor] | None,
    parameters: Mapping[str, Tensor],
    reverse: bool,
) -> tuple[Tensor, dict[str, Tensor]]:
    """What `recurrence.recur` does, as a call of the operator; torch.compile traces this."""
    state = state or graph.start(x.shape[1], parameters)
    states = [state[name] for name in graph.states]
    stacked = parameters if isinstance(parameters, Stacked) and parameters.layout is not None else None
    stacked = stacked or Stacked.of(graph.parameters, parameters)
    tensors = list(stacked.tensors)
    x, before = inputs_of(_loop(graph.key, states[0].dtype), x, parameters)
    save = torch.is_grad_enabled() and any(t.requires_grad for t in (x, *before, *states, *tensors))
    y, *ends, _ = torch.ops.unrolled.recurrence(
        graph.key, stacked.layout, reverse, save, x, before, states, tensors
    )
    return y, dict(zip(graph.states, ends, strict=True))


@constant
def _loop(key: str, dtype: torch.dtype) -> Loop:
    """The loop of the graph with this key."""
    return loop_of(_graph(key), dtype)


@lru_cache
def _graph(key: str) -> Graph:
    if (reason := host_cannot()) is not None:
        raise BackendError(f"unrolled::recurrence cannot run: {reason}; layers with backend='reference' can")
    return Graph.from_key(key)


@lru_cache
def _parts(layout: str, heights: tuple[int, ...]) -> dict[str, tuple[int, int, int]]:
    """Where each parameter of a layout is, as `Stacked` has it."""
    parts: dict[str, tuple[int, int, int]] = {}
    for place, (names, height) in enumerate(zip(layout.split("|"), heights, strict=False)):
        rows = height // len(names.split())
        parts |= {name: (place, k * rows, rows) for k, name in enumerate(names.split())}
    return parts


def _prepared(
    graph: str, layout: str, reverse: bool, needs: tuple[bool, bool], tensors: Tensors
) -> tuple[Prepared, list[Tensor]]:
    """The plans for these tensors, and the tensors that they take."""
    x, before, states, parameters = tensors
    loop = _loop(graph, states[0].dtype)
    given = [x, *before, *states, *parameters]
    if odd := [t.dtype for t in given if t.dtype != loop.dtype and (t is not x or x.is_floating_point())]:
        raise InputError(f"a graph was made for tensors of one dtype, but has {loop.dtype} and {odd[0]}")
    stacked = Stacked(tuple(parameters), _parts(layout, tuple(t.shape[0] for t in parameters)))
    state = dict(zip(loop.graph.states, states, strict=True))
    prepared = prepared_for(loop, x, state, parameters, stacked, layout, reverse, needs)
    return prepared, prepared.complete([in_memory(t) for t in given])


@torch.library.impl(LIBRARY, "recurrence", "CPU")
def _forward(graph: str, layout: str, reverse: bool, save: bool, *tensors: Any) -> list[Tensor]:
    if forward_ad._current_level >= 0:  # results without tangents would count as constant
        raise BackendError("a compiled graph has no forward-mode derivatives; ask the layer itself for them")
    needs = save and tensors[0].is_floating_point(), save
    prepared, given = _prepared(graph, layout, reverse, needs, tensors)
    return prepared.forward(given, save)


@torch.library.register_fake("unrolled::recurrence", lib=LIBRARY)  # type: ignore[untyped-decorator]
def _(graph: str, layout: str, reverse: bool, save: bool, *tensors: Any) -> list[Tensor]:
    x, _, states, _ = tensors
    loop = _loop(graph, states[0].dtype)
    (T, B), widths = x.shape[:2], _widths(loop.graph, layout, tensors)
    saved = saved_elements(loop, widths, T * B) if save else 0
    shapes = (T, B, widths[loop.graph.output_width]), *(state.shape for state in states), (saved,)
    return [states[0].new_empty(shape) for shape in shapes]


def _widths(graph: Graph, layout: str, tensors: Tensors) -> dict[str, int]:
    """What the width symbols are. Nothing is compared: sizes may be symbols of torch's own."""
    x, _, states, parameters = tensors
    found = {graph.widths[name]: state.shape[1] for name, state in zip(graph.states, states, strict=True)}
    if x.is_floating_point():
        found.setdefault(graph.widths[graph.inputs[0]], x.shape[2])
    for text, tensor in zip(layout.split("|"), parameters, strict=False):
        names = text.split()
        sizes = tensor.shape[0] // len(names), *tensor.shape[1:]
        for symbol, size in zip(graph.parameters[names[0]].shape, sizes, strict=True):
            found.setdefault(symbol, size)
    return found


@torch.library.impl(LIBRARY, "recurrence_backward", "CPU")
def _backward(
    graph: str, layout: str, reverse: bool, needs_x: bool, needs_parameters: bool, *rest: Any
) -> list[Tensor]:
    x, before, states, parameters, y, saved, upstream = rest
    needs = needs_x, needs_parameters
    prepared, given = _prepared(graph, layout, reverse, needs, (x, before, states, parameters))
    needed = [needs_x, *[True] * len((*before, *states)), *[needs_parameters] * len(parameters)]
    needed += [False] * (len(given) - len(needed))
    return [d for d in prepared.backward(given, y, saved, upstream, needed) if d is not None]


@torch.library.register_fake("unrolled::recurrence_backward", lib=LIBRARY)  # type: ignore[untyped-decorator]
def _(
    graph: str, layout: str, reverse: bool, needs_x: bool, needs_parameters: bool, *rest: Any
) -> list[Tensor]:
    x, before, states, parameters = rest[:4]
    of = (*[x] * needs_x, *before, *states, *parameters * needs_parameters)
    return [t.new_empty(t.shape) for t in of]


# Derivatives


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    *ctx.how, ctx.save, x, before, states, parameters = inputs
    ctx.counts = len(before), len(states), len(parameters)
    ctx.save_for_backward(x, *before, *states, *parameters, output[0], output[-1])
    ctx.mark_non_differentiable(output[-1])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, upstream: Sequence[Tensor | None]) -> Any:
    """The gradients; where they are differentiated again, through the step on tensors."""
    if not ctx.save:
        raise BackendError("this graph was made for inference: make it where gradients are enabled")
    x, *others, y, saved = ctx.saved_tensors
    tensors = x, *_split(others, ctx.counts)
    needs_x, *asked = ctx.needs_input_grad[4:]
    needs = needs_x, any(asked[-1])
    upstream = list(upstream[:-1])
    if torch.is_grad_enabled():
        graph, layout, reverse = ctx.how
        prepared, given = _prepared(graph, layout, reverse, needs, tensors)
        d_x, *rest = again(prepared, given, upstream)
    else:
        found = torch.ops.unrolled.recurrence_backward(*ctx.how, *needs, *tensors, y, saved, upstream)
        d_x, *rest = found if needs_x else (None, *found)
    rest += [None] * (len(others) - len(rest))
    groups = zip(_split(rest, ctx.counts), asked, strict=True)
    return (*[None] * 4, d_x, *([d if a else None for d, a in zip(*g, strict=True)] for g in groups))


def _split(values: Sequence[Any], counts: Sequence[int]) -> list[list[Any]]:
    """So many values after each other."""
    rest = iter(values)
    return [[next(rest) for _ in range(count)] for count in counts]


def _refuse(ctx: Any, *upstream: Any) -> Any:
    raise BackendError("second derivatives do not go through a compiled graph; ask the layer itself for them")


torch.library.register_autograd("unrolled::recurrence", _differentiate, setup_context=_keep, lib=LIBRARY)
torch.library.register_autograd("unrolled::recurrence_backward", _refuse, lib=LIBRARY)
