"""What the nodes of a loop's steps are called in the equations of the cell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final

from unrolled.compile.derive import Adjoint
from unrolled.compile.loop import Loop
from unrolled.compile.schedule import Term
from unrolled.compile.step import Node, Step, lower
from unrolled.explanation import PART
from unrolled.formula import BEFORE
from unrolled.formula import names as names_of
from unrolled.formula import text as formula
from unrolled.graph import LEAVES, Graph, Parameter
from unrolled.graph import Node as Traced

LONGEST: Final = 34
"""Characters of the longest formula that stands for a value; a longer one is a part of something named."""


def symbol(parameter: str) -> str:
    """How formulas write a parameter."""
    return Parameter(parameter, ()).symbol


def delta(matrix: str) -> str:
    """How the gradient of the affine map is written that a matrix is a part of."""
    return f"δ_{matrix.partition('.')[0]}"


class Names:
    """What the nodes of a loop are called, as its author called them or else by formula.

    The gradient of what the affine map W.i(...) gives is δ_i; that of a state, an input or a learned vector p
    is ∂p.

    Attributes:
        whole, step, adjoint: the names, by node of those steps.
        told: the nodes of the whole that the author named.
        origin: for nodes of the step, those of the whole.
        again: for nodes of the step, those of the adjoint that are the same value, read or computed again.
    """

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.whole, self.told = _of_whole(loop.graph, loop.whole)
        step = counterparts(loop.whole, loop.step, lambda k: [f"before {k}"])
        self.origin = {there: k for k, there in reversed(step.items())}
        self.step = {k: self.whole[origin] for k, origin in self.origin.items()}
        new = {k: [f"new {name}"] for name, k in loop.step.results.items()}
        self.again = counterparts(loop.step, loop.adjoint.step, lambda k: [loop.place_of(k), *new.get(k, [])])
        self._gradients = self._of_gradients(loop.adjoint)
        known = {there: self.step[k] for k, there in self.again.items()}
        told = known | {k: names[0] for k, names in self._gradients.items()}
        known |= {k: " = ".join(names) for k, names in self._gradients.items()}
        self.adjoint = _parts(loop.adjoint.step, told, known)

    def product(self, term: Term, adjoint: bool) -> str:
        """A product of the step or of its adjoint."""
        operand = (self.adjoint if adjoint else self.step)[term.operand]
        if adjoint:
            mine = delta(term.matrix)
            operand = next(
                (n for n in self._gradients.get(term.operand, []) if n.rstrip("′") == mine), operand
            )
        return product(term.matrix, operand, term.transposed)

    def rank(self, k: int) -> int:
        """The place of a node of the adjoint in a list: gradients of maps first, in the order of the cell."""
        ranked = list(self._gradients)
        return ranked.index(k) if k in ranked else len(ranked) + k

    def _of_gradients(self, adjoint: Adjoint) -> dict[int, list[str]]:
        """The names of gradients; equal ones are one node."""
        loop, nodes, results = self.loop, self.loop.whole.nodes, adjoint.step.results
        found: dict[int, list[str]] = {}
        primes: dict[str, int] = {}

        def call(result: str, name: str) -> None:
            names = found.setdefault(results[result], []) if result in results else [name]
            if name not in {n.rstrip("′") for n in names}:
                primes[name] = primes.get(name, -1) + 1
                names.append(name + "′" * primes[name])

        of_matrices = [(nodes[k].name, f"d_before {k}") for k in loop.projected]
        of_matrices += [(matrix, d) for matrix, pairs in adjoint.matrices.items() for d, _ in pairs]
        order = list(loop.graph.parameters)
        for matrix, result in sorted(of_matrices, key=lambda pair: order.index(pair[0])):
            call(result, delta(matrix))
        for name in loop.graph.states:
            call(f"d_{name}", f"∂{name}{BEFORE}")
        for k in (*loop.direct, *loop.given):
            call(f"d_before {k}", f"∂({self.whole[k]})" if " " in self.whole[k] else f"∂{self.whole[k]}")
        for vector, gradients in adjoint.vectors.items():
            for result in gradients:
                if results[result] not in found:
                    call(result, f"∂{symbol(vector)}")
        return found


def product(matrix: str, operand: str, transposed: bool = False) -> str:
    """How formulas write a product."""
    return f"{symbol(matrix)}{'ᵀ' * transposed} {f'({operand})' if ' ' in operand else operand}"


def _of_whole(graph: Graph, whole: Step) -> tuple[dict[int, str], frozenset[int]]:
    """The names of the nodes of a lowered graph, and the nodes that the author named."""
    traced = _lowered(graph)
    named = {k: name for k, name in names_of(graph).items() if graph.nodes[k].args}
    leaves = {(n.kind, n.name): k for k, n in enumerate(graph.nodes)}
    nodes = list(graph.nodes)
    place: dict[int, int] = {}
    for k, node in enumerate(whole.nodes):
        if node.kind == "read":
            kind = "input" if node.name in graph.inputs else "state"
            place[k] = leaves[kind, node.name]
        elif k in traced:
            place[k] = traced[k]
        else:  # a part of an affine map or of a composed row of the table
            args = tuple(place[a] for a in node.args)
            place[k] = len(nodes)
            if node.kind == "product":
                gate, _, source = node.name.partition(".")
                nodes.append(Traced("affine", args, gate, (source,), width=node.width))
            else:
                name = symbol(node.name) if node.kind == "vector" else node.name
                nodes.append(Traced(node.kind, args, name, value=node.value, width=node.width))
    longer = replace(graph, nodes=tuple(nodes))
    texts = {k: formula(longer, at, named)[0] for k, at in place.items()}
    told = {k: named[at] for k, at in place.items() if at in named}
    short = {k: text for k, text in texts.items() if len(text) <= LONGEST or not whole.nodes[k].args}
    return _parts(whole, told, short), frozenset(told)


def _lowered(graph: Graph) -> dict[int, int]:
    """The node of the graph, one with a name if there is, by what it became in the lowered graph."""
    varies = [False] * len(graph.nodes)
    for k, node in enumerate(graph.nodes):
        varies[k] = (node.kind in LEAVES and node.kind != "constant") or any(varies[a] for a in node.args)
    computed = [k for k, node in enumerate(graph.nodes) if node.args and varies[k]]
    computed.sort(key=lambda k: k not in graph.names)
    asked = {f"node {k}": k for k in computed}
    results = lower(
        replace(graph, outputs=(*graph.outputs, *asked), results=(*graph.results, *computed))
    ).results
    found: dict[int, int] = {}
    for name, k in asked.items():
        found.setdefault(results[name], k)
    return found


def counterparts(step: Step, other: Step, read_as: Callable[[int], Iterable[str]]) -> dict[int, int]:
    """The nodes of a step that another step has as well, and where; `read_as(k)` is what the other may read
    node k as. Equal nodes are made once, so that equality tells."""
    place = {node: k for k, node in enumerate(other.nodes)}
    found: dict[int, int] = {}
    for k, node in enumerate(step.nodes):
        twins = [Node("read", name=name, width=node.width) for name in read_as(k)]
        if all(a in found for a in node.args):
            twins.append(replace(node, args=tuple(found[a] for a in node.args)))
        if there := [place[twin] for twin in twins if twin in place]:
            found[k] = there[0]
    return found


def _parts(step: Step, named: Mapping[int, str], known: Mapping[int, str]) -> dict[int, str]:
    """`known`, and for other nodes the nearest named one that they are a part of."""
    found = dict(known)
    behind: dict[int, str] = {}  # for each node the nearest name it enters
    for k in range(len(step.nodes) - 1, -1, -1):
        if k not in found:
            found[k] = f"{PART} {behind.get(k, 'the step')}"
        for arg in step.nodes[k].args:
            name = named.get(k) or behind.get(k)
            if name:
                behind[arg] = name
    return found
