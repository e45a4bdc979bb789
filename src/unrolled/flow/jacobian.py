"""Jacobians of single steps: d state_t / d state_{t-1}, of the full state.

A row of the Jacobian is what the adjoint of a step makes of a unit vector. Behind the step's last products
such a vector stays one: pointwise work scales it. So the compiler's adjoint (`unrolled.compile.derive`) runs
here for all unit vectors at once on matrices that are known to be diagonal, and these become dense only where
a product with a matrix, or a reduction over units, makes them so.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import torch
from torch import Tensor

from unrolled.compile.derive import derive
from unrolled.compile.step import Node, Step, lower, value_of
from unrolled.errors import InputError
from unrolled.flow.trace import Place
from unrolled.graph import PER_ROW, Graph

ELEMENTS: Final = 1 << 21
"""Of Jacobians that are computed at once, about; they should stay in a processor's cache."""


@dataclass(frozen=True)
class _Matrix:
    """What has become of the unit vectors, for each row of a batch.

    values: the diagonal (N, W) of a square matrix, or a dense one (N, O, W), W 1 for one number a row.
    """

    values: Tensor

    @property
    def is_diagonal(self) -> bool:
        return self.values.ndim == 2

    def scaled(self, by: Any) -> _Matrix:
        return _Matrix(self.values * self._fitting(by))

    def where(self, condition: Tensor) -> _Matrix:
        return _Matrix(torch.where(self._fitting(condition), self.values, 0.0))

    def _fitting(self, by: Any) -> Any:
        rows = isinstance(by, Tensor) and by.ndim == 2
        return by[:, None] if rows and not self.is_diagonal else by

    def times(self, matrix: Tensor) -> _Matrix | _Rows:
        return _Rows((self.values,), (matrix,)) if self.is_diagonal else _Matrix(self.values @ matrix)

    def summed(self) -> _Matrix:
        values = self.values[:, :, None] if self.is_diagonal else self.values.sum(-1, keepdim=True)
        return _Matrix(values)

    def spread(self, units: int) -> _Matrix:
        return _Matrix(self.values.expand(*self.values.shape[:-1], units))

    def dense(self) -> Tensor:
        return torch.diag_embed(self.values) if self.is_diagonal else self.values

    def __add__(self, other: _Matrix | _Rows) -> _Matrix | _Rows:
        other = other.matrix()
        if self.is_diagonal == other.is_diagonal:
            return _Matrix(self.values + other.values)
        diagonal, dense = (self, other) if self.is_diagonal else (other, self)
        units = diagonal.values.shape[-1]
        whole = dense.values.expand(*dense.values.shape[:2], units).clone()
        whole.diagonal(dim1=1, dim2=2).add_(diagonal.values)
        return _Matrix(whole)

    def matrix(self) -> _Matrix:
        return self


@dataclass(frozen=True)
class _Rows:
    """A sum of matrices whose rows are scaled, for each row of a batch in its own way: Σ diag(v_k) M_k. What
    becomes of unit vectors in a first product; it is put together when it is needed, at once.

    values: v_k, each (N, O); matrices: M_k, each (O, W).
    """

    values: tuple[Tensor, ...]
    matrices: tuple[Tensor, ...]

    def matrix(self) -> _Matrix:
        values, matrices = torch.stack(self.values, -1), torch.stack(self.matrices, 1)
        return _Matrix(torch.bmm(values.transpose(0, 1), matrices).transpose(0, 1))

    def dense(self) -> Tensor:
        return self.matrix().values

    def scaled(self, by: Any) -> _Matrix | _Rows:
        if isinstance(by, Tensor) and by.ndim:
            return self.matrix().scaled(by)
        return _Rows(tuple(v * by for v in self.values), self.matrices)

    def where(self, condition: Tensor) -> _Matrix:
        return self.matrix().where(condition)

    def times(self, matrix: Tensor) -> _Matrix | _Rows:
        return self.matrix().times(matrix)

    def summed(self) -> _Matrix:
        return self.matrix().summed()

    def __add__(self, other: _Matrix | _Rows) -> _Matrix | _Rows:
        if isinstance(other, _Rows) and other.matrices[0].shape == self.matrices[0].shape:
            return _Rows(self.values + other.values, self.matrices + other.matrices)
        return self.matrix() + other.matrix()


