"""Batches by length: every example once a pass, in an order of its own, with little padding."""

import numpy as np
import pytest

from unrolled.data.buckets import Buckets
from unrolled.errors import DataError, InputError

LENGTHS = np.random.default_rng(0).integers(0, 30, 101).tolist()


@pytest.mark.parametrize("options", [{"batch": 8}, {"tokens": 60}, {"batch": 200}, {"tokens": 1}])
def test_every_example_is_read_once_a_pass(options):
    buckets = Buckets(LENGTHS, **options)
    for number in (0, 1, 5):
        steps = range(number * len(buckets), (number + 1) * len(buckets))
        read = np.concatenate([buckets[step] for step in steps])
        assert sorted(read.tolist()) == list(range(len(LENGTHS)))


def test_batches_are_as_large_as_is_asked_and_even():
    for step in range(13):
        found = Buckets(LENGTHS, batch=8)[step]
        assert len(found) in (8, 5)
        lengths = [LENGTHS[place] for place in found]
        assert max(lengths) - min(lengths) <= 5
    buckets, padded = Buckets([*LENGTHS, 70], tokens=60), []
    for step in range(len(buckets)):
        lengths = [[*LENGTHS, 70][place] for place in buckets[step]]
        assert len(lengths) * max(lengths) <= 60 or lengths == [70]
        padded.append(len(lengths) * max(lengths) - sum(lengths))
    assert sum(padded) < 0.1 * sum(LENGTHS)


def test_orders_differ_from_pass_to_pass_and_from_seed_to_seed():
    buckets, n = Buckets(LENGTHS, batch=8), 13
    passes = [[buckets[k * n + step].tolist() for step in range(n)] for k in (0, 1)]
    assert sorted(map(sorted, passes[0])) != sorted(map(sorted, passes[1]))  # other company too
    other = Buckets(LENGTHS, batch=8, seed=1)
    assert [other[step].tolist() for step in range(n)] != passes[0]
    lengths = [[LENGTHS[batch[0]] for batch in each] for each in passes]
    assert lengths[0] != sorted(lengths[0])
    assert lengths[0] != lengths[1]


def test_a_step_is_the_same_whatever_was_read_before():
    one, other = Buckets(LENGTHS, tokens=60, seed=3), Buckets(LENGTHS, tokens=60, seed=3)
    steps = [*range(3 * len(one))]
    seen = [one[step].tolist() for step in steps]
    assert [other[step].tolist() for step in reversed(steps)] == seen[::-1]


def test_what_makes_no_batches_is_refused():
    for options in ({}, {"batch": 3, "tokens": 4}, {"batch": 0}, {"tokens": -1}):
        with pytest.raises(InputError):
            Buckets(LENGTHS, **options)
    with pytest.raises(DataError, match="there are no examples"):
        Buckets([], batch=3)
