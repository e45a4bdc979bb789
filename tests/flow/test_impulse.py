"""Impulse responses, against autograd through the equations and powers that are known."""

import math

import pytest
import torch
from given_weights import set_to
from torch.testing import assert_close

from cases import SETTINGS
from unrolled import GRU, LSTM, RNN, Recurrent, cell
from unrolled.flow.forward import impulse_response, linear_recursion

DOUBLE = torch.float64
EXACT = {"rtol": 1e-12, "atol": 1e-12}


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.id)
def test_the_response_to_a_small_impulse_is_the_derivative(setting) -> None:
    """By autograd, for every cell of the zoo and of the tests, of each state."""
    T, at = 5, 1
    layer = Recurrent(setting.cell, setting.D, setting.state_sizes, backend="reference", dtype=DOUBLE)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.7)
    x, direction = torch.randn(T, setting.D, dtype=DOUBLE), torch.randn(setting.D, dtype=DOUBLE)
    found = impulse_response(layer, T, at=at, unit=direction, x=x)

    def states(size):
        moved = torch.stack([step + size * found.direction * (t == at) for t, step in enumerate(x)])
        steps = layer(moved, return_states=True)[-1]
        return tuple(steps[name][0, at:] for name in layer.cell.states)

    _, changes = torch.autograd.functional.jvp(states, torch.zeros((), dtype=DOUBLE))
    for name, change in zip(layer.cell.states, changes, strict=True):
        assert_close(found["l0", name].linear[at:], change.norm(dim=-1).log(), rtol=1e-10, atol=1e-10)
        assert found["l0", name].linear[:at].isneginf().all()


