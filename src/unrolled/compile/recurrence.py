"""Run a compiled recurrence on tensors, differentiably.

Buffers are rows of whole vectors, zero beyond the width. A `Place` says where in a buffer a kernel finds a
value at a time and a row; the order of time is a matter of where a place begins and the sign of its stride.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unrolled.compile.loop import Compiled, Loop, loop_of
from unrolled.compile.schedule import GROUP, Stage
from unrolled.compile.step import Step
from unrolled.errors import InputError
from unrolled.graph import Graph

SMALL = 1 << 18
"""Multiply-adds below which the calling thread does the work alone."""


@dataclass(frozen=True)
class Place:
    """A value in a buffer: where it begins, and how far the next step and the next row are, in elements."""

    buffer: Tensor
    begin: int
    time: int
    row: int

    def backwards(self, T: int) -> Place:
        """The same value from the last step to the first."""
        return replace(self, begin=self.begin + (T - 1) * self.time, time=-self.time)

    def rows(self, T: int, B: int, width: int) -> Tensor:
        """(T * B, width): the value at every step and row, in the order of memory."""
        first = min(self.begin, self.begin + (T - 1) * self.time)
        return self.buffer.as_strided((T * B, width), (self.row, 1), self.buffer.storage_offset() + first)


@dataclass(frozen=True)
class Layout:
    """The column of each value in `before`, and what the width symbols are."""

    columns: Mapping[int, int]
    sizes: Mapping[str, int]


def place(buffer: Tensor, reverse: bool, shift: int = 0, column: int = 0) -> Place:
    """The place of a value in a buffer (T, B, columns), for a run that begins `shift` steps from its end."""
    row = buffer.shape[2]
    time = buffer.shape[1] * row
    first = buffer.shape[0] - 1 - shift if reverse else shift
    return Place(buffer, first * time + column, -time if reverse else time, row)


def run(
    loop: Loop, compiled: Compiled, T: int, B: int, sizes: Mapping[str, int],
    parameters: Mapping[str, Tensor], places: Mapping[str, Place], sums: Mapping[str, Tensor], workers: int,
) -> None:  # fmt: skip
    """Fill in a kernel's context and run it; values without a place get one for the moment."""
    context = np.zeros(len(compiled.kernel.context.places), dtype=np.int64)
    kept: dict[str, Tensor] = {}
    own: dict[str, Place] = {}
    for name, at in compiled.kernel.context.places.items():
        kind, _, rest = name.partition(" ")
        if name in ("T", "B"):
            context[at] = T if name == "T" else B
        elif kind in ("padded", "width"):
            context[at] = loop.padded(sizes[rest]) if kind == "padded" else sizes[rest]
        elif kind == "vector":
            vector = parameters[rest].detach()
            kept[name] = _widened(vector, loop.padded(len(vector))).contiguous()
            context[at] = kept[name].data_ptr()
        elif kind == "panel":
            stage = compiled.stages[int(rest)]
            kept[name] = pack(loop, stage, compiled.step, sizes, parameters)
            context[at] = kept[name].data_ptr()
        elif kind == "sum" and rest in sums:
            context[at] = sums[rest].data_ptr()
        else:
            what, _, which = name.rpartition(" ")
            if what not in places and what not in own:
                node = compiled.step.nodes[int(what.rpartition(" ")[2])]
                width = loop.padded(sizes[node.width])
                own[what] = Place(torch.empty(B, width, dtype=loop.dtype), 0, 0, width)
            found = places.get(what) or own[what]
            pointer = found.buffer.data_ptr() + found.begin * found.buffer.element_size()
            context[at] = {"pointer": pointer, "time": found.time, "row": found.row}[which]
    compiled.program.run(context, workers)


def pack(
    loop: Loop, stage: Stage, step: Step, sizes: Mapping[str, int], parameters: Mapping[str, Tensor]
) -> Tensor:
    """The weights of a stage in the order in which its tiles read them."""
    units = loop.padded(sizes[stage.width])
    blocks = []
    for operand in stage.operands:
        terms = [[t for t in d.terms if t.operand == operand] for d in stage.destinations]
        matrices = [[parameters[t.matrix].detach() for t in mine] for mine in terms if mine]
        transposed = any(t.transposed for mine in terms for t in mine)
        summed = [torch.stack(several).sum(0) if len(several) > 1 else several[0] for several in matrices]
        stacked = torch.stack(summed).transpose(1, 2) if not transposed else torch.stack(summed)  # (n, K, W)
        blocks.append(_widened(stacked, units))

    def panels(first: int, end: int, width: int) -> Tensor:
        tiles = (end - first) // width
        parts = [
            block[:, :, first:end]
            .reshape(*block.shape[:2], tiles, width)
            .permute(2, 1, 0, 3)
            .reshape(tiles, -1)
            for block in blocks
        ]
        return torch.cat(parts, 1).flatten()

    wide = GROUP // len(stage.destinations) * loop.lanes
    whole = units // wide * wide
    pieces = [panels(0, whole, wide)] if whole else []
    return torch.cat([*pieces, panels(whole, units, loop.lanes)]) if whole < units else pieces[0]


