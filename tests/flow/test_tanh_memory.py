"""Half-lives of tanh networks, against their largest eigenvalue."""

import math

import pytest
import torch

from unrolled.flow.forward import memory_of_tanh


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
    found = memory_of_tanh((1.0,), hidden=6, T=40, noise=3.0, generator=torch.Generator().manual_seed(0))
    assert found.linear.isnan().all()
    assert "how fast a small impulse fades cannot be told" in str(found)
    short = memory_of_tanh((0.9,), hidden=6, T=20, generator=torch.Generator().manual_seed(0))
    assert short.linear.isnan().all()
    assert "too few steps" in str(short)
    assert found.expected.isinf().all()
