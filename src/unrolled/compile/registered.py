"""The compiled recurrence as an operator of torch, for graphs: one node each way under torch.compile and export.

`unrolled::recurrence` and `unrolled::recurrence_backward` run the plans of `recurrence`. All they need comes
as arguments: the cell as the text of its graph, which tensors hold which parameters as another text, and what
the forward pass saves as one of its results. So a graph that calls them can be kept and run elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd import forward_ad

from unrolled.compile.loop import Loop, loop_of
from unrolled.compile.passes import saved_elements
from unrolled.compile.recurrence import Prepared, again, inputs_of, prepare
from unrolled.errors import BackendError
from unrolled.graph import Graph
from unrolled.parameters import Stacked

_library: Final = torch.library.Library("unrolled", "FRAGMENT")
_CELL: Final = "str graph, str layout, bool reverse"
_TENSORS: Final = "Tensor x, Tensor[] before, Tensor[] states, Tensor[] parameters"
_Tensors = tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]
for _schema in (
    f"recurrence({_CELL}, bool save, {_TENSORS}) -> Tensor[]",
    f"recurrence_backward({_CELL}, bool needs_x, bool learning, {_TENSORS}, Tensor y, Tensor saved, "
    "Tensor?[] upstream) -> Tensor[]",
):
    _library.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))


def recur_in_graph(
    graph: Graph, x: Tensor, state: Mapping[str, Tensor], parameters: Mapping[str, Tensor], reverse: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """What `recurrence.recur` does, as a call of the operator."""
    states = [state[name].contiguous() for name in graph.states]
    stacked = parameters if isinstance(parameters, Stacked) else Stacked.of(graph.parameters, parameters)
    tensors = [tensor.contiguous() for tensor in stacked.tensors]
    x, before = inputs_of(_loop(graph.key, states[0].dtype), x, parameters)
    save = torch.is_grad_enabled() and any(t.requires_grad for t in (x, *before, *states, *tensors))
    y, *ends, _ = torch.ops.unrolled.recurrence(
        graph.key, stacked.layout, reverse, save, x, before, states, tensors
    )
    return y, dict(zip(graph.states, ends, strict=True))


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _loop(key: str, dtype: torch.dtype) -> Loop:
    """The loop of a graph, from the graph's key."""
    return loop_of(_graph(key), dtype)


@lru_cache(maxsize=None)
def _graph(key: str) -> Graph:
    return Graph.from_key(key)


@lru_cache(maxsize=None)
def _parts(layout: str, heights: tuple[int, ...]) -> dict[str, tuple[int, int, int]]:
    """Where each parameter is, from the layout."""
    parts = {}
    for place, (names, height) in enumerate(zip(layout.split("|"), heights, strict=False)):
        rows = height // len(names.split())
        parts |= {name: (place, k * rows, rows) for k, name in enumerate(names.split())}
    return parts


def _prepared(graph: str, layout: str, reverse: bool, needs: tuple[bool, bool], tensors: _Tensors) -> Any:
    """The plans for these tensors, and what they take."""
    x, before, states, parameters = tensors
    loop = _loop(graph, states[0].dtype)
    stacked = Stacked(tuple(parameters), _parts(layout, tuple(t.shape[0] for t in parameters)))
    prepared = prepare(loop, x, states, parameters, stacked, layout, reverse, *needs)
    return prepared, prepared.complete([t.contiguous() for t in (x, *before, *states, *parameters)])


# Forward


@torch.library.impl(_library, "recurrence", "CPU")
def _forward(graph: str, layout: str, reverse: bool, save: bool, *tensors: Any) -> list[Tensor]:
    x, *others = tensors
    prepared, given = _prepared(
        graph, layout, reverse, (save and x.is_floating_point(), save), (x, *others)
    )
    return prepared.forward(given, save)


