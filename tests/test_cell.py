"""From a function to a cell: the notation, the options, and what a mistake is told."""

import math
import operator
import pickle
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import sigmoid, tanh

from cases import Setting, one_line, projected, random, slstm
from unrolled import Cell, CellError, InputError, cell, cells, fit, layer_norm
from unrolled.cells import gru, lstm, mut1, rnn
from unrolled.graph import Parameter

HERE = Path(__file__).name


def run(cell: Cell, D: int = 3, H: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """One step from the equations, and from the graph."""
    case = Setting(cell, D, H).case(T=1)
    values = {"x": case.x[0], **case.state}
    return cell.run(values, case.parameters)[0], cell.graph.run(values, case.parameters)[0]


# the notation


def test_parameters_are_read_off_the_equations():
    @cell(states="h")
    def mine(x, h, W):
        a = tanh(W.a(x, h, bias=1.5) + W.p * h)
        return W["b"](a=a, bias=False)

    assert mine.parameters == {
        "a.x": Parameter("a.x", ("H", "D")),
        "a.h": Parameter("a.h", ("H", "H")),
        "a.bias": Parameter("a.bias", ("H",), 1.5),
        "p": Parameter("p", ("H",)),
        "b.a": Parameter("b.a", ("H", "H")),
    }


def test_states_of_two_widths_have_symbols_of_their_own():
    assert {name: p.shape for name, p in projected.parameters.items()} == {
        "c.x": ("H_c", "D"), "c.h": ("H_c", "H_h"), "c.bias": ("H_c",),
        "decay": ("H_c",), "h.c": ("H_h", "H_c"),
    }  # fmt: skip


def test_a_second_input_has_a_width_of_its_own():
    @cell(states="h")
    def mine(x, u, h, W):
        return tanh(W.a(x, u, h))

    assert mine.inputs == ("x", "u")
    assert {name: p.shape for name, p in mine.parameters.items()} == {
        "a.x": ("H", "D"), "a.u": ("H", "D_u"),
        "a.h": ("H", "H"), "a.bias": ("H",),
    }  # fmt: skip
    W = {"a.x": random(2, 3), "a.u": random(2, 4), "a.h": random(2, 2), "a.bias": random(2)}
    x, u, h = random(5, 3), random(5, 4), random(5, 2)
    expected = tanh(x @ W["a.x"].T + u @ W["a.u"].T + h @ W["a.h"].T + W["a.bias"])
    torch.testing.assert_close(mine(x, u, h, W), expected, rtol=0, atol=1e-14)


def test_a_cell_needs_no_input():
    @cell(states="h")
    def block(h, W):
        return h + W.b(v=tanh(W.a(h)))

    assert block.inputs == ()
    case = {
        name: random(2, 2) if "." in name and "bias" not in name else random(2) for name in block.parameters
    }
    h = random(3, 2)
    expected = h + tanh(h @ case["a.h"].T + case["a.bias"]) @ case["b.v"].T + case["b.bias"]
    torch.testing.assert_close(block(h, case), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("bias", [True, 0, 0.0])
def test_a_bias_starts_at_zero(bias):
    @cell(states="h")
    def mine(x, h, W):
        return tanh(W.a(x, h, bias=bias))

    assert mine.parameters["a.bias"].init == 0.0


def test_a_map_applied_twice_shares_its_matrices():
    @cell(states="h")
    def mine(x, h, W):
        return tanh(W.a(x, h)) + W.a(x, h=sigmoid(h))

    assert list(mine.parameters) == ["a.x", "a.h", "a.bias"]
    found, expected = run(mine)
    assert torch.equal(found, expected)


BINARY = {
    name: getattr(operator, name) for name in ("add", "sub", "mul", "truediv", "pow", "gt", "ge", "lt", "le")
}
PAIRS = {
    "state, vector": lambda f, x, h, W: f(abs(h), W.p),
    "vector, state": lambda f, x, h, W: f(abs(W.p), h),
    "vector, vector": lambda f, x, h, W: f(abs(W.q), W.p),
    "state, number": lambda f, x, h, W: f(abs(h), 1.5),
    "number, state": lambda f, x, h, W: f(1.5, h),
    "vector, number": lambda f, x, h, W: f(abs(W.p), 1.5),
    "number, vector": lambda f, x, h, W: f(1.5, W.p),
    "state, state": lambda f, x, h, W: f(abs(h), h),
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("name", BINARY)
def test_every_operator_means_the_same_on_symbols_and_on_tensors(name, pair):
    def mine(x, h, W):
        return W.a(x, h) * PAIRS[pair](BINARY[name], x, h, W)

    found, expected = run(cell(states="h")(mine))
    assert torch.isfinite(found).all()
    assert torch.equal(found, expected)


@pytest.mark.parametrize("one", [1, 1.0], ids=str)
def test_a_factor_of_one_leaves_no_trace(one):
    @cell(states="h")
    def mine(x, h, W):
        return one * W.a(x, h) * one

    @cell(states="h")
    def plain(x, h, W):
        return W.a(x, h)

    assert mine.graph == plain.graph


def test_a_learned_vector_may_be_an_argument_of_a_map():
    @cell(states="h")
    def mine(x, h, W):
        return tanh(W.a(x, h, p=W.p))

    found, expected = run(mine)
    assert torch.equal(found, expected)


def test_what_the_results_do_not_need_is_dropped():
    @cell(states="h")
    def mine(x, h, W):
        unused = W.unused(x, h) * W.neither
        assert unused is not None
        return tanh(W.a(x, h))

    assert list(mine.parameters) == ["a.x", "a.h", "a.bias"]


def test_names_are_the_authors():
    graph = gru.graph
    assert set(graph.names.values()) == {"r", "z", "n"}
    assert {graph.nodes[k].kind for k, name in graph.names.items() if name in "rz"} == {"sigmoid"}


def test_a_profiler_is_not_disturbed():
    def watch(frame, event, argument):
        pass

    sys.setprofile(watch)
    try:
        cell(states="h")(gru.function)
        assert sys.getprofile() is watch
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize("D", [3, 4])
def test_fit_projects_only_what_does_not_fit(D):
    case = Setting(mut1, D, 4).case(T=1)
    assert ("v.x" in case.parameters) == (D == 3)
    x, h = case.x[0], case.state["h"]
    found = mut1(x, h, case.parameters)
    W = {name: value.detach() for name, value in case.parameters.items()}
    r = sigmoid(x @ W["r.x"].T + h @ W["r.h"].T + W["r.bias"])
    z = sigmoid(x @ W["z.x"].T + W["z.bias"])
    v = x if D == 4 else x @ W["v.x"].T
    n = tanh((r * h) @ W["n.h"].T + W["n.bias"] + tanh(v))
    torch.testing.assert_close(found, n * z + h * (1 - z), rtol=0, atol=1e-14)


def test_fit_goes_by_the_state_it_is_like():
    """With two widths, x meets the second state: projected or not, equations and graph agree."""

    @cell(states="h c")
    def mine(x, h, c, W):
        c = tanh(W.c(x, h)) + fit(W.v, x, like=c) * c
        return W.h(c=c, bias=False), c

    widths = {"D": 3, "H_h": 2, "H_c": 3}
    W = {name: random(*(widths[s] for s in p.shape)) for name, p in mine.graph.parameters.items()}
    values = {"x": random(4, 3), "h": random(4, 2), "c": random(4, 3)}
    for found, expected in zip(mine.run(values, W), mine.graph.run(values, W), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("cell", [gru, mut1], ids=lambda cell: cell.name)
def test_a_step_may_take_tokens(cell):
    tokens = torch.tensor([2, 0])
    for D in (3, 4):
        case = Setting(cell, D, 4).case(T=1)
        found = cell(tokens, case.state["h"], case.parameters)
        expected = cell(torch.eye(D).double()[tokens], case.state["h"], case.parameters)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


def test_a_cell_prints_what_it_takes_and_returns():
    assert repr(slstm) == "<cell slstm: (x, c, n, m) -> (c, n, m, y)>"
    changed = lstm.with_options(peepholes="vector", coupled=True, forget_bias=1)
    assert changed.name == "lstm(forget_bias=1.0, peepholes=vector, coupled=true)"
    assert cells.find(changed.name).graph == changed.graph
    assert "Long short-term memory" in lstm.__doc__


def test_one_result_is_not_wrapped():
    case = Setting(gru).case()
    assert isinstance(gru(case.x[0], case.state["h"], case.parameters), torch.Tensor)
    case = Setting(lstm).case()
    assert len(lstm(case.x[0], *case.state.values(), case.parameters)) == 2


def test_a_call_with_too_few_or_too_many_values_is_told_what_it_takes():
    case = Setting(lstm).case()
    for values in [(), (case.x[0], case.state["h"], case.parameters), (*[case.x[0]] * 4, case.parameters)]:
        with pytest.raises(InputError) as caught:
            lstm(*values)
        assert one_line(caught.value) == f"cell 'lstm' takes (x, h, c, W), but got {len(values)} values"


def test_a_missing_parameter_is_named():
    case = Setting(rnn).case()
    del case.parameters["h.h"]
    for take in (rnn.run, rnn.graph.run):
        with pytest.raises(InputError, match=r"h\.h"):
            take({"x": case.x[0], **case.state}, case.parameters)


# pickling


def test_two_cells_of_one_name_in_one_module_stay_apart():
    """A cell is pickled by its name only if that name still leads to it."""
    module = types.ModuleType("made_up_cells")
    sys.modules["made_up_cells"] = module
    try:
        made = []
        for factor in (2.0, 3.0):
            source = f"def mine(x, h, W):\n    return tanh(W.a(x, h)) * {factor}\n"
            exec(source, vars(module) | {"tanh": tanh}, scope := {})
            module.mine = cell(states="h")(scope["mine"])
            made.append(module.mine)
        for one in made:
            kept = pickle.loads(pickle.dumps(one))
            assert kept.graph == one.graph
            assert kept.name == one.name
    finally:
        del sys.modules["made_up_cells"]


def test_a_cell_of_a_function_inside_another_is_pickled_as_its_graph():
    @cell(states="h")
    def mine(x, h, W, *, slope: float = 0.5):
        return tanh(W.a(x, h)) + slope * h

    kept = pickle.loads(pickle.dumps(mine.with_options(slope=0.25)))
    assert type(kept) is Cell
    assert kept.name == "mine(slope=0.25)"
    assert kept.graph == mine.with_options(slope=0.25).graph


@pytest.mark.parametrize("options", [{}, {"peepholes": "matrix", "forget_bias": 2.0}], ids=str)
def test_a_cell_of_the_zoo_is_found_again(options):
    kept = pickle.loads(pickle.dumps(lstm.with_options(**options)))
    assert kept.options == lstm.with_options(**options).options
    assert (kept is lstm) == (not options)


# options


@cell(states="h")
def optioned(
    x, h, W, *, flag: bool = False, scale: float = 0.5, count: int = 1, word: str = "a",
    choice: Literal["one", "two"] = "one", plain=2.0,
):  # fmt: skip
    """Takes every kind of option."""
    return tanh(W[f"{word}_{choice}"](x, h)) * scale * count * plain + (h if flag else 0)


GOOD = {
    "flag": [(True, True), ("yes", True), ("Off", False), ("TRUE", True)],
    "scale": [(2, 2.0), (0.25, 0.25), ("1e-3", 0.001)],
    "count": [(3, 3), ("3", 3)],
    "word": [("b", "b")],
    "choice": [("two", "two")],
    "plain": [(1, 1.0), ("3.5", 3.5)],
}
BAD = {
    "flag": ([1, "maybe", None, 0.0], "true | false"),
    "scale": (["much", True, None, [1.0]], "a number"),
    "count": ([1.5, "1.5", True, None], "a whole number"),
    "word": ([3, None], "text"),
    "choice": (["three", 1, None, "ONE"], "one | two"),
    "plain": (["x", False], "a number"),
}


def flattened(values: dict) -> list:
    return [
        (name, *(case if isinstance(case, tuple) else (case,)))
        for name, cases in values.items()
        for case in cases
    ]


@pytest.mark.parametrize(("name", "given", "expected"), flattened(GOOD))
def test_an_option_is_read(name, given, expected):
    found = optioned.with_options(**{name: given}).options[name]
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("name", "given"), flattened({name: values for name, (values, _) in BAD.items()}), ids=str
)
def test_a_wrong_value_is_told_what_the_option_takes(name, given):
    with pytest.raises(CellError) as caught:
        optioned.with_options(**{name: given})
    takes = BAD[name][1]
    expected = f"option {name} of cell 'optioned' cannot be {given!r}; it takes {takes}"
    assert one_line(caught.value) == expected
    assert optioned.option_help[name] == takes


def test_options_add_up_and_return_to_their_defaults():
    twice = optioned.with_options(scale=2).with_options(flag=True)
    assert twice.name == "optioned(flag=true, scale=2.0)"
    assert twice.with_options(scale=0.5, flag=False).name == "optioned"
    assert optioned.options["flag"] is False


def test_an_unknown_option_lists_the_known():
    with pytest.raises(CellError) as caught:
        optioned.with_options(colour="red")
    assert one_line(caught.value) == (
        "cell 'optioned' has no option 'colour'; its options: flag, scale, count, word, choice, plain"
    )
    with pytest.raises(CellError, match="cell 'gru' has no option 'colour'; it has none"):
        gru.with_options(colour="red")


def test_an_option_needs_a_default():
    def mine(x, h, W, *, slope: float):
        return tanh(W.a(x, h)) * slope

    with pytest.raises(CellError) as caught:
        cell(states="h")(mine)
    assert one_line(caught.value) == "option slope of cell 'mine' needs a default value"


def test_an_option_of_another_type_is_refused_when_the_cell_is_defined():
    def mine(x, h, W, *, sizes: int | None = None):
        return tanh(W.a(x, h))

    with pytest.raises(CellError) as caught:
        cell(states="h")(mine)
    assert "option sizes of cell 'mine'" in one_line(caught.value)


# what a mistake is told: a function, and what its message says; the line is the last of the function


def unknown_operation(x, h, W):
    return torch.floor(W.a(x, h))


def unknown_method(x, h, W):
    return W.a(x, h).cumsum(0)


def an_attribute(x, h, W):
    return h * x.shape[0]


def matrix_sign(x, h, W):
    return h @ W.a


def matrix_sign_of_a_tensor(x, h, W):
    return torch.ones(2, 2) @ h


def matrix_product(x, h, W):
    return torch.matmul(h, W.a)


def sliced(x, h, W):
    return W.a(x, h)[:, :3]


def branching(x, h, W):
    return W.a(x) if h > 0 else W.b(x)


def branching_on_equality(x, h, W):
    return W.a(x) if h == 0 else W.b(x)


def branching_on_difference(x, h, W):
    return W.a(x) if h != 0 else W.b(x)


def branching_on_a_vector(x, h, W):
    return W.a(x, h) if W.p else h


def largest(x, h, W):
    return max(W.a(x), h)


def tensor_constant(x, h, W):
    return torch.ones(4) * h


def tensor_on_the_right(x, h, W):
    return h - torch.ones(4)


def tensor_to_a_power(x, h, W):
    return torch.ones(4) ** h


def list_constant(x, h, W):
    return W.a(x, h) + [1.0]  # noqa: RUF005


def boolean_constant(x, h, W):
    return torch.where(h > 0, True, h)


def d_meets_h(x, h, W):
    return x * h + tanh(W.a(x, h))


def two_inputs_meet(x, u, h, W):
    return W.a(v=x * u)


def computed_positional(x, h, W):
    return W.a(tanh(h))


def number_positional(x, h, W):
    return W.a(x, 2.0)


def vector_positional(x, h, W):
    return W.a(x, W.p)


def repeated_argument(x, h, W):
    return W.a(x, h, h=tanh(h))


def applied_to_nothing(x, h, W):
    return W.a() * h


def applied_to_a_number(x, h, W):
    return W.a(x, k=2.0)


def used_twice(x, h, W):
    return W.a(x, h) * W.a(h)


def used_twice_with_other_biases(x, h, W):
    return W.a(x, h) * W.a(x, h, bias=1.0)


def used_twice_with_other_widths(x, h, W):
    return W.a(v=x) * W.a(v=h)


def vector_and_map(x, h, W):
    return W.a * W.a(x, h)


def map_and_vector(x, h, W):
    return W.a(x, h) * W.a


def private_weight(x, h, W):
    return W._a(x, h)


def dotted_weight(x, h, W):
    return W["a.b"](x, h)


def numbered_weight(x, h, W):
    return W[0](x, h)


def empty_weight(x, h, W):
    return W[""](x, h)


def weight_of_a_module(x, h, W):
    return W.forward(x, h)


def weight_of_a_module_object(x, h, W):
    return W.training(x, h)


def options_of_a_function(x, h, W):
    return torch.add(W.a(x), h, alpha=2)


def too_few_operands(x, h, W):
    return torch.where(h > 0)


def pythons_mathematics(x, h, W):
    return math.tanh(W.a(x, h))


def numpys_mathematics(x, h, W):
    return np.tanh(W.a(x, h))


def a_number_to_maximum(x, h, W):
    return torch.maximum(W.a(x, h), 0.0)


def a_number_to_gt(x, h, W):
    return torch.where(torch.gt(0.0, h), h, W.a(x))


def floor_division(x, h, W):
    return W.a(x, h) // 2


def a_mean_of_everything(x, h, W):
    return W.a(x, h) * h.mean()


def a_mean_over_the_batch(x, h, W):
    return W.a(x, h) * torch.mean(h, 0, keepdim=True)


def a_sum_that_drops_its_axis(x, h, W):
    return W.a(x, h) * h.sum(dim=-1)


def a_largest_of_two(x, h, W):
    return W.a(x, h) * torch.amax(h, W.b(x))


def a_mean_in_another_type(x, h, W):
    return W.a(x, h) * h.mean(-1, keepdim=True, dtype=torch.float64)


def a_norm_of_a_number_a_row(x, h, W):
    return W.a(x, h) * layer_norm(h.mean(-1, keepdim=True))


def a_matrix_of_a_number_a_row(x, h, W):
    return W.a(x, h, m=h.mean(-1, keepdim=True))


def torchs_layer_norm(x, h, W):
    return torch.nn.functional.layer_norm(W.a(x, h), (4,))


def torchs_softmax(x, h, W):
    return torch.softmax(W.a(x, h), -1)


def where_as_a_method(x, h, W):
    return h.where(h > 0, W.a(x, h))


def a_function_as_a_method(x, h, W):
    return W.a(x, h).softplus()


def a_method_of_too_many(x, h, W):
    return W.a(x, h).tanh(2)


def start_of_a_map(x, h, W):
    return W.a(x, h, init=1.0)


def start_of_a_vector_by_names(x, h, W):
    return W.a(init={"h": 1.0}) * h


def x_meets_h_by_a_mean(x, h, W):
    return x * h.mean(-1, keepdim=True) + W.a(x, h) + h


def a_bug_of_its_own(x, h, W):
    return W.a(x, h) + undefined_name  # noqa: F821


ON_A_LINE = {
    unknown_operation: ["cannot use torch's 'floor'", "known:", "maximum"],
    unknown_method: ["no 'cumsum'", "known:"],
    an_attribute: ["no 'shape'", "known:"],
    matrix_sign: ["W.name(h)", "@"],
    matrix_sign_of_a_tensor: ["W.name(h)"],
    matrix_product: ["cannot use torch's 'matmul'", "W.name(h)"],
    sliced: ["sliced", "a map of its own"],
    branching: ["branch", "torch.where"],
    branching_on_equality: ["torch.where"],
    branching_on_difference: ["torch.where"],
    branching_on_a_vector: ["branch", "torch.where"],
    largest: ["torch.where"],
    tensor_constant: ["a tensor cannot enter", "number or a learned vector W.name"],
    tensor_on_the_right: ["a tensor cannot enter", "number or a learned vector W.name"],
    tensor_to_a_power: ["a tensor cannot enter", "number or a learned vector W.name"],
    list_constant: ["a list cannot enter", "number or a learned vector W.name"],
    boolean_constant: ["a bool cannot enter", "number or a learned vector W.name"],
    d_meets_h: ["width D", "width H", "W.x(x)", "fit(W.x, x, like=h)"],
    two_inputs_meet: ["width D"],
    computed_positional: ["argument 1 of W.a", "name it", "h="],
    number_positional: ["argument 2 of W.a", "name it"],
    vector_positional: ["argument 2 of W.a", "name it"],
    repeated_argument: ["W.a has two arguments called 'h'"],
    applied_to_nothing: ["W.a() is applied to nothing", "W.a alone"],
    applied_to_a_number: ["argument 'k' of W.a is a number"],
    used_twice: ["W.a is used twice", "name one of them anew"],
    used_twice_with_other_biases: ["W.a is used twice", "name one of them anew"],
    used_twice_with_other_widths: ["W.a", "width D", "width H"],
    vector_and_map: ["both a learned vector and a map", "another name"],
    map_and_vector: ["both a learned vector and a map", "another name"],
    private_weight: ["W._a", "plain word"],
    dotted_weight: ["W.a.b", "plain word"],
    numbered_weight: ["plain word"],
    empty_weight: ["plain word"],
    weight_of_a_module: ["W.forward", "choose another name"],
    weight_of_a_module_object: ["W.training", "choose another name"],
    options_of_a_function: ["add takes 2 values and no options"],
    too_few_operands: ["where takes 3 values"],
    pythons_mathematics: ["Symbol"],
    numpys_mathematics: [""],
    a_number_to_maximum: ["maximum"],
    a_number_to_gt: ["gt"],
    floor_division: ["//"],
    a_mean_of_everything: ["mean goes over the units", "write mean(v, -1, keepdim=True)"],
    a_mean_over_the_batch: ["mean goes over the units", "write mean(v, -1, keepdim=True)"],
    a_sum_that_drops_its_axis: ["sum goes over the units", "write sum(v, -1, keepdim=True)"],
    a_largest_of_two: ["amax goes over the units", "write amax(v, -1, keepdim=True)"],
    a_mean_in_another_type: ["mean goes over the units", "write mean(v, -1, keepdim=True)"],
    a_norm_of_a_number_a_row: ["layer_norm", "one number a row"],
    a_matrix_of_a_number_a_row: ["argument 'm' of W.a is one number a row", "W.p * m"],
    torchs_layer_norm: ["cannot use torch's 'layer_norm'", "unrolled's layer_norm(v, W.gain_v, W.bias_v)"],
    torchs_softmax: ["cannot use torch's 'softmax'", "known:", "amax"],
    where_as_a_method: ["no 'where'", "known:"],
    a_function_as_a_method: ["no 'softplus'", "known:"],
    a_method_of_too_many: ["tanh takes 1 values and no options"],
    start_of_a_map: ["init of W.a names its matrices", "init={'h': 1.0}"],
    start_of_a_vector_by_names: ["W.a() is applied to nothing", "W.a alone"],
    x_meets_h_by_a_mean: ["width D", "width H", "project the input"],
    a_bug_of_its_own: ["NameError", "undefined_name"],
}


@pytest.mark.parametrize("function", ON_A_LINE, ids=lambda f: f.__name__)
def test_a_mistake_in_the_equations_is_told_with_its_line(function: Callable):
    code = function.__code__
    line = code.co_firstlineno + 1
    with pytest.raises(CellError) as caught:
        cell(states="h")(function)
    message = one_line(caught.value)
    assert message.startswith(f"cell '{function.__name__}', {code.co_filename}:{line}: ")
    assert code.co_filename.endswith(HERE)
    for part in ON_A_LINE[function]:
        assert part in message
    text = Path(code.co_filename).read_text().splitlines()[line - 1].strip()
    assert message.endswith(f"(in `{text}`)")


def test_unpacking_a_value_is_slicing():
    def unpacked(x, h, W):
        a, b = W.a(x, h)
        return a * b

    with pytest.raises(CellError) as caught:
        cell(states="h")(unpacked)
    assert "sliced: give each part a map of its own" in one_line(caught.value)


def one_state(x, h, W):
    return W.a(x, h)


def two_results(x, h, W):
    return W.a(x, h), W.b(x)


def a_number(x, h, W):
    return 2.0


def a_learned_vector(x, h, W):
    return tanh(W.a)


def a_mean(x, h, W):
    return W.a(x, h).mean(-1, keepdim=True)


def nothing(x, h, W):
    pass


def the_input(x, h, W):
    return x


def as_wide_as_the_input(x, h, W):
    return x + tanh(W.a(x, h))


def wide_state(x, h, c, W):
    return tanh(W.a(x, h)), x


def free_width(x, h, c, W):
    v = tanh(W.v(x))
    return W.a(h, v=v), W.b(c, v=v)


def unnamed_free_width(x, h, c, W):
    return W.a(h, v=W.v(x)), W.b(c)


def out_of_order(W, x, h):
    return W.a(x, h)


def state_first(h, x, W):
    return W.a(x, h)


def unknown_init(x, h, W):
    return W.a(x, h, init={"c": "identity"})


def state_called_bias(x, bias, W):
    return W.a(x, bias)


DECLARED = {
    "a result too few": (
        one_state,
        {"states": "h", "outputs": "y"},
        ["returns 1 values", "2 are declared: h, y"],
    ),
    "a result too many": (two_results, {"states": "h"}, ["returns 2 values", "1 are declared: h"]),
    "a number": (a_number, {"states": "h"}, ["returns a number for h", "a vector"]),
    "a learned vector": (
        a_learned_vector,
        {"states": "h"},
        ["learned vector", "for h", "an input or a state"],
    ),
    "a number a row": (a_mean, {"states": "h"}, ["returns one number a row for h", "a vector"]),
    "a number a row as output": (
        lambda x, h, W: (W.a(x, h), h.mean(-1, keepdim=True)),
        {"states": "h", "outputs": "y"},
        ["returns one number a row for y", "a vector"],
    ),
    "nothing": (nothing, {"states": "h"}, ["NoneType"]),
    "the input as a state": (the_input, {"states": "h"}, ["the new h", "width D", "project the input"]),
    "a state as wide as the input": (
        as_wide_as_the_input,
        {"states": "h"},
        ["the new h", "width D", "project the input"],
    ),
    "a state of another width": (
        wide_state,
        {"states": "h c"},
        ["the new c", "width D", "project the input"],
    ),
    "a width that nothing fixes": (free_width, {"states": "h c"}, ["width of W.v", "not determined"]),
    "an unnamed width": (unnamed_free_width, {"states": "h c"}, ["width of W.v", "not determined"]),
    "W first": (out_of_order, {"states": "h"}, ["(W, x, h)", "def out_of_order(x, h, W)"]),
    "state first": (state_first, {"states": "h"}, ["(h, x, W)", "def state_first(x, h, W)"]),
    "no states": (one_state, {"states": ""}, ["one_state", "states"]),
    "other states": (one_state, {"states": "h c"}, ["(x, h, W)", "'h c'", "def one_state(x, h, c, W)"]),
    "initial value of an input": (
        one_state,
        {"states": "h", "initial": {"x": 1.0}},
        ["initial value to 'x'"],
    ),
    "init of an unknown argument": (unknown_init, {"states": "h"}, ["init names 'a.c'", "not a parameter"]),
    "a state called bias": (state_called_bias, {"states": "bias"}, ["bias"]),
}


@pytest.mark.parametrize("name", DECLARED)
def test_a_mistake_in_the_declaration_is_told(name):
    function, declared, expected = DECLARED[name]
    with pytest.raises(CellError) as caught:
        cell(**declared)(function)
    message = one_line(caught.value)
    for part in expected:
        assert part in message


def test_an_operand_is_abstract():
    from unrolled.trace import Operand

    with pytest.raises(NotImplementedError):
        Operand() + 1


def test_a_number_may_start_a_state():
    @cell(states="h", initial={"h": 1})
    def mine(x, h, W):
        return tanh(W.a(x, h))

    assert mine.graph.initial == {"h": 1.0}
