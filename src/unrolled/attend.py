"""What a query reads of a memory, and a cell that reads one at every step.

    e_s = v · tanh(W q + k_s)    additive (Bahdanau, Cho & Bengio 2015, arXiv:1409.0473)
    e_s = W q · k_s              dot, scaled, general (Luong, Pham & Manning 2015, arXiv:1508.04025)
    α   = softmax(e)
    z   = Σ α_s v_s              or v_s of one s drawn with the probabilities α

Inside a step the first state asks, as it is before the step, and z enters the step. All steps are one call of
compiled kernels, or run through torch, step by step, which is what the kernels are held to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from unrolled.cell import Cell
from unrolled.compile.attentive import attentive_of, run_attentive
from unrolled.errors import BackendError, InputError
from unrolled.rewrite import CONTEXT
from unrolled.scan import BACKENDS, why_not_compiled
from unrolled.tracing import watched

ROOM = 1 << 22
"""Elements that additive scores of many steps may take at once."""


@dataclass(frozen=True, eq=False)
class Memory:
    """What there is to look at, prepared for queries.

    Shapes: keys (B, S, A), values (B, S, Z), mask (B, S) of 0 and −∞; matrix (A, H), or None for queries as
        they are; score (A,) for additive scores, or None for products; taps (A, R) of a convolution over the
        last weights, for location-aware scores, or None.
    """

    keys: Tensor
    values: Tensor
    mask: Tensor
    matrix: Tensor | None = None
    score: Tensor | None = None
    taps: Tensor | None = None

    def weights(self, asked: Tensor, last: Tensor | None = None) -> Tensor:
        """α for queries (B, H) or (T, B, H): (B, S) or (T, B, S); all 0 where there is nothing to look at.

        Args:
            last: the weights before (B, S), for location-aware scores; none at the first step.
        """
        q = asked if self.matrix is None else asked @ self.matrix.t()
        if self.score is None:
            e = torch.einsum("...ba,bsa->...bs", q, self.keys)
        elif q.ndim == 2:
            e = self._additive(q, last)
        else:
            at_once = max(1, ROOM // max(self.keys.numel(), 1))
            e = torch.cat([self._additive(part, last) for part in torch.split(q, at_once)])
        e = e + self.mask
        nothing = torch.isneginf(self.mask).all(-1, keepdim=True)
        return F.softmax(e.masked_fill(nothing, 0.0), -1).masked_fill(nothing, 0.0)

    def _additive(self, q: Tensor, last: Tensor | None) -> Tensor:
        keys = self.keys
        if self.taps is not None and last is not None:
            where = F.conv1d(last[:, None], self.taps[:, None], padding=self.taps.shape[1] // 2)
            keys = keys + where.transpose(1, 2)
        assert self.score is not None
        return torch.tanh(q[..., None, :] + keys) @ self.score

    def mean(self, weights: Tensor) -> Tensor:
        """Σ α_s v_s, for weights (B, S) or (T, B, S)."""
        return torch.einsum("...bs,bsz->...bz", weights, self.values)

    def drawn(self, weights: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """The values at places drawn with these probabilities, and which: −1 where there are none.

        Args:
            weights: (B, S).
            uniform: (B,), from 0 to 1: the place is the last before which weights add up to no more; below 0
                the first of the greatest weight.
        """
        w, number = weights.detach(), uniform[:, None]
        reached = (w.cumsum(-1) - w <= number) & (w > 0)
        places = torch.arange(w.shape[-1], device=w.device)
        chosen = torch.where(reached, places, -1).amax(-1)
        greatest, likeliest = w.max(-1)
        chosen = torch.where(uniform < 0, likeliest.where(greatest > 0, -1), chosen)
        value = self.values.gather(1, chosen.clamp(min=0)[:, None, None].expand(-1, -1, self.values.shape[2]))
        return value.squeeze(1) * (chosen >= 0)[:, None], chosen

    def look(
        self, asked: Tensor, uniform: Tensor | None = None, last: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The context of queries (B, H), their weights, and what was drawn; the weights if nothing is."""
        weights = self.weights(asked, last)
        if uniform is None:
            return self.mean(weights), weights, weights
        context, chosen = self.drawn(weights, uniform)
        return context, weights, chosen

    def select(self, rows: Tensor) -> Memory:
        """That of these rows of the batch, as after a step of a beam search."""
        return replace(self, keys=self.keys[rows], values=self.values[rows], mask=self.mask[rows])

    def to(self, dtype: torch.dtype) -> Memory:
        """The same in another precision."""
        return Memory(**{name: value.to(dtype) for name, value in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """Those there are, by name."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True, eq=False)
class Attended:
    """What a cell with a memory gave.

    Shapes: outputs by name (T, B, H); state (B, H); contexts (T, B, Z), weights (T, B, S); chosen (T, B), or
        None where nothing is drawn.
    """

    outputs: Mapping[str, Tensor]
    state: dict[str, Tensor]
    contexts: Tensor
    weights: Tensor
    chosen: Tensor | None = None


def attend(
    cell: Cell,
    x: Tensor,
    state: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
    memory: Memory,
    *,
    returning: Sequence[str] = (),
    last: Tensor | None = None,
    uniform: Tensor | None = None,
    nudges: Mapping[str, Tensor] | None = None,
    backend: str = "auto",
) -> Attended:
    """Apply a cell at every step, with what its first state finds in a memory as its context.

    Args:
        cell: one with a context, see `unrolled.rewrite.with_context`.
        x: (T, B, D) of floats, its other input.
        state: the states before the first step by name, each (B, H).
        parameters: the cell's learned tensors by name.
        returning: states and outputs wanted at every step; the first output or state if not given.
        last: (B, S), the weights of the step before the first, which location-aware scores see.
        uniform: (T, B), numbers from 0 to 1 by which places are drawn (hard attention), through which no
            gradient flows; below 0 the likeliest is taken. Without, the context is a mean (soft attention).
        nudges: by state, (T, B, H), what is added to it before each step, for whoever asks and for the step;
            kernels take none.
        backend: as in `unrolled.scan.scan`.

    Raises:
        InputError: something does not fit.
        BackendError: kernels were asked for, and cannot run this.
    """
    if torch.compiler.is_compiling():
        cell.settle()
    if backend not in BACKENDS:
        raise InputError(f"no backend {backend!r}; there are {', '.join(BACKENDS)}")
    if len(cell.inputs) != 2 or cell.inputs[0] != CONTEXT:
        raise InputError(
            f"cell {cell.name!r} takes {', '.join(cell.inputs)}: give one of rewrite.with_context, which "
            f"takes {CONTEXT} and an input"
        )
    if x.ndim != 3 or not len(x) or not x.shape[1]:
        raise InputError(f"x has shape {tuple(x.shape)}, expected (T, B, D), T and B at least 1")
    B = x.shape[1]
    if memory.keys.shape[:2] != memory.mask.shape or memory.mask.shape[0] != B:
        raise InputError(f"the memory has rows for {memory.mask.shape[0]} sequences, and x for {B}")
    if uniform is not None and uniform.shape != x.shape[:2]:
        raise InputError(f"uniform has shape {tuple(uniform.shape)}, expected {tuple(x.shape[:2])}")
    names = tuple(dict.fromkeys(returning)) or (cell.graph.output,)
    if backend != "reference":
        tensors = (x, *state.values(), *parameters.values(), *memory.tensors().values())
        if (reason := "states are nudged" if nudges else _cannot(memory, tensors)) is None:
            return _compiled(cell, x, state, parameters, memory, names, uniform)
        if backend == "cpu":
            raise BackendError(f"backend 'cpu' cannot run cell {cell.name!r}: {reason}; 'reference' can")
    return _step_by_step(cell, x, state, parameters, memory, names, last, uniform, nudges or {})


def _cannot(memory: Memory, tensors: Sequence[Tensor]) -> str | None:
    if torch.compiler.is_compiling() or watched(tensors):
        return "torch makes a graph of it"
    if memory.taps is not None:
        return "its attention is location-aware"
    if not memory.keys.shape[1]:
        return "there is nothing to look at"
    return why_not_compiled(tensors[0], tensors)


def _compiled(
    cell: Cell,
    x: Tensor,
    state: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
    memory: Memory,
    names: tuple[str, ...],
    uniform: Tensor | None,
) -> Attended:
    graph = cell.graph_using(parameters)
    handed_on = tuple(dict.fromkeys((*names, graph.states[0])))
    (_, S, A), Z = memory.keys.shape, memory.values.shape[2]
    how = A, S, memory.score is not None, memory.matrix is not None, uniform is not None
    attentive = attentive_of(graph.returning(handed_on), (*x.shape[:2], Z), state, parameters, handed_on, how)
    of_memory = {"score": None, "matrix": None, "uniform": uniform, **memory.tensors()}

    def look(tensors: Mapping[str, Tensor], asked: Tensor, t: int) -> tuple[Tensor, Tensor]:
        there = {name: tensors[name] for name in of_memory if name != "uniform"}
        at = Memory(**{name: value for name, value in there.items() if of_memory[name] is not None})
        return at.look(asked, None if uniform is None else tensors["uniform"][t])[:2]

    found, end = run_attentive(attentive, look, {cell.inputs[1]: x}, state, parameters, of_memory)
    outputs = {name: found[name] for name in names}
    chosen = None if uniform is None else found["chosen"]
    return Attended(outputs, end, found["x"], found["weights"], chosen)


def _step_by_step(
    cell: Cell,
    x: Tensor,
    state: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
    memory: Memory,
    names: tuple[str, ...],
    last: Tensor | None,
    uniform: Tensor | None,
    nudges: Mapping[str, Tensor],
) -> Attended:
    graph = cell.graph_using(parameters)
    if names != (graph.output,):
        graph = graph.returning(names)
    steps: list[list[Tensor]] = []
    now, weights = dict(state), last
    for t, x_t in enumerate(x.unbind()):
        now = {name: value + nudges[name][t] if name in nudges else value for name, value in now.items()}
        number = None if uniform is None else uniform[t]
        context, weights, chosen = memory.look(now[graph.states[0]], number, weights)
        results = graph.run({**now, CONTEXT: context, cell.inputs[1]: x_t}, parameters)
        found = dict(zip((*graph.states, *graph.outputs), results, strict=True))
        now = {name: found[name] for name in graph.states}
        steps.append([context, weights, chosen, *(found[name] for name in names)])
    contexts, all_weights, drawn, *outputs = (torch.stack(each) for each in zip(*steps, strict=True))
    by_name = dict(zip(names, outputs, strict=True))
    return Attended(by_name, now, contexts, all_weights, None if uniform is None else drawn)
