"""Reductions over the units of a row: sums, means, maxima, and what is written with them."""

import json
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, sigmoid, tanh

from cases import Setting, one_line, random
from unrolled import CellError, InputError, cell, layer_norm, rms_norm
from unrolled.cell import Cell
from unrolled.cells import layer_norm_lstm, layer_norm_rnn
from unrolled.compile.derive import derive
from unrolled.compile.step import Builder, Node, lower
from unrolled.graph import OPERATIONS, PER_ROW, Graph
from unrolled.nn import Recurrent
from unrolled.report.draw import draw, sign

REDUCTIONS = ("sum", "mean", "amax")
assert {name for name, row in OPERATIONS.items() if row.reduces} == {*REDUCTIONS}


def one_value(write: Callable) -> Cell:
    """A cell whose output is what `write` makes of x (D), h (H) and weights, as wide as h."""

    def mine(x, h, W):
        return tanh(W.a(x, h)), h * 0 + write(x, h, W)

    return cell(states="h", outputs="y")(mine)


def output(made: Cell, D: int = 3, H: int = 5, B: int = 4) -> tuple[Tensor, dict[str, Tensor]]:
    """The output of a step of random values, which the equations and the graph give alike, and the values."""
    case = Setting(made, D, H).case(T=1, B=B)
    values = {"x": case.x[0], **case.state}
    found, ran = made.run(values, case.parameters)[1], made.graph.run(values, case.parameters)[1]
    assert torch.equal(found, ran)
    return found, values | dict(case.parameters)


# what they compute

