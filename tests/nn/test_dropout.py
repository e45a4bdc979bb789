"""Dropout keeps the share that it says, value by value, and the mean."""

import pytest
import torch

from unrolled.errors import InputError
from unrolled.nn.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.9])
def test_the_share_that_is_dropped_is_that_which_is_asked_for(p):
    torch.manual_seed(0)
    x = torch.full((1000, 403), 2.0, dtype=torch.float64)
    y = Dropout(p)(x)
    dropped = y == 0
    n = dropped.numel()
    assert abs(dropped.double().mean() - p) < 4 * (p * (1 - p) / n) ** 0.5
    torch.testing.assert_close(y[~dropped], torch.full_like(y[~dropped], 2 / (1 - p)), rtol=1e-4, atol=0)
    for k in range(4):  # of each number that is drawn four are made
        of_one = dropped.flatten()[k::4].double()
        assert abs(of_one.mean() - p) < 4 * (p * (1 - p) / len(of_one)) ** 0.5
    pairs = dropped.flatten()[: n // 2 * 2].view(-1, 2).double()
    assert abs(pairs.prod(1).mean() - p * p) < 0.003


def test_gradients_pass_where_values_did():
    x = torch.randn(50, 7, requires_grad=True)
    y = Dropout(0.5)(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient * x.detach(), y.detach())


def test_it_repeats_with_the_seed_and_rests_in_evaluation():
    layer, x = Dropout(0.4), torch.randn(9, 5)
    torch.manual_seed(3)
    one = layer(x)
    torch.manual_seed(3)
    assert torch.equal(layer(x), one)
    assert not torch.equal(layer(x), one)
    assert layer.eval()(x) is x
    assert Dropout(0.0)(x) is x
    assert Dropout(0.4)(torch.zeros(0, 3)).shape == (0, 3)
    assert repr(layer) == "Dropout(p=0.4)"


def test_what_is_no_probability_is_refused():
    for p in (1.0, -0.1):
        with pytest.raises(InputError, match="dropout"):
            Dropout(p)
