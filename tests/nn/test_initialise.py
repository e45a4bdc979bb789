"""Initial values: by name, by pattern, and what is refused."""

import math

import pytest
import torch

from cases import one_line
from unrolled import GRU, LSTM, InputError, Recurrent, cell
from unrolled.cells import find, gru, lstm, mut1, rnn
from unrolled.nn import INITIALISERS, chrono_, initialise


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
     ("kaiming", (1 / 3 / 500) ** 0.5), ("xavier_normal", (2 / 1000) ** 0.5),
     ("xavier_normal:2", 2 * (2 / 1000) ** 0.5), ("he", (2 / 500) ** 0.5), ("he:0.5", (2 / 500) ** 0.5 / 2),
     ("lecun", 500**-0.5), ("lecun:3", 3 * 500**-0.5), ("scaled:1", (2 / 500) ** 0.5),
     ("scaled:100", (2 / 500) ** 0.5 / 10), ("scaled:100:1", (2 / 500) ** 0.5 / 100),
     ("scaled:16:0.25", (2 / 500) ** 0.5 / 2)],
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
        needed = dict.fromkeys(("constant", "normal", "uniform", "radius"), ":0.5")
        number = (needed | {"chrono": ":9", "scaled": ":4"}).get(name, "")
        assert torch.isfinite(filled(name + number, 4, 4 if name == "radius" else 3)).all(), name


@pytest.mark.parametrize("shape", [(1500, 200), (900, 1200)])
def test_variances_are_by_the_width_of_the_input(shape):
    """Values keep their mean square from layer to layer, linear ones with lecun, rectified with he."""
    x = torch.randn(1000, shape[1], dtype=torch.float64)
    for how, rectified in (("lecun", x), ("he", torch.relu(x))):
        out = rectified @ filled(how, *shape).T
        assert float(out.square().mean() / x.square().mean()) == pytest.approx(1, rel=0.06)


def test_branches_that_are_scaled_add_up_to_as_much_as_one():
    """L branches of relu, each he scaled by 1 / √L, on the same mean square."""
    x = torch.randn(500, 100, dtype=torch.float64)
    h = x
    for _ in range(50):
        h = h + torch.relu(h) @ filled("scaled:50", 100, 100).T
    growth = float(h.square().mean() / x.square().mean())
    assert growth == pytest.approx((1 + 1 / 50) ** 50, rel=0.2)


@pytest.mark.parametrize("radius", [0.5, 0.95, 1.25])
def test_radius_is_the_largest_absolute_eigenvalue(radius):
    matrix = filled(f"radius:{radius}", 40, 40)
    assert float(torch.linalg.eigvals(matrix).abs().max()) == pytest.approx(radius, rel=1e-12)
    assert float(torch.linalg.matrix_norm(matrix, 2)) > radius
    assert not torch.equal(matrix, filled(f"radius:{radius}", 40, 40))


@pytest.mark.parametrize(
    "how",
    ["orthogonal:2", "identity:0.5", "xavier", "xavier_normal", "kaiming", "he", "lecun", "scaled:9",
     "radius:0.7", "normal:0.1", 0.5, lambda t: torch.nn.init.orthogonal_(t)],
    ids=lambda how: how if isinstance(how, str) else type(how).__name__,
)  # fmt: skip
def test_matrices_behind_each_other_are_filled_one_by_one(how):
    """Each as if it were alone: also the variance, which is by the widths of a matrix."""
    torch.manual_seed(0)
    whole = filled(how, 7, 5, 5)
    torch.manual_seed(0)
    assert torch.equal(whole, torch.stack([filled(how, 5, 5) for _ in range(7)]))
    parameter = torch.nn.Parameter(torch.zeros(2, 5, 5))
    initialise(parameter, how)
    assert parameter.is_leaf


