"""The commands `narx latch`, `automata`, `forecast` and `identify`."""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from unrolled import cli, cli_narx, cli_time

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable:
    """Run the command line in an empty folder; returns its status, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)

    def words(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        for module in (cli, cli_time, cli_narx):
            for name in ("out", "err"):
                if hasattr(module, name):
                    getattr(module, name).file = getattr(sys, "stdout" if name == "out" else "stderr")
        status = cli.run(["narx", *map(str, words)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    yield words
    for module in (cli, cli_time, cli_narx):
        for name in ("out", "err"):
            if hasattr(module, name):
                getattr(module, name).file = None


def row(text: str, *begins: str) -> list[str]:
    """The cells of the line that begins so."""
    (line,) = [line.split() for line in text.splitlines() if line.split()[: len(begins)] == [*begins]]
    return line


def written(folder: str, name: str) -> dict:
    assert Path(folder, f"{name}.png").read_bytes().startswith(PNG)
    return json.loads(Path(folder, f"{name}.json").read_text())


def logistic(path: Path, steps: int = 130) -> Path:
    value, lines = 0.4, []
    for _ in range(steps):
        lines.append(f"{value!r}\n")
        value = 3.7 * value * (1 - value)
    path.write_text("".join(lines))
    return path


def test_latch(call):
    status, out, err = call("latch", "--orders", "1,2", "--lengths", "3,8", "--runs", 10, "--updates", 60)
    assert (status, err) == (0, "")
    record = written("runs/narx", "latch")
    assert record["config"]["runs"] == 10
    one, two = record["orders"]
    shares = [f"{share:.0%}" for share in two["shares"]]
    assert row(out, "1-2")[1:3] == shares
    assert row(out, "1-2")[-1] == str(two["left"])
    assert row(out, "1")[-1] == str(one["left"]) == "10"
    assert "record: runs/narx/latch.json" in out
    assert "figure: runs/narx/latch.png" in out


def test_automata(call):
    words = ["--grammars", "1-2", "--lengths", "3,5", "--runs", 2, "--updates", 20, "--symbol-updates", 60]
    status, out, err = call("automata", *words, "--output", "mine")
    assert (status, err) == (0, "")
    record = written("mine", "automata")
    first, second = record["grammars"]
    right = first["right"]["NARX"]
    assert f"{sum(right) / 2:.1%}," in row(out, "1", "1*")
    assert row(out, "2", "(10)*")[2] == f"{second['commonest']:.1%}"
    assert row(out, "all")[-1] == "4"
    assert row(out, "Elman", "55")[2:4] == [f"{share:.0%}" for share in record["held"]["Elman"]]


def test_forecast(call, tmp_path):
    series = logistic(tmp_path / "mine.txt")
    small = ["--train", 100, "--steps", 20, "--lags", 2, "--hidden", 4, "--networks", 2, "--updates", 20]
    status, out, err = call("forecast", series, *small)
    assert (status, err) == (0, "")
    record = written("runs/narx", "forecast")
    error = record["errors_of"]["NARX networks, averaged"]
    assert row(out, "NARX", "networks,")[-1] == f"{error:.4f}"
    assert row(out, "mean")[-1] == f"{record['errors_of']['mean']:.4f}"
    assert row(out, "single")[-3:] == [f"{min(record['errors']):.4f}", "to", f"{max(record['errors']):.4f}"]
    assert "mine.txt: steps 100 to 120 from the 100 before" in out
    assert "best entry" not in out  # which was on the laser


def test_identify(call):
    small = ["--plants", "3,5", "--train", 60, "--steps", 30, "--hidden", 3, "--updates", 5]
    status, out, err = call("identify", *small)
    assert (status, err) == (0, "")
    third, _ = written("runs/narx", "identify")["plants"]
    found = row(out, "3")
    assert found[-4:-2] == [f"{third['one_step'][name]:.2g}" for name in ("ARX", "NARX")]
    assert found[-2:] == [f"{third['free_run'][name]:.2g}" for name in ("ARX", "NARX")]
    assert math.isfinite(third["free_run"]["NARX"])


def test_without_matplotlib_there_is_a_record(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "unrolled.report.taps", None)
    status, out, err = call("latch", "--orders", 1, "--lengths", 3, "--runs", 2, "--updates", 1)
    assert status == 0
    assert "record: runs/narx/latch.json" in out
    assert err == "warning: no figure: pip install 'unrolled[figures]'\n"
    assert not Path("runs/narx/latch.png").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["latch", "--orders", "2,1"], "orders 2, 1 are not in order: write 1, 2"),
        (["latch", "--runs", "none"], "Invalid value for '--runs'"),
        (["latch", "--output", "file/deeper"], "file"),
        (["automata", "--grammars", "8"], "there is no grammar 8; they are numbered 1 to 7"),
        (["forecast"], "the data set laser is not here yet: run `unrolled data fetch laser`."),
        (["forecast", "nothing.txt"], "'nothing.txt' is neither a file nor the name of a data set"),
        (["forecast", "file"], "line 2 of file is 'two': a series is a text of one number a line."),
        (["forecast", "gap"], "line 3 of gap is nan: a series has no gaps."),
        (["forecast", "short"], "short has 20 steps, but 0 to leave out, 1000 to learn from"),
        (["identify", "--plants", "0"], "plants begin with 1, got 0"),
        (["identify", "--hidden", "0"], "hidden must be a whole number of at least 1, got 0"),
        (["nothing"], "No such command 'nothing'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(call, words, message):
    Path("file").write_text("1\ntwo\n")
    Path("gap").write_text("1\n2\nnan\n4\n")
    logistic(Path("short"), 20)
    status, _, err = call(*words)
    assert status == 2
    (line,) = err.splitlines()
    assert line.startswith("unrolled: ")
    assert message in line
