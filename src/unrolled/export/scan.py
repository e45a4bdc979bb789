"""Any cell as ONNX's Scan, whose body is one step.

The body is printed from the step that the compiler works on (`unrolled.compile.step.lower`), in which
everything is a product, a row of `ROWS` or a constant. Products of the input need no state, so they are taken
for all steps at once, before the loop: the body reads their results, and tokens, which only pick a column of
a matrix, never enter it.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from unrolled.compile.step import lower
from unrolled.export.nodes import ROWS, Nodes
from unrolled.graph import OPERATIONS, Graph
from unrolled.leaves import BITS, parts


class Inputs:
    """What a layer reads.

    Attributes:
        value: (T, B, D), or token numbers (T, B).
        words: how many tokens there are; None where x is no tokens.
        mask: (T, B, 1), true at the steps that a sequence has; None where all have the same.
    """

    def __init__(self, nodes: Nodes, value: str, words: int | None = None, mask: str | None = None) -> None:
        self.nodes = nodes
        self.value = value
        self.words = words
        self.mask = mask
        self._dense: str | None = None if words else value

    @property
    def dense(self) -> str:
        """(T, B, D), where tokens are one-hot vectors."""
        if self._dense is None:
            depth, nodes = self.nodes.integers(self.words or 0), self.nodes
            off_on = nodes.integers(0, 1)  # runtimes have no doubles here
            vectors = nodes.call("OneHot", self.value, depth, off_on, axis=-1)
            self._dense = nodes.call("Cast", vectors, to=nodes.type)
        return self._dense

    def times(self, matrix: str) -> str:
        """The product with a matrix (D, H) at every step, (T, B, H)."""
        if self.words:
            return self.nodes.call("Gather", matrix, self.value, axis=0)
        return self.nodes.call("MatMul", self.value, matrix)


def scan(
    nodes: Nodes,
    graph: Graph,
    parameters: Mapping[str, Tensor],
    rates: Mapping[str, float],
    suffix: str,
    x: Inputs,
    state: Mapping[str, str],
    reverse: bool,
) -> tuple[str, dict[str, str]]:
    """One layer and direction.

    Args:
        nodes: those of the model.
        rates: the probabilities that enter the step, by name.
        suffix: of the layer and direction, for the names of its tensors.
        state: the initial states by name, each (B, H), in the order of the graph's.

    Returns:
        the outputs (T, B, H), and the final states by name.
    """
    from onnx import TensorProto, helper

    if not any(name.endswith(".bias") for name in parameters):
        graph = graph.without_biases()
    output = graph.output
    graph = graph.returning((output,))  # other outputs are handed on by nobody
    step = lower(graph)
    body = Nodes(nodes.dtype, nodes)
    old = {name: body.name(f"{name}_old") for name in graph.states}
    read: dict[str, str] = {}  # what the body reads at a step, and its name there

    def reads(value: str) -> str:
        return read.setdefault(value, body.name("step"))

    mask = reads(x.mask) if x.mask else None
    done: list[str] = []
    for node in step.nodes:
        source = step.nodes[node.args[0]] if node.args else node
        of_x = source.kind == "read" and source.name not in old
        match node.kind:
            case "read" if node.name in old:
                done.append(old[node.name])
            case "read":
                done.append("")  # its products are enough, unless it is asked for
            case "constant":
                done.append(body.number(node.value))
            case "rate":
                done.append(body.number(parts(rates[node.name]) / (1 << BITS)))  # as the layer rounds it
            case "vector":
                done.append(body.tensor(f"{suffix}.{node.name}", parameters[node.name]))
            case "product":
                matrix = body.tensor(f"{suffix}.{node.name}", parameters[node.name].t())
                done.append(
                    reads(x.times(matrix)) if of_x else body.call("MatMul", done[node.args[0]], matrix)
                )
            case _:
                args = [done[k] or reads(x.dense) for k in node.args]
                if node.kind == "where" and _is_number(source.kind):
                    args[0] = body.call("Cast", args[0], to=TensorProto.BOOL)
                done.append(ROWS[node.kind](body, *args))
    values = {name: done[k] or reads(x.dense) for name, k in step.results.items()}
    if not read:
        reads(x.value)  # a cell that does not look at x takes as many steps all the same
    leaving = [(values[name], old[name]) for name in graph.states] + [(values[output], "")]
    results = []
    for value, otherwise in leaving:
        if mask:
            value = body.call("Where", mask, value, otherwise or body.number(0.0))
        results.append(body.name("result"))
        body.rename(value, results[-1])
    kinds = {x.mask: TensorProto.BOOL} | ({x.value: TensorProto.INT64} if x.words else {})
    entering = [body.declare(name) for name in old.values()]
    entering += [body.declare(name, kind=kinds.get(value)) for value, name in read.items()]
    *finals, outputs = nodes.calls(
        "Scan",
        (*state.values(), *read),
        len(results),
        body=helper.make_graph(body.made, suffix, entering, [body.declare(name) for name in results]),
        num_scan_inputs=len(read),
        scan_input_directions=[int(reverse)] * len(read),
        scan_output_directions=[int(reverse)],
    )
    return outputs, dict(zip(graph.states, finals, strict=True))


def _is_number(kind: str) -> bool:
    """Whether a node is a number, not a condition."""
    row = OPERATIONS.get(kind)
    return row is None or row.adjoint is not None or row.reduces
