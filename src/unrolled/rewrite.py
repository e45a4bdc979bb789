"""Cells made of cells: normalisation, dropout, zoneout and nudges inside the step, as changes of its graph;
the step through depth, which has no input; and the step with a context besides its input.

Dropout and zoneout return a cell whose step draws: `Graph.draws` names what, and `unrolled.leaves.Leaves`
says with which probability. A layer does all this by itself, as in `LSTM(32, 64, norm="layer", zoneout=0.1)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from unrolled.cell import Cell
from unrolled.errors import CellError, InputError
from unrolled.graph import PER_ROW, Graph, Node

NORMS: Final = {"layer": "layer_norm", "rms": "rms_norm"}
"""The row of the table of operations for each kind of normalisation."""


def normalise(cell: Cell, norm: str, eps: float = 1e-5) -> Cell:
    """The cell with the summed inputs of its maps normalised over the units of each row.

        W_i x + W_i h + b_i  becomes  LN(W_i x + W_i h) ⊙ γ_i + b_i

    The gain `i.gain` starts at 1, the bias where it did. A map whose value is a new state or an output, such
    as a projection, is as before.

    Args:
        norm: "layer" for mean 0 and variance 1 (Ba, Kiros & Hinton 2016, arXiv:1607.06450, equation 4), "rms"
            for a mean square of 1 (Zhang & Sennrich 2019, arXiv:1910.07467).
        eps: what is added to the variance or the mean square.

    Raises:
        InputError: no such normalisation.
        CellError: an argument of a map is called "gain".
    """
    if norm not in NORMS:
        raise InputError(f"no norm {norm!r}; there are {', '.join(NORMS)}")

    def normalised(graph: Graph) -> Graph:
        copy = _Copy(graph)
        starts: dict[str, float | str] = {}
        small = copy.add(Node("constant", value=eps))
        for k, node in enumerate(graph.nodes):
            node = replace(node, args=tuple(copy.at[a] for a in node.args))
            if node.kind != "affine" or k in graph.results:
                copy.at[k] = copy.add(node)
                continue
            if "gain" in node.sources:
                raise CellError(
                    f"cell {cell.name!r}: an argument of W.{node.name} has the gain's name; rename it"
                )
            total = copy.add(replace(node, bias=None))
            total = copy.add(Node(NORMS[norm], (total, small), width=node.width))
            for kind, name, start in (("mul", "gain", 1.0), ("add", "bias", node.bias)):
                if start is not None:
                    vector = copy.add(Node("vector", name=f"{node.name}.{name}", width=node.width))
                    total = copy.add(Node(kind, (total, vector), width=node.width))
                    starts[f"{node.name}.{name}"] = start
            copy.at[k] = total
        return replace(copy.finish(), inits={**starts, **graph.inits})

    return _changed(cell, f"{norm} norm", normalised)


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


def resetting(cell: Cell, learned: Iterable[str] = ()) -> Cell:
    """The cell whose state may return to its initial value before any step, and lets no gradient pass there.

        every s  becomes  where(reset, initial s, s)

    Args:
        learned: states whose initial value is a learned vector, `initial.s`; others begin as the cell says.
    """

    def changed(graph: Graph) -> Graph:
        copy = _Copy(graph)
        reset = copy.add(Node("reset", name="state", width=PER_ROW))
        for k, node in enumerate(graph.nodes):
            copy.at[k] = copy.add(replace(node, args=tuple(copy.at[a] for a in node.args)))
            if node.kind == "state":
                if node.name in learned:
                    start = copy.add(Node("vector", name=f"initial.{node.name}", width=node.width))
                else:
                    start = copy.add(Node("constant", value=graph.initial.get(node.name, 0.0)))
                copy.at[k] = copy.add(Node("where", (reset, start, copy.at[k]), width=node.width))
        return copy.finish()

    return _changed(cell, "resets", changed)


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


NUDGE: Final = "nudge_"
"""Before a state's name, what is added to it."""


def nudged(cell: Cell) -> Cell:
    """The cell with an input `nudge_h` for each state, which is added to the old state. Where that is 0 it is
    the same cell; its gradient at a step is that of the state before the step."""

    def changed(graph: Graph) -> Graph:
        copy = _Copy(graph)
        nudges = []
        for k, node in enumerate(graph.nodes):
            copy.at[k] = copy.add(replace(node, args=tuple(copy.at[a] for a in node.args)))
            if node.kind == "state":
                nudges.append(f"{NUDGE}{node.name}")
                nudge = copy.add(Node("input", name=nudges[-1], width=node.width))
                copy.at[k] = copy.add(Node("add", (copy.at[k], nudge), width=node.width))
        return replace(copy.finish(), inputs=(*graph.inputs, *nudges))

    return _changed(cell, "nudges", changed)


