"""The graph as data: the table of operations, sizes, the saved form, and `affine`."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cases import Setting, direct, one_line, projected, random, slstm, two_products
from unrolled import Cell, CellError, InputError, cell
from unrolled.cells import CELLS, gru, lstm, mut1, rnn
from unrolled.graph import OPERATION_OF, OPERATIONS, Graph, Node, Parameter, affine

# the table of operations

CALLED = [
    (row.name, function)
    for row in OPERATIONS.values()
    if not row.composed
    for function in (row.run, *row.also)
]


def operands_of(name: str, h, v) -> tuple:
    """As many operands as the operation takes, within its domain."""
    if name == "where":
        return (h > v, v, h)
    if name in ("log", "sqrt", "pow"):
        h = abs(h) + 0.5
    if name == "log1p":
        h = abs(h)
    return (h, v)[: OPERATIONS[name].arity]


def options_of(name: str, function) -> dict:
    """What torch's reductions must be told; the rows of the table know."""
    row = OPERATIONS[name]
    return {"dim": -1, "keepdim": True} if row.reduces and function in row.also else {}


@pytest.mark.parametrize(("name", "function"), CALLED, ids=lambda p: getattr(p, "__name__", p))
def test_every_function_of_the_table_is_one_operation(name, function):
    @cell(states="h")
    def mine(x, h, W):
        return W.a(x, h) * function(*operands_of(name, h, W.p), **options_of(name, function))

    assert name in [node.kind for node in mine.graph.nodes]
    assert OPERATION_OF[function] == name
    case = Setting(mine).case(T=1)
    x, h, W = case.x[0], case.state["h"], case.parameters
    found = mine(x, h, W)
    assert torch.equal(found, mine.graph.run({"x": x, "h": h}, W)[0])
    value = function(*operands_of(name, h, W.get("p", h)), **options_of(name, function))
    expected = affine(W, "a", {"x": x, "h": h}) * value
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", [name for name in OPERATIONS if hasattr(Tensor, name) and name != "where"])
def test_a_method_is_its_function(name):
    def by_method(x, h, W):
        first, *rest = operands_of(name, h, W.b(x, h))
        return W.a(x, h) * getattr(first, name)(*rest, **options_of(name, getattr(torch, name)))

    def by_function(x, h, W):
        first, *rest = operands_of(name, h, W.b(x, h))
        return W.a(x, h) * getattr(torch, name)(first, *rest, **options_of(name, getattr(torch, name)))

    assert cell(states="h")(by_method).graph == cell(states="h")(by_function).graph


def test_rows_are_named_after_their_functions():
    for name, row in OPERATIONS.items():
        assert row.name == name
        assert row.composed or {getattr(torch, name, None), getattr(F, name, None)} & {row.run, *row.also}
        assert 1 <= row.arity <= 3
        assert 1 <= row.binding <= 5


ARITY = {"neg": 1, "tanh": 1, "abs": 1, "add": 2, "pow": 2, "maximum": 2, "gt": 2, "where": 3, "mean": 1}


@pytest.mark.parametrize("name", ARITY)
def test_arity_is_read_off_the_text(name):
    assert OPERATIONS[name].arity == ARITY[name]


# what is read off a graph


def test_symbols_of_parameters():
    symbols = {name: p.symbol for name, p in lstm.with_options(peepholes="vector").parameters.items()}
    assert symbols["i.x"] == "W_ix"
    assert symbols["o.bias"] == "b_o"
    assert symbols["p_f"] == "p_f"


def test_widths_and_the_width_of_the_output():
    assert gru.graph.widths == {"x": "D", "h": "H"}
    assert projected.graph.widths == {"x": "D", "h": "H_h", "c": "H_c"}
    assert gru.graph.output_width == "H"
    assert projected.graph.output_width == "H_h"
    assert slstm.graph.output_width == "H"
    assert mut1.square.widths == {"x": "H", "h": "H"}


def test_sizes_are_read_off_the_parameters():
    for name, sizes in {"gru": {"D": 3, "H": 2}, "mut1": {"D": 3, "H": 2}}.items():
        assert CELLS[name].graph.sizes(Setting(CELLS[name]).case().parameters) == sizes
    assert projected.graph.sizes(Setting(projected).case().parameters) == {"D": 3, "H_h": 2, "H_c": 3}


def without_biases(parameters):
    return {name: value for name, value in parameters.items() if not name.endswith(".bias")}