class _Zero:
    """The gradient of nothing."""


ZERO: Final = _Zero()
LINEAR: Final = (_Matrix, _Rows)


def _linear(node: Node, args: list[Any], sizes: Mapping[str, int]) -> Any:
    """The value of a node of the adjoint that depends, linearly, on the gradient that arrives."""
    matrices = [a for a in args if isinstance(a, LINEAR)]
    if not matrices:
        return ZERO
    first = matrices[0]
    match node.kind:
        case "add" | "sub":
            a, b = args
            if node.kind == "sub" and isinstance(b, LINEAR):
                b = b.scaled(-1.0)
            return a + b if len(matrices) == 2 else a if isinstance(a, LINEAR) else b
        case "neg":
            return first.scaled(-1.0)
        case "mul":
            return first.scaled(args[1] if args[0] is first else args[0])
        case "div":
            return first.scaled(1 / args[1])
        case "where":
            condition, yes, no = args
            parts = [yes.where(condition)] if isinstance(yes, LINEAR) else []
            parts += [no.where(~condition)] if isinstance(no, LINEAR) else []
            return parts[0] + parts[1] if len(parts) == 2 else parts[0]
        case "sum":
            return first.summed()
        case "mean":
            whole = first.matrix()
            return whole.summed().scaled(1 / whole.values.shape[-1])
        case "spread":
            return first.matrix().spread(sizes[node.width])
    raise NotImplementedError(node.kind)


@lru_cache
def _derived(key: str) -> tuple[Step, Step]:
    """The step of the graph with this key, and its adjoint."""
    forward = lower(Graph.from_key(key))
    return forward, derive(forward).step


class _Steps:
    """Some steps of a place, row by row, and the adjoint of its step.

    Args:
        steps: which.
    """

    def __init__(self, place: Place, steps: slice) -> None:
        self.graph = graph = place.graph
        forward, self.adjoint = _derived(graph.key)
        self.parameters = place.parameters_at(steps.start, torch.float64)
        self.widths = {name: value.shape[-1] for name, value in place.start.items()}
        self.sizes = graph.sizes_with(place.start, self.parameters)
        if place.x.is_floating_point():
            self.sizes.setdefault(graph.widths[graph.inputs[0]], place.x.shape[-1])
        read = place.reads(steps, torch.float64)
        for name in graph.states:
            if not read[name].isfinite().all() and math.isfinite(graph.initial.get(name, 0.0)):
                raise InputError(
                    f"{place.name}: the state {name} is not finite at steps from {steps.start} on"
                )
        values = forward.run(read, self.parameters, self.sizes)
        self.read = {f"value {k}": value for k, value in enumerate(values)} | read
        self.N = next(iter(read.values())).shape[0]

    def pulled(self, state: str, without: Collection[str] = ()) -> dict[str, Tensor | None]:
        """d `state` / d each state, (N, W, W'); None where there is no dependence.

        Args:
            without: maps through which nothing comes.
        """
        adjoint = self.adjoint
        wanted = {
            name: adjoint.results[f"d_{name}"] for name in self.widths if f"d_{name}" in adjoint.results
        }
        needed = _needed(adjoint, [*wanted.values()])
        done: list[Any] = []
        for k, node in enumerate(adjoint.nodes):
            args = [done[a] for a in node.args]
            if k not in needed:
                done.append(None)
            elif node.kind == "read" and node.name.startswith("d_"):
                own = node.name == f"d_{state}"
                ones = torch.ones(self.N, self.widths[state], dtype=torch.float64)
                done.append(_Matrix(ones) if own else ZERO)
            elif node.kind == "product" and isinstance(args[0], LINEAR):
                matrix = self.parameters[node.name]
                cut = node.name.rpartition(".")[0] in without
                done.append(ZERO if cut else args[0].times(matrix if node.transposed else matrix.t()))
            elif any(isinstance(a, (*LINEAR, _Zero)) for a in args):
                found = _linear(node, args, self.sizes)
                if isinstance(found, _Matrix) and node.width not in ("", PER_ROW) and not found.is_diagonal:
                    found = found.spread(
                        self.sizes[node.width]
                    )  # what is one number a row meets nothing else
                done.append(found)
            else:
                done.append(value_of(node, args, self.read, self.parameters, self.sizes))
        blocks: dict[str, Tensor | None] = {}
        for name in self.widths:
            value = done[wanted[name]] if name in wanted else ZERO
            blocks[name] = value.dense() if isinstance(value, LINEAR) else None
        return blocks

    def whole(self, without: Collection[str] = ()) -> Tensor:
        """The Jacobian (N, S, S); see `pulled`."""
        S = sum(self.widths.values())
        whole = torch.zeros(self.N, S, S, dtype=torch.float64)
        sizes = [*self.widths.values()]
        rows = iter(torch.split(whole, sizes, 1))
        for name in self.widths:
            columns = torch.split(next(rows), sizes, 2)
            for (other, block), place in zip(self.pulled(name, without).items(), columns, strict=True):
                if block is not None:
                    there = self.read[other].isfinite()[:, None]  # what starts at −∞ carries nothing
                    place.copy_(block if there.all() else torch.where(there, block, 0.0))
        return whole


