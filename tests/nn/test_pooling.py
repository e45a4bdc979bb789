"""Pooling over time: what each kind is, that padding changes nothing, and what does not fit."""

import pytest
import torch

from unrolled import GRU
from unrolled.errors import InputError
from unrolled.nn.pooling import POOLINGS, Pooling

T, B, W = 7, 5, 6
LENGTHS = [7, 4, 1, 5, 0]

every = pytest.mark.parametrize("kind", POOLINGS)


def made(kind: str, **options: bool) -> tuple[Pooling, torch.Tensor]:
    torch.manual_seed(0)
    return Pooling(kind, W, dtype=torch.float64, **options), torch.randn(T, B, W, dtype=torch.float64)


def written_out(pool: Pooling, y: torch.Tensor) -> torch.Tensor:
    """The formula for one sequence (L, W), step by step."""
    if pool.kind == "last":
        return y[-1]
    if pool.kind == "mean":
        return sum(y) / len(y)
    if pool.kind == "max":
        return torch.stack([max(unit) for unit in y.T])
    read, score = pool.read, pool.score.weight[0]
    scores = [(score @ torch.tanh(read.weight @ step + read.bias)).item() for step in y]
    powers = torch.tensor(scores, dtype=y.dtype).exp()
    return sum(power / powers.sum() * step for power, step in zip(powers, y, strict=True))


@every
def test_a_pooling_is_what_its_formula_says_for_each_sequence_alone(kind):
    pool, y = made(kind)
    found = pool(y, LENGTHS)
    for b, length in enumerate(LENGTHS):
        expected = written_out(pool, y[:length, b]) if length else torch.zeros(W, dtype=y.dtype)
        torch.testing.assert_close(found[b], expected, msg=f"sequence {b}")
    torch.testing.assert_close(pool(y[:, 0]), found[0])  # without a batch


@every
@pytest.mark.parametrize("bidirectional", [False, True])
def test_padding_changes_nothing(kind, bidirectional):
    """Not the result, not a gradient, whatever stands there."""
    pool, y = made(kind, bidirectional=bidirectional)
    weights = torch.randn(B, W, dtype=y.dtype)
    results = []
    for padding in (0.0, 1e9, float("nan")):
        beyond = torch.arange(T)[:, None] >= torch.tensor(LENGTHS)
        padded = torch.cat([y.masked_fill(beyond[..., None], padding), y.new_full((2, B, W), padding)])
        padded.requires_grad_()
        pool.zero_grad()
        found = pool(padded, LENGTHS)
        (found * weights).sum().backward()
        results.append((found.detach(), padded.grad[:T], *(p.grad for p in pool.parameters())))
        assert (padded.grad[T:] == 0).all()
        assert (padded.grad[:T][beyond] == 0).all()
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            torch.testing.assert_close(one, two)
            assert one.isfinite().all()


@every
def test_a_mask_leaves_out_steps_as_if_they_were_not_there(kind):
    pool, y = made(kind)
    mask = torch.rand(T, B) < 0.6
    mask[2] = True
    mask[:, -1] = False
    lengths = torch.tensor([7, 4, 3, 5, 7])
    found = pool(y, lengths, mask)
    for b in range(B - 1):
        kept = y[: lengths[b], b][mask[: lengths[b], b]]
        torch.testing.assert_close(found[b], written_out(pool, kept), msg=f"sequence {b}")
    assert (found[-1] == 0).all()


@every
@pytest.mark.parametrize("bidirectional", [False, True])
def test_gradients_are_those_of_finite_differences(kind, bidirectional):
    pool, y = made(kind, bidirectional=bidirectional)
    y.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda y, *_: pool(y, [7, 4, 1, 5, 2]), (y, *pool.parameters()), atol=1e-7
    )


def test_the_last_of_two_directions_is_their_final_states():
    layer, pool = GRU(3, W // 2, bidirectional=True), Pooling("last", W, bidirectional=True)
    lengths = [7, 4, 1, 5, 2]
    y, state = layer(torch.randn(T, B, 3), lengths=lengths)
    torch.testing.assert_close(pool(y, lengths), torch.cat([*state], 1))


@pytest.mark.parametrize("kind", ["mean", "attention"])
def test_weights_are_a_distribution_over_steps_and_give_the_result(kind):
    pool, y = made(kind)
    weights = pool.weights(y, LENGTHS)
    assert weights.shape == (T, B)
    torch.testing.assert_close(weights.sum(0), torch.tensor([1.0, 1, 1, 1, 0], dtype=y.dtype))
    assert (weights[torch.arange(T)[:, None] >= torch.tensor(LENGTHS)] == 0).all()
    torch.testing.assert_close((weights[..., None] * y).sum(0), pool(y, LENGTHS))
    torch.testing.assert_close(pool.weights(y[:, 0]), weights[:, 0])


def test_attention_finds_the_step_that_tells():
    """One step of each sequence is marked and holds the answer, among others that hold noise."""
    pool, head = Pooling("attention", 4), torch.nn.Linear(4, 2)
    optimiser = torch.optim.Adam([*pool.parameters(), *head.parameters()], lr=0.02)

    def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        y, place = torch.randn(12, 64, 4), torch.randint(12, (64,))
        y[..., 0] = 0
        y[place, torch.arange(64), 0] = 1
        return y, place, (y[place, torch.arange(64), 1] > 0).long()

    for _ in range(300):
        y, _, target = batch()
        loss = torch.nn.functional.cross_entropy(head(pool(y)), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    y, place, _ = batch()
    assert pool.weights(y)[place, torch.arange(64)].mean() > 0.8


def test_what_does_not_fit_is_named():
    pool, y = made("mean")
    for said, call in (
        ("no pooling 'sum'; there are last, mean, max, attention", lambda: Pooling("sum", 3)),
        ("width must be a whole number of at least 1, got 0", lambda: Pooling("max", 0)),
        ("two directions have as many units", lambda: Pooling("last", 3, bidirectional=True)),
        (r"y has shape \(7, 5, 5\), expected \(T, B, 6\)", lambda: pool(y[..., :5])),
        ("y has no steps", lambda: pool(y[:0])),
        ("y is a list", lambda: pool([1.0])),
        ("but y has none", lambda: pool(y[:, 0], [3])),
        ("lengths has shape", lambda: pool(y, [3])),
        ("lengths", lambda: pool(y, [8, 1, 1, 1, 1])),
        ("mask is torch.float64", lambda: pool(y, mask=y[..., 0])),
        ("mask is list", lambda: pool(y, mask=[True])),
        ("pooling 'max' has no weights", lambda: Pooling("max", W).weights(y)),
    ):
        with pytest.raises(InputError, match=said):
            call()
    assert "attention, 6, bidirectional=True" in repr(Pooling("attention", 6, bidirectional=True))
