"""Least squares of networks with taps."""

import pytest
import torch

from cases import one_line
from unrolled.errors import DivergedError, InputError
from unrolled.nn import ARX, NARX
from unrolled.train.levenberg import levenberg_marquardt

DOUBLE = torch.float64


def plant(steps: int = 120) -> tuple[torch.Tensor, torch.Tensor]:
    """A plant of two inputs and two outputs, at random, as two series."""
    torch.manual_seed(3)
    u = 2 * torch.rand(steps, 2, 2, dtype=DOUBLE) - 1
    y = [torch.zeros(2, 2, dtype=DOUBLE)]
    for now in u[:-1]:
        a, b = y[-1].unbind(1)
        y.append(torch.stack([a / (1 + b * b) + now[:, 0], 0.5 * a * b / (1 + b * b) + now[:, 1]], 1))
    return u, torch.stack(y)


def network(**options) -> NARX:
    torch.manual_seed(0)
    return NARX(2, 2, 8, (1,), (1,), dtype=DOUBLE, **options)


def error_of(model: NARX, u: torch.Tensor, y: torch.Tensor) -> float:
    return float((model.open_loop(u, y) - y[model.order :]).square().mean().detach())


def test_it_finds_a_plant_and_says_how_well():
    u, y = plant()
    model = network()
    before = error_of(model, u, y)
    left = levenberg_marquardt(model, u, y, 60)
    assert left == pytest.approx(error_of(model, u, y), rel=1e-9)
    assert left < 1e-4 * before


def test_of_a_linear_network_one_step_is_almost_enough():
    """With J constant a step of Gauss-Newton is the least squares; damping keeps it a little short."""
    u, y = plant()
    exact, stepped = (ARX(2, 2, (1,), (1, 2), dtype=DOUBLE) for _ in range(2))
    exact.fit(u, y)
    levenberg_marquardt(stepped, u, y, 6)
    for name, value in exact.named_parameters():
        assert torch.allclose(stepped.get_parameter(name), value, atol=1e-9), name


def test_it_arrives_where_the_gradient_is_zero_with_decay_too():
    u, y = plant(40)
    model, decay = network(), 1e-3
    left = levenberg_marquardt(model, u, y, 300, decay)
    squares = sum(v.square().sum() for n, v in model.named_parameters() if not n.endswith(".bias"))
    whole = (model.open_loop(u, y) - y[model.order :]).square().mean() + decay * squares
    assert left == pytest.approx(float(whole.detach()), rel=1e-9)
    gradients = torch.autograd.grad(whole, [*model.parameters()])
    assert max(float(d.abs().max()) for d in gradients) < 1e-6


def test_a_series_without_inputs():
    torch.manual_seed(1)
    y = torch.empty(80, 1, dtype=DOUBLE).fill_(0.3)
    for t in range(1, len(y)):
        y[t] = 3.8 * y[t - 1] * (1 - y[t - 1])
    model = NARX(0, 1, 6, output_lags=(1,), dtype=DOUBLE)
    assert levenberg_marquardt(model, None, y, 100) < 1e-8


@pytest.mark.parametrize(("steps", "decay"), [(0, 0.0), (1.5, 0.0), (3, -1.0), (3, float("nan"))])
def test_settings_that_are_none_are_refused(steps, decay):
    u, y = plant(20)
    with pytest.raises(InputError) as caught:
        levenberg_marquardt(network(), u, y, steps, decay)
    assert "must" in one_line(caught.value)


def test_an_error_that_is_not_finite_is_named():
    u, y = plant(20)
    with pytest.raises(DivergedError, match=r"the error to begin with is (nan|inf): scale the series"):
        levenberg_marquardt(network(init={"y.bias": 1e200}), u, y)
