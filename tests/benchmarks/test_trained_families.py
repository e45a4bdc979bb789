"""What is asked of trained tasks is asked of means over seeds, on the right side of the right bar."""

import pytest

from benchmarks import captions, labels, vqa
from benchmarks.family import Settings
from benchmarks.trainings import Training
from unrolled.errors import DataError

(LABELS,), (CAPTIONS,), (VQA,) = labels.FAMILIES, captions.FAMILIES, vqa.FAMILIES


def verdicts(family, records):
    return [family.verdict(each.figure, each.bar, each.unit) for each in records]


def test_labels_are_asked_to_be_right_in_the_mean():
    def judged(*shares):
        found = [Training(99.0, {"right": share, "F1": 0.5}) for share in shares]
        return verdicts(LABELS, labels.records("tags", found, 0.93, "majority 0.2"))

    assert judged(0.92, 0.93, 0.94) == ["ok", "", ""]
    assert judged(0.92, 0.93, 0.939) == ["below", "", ""]


def test_captions_are_asked_to_be_better_than_the_nearest_neighbours():
    def judged(soft, hard=9.0, noun=0.4, focus=1.6):
        alone = {"bleu, alone": 1.0, "noun, alone": 0.1}
        ours = [Training(1.0, {"bleu": soft, "noun": noun, "focus": focus, **alone})] * 3
        other = [Training(1.0, {"bleu": hard, "noun": 0.1, **alone})] * 3
        found = verdicts(CAPTIONS, captions.records(ours, other, {"bleu": 8.0, "noun": 0.35}, asked=True))
        assert found.count("") == 5
        return [each for each in found if each]

    assert judged(10.0) == ["ok"] * 4
    assert judged(7.99, hard=7.0, noun=0.349, focus=1.49) == ["below"] * 4
    assert judged(10.0, hard=8.99)[3] == "below"


def test_answers_are_asked_to_be_right_within_ten_minutes():
    def judged(minutes, *shares):
        found = [Training(minutes, {"right": share}) for share in shares]
        return verdicts(VQA, vqa.records(found, {"majority": 0.2}, asked=True))

    assert judged(10.0, 0.985, 0.99, 0.995) == ["ok", "ok"]
    assert judged(10.1, 0.985, 0.99, 0.994) == ["below", "above"]


@pytest.mark.parametrize(("module", "reads"), [
    (labels, "open_data"), (captions, "named_captions"), (vqa, "Files"),
])  # fmt: skip
def test_without_the_data_nothing_is_measured(monkeypatch, module, reads):
    def missing(*_):
        raise DataError("was not fetched")

    monkeypatch.setattr(module, reads, missing)
    found = [*module.measure(Settings())]
    assert found
    assert all(each.refused and "was not fetched" in each.note for each in found)
