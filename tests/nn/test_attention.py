"""Scores, masks, and gradients through what is drawn."""

import math

import pytest
import torch

from cases import one_line
from unrolled.errors import InputError
from unrolled.nn.attention import Attention, doubly_stochastic
from unrolled.nn.reinforce import LearnedBaseline, MovingAverage, entropy, log_probability, reinforce


def case(score, H=6, M=6, S=4):
    torch.manual_seed(0)
    values = torch.randn(2, S, M, dtype=torch.float64)
    return Attention(H, M, score).double(), values, torch.randn(3, 2, H, dtype=torch.float64)


def score_of(attention, q, m):
    """One score, from the papers."""
    own = dict(attention.named_parameters())
    if attention.score in ("additive", "location"):
        summed = own["query.weight"] @ q + own["key.weight"] @ m + own["key.bias"]
        return own["scores"] @ torch.tanh(summed)
    if attention.score == "general":
        return q @ own["key.weight"] @ m
    return q @ m / (math.sqrt(len(m)) if attention.score == "scaled" else 1)


@pytest.mark.parametrize("score", ["additive", "location", "dot", "scaled", "general"])
def test_weights_are_the_softmax_of_the_published_scores(score):
    attention, values, queries = case(score)
    found, weights = attention(queries[0], attention.memory(values))
    for b in range(2):
        e = torch.stack([score_of(attention, queries[0, b], m) for m in values[b]])
        torch.testing.assert_close(weights[b], torch.softmax(e, 0))
        torch.testing.assert_close(found[b], torch.softmax(e, 0) @ values[b])


@pytest.mark.parametrize("score", ["additive", "scaled", "general"])
def test_many_queries_are_each_alone_and_nothing_is_seen_behind_a_mask(score):
    attention, values, queries = case(score, S=5)
    mask = torch.tensor([[True, True, False, True, False], [False] * 5])
    memory = attention.memory(values.masked_fill(~mask[..., None], torch.nan), mask)
    together, weights = attention(queries, memory)
    for t, q in enumerate(queries):
        torch.testing.assert_close(together[t], attention(q, memory)[0])
    assert not weights[:, ~mask].any()
    assert not together[:, 1].any()
    short, _ = attention(queries[:, :1], attention.memory(values[:1][:, mask[0]]))
    torch.testing.assert_close(together[:, :1], short)


def test_location_aware_scores_see_the_weights_before():
    attention, values, queries = case("location")
    memory = attention.memory(values)
    _, first = attention(queries[0], memory)
    _, aware = attention(queries[0], memory, first)
    assert (first - aware).abs().max() > 1e-3
    with pytest.raises(InputError, match="location-aware attention goes step by step"):
        attention(queries, memory)


def test_doubly_stochastic_is_what_each_place_lacks():
    weights = torch.tensor([[[0.5, 0.5, 0.0]], [[0.25, 0.75, 0.0]], [[9.0, 9.0, 9.0]]])
    steps, mask = torch.tensor([[1], [1], [0]], dtype=torch.bool), torch.tensor([[True, True, False]])
    assert float(doubly_stochastic(weights, mask, steps)) == pytest.approx(0.25**2 + 0.25**2)
    assert float(doubly_stochastic(weights[:2])) == pytest.approx(0.25**2 + 0.25**2 + 1)
    assert float(doubly_stochastic(weights[:2], tau=2.0)) == pytest.approx(1.25**2 + 0.75**2 + 4)


def test_reinforce_has_the_gradient_of_the_mean_reward():
    """Over all that could be drawn, each as often as its weight says; any baseline."""
    logits = torch.randn(4, dtype=torch.float64, requires_grad=True)
    reward = torch.tensor([1.0, 3.0, -2.0, 0.5], dtype=torch.float64)
    (expected,) = torch.autograd.grad((torch.softmax(logits, 0) * reward).sum(), logits)
    total = torch.zeros(4, dtype=torch.float64)
    for chosen, share in enumerate(torch.softmax(logits, 0).tolist()):
        weights = torch.softmax(logits, 0).view(1, 1, 4)
        loss = reinforce(weights, torch.tensor([[chosen]]), reward[chosen].view(1, 1), torch.tensor(0.7))
        total -= share * torch.autograd.grad(loss, logits)[0]
    torch.testing.assert_close(total, expected)