class Recurrence(torch.autograd.Function):
    """The loop as one differentiable operation.

    Inputs: `before` (T, B, columns), the initial states (B, W), matrices and vectors. Outputs: what the cell
    hands on (T, B, W), and the final states. Second derivatives go through the same step on tensors.
    """

    @staticmethod
    def forward(
        ctx: Any, loop: Loop, reverse: bool, save: bool, layout: Layout, before: Tensor, *tensors: Tensor
    ) -> Any:
        states, parameters = named(loop, tensors)
        T, B = before.shape[:2]
        columns, sizes = layout.columns, layout.sizes
        places = {f"before {k}": place(before, reverse, column=c) for k, c in columns.items()}
        buffers: dict[str, Tensor] = {"before": before}
        for name, value in states.items():
            width = value.shape[1]
            buffer = value.new_empty(T + 1, B, loop.padded(width))
            start = buffer[T if reverse else 0]
            start[:, :width] = value
            start[:, width:] = 0
            buffers[name] = buffer
            places[name] = place(buffer, reverse)
            places[f"new {name}"] = place(buffer, reverse, shift=1)
        for name in loop.graph.outputs:
            node = loop.step.nodes[loop.step.results[name]]
            buffers[name] = before.new_empty(T, B, loop.padded(sizes[node.width]))
            places[f"new {name}"] = place(buffers[name], reverse)
        if save:
            for k in loop.kept:
                name = loop.place_of(k)
                if name not in places:
                    buffers[name] = before.new_empty(T, B, loop.padded(sizes[loop.step.nodes[k].width]))
                    places[name] = place(buffers[name], reverse)
        compiled = loop.forward if save else loop.inference
        run(loop, compiled, T, B, sizes, parameters, places, {}, workers(T, B, sizes))
        handed_on = buffers[loop.handed_on]
        if loop.handed_on in states:
            handed_on = handed_on[:T] if reverse else handed_on[1:]
        width = sizes[loop.step.nodes[loop.step.results[loop.handed_on]].width]
        handed_on = handed_on[..., :width].contiguous() if handed_on.shape[2] != width else _apart(handed_on)
        finals = [buffers[n][0 if reverse else T, :, : v.shape[1]].clone() for n, v in states.items()]
        if save:
            ctx.loop, ctx.reverse, ctx.layout, ctx.buffers = loop, reverse, layout, tuple(buffers)
            key_of = {id(buffer): key for key, buffer in buffers.items()}
            ctx.places = {n: (key_of[id(p.buffer)], p.begin, p.time, p.row) for n, p in places.items()}
            # The outputs share memory with a buffer: saved too, so that torch notices a change in place.
            ctx.save_for_backward(*buffers.values(), *tensors, handed_on)
            ctx.set_materialize_grads(False)
        return (handed_on, *finals)

    @staticmethod
    def backward(ctx: Any, d_y: Tensor | None, *d_finals: Tensor | None) -> Any:
        *saved, _ = ctx.saved_tensors
        buffers = dict(zip(ctx.buffers, saved, strict=False))
        before, tensors = buffers["before"], saved[len(buffers) :]
        if torch.is_grad_enabled():  # somebody will differentiate this again
            given = [before, *tensors]
            gradients = again(ctx.loop, ctx.reverse, ctx.layout, given, (d_y, *d_finals))
            return (None, None, None, None, *gradients)
        loop: Loop = ctx.loop
        states, parameters = named(loop, tensors)
        T, B = before.shape[:2]
        sizes = ctx.layout.sizes
        values = {name: Place(buffers[key], *rest) for name, (key, *rest) in ctx.places.items()}
        places = {name: where.backwards(T) for name, where in values.items()}
        carries: dict[str, Tensor] = {}
        for (name, value), d_final in zip(states.items(), d_finals, strict=True):
            width = loop.padded(value.shape[1])
            carry = value.new_zeros(2, B, width)
            if d_final is not None:
                carry[0, :, : value.shape[1]] = d_final
            carries[name] = carry
            places[f"carry {name}"] = places[f"next {name}"] = Place(carry, 0, B * width, width)
        upstream = f"upstream {loop.handed_on}"
        width = loop.padded(sizes[loop.step.nodes[loop.step.results[loop.handed_on]].width])
        if d_y is None:
            places[upstream] = Place(before.new_zeros(width), 0, 0, 0)
        else:
            d_y = _widened(d_y, width).contiguous()
            places[upstream] = place(d_y, not ctx.reverse)
        d_before = torch.zeros_like(before) if loop.idle else torch.empty_like(before)
        extra: dict[str, Tensor] = {}
        for name in loop.gradients:
            if name.startswith("d_before "):
                column = ctx.layout.columns[int(name.removeprefix("d_before "))]
                places[name] = place(d_before, not ctx.reverse, column=column)
            else:
                node = loop.adjoint.step.nodes[loop.adjoint.step.results[name]]
                extra[name] = before.new_empty(T, B, loop.padded(sizes[node.width]))
                places[name] = place(extra[name], not ctx.reverse)
        team = workers(T, B, sizes)
        sums = {
            name: before.new_zeros(team, 2, loop.padded(len(parameters[name])))
            for name in loop.adjoint.vectors
        }
        run(loop, loop.backward, T, B, sizes, parameters, places, sums, team)
        found = {name: carries[name][T % 2, :, : value.shape[1]] for name, value in states.items()}
        found |= {name: sums[name][:, 0].sum(0)[: len(parameters[name])] for name in sums}
        with torch.autocast("cpu", enabled=False):
            found |= _matrix_gradients(loop, T, B, sizes, places, values)
        wanted = (found.get(name) for name in (*states, *parameters))
        return (None, None, None, None, d_before, *wanted)


