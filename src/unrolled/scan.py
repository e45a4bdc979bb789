"""Run one cell over one sequence, by one of two backends.

`cpu` runs compiled kernels (`unrolled.compile`). `reference` calls the cell's own equations on tensors, step
by step, and autograd does the rest: it is what the kernels are held to, and it also serves `torch.func`,
forward mode and torch.jit. Under torch.compile and torch.export the kernels are one node of the graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from unrolled.cell import Cell
from unrolled.compile.engine import host_cannot
from unrolled.compile.loop import loop_of
from unrolled.compile.recurrence import recur
from unrolled.compile.registered import recur_in_graph
from unrolled.errors import BackendError, InputError, no_such_token
from unrolled.graph import Graph
from unrolled.leaves import Leaves, leaves_of_step
from unrolled.parameters import Untied, tensors_of
from unrolled.rows import Rows
from unrolled.tracing import transforms, watched

BACKENDS: Final = ("auto", "cpu", "reference")


def scan(
    cell: Cell,
    x: Tensor,
    state: Mapping[str, Tensor] | None,
    parameters: Mapping[str, Tensor],
    *,
    rows: Rows | None = None,
    leaves: Leaves | None = None,
    others: Mapping[str, Tensor] | None = None,
    returning: Sequence[str] = (),
    reverse: bool = False,
    backend: str = "auto",
) -> tuple[Any, dict[str, Tensor]]:
    """Apply a cell at every step of a sequence, with the same parameters, or with those of each step.

    Args:
        cell: a cell of one input, or of more, whose values are in `others`.
        x: (T, B, D) of floats, or (T, B) of token numbers, each standing for a one-hot vector of width D.
        state: the initial states by name, each (B, H); None for the cell's own.
        parameters: the cell's learned tensors by name; `Untied` where every step has its own.
        rows: sequences of different lengths. Where it has an order, x is a padded batch, and outputs are 0
            beyond the lengths; otherwise x holds their rows packed: (N, D), or tokens (N,), and the outputs
            are (N, H).
        leaves: what random masks and resets depend on, for a cell that has some, row by row of x.
        others: the values of a cell's further inputs by name, laid out as x is: (T, B, W) of floats.
        returning: states, outputs and gates (vectors that the cell's author named) wanted at every step.
        reverse: run from the last step to the first; outputs stay in the order of x.
        backend: "cpu" for compiled kernels, "reference" for the plain PyTorch loop, "auto" for kernels where
            they can run and the loop where not.

    Returns:
        the outputs (T, B, H): the cell's first output at every step, or else its first state, or with
        `returning` those values by name; and the states after the last step run, by name.

    Raises:
        InputError: no such backend, or something does not fit.
        BackendError: the backend that was asked for cannot run this; the message says why and what can.
    """
    if backend not in BACKENDS:
        raise InputError(f"no backend {backend!r}; there are {', '.join(BACKENDS)}")
    others = others or {}
    if not cell.inputs or {*cell.inputs[1:]} != others.keys():
        raise InputError(
            f"a scan feeds a cell one input, and {', '.join(others) or 'nothing'} of `others`, but "
            f"{cell.name!r} takes {', '.join(cell.inputs) or 'none'}"
        )
    if state is not None:
        if missing := [key for key in cell.states if key not in state]:
            raise InputError(f"the state {missing[0]!r} is missing; there are {', '.join(state) or 'none'}")
        state = {key: state[key] for key in cell.states}
    if compiling := torch.compiler.is_compiling():
        cell.settle()
    name = cell.inputs[0]
    others = {key: others[key] for key in cell.inputs[1:]}
    graph = cell.graph_using(parameters)
    if state is None and not graph.parameters_tell:
        raise InputError(
            f"no parameter of cell {cell.name!r} says how wide its states are: give the initial states"
        )
    _check_leaves(cell, graph, leaves, x, rows)
    untied = parameters if isinstance(parameters, Untied) else None
    if untied is not None:
        _check_untied(untied, x, rows)
    padded = rows is not None and rows.order is not None
    if rows is not None:
        rows.check(x)
    if not x.is_floating_point() and graph.uses_directly(name):
        # An equation that adds x itself to something needs the one-hot vector after all.
        words = graph.sizes(parameters).get(graph.widths[name])
        if words is None:
            raise InputError(
                f"nothing says how many tokens there are, for no matrix takes {name!r}: give one-hot vectors"
            )
        _check_tokens(x, words)
        x = F.one_hot(x.long(), words).to(next(iter((state or parameters).values())).dtype)
    names = tuple(dict.fromkeys(returning))
    plain, graph = graph, graph.returning(names) if names else graph
    idle = rows is not None and not (compiling or watched((x,))) and not rows.steps  # there is nothing to run
    if backend != "reference" and not idle and (rows is not None or x.numel() or not len(x)):
        tensors = (x, *others.values(), *(state.values() if state else ()), *tensors_of(parameters))
        reason = why_not_compiled(x, tensors)
        if reason is None and untied is not None and graph.reads(name):
            reason = "every step has its own parameters, and the cell reads an input"
        if reason is None:
            if compiling or watched(tensors):
                state = state or plain.start(x.shape[1] if rows is None else rows.B, parameters)
                found, end = recur_in_graph(plain, x, state, parameters, rows, leaves, names, reverse, others)
            else:
                found, end = recur(graph, x, state, parameters, rows, leaves, names, reverse, others)
            return found if names else found[graph.output], end
        if backend == "cpu":
            raise BackendError(f"backend 'cpu' cannot run cell {cell.name!r}: {reason}; 'reference' can")
    if rows is not None and not rows.steps:
        state = state or graph.start(rows.B, parameters)
        sizes = graph.output_sizes(state, parameters)
        # Sums of no rows: what comes back from them are zeros.
        none = torch.stack(
            [t[:0].sum() for t in (*[x] * x.is_floating_point(), *tensors_of(parameters))]
        ).sum()
        leading = x.shape[: 1 + padded]
        nothing = {key: none.expand(*leading, sizes[key]).clone() for key in names or (graph.output,)}
        return nothing if names else nothing[graph.output], dict(state)
    if not x.is_floating_point() and graph.widths[name] in (sizes := graph.sizes(parameters)):
        _check_tokens(x, sizes[graph.widths[name]])
    state = state or graph.start(x.shape[1] if rows is None else rows.B, parameters)
    wanted = names or (graph.output,)
    like = next(iter(state.values()))
    if padded and rows is not None:
        x, state = rows.pack(x), {key: rows.sort(value) for key, value in state.items()}
        others = {key: rows.pack(value) for key, value in others.items()}
        leaves = leaves and leaves.packed(rows.index)
    of_leaves = leaves.on(graph, graph.sizes_with(state, parameters), like) if leaves else {}
    inputs = {name: x, **others}
    of_step = None if untied is None else untied.each()

    def step(
        t: int, at: Mapping[str, Tensor], first: int, end: int, now: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        read = {**at, **now, **leaves_of_step(of_leaves, first, end)}
        own = parameters if of_step is None else of_step[t]
        results = (cell if graph is plain else graph).run(read, own)
        found = dict(zip((*graph.states, *graph.outputs), results, strict=True))
        return {key: found[key] for key in graph.states}, [found[key] for key in wanted]

    if rows is not None:

        def some_rows(
            t: int, first: int, end: int, now: Mapping[str, Tensor]
        ) -> tuple[dict[str, Tensor], list[Tensor]]:
            return step(t, {key: value[first:end] for key, value in inputs.items()}, first, end, now)

        steps, state = rows.walk(state, reverse, some_rows)
    else:
        steps, B = [], x.shape[1]
        each = [*enumerate(zip(*(value.unbind() for value in inputs.values()), strict=True))]
        for t, at in reversed(each) if reverse else each:
            state, values = step(t, dict(zip(inputs, at, strict=True)), t * B, (t + 1) * B, state)
            steps.append(values)
        steps = steps[::-1] if reverse else steps
    join = torch.stack if rows is None else torch.cat
    outputs = {key: join(values) for key, values in zip(wanted, zip(*steps, strict=True), strict=True)}
    if padded and rows is not None:
        outputs = {key: rows.unpack(value) for key, value in outputs.items()}
        state = {key: rows.unsort(value) for key, value in state.items()}
    return outputs if names else outputs[graph.output], state


def _check_leaves(cell: Cell, graph: Graph, leaves: Leaves | None, x: Tensor, rows: Rows | None) -> None:
    """Kernels trust that there is what they read, for every row."""
    has = [*graph.draws, *["resets"] * graph.resets]
    if leaves is None or not has:
        if has:
            raise InputError(f"cell {cell.name!r} reads {', '.join(has)}: give it leaves")
        if leaves is not None:
            raise InputError(f"cell {cell.name!r} draws nothing and has no resets, but was given leaves")
        return
    packed = rows is not None and rows.order is None
    count = x.shape[0] if packed else x.shape[0] * x.shape[1]
    drawn = count if graph.is_random else None
    expected = {
        "chances": ((2, len(graph.draws)), torch.int64),
        "places": ((drawn,), torch.int64),
        "origins": ((drawn,), torch.int64),
        "resets": ((count if graph.resets else None,), torch.bool),
    }
    for name, tensor in leaves.tensors.items():
        shape, dtype = expected[name]
        fits = shape == (None,) or (tensor.shape == shape and tensor.dtype == dtype)
        if not fits or not tensor.is_contiguous():
            raise InputError(
                f"{name} of leaves is {tensor.dtype} of shape {tuple(tensor.shape)}, "
                f"expected {dtype} of {shape}, contiguous"
            )


def _check_tokens(x: Tensor, words: int) -> None:
    """Kernels look at tokens themselves, and where a graph is made there are no numbers to look at."""
    if torch.compiler.is_compiling() or watched((x,)) or transforms() or x.is_meta:
        return
    low, high = map(int, x.aminmax())
    if low < 0 or high >= words:
        raise no_such_token(low if low < 0 else high, words)


def cannot_run_directly(cell: Cell, parameters: Mapping[str, Tensor], tokens: bool = True) -> str | None:
    """Why `unrolled.compile.direct` and `stream` cannot run a cell, or None if they can."""
    graph = cell.graph_using(parameters)
    values = [value.detach() for value in parameters.values()]
    if tokens and graph.uses_directly(graph.inputs[0]):
        return "it needs the one-hot vectors themselves"
    dtype = values[0].dtype
    x = torch.empty(0, dtype=torch.long if tokens else dtype)
    if (reason := why_not_compiled(x, (x, *values))) is not None:
        return reason
    return "torch computes a part of it before the loop" if loop_of(graph, dtype).given else None


def _check_untied(parameters: Untied, x: Tensor, rows: Rows | None) -> None:
    if rows is not None:
        raise InputError("steps that have their own parameters are those of whole batches, all of one length")
    if odd := [name for name, value in parameters.tensors.items() if value.shape[0] != x.shape[0]]:
        count = parameters.tensors[odd[0]].shape[0]
        raise InputError(f"parameter {odd[0]!r} is that of {count} steps, but there are {x.shape[0]}")


def why_not_compiled(x: Tensor, tensors: Sequence[Tensor]) -> str | None:
    """Why compiled kernels cannot run this, or None if they can."""
    if transforms():
        return "a transform of torch.func is at work"
    if torch._C._get_tracing_state() is not None:
        return "torch.jit is tracing"
    if forward_ad._current_level >= 0:
        return "forward-mode derivatives are asked for"
    if elsewhere := [t.device for t in tensors if not t.is_cpu]:
        return f"a tensor is on {elsewhere[0]}"
    dtypes = {t.dtype for t in tensors if t is not x or x.is_floating_point()}
    if len(dtypes) != 1 or not dtypes <= {torch.float32, torch.float64}:
        return f"it computes in float32 or float64, not {', '.join(sorted(map(str, dtypes)))}"
    return host_cannot()
