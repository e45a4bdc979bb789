"""The command `flow`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from unrolled import cli, cli_flow, cli_time

TEXT = "the quick brown fox jumps over the lazy dog and then it sleeps. " * 60


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text and a run of it."""
    folder = tmp_path_factory.mktemp("flow")
    (folder / "text.txt").write_text(TEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        words = ("--hidden", "8", "--batch", "4", "--bptt", "8", "--steps", "30", "--sample-length", "5")
        assert cli.run(["train", "char", "text.txt", "--name", "a", *words]) == 0
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


def test_it_prints_the_verdict_and_writes_a_page_and_a_record(call: Callable, trained: Path) -> None:
    status, out, said = call("flow", "a", "--steps", 40, "--batch", 4)
    assert status == 0, said
    assert "rules could be told" in out
    page = (trained / "runs" / "a" / "flow.html").read_text()
    assert "Gradient flow of a" in page
    assert "lstm after 30 steps, on 4 sequences of 40 characters of text.txt" in page
    assert "Norm of the gradient" in page
    record = json.loads((trained / "runs" / "a" / "flow.json").read_text())
    assert len(record["by_lag"]["profiles"][0]["norm"]) == 41


def test_the_page_may_go_elsewhere(call: Callable, tmp_path: Path) -> None:
    status, out, _ = call("flow", "a", "text.txt", "--steps", 20, "--batch", 2, "-o", tmp_path / "it.html")
    assert status == 0
    assert (tmp_path / "it.html").exists()
    assert str(tmp_path / "it.html") in out.replace("\n", "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("b",), "no run at b"),
        (("a", "none.txt"), "none.txt"),
        (("a", "--steps", 0), "steps must be a whole number of at least 1, got 0"),
        (("a", "--batch", 0), "batch must be a whole number of at least 1, got 0"),
        (("a", "--steps", 100_000), "lower --batch or --steps, or give a longer text"),
        (("a", "-o", "."), "--output '.' is no file"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(call: Callable, words: tuple, message: str) -> None:
    status, _, said = call("flow", *words)
    assert status == 2
    assert message in said
    assert said.count("\n") == 1
