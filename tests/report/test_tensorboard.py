"""TensorBoard reads back what was observed."""

import importlib
import sys
from pathlib import Path

import pytest

pytest.importorskip("tensorboard")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from unrolled.report.tensorboard import NAMES, TensorBoardObserver


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    return events


def step(number: int) -> dict[str, float]:
    return {"step": number, "loss": 2.0 / number, "bits_per_character": 3.0 / number, "characters": 32,
            "accuracy": 0.1 * number, "gradient_norm": 0.5, "rate": 0.01, "seconds": 0.1}  # fmt: skip


def test_every_number_is_an_event_at_its_step(tmp_path):
    observer = TensorBoardObserver(tmp_path)
    observer.started(0, 3)
    observer.evaluated({"step": 0, "held_out_bits_per_character": 4.0, "test_accuracy": 0.25})
    for number in (1, 2, 3):
        observer.stepped(step(number))
    observer.evaluated({"step": 3, "held_out_bits_per_character": 1.5, "test_accuracy": 0.75})
    observer.shown(3, "at the end", "to be\nor not")
    observer.ended()
    events = read(tmp_path)
    assert set(events.Tags()["scalars"]) == set(NAMES.values())
    measured = {"bits per character/held-out": (4.0, 1.5), "accuracy/test": (0.25, 0.75)}
    for tag, (first, last) in measured.items():
        assert [(event.step, event.value) for event in events.Scalars(tag)] == [(0, first), (3, last)]
    for name, tag in NAMES.items():
        if tag not in measured:
            found = {event.step: event.value for event in events.Scalars(tag)}
            assert found == pytest.approx({number: step(number)[name] for number in (1, 2, 3)})
    (sample,) = events.Tensors("sample/text_summary")
    assert sample.step == 3
    assert sample.tensor_proto.string_val == [b"    to be\n    or not"]


def test_steps_that_are_made_again_hide_those_made_before(tmp_path):
    for begin, end in ((0, 5), (2, 4)):  # the second goes on from the checkpoint of step 2
        observer = TensorBoardObserver(tmp_path)
        observer.started(begin, 9)
        for number in range(begin + 1, end + 1):
            observer.stepped({"step": number, "loss": float(10 * begin + number)})
        observer.ended()
    found = [(event.step, event.value) for event in read(tmp_path).Scalars("loss")]
    assert found == [(1, 1.0), (2, 2.0), (3, 23.0), (4, 24.0)]


def test_without_tensorboard_it_cannot_be_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.delitem(sys.modules, "unrolled.report.tensorboard")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("unrolled.report.tensorboard")
