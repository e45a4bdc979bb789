"""Forward memory: impulse responses, and recursions beside their closed forms."""

import json
import math
import subprocess
import sys

import pytest
import torch
from matplotlib.axes import Axes
from torch import Tensor

from cases import one_line
from unrolled import GRU, LSTM, RNN, InputError, Recurrent
from unrolled.flow.memory import (
    bounded,
    impulse_response,
    linear_recursion,
    memory_of_tanh,
    saturation,
)
from unrolled.flow.records import Record
from unrolled.nn.stack import RecurrentStack

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")  # torch's own, in its first jvp

LONG = 100_000
ACTIVATIONS = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "softplus": torch.nn.functional.softplus,
}


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-12) -> bool:
    """Relative to the expected logarithm, or to 1 where that is smaller."""
    return bool(((found - expected).abs() <= tolerance * expected.abs().clamp(min=1)).all())


def set_to(layer: RecurrentStack, **values: object) -> RecurrentStack:
    """A layer with parameters l0.NAME of these values, dots written as __, and all others 0."""
    with torch.no_grad():
        for tensor in layer.parameters():
            tensor.zero_()
        for name, value in values.items():
            target = layer.parameters_of("l0")[name.replace("__", ".")]
            target.copy_(torch.as_tensor(value, dtype=target.dtype))
    return layer


# Linear recursions


@pytest.mark.parametrize("w", [0.5, -0.5, 1.5, -1.5, 0.999, 1.0, -1.0, 1e-200, 1e200])
def test_a_number_grows_as_its_power(w: float) -> None:
    """w^t to 1e-12 of its logarithm, and its sign, through 100,000 steps."""
    found = linear_recursion(w, LONG, h0=-3.0)
    t = torch.arange(LONG + 1, dtype=torch.float64)
    assert close(found.log_norm, math.log(3) + t * math.log(abs(w)))
    assert found.closed is not None
    assert found.deviation <= 1e-12
    expected = torch.where((t % 2 == 0) | torch.tensor(w > 0), -1.0, 1.0)
    assert torch.equal(found.sign, expected.double())
    assert found.rate == found.bound == pytest.approx(math.log(abs(w)), rel=1e-15)
    assert found.log_norm.dtype == found.closed.dtype == torch.float64


def test_zero_leaves_nothing() -> None:
    found = linear_recursion(0.0, 5)
    assert found.log_norm.tolist() == [0.0] + 5 * [-math.inf]
    assert found.closed.tolist() == found.log_norm.tolist()
    assert found.deviation == 0
    nilpotent = linear_recursion([[0.0, 7.0], [0.0, 0.0]], 5, [0.0, 1.0])
    assert nilpotent.log_norm[1] == pytest.approx(math.log(7))
    assert nilpotent.log_norm[2:].isneginf().all()
    assert nilpotent.rate == -math.inf


