"""`unrolled train digits`: a run that goes on is the run that never stopped, and mistakes cost a line."""

import json
import re
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from commands import Call, Result, caller, losses, refused, write_idx
from unrolled.report.figures import accuracy_figure
from unrolled.tasks.digits import DigitsTask
from unrolled.train import loop
from unrolled.train.files import seal, unseal

SMALL = (
    "--network",
    "dense",
    "--depth",
    "2",
    "--width",
    "6",
    "--growth",
    "3",
    "--batch",
    "16",
    "--warmup",
    "0",
)
FILES = ("--images", "images.gz", "--labels", "labels")


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the command line in a folder with pictures of two classes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setattr("unrolled.report.figures.accuracy_figure", lambda *_: b"")
    source, labels = np.random.default_rng(0), np.arange(80) % 2
    pixels = source.integers(0, 100, (80, 5, 4))
    pixels[labels == 1, 2:] += 100
    write_idx(tmp_path / "images.gz", pixels)
    write_idx(tmp_path / "labels", labels)

    return caller(capsys)


def train(call: Call, *words: object, files: tuple[str, ...] = FILES) -> Result:
    return call("train", "digits", *SMALL, *files, *words)


def test_a_run_tells_accuracy_with_its_interval_beside_the_baselines(call):
    result = train(call, "--steps", 40, "--rate", 0.02, "--name", "run")
    assert result.status == 0
    assert (
        "dense, 2 layers on images.gz, 64 pictures to train on and 16 to test, 203 parameters" in result.out
    )
    assert "majority 50.0% (28.0% to 72.0%), linear 100.0% (80.6% to 100.0%)" in result.out
    assert re.search(
        r"step +40   test accuracy 100\.0%, 95% from 80\.6% to 100\.0% \(better than majority\)", result.out
    )
    assert "done: test accuracy 100.0% (80.6% to 100.0%)" in result.out
    assert "at first (step 0): norm of the gradient: layer 1 " in result.out
    assert "at the end (step 40): norm of the gradient: layer 1 " in result.out
    records = [json.loads(line) for line in Path("runs/run/metrics.jsonl").read_text().splitlines()]
    looks = [r for r in records if "gradient_by_layer" in r]
    assert [r["step"] for r in looks] == [0, 40]
    assert all(len(r["gradient_by_layer"]) == 2 for r in looks)
    last = [r for r in records if "test_accuracy" in r][-1]
    assert (last["test_accuracy"], last["low"]) == (1.0, pytest.approx(0.8064, abs=1e-4))
    assert Path("runs/run/accuracy.png").exists()
    config = json.loads(Path("runs/run/config.json").read_text())
    assert config["baselines"]["majority"] == {"right": 8, "count": 16}


@pytest.mark.parametrize("network", ["dense", "conv-residual"])
def test_a_run_that_goes_on_makes_the_steps_of_one_that_never_stopped(call, network, monkeypatch):
    words = ("--network", network, "--save-every", 4, "--schedule", "constant")
    assert train(call, *words, "--steps", 12, "--name", "whole").status == 0
    advance = loop.Trainer.advance

    def interrupted(trainer: loop.Trainer) -> dict[str, float]:
        if trainer.step == 6:
            signal.raise_signal(signal.SIGINT)
        return advance(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "advance", interrupted)
        cut = train(call, *words, "--steps", 12, "--name", "cut")
    assert cut.status == 130
    assert "stopped and saved at step 7. To go on: unrolled train digits --resume runs/cut" in cut.out
    resumed = call("train", "digits", "--resume", "runs/cut")
    assert resumed.status == 0, resumed.err
    assert losses("cut") == losses("whole")
    assert len(losses("whole")) == 12
    assert call("train", "digits", "--resume", "runs/whole", "--steps", 15).status == 0
    assert len(losses("whole")) == 15


def test_pictures_may_move_and_must_be_the_same(call):
    assert train(call, "--steps", 4, "--name", "run").status == 0
    shutil.move("images.gz", "moved.gz")
    gone = call("train", "digits", "--resume", "runs/run", "--steps", 6)
    assert "images.gz cannot be read" in refused(gone)
    assert "say where with --images and --labels" in gone.err
    moved = ("--images", "moved.gz", "--labels", "labels")
    assert call("train", "digits", "--resume", "runs/run", "--steps", 6, *moved).status == 0
    write_idx(Path("moved.gz"), np.zeros((80, 5, 4)))
    other = call("train", "digits", "--resume", "runs/run", "--steps", 8, *moved)
    assert "the pictures are not those this run was trained on (images.gz)" in refused(other)


def test_the_bundled_digits_are_the_default(call):
    pytest.importorskip("sklearn")
    result = train(call, "--steps", 1, files=())
    assert result.status == 0
    assert "on digits, 1,438 pictures to train on and 359 to test" in result.out
    assert Path("runs/digits-dense-2/config.json").exists()


