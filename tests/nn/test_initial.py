"""Learned initial states, and parameters that are computed from others."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from cases import assert_same, flat, gradients, random, slstm
from unrolled import GRU, LSTM, RNN, Recurrent, cell
from unrolled.cells import gru_cho, lstm
from unrolled.nn.direct import DirectStack

T, B, D, H = 5, 3, 3, 4


def learning(**options) -> Recurrent:
    options = {"num_layers": 2, "bidirectional": True, "learn_initial": True} | options
    layer = Recurrent(lstm, D, H, dtype=torch.float64, **options)
    with torch.no_grad():
        for value in layer.initial.values():
            value.normal_()
    return layer


def test_a_learned_initial_state_is_one_that_every_sequence_is_given() -> None:
    layer, x = learning(), random(T, B, D)
    leaves = dict(layer.named_parameters())
    assert {name for name in leaves if "initial" in name} == {"initial.h", "initial.c"}
    given = {name: value.unsqueeze(1).expand(-1, B, -1) for name, value in layer.initial.items()}
    found, expected = flat(*layer(x)), flat(*layer(x, given))
    assert_same(found, expected)
    assert_same(gradients(found, leaves), gradients(expected, leaves), 1e-12)
    packed, end = layer(pack_padded_sequence(x, [T] * B))
    assert_same(flat(pad_packed_sequence(packed)[0], end), found, 1e-12)
    single, _ = layer(x[:, 0])
    assert torch.allclose(single, found["outputs"][:, 0], atol=1e-12)


def test_a_reset_returns_to_it_and_it_learns_from_there() -> None:
    layer, x = learning(num_layers=1, bidirectional=False), random(T, B, D)
    resets = torch.zeros(T, B, dtype=torch.bool)
    resets[2] = True
    outputs, _ = layer(x, {"h": random(1, B, H), "c": random(1, B, H)}, resets=resets)
    expected, _ = layer(x[2:])
    assert torch.allclose(outputs[2:], expected, atol=1e-12)
    leaves = dict(layer.initial.items())
    found = gradients({"y": outputs[2:]}, leaves)
    assert_same(found, gradients({"y": expected}, leaves), 1e-12)
    assert all(value.abs().min() > 0 for value in found.values())


def test_it_begins_with_what_the_cell_says() -> None:
    @cell(states="h n", initial={"n": 1.5})
    def counting(x, h, n, W):
        return torch.tanh(W.a(x, h)) / n, n + 1

    layer = Recurrent(counting, D, H, learn_initial=True)
    assert (layer.initial["n"] == 1.5).all()
    assert (layer.initial["h"] == 0).all()
    layer = Recurrent(counting, D, H, learn_initial=True, init={"initial.n": 2.0})
    assert (layer.initial["n"] == 2).all()
    assert (layer.initial_state(2)["n"] == 2).all()


def test_a_state_that_begins_at_infinity_does_not_learn() -> None:
    start = slstm.graph.initial
    layer = Recurrent(slstm, D, H, learn_initial=True)
    assert all(math.isfinite(start.get(name, 0.0)) == (name in layer.initial) for name in layer.cell.states)
    y, _ = layer(torch.randn(T, B, D))
    y.sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("kind", [RNN, GRU, LSTM])
def test_torchs_layers_can_have_it_and_are_else_as_they_were(kind: type) -> None:
    plain, learned = kind(D, H), kind(D, H, learn_initial=True)
    assert plain.state_dict().keys() == getattr(nn, kind.__name__)(D, H).state_dict().keys()
    learned.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(T, B, D)
    assert torch.equal(plain(x)[0], learned(x)[0])
    again = copy.deepcopy(learned)
    again.load_state_dict(learned.state_dict())
    learned(x)[0].sum().backward()
    assert learned.initial["h"].grad.abs().min() > 0
    assert DirectStack.why_not(learned) == "its initial states are learned"


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
@pytest.mark.parametrize("bias", [True, False])
def test_parametrised_weights_are_those_that_come_out(norm, bias: bool) -> None:
    layer = LSTM(D, H, bias=bias, dtype=torch.float64)
    plain = copy.deepcopy(layer)
    for name in [name for name, _ in layer.named_parameters() if name.startswith("weight")]:
        norm(layer, name)
    layer.eval()
    with torch.no_grad():
        for name in plain.state_dict():
            getattr(plain, name).copy_(getattr(layer, name))
    x = random(T, B, D)
    assert_same({"y": layer(x)[0]}, {"y": plain(x)[0]}, 1e-12)
    layer(x)[0].sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


def test_parametrised_gates() -> None:
    layer = Recurrent(gru_cho, D, H, dtype=torch.float64)
    x = random(T, B, D)
    expected, _ = layer(x)
    parametrizations.weight_norm(layer.get_submodule("l0.n"), "h")
    assert_same({"y": layer(x)[0]}, {"y": expected}, 1e-12)
    layer(x)[0].sum().backward()
    found = dict(layer.named_parameters())
    assert any("original0" in name and found[name].grad is not None for name in found)


def test_cells_that_differ_in_their_initial_values_alone_do_not_share_them() -> None:
    def counting(x, h, W):
        return torch.tanh(W.a(x, h)) + h

    x = torch.randn(4, 2, 3, dtype=torch.float64)
    for start in (0.0, 1.0, -2.0):
        layer = Recurrent(cell(states="h", initial={"h": start})(counting), 3, 5, dtype=torch.float64)
        given = {"h": torch.full((1, 2, 5), start, dtype=torch.float64)}
        assert torch.equal(layer(x)[0], layer(x, given)[0])