def _widened(tensor: Tensor, width: int) -> Tensor:
    """The tensor with zeros after its last axis, up to a width."""
    missing = width - tensor.shape[-1]
    return F.pad(tensor, (0, missing)) if missing else tensor


def _apart(tensor: Tensor) -> Tensor:
    """The same memory as a tensor that is no view, so that it may be changed in place."""
    storage = tensor.untyped_storage()
    return tensor.new_empty(0).set_(storage, tensor.storage_offset(), tensor.shape, tensor.stride())


def _matrix_gradients(
    loop: Loop, T: int, B: int, sizes: Mapping[str, int], gradients: Mapping[str, Place],
    values: Mapping[str, Place],
) -> dict[str, Tensor]:  # fmt: skip
    """The gradient of every matrix in the loop: one product over all steps and rows for each operand whose
    gradients lie side by side."""
    adjoint = loop.adjoint
    where = {adjoint.step.results[name]: gradients[name] for name in loop.gradients}
    found: dict[str, Tensor] = {}
    uses: dict[int, list[tuple[Place, str]]] = {}
    for name, pairs in adjoint.matrices.items():
        for d, operand in pairs:
            uses.setdefault(operand, []).append((where[adjoint.step.results[d]], name))
    for operand, matrices in uses.items():
        rows = values[loop.place_of(operand)].rows(T, B, sizes[loop.step.nodes[operand].width])
        for run_of in _side_by_side(loop, sizes, matrices):
            width = sum(loop.padded(sizes[loop.width_of[name]]) for _, name in run_of)
            together = run_of[0][0].rows(T, B, width).t() @ rows
            begin = 0
            for _, name in run_of:
                height = sizes[loop.width_of[name]]
                part = together[begin : begin + height]
                found[name] = found[name] + part if name in found else part
                begin += loop.padded(height)
    return found


def _side_by_side(
    loop: Loop, sizes: Mapping[str, int], matrices: list[tuple[Place, str]]
) -> list[list[tuple[Place, str]]]:
    """Matrices in runs whose gradients are neighbouring columns of one buffer."""
    runs: list[list[tuple[Place, str]]] = []
    end: tuple[int, int] = (0, 0)
    for where, name in sorted(matrices, key=lambda use: (id(use[0].buffer), use[0].begin)):
        if runs and end == (id(where.buffer), where.begin):
            runs[-1].append((where, name))
        else:
            runs.append([(where, name)])
        end = (id(where.buffer), where.begin + loop.padded(sizes[loop.width_of[name]]))
    return runs