ROWS = {
    "a sum of an input": (
        lambda x, h, W: x.sum(-1, keepdim=True),
        lambda x, h, p: x.sum(1)[:, None].expand_as(h),
    ),
    "a mean of a state": (
        lambda x, h, W: torch.mean(h, dim=-1, keepdim=True),
        lambda x, h, p: h.mean(1)[:, None].expand_as(h),
    ),
    "a maximum of a sum": (
        lambda x, h, W: torch.amax(h + W.p, -1, True),
        lambda x, h, p: (h + p).max(1).values[:, None].expand_as(h),
    ),
    "a mean of a mean": (
        lambda x, h, W: h.mean(-1, keepdim=True).mean(-1, keepdim=True),
        lambda x, h, p: h.mean(1)[:, None].expand_as(h),
    ),
    "a sum of a mean": (
        lambda x, h, W: (h * h.mean(-1, keepdim=True)).sum(-1, keepdim=True),
        lambda x, h, p: (h.sum(1) * h.mean(1))[:, None].expand_as(h),
    ),
    "a variance": (
        lambda x, h, W: ((h - h.mean(-1, keepdim=True)) ** 2).mean(-1, keepdim=True),
        lambda x, h, p: h.var(1, unbiased=False)[:, None].expand_as(h),
    ),
    "a number, a number a row and a vector": (
        lambda x, h, W: W.p * (2 - x.mean(-1, keepdim=True)),
        lambda x, h, p: torch.outer(2 - x.mean(1), p),
    ),
    "numbers a row of two widths": (
        lambda x, h, W: torch.maximum(x.mean(-1, keepdim=True), h.mean(-1, keepdim=True)),
        lambda x, h, p: torch.maximum(x.mean(1), h.mean(1))[:, None].expand_as(h),
    ),
    "a choice by row": (
        lambda x, h, W: torch.where(x.sum(-1, keepdim=True) > 0, h, W.p),
        lambda x, h, p: torch.stack([h[b] if x[b].sum() > 0 else p for b in range(len(h))]),
    ),
    "a mean of a learned vector": (
        lambda x, h, W: torch.mean(W.p, -1, keepdim=True) * h,
        lambda x, h, p: p.mean() * h,
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_number_of_a_row_is_of_that_row_and_meets_every_width(name):
    write, expected = ROWS[name]
    found, values = output(one_value(write))
    wanted = expected(values["x"], values["h"], values.get("p"))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", REDUCTIONS)
def test_methods_and_functions_are_one_operation_over_the_units(name):
    function = getattr(torch, name)
    ways = [
        lambda x, h, W: function(h, -1, keepdim=True),
        lambda x, h, W: function(h, dim=-1, keepdim=True),
        lambda x, h, W: function(input=h, dim=-1, keepdim=True),
        lambda x, h, W: getattr(h, name)(-1, keepdim=True),
        lambda x, h, W: getattr(h, name)(-1, True),
    ]
    graphs = [one_value(way).graph for way in ways]
    assert all(graph == graphs[0] for graph in graphs)
    (node,) = [node for node in graphs[0].nodes if node.kind == name]
    assert node.width == PER_ROW
    assert graphs[0].reduces


def test_a_number_a_row_has_no_unit_and_leaves_widths_as_they_are():
    @cell(states="h c")
    def mine(x, h, c, W):
        level = sigmoid(x.mean(-1, keepdim=True) + h.mean(-1, keepdim=True) * c.sum(-1, keepdim=True))
        return tanh(W.a(x, h)) * level, W.p * level + tanh(W.b(x, c))

    assert mine.graph.widths == {"x": "D", "h": "H_h", "c": "H_c"}
    assert {name: p.shape for name, p in mine.parameters.items() if name == "p"} == {"p": ("H_c",)}
    widths = {node.kind: node.width for node in mine.graph.nodes}
    assert widths["sigmoid"] == widths["mean"] == widths["sum"] == PER_ROW


def test_only_cells_with_reductions_say_so():
    assert layer_norm_rnn.graph.reduces
    assert one_value(lambda x, h, W: h.mean(-1, keepdim=True)).graph.reduces
    assert not one_value(lambda x, h, W: h).graph.reduces


def test_json_keeps_numbers_a_row():
    graph = one_value(lambda x, h, W: layer_norm(h, W.g, eps=1e-3) * h.amax(-1, keepdim=True)).graph
    data = json.loads(json.dumps(graph.to_json(), allow_nan=False))
    assert Graph.from_json(data) == graph
    assert {node["kind"] for node in data["nodes"]} >= {"amax", "layer_norm"}


# gradients


def test_the_largest_units_share_the_gradient_as_in_torch():
    """In the adjoint and in torch: three equal largest units, two, and one."""
    made = one_value(lambda x, h, W: W.p * h.amax(-1, keepdim=True))
    forward = lower(made.graph)
    adjoint = derive(forward)
    h = torch.tensor([[2, 2, -1, 2], [0.5, 0, 0.5, -3], [1, 4, 0, 3]], dtype=torch.float64)
    read = {"x": random(3, 2).detach(), "h": h.requires_grad_()}
    parameters = {"p": random(4), "a.x": random(4, 2), "a.h": random(4, 4), "a.bias": random(4)}
    values = forward.run(read, parameters)
    d = random(3, 4).detach()
    known = {f"value {k}": value for k, value in enumerate(values)} | {"d_y": d, "d_h": torch.zeros_like(d)}
    found = adjoint.step.run(known, parameters, {"H": 4, "D": 2})[adjoint.step.results["d_h"]]
    (expected,) = torch.autograd.grad((made.graph.run(read, parameters)[1] * d).sum(), h)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    total = (parameters["p"] * d).sum(1).detach()
    assert torch.allclose(found[0], total[0] * torch.tensor([1, 1, 0, 1]).double() / 3)
    assert torch.allclose(found[1], total[1] * torch.tensor([1, 0, 1, 0]).double() / 2)


def test_a_gradient_is_as_wide_as_what_it_belongs_to():
    """The adjoint's sums and copies over units: every result is wide, every number a row gets a sum."""
    forward = lower(Setting(layer_norm_lstm).cell.graph)
    for step in (forward, derive(forward).step):
        for node in step.nodes:
            widths = [step.nodes[k].width for k in node.args]
            if node.kind in REDUCTIONS:
                assert node.width == PER_ROW != widths[0]
            elif node.kind == "spread":
                assert widths == [PER_ROW] != [node.width]
            elif node.kind in OPERATIONS:
                assert node.width in widths
                assert {node.width, "", PER_ROW} >= {*widths}
        assert {step.nodes[k].width for k in step.results.values()} <= {"H", "D"}


def test_a_value_whose_units_all_count_alike_gets_its_gradient_spread():
    """And of a mean, divided by how many units there are."""

    @cell(states="h")
    def mine(x, h, W):
        return W.a(h) * x.mean(-1, keepdim=True)

    step = derive(lower(mine.graph)).step
    result = step.nodes[step.results["d_x"]]
    assert (result.kind, result.width) == ("spread", "D")
    assert [node.name for node in step.nodes if node.kind == "size"] == ["D"]


def test_a_layer_norm_is_two_reductions_forward_and_two_backward_and_one_division_a_row():
    made = one_value(lambda x, h, W: layer_norm(h, W.g, W.b))
    forward = lower(made.graph)
    adjoint = derive(forward)
    for step in (forward, adjoint.step):
        assert sum(node.kind in REDUCTIONS for node in step.nodes) == 2
        assert all(node.width == PER_ROW for node in step.nodes if node.kind == "div")


def test_composed_operations_are_written_out_and_a_reduction_of_a_number_a_row_is_itself():
    step = lower(one_value(lambda x, h, W: layer_norm(h).sum(-1, keepdim=True)).graph)
    assert not {node.kind for node in step.nodes} & {n for n, row in OPERATIONS.items() if row.composed}
    builder = Builder()
    h = builder.make(Node("read", name="h", width="H"))
    for name in REDUCTIONS:
        once = builder.operation(name, (h,))
        assert once.width == PER_ROW
        assert builder.operation(name, (once,)).index == once.index


def test_a_mean_that_is_known_is_not_taken():
    """Sums and means are linear, and what is less its mean has none."""
    builder = Builder()
    a, d = (builder.make(Node("read", name=name, width="H")) for name in "ad")
    row = builder.make(Node("read", name="r", width=PER_ROW))
    mean, size = builder.operation("mean", (a,)), builder.make(Node("size", name="H"))
    centred = a - mean
    zero = builder.constant(0.0)
    for name, of_row in (("mean", row), ("sum", row * size)):
        total = builder.operation(name, (d,))
        for found, wanted in (
            (centred, zero),
            (-centred, -zero),
            (row * centred, zero),
            (d * row, row * total),
            (d * row + centred * row, row * total),
            (centred - d, zero - total),
            (builder.spread(row, "H"), of_row),
            (d - builder.spread(row, "H"), total - of_row),
        ):
            assert builder.operation(name, (found,)).index == wanted.index
    largest = builder.operation("amax", (centred,))
    assert largest.node.kind == "amax"
    for other in (d * centred, d * d, a + d, d - mean + a):
        assert builder.operation("sum", (other,)).node.kind == "sum" or other.node.kind in ("add", "sub")


# layer_norm and rms_norm


def of_torch(norm, v, gain, bias, eps):
    if norm is layer_norm:
        return F.layer_norm(v, v.shape[-1:], gain, bias, eps)
    return F.rms_norm(v, v.shape[-1:], gain, eps) + (0 if bias is None else bias)


norms = pytest.mark.parametrize("norm", [layer_norm, rms_norm])


@norms
@pytest.mark.parametrize("eps", [1e-5, 0.25])
@pytest.mark.parametrize("learned", ["", "g", "b", "gb"])
def test_norms_are_torchs(norm, learned, eps):
    def write(x, h, W):
        gain, bias = (W[k] if k in learned else None for k in "gb")
        return norm(h + x.sum(-1, keepdim=True), gain, bias, eps=eps)

    found, values = output(one_value(write))
    v = values["h"] + values["x"].sum(1, keepdim=True)
    wanted = of_torch(norm, v, values.get("g"), values.get("b"), eps)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-13)
    given = norm(v, values.get("g"), values.get("b"), eps=eps)
    torch.testing.assert_close(given, wanted, rtol=0, atol=1e-13)


@norms
@pytest.mark.parametrize("shape", [(5,), (4, 5), (3, 4, 5)], ids=lambda shape: f"{len(shape)} axes")
def test_a_norm_of_tensors_is_over_their_last_axis(norm, shape):
    v, gain, bias = random(*shape), random(5), random(5)
    wanted = of_torch(norm, v, gain, bias, 1e-5)
    torch.testing.assert_close(norm(v, gain, bias), wanted, rtol=0, atol=1e-13)
    assert torch.autograd.gradcheck(norm, (v, gain, bias), atol=1e-8, rtol=1e-5)


def test_layer_norm_of_a_learned_vector():
    found, values = output(one_value(lambda x, h, W: layer_norm(W.p) * h))
    wanted = F.layer_norm(values["p"], (5,)) * values["h"]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-13)


