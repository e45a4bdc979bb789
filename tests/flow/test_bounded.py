"""Bounds of states that inputs attain, and that none exceed."""

import math

import pytest
import torch
from given_weights import set_to

from unrolled import Recurrent
from unrolled.flow.forward import bounded


def test_bounds_that_are_attained() -> None:
    """tanh and a sigmoid reach 1, relu u / (1 - w), and the cell of an LSTM 1 / (1 - f)."""
    for activation in ("tanh", "sigmoid"):
        found = bounded(activation, 100, w=0.5, u=50.0)
        assert found.bounds == (1.0,)
        assert float(found.largest[0, -1]) == pytest.approx(1, rel=1e-12)
    for w, u in ((0.9, 1.0), (0.5, 3.0), (0.0, 2.0)):
        found = bounded("relu", 1000, w=w, u=u)
        assert found.bounds == (pytest.approx(u / (1 - w), rel=1e-12),)
        assert float(found.largest[0, -1]) == pytest.approx(u / (1 - w), rel=1e-12)
    lstm = Recurrent("lstm", 1, 2, dtype=torch.float64)
    set_to(lstm, f__bias=[math.log(9), -1.0], i__bias=[40.0, 0.0], g__bias=[40.0, 0.0])
    found = bounded(lstm, 1000)
    assert found.bounds == (1.0, pytest.approx(10, rel=1e-12))
    assert float(found.largest[1, -1]) == pytest.approx(10, rel=1e-12)


def test_matrices_below_one_bound_relu() -> None:
    """(‖U‖ + ‖b‖) / (1 - ‖W‖) by row sums, which inputs of 1 attain where nothing is negative."""
    layer = Recurrent("rnn(activation=relu)", 3, 2, num_layers=2, dtype=torch.float64)
    for suffix, D in (("l0", 3), ("l1", 2)):
        with torch.no_grad():
            for name, shape in {"h.h": (2, 2), "h.x": (2, D), "h.bias": (2,)}.items():
                layer.parameters_of(suffix)[name].copy_(torch.full(shape, 0.3))
    found = bounded(layer, 500)
    first = (3 * 0.3 + 0.3) / (1 - 0.6)
    assert found.bounds == (pytest.approx(first), pytest.approx((2 * 0.3 * first + 0.3) / (1 - 0.6)))
    assert found.largest[:, -1].tolist() == pytest.approx(found.bounds)


@pytest.mark.parametrize(
    "cell",
    [
        "rnn",
        "lstm",
        "gru",
        "gru_cho",
        "gru_chung",
        "mgu",
        "mut1",
        "mut3",
        "gated",
        "lstm_nfg",
        "rnn(activation=softplus)",
        "lstm(coupled=true)",
        "layer_norm_lstm",
    ],
)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_bounds_hold(cell: str, bidirectional: bool) -> None:
    """For large weights too."""
    layer = Recurrent(
        cell,
        3,
        4,
        num_layers=2,
        bidirectional=bidirectional,
        learn_initial=True,
        init={"*.x": "normal:2", "initial.*": "normal:3"},
        backend="reference",
    )
    found = bounded(layer, 60)
    assert found.largest.shape == (2 * (1 + bidirectional) * len(layer.cell.states), 60)
    for (_, state), largest, bound in zip(found.places, found.largest, found.bounds, strict=True):
        assert float(largest[-1]) <= bound
        assert bool((largest.diff() >= 0).all())
        if state == "h" and "softplus" not in cell:
            assert 1 <= bound < 12  # or what it starts from


def test_what_a_layer_starts_from_counts() -> None:
    """A relu layer that starts from 100 and an LSTM whose cell starts from 50 keep to that."""
    for cell, state, start in (("rnn(activation=relu)", "h", 100.0), ("lstm", "c", 50.0)):
        layer = Recurrent(cell, 1, 1, learn_initial=True, backend="reference")
        with torch.no_grad():
            layer.initial[state].fill_(start)
        found = bounded(layer, 5)
        assert dict(zip(found.places, found.bounds, strict=True))["l0", state] == start


def test_layers_that_read_backwards_run_as_a_whole() -> None:
    """h = h + x for x = 1 adds up all T steps, also where they run in chunks."""
    layer = Recurrent("rnn(activation=relu)", 1, 1, bidirectional=True, dtype=torch.float64)
    set_to(layer, h__h=[[1.0]], h__x=[[1.0]])
    with torch.no_grad():
        for tensor, value in zip(layer.parameters_of("l0_reverse").values(), (1, 1, 0), strict=True):
            tensor.fill_(value)
    T = 1100
    assert bounded(layer, T).largest[:, [0, -1]].tolist() == [[1, T], [T, T]]
    assert bounded("relu", T, w=1.0).largest[0, -1] == T


def test_relu_has_no_bound_from_one_on() -> None:
    found = bounded("relu", 3000, w=1.5)
    assert found.bounds == (math.inf,)
    first = int(found.largest[0].isinf().int().argmax())
    assert first == pytest.approx((1024 * math.log(2) - math.log(3)) / math.log(1.5), abs=1)
    assert found.largest[0, first:].isinf().all()
    assert f"left the range of float64 at step {first}; ‖W‖ is 1.5" in str(found)
    assert "‖W‖ is 1, and only below 1" in str(bounded("relu", 10, w=1.0))
    unknown = bounded(Recurrent("indrnn", 2, 3), 10)
    assert unknown.bounds == (math.inf,)
    assert "no bound is known of h of 'indrnn'" in str(unknown)
    assert "no bound is known of c with these options" in str(
        bounded(Recurrent("lstm(peepholes=vector)", 2, 3), 10)
    )
    assert "no bound is known of h with maxout" in str(bounded(Recurrent("rnn(activation=maxout)", 2, 3), 10))
    above = set_to(
        Recurrent("rnn(activation=relu)", 1, 1, num_layers=2, dtype=torch.float64), h__h=[[2.0]], h__x=[[1.0]]
    )
    assert "what it reads is unbounded" in str(bounded(above, 10))
    rescaled = Recurrent(
        "rnn(activation=relu)", 1, 1, num_layers=2, batch_norm=True, dtype=torch.float64, backend="reference"
    )
    assert "l1 h: at most 0; what it reads is unbounded" in str(bounded(set_to(rescaled), 10))


def test_softplus_is_a_little_above_relu() -> None:
    """(u + ln 2) / (1 - w) holds, and is nearly attained where softplus is nearly a line."""
    found = bounded("softplus", 2000, w=0.99, u=5.0)
    assert found.bounds == (pytest.approx((5 + math.log(2)) / 0.01),)
    assert 499.9 <= float(found.largest[0, -1]) <= found.bounds[0]