def again(
    loop: Loop, reverse: bool, layout: Layout, given: list[Tensor], upstream: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    """The gradients through the step on tensors, so that they can be differentiated again."""
    with torch.enable_grad():
        before, *tensors = given
        states, parameters = named(loop, tuple(tensors))
        outputs = []
        order = range(before.shape[0])
        for t in reversed(order) if reverse else order:
            read = dict(states)
            for k, column in layout.columns.items():
                width = layout.sizes[loop.width_of[f"before {k}"]]
                read[f"before {k}"] = before[t, :, column : column + width]
            done = loop.step.run(read, parameters)
            states = {name: done[loop.step.results[name]] for name in states}
            outputs.append(done[loop.step.results[loop.handed_on]])
        y = torch.stack(outputs[::-1] if reverse else outputs)
        pairs = [(o, d) for o, d in zip((y, *states.values()), upstream, strict=True) if d is not None]
        needing = [t for t in given if t.requires_grad]
        gradients = iter(
            torch.autograd.grad(
                [o for o, _ in pairs], needing, [d for _, d in pairs], create_graph=True, allow_unused=True
            )
        )
    return tuple(next(gradients) if t.requires_grad else None for t in given)


def named(loop: Loop, tensors: tuple[Tensor, ...]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """States and parameters by name, from the order in which `Recurrence` takes them."""
    count = len(loop.graph.states)
    states = dict(zip(loop.graph.states, tensors[:count], strict=True))
    return states, dict(zip(loop.parameters, tensors[count:], strict=True))


def workers(T: int, B: int, sizes: Mapping[str, int]) -> int:
    """How many threads share the rows."""
    return 1 if T * B * max(sizes.values()) ** 2 < SMALL else min(torch.get_num_threads(), B)


def recur(
    graph: Graph, x: Tensor, state: Mapping[str, Tensor], parameters: Mapping[str, Tensor], reverse: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """The outputs (T, B, W) and final states of a cell's graph over a sequence, by compiled code."""
    loop = loop_of(graph, next(iter(state.values())).dtype)
    sizes = _sizes(graph, x, state, parameters)
    with torch.autocast("cpu", enabled=False):  # kernels read memory as what its dtype says
        before, columns = _before(loop, x, parameters)
    tensors = [state[name] for name in graph.states]
    shapes = graph.parameters
    for name in loop.parameters:  # a cell without biases is the cell with biases of 0
        found = parameters.get(name)
        tensors.append(before.new_zeros(sizes[shapes[name].shape[0]]) if found is None else found)
    save = torch.is_grad_enabled() and any(t.requires_grad for t in (before, *tensors))
    y, *finals = Recurrence.apply(  # type: ignore[no-untyped-call]
        loop, reverse, save, Layout(columns, sizes), before, *tensors
    )
    return y, dict(zip(graph.states, finals, strict=True))


def _sizes(
    graph: Graph, x: Tensor, state: Mapping[str, Tensor], parameters: Mapping[str, Tensor]
) -> dict[str, int]:
    """What the width symbols are; kernels trust them, so everything is held to them here.

    Raises:
        InputError: a shape does not fit.
    """
    sizes = graph.sizes(parameters)
    if x.ndim != 2 + x.is_floating_point() or not x.numel():
        raise InputError(
            f"x has shape {tuple(x.shape)}, expected (T, B, D), or (T, B) for tokens, none of them 0"
        )
    if x.is_floating_point():
        width = sizes.setdefault(graph.widths[graph.inputs[0]], x.shape[2])
        if x.shape[2] != width:
            raise InputError(f"x has width {x.shape[2]}, but its matrices have {width} columns")
    for name in graph.states:
        width = sizes.setdefault(graph.widths[name], state[name].shape[-1])
        if state[name].shape != (x.shape[1], width):
            raise InputError(
                f"state {name!r} has shape {tuple(state[name].shape)}, expected {(x.shape[1], width)}"
            )
    return sizes


def _before(loop: Loop, x: Tensor, parameters: Mapping[str, Tensor]) -> tuple[Tensor, dict[int, int]]:
    """What is computed for all steps at once, side by side in rows of whole vectors, and their columns."""
    columns: dict[int, int] = {}
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    column = 0
    nodes = loop.whole.nodes
    direct = [k for k in loop.before if nodes[k].kind == "product" and nodes[nodes[k].args[0]].kind == "read"]
    for k in (*direct, *(k for k in loop.before if k not in direct)):
        columns[k] = column
        if k in direct:
            matrix = parameters[nodes[k].name]
            width = loop.padded(matrix.shape[0])
            matrices.append(
                F.pad(matrix, (0, 0, 0, width - matrix.shape[0])) if width != matrix.shape[0] else matrix
            )
        else:
            value = loop.whole.run_to(k, {loop.graph.inputs[0]: x}, parameters)
            width = loop.padded(value.shape[-1])
            others.append(_widened(value, width))
        column += width
    parts: list[Tensor] = []
    if matrices:
        stacked = torch.cat(matrices) if len(matrices) > 1 else matrices[0]
        parts.append(F.linear(x, stacked) if x.is_floating_point() else F.embedding(x.long(), stacked.t()))
    parts += others
    if not parts:
        return torch.empty(*x.shape[:2], 0, dtype=loop.dtype), columns
    return (torch.cat(parts, -1) if len(parts) > 1 else parts[0]).contiguous(), columns