@pytest.mark.parametrize("W", [[[2, -1], [3, 1]], [[1, 2], [3, 4]], [[1, 1, 0], [0, 1, 2], [-1, 0, 3]]])
def test_a_matrix_grows_as_its_power(W: list[list[int]]) -> None:
    """W^t h_0 of whole numbers, exactly."""
    T = 2000
    found = linear_recursion(W, T, [1, *[0] * (len(W) - 1)])
    h, logs = [1, *[0] * (len(W) - 1)], []
    for _ in range(T + 1):
        logs.append(math.log(sum(v * v for v in h)) / 2)
        h = [sum(a * v for a, v in zip(row, h, strict=True)) for row in W]
    assert close(found.log_norm, torch.tensor(logs, dtype=torch.float64))
    assert found.deviation <= 1e-12
    assert found.rate == pytest.approx(
        float((found.log_norm[T] - found.log_norm[T // 2]) / (T // 2)), rel=2e-3
    )


@pytest.mark.parametrize("g", [0.5, 0.999, 1.0, 1.5])
def test_a_scaled_rotation_grows_by_its_scale(g: float) -> None:
    """ln g a step, whatever the angle, which is also the bound of one step."""
    c, s = g * math.cos(0.3), g * math.sin(0.3)
    found = linear_recursion([[c, -s], [s, c]], LONG, [0.6, 0.8])
    assert close(
        found.log_norm, torch.arange(LONG + 1, dtype=torch.float64) * math.log(g), 2e-12 if g != 1 else 1e-10
    )
    assert found.rate == pytest.approx(math.log(g), abs=1e-15)
    assert found.bound == pytest.approx(math.log(g), abs=1e-15)
    assert found.eigenvalue == (pytest.approx(c), pytest.approx(s))
    assert found.departure < 1e-12
    assert not any("normal" in word for word in found.words)


def test_transient_growth_is_named() -> None:
    """(a^t - b^t) / (a - b) beside a < 1: it grows first; the eigenvalue decides the end, the singular value
    the first step."""
    found = linear_recursion([[0.9, 1.0], [0.0, 0.8]], LONG, [0.0, 1.0])
    t = torch.arange(1, LONG + 1, dtype=torch.float64)
    both = torch.stack([t * math.log(0.9) - math.log(0.1) + torch.log1p(-((8 / 9) ** t)), t * math.log(0.8)])
    assert close(found.log_norm[1:], torch.logsumexp(2 * both, 0) / 2)
    assert found.deviation <= 1e-12
    assert found.rate == pytest.approx(math.log(0.9))
    stretch = torch.linalg.matrix_norm(torch.tensor([[0.9, 1.0], [0.0, 0.8]]).double(), 2)
    assert found.bound == pytest.approx(math.log(stretch))
    assert found.peak == 6
    assert "transient growth, × 2.71 at step 6" in str(found)
    assert float(linear_recursion([[0.9, 1.0], [0.0, 0.8]], 1).log_norm[1]) == pytest.approx(found.bound)


def test_a_matrix_without_enough_eigenvectors_has_no_closed_form() -> None:
    """t a^{t-1} is measured as it is."""
    a = 0.9
    found = linear_recursion([[a, 1.0], [0.0, a]], LONG, [0.0, 1.0])
    t = torch.arange(1, LONG + 1, dtype=torch.float64)
    assert close(found.log_norm[1:], t * math.log(a) + ((t / a).square() + 1).log() / 2)
    assert found.closed is None
    assert math.isnan(found.deviation)
    assert "no closed form: W has too few eigenvectors" in str(found)
    Q = torch.linalg.qr(torch.randn(2, 2, dtype=torch.float64)).Q
    turned = linear_recursion(Q @ torch.tensor([[1.0, 1.0], [0.0, 1.0]]).double() @ Q.T, 100)
    assert "|λ_max| is 1 within" in str(turned)


@pytest.mark.parametrize("w", [0.0, 0.9, 0.999999999, 1.0, -1.0, 1.1, 1.000001])
def test_a_constant_input_adds_up(w: float) -> None:
    """The geometric sum beside the recursion, also where w is 1 or nearly."""
    T, x, h0 = 2000, 2.0, 0.5
    found = linear_recursion(w, T, h0, x)
    h, expected = h0, []
    for _ in range(T + 1):
        expected.append(math.log(abs(h)))
        h = w * h + x
    assert close(found.log_norm, torch.tensor(expected, dtype=torch.float64), 1e-11)
    assert found.deviation <= 1e-11


def test_constant_inputs_lead_to_the_solution_of_the_equation() -> None:
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(6, 6, generator=generator).double() / 5
    x = torch.randn(6, generator=generator).double()
    found = linear_recursion(W, LONG, torch.zeros(6), x)
    limit = torch.linalg.solve(torch.eye(6).double() - W, x).norm().log()
    assert float(found.log_norm[-1]) == pytest.approx(float(limit), rel=1e-12)
    assert found.log_norm[0].isneginf()
    assert found.deviation <= 1e-12


def test_inputs_that_vary_are_run_and_have_no_closed_form() -> None:
    """By superposition: the sum of the responses to each."""
    generator = torch.Generator().manual_seed(0)
    W, x = (
        torch.randn(3, 3, generator=generator).double() / 2,
        torch.randn(9, 3, generator=generator).double(),
    )
    found = linear_recursion(W, 9, torch.zeros(3), x)
    total = sum(torch.linalg.matrix_power(W, 8 - t) @ x[t] for t in range(9))
    assert float(found.log_norm[-1]) == pytest.approx(float(total.norm().log()), rel=1e-12)
    assert found.closed is None
    assert "x varies" in str(found)


def test_a_start_that_misses_the_largest_eigenvalue_says_so() -> None:
    found = linear_recursion([[0.9, 0.0], [0.0, 0.5]], 5000, [0.0, 1.0])
    assert close(found.log_norm, torch.arange(5001, dtype=torch.float64) * math.log(0.5))
    assert found.deviation <= 1e-12
    assert "no part along the largest eigenvalue" in str(found)


# Impulse responses


def test_the_response_is_the_power_of_the_matrix() -> None:
    """At rest tanh is the identity: W^k U u, to 1e-12 of the logarithm, where float64 has long been 0."""
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(5, 5, generator=generator).double() / 6
    layer = set_to(Recurrent("rnn", 2, 5), h__h=W.float(), h__x=torch.randn(5, 2, generator=generator))
    W, U = (layer.parameters_of("l0")[name].detach().double() for name in ("h.h", "h.x"))
    found = impulse_response(layer, 3000, unit=torch.tensor([3.0, -4.0]))["l0", "h"]
    expected = linear_recursion(W, 2999, U @ torch.tensor([0.6, -0.8], dtype=torch.float64))
    assert expected.log_norm[-1] < -1000
    assert close(found.linear, expected.log_norm)
    assert found.linear.dtype == found.measured.dtype == torch.float64
    assert not any("not finite" in word for word in found.words)


@pytest.mark.parametrize(
    ("w", "half", "percent"), [(0.5, 1, 7), (0.9, 7, 44), (-0.9, 7, 44), (0.99, 69, 459)]
)
def test_half_lives(w: float, half: int, percent: int) -> None:
    """The first k where w^k is no more than a half, a hundredth."""
    layer = set_to(Recurrent("rnn", 1, 1), h__h=[[w]], h__x=[[1.0]])
    found = impulse_response(layer, 600, unit=0, at=3, size=1e-4)["l0", "h"]
    assert (found.linear_half_life, found.linear_one_percent) == (half, percent)
    assert (found.half_life, found.one_percent) == (half, percent)
    short = impulse_response(layer, half, unit=0, size=1e-4)["l0", "h"]
    assert short.half_life is short.one_percent is None
    assert "after ? steps" in str(short)


def test_the_cell_of_an_lstm_keeps_what_its_forget_gate_lets_through() -> None:
    """f^k exactly, for a gate that does not look."""
    layer = Recurrent("lstm", 1, 1, dtype=torch.float64)
    set_to(layer, f__bias=[4.0], i__bias=[2.0], g__x=[[1.0]], o__bias=[0.5])
    T = 5000
    found = impulse_response(layer, T, unit=0)
    f, i, o = (torch.sigmoid(torch.tensor(v, dtype=torch.float64)) for v in (4.0, 2.0, 0.5))
    k = torch.arange(T, dtype=torch.float64)
    assert close(found["l0", "c"].linear, k * f.log() + i.log())
    assert close(found["l0", "h"].linear, k * f.log() + i.log() + o.log())
    moved = impulse_response(layer, 500, unit=0)["l0", "c"]
    assert close(moved.measured, k[:500] * f.log() + (i * math.tanh(1)).log())
    assert moved.half_life == math.ceil(math.log(0.5) / f.log())


def test_the_response_is_the_derivative_by_autograd() -> None:
    torch.manual_seed(0)
    layer, x = GRU(3, 4, dtype=torch.float64), torch.randn(12, 3, dtype=torch.float64)
    found = impulse_response(layer, 12, at=2, unit=1, x=x)["l0", "h"]
    jacobian = torch.autograd.functional.jacobian(lambda v: layer(v)[0], x)[:, :, 2, 1]
    assert close(found.linear[2:], jacobian[2:].norm(dim=1).log())
    assert found.linear[:2].isneginf().all()
    assert found.measured[:2].isneginf().all()


LAYERS = {
    "rnn": lambda: RNN(3, 4, num_layers=2),
    "softplus": lambda: Recurrent("rnn(activation=softplus)", 3, 4),
    "lstm": lambda: LSTM(3, 4, num_layers=2, dropout=0.5),
    "projection": lambda: LSTM(3, 4, num_layers=2, proj_size=2),
    "peepholes": lambda: Recurrent("lstm(peepholes=vector)", 3, 4),
    "bidirectional": lambda: GRU(3, 4, num_layers=2, bidirectional=True),
    "reset before": lambda: Recurrent("gru_cho", 3, 4),
    "learned start": lambda: Recurrent("gru", 3, 4, learn_initial=True, init={"initial.*": "normal:0.3"}),
    "norm and zoneout": lambda: Recurrent("mgu", 3, 4, norm="layer", zoneout=0.2, recurrent_dropout=0.2),
    "batch norm": lambda: GRU(3, 4, num_layers=2, batch_norm=True, bidirectional=True),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_small_impulse_is_the_limit(name: str) -> None:
    """Two runs 1e-6 apart differ as the derivative says, at every step, layer, direction and state."""
    torch.manual_seed(1)
    layer = LAYERS[name]()
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
    layer = GRU(7, 4)
    one, same, other = (
        impulse_response(layer, 4, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one.direction, same.direction)
    assert not torch.equal(one.direction, other.direction)
    assert float(one.direction.norm()) == pytest.approx(1, rel=1e-15)


def test_what_is_below_rounding_is_not_measured() -> None:
    """The numbers that are there are right to a thousandth, and the others are NaN."""
    layer = set_to(Recurrent("rnn(activation=softplus)", 1, 1), h__h=[[0.8]], h__x=[[1.0]])
    found = impulse_response(layer, 400, unit=0, size=1e-3)["l0", "h"]
    known = found.measured.isfinite()
    assert 20 < known.sum() < 60
    last = int(torch.nonzero(known)[-1])
    assert found.measured[last + 1 :].isnan().all()
    assert (found.measured - found.linear)[: last + 1].abs().max() < 2e-3
    assert found.linear.isfinite().all()
    assert f"from {last + 1} steps on the two runs differ by no more than rounding" in str(found)
    assert found.one_percent == found.linear_one_percent


def test_a_kink_has_no_derivative() -> None:
    layer = set_to(RNN(1, 1, nonlinearity="relu"), h__h=[[0.5]], h__x=[[1.0]])
    halving = torch.arange(9).double() * math.log(0.5)
    found = impulse_response(layer, 9, unit=0)["l0", "h"]
    assert close(found.measured, halving)
    assert found.linear.isnan().all()
    assert found.linear_half_life is None
    assert "the derivative is exactly 0 where this impulse is felt" in str(found)
    moved = impulse_response(layer, 9, unit=0, x=torch.ones(9, 1))["l0", "h"]
    assert close(moved.linear, halving)


def test_states_beyond_float64_are_not_measured() -> None:
    layer = set_to(RNN(1, 1, nonlinearity="relu"), h__h=[[100.0]], h__x=[[1.0]])
    found = impulse_response(layer, 300, unit=0, x=torch.ones(300, 1))["l0", "h"]
    assert found.measured[:150].isfinite().all()
    assert found.measured[160:].isnan().all()
    assert found.half_life is None
    assert "the states leave the range of float64: not measured" in str(found)
    assert "the derivative is not finite" in str(found)
    growing = impulse_response(layer, 100, unit=0, x=torch.ones(100, 1))["l0", "h"]
    assert close(growing.linear, torch.arange(100).double() * math.log(100))
    assert "it is largest at the last step" in str(growing)


# One unit


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("w", [-10.0, -2.0, -0.5, 0.0, 0.5, 1.5, 3.0, 4.5, 10.0, 40.0])
@pytest.mark.parametrize("b", [-5.0, -2.2, -0.4, 0.0, 0.3, 5.0])
def test_fixed_points_are_all_there_and_true(activation: str, w: float, b: float) -> None:
    """Each satisfies the equation to 1e-12 with the slope that autograd gives, and there are as many as the
    function h - f(w h + b) changes its sign on a fine grid."""
    f = ACTIVATIONS[activation]
    found = saturation(activation, w, b)
    values = torch.tensor([p.value for p in found.fixed_points], dtype=torch.float64, requires_grad=True)
    again = f(w * values + b)
    assert torch.allclose(again, values, rtol=1e-12, atol=1e-12)
    smooth = (
        (w * values + b).abs() > 1e-9 if activation == "relu" else torch.ones(len(values), dtype=torch.bool)
    )
    (slopes,) = torch.autograd.grad(again.sum(), values) if len(values) else (values,)
    for point, slope in zip(found.fixed_points, slopes[smooth].tolist(), strict=False):
        assert point.slope == pytest.approx(slope, rel=1e-9, abs=1e-12)
        assert point.stability == ("stable" if abs(slope) < 1 else "unstable")
    grid = torch.linspace(-3, 60, 630_001, dtype=torch.float64) + 1e-7 * math.pi
    left = f(w * grid + b) - grid
    assert len(values) == int((left[1:] * left[:-1] < 0).sum()) or activation == "relu"
    assert math.isnan(found.deviation) or found.deviation <= 1e-12


@pytest.mark.parametrize(
    ("activation", "w", "b", "values"),
    [
        ("relu", 0.5, 1.0, [2.0]),
        ("relu", 1.5, -1.0, [0.0, 2.0]),
        ("relu", 1.5, 0.0, [0.0]),
        ("relu", 1.5, 1.0, []),
        ("relu", 1.0, 1.0, []),
        ("relu", 1.0, -1.0, [0.0]),
        ("relu", -2.0, 1.0, [1 / 3]),
        ("relu", -2.0, -1.0, [0.0]),
        ("relu", 0.5, -1.0, [0.0]),
        ("softplus", 1.0, 0.0, []),
        ("softplus", 1.0, 0.5, []),
        ("softplus", 1.0, math.log(math.e - 1) - 1, [1.0]),
        ("softplus", 0.0, 0.0, [math.log(2)]),
        ("sigmoid", 0.0, 0.0, [0.5]),
        ("sigmoid", 1000.0, -500.0, [0.0, 0.5, 1.0]),
        ("sigmoid", 4.0, -2.0, [0.5]),
        ("tanh", 1.0, 0.0, [0.0]),
        ("tanh", 1e6, 0.0, [-1.0, 0.0, 1.0]),
    ],
)
def test_fixed_points_that_are_known(activation: str, w: float, b: float, values: list[float]) -> None:
    found = saturation(activation, w, b, T=50)
    assert [p.value for p in found.fixed_points] == pytest.approx(values, rel=1e-9, abs=1e-12)


def test_a_sigmoid_may_end_in_a_cycle() -> None:
    """w = -10: it jumps between two values for ever, so it does not settle to one that w decides."""
    found = saturation("sigmoid", -10.0)
    p, q = found.cycle
    assert p < found.fixed_points[0].value < q
    assert 1 / (1 + math.exp(10 * p)) == pytest.approx(q, rel=1e-12)
    assert 1 / (1 + math.exp(10 * q)) == pytest.approx(p, rel=1e-12)
    assert [p.stability for p in found.fixed_points] == ["unstable"]
    assert all(sorted(limit) == pytest.approx([p, q], rel=1e-12) for limit in found.limits)
    assert found.deviation <= 1e-12
    assert "a 2-cycle" in str(found)


def test_a_sigmoid_may_have_two_limits() -> None:
    """w = 10, b = -5: below a half it goes down, above it up."""
    found = saturation("sigmoid", 10.0, -5.0, [-3.0, 0.499, 0.501, 4.0])
    low, middle, high = (p.value for p in found.fixed_points)
    assert middle == 0.5
    assert [p.stability for p in found.fixed_points] == ["stable", "unstable", "stable"]
    assert [limit[0] for limit in found.limits] == pytest.approx([low, low, high, high], rel=1e-12)
    assert low + high == pytest.approx(1, rel=1e-12)
    assert "the limit depends on the start: 0.00719 or 0.993" in str(found)
    assert saturation("sigmoid", 10.0, -5.0).limits.count(()) == 0


@pytest.mark.parametrize(
    ("activation", "w", "b"),
    [("sigmoid", 3.9, -2.0), ("tanh", 0.9, 0.0), ("tanh", -3.0, 0.1), ("relu", 0.9, 1.0)],
)
def test_saturation_takes_as_many_steps_as_it_takes(activation: str, w: float, b: float) -> None:
    """The first step from which on h is within 0.001 of where it ends, by hand."""
    found = saturation(activation, w, b, 0.7)
    h, series = torch.tensor(0.7, dtype=torch.float64), []
    for _ in range(3000):
        series.append(float(h))
        h = ACTIVATIONS[activation](w * h + b)
    far = [t for t in range(2900) if abs(series[t] - series[2998 + (t - 2998) % 2]) > 1e-3]
    assert found.settled == (far[-1] + 1,)
    assert found.h[: far[-1], 0].tolist() == pytest.approx(series[: far[-1]], rel=1e-12)


def test_what_does_not_settle_says_so() -> None:
    slow = saturation("tanh", 1.0)
    assert set(slow.limits) == {()}
    assert set(slow.settled) == {None}
    assert math.isnan(slow.deviation)
    assert slow.fixed_points[0].stability == "neutral"
    assert "8 of 8 starts have not settled in 1000 steps" in str(slow)
    assert "ever more slowly" in str(slow)
    fold = saturation("sigmoid", 8.0, -4 + 8 * math.sqrt(0.5) / 2 - 2 * math.atanh(math.sqrt(0.5)))
    assert sorted(p.stability for p in fold.fixed_points) == ["neutral", "stable"]


def test_relu_and_softplus_may_diverge() -> None:
    found = saturation("relu", 1.5, -1.0, [1.9, 2.0, 2.1])
    assert found.limits == ((0.0,), (2.0,), ())
    assert found.h[-1, 2].isnan()
    assert "1 of 3 starts diverge" in str(found)
    assert "1 of 10 starts diverge" in str(saturation("relu", 1.5, -1.0))  # it starts beside 2 too
    assert "8 of 8 starts diverge" in str(saturation("relu", 1.0, 1.0))
    assert "8 of 8 starts diverge" in str(saturation("softplus", 1.0, 0.0))
    assert "every start from 0 on is a fixed point" in str(saturation("relu", 1.0))
    assert "every start is on a 2-cycle of its own" in str(saturation("relu", -1.0, 1.0))
    assert saturation("relu", -2.0, 1.0).cycle == (0.0, 1.0)
    (at_kink,) = saturation("relu", -2.0).fixed_points
    assert (at_kink.value, at_kink.slope, at_kink.stability) == (0, 0, "stable")
    (leaving,) = saturation("relu", 2.0).fixed_points
    assert (leaving.value, leaving.slope, leaving.stability) == (0, 2, "unstable")


# Bounded input, bounded output


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
    torch.manual_seed(0)
    layer = Recurrent(
        cell,
        3,
        4,
        num_layers=2,
        bidirectional=bidirectional,
        learn_initial=True,
        init={"*.x": "normal:2", "initial.*": "normal:3"},
    )
    found = bounded(layer, 300)
    assert found.largest.shape == (2 * (1 + bidirectional) * len(layer.cell.states), 300)
    for (_, state), largest, bound in zip(found.places, found.largest, found.bounds, strict=True):
        assert float(largest[-1]) <= bound
        assert bool((largest.diff() >= 0).all())
        if state == "h" and "softplus" not in cell:
            assert 1 <= bound < 12  # or what it starts from


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


def test_softplus_is_a_little_above_relu() -> None:
    """(u + ln 2) / (1 - w) holds, and is nearly attained where softplus is nearly a line."""
    found = bounded("softplus", 2000, w=0.99, u=5.0)
    assert found.bounds == (pytest.approx((5 + math.log(2)) / 0.01),)
    assert 499.9 <= float(found.largest[0, -1]) <= found.bounds[0]


# Memory of tanh networks


@pytest.mark.parametrize("kind", ["orthogonal", "symmetric"])
def test_the_largest_eigenvalue_decides_the_half_life_at_rest(kind: str) -> None:
    """ln 2 / -ln ρ, for matrices that are normal."""
    generator = torch.Generator().manual_seed(0)
    found = memory_of_tanh((0.5, 0.9, 0.98), hidden=8, T=800, kind=kind, generator=generator)
    expected = math.log(2) / -found.radii.log()
    assert torch.allclose(found.expected, expected, rtol=1e-15, atol=0)
    assert torch.allclose(found.linear, expected, rtol=1e-6, atol=0)
    assert not found.words


def test_inputs_besides_shorten_the_memory() -> None:
    quiet, driven = (
        memory_of_tanh((0.98,), hidden=8, T=600, noise=noise, generator=torch.Generator().manual_seed(0))
        for noise in (0.0, 2.0)
    )
    assert driven.linear[0] < 0.8 * quiet.linear[0]
    assert driven.one_percent[0] < quiet.one_percent[0]


def test_from_radius_one_on_it_does_not_fade() -> None:
    found = memory_of_tanh(
        (1.0, 1.2), hidden=6, T=200, kind="symmetric", generator=torch.Generator().manual_seed(0)
    )
    assert found.expected.isinf().all()
    assert found.linear.isinf().all()
    assert found.one_percent.isnan().all()
    assert found.words == ("ρ = 1: a small impulse neither fades nor grows", "ρ = 1.2: a small impulse grows")


def test_a_half_life_that_is_not_known_is_none() -> None:
    """Where the quarters of the slope disagree, or there are few steps, there is no number."""
    found = memory_of_tanh((1.0,), hidden=6, T=400, noise=3.0, generator=torch.Generator().manual_seed(0))
    short = memory_of_tanh((0.9,), hidden=6, T=20, generator=torch.Generator().manual_seed(0))
    assert short.linear.isnan().all()
    assert "too few steps" in str(short)
    assert found.expected.isinf().all()


# Records


RECORDS = {
    "response": lambda: impulse_response(LSTM(2, 3, num_layers=2), 80, at=4),
    "one response": lambda: impulse_response(GRU(2, 3), 5)["l0", "h"],
    "linear": lambda: linear_recursion([[0.9, 5.0], [0.0, 0.8]], 100),
    "nothing": lambda: linear_recursion(0.0, 4),
    "long": lambda: linear_recursion(0.5, 5000),
    "constant": lambda: linear_recursion(1.0, 4),
    "two limits": lambda: saturation("sigmoid", 10.0, -5.0),
    "cycle": lambda: saturation("sigmoid", -10.0),
    "divergent": lambda: saturation("relu", 1.0, 1.0),
    "fixed point": lambda: saturation("tanh", 0.5).fixed_points[0],
    "bounded": lambda: bounded(LSTM(2, 3, num_layers=2), 20),
    "unbounded": lambda: bounded("relu", 2000, w=2.0),
    "memory": lambda: memory_of_tanh((0.5, 1.0), hidden=3, T=40),
}


@pytest.mark.parametrize("name", RECORDS)
def test_records_are_told_written_and_drawn(name: str) -> None:
    record = RECORDS[name]()
    assert isinstance(record, Record)
    assert repr(record) == record.summary()
    data = record.to_dict()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert isinstance(record.plot(), Axes)
    if name != "fixed point":
        assert record.plot().get_lines()
        record.plot(record.plot())  # over another
    record.plot().figure.canvas.draw()


def test_drawing_is_loaded_when_it_is_asked_for() -> None:
    code = "import sys, unrolled.flow.memory; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# What does not fit


def impulse(**options: object) -> Record:
    return impulse_response(GRU(2, 3), 5, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: impulse_response(torch.nn.LSTM(2, 3), 5), "such as unrolled.LSTM, got a LSTM"),
        (lambda: impulse_response("lstm", 5), "expected a recurrent layer such as unrolled.LSTM, got a str"),
        (lambda: impulse_response(GRU(2, 3), 0), "T must be a whole number of at least 1, got 0"),
        (lambda: impulse(at=5), "at must be a step from 0 to 4, got 5"),
        (lambda: impulse(at=-1), "at must be a step from 0 to 4, got -1"),
        (lambda: impulse(size=0), "size must be above 0, got 0"),
        (lambda: impulse(size=math.nan), "size has a number that is not finite"),
        (lambda: impulse(unit=2), "unit must be from 0 to 1, got 2"),
        (lambda: impulse(unit=torch.zeros(2)), "unit is a number from 0 to 1, or a direction (2,)"),
        (lambda: impulse(unit="x"), "unit is a str, expected numbers"),
        (lambda: impulse(x=[1.0]), "x is a list, expected a tensor"),
        (lambda: impulse(x=torch.zeros(5, 3)), "x has shape (5, 1, 3), expected (T, 2)"),
        (lambda: impulse(x=torch.zeros(4, 2)), "x has 4 steps, fewer than the 5 asked for"),
        (lambda: impulse(x=torch.full((5, 2), math.inf)), "x has a number that is not finite"),
        (lambda: impulse(x=torch.full((5,), 2)), "token numbers go from 0 to 1, but x has 2"),
        (lambda: linear_recursion([[1.0, 2.0]], 5), "W has shape (1, 2), expected a number or a square"),
        (lambda: linear_recursion([], 5), "W has shape (0,), expected a number or a square matrix"),
        (lambda: linear_recursion(0.5, 0), "T must be a whole number of at least 1, got 0"),
        (lambda: linear_recursion(math.inf, 5), "W has a number that is not finite"),
        (lambda: linear_recursion(1j, 5), "W has complex numbers, expected real ones"),
        (lambda: linear_recursion("w", 5), "W is a str, expected numbers"),
        (lambda: linear_recursion(0.5, 5, [1.0]), "h0 has shape (1,), expected (), as W"),
        (lambda: linear_recursion(0.5, 5, 1.0, [1.0, 2.0]), "x has shape (2,), expected (), or (5,)"),
        (lambda: linear_recursion(0.5, 5, 1.0, math.nan), "x has a number that is not finite"),
        (lambda: saturation("sin", 1.0), "no activation 'sin'; there are tanh, relu, sigmoid, softplus"),
        (lambda: saturation("tanh", math.nan), "w has a number that is not finite"),
        (lambda: saturation("tanh", [1.0]), "w has shape (1,), expected a number"),
        (lambda: saturation("tanh", 1.0, x0=[]), "x0 is empty, expected at least one number"),
        (lambda: saturation("tanh", 1.0, T=0), "T must be a whole number of at least 1, got 0"),
        (lambda: bounded("sin"), "no activation 'sin'; there are tanh, relu, sigmoid, softplus"),
        (lambda: bounded("tanh", w=math.inf), "h.h has a number that is not finite"),
        (lambda: bounded(torch.nn.GRU(1, 1)), "expected a recurrent layer such as unrolled.LSTM, got a GRU"),
        (lambda: bounded("tanh", 0), "T must be a whole number of at least 1, got 0"),
        (lambda: bounded("tanh", sequences=0), "sequences must be a whole number of at least 1, got 0"),
        (lambda: memory_of_tanh(kind="odd"), "no kind 'odd'; there are gaussian, symmetric, orthogonal"),
        (lambda: memory_of_tanh((0.0,)), "radii must be numbers above 0"),
        (lambda: memory_of_tanh(()), "radii must be numbers above 0"),
        (lambda: memory_of_tanh(noise=-1), "noise must be 0 or more, got -1"),
        (lambda: memory_of_tanh(T=0), "T must be a whole number of at least 1, got 0"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(call: object, message: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert message in one_line(caught.value)