@pytest.mark.parametrize("name", ["gru", "mut1", "lstm_fgr"])
def test_sizes_need_no_biases(name):
    parameters = without_biases(Setting(CELLS[name]).case().parameters)
    assert CELLS[name].graph.sizes(parameters) == {"D": 3, "H": 2}


SHAPES = {
    "another H": ({"h.h": (4, 4)}, ["'h.h'", "(4, 4)", "expected (2, 2)"]),
    "not square": ({"h.h": (2, 3)}, ["'h.h'", "(2, 3)", "expected (2, 2)"]),
    "a vector for a matrix": ({"h.x": (2,)}, ["'h.x'", "(2,)", "expected (H, D)"]),
    "a matrix for a vector": ({"h.bias": (2, 1)}, ["'h.bias'", "(2, 1)", "expected (2,)"]),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_parameter_of_a_wrong_shape_is_named(name):
    changed, expected = SHAPES[name]
    parameters = dict(Setting(rnn).case().parameters)
    parameters |= {key: torch.zeros(shape) for key, shape in changed.items()}
    with pytest.raises(InputError) as caught:
        rnn.graph.sizes(parameters)
    for part in expected:
        assert part in one_line(caught.value).replace("'H', 'D'", "H, D")


def test_a_missing_parameter_is_named():
    parameters = dict(Setting(rnn).case().parameters)
    del parameters["h.h"]
    with pytest.raises(InputError) as caught:
        rnn.graph.sizes(parameters)
    assert one_line(caught.value) == "the parameter 'h.h' is missing; there are h.x, h.bias"


def test_which_cells_use_their_input_directly():
    assert mut1.square.uses_directly("x")
    assert not mut1.graph.uses_directly("x")
    assert direct.graph.uses_directly("x")
    assert not gru.graph.uses_directly("x")
    assert not gru.graph.uses_directly("h")


@pytest.mark.parametrize("cell", [lstm, two_products], ids=lambda cell: cell.name)
def test_without_biases_only_the_biases_go(cell):
    linear = cell.graph.without_biases()
    assert linear.parameters == without_biases(cell.graph.parameters)
    case = Setting(cell).case(T=1)
    values = {"x": case.x[0], **case.state}
    zeros = {k: torch.zeros_like(v) if k.endswith(".bias") else v for k, v in case.parameters.items()}
    for found, expected in zip(
        linear.run(values, without_biases(case.parameters)), cell.graph.run(values, zeros), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


def test_the_graph_for_some_widths_and_some_parameters():
    assert mut1.graph_for(3, 2) is mut1.graph
    assert mut1.graph_for(2, 2) is mut1.square
    for D, graph in {3: mut1.graph, 2: mut1.square}.items():
        parameters = Setting(mut1, D, 2).case().parameters
        assert mut1.graph_using(parameters) is graph
        assert mut1.graph_using(without_biases(parameters)) is graph
    assert Cell("mine", gru.graph).square is gru.graph


# the saved form


def saved(graph: Graph) -> dict:
    return json.loads(json.dumps(graph.to_json(), allow_nan=False))


NUMBERS = [0.1, 1e-300, 1 / 3, math.inf, -math.inf, math.nan]


@pytest.mark.parametrize("number", NUMBERS, ids=str)
def test_every_number_survives_strict_json(number):
    """Those of an equation and those that states start from; not a number too."""

    @cell(states="h", initial={"h": number})
    def mine(x, h, W):
        return torch.where(h > 0, W.a(x, h, bias=0.1, init={"h": 1 / 3}), number)

    kept = Graph.from_json(saved(mine.graph))
    assert repr(kept) == repr(mine.graph)


def test_initial_values_of_minus_infinity_survive_strict_json():
    assert Graph.from_json(saved(slstm.graph)).initial == {"m": -math.inf}


def test_a_saved_graph_says_only_what_is_not_a_default():
    assert saved(rnn.graph) == {
        "nodes": [
            {"kind": "input", "name": "x", "width": "D"},
            {"kind": "state", "name": "h", "width": "H"},
            {"kind": "affine", "args": [0, 1], "name": "h", "sources": ["x", "h"], "bias": 0.0, "width": "H"},
            {"kind": "tanh", "args": [2], "width": "H"},
        ],
        "inputs": ["x"], "states": ["h"], "outputs": [], "results": [3],
        "names": {}, "initial": {}, "inits": {},
    }  # fmt: skip


def test_an_unknown_operation_is_named():
    data = saved(rnn.graph)
    data["nodes"][3]["kind"] = "erf"
    with pytest.raises(CellError) as caught:
        Graph.from_json(data)
    assert one_line(caught.value) == "the graph uses 'erf', which this version of unrolled does not know"


def damaged(**changed) -> dict:
    return saved(rnn.graph) | changed


def with_node(k: int, **changed) -> dict:
    data = saved(rnn.graph)
    data["nodes"][k] |= changed
    return data


DAMAGED = {
    "none": None,
    "a list": [],
    "a text": "graph",
    "empty": {},
    **{f"without {key}": {k: v for k, v in saved(rnn.graph).items() if k != key} for key in saved(rnn.graph)},
    "nodes of text": damaged(nodes=["input"]),
    "no nodes": damaged(nodes=[]),
    "unknown field": with_node(2, colour="red"),
    "without a kind": damaged(nodes=[{"name": "x"}]),
    "a later operand": with_node(2, args=[0, 3]),
    "itself": with_node(2, args=[0, 2]),
    "a negative operand": with_node(2, args=[0, -1]),
    "an operand of text": with_node(2, args=["x", "h"]),
    "operands as text": with_node(2, args="01"),
    "half an operand": with_node(2, args=[0, 0.5]),
    "an operand too few": with_node(3, args=[]),
    "an operand too many": with_node(3, args=[1, 2]),
    "a source too few": with_node(2, sources=["x"]),
    "an operand of a leaf": with_node(1, args=[0]),
    "a value of text": with_node(1, value="much"),
    "no results": damaged(results=[]),
    "a result too many": damaged(results=[3, 3]),
    "a result that is not there": damaged(results=[4]),
    "a negative result": damaged(results=[-1]),
    "a result of text": damaged(results=["h"]),
    "half a result": damaged(results=[0.5]),
    "no result": damaged(results=[None]),
    "a state that no node holds": damaged(states=["q"]),
    "an input that no node holds": damaged(inputs=["q"]),
    "names by text": damaged(names={"h": "h"}),
    "names in a list": damaged(names=[]),
    "initial values of text": damaged(initial={"h": "much"}),
    "inits in a number": damaged(inits=3),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_not_a_graph_is_refused(name):
    with pytest.raises(CellError) as caught:
        Graph.from_json(DAMAGED[name])
    assert "this is not the graph of a cell" in one_line(caught.value)


# affine maps


def test_an_affine_map_is_the_sum_of_its_products():
    W = {"a.x": random(2, 3), "a.h": random(2, 2), "a.bias": random(2)}
    x, h, tokens = random(4, 3), random(4, 2), torch.tensor([0, 2, 2, 1])
    expected = x @ W["a.x"].T + h @ W["a.h"].T + W["a.bias"]
    torch.testing.assert_close(affine(W, "a", {"x": x, "h": h}), expected, rtol=0, atol=1e-14)
    picked = W["a.x"].T[tokens]
    torch.testing.assert_close(affine(W, "a", {"x": tokens}), picked + W["a.bias"], rtol=0, atol=0)
    torch.testing.assert_close(affine(W, "a", {"h": h, "x": tokens}), picked + h @ W["a.h"].T + W["a.bias"])
    del W["a.bias"]
    torch.testing.assert_close(affine(W, "a", {"x": tokens}), picked, rtol=0, atol=0)
    expected = x @ W["a.x"].T + h @ W["a.h"].T
    torch.testing.assert_close(affine(W, "a", {"x": x, "h": h}), expected, rtol=0, atol=1e-14)


def test_an_affine_map_takes_vectors_and_whole_sequences():
    W = {"a.x": random(2, 3), "a.bias": random(2)}
    for shape in [(3,), (4, 3), (5, 4, 3)]:
        x = random(*shape)
        torch.testing.assert_close(affine(W, "a", {"x": x}), x @ W["a.x"].T + W["a.bias"], rtol=0, atol=1e-14)


def test_an_affine_map_names_what_does_not_fit():
    W = {"a.x": random(2, 3)}
    with pytest.raises(InputError) as caught:
        affine(W, "a", {"x": random(4, 5)})
    assert one_line(caught.value) == "W.a multiplies 'x' of width 3, but got width 5"
    with pytest.raises(CellError) as caught:
        affine(W, "a", {})
    assert one_line(caught.value) == "W.a() is applied to nothing; give it an argument, such as W.a(x)"


def test_nodes_and_parameters_are_values():
    assert Node("tanh", (1,)) == Node("tanh", (1,))
    assert Parameter("p", ("H",)).init is None
    with pytest.raises(AttributeError):
        Node("tanh").kind = "relu"
