"""Run a compiled recurrence on tensors, differentiably."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unrolled.compile.loop import Loop, loop_of
from unrolled.compile.memory import scratch, workspace
from unrolled.compile.passes import backward_plan, forward_plan
from unrolled.compile.plan import Plan, Sizes
from unrolled.compile.step import run_to
from unrolled.errors import InputError
from unrolled.graph import Graph
from unrolled.leaves import Leaves, leaves_of_step
from unrolled.parameters import Stacked, Untied
from unrolled.rows import Rows, States

PLANS = 256
"""Plans kept for each loop; the oldest go first."""


Find = Callable[[Tensor], Tensor | None]

_elsewhere = threading.local()


@contextmanager
def adding(find: Find) -> Iterator[None]:
    """Gradients of parameters are added to tensors that are there, instead of being made and handed on.

    Args:
        find: `find(parameter)`, where its gradient goes; None for the usual way.
    """
    before = getattr(_elsewhere, "find", None)
    _elsewhere.find = find
    try:
        yield
    finally:
        _elsewhere.find = before


class Prepared:
    """A loop for one set of sizes: its plans, made when they are first used."""

    def __init__(self, loop: Loop, sizes: Sizes, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.loop = loop
        self.sizes = sizes
        self.shapes = shapes
        self.parts: object = None  # kept, for the key names it by its id
        self._plans: dict[tuple[str, frozenset[str]], Plan] = {}
        self._starts: dict[tuple[float, ...], list[Tensor]] = {}

    def plan(self, kind: str, silent: frozenset[str] = frozenset()) -> Plan:
        """The plan of "save" or "inference"; of "backward", or "adding" to gradients of parameters, where
        nothing comes back to `silent` outputs."""
        if (kind, silent) not in self._plans:
            self._plans[kind, silent] = (
                backward_plan(self.loop, self.plan("save"), kind == "adding", silent)
                if kind in ("backward", "adding")
                else forward_plan(self.loop, self.sizes, kind == "save")
            )
        return self._plans[kind, silent]

    @cached_property
    def idle(self) -> frozenset[str]:
        """The tensors whose gradient the backward pass does not write everywhere, since it is 0."""
        loop, nodes = self.loop, self.loop.whole.nodes
        results = loop.adjoint.step.results
        idle = {f"before {k}" for k in loop.given if f"d_before {k}" not in results}
        if not loop.projected and not any(f"d_before {k}" in results for k in loop.direct):
            idle.add("x")
        found = {*loop.adjoint.matrices, *loop.adjoint.vectors, *(nodes[k].name for k in loop.projected)}
        written = dict.fromkeys(self.shapes, 0)
        for name, (k, _) in self.sizes.parts.items():
            if name in found:
                shape = [self.sizes.widths[s] for s in loop.graph.parameters[name].shape]
                written[f"parameter {k}"] += math.prod(shape) * (self.sizes.T if self.sizes.untied else 1)
        tensors = (name for name in self.shapes if name.startswith("parameter "))
        idle |= {name for name in tensors if written[name] != math.prod(self.shapes[name])}
        return frozenset(idle)

    @cached_property
    def equal(self) -> Rows:
        """Sequences that all have T steps."""
        return Rows(torch.full((self.sizes.B,), self.sizes.T, device="cpu"))

    def start(self, graph: Graph) -> list[Tensor]:
        """The states before the first step, where none are given. Graphs that differ only in what these are
        have this loop in common."""
        if graph.starts not in self._starts:
            with torch.inference_mode(False):
                self._starts[graph.starts] = [
                    torch.full(self.shapes[f"start {name}"], value, dtype=self.loop.dtype)
                    for name, value in zip(graph.states, graph.starts, strict=True)
                ]
        return self._starts[graph.starts]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """What `Recurrence` takes, in order."""
        loop = self.loop
        return (
            "x",
            *(f"before {k}" for k in loop.given),
            *(f"start {name}" for name in loop.graph.states),
            *(name for name in self.shapes if name.startswith("parameter ")),
        )

    @cached_property
    def results(self) -> tuple[str, ...]:
        """What `Recurrence` returns, in order: outputs, then final states."""
        loop = self.loop
        return (*(f"y {name}" for name in loop.handed_on), *(f"end {name}" for name in loop.graph.states))

    def shape(self, name: str, rows: Rows | None) -> tuple[int, ...]:
        """The shape of a tensor for these sequences."""
        shape = self.shapes[name]
        if rows is None or rows.order is not None or not (name == "x" or name.startswith(("y ", "before "))):
            return shape
        return (rows.steps, *shape[1:])

    def complete(self, given: list[Tensor], others: int = 0) -> list[Tensor]:
        """These tensors, and zeros for biases that are missing; `others` of `names` are elsewhere."""
        if len(given) + others < len(self.names):
            given.append(torch.zeros(max(self.sizes.widths.values()), dtype=self.loop.dtype, device="cpu"))
        return given

    def forward(
        self, given: Sequence[Tensor], save: bool, rows: Rows | None = None, leaves: Leaves | None = None
    ) -> list[Tensor]:
        """What the cell hands on (T, B, W), the final states, and what the backward pass reads besides.

        Args:
            given: the tensors of `names`.
            rows: the sequences, where not all have T steps.

        Raises:
            InputError: a token is none of the words.
        """
        loop = self.loop
        plan = self.plan("save" if save else "inference")
        tensors = dict(zip(self.names, given, strict=True))
        for name in self.shapes:
            if name.startswith(("y ", "end ")):
                tensors[name] = workspace(self.shape(name, rows), loop.dtype)
        tensors |= (rows or self.equal).tensors | (leaves.tensors if leaves else {})
        tensors["work"] = scratch(plan.size["work"], loop.dtype)
        tensors["saved"] = workspace((plan.size["saved"],), loop.dtype)
        plan.run(plan.addresses(tensors))
        return [*(tensors[name] for name in self.results), tensors["saved"]]

    def backward(
        self,
        given: Sequence[Tensor],
        outputs: Sequence[Tensor],
        saved: Tensor,
        upstream: Sequence[Tensor | None],
        needed: Sequence[bool],
        rows: Rows | None = None,
        leaves: Leaves | None = None,
        find: Find | None = None,
    ) -> list[Tensor | None]:
        """The gradients of `given` where they are needed, from those of the outputs and the final states.

        Args:
            find: see `adding`; None stands for what is added elsewhere.
        """
        loop, names = self.loop, self.names
        there = {} if find is None else {name: find(t) for name, t in zip(names, given, strict=True)}
        added = {name: d for name, d in there.items() if d is not None and name.startswith("parameter ")}
        arriving = dict(zip(self.results, upstream, strict=True))
        silent = frozenset(
            name for name in loop.handed_on if arriving[f"y {name}"] is None and not self.sizes.padded
        )
        plan = self.plan("adding" if added else "backward", silent)
        tensors = dict(zip(names, given, strict=True))
        tensors |= (rows or self.equal).tensors | (leaves.tensors if leaves else {})
        tensors |= {"saved": saved, "work": scratch(plan.size["work"], loop.dtype)}
        tensors |= zip(self.results, outputs, strict=False)
        for name, d in arriving.items():
            shape = self.shape(name, rows)
            nothing = shape[-1:] if name.removeprefix("y ") in silent else shape
            tensors[f"d_{name}"] = in_memory(saved.new_zeros(nothing) if d is None else d)
        results: list[Tensor | None] = []
        for name, asked in zip(names, needed, strict=True):
            d = None
            if name in added:
                tensors[f"d_{name}"] = added[name]
                results.append(None)
                continue
            if f"d_{name}" in plan.tensors or (asked and name in self.shapes):
                d = workspace(self.shape(name, rows), loop.dtype)
                begun = name in self.idle or (added and name.startswith("parameter "))
                tensors[f"d_{name}"] = d.zero_() if begun else d
            results.append(d if asked else None)
        plan.run(plan.addresses(tensors))
        return results


class Recurrence(torch.autograd.Function):
    """The loop as one differentiable operation.

    Inputs: x, what is given before the loop, the initial states, and the tensors of the parameters. Outputs:
    what the cell hands on (T, B, W), and the final states. Second derivatives go through the same step on
    tensors.
    """

    @staticmethod
    def forward(
        ctx: Any, prepared: Prepared, rows: Rows | None, leaves: Leaves | None, save: bool, *given: Tensor
    ) -> Any:
        *results, saved = prepared.forward(given, save, rows, leaves)
        if save:
            ctx.prepared, ctx.rows, ctx.leaves, ctx.given = prepared, rows, leaves, len(given)
            ctx.save_for_backward(*given, *results[: len(prepared.loop.handed_on)], saved)
            ctx.set_materialize_grads(False)
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> Any:
        *tensors, saved = ctx.saved_tensors
        given, outputs = tensors[: ctx.given], tensors[ctx.given :]
        stored = all(torch._C._has_storage(d) for d in upstream if d is not None)
        if not stored or torch.is_grad_enabled():  # a batch of gradients, or they will be differentiated
            return (*[None] * 4, *again(ctx.prepared, given, upstream, ctx.rows, ctx.leaves))
        needed = ctx.needs_input_grad[4:]
        find = getattr(_elsewhere, "find", None)
        found = ctx.prepared.backward(given, outputs, saved, upstream, needed, ctx.rows, ctx.leaves, find)
        return (*[None] * 4, *found)


def in_memory(tensor: Tensor) -> Tensor:
    """The tensor with its elements side by side, and none with a sign that is still to be turned."""
    return tensor.resolve_neg().contiguous()


def again(
    prepared: Prepared,
    given: Sequence[Tensor],
    upstream: Sequence[Tensor | None],
    rows: Rows | None = None,
    leaves: Leaves | None = None,
) -> tuple[Tensor | None, ...]:
    """The gradients through the step on tensors, so that they can be differentiated again."""
    loop = prepared.loop
    with torch.enable_grad(), torch.autocast("cpu", enabled=False):
        # Views, since one may have been computed from another: their gradients are along this pass alone.
        given = [t.view_as(t) if t.requires_grad else t for t in given]
        tensors = dict(zip(prepared.names, given, strict=True))
        padded = rows if rows is not None and rows.order is not None else None
        if padded is not None:
            for name in (n for n in prepared.names if not n.startswith("parameter ")):
                tensors[name] = (padded.sort if name.startswith("start ") else padded.pack)(tensors[name])
        parameters, own = {}, {}
        for name, (k, begin) in prepared.sizes.parts.items():
            shape = [prepared.sizes.widths[s] for s in loop.graph.parameters[name].shape]
            if k < prepared.sizes.untied:
                own[name] = tensors[f"parameter {k}"]
                continue
            flat = tensors[f"parameter {k}"].flatten()
            parameters[name] = flat.narrow(0, begin, math.prod(shape)).view(shape)
        each = Untied(own).each() if own else None
        x = tensors["x"]
        before = {}
        for k in loop.projected:
            matrix = parameters[loop.whole.nodes[k].name]
            before[k] = F.linear(x, matrix) if x.is_floating_point() else F.embedding(x, matrix.t())
        before |= {k: tensors[f"before {k}"] for k in loop.given} | dict.fromkeys(loop.direct, x)
        states = {name: tensors[f"start {name}"] for name in loop.graph.states}
        if rows is None:
            before = {k: value.flatten(0, 1) for k, value in before.items()}
        of_leaves = leaves.on(loop.graph, prepared.sizes.widths, given[-1]) if leaves else {}

        def step(t: int, first: int, end: int, now: States) -> tuple[States, list[Tensor]]:
            read = {**now, **{f"before {k}": value[first:end] for k, value in before.items()}}
            read |= leaves_of_step(of_leaves, first, end)
            done = loop.step.run(read, parameters if each is None else parameters | each[t])
            results = loop.step.results
            return {name: done[results[name]] for name in now}, [done[results[k]] for k in loop.handed_on]

        steps, states = (rows or prepared.equal).walk(states, prepared.sizes.reverse, step)
        join = torch.stack if rows is None else torch.cat
        outputs, ends = [join(values) for values in zip(*steps, strict=True)], [*states.values()]
        if padded is not None:
            outputs, ends = [*map(padded.unpack, outputs)], [*map(padded.unsort, ends)]
        results = [*outputs, *ends]
        pairs = [(o, d) for o, d in zip(results, upstream, strict=True) if d is not None]
        needing = [t for t in given if t.requires_grad]
        gradients = iter(
            torch.autograd.grad(
                [o for o, _ in pairs], needing, [d for _, d in pairs], create_graph=True, allow_unused=True
            )
        )
    return tuple(next(gradients) if t.requires_grad else None for t in given)


def recur(
    graph: Graph,
    x: Tensor,
    state: Mapping[str, Tensor] | None,
    parameters: Mapping[str, Tensor],
    rows: Rows | None,
    leaves: Leaves | None,
    handed_on: tuple[str, ...],
    reverse: bool,
    others: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The outputs (T, B, W) and final states of a cell's graph over a sequence, by compiled code."""
    if isinstance(parameters, Stacked):
        loop = loop_of(graph, parameters.tensors[0].dtype, handed_on)
        tensors = list(parameters.tensors)
        names: object = id(parameters.parts)
    elif isinstance(parameters, Untied):
        loop = loop_of(graph, next(iter(parameters.tensors.values())).dtype, handed_on)
        tensors = [parameters.tensors[name] for name in loop.parameters if name in parameters]
        names = "untied", *(name for name in loop.parameters if name in parameters)
    else:
        loop = loop_of(graph, next(iter((state or parameters).values())).dtype, handed_on)
        tensors = [parameters[name] for name in loop.parameters if name in parameters]
        names = len(tensors) == len(loop.parameters) or tuple(parameters)
    learning = any(t.requires_grad for t in tensors)
    needs = x.requires_grad, learning
    prepared = prepared_for(loop, x, state, tensors, parameters, names, rows, reverse, needs)
    x, before = inputs_of(loop, x, parameters, rows, others)
    states = prepared.start(graph) if state is None else [state[name] for name in graph.states]
    arguments = prepared.complete([x, *before, *map(in_memory, (*states, *tensors))])
    save = torch.is_grad_enabled() and (learning or any(t.requires_grad for t in arguments))
    if leaves is not None and rows is not None and rows.order is not None:
        leaves = leaves.packed(rows.index)
    results = Recurrence.apply(prepared, rows, leaves, save, *arguments)  # type: ignore[no-untyped-call]
    return by_name(loop, results)


