"""One unit that reads itself, against autograd, a fine grid and values that are known."""

import math

import pytest
import torch

from unrolled.flow.forward import saturation

ACTIVATIONS = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "softplus": torch.nn.functional.softplus,
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("w", [-10.0, -2.0, -0.5, 0.0, 0.5, 1.5, 4.5, 40.0])
@pytest.mark.parametrize("b", [-5.0, -2.2, -0.4, 0.0, 0.3])
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
    grid = torch.linspace(-3, 60, 63_001, dtype=torch.float64) + 1e-7 * math.pi
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
        ("softplus", 1.0, -0.01, [-math.log(-math.expm1(-0.01))]),
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


@pytest.mark.parametrize("w", [-0.95, -0.8, -0.6])
def test_what_goes_to_and_fro_into_a_fixed_point_is_in_no_cycle(w: float) -> None:
    found = saturation("tanh", w, T=5000)
    assert found.cycle is None
    assert all(limit == pytest.approx((0.0,), abs=1e-12) for limit in found.limits)
    assert found.deviation < 1e-12


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


@pytest.mark.parametrize("w", [4.5, 6.0, 8.0, 12.0, 33.0])
def test_two_fixed_points_may_meet_in_one(w: float) -> None:
    """Where f has the slope 1 / w: h = (1 - sqrt(1 - 4 / w)) / 2."""
    h = (1 - math.sqrt(1 - 4 / w)) / 2
    fold, above = saturation("sigmoid", w, math.log(h / (1 - h)) - w * h, T=5).fixed_points
    assert fold.value == pytest.approx(h, rel=1e-12)
    assert (fold.stability, above.stability) == ("neutral", "stable")


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
