"""The command `units`."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from unrolled import cli, cli_time
from unrolled.tasks import char_runs

WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "and", "then", "it", "sleeps")


def made_text(length: int = 5000) -> str:
    draw = random.Random(2)
    text = ""
    while len(text) < length:
        text += " ".join(draw.choices(WORDS, k=draw.randint(3, 12))) + draw.choice([".\n", ".\n\n", "\n"])
    return text[:length]


TEXT = made_text()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learned a little."""
    folder = tmp_path_factory.mktemp("units")
    (folder / "text.txt").write_text(TEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unrolled.report.figures.loss_figure", lambda *_: b"")
        words = ["--hidden", "12", "--layers", "2", "--steps", "60", "--batch", "8", "--bptt", "20"]
        words += [
            "--sample-every",
            "0",
            "--evaluate-every",
            "0",
            "--name",
            "r",
            "--runs",
            str(folder / "runs"),
        ]
        assert cli.run(["train", "char", str(folder / "text.txt"), *words]) == 0
    return folder / "runs" / "r"


@pytest.fixture
def call(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable:
    """Run the command line beside the run; returns its status, output and errors."""
    monkeypatch.chdir(run.parent.parent)
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)

    def words(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        for module in (cli, cli_time):
            for name in ("out", "err"):
                monkeypatch.setattr(getattr(module, name), "_file", None)
        status = cli.run([*map(str, words)])
        said = capsys.readouterr()
        return status, said.out, said.err

    return words


def test_units_are_scored_drawn_and_recorded(call: Callable, run: Path) -> None:
    options = ("--characters", 4000, "--predicate", "fox=fox", "--predicate", "none=cat", "--top", 2)
    status, out, said = call("units", "r", "text.txt", *options)
    assert status == 0
    assert said == "warning: --predicate none: 'cat' matches nothing in this text\n"
    record = json.loads((run / "units.json").read_text())
    assert record["characters"] == 4000
    assert record["units"] == 2 * 2 * 12
    best = {each["predicate"]: each for each in record["best"]}
    assert {"position in line", "in a word", "before a space", "fox"} <= best.keys()
    assert record["untold"]["none"] == "it is so nowhere in this text"
    assert "digit cannot be told: it is so nowhere in this text" in out
    assert best["in a word"]["verdict"] == "clear"
    assert "r on text.txt: 48 units, the first 4,000 of 5,000 characters" in out
    for each in best.values():
        assert f"{each['score']:.3f}" in out
    drawn = [line for line in out.splitlines() if any(w in line for w in (" there", " with it"))]
    assert len(drawn) == 2
    assert all(record["best"][k]["predicate"] in line for k, line in enumerate(drawn))
    html = (run / "units.html").read_text()
    assert best["in a word"]["name"] in html
    assert "units.json" in out
    assert "units.html" in out


def test_a_unit_that_is_reported_has_that_threshold(call: Callable, run: Path) -> None:
    """Its balanced accuracy is had again from the states of the model."""
    assert call("units", "runs/r", "text.txt")[0] == 0
    (word,) = (
        e for e in json.loads((run / "units.json").read_text())["best"] if e["predicate"] == "in a word"
    )
    model, vocabulary, _ = char_runs.open_model(run, pytest.fail)
    with torch.no_grad():
        _, _, steps = model.layer(vocabulary.encode(TEXT)[:, None], return_states=True)
    values = steps[word["state"]][word["layer"], :, 0, word["unit"]]
    said = word["sign"] * values > word["sign"] * word["threshold"]
    truth = torch.tensor([c.isalnum() for c in TEXT])
    middle = len(TEXT) // 2
    said, truth = said[middle:], truth[middle:]
    accuracy = (said[truth].double().mean() + (~said[~truth]).double().mean()) / 2
    assert float(accuracy) == pytest.approx(word["balanced_accuracy"], abs=1e-3)


def test_colours_are_for_terminals(call: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b" not in call("units", "r", "text.txt", "--characters", 2000)[1]
    monkeypatch.setattr(cli_time.out, "_color_system", 3)
    assert "\x1b[38;2;0;0;0;48;2;" in call("units", "r", "text.txt", "--characters", 2000)[1]


def test_a_text_in_its_file_is_read_as_far_as_asked(call: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    short = call("units", "r", "text.txt", "--characters", 2000)[1]
    monkeypatch.setattr("unrolled.data.encoded.IN_MEMORY", 100)
    assert call("units", "r", "text.txt", "--characters", 2000)[1] == short


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("gone", "text.txt"), "no run at gone: a run is a folder that holds config.json"),
        (("r",), "Missing argument 'TEXT'"),
        (("r", "gone.txt"), "'gone.txt' is neither a file nor the name of a data set"),
        (("r", "short.txt"), "the text has 260 characters, and units are told from chance in 1,000 at least"),
        (
            ("r", "strange.txt"),
            "the text has 2 distinct characters that the model never saw in training: 'Ж', 'Q'",
        ),
        (("r", "text.txt", "--top", 0), "--top must be at least 1, got 0"),
        (("r", "text.txt", "--characters", 999), "--characters must be at least 1000"),
        (("r", "text.txt", "--predicate", "speaker"), "cannot read --predicate 'speaker'; write NAME=REGEX"),
        (("r", "text.txt", "--predicate", "a=(b"), "'(b' of --predicate a is no regular expression"),
        (("r", "text.txt", "--predicate", "digit=1"), "there is a predicate 'digit' already"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(call: Callable, run: Path, words: tuple, message: str) -> None:
    Path("short.txt").write_text(TEXT[:260])
    Path("strange.txt").write_text(TEXT + "ЖQ")
    before = sorted(run.iterdir())
    status, out, said = call("units", *words)
    assert status == 2
    assert message in said
    assert said.count("\n") == 1
    assert out == ""
    assert sorted(run.iterdir()) == before
