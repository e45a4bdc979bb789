"""Initial values: by name, by pattern, and what is refused."""

import math

import pytest
import torch

from cases import one_line
from unrolled import InputError, Recurrent, cell
from unrolled.cells import find, gru, lstm, mut1, rnn
from unrolled.nn import INITIALISERS, initialise


def filled(how, *shape: int) -> torch.Tensor:
    tensor = torch.full(shape, math.nan, dtype=torch.float64)
    initialise(tensor, how)
    return tensor


EXACT = {
    "zeros": torch.zeros(3, 4),
    "ones": torch.ones(3, 4),
    "constant:-0.25": torch.full((3, 4), -0.25),
    "identity": torch.eye(3, 4),
    "identity:0.5": torch.eye(3, 4) / 2,
}


@pytest.mark.parametrize("how", EXACT)
def test_a_name_gives_its_values(how):
    assert torch.equal(filled(how, 3, 4), EXACT[how].double())


@pytest.mark.parametrize(
    ("how", "std"),
    [("normal:0.01", 0.01), ("uniform:0.3", 0.3 / 3**0.5), ("xavier", (2 / 1000) ** 0.5),
     ("kaiming", (1 / 3 / 500) ** 0.5)],
)  # fmt: skip
def test_a_random_name_gives_its_spread(how, std):
    tensor = filled(how, 500, 500)
    assert float(tensor.std()) == pytest.approx(std, rel=0.01)
    assert abs(float(tensor.mean())) < 0.02 * std
    assert not torch.equal(tensor, filled(how, 500, 500))