def test_a_learned_gain_starts_at_one_and_a_learned_bias_at_zero_unless_it_is_said():
    def write(x, h, W):
        return layer_norm(h, W.g, W.b) + layer_norm(h * h, W.q(init=0.1), W.r(init="ones"))

    made = one_value(write)
    assert made.graph.inits == {"g": 1.0, "b": 0.0, "q": 0.1, "r": "ones"}
    layer = Recurrent(made, 3, 4, init={"b": 0.5})
    for name, value in {"g": 1.0, "b": 0.5, "q": 0.1, "r": 1.0}.items():
        assert torch.equal(layer.parameters_of("l0")[name], torch.full((4,), value)), name


# learned vectors that start somewhere


def test_a_learned_vector_starts_where_it_is_said():
    @cell(states="h")
    def mine(x, h, W):
        return tanh(W.a(x, h) + W.p(init=0.25) * h + W.p * h * h)

    assert mine.parameters["p"].init == 0.25
    assert [node.kind for node in mine.graph.nodes].count("vector") == 1
    case = Setting(mine).case(T=1)
    x, h, W = case.x[0], case.state["h"], case.parameters
    expected = tanh(x @ W["a.x"].T + h @ W["a.h"].T + W["a.bias"] + W["p"] * (h + h * h))
    torch.testing.assert_close(mine(x, h, W), expected, rtol=0, atol=1e-14)
    assert torch.equal(mine(x, h, W), mine.graph.run({"x": x, "h": h}, W)[0])


