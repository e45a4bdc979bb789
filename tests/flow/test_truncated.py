"""What truncation loses, as a record."""

import math

import pytest
import torch

from unrolled import LSTM
from unrolled.flow.truncated import truncation
from unrolled.unroll import truncation as losses_of


def test_it_holds_what_unroll_measures_and_says_how_far_is_enough():
    torch.manual_seed(0)
    layer, x = LSTM(3, 4, dtype=torch.float64), torch.randn(20, 2, 3, dtype=torch.float64)

    def loss(bptt):
        return layer(x, bptt=bptt)[0].square().sum()

    found = truncation(loss, layer.named_parameters(), 20)
    assert found.losses == tuple(losses_of(loss, layer.named_parameters(), 20))
    assert [each.k2 for each in found.whole] == [1, 2, 5, 10, 20]
    assert found.whole[-1].cosine == pytest.approx(1, abs=1e-12)
    enough = found.enough()
    assert enough is not None
    assert all(each.cosine < 0.99 for each in found.whole if each.k2 < enough)
    assert found.enough(1.1) is None
    assert f"{enough} steps are enough" in repr(found)
    assert found.to_dict()["losses"][0]["k2"] == 1
    assert not math.isnan(found.to_dict()["losses"][0]["cosine"])
