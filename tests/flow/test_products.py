"""Singular values of products that no float can hold."""

import math

import pytest
import torch

from unrolled.flow.products import LogProduct
from unrolled.flow.values import triangular

DOUBLE = torch.float64


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def logs_of(factors: list[torch.Tensor]) -> torch.Tensor:
    product = LogProduct(factors[0].shape[0], factors[0].shape[-1])
    for factor in factors:
        product.append(factor)
    return product.log_singular_values


@pytest.mark.parametrize("T", [1, 2, 5])
def test_they_are_those_of_the_product(T):
    factors = [random(3, 6, 6, seed=t) for t in range(T)]
    whole = torch.eye(6, dtype=DOUBLE)
    for factor in factors:
        whole = factor @ whole
    found = logs_of(factors)
    torch.testing.assert_close(found, torch.linalg.svdvals(whole).log(), rtol=1e-8, atol=1e-8)


def in_digits(factors: list[torch.Tensor]) -> torch.Tensor:
    """The same for one sequence, with as many digits as it takes."""
    mpmath = pytest.importorskip("mpmath")
    mpmath.mp.dps = 400
    whole = mpmath.eye(factors[0].shape[-1])
    for factor in factors:
        whole = mpmath.matrix(factor[0].tolist()) * whole
    values = mpmath.svd_r(whole, compute_uv=False)
    return torch.tensor([float(mpmath.log(v)) for v in values], dtype=DOUBLE)


@pytest.mark.parametrize("T", [12, 30, 120])
def test_they_are_right_far_beyond_what_a_float_holds(T):
    factors = [random(1, 5, 5, seed=t) * 1.7 ** (t % 3) for t in range(T)]
    truth = in_digits(factors)
    assert float(truth[0] - truth[-1]) > T / 4
    torch.testing.assert_close(logs_of(factors)[0], truth, rtol=1e-10, atol=1e-9)


def test_equal_and_nearly_equal_ones_in_a_wide_range():
    Q, _ = triangular(random(1, 6, 6, seed=1))
    V, _ = triangular(random(1, 6, 6, seed=2))
    wanted = torch.tensor([0.0, 0.0, -0.01, -80.0, -80.0, -200.0], dtype=DOUBLE)
    half = torch.diag(torch.exp(wanted / 2))
    found = logs_of([V.mT, half[None], half[None], Q])
    torch.testing.assert_close(found[0], wanted, rtol=1e-9, atol=1e-9)


def test_orthogonal_matrices_change_nothing_and_scaled_ones_scale():
    Q = triangular(random(800, 4, 4))[0].view(400, 2, 4, 4)
    torch.testing.assert_close(logs_of(list(Q)), torch.zeros(2, 4, dtype=DOUBLE), rtol=0, atol=1e-11)
    scaled = logs_of([1e-3 * q for q in Q])
    torch.testing.assert_close(
        scaled, torch.full((2, 4), 400 * math.log(1e-3), dtype=DOUBLE), rtol=1e-12, atol=0
    )


def test_what_loses_directions_loses_them():
    found = logs_of([torch.tensor([[[0.0, 1.0], [0.0, 0.0]]], dtype=DOUBLE)])
    assert found.tolist() == [[0.0, -math.inf]]
    low = random(1, 5, 2) @ random(1, 2, 5, seed=1)
    found = logs_of([low])
    torch.testing.assert_close(found[0, :2], torch.linalg.svdvals(low[0])[:2].log(), rtol=1e-9, atol=1e-9)
    assert bool((found[0, 2:] < -30).all())
    assert logs_of([torch.zeros(1, 2, 2, dtype=DOUBLE)]).tolist() == [[-math.inf, -math.inf]]
