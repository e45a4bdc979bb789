"""Norms, weight decay and initialisers on the command line, and runs with them beside each other."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from unrolled import cli, cli_flow, cli_time
from unrolled.tasks.char import CharConfig, CharTask
from unrolled.train import checkpoint

TEXT = "the quick brown fox jumps over the lazy dog and then it sleeps. " * 60
WORDS = ("--hidden", "8", "--batch", "4", "--bptt", "8", "--sample-length", "5", "--layers", "2")
EVERYTHING = (
    "--norm", "layer", "--batch-norm", "--weight-norm", "*.h=spectral:0.8", "--weight-norm", "*.x=weight",
    "--weight-decay", "0.1", "--init", "*.h=radius:1.5", "--rate", "0.02",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text and runs of it: one that is plain, one with everything."""
    folder = tmp_path_factory.mktemp("norms")
    (folder / "text.txt").write_text(TEXT)
    (folder / "other.txt").write_text(TEXT.upper())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, text, options in (
            ("plain", "text.txt", ()), ("all", "text.txt", EVERYTHING), ("other", "other.txt", ())
        ):  # fmt: skip
            words = ("train", "char", text, "--name", name, *WORDS, *options, "--steps", "6")
            assert cli.run(words) == 0
    return folder


@pytest.fixture
def call(trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable:
    monkeypatch.chdir(trained)
    monkeypatch.setenv("COLUMNS", "120")

    def run(*words: object) -> tuple[int, str, str]:
        for module in (cli, cli_flow, cli_time):
            for name in ("out", "err"):
                if hasattr(module, name):
                    monkeypatch.setattr(getattr(module, name), "_file", None)
        status = cli.run([*map(str, words)])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def test_the_options_reach_the_model(trained: Path) -> None:
    saved = checkpoint.load(trained / "runs" / "all" / "checkpoints" / "step-00000006")
    names = {name.removeprefix("model.layer.") for name in saved.tensors if name.startswith("model.layer.")}
    assert {"l0.f.gain", "batch_norm.l1.running_var", "l1.g.parametrizations.x.original1"} <= names
    assert saved.tensors["model.layer.l0.i.parametrizations.h.0.directions"].shape == (8, 8)
    config = json.loads((trained / "runs" / "all" / "config.json").read_text())["config"]
    assert config["weight_norm"] == ["*.h=spectral:0.8", "*.x=weight"]
    assert (config["norm"], config["batch_norm"], config["weight_decay"]) == ("layer", True, 0.1)


def test_a_run_with_all_of_them_goes_on_bit_for_bit(call: Callable, trained: Path) -> None:
    """Directions of spectral norm and averages of batch norm are in the checkpoint too."""
    assert call("train", "char", "text.txt", "--name", "whole", *WORDS, *EVERYTHING, "--steps", 12,
                "--schedule", "constant")[0] == 0  # fmt: skip
    assert call("train", "char", "text.txt", "--name", "half", *WORDS, *EVERYTHING, "--steps", 5,
                "--schedule", "constant")[0] == 0  # fmt: skip
    assert call("train", "char", "--resume", "runs/half", "--steps", 12)[0] == 0
    whole, half = (
        checkpoint.load(trained / "runs" / name / "checkpoints" / "step-00000012")
        for name in ("whole", "half")
    )
    assert whole.tensors.keys() == half.tensors.keys()
    for name, value in whole.tensors.items():
        assert torch.equal(value, half.tensors[name]), name


@pytest.mark.parametrize(
    "words",
    [
        ("sample", "all", "--length", 5),
        ("eval", "all", "text.txt"),
        ("flow", "all", "--steps", 20, "--batch", 2),
        ("truncation", "all", "--steps", 16, "--batch", 2),
        ("units", "all", "text.txt"),
    ],
    ids=lambda words: words[0],
)
def test_every_command_reads_such_a_run(call: Callable, words: tuple) -> None:
    status, _, said = call(*words)
    assert status == 0, said


def test_weight_decay_is_for_matrices() -> None:
    """A step of plain descent moves matrices by rate · decay · p more, and nothing else."""
    config = CharConfig(
        hidden=8, batch=4, bptt=8, optimiser="sgd", rate=0.1, warmup=0, schedule="constant", clip_norm=None,
        dtype="float64",
    )  # fmt: skip
    for options in ({}, {"weight_norm": ("weight",), "norm": "layer"}):
        found = []
        for decay in (0.0, 0.5):
            task = CharTask("text", TEXT, replace(config, weight_decay=decay, **options))
            before = {name: p.detach().clone() for name, p in task.model.named_parameters()}
            trainer = task.trainer()
            trainer.advance()
            assert (task.direct is None) == bool(options.get("weight_norm"))
            found.append({name: p.detach().clone() for name, p in task.model.named_parameters()})
        for name, plain in found[0].items():
            matrix = plain.ndim > 1 and not name.endswith("original0")
            torch.testing.assert_close(found[1][name], plain - 0.05 * matrix * before[name])


def test_runs_beside_each_other(call: Callable, trained: Path) -> None:
    status, out, said = call(
        "compare", "plain", "runs/all", "--steps", 20, "--batch", 2, "--layer", "layer.l1"
    )
    assert status == 0, said
    lines = out.splitlines()
    assert lines[0] == "on 2 sequences of 20 characters of text.txt"
    assert lines[1].startswith("layer.l1: gradient by lag over 20 steps")
    assert [line.split()[0] for line in lines[3:5]] == ["plain", "runs/all"]
    record = json.loads((trained / "runs" / "plain" / "compare.json").read_text())
    assert [len(each["gradient"]["norm"]) for each in record["variants"]] == [21, 21]
    assert (trained / "runs" / "plain" / "compare.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("plain",), "compare takes two runs or more: unrolled compare RUN RUN"),
        (("plain", "plain"), "compare takes two runs or more"),
        (("plain", "gone"), "no run at gone"),
        (("plain", "other"), "other has other characters than plain: compare runs of one text"),
        (("plain", "all", "--layer", "l7"), "no layer 'l7' ran; there are layer.l0, layer.l1"),
        (("plain", "all", "--text", "none.txt"), "none.txt"),
        (("plain", "all", "--steps", 0), "steps must be a whole number of at least 1, got 0"),
        (("plain", "all", "-o", "."), "--output '.' is no file"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(call: Callable, words: tuple, message: str) -> None:
    status, _, said = call("compare", *words)
    assert status == 2
    assert message in said
    assert said.count("\n") == 1
