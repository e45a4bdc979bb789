"""What a monitor writes can be read again, after a kill and after a training that went on."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch

from unrolled import LSTM, InputError
from unrolled.flow import Monitor

ALWAYS = {"every": 1, "share": math.inf}


def train(layer, steps, monitor):
    optimiser = torch.optim.Adam(layer.parameters(), 0.01)
    for _ in range(steps):
        optimiser.zero_grad()
        loss = layer(torch.randn(12, 2, 3))[0].square().mean()
        loss.backward()
        monitor(loss)
        optimiser.step()


def test_the_log_is_what_was_measured(tmp_path):
    path = tmp_path / "flow.jsonl"
    model = LSTM(3, 4, num_layers=2)
    with Monitor(model, log=path, **ALWAYS) as monitor:
        train(model, 2, monitor)
        monitor(math.inf)
    assert Monitor.read(path) == monitor.history
    lines = path.read_text().splitlines()
    assert len(lines) == 3
    assert json.loads(lines[2])["loss"] is None
    with path.open("a") as file:
        file.write(lines[0][:100])  # as a kill leaves it
    assert Monitor.read(path) == monitor.history
    with Monitor(model, log=path, **ALWAYS) as more:
        train(model, 1, more)
    assert Monitor.read(path) == monitor.history + more.history


def test_a_training_that_goes_on_measures_again(tmp_path):
    path = tmp_path / "flow.jsonl"
    for step in (0, 2):
        with Monitor(LSTM(3, 4), log=path, **ALWAYS) as monitor:
            monitor.resume(step)
            for _ in range(3):
                monitor(float(step))
    found = Monitor.read(path)
    assert [(each.step, each.loss) for each in found] == [(1, 0), (2, 0), (3, 2), (4, 2), (5, 2)]
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_damaged_log_is_told(tmp_path):
    path = tmp_path / "flow.jsonl"
    with Monitor(LSTM(3, 4), log=path, **ALWAYS) as monitor:
        monitor(1.0)
    whole = path.read_text()
    for damage, message in (
        ("{]", "line 2 is damaged"),
        ("[]", "line 2 is no measurement"),
        ("{}", "line 2 is no measurement: it has no 'step'"),
        ('{"step": true}', "its step is no whole number"),
        (whole.replace('"places"', '"palaces"').strip(), "it has no 'places'"),
    ):
        path.write_text(f"{whole}{damage}\n{whole}")
        with pytest.raises(InputError, match=message) as caught:
            Monitor.read(path)
        assert len(str(caught.value).splitlines()) == 1
        with pytest.raises(InputError, match=message):
            monitor.resume(0)
        assert path.read_text() == f"{whole}{damage}\n{whole}"
    with pytest.raises(InputError, match=r"cannot read .*: No such file"):
        Monitor.read(tmp_path / "none")


def test_what_cannot_be_written_is_told_before_and_kept_in_between(tmp_path):
    layer = LSTM(3, 4)
    with (
        pytest.raises(InputError, match=r"cannot write .*: No such file"),
        Monitor(layer, log=tmp_path / "none" / "flow.jsonl"),
    ):
        raise AssertionError
    assert not layer._forward_pre_hooks
    folder = tmp_path / "folder"
    folder.mkdir()
    with Monitor(layer, log=folder / "flow.jsonl", **ALWAYS) as monitor:
        (folder / "flow.jsonl").unlink()
        folder.rmdir()
        monitor(1.0)
    assert len(monitor.history) == 1
    assert "step 1: FileNotFoundError" in monitor.summary()


def test_events(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = LSTM(3, 4, num_layers=2)
    with Monitor(model, tensorboard=tmp_path, **ALWAYS) as monitor:
        train(model, 2, monitor)
    events = EventAccumulator(str(tmp_path), size_guidance={"scalars": 0})
    events.Reload()
    for name in ("l0/half_life", "l1/gradient at lag 11", "l0/f low", "l1/c norm",
                 "l0/c by f median", "loss", "gradient norm", "parameter/weight_hh_l1"):  # fmt: skip
        values = [(event.step, event.value) for event in events.Scalars(f"flow/{name}")]
        expected = [(each.step, dict(each.scalars())[name]) for each in monitor.history]
        assert values == [(step, pytest.approx(value)) for step, value in expected]


class Writer:
    """Stands for a `SummaryWriter`."""

    def __init__(self, folder=None, purge_step=None):
        self.folder, self.purge_step = folder, purge_step
        self.written, self.closed = [], False

    def add_scalar(self, tag, value, step):
        self.written.append((tag, value, step))

    def close(self):
        self.closed = True


def test_events_may_go_to_a_writer_that_is_there():
    writer = Writer()
    with Monitor(LSTM(3, 4), tensorboard=writer, **ALWAYS) as monitor:
        monitor(2.0)
    assert ("flow/loss", 2.0, 1) in writer.written
    assert not writer.closed


def test_a_writer_of_its_own_is_closed_and_hides_what_is_made_again(monkeypatch):
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    monkeypatch.setattr(tensorboard, "SummaryWriter", Writer)
    for step, hidden in ((0, None), (7, 8)):
        monitor = Monitor(LSTM(3, 4), tensorboard="folder")
        monitor.resume(step)
        with monitor:
            writer = monitor._writer
            assert (writer.folder, writer.purge_step) == ("folder", hidden)
            monitor(2.0)
        assert writer.closed
        assert ("flow/loss", 2.0, step + 1) in writer.written


def test_without_tensorboard_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match=r"pip install 'unrolled\[logging\]'"):
        Monitor(LSTM(3, 4), tensorboard=tmp_path)


def test_reading_a_log_needs_no_model(tmp_path):
    path = Path(tmp_path / "flow.jsonl")
    path.write_text("")
    assert Monitor.read(str(path)) == []