def test_without_scikit_learn_a_line_says_how_to_get_it(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert "pip install 'unrolled[digits]'" in refused(train(call, files=()))
    assert not Path("runs").exists()


def test_pictures_to_test_on_may_be_files_of_their_own(call):
    write_idx(Path("t_images"), np.zeros((6, 5, 4)))
    write_idx(Path("t_labels"), np.array([0, 1, 0, 0, 0, 2]))
    test = ("--test-images", "t_images", "--test-labels", "t_labels")
    result = train(call, "--steps", 2, "--name", "run", *test)
    assert "80 pictures to train on and 6 to test" in result.out
    assert call("train", "digits", "--resume", "runs/run", "--steps", 3).status == 0
    write_idx(Path("t_images"), np.zeros((6, 5, 5)))
    assert "of different sizes: 5 x 4 and 5 x 5" in refused(train(call, *test))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--network", "hihgway"], "no cell 'hihgway': did you mean 'highway'"),
        (["--network", "conv-dense", "--activation", "tanh"], "--activation is not for conv-dense"),
        (["--depth", "0"], "--depth must be a whole number of at least 1"),
        (["--depth", "1000000", "--growth", "1000"], "not enough memory for the weights of dense layers"),
        (
            ["--network", "residual", "--depth", "100000", "--width", "100000"],
            "lower --depth, --width, --growth",
        ),
        (["--network", "conv-dense", "--depth", "2", "--test-images", "labels"], "--test-images goes with"),
        (["--init", "f=3"], "pattern 'f' matches no parameter"),
        (["--holdout", "0.001"], "too few to keep a share of 0.001"),
        (["--rate", "-1"], "--rate must be above 0"),
        (["--optimiser", "lion"], "no optimiser 'lion'"),
        (["--name", "a/b"], "run name 'a/b' will not do"),
        (["--hidden", "3"], "--hidden"),
    ],
)
def test_words_that_do_not_fit_cost_a_line(call, words, said):
    assert said in refused(train(call, *words))
    assert not Path("runs").exists()


def test_files_that_do_not_fit_cost_a_line(call):
    for files, said in (
        (("--images", "labels", "--labels", "labels"), "labels has 1 axes, expected 3"),
        (("--images", "nowhere", "--labels", "labels"), "nowhere cannot be read"),
        (("--images", "images.gz"), "--images goes with --labels: give both"),
        (("--labels", "labels"), "--labels goes with --images: give both"),
        (("--test-images", "images.gz", "--test-labels", "labels"), "go with --images and --labels"),
    ):
        assert said in refused(train(call, files=files))
    Path("labels").write_bytes(Path("labels").read_bytes()[:-1])
    assert "cut short" in refused(train(call))


def test_what_cannot_go_on_is_named(call):
    assert train(call, "--steps", 4, "--name", "run").status == 0
    resume = ("train", "digits", "--resume", "runs/run")
    assert "--depth cannot change when a run goes on; what can: --steps" in refused(
        call(*resume, "--depth", 3)
    )
    assert "--steps 2 is less than the 4" in refused(call(*resume, "--steps", 2))
    assert "--name and --runs are for a new run" in refused(call(*resume, "--name", "x"))
    assert "no run at runs/nothing" in refused(call("train", "digits", "--resume", "runs/nothing"))
    for command in (["sample", "runs/run"], ["train", "char", "--resume", "runs/run"]):
        assert "is not a run of a character model" in refused(call(*command))
    config = json.loads(Path("runs/run/config.json").read_text())
    Path("runs/run/config.json").write_text(json.dumps({**config, "task": "char"}))
    assert "not a run of a picture classifier" in refused(call(*resume))
    changed = {**config, "config": {**config["config"], "depth": 3}}
    Path("runs/run/config.json").write_text(json.dumps(changed))
    assert "belongs to another run: its depth is 2, here it is 3" in refused(call(*resume))
    Path("runs/run/config.json").write_text(json.dumps(config))
    for manifest in Path("runs/run/checkpoints").glob("*/manifest.json"):
        body = unseal(manifest.read_bytes(), "manifest")
        body["facts"] = {"task": "char"}
        manifest.write_bytes(seal(body, "manifest"))
    assert "is not a checkpoint of a picture classifier" in refused(call(*resume))


def test_training_that_diverges_says_so(call, monkeypatch):
    monkeypatch.setattr(DigitsTask, "gradients", lambda *_: (float("nan"), {}))
    assert "training diverged at step 1: the loss is nan" in refused(train(call, "--steps", 3))


def test_events_hold_the_accuracies(call, monkeypatch):
    pytest.importorskip("tensorboard")
    told: list[tuple[str, int]] = []
    monkeypatch.setattr(
        "torch.utils.tensorboard.SummaryWriter.add_scalar",
        lambda _, tag, value, step: told.append((tag, step)),
    )
    assert train(call, "--steps", 2, "--tensorboard").status == 0
    assert {("accuracy/training", 2), ("accuracy/test", 0), ("accuracy/test", 2), ("loss", 1)} <= set(told)


def test_without_matplotlib_a_line_says_how_to_get_it(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "unrolled.report.figures", None)
    result = train(call, "--steps", 1)
    assert result.status == 0
    assert "warning: no figure: pip install 'unrolled[figures]'" in result.err


def test_the_figure_is_a_picture_of_any_run():
    step = {"step": 1, "loss": 1.0, "accuracy": 0.5}
    tested = {"step": 1, "test_accuracy": 0.6, "low": 0.5, "high": 0.7}
    looks = [{"step": step, "gradient_by_layer": [1e-3, 0.0, 1e-1]} for step in (0, 1)]
    for records in ([], [step], [step, tested, *looks], [tested, {"step": 0, "gradient_by_layer": [0.0]}]):
        png = accuracy_figure(records, {"majority": 0.1, "linear": 0.96}, "a title")
        assert png.startswith(b"\x89PNG")
