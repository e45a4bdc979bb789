"""What truncation loses."""

import math

import pytest
import torch

from cases import one_line
from unrolled import LSTM, InputError
from unrolled.unroll import Checkpointed, Truncated, truncation
from unrolled.unroll.policies import Policy
from unrolled.unroll.truncation import ALL, reaches_up_to

T = 30


def case() -> tuple[LSTM, torch.Tensor]:
    torch.manual_seed(0)
    return LSTM(3, 8, dropout=0.0, recurrent_dropout=0.3, dtype=torch.float64), torch.randn(
        T, 2, 3, dtype=torch.float64
    )


def test_cosines_and_norms_are_those_of_the_gradients() -> None:
    layer, x = case()

    def loss(bptt: Policy) -> torch.Tensor:
        return layer(x, bptt=bptt)[0].square().sum()

    found = truncation(loss, layer.named_parameters(), T, exact=Checkpointed(every=4))
    by_key = {(r.k2, r.parameter): r for r in found}
    assert [*dict.fromkeys(r.k2 for r in found)] == [1, 2, 5, 10, 20, 30]
    for name, p in layer.named_parameters():
        last = by_key[T, name]
        assert last.cosine == pytest.approx(1, rel=1e-12)
        assert last.norm_ratio == pytest.approx(1, rel=1e-12)
        torch.manual_seed(9)
        random = torch.get_rng_state()
        again = {r.parameter: r for r in truncation(loss, layer.named_parameters(), T, k1=3, reaches=[5])}
        gradients = []
        for policy in (Truncated(3, 5), Truncated(T, T)):
            torch.set_rng_state(random)
            (d,) = torch.autograd.grad(loss(policy), p)
            gradients.append(d)
        part, whole = gradients
        assert again[name].k1 == 3
        assert again[name].norm_ratio == pytest.approx(float(part.norm() / whole.norm()), rel=1e-12)
        expected = float(torch.cosine_similarity(part.flatten(), whole.flatten(), 0))
        assert again[name].cosine == pytest.approx(expected, rel=1e-12)
    cosines = [by_key[k2, ALL].cosine for k2 in (1, 5, 20, 30)]
    assert cosines == sorted(cosines)


def test_a_parameter_without_a_gradient_has_no_cosine() -> None:
    layer, x = case()
    idle = torch.nn.Parameter(torch.ones(2))
    found = truncation(
        lambda bptt: layer(x, bptt=bptt)[0].sum(),
        [("idle", idle), *layer.named_parameters()],
        T,
        reaches=[4],
    )
    assert math.isnan(found[0].cosine)
    assert math.isnan(found[0].norm_ratio)
    assert not math.isnan(found[-1].cosine)


def test_reaches() -> None:
    assert reaches_up_to(1) == [1]
    assert reaches_up_to(64) == [1, 2, 5, 10, 20, 50, 64]
    assert reaches_up_to(200) == [1, 2, 5, 10, 20, 50, 100, 200]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reaches": [T + 1]}, "gradients reach at most the 30 steps that there are, not 31"),
        ({"reaches": [0]}, "k2 must be a whole number of at least 1, got 0"),
        ({"k1": T + 1}, "gradients reach at most the 30 steps"),
    ],
)
def test_what_is_wrong_is_named(options: dict, message: str) -> None:
    layer, x = case()
    with pytest.raises(InputError) as caught:
        truncation(lambda bptt: layer(x, bptt=bptt)[0].sum(), layer.named_parameters(), T, **options)
    assert message in one_line(caught.value)


def test_a_gradient_of_nothing_is_nothing_to_compare_with() -> None:
    layer, x = case()
    with pytest.raises(InputError, match="exact gradient of the loss is 0"):
        truncation(lambda bptt: layer(x, bptt=bptt)[0].sum() * 0, layer.named_parameters(), T)