def by_name(loop: Loop, results: Sequence[Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Outputs and final states."""
    count = len(loop.handed_on)
    outputs = dict(zip(loop.handed_on, results, strict=False))
    return outputs, dict(zip(loop.graph.states, results[count:], strict=False))


def inputs_of(
    loop: Loop, x: Tensor, parameters: Mapping[str, Tensor], rows: Rows | None, others: Mapping[str, Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """The input as kernels read it, and what torch computes from it and the other inputs before the loop.
    Torch reads padding too, which is 0 then."""
    before: list[Tensor] = []
    if loop.given:
        with torch.autocast("cpu", enabled=False):  # kernels read memory as what its dtype says
            read = {loop.graph.inputs[0]: x, **others}
            if rows is not None and rows.order is not None:
                read = {name: rows.blank(value) for name, value in read.items()}
            before = [run_to(loop.whole, k, read, parameters).contiguous() for k in loop.given]
    return in_memory(x if x.is_floating_point() else x.long()), before


def prepared_for(
    loop: Loop,
    x: Tensor,
    state: Mapping[str, Tensor] | None,
    tensors: Sequence[Tensor],
    parameters: Mapping[str, Tensor],
    names: object,
    rows: Rows | None,
    reverse: bool,
    needs: tuple[bool, bool],
) -> Prepared:
    """What `prepare` makes, kept for calls of the same sizes.

    Args:
        tensors: those that the parameters are in.
        names: what tells apart parameters that are in tensors of the same shapes.
        needs: whether gradients of x and of the parameters are wanted.
    """
    key = (
        x.shape if rows is None else (rows.T, rows.B, rows.room, rows.order is None, *x.shape[1:]),
        x.dtype, needs, reverse, torch.get_num_threads(), names,
        *(t.shape for t in (tensors if state is None else (*state.values(), *tensors))),
        *(parameters[name].shape for name in loop.elsewhere if name in parameters),
    )  # fmt: skip
    prepared: Prepared | None = loop.prepared.get(key)
    if prepared is None:
        prepared = loop.prepared[key] = prepare(loop, x, state, parameters, rows, reverse, *needs)
        if len(loop.prepared) > PLANS:
            loop.prepared.pop(next(iter(loop.prepared)), None)
    return prepared


def prepare(
    loop: Loop,
    x: Tensor,
    state: Mapping[str, Tensor] | None,
    parameters: Mapping[str, Tensor],
    rows: Rows | None,
    reverse: bool,
    needs_x: bool,
    learning: bool,
) -> Prepared:
    """Check everything, and say where each parameter is.

    Raises:
        InputError: a shape does not fit.
    """
    graph = loop.graph
    axes = 1 if rows is not None and rows.order is None else 2
    if x.ndim != axes + x.is_floating_point() or not x.numel():
        layout = "(T, B, D), or (T, B) for tokens" if axes == 2 else "(N, D), or (N,) for tokens"
        raise InputError(f"x has shape {tuple(x.shape)}, expected {layout}, none of them 0")
    T, B = x.shape[:2] if rows is None else (rows.T, rows.B)
    widths = _widths(graph, x, B, state, parameters)
    parts: dict[str, tuple[int, int]] = {}
    tensors: list[Tensor] = []
    untied = isinstance(parameters, Untied)
    if isinstance(parameters, Stacked):
        tensors = list(parameters.tensors)
        for name, (k, first, _) in parameters.parts.items():
            parts[name] = k, first * tensors[k][0].numel()
    else:
        for name in loop.parameters:
            if name in parameters:
                parts[name] = len(tensors), 0
                tensors.append(
                    parameters.tensors[name] if isinstance(parameters, Untied) else parameters[name]
                )
    shapes: dict[str, tuple[int, ...]] = {}
    if x.is_floating_point():
        shapes["x"] = tuple(x.shape)
    leading = tuple(x.shape[:axes])
    shapes |= {f"before {k}": (*leading, widths[loop.whole.nodes[k].width]) for k in loop.given}
    for name in graph.states:
        shapes[f"start {name}"] = shapes[f"end {name}"] = (B, widths[graph.widths[name]])
    for name in loop.handed_on:
        shapes[f"y {name}"] = (*leading, widths[loop.step.nodes[loop.step.results[name]].width])
    shapes |= {f"parameter {k}": tuple(t.shape) for k, t in enumerate(tensors)}
    if missing := [name for name in loop.parameters if name not in parts]:
        shapes[f"parameter {len(tensors)}"] = (max(widths.values()),)
        parts |= dict.fromkeys(missing, (len(tensors), 0))
    sizes = Sizes(
        T, B, widths, {name: parts[name] for name in loop.parameters}, not x.is_floating_point(), reverse,
        torch.get_num_threads(), needs_x, learning,
        None if rows is None else rows.room, rows is not None and rows.order is not None,
        len(tensors) if untied else 0,
    )  # fmt: skip
    prepared = Prepared(loop, sizes, shapes)
    prepared.parts = parameters.parts if isinstance(parameters, Stacked) else None
    return prepared


def _widths(
    graph: Graph, x: Tensor, B: int, state: Mapping[str, Tensor] | None, parameters: Mapping[str, Tensor]
) -> dict[str, int]:
    """What the width symbols are; kernels trust them, so everything is held to them here.

    Raises:
        InputError: a shape does not fit.
    """
    sizes = graph.sizes(parameters)
    if x.is_floating_point():
        width = sizes.setdefault(graph.widths[graph.inputs[0]], x.shape[-1])
        if x.shape[-1] != width:
            raise InputError(f"x has width {x.shape[-1]}, but its matrices have {width} columns")
    for name, value in (state or {}).items():
        width = sizes.setdefault(graph.widths[name], value.shape[-1])
        if value.shape != (B, width):
            raise InputError(f"state {name!r} has shape {tuple(value.shape)}, expected {(B, width)}")
    return sizes
