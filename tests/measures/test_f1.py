"""F1 of labels, by its definition and by scikit-learn's, with intervals that hold the truth."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from unrolled.errors import InputError
from unrolled.measures import Accuracy, f1
from unrolled.measures.resampling import resampled


def drawn(N, seed, K=4, right=0.8):
    random = np.random.default_rng(seed)
    expected = random.choice(K, N, p=np.arange(K, 0, -1) / sum(range(K + 1)))
    found = np.where(random.random(N) < right, expected, random.integers(0, K, N))
    return found.tolist(), expected.tolist()


def test_it_is_twice_the_right_ones_over_both_kinds_of_count():
    found, expected = list("aabbbc"), list("aabbcd")
    measured = f1(found, expected)
    values = {label: figure.value for label, figure in measured.each.items()}
    assert values == pytest.approx({"a": 1, "b": 2 * 2 / (2 * 2 + 1), "c": 0, "d": 0})
    assert measured.macro.value == pytest.approx((1 + 4 / 5) / 4)
    assert measured.micro.value == pytest.approx(4 / 6)
    assert measured.support == {"a": 2, "b": 2, "c": 1, "d": 1}
    assert str(measured).startswith("macro F1 0.450 (")


@pytest.mark.parametrize("names", ["numbers", "texts"])
def test_figures_are_those_of_scikit_learn(names):
    found, expected = drawn(300, 1)
    if names == "texts":
        found, expected = ([f"tag{label}" for label in labels] for labels in (found, expected))
    measured = f1(found, expected)
    for kind in ("macro", "micro"):
        assert getattr(measured, kind).value == pytest.approx(f1_score(expected, found, average=kind))
    assert [one.value for one in measured.each.values()] == pytest.approx(
        f1_score(expected, found, average=None)
    )
    some = [*measured.each][1:3]
    fewer = f1(found, expected, among=some)
    for kind in ("macro", "micro"):
        assert getattr(fewer, kind).value == pytest.approx(
            f1_score(expected, found, average=kind, labels=some)
        )
    assert list(fewer.each) == some


def test_intervals_hold_the_truth_nineteen_times_of_twenty():
    """Macro, micro and one class, of 400 answers, 400 times; the truth is that of very many."""
    truth = f1(*drawn(400_000, 0))
    held = np.zeros(3)
    for seed in range(1, 401):
        measured = f1(*drawn(400, seed), seed=seed)
        for i, (one, true) in enumerate(
            [(measured.macro, truth.macro), (measured.micro, truth.micro), (measured.each[2], truth.each[2])]
        ):
            assert one.low <= one.value <= one.high
            held[i] += one.low <= true.value <= one.high
    assert held / 400 == pytest.approx(0.95, abs=0.03)


def test_answers_of_a_group_are_drawn_together():
    """Ten copies of every answer tell no more than one; in groups the interval says so."""
    found, expected = drawn(200, 3)
    once = f1(found, expected)
    many, truth = found * 10, expected * 10
    blind = f1(many, truth)
    groups = f1(many, truth, groups=[*range(200)] * 10)
    assert groups.macro.value == pytest.approx(once.macro.value)
    width = once.macro.high - once.macro.low
    assert groups.macro.high - groups.macro.low == pytest.approx(width, rel=0.1)
    assert blind.macro.high - blind.macro.low == pytest.approx(width / np.sqrt(10), rel=0.1)
    assert f1(found, expected, groups=[*map(str, range(200))]).micro.value == once.micro.value


def test_where_all_is_right_or_wrong_the_interval_is_wilsons():
    """Of 29 right ones of 29 the share is at least 0.883; F1 = 2 J / (1 + J)."""
    low, high = Accuracy(29, 29).interval
    measured = f1([1] * 29, [1] * 29)
    for figure in (measured.macro, measured.micro, measured.each[1]):
        assert (figure.value, figure.low, figure.high) == pytest.approx((1, 2 * low / (1 + low), 1))
    measured = f1(["a"] * 10, ["b"] * 10)
    for figure in (measured.macro, measured.each["a"]):
        assert (figure.value, figure.low) == (0, 0)
        high = Accuracy(0, 10).interval[1]
        assert figure.high == pytest.approx(2 * high / (1 + high))
    mixed = f1([0] * 20 + [1, 2], [0] * 20 + [2, 1])
    assert mixed.each[0].low < 0.95
    assert mixed.each[1].high > 0.5


def test_the_same_seed_gives_the_same_interval():
    found, expected = drawn(50, 4)
    assert f1(found, expected) == f1(found, expected)
    assert f1(found, expected).macro != f1(found, expected, seed=1).macro


def test_resampling_a_mean_gives_its_standard_error():
    values = np.random.default_rng(0).normal(size=500)
    rows = np.column_stack([values, np.ones(500)])
    low, high = resampled(rows, np.ones(500, dtype=np.int64), lambda sums: sums[:, :1] / sums[:, 1:])
    half = 1.96 * values.std() / np.sqrt(500)
    assert low[0] == pytest.approx(values.mean() - half, abs=half / 8)
    assert high[0] == pytest.approx(values.mean() + half, abs=half / 8)


def test_what_does_not_fit_is_refused():
    for wrong, message in (
        (lambda: f1([1, 2], [1]), "there are 2 answers to measure and 1 to measure them by"),
        (lambda: f1([], []), "nothing to measure"),
        (lambda: f1([1, 2], [1, 2], groups=[1]), "there are 2 answers, and groups of 1: give one for each"),
        (lambda: f1([1], [1], among=[1, 5]), "no answer is or should be of class 5: leave it out of among="),
        (lambda: f1([1], [1], among=[]), "no answer is or should be of class none"),
    ):
        with pytest.raises(InputError, match=message):
            wrong()
