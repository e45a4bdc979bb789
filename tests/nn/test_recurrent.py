"""`Recurrent`: layouts, layers, directions, dropout, states by name, and what is refused."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cases import assert_same, delays, direct, flat, gradients, one_line, projected, random, slstm
from unrolled import CellError, InputError, Recurrent, cell, scan
from unrolled.cells import find, gru, lstm, mut1, rnn

ROUNDING = 1e-12


def layer_of(cell=gru, D=3, H=4, *args, **options) -> Recurrent:
    layer = Recurrent(cell, D, H, *args, dtype=torch.float64, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(0, 0.6)
    return layer


# layouts


@pytest.mark.parametrize("kind", ["vectors", "tokens"])
def test_batch_first_turns_x_and_outputs_but_no_state(kind):
    layer = layer_of(lstm, 3, 4, 2, bidirectional=True, batch_first=True)
    x = random(5, 2, 3) if kind == "vectors" else torch.randint(3, (5, 2))
    state = {name: random(4, 2, 4) for name in "hc"}
    outputs, end = layer(x.transpose(0, 1), state)
    assert outputs.shape == (2, 5, 8)
    assert end["h"].shape == end["c"].shape == (4, 2, 4)
    layer.batch_first = False
    expected, expected_end = layer(x, state)
    assert_same(flat(outputs.transpose(0, 1), end), flat(expected, expected_end))


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", ["vectors", "tokens"])
@pytest.mark.parametrize("T", [5, 1])
def test_no_batch_is_a_batch_of_one(kind, batch_first, T):
    layer = layer_of(lstm, 3, 4, 2, bidirectional=True, batch_first=batch_first)
    x = random(T, 3) if kind == "vectors" else torch.randint(3, (T,))
    state = {name: random(4, 4) for name in "hc"}
    outputs, end = layer(x, state)
    assert outputs.shape == (T, 8)
    assert end["h"].shape == end["c"].shape == (4, 4)
    row = int(not batch_first)
    expected, expected_end = layer(x.unsqueeze(row), {k: v.unsqueeze(1) for k, v in state.items()})
    assert_same(
        flat(outputs, end), flat(expected.squeeze(row), {k: v.squeeze(1) for k, v in expected_end.items()})
    )
    assert_same(flat(*layer(x)), flat(*layer(x, {k: torch.zeros_like(v) for k, v in state.items()})))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.uint8], ids=str)
@pytest.mark.parametrize("cell", [gru, mut1, direct], ids=lambda cell: cell.name)
def test_tokens_of_every_kind_of_integer_are_one_hot_vectors(cell, dtype):
    layer = layer_of(cell, 4, 4 if cell is mut1 else 3, 2)
    tokens = torch.tensor([[0, 3], [1, 1], [2, 0]])
    found, expected = flat(*layer(tokens.to(dtype))), flat(*layer(F.one_hot(tokens).double()))
    assert_same(found, expected, ROUNDING)
    leaves = dict(layer.named_parameters())
    assert_same(gradients(found, leaves), gradients(expected, leaves), ROUNDING)


def test_the_input_is_not_changed():
    layer = layer_of(mut1, 3, 3, 2, bidirectional=True)
    x, state = random(4, 2, 3), {"h": random(4, 2, 3)}
    before, before_state = x.detach().clone(), state["h"].detach().clone()
    outputs, _ = layer(x, state)
    outputs.sum().backward()
    assert torch.equal(x, before)
    assert torch.equal(state["h"], before_state)


# parameters


def test_parameters_are_named_by_layer_gate_and_argument():
    layer = Recurrent(lstm.with_options(peepholes="vector", coupled=True), 3, 4, 2, bidirectional=True)
    shapes = {name: tuple(parameter.shape) for name, parameter in layer.named_parameters()}
    for suffix, below in {"l0": 3, "l0_reverse": 3, "l1": 8, "l1_reverse": 8}.items():
        for gate in "fgo":
            assert shapes.pop(f"{suffix}.{gate}.x") == (4, below)
            assert shapes.pop(f"{suffix}.{gate}.h") == (4, 4)
            assert shapes.pop(f"{suffix}.{gate}.bias") == (4,)
        assert shapes.pop(f"{suffix}.p_f") == shapes.pop(f"{suffix}.p_o") == (4,)
    assert not shapes


def test_x_is_projected_only_where_its_width_is_not_that_of_the_state():
    layer = Recurrent(mut1, 3, 4, 2)
    assert "v.x" in layer.parameters_of("l0")
    assert "v.x" not in layer.parameters_of("l1")
    both = Recurrent(mut1, 4, 4, 2, bidirectional=True)
    assert "v.x" not in both.parameters_of("l0_reverse")
    assert both.parameters_of("l1")["v.x"].shape == (4, 8)


def test_states_of_two_widths():
    layer = layer_of(projected, 3, {"c": 5, "h": 2}, 2, bidirectional=True)
    outputs, end = layer(random(4, 2, 3))
    assert outputs.shape == (4, 2, 4)
    assert layer.output_size == 4
    assert end["h"].shape == (4, 2, 2)
    assert end["c"].shape == (4, 2, 5)
    assert list(end) == ["h", "c"]
    assert layer.parameters_of("l1")["c.x"].shape == (5, 4)


def test_an_output_that_is_no_state_is_handed_on():
    layer = layer_of(direct, 3, 4, 2)
    x = random(5, 2, 3)
    below, first = scan(direct, x, {"h": torch.zeros(2, 4).double()}, layer.parameters_of("l0"))
    above, second = scan(direct, below, {"h": torch.zeros(2, 4).double()}, layer.parameters_of("l1"))
    outputs, end = layer(x)
    assert_same(flat(outputs, end), flat(above, {"h": torch.stack([first["h"], second["h"]])}))


def test_an_output_as_wide_as_the_input():
    """A cell that hands x on: the width of the output is D, not H."""

    @cell(states="h", outputs="y")
    def through(x, h, W):
        return torch.tanh(W.n(x, h)), x

    layer = layer_of(through, 3, 4, 2)
    x = random(5, 2, 3)
    outputs, _ = layer(x)
    assert layer.output_size == 3
    assert torch.equal(outputs, x)
    assert torch.equal(layer(torch.tensor([[0], [2]]))[0], F.one_hot(torch.tensor([[0], [2]]), 3).double())


# states


def test_initial_values_are_the_cells_and_have_the_layers_type():
    layer = layer_of(slstm, 3, 4, 2, bidirectional=True)
    start = layer.initial_state(5)
    assert list(start) == ["c", "n", "m"]
    assert all(value.shape == (4, 5, 4) and value.dtype == torch.float64 for value in start.values())
    assert torch.isneginf(start["m"]).all()
    assert not start["c"].any()
    assert layer.initial_state(1, torch.ones(1))["m"].dtype == torch.float32


def test_final_states_come_in_the_order_of_layers_and_directions():
    layer = layer_of(delays, 3, 4, 2, bidirectional=True)
    x = random(5, 2, 3)
    outputs, end = layer(x)
    assert torch.equal(end["a"][2], outputs[-1, :, :4])
    assert torch.equal(end["a"][3], outputs[0, :, 4:])
    assert torch.equal(end["b"][2], outputs[-2, :, :4])
    assert torch.equal(end["c"][3], outputs[2, :, 4:])
    below = layer_of(delays, 3, 4, bidirectional=True)
    below.load_state_dict({k: v for k, v in layer.state_dict().items() if k.startswith("l0")})
    assert torch.equal(below(x)[1]["a"], end["a"][:2])


def test_gradients_reach_the_initial_state_of_every_layer():
    layer = layer_of(lstm, 3, 4, 2, bidirectional=True)
    state = {name: random(4, 2, 4) for name in "hc"}
    found = gradients(flat(*layer(random(3, 2, 3), state)), state)
    for name, value in found.items():
        assert (value.abs().amax((1, 2)) > 1e-6).all(), name


# dropout


def test_dropout_is_between_layers_and_only_in_training():
    x = random(4, 2, 3)
    layer = layer_of(gru, 3, 4, 2, dropout=1.0)
    layer.train()
    torch.testing.assert_close(layer(x)[0], layer(torch.zeros_like(x))[0], rtol=0, atol=0)
    below, above = (
        scan(gru, y, {"h": torch.zeros(2, 4).double()}, layer.parameters_of(f"l{k}"))[0]
        for k, y in enumerate((x, torch.zeros(4, 2, 4).double()))
    )
    assert torch.equal(layer(x)[0], above)  # nothing passes between them, and nothing after them is dropped
    layer.eval()
    assert torch.equal(
        layer(x)[0], scan(gru, below, {"h": torch.zeros(2, 4).double()}, layer.parameters_of("l1"))[0]
    )


def test_dropout_keeps_the_mean_and_follows_the_seed():
    @cell(states="h")
    def copies(x, h, W):
        return W.a(x, bias=False)

    layer = Recurrent(copies, 50, 50, 2, dropout=0.25, init={"*": "identity"})
    x = torch.ones(40, 20, 50)
    outputs, _ = layer(x)
    kept = outputs != 0
    assert float(kept.float().mean()) == pytest.approx(0.75, abs=0.01)
    torch.testing.assert_close(outputs[kept], torch.full_like(outputs[kept], 1 / 0.75))
    torch.manual_seed(4)
    first = layer(x)[0]
    assert not torch.equal(layer(x)[0], first)
    torch.manual_seed(4)
    assert torch.equal(layer(x)[0], first)


def test_one_layer_has_no_dropout():
    layer = layer_of(gru, 3, 4, dropout=0.9).train()
    x = random(4, 2, 3)
    assert torch.equal(layer(x)[0], layer.eval()(x)[0])


# how it prints


def test_a_layer_prints_its_cell_and_arguments():
    assert repr(Recurrent(gru, 3, 4)).splitlines()[0] == "Recurrent("
    text = repr(Recurrent(find("lstm(coupled=true)"), 3, 4, 2, dropout=0.5, batch_first=True))
    assert "lstm(coupled=true), 3, 4, num_layers=2, dropout=0.5, batch_first=True" in text
    assert "projected, 3, {'h': 2, 'c': 5}" in repr(Recurrent(projected, 3, {"h": 2, "c": 5}))
    text = repr(Recurrent(lstm, 3, 4, norm="rms", zoneout={"c": 0.5}, recurrent_dropout=0.25))
    assert "norm='rms', zoneout={'c': 0.5}, recurrent_dropout=0.25" in text
    assert "zoneout=0.5, weight_dropout=0.1" in repr(Recurrent(lstm, 3, 4, zoneout=0.5, weight_dropout=0.1))


def test_an_argument_that_is_none_is_named():
    with pytest.raises(InputError, match=r"^Recurrent has no argument 'zoneouts': did you mean 'zoneout'\?$"):
        Recurrent(lstm, 3, 4, zoneouts=0.1)
    with pytest.raises(
        TypeError, match="Recurrent has no argument 'x'; beyond those named, it has zoneout, "
    ):
        Recurrent(lstm, 3, 4, x=0.1)


def test_a_cell_of_the_zoo_may_be_named():
    assert Recurrent("lstm(coupled=true)", 3, 4).cell.graph == find("lstm(coupled=true)").graph
    with pytest.raises(CellError, match="did you mean 'gru'"):
        Recurrent("gruu", 3, 4)
    with pytest.raises(InputError, match="cell is a float, expected a cell or its name in the zoo"):
        Recurrent(0.5, 3, 4)


# what is refused


@cell(states="h")
def no_input(h, W):
    return torch.tanh(W.h(h))


@cell(states="h")
def two_inputs(x, u, h, W):
    return torch.tanh(W.h(x, u, h))


x = torch.ones(2, 3, 5, dtype=torch.float64)
h = torch.zeros(1, 3, 4, dtype=torch.float64)

WRONG_ARGUMENTS = {
    "no input": (lambda: Recurrent(no_input, 3, 4), ["one input", "'no_input'", "none"]),
    "two inputs": (lambda: Recurrent(two_inputs, 3, 4), ["one input", "'two_inputs'", "x", "u"]),
    "input_size 0": (lambda: Recurrent(gru, 0, 4), ["input_size", "at least 1", "got 0"]),
    "input_size true": (lambda: Recurrent(gru, True, 4), ["input_size", "whole number", "got True"]),
    "input_size text": (lambda: Recurrent(gru, "3", 4), ["input_size", "whole number", "got '3'"]),
    "hidden_size 0": (lambda: Recurrent(gru, 3, 0), ["at least 1", "got 0"]),
    "hidden_size 2.5": (lambda: Recurrent(gru, 3, 2.5), ["whole number", "got 2.5"]),
    "num_layers 0": (lambda: Recurrent(gru, 3, 4, 0), ["num_layers", "at least 1", "got 0"]),
    "dropout 1.5": (lambda: Recurrent(gru, 3, 4, dropout=1.5), ["dropout", "between 0 and 1", "1.5"]),
    "dropout -0.1": (lambda: Recurrent(gru, 3, 4, dropout=-0.1), ["dropout", "between 0 and 1", "-0.1"]),
    "dropout true": (lambda: Recurrent(gru, 3, 4, dropout=True), ["dropout", "between 0 and 1", "True"]),
    "another state": (lambda: Recurrent(gru, 3, {"c": 4}), ["hidden_size", "c", "h"]),
    "a state too few": (lambda: Recurrent(lstm, 3, {"h": 4}), ["hidden_size", "h, c"]),
    "states of one width": (lambda: Recurrent(lstm, 3, {"h": 4, "c": 5}), ["'lstm'", "one width", "5"]),
}


@pytest.mark.parametrize("name", WRONG_ARGUMENTS)
def test_a_wrong_argument_is_named(name):
    make, expected = WRONG_ARGUMENTS[name]
    with pytest.raises(InputError) as caught:
        make()
    for part in expected:
        assert part in one_line(caught.value)


WRONG_INPUTS = {
    "one axis": (x[0, 0], None, ["(5,)", "(T, B, 5)"]),
    "four axes": (x[None], None, ["(1, 2, 3, 5)", "(T, B, 5)"]),
    "features": (x[..., :4], None, ["4 features", "expected 5"]),
    "float32": (x.float(), None, ["torch.float32", "torch.float64", "x.to("]),
    "no steps": (x[:0], None, ["(0, 3, 5)", "at least one step"]),
    "no steps, no batch": (x[:0, 0], None, ["(0, 5)", "at least one step"]),
    "bools": (torch.ones(2, 3, dtype=torch.bool), None, ["torch.bool", "token numbers"]),
    "complex numbers": (x + 0j, None, ["torch.complex128", "expected floats"]),
    "one-hot integers": (x.long()[None], None, ["(1, 2, 3, 5)", "(T, B)"]),
    "token axes": (x.long(), None, ["(2, 3, 5)", "(T, B)"]),
    "token too high": (torch.tensor([[0, 1], [5, 4]]), None, ["0 to 4", "has 5"]),
    "token below zero": (torch.tensor([[0, -1], [2, 4]]), None, ["0 to 4", "has -1"]),
    "no tokens": (torch.zeros(0, 3, dtype=torch.long), None, ["(0, 3)", "at least one step"]),
    "an array": (np.ones((2, 3, 5)), None, ["x", "ndarray", "tensor"]),
    "a list": ([[0.0]], None, ["x", "list", "tensor"]),
    "state of other rows": (x, {"h": h[:, :2]}, ["'h'", "(1, 2, 4)", "(1, 3, 4)"]),
    "state of other width": (x, {"h": h[..., :3]}, ["'h'", "(1, 3, 3)", "(1, 3, 4)"]),
    "state of other layers": (x, {"h": h.expand(2, 3, 4)}, ["'h'", "(2, 3, 4)", "(1, 3, 4)"]),
    "state with a batch": (x[:, 0], {"h": h[:, :1]}, ["'h'", "(1, 1, 4)", "(1, 4)"]),
    "state without a batch": (x, {"h": h[:, 0]}, ["'h'", "(1, 4)", "(1, 3, 4)"]),
    "another state": (x, {"c": h}, ["the state has c", "expected h"]),
    "a state too many": (x, {"h": h, "c": h}, ["the state has h, c", "expected h"]),
    "no states": (x, {}, ["the state", "expected h"]),
    "float32 state": (x, {"h": h.float()}, ["'h'", "torch.float32", "torch.float64"]),
    "integer state": (x, {"h": h.long()}, ["'h'", "torch.int64", "torch.float64"]),
    "a tensor for a state": (x, h, ["state", "Tensor", "h"]),
    "a tuple for a state": (x, (h, h), ["state", "tuple", "h"]),
    "a number in a state": (x, {"h": 0.0}, ["'h'", "float", "tensor"]),
    "another device": (x.to("meta"), None, ["x is on meta", "the layer is on cpu", "x.to('cpu')"]),
    "tokens on another device": (x[..., 0].long().to("meta"), None, ["x is on meta", "the layer is on cpu"]),
    "state on another device": (x, {"h": h.to("meta")}, ["'h' is on meta", "the layer is on cpu"]),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_INPUTS)
def test_a_wrong_input_is_named_with_what_came_and_what_was_expected(name):
    value, state, expected = WRONG_INPUTS[name]
    layer = layer_of(gru, 5, 4)
    with pytest.raises(InputError) as caught:
        layer(value, state)
    for part in expected:
        assert part in one_line(caught.value)


def test_batch_first_is_told_in_the_expected_layout():
    layer = layer_of(gru, 5, 4, batch_first=True)
    with pytest.raises(InputError, match=r"expected \(B, T, 5\)"):
        layer(x[0, 0])
    with pytest.raises(InputError, match=r"expected \(B, T\)"):
        layer(x.long())


def test_an_unknown_backend_is_refused_and_the_known_are_listed():
    x = torch.ones(2, 1, 3)
    with pytest.raises(InputError) as caught:
        Recurrent(rnn, 3, 4, backend="cuda")(x)
    assert one_line(caught.value) == "no backend 'cuda'; there are auto, cpu, reference"
    layer = Recurrent(rnn, 3, 4, backend="auto")
    expected = layer(x)[0]
    layer.backend = "reference"
    assert torch.allclose(layer(x)[0], expected, atol=1e-6)


def test_every_layer_refuses_to_be_abstract():
    from unrolled.nn.stack import RecurrentStack

    with pytest.raises(NotImplementedError):
        RecurrentStack(gru, 3, {"h": 4}).parameters_of("l0")