def _needed(step: Step, results: list[int]) -> set[int]:
    waiting, found = list(results), set(results)
    while waiting:
        for a in step.nodes[waiting.pop()].args:
            if a not in found:
                found.add(a)
                waiting.append(a)
    return found


def spans(place: Place, first: int = 0, end: int | None = None, every: int = 1) -> list[slice]:
    """Some steps of a place, a few at a time: as many as there should be Jacobians of at once.

    Args:
        first, end, every: which steps.
    """
    S = sum(value.shape[-1] for value in place.start.values())
    end = place.T if end is None else end
    count = max(1, ELEMENTS // max(place.B * S * S, 1))
    return place.together(count, every, first, end)


def jacobians_of(place: Place, steps: slice) -> Tensor:
    """The Jacobians d state_t / d state_{t-1} of some steps, in float64.

    Returns:
        (steps, B, S, S), S the width of all states together in the order of `place.states`; row i is the
        gradient of unit i of the new state.

    Raises:
        InputError: a state is not finite.
    """
    first, end, every = steps.indices(place.T)
    first_part, *others = place.together(place.T, every, first, end)  # layers through depth one by one
    whole = _Steps(place, first_part).whole()
    if others:
        whole = torch.cat([whole, *(_Steps(place, part).whole() for part in others)])
    return whole.view(-1, place.B, *whole.shape[1:])


def jacobians(place: Place, first: int = 0, end: int | None = None) -> Iterator[Tensor]:
    """The Jacobians of the steps from `first` to `end`, a few at a time; see `jacobians_of`."""
    for steps in spans(place, first, end):
        yield jacobians_of(place, steps)


def jacobian_parts(place: Place, t: int) -> dict[str, Tensor]:
    """The Jacobian of step t as a sum of what comes from old to new state directly, and of what comes through
    each map of the cell, in float64.

    So of an LSTM "direct" holds f for c, of a highway layer 1 - B; and a gate through which much comes that
    it should not is seen. What comes through several maps, as in `W.n(x, h=r * h)`, counts as the last one's.

    Returns:
        by the name of a map, or "direct", each (B, S, S); maps through which nothing comes are left out.
    """
    steps = _Steps(place, slice(t, t + 1))
    maps = dict.fromkeys(node.name for node in reversed(place.graph.nodes) if node.kind == "affine")
    parts: dict[str, Tensor] = {}
    cut: list[str] = []
    left = steps.whole()
    for name in maps:
        cut.append(name)
        rest = steps.whole(cut)
        if not torch.equal(left, rest):
            parts[name] = left - rest
        left = rest
    return {"direct": left, **parts}
