"""What is asked of networks on digits is asked of the worst training, and on the right side."""

import sys

import pytest

from benchmarks import digits
from benchmarks.digits import FAMILIES, SUBJECTS, Training, records
from benchmarks.family import Settings

(FAMILY,) = FAMILIES


def verdicts(name: str, *shares: float, minutes: float = 1.0) -> list[str]:
    found = [Training(minutes, share, 0.5) for share in shares]
    made = records(name, SUBJECTS[name], found, asked=True)
    return [FAMILY.verdict(record.figure, record.bar) for record in made]


def test_of_what_learns_a_tenth_may_be_wrong_and_of_plain_networks_a_fifth_right():
    assert verdicts("highway", 0.97, 0.9) == ["ok", "ok"]
    assert verdicts("highway", 0.97, 0.89) == ["above", "ok"]
    assert verdicts("plain", 0.1, 0.2) == ["ok", "ok"]
    assert verdicts("plain", 0.1, 0.21) == ["above", "ok"]
    assert verdicts("residual", 0.97, minutes=3.1) == ["ok", "above"]


def test_every_network_is_trained_and_told(monkeypatch):
    pytest.importorskip("sklearn")
    seen = []

    def train(pictures, config):
        seen.append((config.network, config.depth, config.norm, config.seed))
        return Training(0.5, 0.95, 1e-3)

    monkeypatch.setattr(digits, "train", train)
    made = [*digits.measure(Settings(rounds=10))]
    assert {depth for _, depth, _, _ in seen} == {1000}
    assert [(network, norm) for network, _, norm, seed in seen if not seed] == [
        ("residual", None), ("highway", None), ("dense", None), ("plain", None), ("plain", "layer"),
    ]  # fmt: skip
    assert len(seen) == 15
    assert [record.unit for record in made] == ["", "min"] * 5
    assert made[0].subject == "residual: wrong"
    assert made[-2].subject == "plain, layer norm: right"
    assert made[0].note.endswith("at first: 0.001, 0.001, 0.001")


def test_a_quick_training_learns():
    pytest.importorskip("sklearn")
    config = digits.DigitsConfig(network="residual", depth=5, steps=60)
    found = digits.train(digits.bundled_digits(), config)
    assert found.share > 0.9
    assert 0.1 < found.ratio < 10


def test_without_scikit_learn_nothing_is_measured(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    (record,) = digits.measure(Settings())
    assert record.refused
    assert "unrolled[digits]" in record.note