LAYERS = {
    "lstm": lambda: LSTM(3, 4, num_layers=2, dropout=0.5),
    "projection": lambda: LSTM(3, 4, num_layers=2, proj_size=2),
    "bidirectional": lambda: GRU(3, 4, num_layers=2, bidirectional=True),
    "learned start": lambda: Recurrent("gru", 3, 4, learn_initial=True, init={"initial.*": "normal:0.3"}),
    "norm and zoneout": lambda: Recurrent("mgu", 3, 4, norm="layer", zoneout=0.2, recurrent_dropout=0.2),
    "batch norm": lambda: GRU(3, 4, num_layers=2, batch_norm=True, bidirectional=True),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_small_impulse_is_the_limit(name: str) -> None:
    """Two runs 1e-6 apart differ as the derivative says, at every step, layer, direction and state."""
    torch.manual_seed(1)
    layer = LAYERS[name]()
    layer.backend = "reference"
    found = impulse_response(layer, 20, at=7, size=1e-6, x=torch.randn(20, 3, 3))
    assert {(r.place, r.state) for r in found.responses} == {
        (place, state) for place in layer.suffixes for state in layer.cell.states
    }
    for each in found.responses:
        usable = each.measured.isfinite()
        assert usable.sum() >= 6, each.place
        assert torch.allclose(each.measured[usable], each.linear[usable], rtol=0, atol=3e-5), each.place
        assert torch.equal(each.measured.isneginf(), each.linear.isneginf())
        assert each.half_life == each.linear_half_life


def test_the_response_is_the_power_of_the_matrix() -> None:
    """At rest tanh is the identity: W^k U u, to 1e-12 of the logarithm, where float64 has long been 0."""
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(5, 5, generator=generator).double() / 6
    layer = set_to(Recurrent("rnn", 2, 5), h__h=W.float(), h__x=torch.randn(5, 2, generator=generator))
    W, U = (layer.parameters_of("l0")[name].detach().double() for name in ("h.h", "h.x"))
    found = impulse_response(layer, 3000, unit=torch.tensor([3.0, -4.0]))["l0", "h"]
    expected = linear_recursion(W, 2999, U @ torch.tensor([0.6, -0.8], dtype=DOUBLE))
    assert expected.log_norm[-1] < -1000
    assert_close(found.linear, expected.log_norm, **EXACT)
    assert found.linear.dtype == found.measured.dtype == DOUBLE
    assert not any("not finite" in word for word in found.words)


def test_layers_go_on_from_what_has_long_been_0() -> None:
    """Two layers at rest that keep u and v of what they had: sums of u^i v^j, here in both directions."""
    layer = Recurrent("rnn", 1, 1, num_layers=2, bidirectional=True, backend="reference")
    u, v, T, at = 0.01, 0.02, 300, 40
    set_to(layer, h__h=[[u]], h__x=[[1.0]])
    with torch.no_grad():
        layer.parameters_of("l1")["h.h"].fill_(v)
        layer.parameters_of("l1")["h.x"].copy_(torch.tensor([[1.0, 0.0]]))
    u, v = (float(torch.tensor(value)) for value in (u, v))
    found = impulse_response(layer, T, at=at, unit=0)["l1", "h"].linear
    k = torch.arange(T - at, dtype=DOUBLE)
    assert_close(found[at:], (k + 1) * math.log(v) + ((1 - (u / v) ** (k + 1)) / (v - u)).log(), **EXACT)
    assert found[:at].isneginf().all()


@pytest.mark.parametrize(
    ("w", "half", "percent"),
    [(0.5, 1, 7), (0.9, 7, 44), (-0.9, 7, 44), (0.99, 69, 459), (2 ** (-1 / 3), 3, 20)],
)
def test_half_lives(w: float, half: int, percent: int) -> None:
    """The first k where w^k is no more than a half, a hundredth."""
    layer = set_to(Recurrent("rnn", 1, 1, dtype=DOUBLE), h__h=[[w]], h__x=[[1.0]])
    found = impulse_response(layer, 600, unit=0, at=3, size=1e-4)["l0", "h"]
    assert (found.linear_half_life, found.linear_one_percent) == (half, percent)
    assert (found.half_life, found.one_percent) == (half, percent)
    short = impulse_response(layer, half, unit=0, size=1e-4)["l0", "h"]
    assert short.half_life is short.one_percent is None
    assert "after ? steps" in str(short)


def test_the_cell_of_an_lstm_keeps_what_its_forget_gate_lets_through() -> None:
    """f^k exactly, for a gate that does not look."""
    layer = Recurrent("lstm", 1, 1, dtype=DOUBLE)
    set_to(layer, f__bias=[4.0], i__bias=[2.0], g__x=[[1.0]], o__bias=[0.5])
    found = impulse_response(layer, 1000, unit=0)
    f, i, o = (torch.sigmoid(torch.tensor(v, dtype=DOUBLE)) for v in (4.0, 2.0, 0.5))
    k = torch.arange(1000, dtype=DOUBLE)
    assert_close(found["l0", "c"].linear, k * f.log() + i.log(), **EXACT)
    assert_close(found["l0", "h"].linear, k * f.log() + i.log() + o.log(), **EXACT)
    measured = found["l0", "c"].measured
    assert_close(measured, k * f.log() + (i * math.tanh(1)).log(), **EXACT)
    assert found["l0", "c"].half_life == math.ceil(math.log(0.5) / f.log())


def test_layers_that_read_backwards_answer_before_the_impulse() -> None:
    found = impulse_response(LSTM(2, 3, bidirectional=True), 30, at=20)
    forward, backward = found["l0", "c"], found["l0_reverse", "c"]
    assert forward.linear[:20].isneginf().all()
    assert forward.linear[20:].isfinite().all()
    assert backward.linear[21:].isneginf().all()
    assert backward.linear[:21].isfinite().all()
    assert backward.measured[21:].isneginf().all()
    assert backward.lags[0] == -20
    assert 0 < backward.one_percent <= 20


def test_the_layer_is_left_as_it_is() -> None:
    layer = Recurrent("gru", 3, 4, batch_first=True).train()
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    x = torch.randn(2, 9, 3)
    found = impulse_response(layer, 9, unit=0, x=x)
    assert layer.training
    assert layer.batch_first
    assert layer.dtype == torch.float32
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    layer.batch_first = False
    again = impulse_response(layer, 9, unit=0, x=x.transpose(0, 1))
    assert torch.equal(found["l0", "h"].linear, again["l0", "h"].linear)
    of_each = [impulse_response(layer, 9, unit=0, x=one)["l0", "h"].linear.exp() for one in x]
    mean = torch.stack(of_each).square().mean(0).sqrt().log()
    assert torch.allclose(found["l0", "h"].linear, mean, rtol=0, atol=1e-12)


def test_tokens_are_one_hot_vectors() -> None:
    layer, tokens = LSTM(5, 4), torch.randint(5, (8, 2))
    x = torch.nn.functional.one_hot(tokens, 5).float()
    found, expected = (impulse_response(layer, 8, unit=2, x=given) for given in (tokens, x))
    for one, other in zip(found.responses, expected.responses, strict=True):
        assert torch.equal(one.linear, other.linear)
        assert torch.equal(one.measured, other.measured)


def test_directions_are_drawn_with_the_generator() -> None:
    layer = GRU(7, 4, backend="reference")
    one, same, other = (
        impulse_response(layer, 2, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one.direction, same.direction)
    assert not torch.equal(one.direction, other.direction)
    assert float(one.direction.norm()) == pytest.approx(1, rel=1e-15)


def test_what_is_below_rounding_is_not_measured() -> None:
    """The numbers that are there are right to a thousandth, and the others are NaN."""
    layer = set_to(Recurrent("rnn(activation=softplus)", 1, 1), h__h=[[0.8]], h__x=[[1.0]])
    found = impulse_response(layer, 200, unit=0, size=1e-3)["l0", "h"]
    known = found.measured.isfinite()
    assert 20 < known.sum() < 60
    last = int(torch.nonzero(known)[-1])
    assert found.measured[last + 1 :].isnan().all()
    assert (found.measured - found.linear)[: last + 1].abs().max() < 2e-3
    assert found.linear.isfinite().all()
    assert f"from {last + 1} steps on the two runs differ by no more than rounding" in str(found)
    assert found.one_percent == found.linear_one_percent


def test_a_kink_has_no_derivative() -> None:
    layer = set_to(
        RNN(1, 1, nonlinearity="relu", dtype=DOUBLE, backend="reference"), h__h=[[0.3]], h__x=[[1.0]]
    )
    falling = torch.arange(700).double() * math.log(0.3)
    found = impulse_response(layer, 700, unit=0)["l0", "h"]
    assert_close(found.measured[:500], falling[:500], **EXACT)
    assert_close(found.measured.nan_to_num(0), torch.where(found.measured.isnan(), 0, falling), **EXACT)
    assert found.linear.isnan().all()
    assert found.linear_half_life is None
    assert "the derivative is exactly 0 where this impulse is felt" in str(found)
    moved = impulse_response(layer, 9, unit=0, x=torch.ones(9, 1))["l0", "h"]
    assert_close(moved.linear, falling[:9], **EXACT)


def test_directions_meet_at_their_own_scales() -> None:
    """Three layers in both directions that keep a ten thousandth a step, against autograd."""
    T, at = 30, 12
    layer = Recurrent(
        "rnn", 1, 2, num_layers=3, bidirectional=True, init={"*.h": "normal:1e-4"}, backend="reference",
        dtype=DOUBLE,
    )  # fmt: skip
    found = impulse_response(layer, T, at=at, unit=0)
    x, change = torch.zeros(2, T, 1, dtype=DOUBLE)
    change[at] = 1
    _, changes = torch.autograd.functional.jvp(lambda v: layer(v, return_states=True)[-1]["h"], x, change)
    for place, change in zip(layer.suffixes, changes, strict=True):
        assert_close(found[place, "h"].linear, change.norm(dim=-1).log(), rtol=1e-10, atol=1e-10)


@cell(states="h c")
def outgrowing(x, h, c, W):
    c = 1e6 * c + W.c(x, bias=False)
    return torch.tanh(c), c


def test_what_is_lost_below_is_lost_above() -> None:
    """The upper layer leaves the range of float64 later than the one that it reads."""
    layer = Recurrent(outgrowing, 1, 1, num_layers=2, dtype=DOUBLE, backend="reference")
    with torch.no_grad():
        for suffix, value in (("l0", 1.0), ("l1", 1e-30)):
            layer.parameters_of(suffix)["c.x"].fill_(value)
    found = impulse_response(layer, 60, unit=0, x=torch.ones(60, 1))
    of_lower, of_upper = (found[place, "c"].linear.isfinite() for place in ("l0", "l1"))
    assert 50 < of_lower.sum() < 54
    assert torch.equal(of_lower, of_upper)


@cell(states="h")
def guarded(x, h, W):
    """A branch that is not taken has no derivative, and no value."""
    u = W.h(x, h)
    return torch.where(u > 0, torch.sqrt(u), 0.5 * u)


def test_what_is_not_chosen_does_not_matter() -> None:
    layer = set_to(Recurrent(guarded, 1, 1, backend="reference"), h__h=[[1.0]], h__x=[[1.0]])
    found = impulse_response(layer, 9, unit=0, x=-torch.ones(9, 1), size=0.1)["l0", "h"]
    assert_close(found.linear, torch.arange(1, 10).double() * math.log(0.5), **EXACT)


def test_states_beyond_float64_are_not_measured() -> None:
    layer = set_to(RNN(1, 1, nonlinearity="relu"), h__h=[[100.0]], h__x=[[1.0]])
    found = impulse_response(layer, 300, unit=0, x=torch.ones(300, 1))["l0", "h"]
    assert found.measured[:150].isfinite().all()
    assert found.measured[160:].isnan().all()
    assert found.linear[160:].isnan().all()
    assert found.half_life is None
    assert "the states leave the range of float64: not measured" in str(found)
    assert "the derivative is not finite" in str(found)
    growing = impulse_response(layer, 100, unit=0, x=torch.ones(100, 1))["l0", "h"]
    assert_close(growing.linear, torch.arange(100).double() * math.log(100), **EXACT)
    assert "it is largest at the last step" in str(growing)
