"""Tokens are drawn by the distribution that temperature, top-k and nucleus name."""

import math

import pytest
import torch
from torch import Tensor

from unrolled.errors import InputError
from unrolled.train.sampling import draw, probabilities


def too_far(counts: Tensor, p: Tensor) -> float:
    """χ² of counts against probabilities, in standard deviations above its mean."""
    assert (counts[p == 0] == 0).all()
    expected = (counts.sum() * p)[p > 0]
    freedom = max(len(expected) - 1, 1)
    return float(((counts[p > 0] - expected).square() / expected).sum() - freedom) / math.sqrt(2 * freedom)


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [
        (1.0, None, None),
        (0.5, None, None),
        (2.0, None, None),
        (1.0, 4, None),
        (0.7, None, 0.8),
        (1.3, 6, 0.9),
    ],
)
def test_frequencies_are_those_of_the_softmax(temperature, top_k, top_p):
    """χ² of 200,000 draws; the distribution is written once more by its definition."""
    logits = torch.randn(12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    p = (logits / temperature).softmax(0)
    order = p.argsort(descending=True).tolist()
    p[order[top_k or 12 :]] = 0
    p /= p.sum()
    kept, mass = [], 0.0
    while mass < (top_p or 2) and len(kept) < 12:
        kept.append(order[len(kept)])
        mass += float(p[kept[-1]])
    p = torch.stack([p[i] if i in kept else p.new_zeros(()) for i in range(12)])
    p /= p.sum()
    torch.testing.assert_close(probabilities(logits, temperature, top_k, top_p), p)
    generator = torch.Generator().manual_seed(2)
    drawn = draw(logits.expand(200_000, 12), temperature, top_k, top_p, generator)
    assert abs(too_far(drawn.bincount(minlength=12), p)) < 4


def test_a_share_of_one_in_a_hundred_more_would_be_noticed():
    p = torch.full((12,), 1 / 12, dtype=torch.float64)
    q = p.clone()
    q[0] *= 1.05
    drawn = draw((q / q.sum()).log().expand(200_000, 12), generator=torch.Generator().manual_seed(2))
    assert too_far(drawn.bincount(minlength=12), p) > 4


@pytest.mark.parametrize("V", [1, 2, 50, 64, 65, 1500])
@pytest.mark.parametrize("top_p", [1e-9, 0.3, 0.9, 0.999, 1.0])
def test_a_nucleus_is_the_smallest_set_that_has_the_probability(V, top_p):
    """No token less would do, and what is left out is no likelier than what stays."""
    logits = torch.randn(8, V, generator=torch.Generator().manual_seed(V)) * torch.tensor([[0.0], [3.0]] * 4)
    p, found = logits.double().softmax(-1), probabilities(logits, top_p=top_p)
    for row in range(8):
        stays = found[row] > 0
        mass = p[row][stays].sum().item()
        assert mass >= top_p - 1e-12
        least = p[row][stays].min().item()
        assert mass - least < top_p or stays.sum() == 1
        assert (p[row][~stays] <= least * (1 + 1e-12)).all()
        torch.testing.assert_close(found[row][stays], p[row][stays] / mass)


def test_tokens_as_likely_as_the_last_of_top_k_stay():
    logits = torch.tensor([0.0, 2.0, 1.0, 1.0, 1.0, -torch.inf])
    for k, kept in (
        (1, [1]),
        (2, [1, 2, 3, 4]),
        (4, [1, 2, 3, 4]),
        (5, [0, 1, 2, 3, 4]),
        (6, [0, 1, 2, 3, 4]),
    ):
        assert probabilities(logits, top_k=k).nonzero().flatten().tolist() == kept
    same = torch.zeros(3, 4)
    assert (probabilities(same, top_k=1) == 0.25).all()
    assert (probabilities(same, top_p=0.6) > 0).sum(1).tolist() == [3, 3, 3]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_temperature_and_any_logits_give_probabilities(dtype):
    logits = torch.tensor([[-torch.inf, 5.0, 4.0, -torch.inf], [-3e4, 3e4, 0.0, 2.9e4]]).to(dtype)
    for temperature in (1e-300, 1e-3, 1.0, 1e300):
        p = probabilities(logits, temperature)
        assert p.dtype == torch.float64
        torch.testing.assert_close(p.sum(-1), torch.ones(2, dtype=torch.float64))
        assert (p[0, [0, 3]] == 0).all()
    assert draw(logits, 1e-300).tolist() == draw(logits, 0).tolist() == [1, 1]
    p = probabilities(logits, 1e300)
    torch.testing.assert_close(p, torch.tensor([[0, 0.5, 0.5, 0], [0.25] * 4], dtype=torch.float64))


def test_a_token_of_probability_zero_is_never_drawn(monkeypatch):
    """Not even with the greatest or the least number that a generator gives, or one that is rounded up."""
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf, 1.0, -torch.inf])
    for number, token in ((0.0, 1), (1 - 2**-53, 3), (1.0, 3)):
        monkeypatch.setattr(
            torch, "rand", lambda shape, number=number, **_: torch.full(shape, number).double()
        )
        assert draw(logits).item() == token
        assert draw(logits, top_p=0.7).item() == 3


def test_each_of_a_batch_is_drawn_by_itself_and_again_with_the_same_seed():
    logits = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0)).double()
    drawn = draw(logits.expand(4000, 3, 5, 7), generator=torch.Generator().manual_seed(1))
    assert drawn.shape == (4000, 3, 5)
    again = draw(logits.expand(4000, 3, 5, 7), generator=torch.Generator().manual_seed(1))
    assert (drawn == again).all()
    for place in torch.cartesian_prod(torch.arange(3), torch.arange(5)):
        i, j = place.tolist()
        assert abs(too_far(drawn[:, i, j].bincount(minlength=7), logits[i, j].softmax(0))) < 4.5
    first, second = drawn[:, 0, 0], drawn[:, 0, 1]
    pairs = (first * 7 + second).bincount(minlength=49)
    both = torch.outer(logits[0, 0].softmax(0), logits[0, 1].softmax(0)).flatten()
    assert abs(too_far(pairs, both)) < 4.5


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temperature": -0.1}, "temperature must be at least 0, got -0.1"),
        ({"temperature": math.nan}, "temperature must be at least 0, got nan"),
        ({"temperature": math.inf}, "temperature must be a finite number"),
        ({"top_k": 0}, "top-k must be at least 1, got 0"),
        ({"top_p": 0.0}, "top-p is a probability above 0 and at most 1, got 0"),
        ({"top_p": 1.5}, "top-p is a probability above 0 and at most 1, got 1.5"),
        ({"top_p": math.nan}, "top-p is a probability above 0 and at most 1, got nan"),
    ],
)
def test_what_cannot_be_drawn_by_is_refused_at_once(wrong, message):
    from unrolled.train.sampling import sample

    with pytest.raises(InputError) as caught:
        sample(lambda tokens, state: None, torch.tensor([1]), 3, **wrong)
    assert message in str(caught.value)
