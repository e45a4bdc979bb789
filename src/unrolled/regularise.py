"""Cells made of cells: dropout and zoneout inside the step, as changes of its graph.

Each returns a cell whose step draws: `Graph.draws` names what, and `unrolled.draws.Draws` says with which
probability. A layer does this by itself (`Recurrent(lstm, ..., zoneout=0.1)`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from unrolled.cell import Cell
from unrolled.graph import Graph, Node


def zoneout(cell: Cell, states: Iterable[str]) -> Cell:
    """The cell in training: units of these states keep their old value at random.

        s ← where(zoneout_s, s, new s)

    What else is computed from the new value, such as an LSTM's h from its c, is not changed.

    Source: Krueger et al. 2017, arXiv:1606.01305.
    """

    def kept(graph: _Copy, name: str, old: int, new: int) -> int:
        width = graph.nodes[old].width
        chance = graph.add(Node("bernoulli", name=f"zoneout_{name}", width=width))
        return graph.add(Node("where", (chance, old, new), width=width))

    return _of_states(cell, "zoneout", states, kept)


def expected_zoneout(cell: Cell, states: Iterable[str]) -> Cell:
    """The cell after training: these states are what zoneout makes of them on average.

    s ← new s + p(zoneout_s) ⊙ (s − new s)
    """

    def mean(graph: _Copy, name: str, old: int, new: int) -> int:
        width = graph.nodes[old].width
        rate = graph.add(Node("rate", name=f"zoneout_{name}"))
        difference = graph.add(Node("sub", (old, new), width=width))
        part = graph.add(Node("mul", (rate, difference), width=width))
        return graph.add(Node("add", (new, part), width=width))

    return _of_states(cell, "expected zoneout", states, mean)


def recurrent_dropout(cell: Cell) -> Cell:
    """The cell in training: matrices read old states of which some units are 0, the same ones at every step.

        W_i h  becomes  W_i (where(dropout_h, 0, h) / (1 − p(dropout_h)))

    That is so for each argument of a map that is named like a state and as wide, which a product such as
    `h=r * h` is too; where a state does not go through a matrix it is whole.

    Source: Gal & Ghahramani 2016, arXiv:1512.05287.
    """

    def dropped(graph: Graph) -> Graph:
        masked = recurrent_matrices(graph)
        copy = _Copy(graph)
        for k, node in enumerate(graph.nodes):
            args = [copy.at[a] for a in node.args]
            for place, source in enumerate(node.sources if node.kind == "affine" else ()):
                if f"{node.name}.{source}" in masked:
                    args[place] = _dropped(copy, source, args[place])
            copy.at[k] = copy.add(replace(node, args=tuple(args)))
        return copy.finish()

    return _changed(cell, "recurrent dropout", dropped)


def _dropped(graph: _Copy, source: str, value: int) -> int:
    name, width = f"dropout_{source}", graph.nodes[value].width
    chance = graph.add(Node("bernoulli", name=name, sources=("sequence",), width=width))
    one, rate = graph.add(Node("constant", value=1.0)), graph.add(Node("rate", name=name))
    left = graph.add(Node("sub", (one, rate)))
    whole = graph.add(Node("div", (value, left), width=width))
    return graph.add(Node("where", (chance, graph.add(Node("constant")), whole), width=width))


def recurrent_matrices(graph: Graph) -> tuple[str, ...]:
    """The matrices that carry a state from step to step: of maps' arguments that are named like a state and
    as wide."""
    found: dict[str, None] = {}
    for node in graph.nodes:
        for source, arg in zip(node.sources, node.args, strict=False):
            if node.kind == "affine" and graph.widths.get(source) == graph.nodes[arg].width:
                found |= {f"{node.name}.{source}": None} if source in graph.states else {}
    return tuple(found)


class _Copy:
    """A graph's nodes being copied with changes; equal nodes are made once.

    Attributes:
        nodes: those that there are so far.
        at: where each node of the graph went.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: list[Node] = []
        self.at: dict[int, int] = {}
        self._made: dict[Node, int] = {}

    def add(self, node: Node) -> int:
        if node not in self._made:
            self._made[node] = len(self.nodes)
            self.nodes.append(node)
        return self._made[node]

    def finish(self, results: Iterable[int] | None = None) -> Graph:
        """The changed graph; its results are those of the other if not given."""
        return replace(
            self.graph,
            nodes=tuple(self.nodes),
            results=tuple(self.at[k] for k in self.graph.results) if results is None else tuple(results),
            names={self.at[k]: name for k, name in self.graph.names.items()},
        )


def _of_states(
    cell: Cell, what: str, states: Iterable[str], change: Callable[[_Copy, str, int, int], int]
) -> Cell:
    """The cell with other new values of some states: `change(graph, name, old, new)`."""
    states = tuple(states)

    def changed(graph: Graph) -> Graph:
        copy = _Copy(graph)
        for k, node in enumerate(graph.nodes):
            copy.at[k] = copy.add(replace(node, args=tuple(copy.at[a] for a in node.args)))
        old = {node.name: k for k, node in enumerate(copy.nodes) if node.kind == "state"}
        results = [copy.at[k] for k in graph.results]
        for place, name in enumerate(graph.states):
            if name in states:
                results[place] = change(copy, name, old[name], results[place])
        return copy.finish(results)

    return _changed(cell, f"{what} of {', '.join(states)}", changed)


def _changed(cell: Cell, what: str, change: Callable[[Graph], Graph]) -> Cell:
    square = None if cell.square is cell.graph else change(cell.square)
    return Cell(f"{cell.name} with {what}", change(cell.graph), square)
