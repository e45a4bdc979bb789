"""Accuracies come with an interval that holds them, beside those of simpler classifiers."""

import pytest
import torch

from unrolled.tasks.accuracy import Accuracy, linear, majority


def test_intervals_are_those_of_wilson():
    """Both ends solve (p - q)² = z² q (1 - q) / n."""
    for right, count in ((81, 263), (15, 148), (0, 20), (29, 29), (324, 360)):
        found = Accuracy(right, count)
        for end in found.interval:
            if end not in (0.0, 1.0):
                assert (found.share - end) ** 2 == pytest.approx(1.959964**2 * end * (1 - end) / count)
        assert found.interval[0] <= found.share <= found.interval[1]
    # Newcombe 1998, doi:10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E, table I
    assert Accuracy(81, 263).interval == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert Accuracy(15, 148).interval == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert Accuracy(0, 20).interval == pytest.approx((0, 0.1611), abs=5e-5)
    assert Accuracy(1, 29).interval == pytest.approx((0.0061, 0.1718), abs=5e-5)
    assert str(Accuracy(81, 263)) == "30.8% (25.5% to 36.6%)"


def test_the_interval_holds_the_truth_nineteen_times_of_twenty():
    torch.manual_seed(3)
    right = torch.distributions.Binomial(100, torch.tensor(0.9)).sample((4000,))
    held = [low <= 0.9 <= high for low, high in (Accuracy(int(r), 100).interval for r in right)]
    assert sum(held) / len(held) == pytest.approx(0.95, abs=0.025)


def test_the_majority_is_counted_among_those_to_train_on():
    found = majority(torch.tensor([2, 0, 2, 1]), torch.tensor([2, 1, 1, 2, 2]))
    assert (found.right, found.count) == (3, 5)


def test_a_linear_classifier_is_the_minimum_of_its_loss():
    """Classes with equal normal noise about their means: the best classifier is linear and known."""
    means = torch.tensor([[2.0, 0.0], [-1.0, 1.7], [-1.0, -1.7]]) + 5
    labels = torch.randint(3, (6000,))
    points = means[labels] + torch.randn(6000, 2)
    found = linear(points[:3000], labels[:3000], points[3000:], labels[3000:])
    best = (torch.cdist(points[3000:], means).argmin(1) == labels[3000:]).float().mean().item()
    assert found.count == 3000
    assert found.share == pytest.approx(best, abs=0.01)


def test_a_linear_classifier_does_not_learn_what_is_not_linear():
    points = torch.randn(2000, 2)
    labels = (points.prod(1) > 0).long()
    assert linear(points[:1000], labels[:1000], points[1000:], labels[1000:]).share < 0.6
