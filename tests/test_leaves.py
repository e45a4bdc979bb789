"""The counter-based generator: what it draws depends on where, and on nothing else."""

import math

import pytest
import torch

from unrolled.leaves import bernoulli, parts

KEYS = [0, 1, -1, 2**63 - 1, -(2**63), 0x1234567890ABCDEF]


def drawn(key: int, probability: float, places: torch.Tensor, units: int) -> torch.Tensor:
    return bernoulli(torch.tensor(key), torch.tensor(parts(probability)), places, units)


def by_hand(key: int, probability: float, place: int, unit: int) -> bool:
    """The formula of the module's first lines, in whole numbers of Python."""
    z = (key + place * 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    z ^= z >> 31
    b = (unit * 0x9E3779B9 + z) % 2**32
    b = (b ^ b >> 16) * 0x7FEB352D % 2**32 ^ z >> 32
    b = (b ^ b >> 15) * 0x846CA68B % 2**32
    b ^= b >> 16
    return b / 2**32 < probability


@pytest.mark.parametrize("key", KEYS)
def test_it_is_the_formula(key: int) -> None:
    places = torch.tensor([0, 1, 77, 2**40, -3])
    for probability in (0.25, 0.5, 0.75):
        found = drawn(key, probability, places, 37)
        wanted = [[by_hand(key, probability, int(p), u) for u in range(37)] for p in places]
        assert found.tolist() == wanted


@pytest.mark.parametrize("probability", [0.001, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("key", KEYS[:3])
def test_the_probability_is_the_share(key: int, probability: float) -> None:
    """Within four standard deviations, of all draws, and of the draws of a place and of a unit on average."""
    found = drawn(key, probability, torch.arange(2000), 1000).double()
    spread = math.sqrt(probability * (1 - probability))
    assert abs(found.mean() - probability) < 4 * spread / math.sqrt(found.numel())
    for axis, count in ((0, 2000), (1, 1000)):
        variance = (found.mean(axis) - probability).square().mean() * count / spread**2
        assert abs(variance - 1) < 4 * math.sqrt(2 / found.shape[1 - axis]) + 0.05


def test_never_and_always() -> None:
    places = torch.arange(1000)
    assert not drawn(5, 0.0, places, 1000).any()
    assert drawn(5, 1.0, places, 1000).all()


@pytest.mark.parametrize("by", ["place", "unit", "key", "seed", "far place"])
def test_neighbours_are_independent(by: str) -> None:
    """The correlation of two draws is that of chance, whatever they are neighbours in."""
    places, units = torch.arange(1000), 1000
    one = drawn(7, 0.5, places, units + 1).double() * 2 - 1
    other = {
        "place": drawn(7, 0.5, places + 1, units),
        "far place": drawn(7, 0.5, places + 2**32, units),
        "unit": one[:, 1:] > 0,
        "key": drawn(8, 0.5, places, units),
        "seed": drawn(7 + 2**32, 0.5, places, units),
    }[by].double() * 2 - 1
    product = one[:, :units] * other
    assert abs(product.mean()) < 4 / math.sqrt(product.numel())
    for axis in (0, 1):
        assert abs(product.mean(axis).square().mean() * 1000 - 1) < 0.2


def test_a_part_draws_what_the_whole_does() -> None:
    whole = drawn(3, 0.3, torch.arange(100), 50)
    order = torch.randperm(100)
    assert torch.equal(drawn(3, 0.3, order[:30], 20), whole[order[:30], :20])
