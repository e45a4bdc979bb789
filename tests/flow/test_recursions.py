"""Linear recursions, against powers that are known."""

import math

import pytest
import torch
from torch.testing import assert_close

from unrolled.flow.forward import linear_recursion

LONG = 100_000
T = 2000
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def steps(count: int, first: int = 0) -> torch.Tensor:
    return torch.arange(first, count + 1, dtype=torch.float64)


@pytest.mark.parametrize("w", [0.5, -0.5, 1.5, -1.5, 0.999, 1.0, -1.0, 1e-200, 1e200])
def test_a_number_grows_as_its_power(w: float) -> None:
    """w^t to 1e-12 of its logarithm, and its sign."""
    found = linear_recursion(w, T, h0=-3.0)
    t = steps(T)
    assert_close(found.log_norm, math.log(3) + t * math.log(abs(w)), **EXACT)
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
    found = linear_recursion(W, T, [1, *[0] * (len(W) - 1)])
    h, logs = [1, *[0] * (len(W) - 1)], []
    for _ in range(T + 1):
        logs.append(math.log(sum(v * v for v in h)) / 2)
        h = [sum(a * v for a, v in zip(row, h, strict=True)) for row in W]
    assert_close(found.log_norm, torch.tensor(logs, dtype=torch.float64), **EXACT)
    assert found.deviation <= 1e-12
    late = float((found.log_norm[T] - found.log_norm[T // 2]) / (T // 2))
    assert found.rate == pytest.approx(late, rel=2e-3)


@pytest.mark.parametrize("g", [0.5, 0.999, 1.0, 1.5])
def test_a_scaled_rotation_grows_by_its_scale(g: float) -> None:
    """ln g a step, whatever the angle, which is also the bound of one step."""
    c, s = g * math.cos(0.3), g * math.sin(0.3)
    found = linear_recursion([[c, -s], [s, c]], T, [0.6, 0.8])
    assert_close(found.log_norm, steps(T) * math.log(g), **EXACT)
    assert found.rate == pytest.approx(math.log(g), abs=1e-15)
    assert found.bound == pytest.approx(math.log(g), abs=1e-15)
    assert found.eigenvalue == (pytest.approx(c), pytest.approx(s))
    assert found.departure < 1e-12
    assert not any("normal" in word for word in found.words)


def test_transient_growth_is_named_and_holds_for_100_000_steps() -> None:
    """(a^t - b^t) / (a - b) beside a < 1: it grows first; the eigenvalue decides the end, the singular value
    the first step."""
    found = linear_recursion([[0.9, 1.0], [0.0, 0.8]], LONG, [0.0, 1.0])
    t = steps(LONG, 1)
    both = torch.stack([t * math.log(0.9) - math.log(0.1) + torch.log1p(-((8 / 9) ** t)), t * math.log(0.8)])
    assert_close(found.log_norm[1:], torch.logsumexp(2 * both, 0) / 2, **EXACT)
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
    found = linear_recursion([[a, 1.0], [0.0, a]], T, [0.0, 1.0])
    t = steps(T, 1)
    assert_close(found.log_norm[1:], t * math.log(a) + ((t / a).square() + 1).log() / 2, **EXACT)
    assert found.closed is None
    assert math.isnan(found.deviation)
    assert "no closed form: W has too few eigenvectors" in str(found)
    Q = torch.linalg.qr(torch.randn(2, 2, dtype=torch.float64)).Q
    turned = linear_recursion(Q @ torch.tensor([[1.0, 1.0], [0.0, 1.0]]).double() @ Q.T, 100)
    assert "|λ_max| is 1 within" in str(turned)


@pytest.mark.parametrize("w", [0.0, 0.9, 0.999999999, 1.0, -1.0, 1.1, 1.000001])
def test_a_constant_input_adds_up(w: float) -> None:
    """The geometric sum beside the recursion, also where w is 1 or nearly."""
    x, h0 = 2.0, 0.5
    found = linear_recursion(w, T, h0, x)
    h, expected = h0, []
    for _ in range(T + 1):
        expected.append(math.log(abs(h)))
        h = w * h + x
    assert_close(found.log_norm, torch.tensor(expected, dtype=torch.float64), rtol=1e-11, atol=1e-11)
    assert found.deviation <= 1e-11


def test_constant_inputs_lead_to_the_solution_of_the_equation() -> None:
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(6, 6, generator=generator).double() / 5
    x = torch.randn(6, generator=generator).double()
    found = linear_recursion(W, T, torch.zeros(6), x)
    limit = torch.linalg.solve(torch.eye(6).double() - W, x).norm().log()
    assert float(found.log_norm[-1]) == pytest.approx(float(limit), rel=1e-12)
    assert found.log_norm[0].isneginf()
    assert found.deviation <= 1e-12


def test_inputs_that_vary_are_run_and_have_no_closed_form() -> None:
    """By superposition: the sum of the responses to each."""
    W, x = torch.randn(3, 3).double() / 2, torch.randn(9, 3).double()
    found = linear_recursion(W, 9, torch.zeros(3), x)
    total = sum(torch.linalg.matrix_power(W, 8 - t) @ x[t] for t in range(9))
    assert float(found.log_norm[-1]) == pytest.approx(float(total.norm().log()), rel=1e-12)
    assert found.closed is None
    assert "x varies" in str(found)


def test_a_start_that_misses_the_largest_eigenvalue_says_so() -> None:
    found = linear_recursion([[0.9, 0.0], [0.0, 0.5]], T, [0.0, 1.0])
    assert_close(found.log_norm, steps(T) * math.log(0.5), **EXACT)
    assert found.deviation <= 1e-12
    assert "no part along the largest eigenvalue" in str(found)