def test_uniform_reaches_its_bounds_and_no_further():
    tensor = filled("uniform:0.3", 300, 300)
    assert 0.299 < float(tensor.max()) <= 0.3
    assert -0.3 <= float(tensor.min()) < -0.299


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_orthogonal_is_orthogonal(scale):
    tensor = filled("orthogonal" if scale == 1 else f"orthogonal:{scale}", 5, 5)
    torch.testing.assert_close(tensor @ tensor.T, scale**2 * torch.eye(5).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("how", [0.5, 2, "0.5", "-1e-3", torch.nn.init.ones_, lambda tensor: tensor.fill_(7)])
def test_a_number_or_a_function_fills_in_place(how):
    parameter = torch.nn.Parameter(torch.zeros(3))
    initialise(parameter, how)
    expected = how(torch.zeros(3)) if callable(how) else torch.full((3,), float(how))
    assert torch.equal(parameter, expected)
    assert parameter.requires_grad


def test_every_name_fills_a_matrix_completely():
    for name in INITIALISERS:
        number = ":0.5" if name in ("constant", "normal", "uniform") else ""
        assert torch.isfinite(filled(name + number, 4, 3)).all(), name


REFUSED = {
    "normall": (3, 3),
    "normal": (3, 3),
    "normal:-1": (3, 3),
    "normal:much": (3, 3),
    "uniform:-1": (3, 3),
    "uniform:": (3, 3),
    "constant": (3, 3),
    "zeros:3": (3, 3),
    "identity": (3,),
    "orthogonal": (3,),
    "xavier": (3,),
    "kaiming": (3,),
}


@pytest.mark.parametrize("how", REFUSED)
def test_what_does_not_fit_is_refused(how):
    with pytest.raises(InputError) as caught:
        filled(how, *REFUSED[how])
    assert how.rstrip(":") in one_line(caught.value)


@pytest.mark.parametrize("how", [None, [1.0]], ids=str)
def test_what_is_no_initialiser_is_refused(how):
    with pytest.raises(InputError) as caught:
        filled(how, 3, 3)
    assert repr(how) in one_line(caught.value)


def test_an_unknown_name_lists_the_known():
    with pytest.raises(InputError) as caught:
        filled("glorot", 3, 3)
    assert "no initialiser 'glorot'" in one_line(caught.value)
    for name in INITIALISERS:
        assert name in str(caught.value)


def values(layer: Recurrent, suffix: str = "l0") -> dict[str, torch.Tensor]:
    return {name: tensor.detach() for name, tensor in layer.parameters_of(suffix).items()}


def test_patterns_choose_by_gate_argument_and_both_and_later_ones_win():
    layer = Recurrent(
        lstm.with_options(peepholes="vector"),
        3,
        4,
        2,
        bidirectional=True,
        init={"*": 1, "f": 2, "*.h": 3, "o.bias": 4, "p_?": 5, "i.x": "zeros"},
    )
    for suffix in ("l0", "l0_reverse", "l1", "l1_reverse"):
        found = {name: set(tensor.flatten().tolist()) for name, tensor in values(layer, suffix).items()}
        assert found == {
            "f.x": {2.0}, "f.h": {3.0}, "f.bias": {2.0}, "p_f": {5.0},
            "i.x": {0.0}, "i.h": {3.0}, "i.bias": {1.0}, "p_i": {5.0},
            "g.x": {1.0}, "g.h": {3.0}, "g.bias": {1.0},
            "o.x": {1.0}, "o.h": {3.0}, "o.bias": {4.0}, "p_o": {5.0},
        }  # fmt: skip


def test_a_gate_is_not_a_pattern_of_longer_names():
    layer = Recurrent(lstm.with_options(peepholes="vector"), 3, 4, init={"*": 1, "i": 3})
    assert set(values(layer)["p_i"].tolist()) == {1.0}


def test_a_pattern_that_matches_nothing_is_refused():
    with pytest.raises(InputError) as caught:
        Recurrent(gru, 3, 4, init={"forget.bias": 1.0})
    assert "'forget.bias' matches no parameter" in one_line(caught.value)
    assert "r.bias" in str(caught.value)


def test_a_pattern_needs_to_match_in_one_layer_only():
    """Only the first layer of this stack has a projection of x."""
    layer = Recurrent(mut1, 3, 4, 2, init={"v.x": "zeros"})
    assert not values(layer, "l0")["v.x"].any()
    assert "v.x" not in values(layer, "l1")


def test_a_layer_draws_matrices_and_vectors_within_one_over_root_h_and_biases_are_zero():
    layer = Recurrent(lstm.with_options(peepholes="vector"), 60, 25, 2)
    for suffix in layer.suffixes:
        for name, tensor in values(layer, suffix).items():
            if name.endswith(".bias"):
                assert not tensor.any(), name
            else:
                assert 0.15 < float(tensor.abs().max()) <= 0.2, name


@pytest.mark.parametrize("bias", [0.0, 1.0, -2.5])
def test_forget_bias_is_where_the_bias_of_f_starts(bias):
    layer = Recurrent(lstm.with_options(forget_bias=bias), 3, 4, 2)
    for suffix in layer.suffixes:
        found = values(layer, suffix)
        assert torch.equal(found["f.bias"], torch.full((4,), bias))
        assert not any(found[f"{gate}.bias"].any() for gate in "igo")


def test_what_the_layer_is_given_wins_over_what_the_cell_says():
    layer = Recurrent(lstm.with_options(forget_bias=1.0), 3, 4, init={"f.bias": 2.0})
    assert torch.equal(values(layer)["f.bias"], torch.full((4,), 2.0))


def test_the_irnn_starts_as_the_identity_and_keeps_its_state():
    layer = Recurrent(find("irnn"), 3, 4, 2, bias=False)
    for suffix in layer.suffixes:
        assert torch.equal(values(layer, suffix)["h.h"], torch.eye(4))
    start = {"h": torch.rand(2, 5, 4)}
    outputs, end = layer(torch.zeros(6, 5, 3), start)
    assert torch.equal(end["h"][0], start["h"][0])
    assert outputs.shape == (6, 5, 4)


def test_the_identity_option_reaches_both_pieces_of_a_maxout():
    found = values(Recurrent(rnn.with_options(activation="maxout", identity=True), 3, 4))
    assert torch.equal(found["a.h"], torch.eye(4))
    assert torch.equal(found["b.h"], torch.eye(4))


def test_a_cell_may_ask_for_any_initialiser():
    @cell(states="h")
    def mine(x, h, W):
        return torch.tanh(W.a(x, h, bias=0.5, init={"h": "identity:0.25", "x": 0.125}))

    found = values(Recurrent(mine, 3, 4))
    assert torch.equal(found["a.h"], torch.eye(4) / 4)
    assert torch.equal(found["a.x"], torch.full((4, 3), 0.125))
    assert torch.equal(found["a.bias"], torch.full((4,), 0.5))


def test_reset_parameters_draws_anew_and_keeps_the_patterns():
    layer = Recurrent(gru, 3, 4, init={"r.bias": 1.0})
    before = values(layer)["r.x"].clone()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(9)
    layer.reset_parameters()
    after = values(layer)
    assert float(after["r.x"].abs().max()) <= 0.5
    assert not torch.equal(after["r.x"], before)
    assert torch.equal(after["r.bias"], torch.ones(4))
    assert not after["z.bias"].any()


def test_the_same_seed_draws_the_same_values():
    layers = []
    for _ in range(2):
        torch.manual_seed(7)
        layers.append(Recurrent(gru, 3, 4, init={"*.h": "orthogonal"}))
    for name, tensor in values(layers[0]).items():
        assert torch.equal(tensor, values(layers[1])[name]), name
