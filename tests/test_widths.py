"""Maps with a width of their own."""

import pytest
import torch
from torch import sigmoid, tanh

from cases import one_line
from unrolled import cell
from unrolled.errors import CellError, InputError
from unrolled.formula import formulas
from unrolled.nn import Recurrent
from unrolled.options import read_call


@cell(states="h c")
def bottleneck(x, h, c, W):
    """Both states through one narrow layer, and a second one, which two factors share."""
    b = tanh(W.b(x, h, c, width="N"))
    m = sigmoid(W.m(b=b, width="M")) * W.m(b=b, width="M")
    c = c + W.c(b=b)
    return tanh(W.h(m=m)), c


def refused(function) -> str:
    with pytest.raises(CellError) as caught:
        cell(states="h")(function)
    return one_line(caught.value)


def test_a_width_of_its_own_is_a_symbol_of_its_own():
    graph = bottleneck.graph
    assert graph.own_widths == {"N": ("b",), "M": ("m",)}
    shapes = {name: p.shape for name, p in graph.parameters.items()}
    assert shapes["b.h"] == ("N", "H_h")
    assert shapes["b.bias"] == ("N",)
    assert shapes["m.b"] == ("M", "N")
    assert shapes["h.m"] == ("H_h", "M")
    assert "m = σ(W_mb b + b_m) ⊙ (W_mb b + b_m)" in formulas(graph)


def test_what_meets_a_state_has_its_width_and_no_other():
    def wide(x, h, W):
        return tanh(W.a(x, width="N")) + h

    assert refused(wide).startswith("cell 'wide', ")
    assert "add joins a value of width N with one of another width" in refused(wide)

    def two(x, h, W):
        return W.h(v=W.a(x, width="N") * W.b(h, width="M"))

    assert "mul joins a value of width N with one of another width" in refused(two)

    def result(x, h, W):
        return tanh(W.a(x, h, width="N"))

    assert "the new h joins a value of width N with one of another width" in refused(result)


@pytest.mark.parametrize("width", ["", "n", "H", "D_x", "B", "T", "2", "N x"])
def test_widths_have_names_of_their_own(width):
    def named(x, h, W):
        return W.h(v=W.a(x, h, width=width))

    assert f"the width of W.a is called {width!r}: call it by a capital letter" in refused(named)


def test_a_map_has_one_width():
    def both(x, h, W):
        return W.h(v=W.a(x, h, width="N") * W.a(x, h, width="M"))

    assert "W.a is used twice with different arguments" in refused(both)

    def called_so(x, width, W):
        return tanh(W.h(x, width))

    with pytest.raises(CellError, match="has a value called 'width', an option of W"):
        cell(states="width")(called_so)


def test_layers_are_told_how_wide():
    layer = Recurrent(bottleneck, 3, {"h": 4, "c": 5, "N": 6, "M": 7})
    parameters = layer.parameters_of("l0")
    assert parameters["b.x"].shape == (6, 3)
    assert parameters["m.b"].shape == (7, 6)
    assert parameters["h.m"].shape == (4, 7)
    assert "{'h': 4, 'c': 5, 'N': 6, 'M': 7}" in repr(layer)
    output, state = layer(torch.randn(2, 1, 3))
    assert output.shape == (2, 1, 4)
    assert state["c"].shape == (1, 1, 5)


def test_where_it_is_not_said_they_are_as_wide_as_the_first_state():
    for hidden in (4, {"h": 4, "c": 5}):
        parameters = Recurrent(bottleneck, 3, hidden).parameters_of("l0")
        assert parameters["m.b"].shape == (4, 4)


@pytest.mark.parametrize(
    ("hidden", "message"),
    [
        ({"h": 4, "N": 3}, "hidden_size names h, N; the states are h, c; widths of their own are N, M"),
        ({"h": 4, "c": 4, "K": 3}, "hidden_size names h, c, K; the states are h, c; widths of"),
        ({"h": 4, "c": 4, "N": 0}, "hidden_size of N must be a whole number of at least 1, got 0"),
    ],
)
def test_widths_that_are_none_are_refused(hidden, message):
    with pytest.raises(InputError) as caught:
        Recurrent(bottleneck, 3, hidden)
    assert one_line(caught.value).startswith(message)


def test_kernels_compute_what_the_equations_say():
    found = {}
    for backend in ("cpu", "reference"):
        torch.manual_seed(1)
        layer = Recurrent(
            bottleneck, 3, {"h": 4, "c": 5, "N": 19, "M": 2}, dtype=torch.float64, backend=backend
        )
        x = torch.randn(6, 3, 3, dtype=torch.float64, requires_grad=True)
        output, state = layer(x)
        (output.square().sum() + state["c"].sin().sum()).backward()
        found[backend] = [output, state["c"], x.grad, *(p.grad for p in layer.parameters())]
    for compiled, plain in zip(*found.values(), strict=True):
        assert torch.allclose(compiled, plain, rtol=0, atol=1e-13)


def test_explanations_count_with_them():
    sizes = {"h": 4, "c": 5, "N": 6, "M": 7}
    found = bottleneck.explain(3, sizes)
    assert found.sizes == {"D": 3, "H_h": 4, "H_c": 5, "N": 6, "M": 7}
    assert found.widths["M"] == ("m",)
    forward = found.work["forward loop"].products
    assert int(forward) == 2 * (6 * 4 + 6 * 5 + 7 * 6 + 5 * 6 + 4 * 7)
    with pytest.raises(InputError, match="hidden_size names 'K'; the states are h, c, N, M"):
        bottleneck.explain(3, {"K": 1})


def test_a_value_may_be_a_list():
    assert read_call("narx(lags=1,2,5, activation=relu)") == (
        "narx",
        {"lags": "1,2,5", "activation": "relu"},
    )
    with pytest.raises(InputError, match="cannot read 'narx\\(5, lags=1\\)'"):
        read_call("narx(5, lags=1)")