@torch.library.register_fake("unrolled::recurrence", lib=_library)
def _(graph: str, layout: str, reverse: bool, save: bool, *tensors: Any) -> list[Tensor]:
    x, _, states, _ = tensors
    loop = _loop(graph, states[0].dtype)
    (T, B), widths = x.shape[:2], _widths(loop.graph, layout, tensors)
    like = states[0]
    return [
        like.new_empty((T, B, widths[loop.graph.output_width])),
        *(like.new_empty(state.shape) for state in states),
        like.new_empty((saved_elements(loop, widths, T * B) if save else 0,)),
    ]


def _widths(graph: Graph, layout: str, tensors: _Tensors) -> dict[str, int]:
    """What the width symbols are, without a look at any number: sizes may be symbols of torch's."""
    x, _, states, parameters = tensors
    found = {graph.widths[name]: state.shape[1] for name, state in zip(graph.states, states, strict=True)}
    if x.is_floating_point():
        found.setdefault(graph.widths[graph.inputs[0]], x.shape[2])
    for text, tensor in zip(layout.split("|"), parameters, strict=False):
        names = text.split()
        height, *width = graph.parameters[names[0]].shape
        found.setdefault(height, tensor.shape[0] // len(names))
        for symbol in width:
            found.setdefault(symbol, tensor.shape[1])
    return found


# Backward


@torch.library.impl(_library, "recurrence_backward", "CPU")
def _backward(
    graph: str, layout: str, reverse: bool, needs_x: bool, learning: bool, *rest: Any
) -> list[Tensor]:
    *tensors, y, saved, upstream = rest
    prepared, given = _prepared(graph, layout, reverse, (needs_x, learning), tensors)
    _, before, states, parameters = tensors
    needed = [needs_x, *[True] * len((*before, *states)), *[learning] * len(parameters)]
    needed += [False] * (len(given) - len(needed))
    return [d for d in prepared.backward(given, y, saved, upstream, needed) if d is not None]


@torch.library.register_fake("unrolled::recurrence_backward", lib=_library)
def _(graph: str, layout: str, reverse: bool, needs_x: bool, learning: bool, *rest: Any) -> list[Tensor]:
    x, before, states, parameters = rest[:4]
    wanted = (*[x] * needs_x, *before, *states, *(parameters if learning else ()))
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in wanted]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    """What the backward pass reads."""
    *ctx.how, ctx.save, x, before, states, parameters = inputs
    ctx.counts = len(before), len(states), len(parameters)
    ctx.save_for_backward(x, *before, *states, *parameters, output[0], output[-1])
    ctx.mark_non_differentiable(output[-1])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, upstream: list[Tensor | None]) -> Any:
    """The gradients; where they will be differentiated again, through the step on tensors."""
    if not ctx.save:
        raise BackendError("unrolled::recurrence ran without saving, so it has no gradient")
    x, *others, y, saved = ctx.saved_tensors
    groups = []
    for count in ctx.counts:
        groups.append(others[:count])
        others = others[count:]
    needs_x, needed = ctx.needs_input_grad[4], ctx.needs_input_grad[5:]
    learning = any(needed[-1])
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        prepared, given = _prepared(*ctx.how, (needs_x, learning), (x, *groups))
        found = again(prepared, given, upstream[:-1])
    else:
        found = torch.ops.unrolled.recurrence_backward(
            *ctx.how, needs_x, learning, x, *groups, y, saved, upstream[:-1]
        )
        found = (*([] if needs_x else [None]), *found, *([] if learning else [None] * ctx.counts[-1]))
    d_x, *rest = found
    gradients = []
    for flags in needed:
        gradients.append([d if flag else None for d, flag in zip(rest, flags, strict=False)])
        rest = rest[len(flags) :]
    return (None, None, None, None, d_x, *gradients)


torch.library.register_autograd(
    "unrolled::recurrence", _differentiate, setup_context=_keep, lib=_library
)


def _refuse(ctx: Any, *upstream: Any) -> Any:
    raise BackendError(
        "second derivatives do not go through a compiled graph; take them without torch.compile"
    )


torch.library.register_autograd("unrolled::recurrence_backward", _refuse, lib=_library)
