"""Reverse-mode differentiation of a step: the adjoint of each row of the table, once, from the results back.

For a step y = f(x, h; W) the adjoint reads the gradient of every result, `d_NAME`, and values of the forward
step, and computes the gradients of what was read. A product with a matrix becomes one with its transpose. The
gradient of the matrix itself is a sum over time and rows and is left to one large product after the loop: the
adjoint only names the two values that enter it. One number a row gets the sum over units of the gradients
of what it enters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from unrolled.compile.step import Builder, Expression, Node, Step
from unrolled.graph import OPERATIONS, PER_ROW


@dataclass(frozen=True)
class Adjoint:
    """The adjoint of a step.

    step: reads what `derive` was told, or else `d_NAME` for every result of the forward step and `value K`
        for its node K; its results are `d_NAME` for what the forward step reads, and `sum K` for what
        matrices and vectors need.
    matrices: for each matrix, the pairs (result of the adjoint, node of the forward step) whose outer
        products, summed over time and rows, are its gradient.
    vectors: for each learned vector, the results of the adjoint whose sum over time and rows is its gradient.
    """

    step: Step
    matrices: dict[str, list[tuple[str, int]]]
    vectors: dict[str, list[str]]


def derive(
    forward: Step,
    known: Mapping[int, str] | None = None,
    arriving: Mapping[str, tuple[str, ...]] | None = None,
    always: Mapping[str, str] | None = None,
    operands: Iterable[int] = (),
) -> Adjoint:
    """The adjoint of a step.

    Args:
        known: the values of the forward step that can be read, by node, and the name to read them under;
            others are computed again from these. Without it all can.
        arriving: for each result, the names of what adds up to its gradient.
        always: reads that have a gradient even where nothing depends on them (it is 0), and their widths.
        operands: nodes of the forward step whose values are results too, `operand K`.
    """
    known = {k: f"value {k}" for k in range(len(forward.nodes))} if known is None else known
    builder = Builder()
    gradients: dict[int, dict[str, Expression]] = {}  # what has arrived at a node, by its width

    @cache
    def value(index: int) -> Expression:
        """What the forward step computed at a node."""
        node = forward.nodes[index]
        if node.kind == "constant":
            return builder.constant(node.value)
        if node.kind in ("vector", "bernoulli", "rate", "reset"):
            return builder.make(node)
        if index in known or node.kind == "read":
            found = builder.make(Node("read", name=known.get(index, node.name), width=node.width))
            if centred(index):
                builder.centred.add(found.index)
            return found
        args = tuple(value(k) for k in node.args)
        if node.kind == "product":
            return builder.product(node.name, args[0], node.width)
        return builder.operation(node.kind, args)

    def centred(index: int) -> bool:
        """Whether a node is a value less its mean."""
        node = forward.nodes[index]
        mean = forward.nodes[node.args[1]] if node.kind == "sub" else node
        return mean.kind == "mean" and node.kind == "sub" and mean.args == node.args[:1]

    def arrive(index: int, gradient: Expression | None) -> None:
        if gradient is not None and forward.nodes[index].kind not in ("constant", "rate"):
            arrived = gradients.setdefault(index, {})
            before = arrived.get(gradient.width)
            arrived[gradient.width] = gradient if before is None else before + gradient

    def total(index: int) -> Expression:
        """The gradient of a node, as wide as the node."""
        width = forward.nodes[index].width
        parts = [
            builder.operation("sum", (part,)) if width == PER_ROW != part.width else part
            for part in gradients[index].values()
        ]
        found = parts[0]
        for part in parts[1:]:
            found = found + part
        return found if found.width == width else builder.spread(found, width)

    for name, index in forward.results.items():
        for source in arriving[name] if arriving else (f"d_{name}",):
            arrive(index, builder.make(Node("read", name=source, width=forward.nodes[index].width)))

    results: dict[str, Expression] = {}
    matrices: dict[str, list[tuple[str, int]]] = {}
    vectors: dict[str, list[str]] = {}
    for index in range(len(forward.nodes) - 1, -1, -1):
        node = forward.nodes[index]
        if index not in gradients:
            continue
        d = total(index)
        if node.kind == "read":
            results[f"d_{node.name}"] = d
        elif node.kind == "vector":
            results[f"sum {d.index}"] = d
            vectors.setdefault(node.name, []).append(f"sum {d.index}")
        elif node.kind == "product":
            results[f"sum {d.index}"] = d
            matrices.setdefault(node.name, []).append((f"sum {d.index}", node.args[0]))
            (operand,) = node.args
            arrive(operand, builder.product(node.name, d, forward.nodes[operand].width, transposed=True))
        elif (adjoint := OPERATIONS[node.kind].adjoint) is not None:
            # A row may mention what only a gradient that nobody asked for needs; `finish` drops it.
            contributions = adjoint(d, value(index), *(value(k) for k in node.args))
            for operand, contribution in zip(node.args, contributions, strict=True):
                arrive(operand, contribution)
    for name, width in (always or {}).items():
        results.setdefault(f"d_{name}", builder.make(Node("constant", width=width)))
    results |= {f"operand {k}": value(k) for k in operands}
    return Adjoint(builder.finish(results), matrices, vectors)
