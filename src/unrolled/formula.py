"""A graph as formulas, in plain text.

    i = σ(W_ix xₜ + W_ih hₜ₋₁ + b_i)
    cₜ = f ⊙ cₜ₋₁ + i ⊙ g

A line for every value the author named and for every result; what has no name is written where it is used.
"""

from __future__ import annotations

from collections.abc import Mapping

from unrolled.graph import OPERATIONS, Graph, Node, Parameter

NOW, BEFORE = "ₜ", "ₜ₋₁"


def formulas(graph: Graph) -> list[str]:
    """The equations of one step, a line each, in the order of computation."""
    named = names(graph)
    lines = [f"{named[k]} = {text(graph, k, named, top=True)[0]}" for k in sorted(named)]
    for k, name in zip(graph.results, (*graph.states, *graph.outputs), strict=True):
        known = named.get(k) or leaf(graph.nodes[k])
        if known != name + NOW:  # the value of an earlier result, or what it was before
            lines.append(f"{name}{NOW} = {known}")
    return lines


def names(graph: Graph) -> dict[int, str]:
    """What formulas call the values that the author named, and the results, by node."""
    found = dict(graph.names)
    of_results: dict[int, str] = {}
    for k, name in zip(graph.results, (*graph.states, *graph.outputs), strict=True):
        if graph.nodes[k].args:
            of_results.setdefault(k, name + NOW)
    return found | of_results


def leaf(node: Node) -> str:
    """How a formula writes a node that is not computed."""
    if node.kind == "constant":
        return f"{node.value:g}".replace("-", "−")
    name = {"rate": f"p({node.name})", "reset": "reset"}.get(node.kind) or Parameter(node.name, ()).symbol
    return name + {"input": NOW, "state": BEFORE}.get(node.kind, "")


def text(graph: Graph, index: int, named: Mapping[int, str], top: bool = False) -> tuple[str, int]:
    """The text of a node and how tightly it holds together.

    Args:
        named: what is written by its name, by node; `top` for the node's own formula all the same.
    """
    node = graph.nodes[index]
    if index in named and not top:
        return named[index], 5
    if not node.args:
        return leaf(node), 3 if node.kind == "constant" and node.value < 0 else 5
    if node.kind == "affine":
        terms = []
        for source, arg in zip(node.sources, node.args, strict=True):
            term, binding = text(graph, arg, named)
            terms.append(f"W_{node.name}{source} {term if binding == 5 and ' ' not in term else f'({term})'}")
        if node.bias is not None:
            terms.append(f"b_{node.name}")
        return " + ".join(terms), 1
    row = OPERATIONS[node.kind]
    texts = []
    for position, arg in enumerate(node.args):
        part, binding = text(graph, arg, named)
        # a − (b + c), a / (b ⊙ c) and a^(b^c) keep their brackets on the right
        loose = binding < row.binding or (
            binding == row.binding and (position if row.name in ("sub", "div") else row.name == "pow")
        )
        texts.append(f"({part})" if loose and row.binding < 5 else part)
    return row.text.format(*texts), row.binding
