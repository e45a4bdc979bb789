"""What a training would take is what it then takes, and nothing is left of having asked."""

import re
from pathlib import Path

import pytest
import torch

from unrolled import cli
from unrolled.data.pictures import Pictures
from unrolled.tasks.char import CharTask
from unrolled.tasks.char_config import CharConfig
from unrolled.tasks.digits import DigitsTask
from unrolled.tasks.digits_config import DigitsConfig
from unrolled.train import dry_run as module
from unrolled.train.dry_run import dry_run

TEXT = "all work and no play makes jack a dull boy. " * 40


def digits(**settings: object) -> DigitsTask:
    pixels, labels = torch.rand(60, 4, 5), torch.arange(60) % 3
    settings = {"network": "residual", "depth": 3, "width": 8, "batch": 12, **settings}
    return DigitsTask(Pictures("noise", pixels, labels, 3), DigitsConfig(**settings))


def test_shapes_and_parameters_are_those_of_the_model():
    task = digits()
    found = dry_run(task.trainer(), task.config.plan)
    by_name = {part.name: part for part in found.parts}
    assert (by_name["read"].reads, by_name["read"].gives) == ("12 x 20", "12 x 8")
    assert (by_name["head"].kind, by_name["head"].gives, by_name["head"].parameters) == (
        "Linear",
        "12 x 3",
        27,
    )
    assert found.parameters == sum(p.numel() for p in task.model.parameters())
    assert sum(part.parameters for part in found.parts) == found.parameters
    assert found.weights["head.weight"] == (3, 8)


def test_memory_is_that_of_parameters_gradients_and_what_the_optimiser_keeps():
    for optimiser, copies in (("sgd", 2), ("adagrad", 3), ("adam", 4)):
        task = digits(optimiser=optimiser)
        found = dry_run(task.trainer(), task.config.plan)
        assert found.kept == pytest.approx(4 * copies * found.parameters, abs=64)
    small, large = (dry_run((t := digits(batch=n)).trainer(), t.config.plan) for n in (6, 48))
    assert large.working > 3 * small.working > 0


def test_time_is_that_of_all_steps_and_measurements(monkeypatch):
    """By a clock that goes on by 1 whenever it is asked."""
    ticks = iter(range(1000))
    monkeypatch.setattr(module.time, "perf_counter", lambda: float(next(ticks)))
    for every, measured in ((None, 11), (7, 16), (0, 2), (1000, 2)):
        task = digits(steps=100, evaluate_every=every)
        found = dry_run(task.trainer(), task.config.plan, timed=3)
        assert (found.first, found.step, found.evaluation) == (1, 1, 1)
        assert found.evaluations == measured
        assert found.seconds == 100 + measured


def test_a_model_trained_without_autograd_has_no_shapes_to_show_and_all_the_rest():
    task = CharTask("text", TEXT, CharConfig(hidden=8, batch=4, bptt=6))
    trainer = task.trainer()
    assert task.direct is not None
    found = dry_run(trainer, task.config.plan)
    assert all(part.reads == "" for part in found.parts)
    assert found.parameters > 0
    assert re.search(r"layer +Recurrent +· +· +[\d,]+", str(found))


@pytest.mark.parametrize(
    "words",
    [
        ("char", "text.txt", "--hidden", 8, "--batch", 4, "--steps", 50),
        ("digits", "--depth", 2, "--width", 8, "--steps", 50),
    ],
    ids=lambda words: words[0],
)
def test_a_command_prints_it_and_writes_nothing(words, tmp_path, monkeypatch, capsys):
    if words[0] == "digits":
        pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT)
    assert cli.run(["train", *map(str, words), "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for said in (r"parameters +[\d,]+\n", r"memory +\S+B for", r"time .* for 50 steps and 11 measurements"):
        assert re.search(said, out)
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]
    assert cli.run(["train", words[0], "--dry-run", "--resume", "runs/x"]) == 2
    assert "--dry-run is for a new run: leave it out with --resume" in capsys.readouterr().err
