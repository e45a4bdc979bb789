"""The derived adjoint of a step gives the gradients that autograd finds, for every cell and every row."""

import pytest
import torch
from torch import Tensor

from cases import SETTINGS, Setting
from unrolled import cell
from unrolled.compile.derive import derive
from unrolled.compile.step import lower
from unrolled.graph import OPERATIONS, Graph

ROUNDING = 1e-12


def by_adjoint(
    graph: Graph, read: dict[str, Tensor], parameters: dict[str, Tensor], upstream: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The gradients by running the adjoint on tensors."""
    forward = lower(graph)
    values = forward.run(read, parameters)
    adjoint = derive(forward)
    known = {f"value {k}": value for k, value in enumerate(values)}
    known |= {f"d_{name}": gradient for name, gradient in upstream.items()}
    sizes = {n.width: value.shape[-1] for n, value in zip(forward.nodes, values, strict=True) if n.width}
    done = adjoint.step.run(known, parameters, sizes)
    result = {name: done[k] for name, k in adjoint.step.results.items()}
    found = {name: torch.zeros_like(value) for name, value in (read | parameters).items()}
    found |= {name: result[f"d_{name}"] for name in read if f"d_{name}" in result}
    for name, pairs in adjoint.matrices.items():
        found[name] = sum(result[d].T @ values[k].expand(len(result[d]), -1) for d, k in pairs)
    for name, sums in adjoint.vectors.items():
        found[name] = sum(result[d].sum(0) for d in sums)
    return found


def by_autograd(
    graph: Graph, read: dict[str, Tensor], parameters: dict[str, Tensor], upstream: dict[str, Tensor]
) -> dict[str, Tensor]:
    leaves = read | parameters
    results = graph.run(read, parameters)
    total = sum((y * upstream[name]).sum() for name, y in zip(upstream, results, strict=True))
    grads = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return {
        name: torch.zeros_like(leaf) if grad is None else grad
        for (name, leaf), grad in zip(leaves.items(), grads, strict=True)
    }


def assert_adjoint(graph: Graph, read: dict[str, Tensor], parameters: dict[str, Tensor]) -> None:
    names = (*graph.states, *graph.outputs)
    results = graph.run(read, parameters)
    upstream = {name: torch.randn_like(y) for name, y in zip(names, results, strict=True)}
    found = by_adjoint(graph, read, parameters, upstream)
    expected = by_autograd(graph, read, parameters, upstream)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        error = (found[name] - value).abs().max().item()
        assert error <= ROUNDING * max(1.0, value.abs().max().item()), name


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.id)
def test_the_adjoint_of_every_cell_is_its_gradient(setting: Setting) -> None:
    case = setting.case(T=1, B=4)
    graph = setting.cell.graph_for(setting.D, setting.H)
    assert_adjoint(graph, {"x": case.x[0], **case.state}, dict(case.parameters))


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.id)
def test_lowering_changes_no_result(setting: Setting) -> None:
    case = setting.case(T=1, B=4)
    graph = setting.cell.graph_for(setting.D, setting.H)
    read = {"x": case.x[0], **case.state}
    step = lower(graph)
    values = step.run(read, case.parameters)
    for name, expected in zip((*graph.states, *graph.outputs), graph.run(read, case.parameters), strict=True):
        assert (values[step.results[name]] - expected).abs().max() < ROUNDING, name


DIFFERENTIABLE = [name for name, row in OPERATIONS.items() if row.adjoint is not None]


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_the_adjoint_of_every_row_is_its_gradient(name: str) -> None:
    """At both signs where the function has both, at a tie, and beyond softplus's linear end."""
    row = OPERATIONS[name]

    @cell(states="a b")
    def one(a, b, W):
        operands = (a > b, a, b) if name == "where" else (a, b)[: row.arity]
        value = operands[0].apply(name, operands)
        return value * b if row.reduces else value, b

    positive = name in ("log", "log1p", "sqrt", "pow")
    a = torch.tensor([[0.3, 1.7, 25.0, 0.5], [2.0, 0.9, 3.1, 0.2]], dtype=torch.float64)
    a = a if positive else a * torch.tensor([1.0, -1.0, 1.0, -1.0])
    b = torch.tensor([[0.4, 1.2, 1.5, 0.5], [2.0, -0.7, 0.6, 1.1]], dtype=torch.float64)
    b = b.abs() if name in ("div", "pow") else b
    if name in ("exp", "expm1"):
        a = a / 10
    assert_adjoint(one.graph, {"a": a.requires_grad_(), "b": b.requires_grad_()}, {})


def test_equal_values_are_computed_once_and_constants_in_advance() -> None:
    @cell(states="h")
    def wasteful(x, h, W):
        a = torch.sigmoid(W.a(x, h))
        again = torch.sigmoid(W.a(x, h))
        return (a + again * 1) * (h - 0) / 1 + 0

    step = lower(wasteful.graph)
    assert [node.kind for node in step.nodes].count("sigmoid") == 1
    assert [node.kind for node in step.nodes].count("product") == 2
    assert "constant" not in {node.kind for node in step.nodes}


def test_the_adjoint_computes_nothing_that_no_gradient_needs() -> None:
    from unrolled.cells import lstm

    adjoint = derive(lower(lstm.graph))
    used = {k for node in adjoint.step.nodes for k in node.args} | set(adjoint.step.results.values())
    assert used == set(range(len(adjoint.step.nodes)))
    assert sorted(adjoint.matrices) == sorted(n for n in lstm.parameters if not n.endswith(".bias"))
    assert sorted(adjoint.vectors) == sorted(n for n in lstm.parameters if n.endswith(".bias"))
