"""A graph as formulas, in plain text.

    i = σ(W_ix xₜ + W_ih hₜ₋₁ + b_i)
    cₜ = f ⊙ cₜ₋₁ + i ⊙ g

A line for every value the author named and for every result; what has no name is written where it is used.
"""

from __future__ import annotations

from unrolled.graph import OPERATIONS, Graph, Node

NOW, BEFORE = "ₜ", "ₜ₋₁"


def formulas(graph: Graph) -> list[str]:
    """The equations of one step, a line each, in the order of computation."""
    result_of: dict[int, str] = {}
    again = []  # results that are the value of an earlier one
    for k, name in zip(graph.results, (*graph.states, *graph.outputs), strict=True):
        if graph.nodes[k].args and k in result_of:
            again.append(f"{name}{NOW} = {result_of[k]}{NOW}")
        elif graph.nodes[k].args:
            result_of[k] = name
        else:
            again.append(f"{name}{NOW} = {leaf(graph.nodes[k])}")
    named = {k: name for k, name in graph.names.items() if k not in result_of}
    named |= {k: name + NOW for k, name in result_of.items()}
    lines = [f"{named[k]} = {_text(graph, k, named, top=True)[0]}" for k in sorted(named)]
    return lines + again


def leaf(node: Node) -> str:
    """How a formula writes a node that is not computed."""
    if node.kind == "constant":
        return f"{node.value:g}".replace("-", "−")
    return node.name + {"input": NOW, "state": BEFORE}.get(node.kind, "")


def _text(graph: Graph, index: int, named: dict[int, str], top: bool = False) -> tuple[str, int]:
    """The text of a node and how tightly it holds together."""
    node = graph.nodes[index]
    if index in named and not top:
        return named[index], 5
    if not node.args:
        return leaf(node), 3 if node.kind == "constant" and node.value < 0 else 5
    if node.kind == "affine":
        terms = []
        for source, arg in zip(node.sources, node.args, strict=True):
            text, binding = _text(graph, arg, named)
            terms.append(f"W_{node.name}{source} {text if binding == 5 and ' ' not in text else f'({text})'}")
        if node.bias is not None:
            terms.append(f"b_{node.name}")
        return " + ".join(terms), 1
    row = OPERATIONS[node.kind]
    texts = []
    for position, arg in enumerate(node.args):
        text, binding = _text(graph, arg, named)
        # a − (b + c), a / (b ⊙ c) and a^(b^c) keep their brackets on the right
        loose = binding < row.binding or (
            binding == row.binding and (position if row.name in ("sub", "div") else row.name == "pow")
        )
        texts.append(f"({text})" if loose and row.binding < 5 else text)
    return row.text.format(*texts), row.binding
