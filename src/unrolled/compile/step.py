"""A step in the form the compiler works on: one product a matrix, everything shared computed once.

`lower` takes the affine maps of a `Graph` apart: `W.i(x, h)` becomes the product of `i.x` with x, that of
`i.h` with h, and the vector `i.bias`, added up. A composed row of the table becomes the rows it is written
with, so that only sums, means and maxima go over the units of a row. The adjoint of a step
(`unrolled.compile.derive`) is a step too, so that one scheduler and one printer serve both directions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from unrolled.graph import OPERATIONS, PER_ROW, Graph
from unrolled.trace import Operand


@dataclass(frozen=True)
class Node:
    """One value of a lowered step.

    kind: `read` (of what `name` says: an input, a state, a value of the forward step), `constant`, `vector`
        (a learned one), `bernoulli`, `rate`, `reset` (as in a graph; what is drawn once a sequence has the
        value 1), `product` (the matrix `name`, or its transpose, times the operand), `size` (how many units
        the width `name` has), `spread` (one number a row, at every unit of this node's width), or a row of
        the table.
    width: a symbol such as "H"; `PER_ROW` for one number a row, "" for a number. Operands of a row of the
        table are as wide as the node, or fit every width.
    """

    kind: str
    args: tuple[int, ...] = ()
    name: str = ""
    value: float = 0.0
    transposed: bool = False
    width: str = ""


@dataclass(frozen=True)
class Step:
    """Nodes in order of computation, and the names of those that leave the step."""

    nodes: tuple[Node, ...]
    results: Mapping[str, int]

    def run(
        self,
        read: Mapping[str, Tensor],
        parameters: Mapping[str, Tensor],
        sizes: Mapping[str, int] | None = None,
    ) -> list[Any]:
        """The value of every node, on tensors: what the kernels are compared with.

        Args:
            sizes: what the width symbols are, for the adjoint of a step with reductions.
        """
        done: list[Any] = []
        for node in self.nodes:
            done.append(value_of(node, [done[k] for k in node.args], read, parameters, sizes))
        return done


def run_to(step: Step, k: int, read: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> Any:
    """The value of node k of a step, on tensors, and of no node that it does not need."""
    node = step.nodes[k]
    return value_of(node, [run_to(step, a, read, parameters) for a in node.args], read, parameters)


def value_of(
    node: Node,
    args: list[Any],
    read: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
    sizes: Mapping[str, int] | None = None,
) -> Any:
    match node.kind:
        case "read":
            return read[node.name]
        case "constant":
            return node.value
        case "bernoulli" | "rate" | "reset":
            return read[f"{node.kind} {node.name}"]
        case "vector":
            absent = node.name.endswith(".bias") and node.name not in parameters  # as a layer may have it
            return 0.0 if absent else parameters[node.name]
        case "product":
            matrix = parameters[node.name]
            if not args[0].is_floating_point():
                return F.embedding(args[0].long(), matrix.t())
            return args[0] @ (matrix if node.transposed else matrix.t())
        case "size":
            return (sizes or {})[node.name]
        case "spread":
            return args[0].expand(*args[0].shape[:-1], (sizes or {})[node.width])
        case _:
            return OPERATIONS[node.kind].run(*args)


class Expression(Operand):
    """A node of a step in the making; operators on it make further nodes."""

    def __init__(self, builder: Builder, index: int) -> None:
        self.builder = builder
        self.index = index

    @property
    def node(self) -> Node:
        return self.builder.nodes[self.index]

    @property
    def width(self) -> str:
        return self.node.width

    @property
    def units(self) -> Expression:
        """How many units it has, as a number of the step."""
        return self.builder.make(Node("size", name=self.width))

    def apply(self, name: str, operands: tuple[Any, ...]) -> Expression:
        return self.builder.operation(name, operands)


class Builder:
    """Makes the nodes of a step; equal nodes are made once, and what is known in advance is simplified."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.centred: set[int] = set()  # values whose mean over the units is 0
        self._made: dict[Node, int] = {}

    def make(self, node: Node) -> Expression:
        """The expression of a node, which may have been made before."""
        if node not in self._made:
            self._made[node] = len(self.nodes)
            self.nodes.append(node)
        return Expression(self, self._made[node])

    def constant(self, value: float) -> Expression:
        return self.make(Node("constant", value=float(value)))

    def operation(self, name: str, operands: tuple[Any, ...]) -> Expression:
        """One row of the table, simplified where an operand is 0 or 1; a composed one is written out."""
        row = OPERATIONS[name]
        a, *rest = (v if isinstance(v, Expression) else self.constant(v) for v in operands)
        if name != "where":
            a = self._number(a)
        rest = [self._number(e) for e in rest]
        known = [e.node.value if e.node.kind == "constant" else None for e in (a, *rest)]
        match (name, known):
            case ("mul", [1.0, None]) | ("add", [0.0, None]):
                return rest[0]
            case ("mul" | "div" | "pow", [None, 1.0]) | ("add" | "sub", [None, 0.0]):
                return a
        if None not in known:
            with torch._C._DisableTorchDispatch():  # numbers are numbers, also where somebody traces
                tensors = [torch.tensor(value, dtype=torch.float64) for value in known]
                return self.constant(float(row.run(*tensors)))
        if row.reduces and a.width == PER_ROW:
            return a
        if name in ("sum", "mean") and (simpler := self._reduced(name, a, a.width)) is not None:
            return simpler
        if row.composed:
            return cast(Expression, row.run(a, *rest))
        if name == "div" and a.width not in ("", PER_ROW) and rest[0].width == PER_ROW:
            return self.operation("mul", (a, 1 / rest[0]))  # one division a row
        width = PER_ROW if row.reduces else _widest(e.width for e in (a, *rest))
        made = self.make(Node(name, tuple(e.index for e in (a, *rest)), width=width))
        if name == "sub" and rest[0].node == Node("mean", (a.index,), width=PER_ROW):
            self.centred.add(made.index)
        return made

    def _reduced(self, name: str, e: Expression, width: str) -> Expression | None:
        """A sum or mean over the units of a width that is simpler than of e itself, for both are linear."""
        if (number := self._a_row(e)) is not None:
            return number if name == "mean" else number * self.make(Node("size", name=width))
        if e.index in self.centred:
            return self.constant(0.0)
        parts = [Expression(self, k) for k in e.node.args]
        if e.node.kind == "neg":
            return self.operation("neg", (self.operation(name, tuple(parts)),))
        if e.node.kind == "mul":
            for factor, other in (parts, parts[::-1]):
                if (number := self._a_row(factor)) is not None:
                    total = self.operation(name, (other,))
                    return total if total.node == Node("constant") else number * total
        if e.node.kind in ("add", "sub"):
            simpler = [self._reduced(name, p, width) for p in parts]
            if any(found is not None for found in simpler):
                terms = zip(parts, simpler, strict=True)
                a, b = (self.operation(name, (p,)) if found is None else found for p, found in terms)
                return self.operation(e.node.kind, (a, b))
        return None

    def _a_row(self, e: Expression) -> Expression | None:
        """What is one number a row, where e is that at every unit."""
        if e.node.kind == "spread":
            return Expression(self, e.node.args[0])
        return e if e.width in ("", PER_ROW) else None

    def _number(self, e: Expression) -> Expression:
        """A condition that enters arithmetic is 1 or 0."""
        row = OPERATIONS.get(e.node.kind)
        if e.node.kind != "bernoulli" and (row is None or row.adjoint is not None or not row.pointwise):
            return e
        return self.operation("where", (e, 1.0, 0.0))

    def product(self, matrix: str, operand: Expression, width: str, transposed: bool = False) -> Expression:
        return self.make(Node("product", (operand.index,), matrix, transposed=transposed, width=width))

    def spread(self, operand: Expression, width: str) -> Expression:
        """One number a row, at every unit of a width."""
        return self.make(Node("spread", (operand.index,), width=width))

    def finish(self, results: Mapping[str, Expression]) -> Step:
        """The step of these results, without what they do not need."""
        needed = {e.index for e in results.values()}
        for index in range(len(self.nodes) - 1, -1, -1):
            if index in needed:
                needed.update(self.nodes[index].args)
        place = {old: new for new, old in enumerate(sorted(needed))}
        nodes = (
            Node(n.kind, tuple(place[k] for k in n.args), n.name, n.value, n.transposed, n.width)
            for n in (self.nodes[old] for old in place)
        )
        return Step(tuple(nodes), {name: place[e.index] for name, e in results.items()})


def _widest(widths: Iterable[str]) -> str:
    """The width of a pointwise result: that of its widest operand."""
    return max(widths, key=lambda w: 0 if not w else 1 if w == PER_ROW else 2)


def lower(graph: Graph) -> Step:
    """The step of a graph; its results are the new states and the outputs by name.

    A state whose new value is another's old one, and values used twice, are one node.
    """
    builder = Builder()
    done: list[Expression] = []
    for node in graph.nodes:
        args = tuple(done[k] for k in node.args)
        match node.kind:
            case "input" | "state":
                done.append(builder.make(Node("read", name=node.name, width=node.width)))
            case "constant":
                done.append(builder.constant(node.value))
            case "vector":
                done.append(builder.make(Node("vector", name=node.name, width=node.width)))
            case "bernoulli" | "rate" | "reset":
                once = float(bool(node.sources))
                done.append(builder.make(Node(node.kind, name=node.name, value=once, width=node.width)))
            case "affine":
                bias = Node("vector", name=f"{node.name}.bias", width=node.width)
                total = None if node.bias is None else builder.make(bias)
                for source, value in zip(node.sources, args, strict=True):
                    term = builder.product(f"{node.name}.{source}", value, node.width)
                    total = term if total is None else builder.operation("add", (total, term))
                assert total is not None
                done.append(total)
            case _:
                done.append(builder.operation(node.kind, args))
    wanted = (*graph.states, *graph.outputs)
    return builder.finish({name: done[k] for name, k in zip(wanted, graph.results, strict=True)})