def without_input(cell: Cell) -> Cell:
    """The cell through depth: its maps do not see the input, which nothing reads any more.

        W_i x + W_i h + b_i  becomes  W_i h + b_i

    Raises:
        CellError: its equations use the input otherwise than in a map, or a map of it alone has no bias that
            could stand in its place.
    """

    def changed(graph: Graph) -> Graph:
        (x,) = (k for k, node in enumerate(graph.nodes) if node.kind == "input")
        if graph.uses_directly(graph.inputs[0]):
            raise CellError(
                f"cell {cell.name!r} adds its input {graph.inputs[0]!r} to something: through depth it has "
                "none"
            )
        copy = _Copy(graph)
        starts: dict[str, float | str] = {}
        for k, node in enumerate(graph.nodes):
            seen = [(s, a) for s, a in zip(node.sources, node.args, strict=False) if a != x]
            if node.kind != "affine":
                copy.at[k] = copy.add(replace(node, args=tuple(copy.at[a] for a in node.args)))
            elif seen:
                sources, args = zip(*seen, strict=True)
                copy.at[k] = copy.add(replace(node, sources=sources, args=tuple(copy.at[a] for a in args)))
            elif node.bias is None:
                raise CellError(
                    f"cell {cell.name!r}: through depth W.{node.name} sees nothing, and it has no bias"
                )
            else:
                name = f"{node.name}.bias"
                copy.at[k] = copy.add(Node("vector", name=name, width=node.width))
                starts[name] = node.bias
        return replace(copy.finish(), inits={**starts, **graph.inits})

    if len(cell.inputs) != 1:
        raise CellError(
            f"cell {cell.name!r} has the inputs {', '.join(cell.inputs)}: through depth it has none"
        )
    return _changed(cell, "no input", changed)


CONTEXT: Final = "context"
"""The input that a cell reads besides its own: what attention found, say, or a picture."""

FED: Final = "fed"
"""The gate that is fed to the next step."""

ENTERS: Final = ("plain", "gated", "fed")
"""How a context enters the step."""


def with_context(cell: Cell, enters: str = "plain") -> Cell:
    """The cell with a second input z, its first from then on, called "context", in every map that sees x.

        W_i x + W_i h + b_i  becomes  W_i x + W_i h + W_i z + b_i

    With v the first state:

        plain   z as it is (Bahdanau, Cho & Bengio 2015, arXiv:1409.0473)
        gated   σ(W_beta v + b_beta) ⊙ z (Xu et al. 2015, arXiv:1502.03044, with a gate for every element)
        fed     tanh(W_feed z + W_feed v + b_feed), as wide as v: what an output is made of is fed to the next
                step (Luong, Pham & Manning 2015, arXiv:1508.04025)

    Raises:
        InputError: it enters in no such way.
        CellError: no map sees the input, or an argument or a map has a name that is needed.
    """
    if enters not in ENTERS:
        raise InputError(f"a context enters {', '.join(ENTERS)}, not {enters!r}")
    gate = {"gated": "beta", "fed": "feed"}.get(enters)
    taken = {node.name for node in cell.graph.nodes} | {s for node in cell.graph.nodes for s in node.sources}
    if clash := [name for name in (CONTEXT, gate) if name in taken]:
        raise CellError(f"cell {cell.name!r} uses the name {clash[0]!r} already; rename it")

    def changed(graph: Graph) -> Graph:
        x = next(k for k, node in enumerate(graph.nodes) if node.kind == "input")
        first = next(node for node in graph.nodes if node.kind == "state" and node.name == graph.states[0])
        if not any(node.kind == "affine" and x in node.args for node in graph.nodes):
            raise CellError(f"cell {cell.name!r}: no map sees its input, so that a context could enter there")
        copy = _Copy(graph)
        width = next(name for name in ("M", "Z", "N") if name not in {node.width for node in graph.nodes})
        z = copy.add(Node("input", name=CONTEXT, width=width))
        h = copy.add(first)
        named = {}
        if enters == "gated":
            asked = copy.add(Node("affine", (h,), "beta", (first.name,), 0.0, width=width))
            beta = copy.add(Node("sigmoid", (asked,), width=width))
            named[beta] = "beta"
            z = copy.add(Node("mul", (beta, z), width=width))
        elif enters == "fed":
            both = Node("affine", (z, h), "feed", (CONTEXT, first.name), 0.0, width=first.width)
            z = copy.add(Node("tanh", (copy.add(both),), width=first.width))
            named[z] = FED
        for k, node in enumerate(graph.nodes):
            args = tuple(copy.at[a] for a in node.args)
            if node.kind == "affine" and x in node.args:
                node = replace(node, sources=(*node.sources, CONTEXT), args=(*args, z))
            else:
                node = replace(node, args=args)
            copy.at[k] = copy.add(node)
        whole = copy.finish()
        return replace(whole, inputs=(CONTEXT, *graph.inputs), names={**whole.names, **named})

    return _changed(cell, f"{enters} context", changed)


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