REFUSED = {
    "normall": (3, 3),
    "normal": (3, 3),
    "normal:-1": (3, 3),
    "normal:much": (3, 3),
    "uniform:-1": (3, 3),
    "uniform:": (3, 3),
    "constant": (3, 3),
    "chrono": (3,),
    "chrono:2": (3,),
    "zeros:3": (3, 3),
    "identity": (3,),
    "orthogonal": (3,),
    "xavier": (3,),
    "kaiming": (3,),
    "xavier_normal": (3,),
    "he": (3,),
    "lecun": (3,),
    "he:1:2": (3, 3),
    "scaled": (3, 3),
    "scaled:0": (3, 3),
    "scaled:2": (3,),
    "radius": (3, 3),
    "radius:0.9": (3, 4),
    "radius:1.5": (3,),
    "radius:-1": (3, 3),
    "radius:nan": (3, 3),
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
    assert torch.equal(found["h1.h"], torch.eye(4))
    assert torch.equal(found["h2.h"], torch.eye(4))


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


def biases(layer, gate: str) -> list[torch.Tensor]:
    """What the biases of a gate come to, for each layer and direction."""
    return [sum(layer.biases_of(suffix, gate)).detach() for suffix in layer.suffixes]


CHRONO = {
    "lstm": ("f", "i"),
    "lstm(peepholes=vector)": ("f", "i"),
    "lstm(coupled=true)": ("f", None),
    "lstm_fgr": ("f", "i"),
    "layer_norm_lstm": ("f", "i"),
    "gru": ("z", None),
    "gru_cho": ("z", None),
    "gru_chung": (None, "z"),
    "mgu": (None, "f"),
    "highway": (None, "b"),
    "mut1": (None, "z"),
    "mut2": (None, "z"),
    "mut3": (None, "z"),
}


@pytest.mark.parametrize("name", CHRONO)
def test_chrono_lets_units_remember_for_up_to_the_longest_span(name):
    """e^b is uniform from 1 to longest - 1; what writes has the opposite bias, in every unit."""
    keep, write = CHRONO[name]
    layer = Recurrent(name, 3, 500, 2, bidirectional=True)
    chrono_(layer, 1000)
    kept = biases(layer, keep) if keep else [-b for b in biases(layer, write)]
    spans = torch.cat(kept).exp()
    assert float(spans.min()) >= 1
    assert float(spans.max()) == pytest.approx(999, abs=5)
    assert float(spans.mean()) == pytest.approx(500, abs=40)
    assert float(spans.std()) == pytest.approx(998 / 12**0.5, rel=0.05)
    assert not torch.equal(kept[0], kept[1])
    if keep and write:
        for k, w in zip(kept, biases(layer, write), strict=True):
            assert torch.equal(k, -w)


@pytest.mark.parametrize("name", CHRONO)
def test_where_chrono_begins_a_state_is_kept(name):
    """Without inputs, and with no weights but these biases, a state of 1 fades by u / (u + 1) a step."""
    keep, write = CHRONO[name]
    layer = Recurrent(name, 3, 50, dtype=torch.float64, init=None if "norm" in name else {"*": 0.0})
    chrono_(layer, 20)
    bias = biases(layer, keep)[0] if keep else -biases(layer, write)[0]
    state = "c" if "c" in layer.cell.states else "h"
    before = layer.initial_state(1)
    before[state] = torch.ones_like(before[state])
    if name == "lstm_fgr" or "norm" in name:
        return  # gates are states, or what is normalised has gains
    _, after = layer(torch.zeros(1, 1, 3, dtype=torch.float64), before)
    torch.testing.assert_close(after[state][0, 0], torch.sigmoid(bias), rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", [LSTM, GRU])
def test_chrono_of_a_layer_as_torch_has_it_leaves_one_bias_of_two(kind):
    layer = kind(3, 40, num_layers=2, bidirectional=True)
    before = {name: p.detach().clone() for name, p in layer.named_parameters()}
    chrono_(layer, 100)
    rows = slice(40, 80)  # of f in i, f, g, o, and of z in r, z, n
    for name, p in layer.named_parameters():
        now, was = p.detach(), before[name]
        if name.startswith("weight"):
            assert torch.equal(now, was), name
        elif name.startswith("bias_hh"):
            assert not now[rows].any(), name
            assert torch.equal(now[80:], was[80:]), name
        else:
            assert 0 <= float(now[rows].min()) < float(now[rows].max()) <= math.log(99), name
            assert torch.equal(now[80:], was[80:]), name
            assert torch.equal(now[:40], -now[rows] if kind is LSTM else was[:40]), name


def test_chrono_of_ones_own_cell_is_told_which_gates():
    @cell(states="h")
    def mine(x, h, W):
        a = torch.sigmoid(W.a(x, h))
        return a * h + torch.sigmoid(W.b(x, h)) * torch.tanh(W.n(x, h))

    layer = Recurrent(mine, 3, 10)
    with pytest.raises(InputError, match="which gates of cell 'mine' keep and write"):
        chrono_(layer, 100)
    chrono_(layer, 100, keep="a", write="b")
    assert biases(layer, "a")[0].min() >= 0
    assert torch.equal(biases(layer, "a")[0], -biases(layer, "b")[0])
    for wrong in (layer, Recurrent(mine, 3, 10, bias=False)):
        with pytest.raises(InputError, match=r"no gate '[ac]' with a bias"):
            chrono_(wrong, 100, keep="c" if wrong is layer else "a")


@pytest.mark.parametrize("longest", [2, 0, -5, math.nan])
def test_chrono_needs_more_than_two_steps(longest):
    with pytest.raises(InputError, match="more than 2 steps"):
        chrono_(Recurrent(gru, 3, 4), longest)


def test_chrono_of_one_gate_is_an_initialiser_by_name():
    layer = Recurrent("lstm(coupled=true)", 3, 400, init={"f.bias": "chrono:50"})
    spans = values(layer)["f.bias"].exp()
    assert 1 <= float(spans.min()) < 3 < 47 < float(spans.max()) <= 49
