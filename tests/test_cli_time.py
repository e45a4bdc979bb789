"""The commands `plan` and `truncation`."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from unrolled import cli, cli_time
from unrolled.unroll.policies import bytes_of

TEXT = "the quick brown fox jumps over the lazy dog and then it sleeps. " * 60


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable:
    """Run the command line in an empty folder; returns its status, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    (tmp_path / "text.txt").write_text(TEXT)

    def run(*words: object) -> tuple[int, str, str]:
        for module in (cli, cli_time):
            for name in ("out", "err"):
                monkeypatch.setattr(getattr(module, name), "_file", None)
        status = cli.run([*map(str, words)])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def test_a_plan_is_within_its_budget_and_names_the_fastest(call: Callable) -> None:
    status, out, _ = call("plan", "--hidden", 16, "--batch", 4, "--steps", 640, "--memory", "300KB")
    assert status == 0
    rows = re.findall(r"^ *(\d+) +(\d+) +(\d+) +([\d.]+) +([\d.]+[KM]?B) +", out, re.MULTILINE)
    assert len(rows) > 2
    assert all(bytes_of(row[4]) <= 300_000 for row in rows)
    (fastest,) = re.findall(r"fastest, segments of (\d+) steps", out)
    assert fastest in [row[0] for row in rows]
    assert "exact gradient in" in out


def test_a_plan_for_one_length_and_a_disk(call: Callable) -> None:
    memory = ("--memory", "80KB", "--disk", "1MB", "--segment", 8)
    status, out, _ = call("plan", "--hidden", 16, "--batch", 4, "--steps", 640, *memory)
    assert status == 0
    assert "on disk" in out
    assert "segments of 8 steps" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--memory", "0MB"), "memory must be more than nothing, got '0MB'"),
        (("--memory", "-1GB"), "'-1GB' is no amount of memory"),
        (("--memory", "lots"), "'lots' is no amount of memory; write it as in 200MB"),
        (("--memory", "1KB", "--hidden", 8), "a budget of 1KB is too small: it takes"),
        (("--memory", "1GB", "--steps", 0), "steps must be a whole number of at least 1, got 0"),
        (("--memory", "1GB", "--segment", 0), "segment must be a whole number of at least 1, got 0"),
        (("--memory", "1GB", "--batch", 0), "--batch must be at least 1, got 0"),
        (("--memory", "1GB", "--vocabulary", 0), "vocabulary must be a whole number of at least 1, got 0"),
        (("--memory", "1GB", "--cell", "lsmt"), "lsmt"),
        ((), "Missing option '--memory'"),
    ],
)
def test_what_is_wrong_with_a_plan_is_said_in_a_line(call: Callable, words: tuple, message: str) -> None:
    status, _, said = call("plan", *words)
    assert status == 2
    assert message in said
    assert said.count("\n") == 1


def test_truncation_of_a_run_is_recorded_and_drawn(call: Callable) -> None:
    assert call("train", "char", "text.txt", "--steps", 3, "--hidden", 8, "--name", "r")[0] == 0
    status, out, _ = call("truncation", "r", "--steps", 40, "--batch", 2, "--memory", "5MB")
    assert status == 0
    found = json.loads(Path("runs/r/truncation.json").read_text())
    assert [r["k2"] for r in found if r["parameter"] == "all"] == [1, 2, 5, 10, 20, 40]
    last = [r for r in found if r["k2"] == 40]
    assert all(abs(r["cosine"] - 1) < 1e-5 and abs(r["norm_ratio"] - 1) < 1e-5 for r in last)
    assert {r["parameter"] for r in last} > {"all", "head.bias", "layer.l0.f.h"}
    assert Path("runs/r/truncation.png").read_bytes().startswith(b"\x89PNG")
    assert "least cosine of a parameter" in out
    for words, message in (
        (("--steps", 10**6), "streams of 1000000 steps need 16000001: lower --batch or --steps"),
        (("--steps", 0), "steps must be a whole number of at least 1, got 0"),
        (("--k1", 1001), "gradients reach at most the"),
        (("--steps", 30, "--batch", 2, "--memory", "1KB"), "a budget of 1KB is too small: it takes"),
        (("--steps", 30, "--batch", 2, "--k1", 0), "k1 must be a whole number of at least 1, got 0"),
    ):
        batch = () if "--batch" in words or 10**6 in words else ("--batch", 2)
        status, _, said = call("truncation", "r", *words, *batch)
        assert status == 2
        assert message in said
        assert said.count("\n") == 1