def test_reinforce_counts_steps_that_are_there_and_entropy():
    weights = torch.softmax(torch.randn(3, 2, 4, dtype=torch.float64), -1)
    chosen = torch.tensor([[0, 1], [2, 3], [1, -1]])
    steps = torch.tensor([[True, True], [True, False], [True, True]])
    reward, baseline = torch.randn(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    found = reinforce(weights, chosen, reward, baseline, steps, entropy_weight=0.1)
    sums = 0.0
    for t in range(3):
        for b in range(2):
            if steps[t, b]:
                w = weights[t, b]
                log = w[chosen[t, b]].log() if chosen[t, b] >= 0 else 0.0
                sums += -reward[b] * log + 0.1 * (w * w.log()).sum()
    torch.testing.assert_close(found, sums / 5)
    assert not log_probability(weights[2], chosen[2])[1]
    assert float(entropy(torch.tensor([1.0, 0.0]))) == 0


def test_the_moving_average_is_of_the_rewards_before():
    baseline = MovingAverage(0.9)
    assert baseline(torch.tensor([1.0, 3.0])).tolist() == [2, 2]
    assert baseline(torch.tensor([12.0])).tolist() == [2]
    assert float(baseline.eval()(torch.tensor([0.0]))) == pytest.approx(3.0)
    assert float(baseline(torch.tensor([0.0]))) == pytest.approx(3.0)  # it takes in nothing any more
    copy = MovingAverage(0.9)
    copy.load_state_dict(baseline.state_dict())
    assert float(copy.eval()(torch.tensor([5.0]))) == pytest.approx(3.0)
    with pytest.raises(InputError, match="decay must be from 0 and below 1"):
        MovingAverage(1.0)


def test_the_learned_baseline_fits_rewards_and_leaves_features_alone():
    torch.manual_seed(0)
    baseline = LearnedBaseline(3)
    features = torch.randn(200, 3, requires_grad=True)
    reward = features.detach() @ torch.tensor([1.0, -2.0, 0.5]) + 3
    optimiser = torch.optim.LBFGS(baseline.parameters(), max_iter=50)

    def closure():
        optimiser.zero_grad()
        loss = baseline.loss(baseline(features), reward)
        loss.backward()
        return loss

    optimiser.step(closure)
    assert baseline.loss(baseline(features), reward) < 1e-6
    assert features.grad is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, 4, "cosine"), "no score 'cosine'; there are additive, location, dot, scaled, general"),
        ((4, 5, "dot"), "score 'dot' multiplies queries of 4 with a memory of 5"),
        ((4, 4, "general", 3), "score 'general' has no width of its own"),
        ((0, 4), "query_size must be a whole number of at least 1, got 0"),
    ],
)
def test_scores_that_are_none_are_refused(arguments, message):
    with pytest.raises(InputError) as caught:
        Attention(*arguments)
    assert one_line(caught.value).startswith(message)


def test_shapes_are_checked():
    attention = Attention(4, 5)
    memory = attention.memory(torch.zeros(2, 3, 5))
    for call, message in (
        (lambda: attention.memory(torch.zeros(3, 5)), "the memory has shape (3, 5), expected (B, S, 5)"),
        (lambda: attention.memory(torch.zeros(2, 3, 5), torch.ones(2, 3)), "the mask is torch.float32"),
        (lambda: attention(torch.zeros(2, 5), memory), "queries have shape (2, 5)"),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert one_line(caught.value).startswith(message)