def test_where_a_dropped_vector_or_map_starts_is_dropped_with_it():
    @cell(states="h")
    def mine(x, h, W):
        layer_norm(h, W.gain)
        W.b(x, h, init={"h": "identity"})
        return tanh(W.a(x, h))

    assert mine.graph.inits == {}
    assert list(mine.parameters) == ["a.x", "a.h", "a.bias"]


def test_a_vector_that_starts_somewhere_is_no_map():
    def mine(x, h, W):
        return tanh(W.p(x, h)) + W.p(init=1.0)

    with pytest.raises(CellError, match=r"W\.p is both a learned vector and a map"):
        cell(states="h")(mine)


# what is shown


def test_the_signs_of_reductions_and_what_the_picture_says_of_them():
    made = one_value(lambda x, h, W: layer_norm(h, eps=0.5) * h.amax(-1, keepdim=True) + h.sum(-1, True))
    signs = {node.kind: sign(made.graph, node) for node in made.graph.nodes if node.kind in OPERATIONS}
    assert signs["layer_norm"] == "LN(·, 0.5)"
    assert (signs["amax"], signs["sum"]) == ("max", "sum")
    assert "circles act on each element, LN and max and sum on a whole row." in draw(made)
    assert "circles act on each element." in draw(one_value(lambda x, h, W: h))


def test_a_wrong_shape_is_named():
    case = Setting(layer_norm_rnn).case()
    with pytest.raises(InputError) as caught:
        layer_norm_rnn.graph.sizes(case.parameters | {"gain_h": random(1)})
    assert one_line(caught.value) == "parameter 'gain_h' has shape (1,), expected (2,)"
