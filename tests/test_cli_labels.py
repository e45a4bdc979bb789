"""The commands about labels: a run that goes on is the run that never stopped, and mistakes cost a line."""

import io
import json
import re
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from commands import Call, Result, caller, losses, refused, write_idx
from unrolled.report.labels import labels_figure
from unrolled.tasks import labels_data
from unrolled.tasks.labels import LabelTask
from unrolled.tasks.labels_data import read_frames
from unrolled.train import loop
from unrolled.train.files import seal, unseal

SMALL = ("--hidden", 4, "--batch", 8, "--warmup", 0, "--monitor", 0)
WORDS = ("--embedding", 4)
FILES = ("--images", "pictures", "--labels", "labels")
FILM = ("--sequences", "film", "--sequence-labels", "film_labels")
MOVING = ("--frames", 5, "--channels", 2, "--canvas", 6)
KINDS = {
    "sentiment": ("sentiment", "texts.tsv", *WORDS),
    "tags": ("tags", "words.tsv", *WORDS),
    "frames": ("frames", *FILES, *MOVING),
    "series": ("series", "series.tsv"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of every kind."""
    folder = tmp_path_factory.mktemp("labels")
    lines = [f"{('bad', 'good')[k % 2]}\tit was {('dull', 'fun')[k % 2]} , {k}" for k in range(60)]
    (folder / "texts.tsv").write_text("\n".join(lines) + "\n")
    (folder / "words.tsv").write_text(
        "".join(f"a\tDET\nbird\tNOUN\nsings\tVERB\n{k}\tNUM\n\n" for k in range(40))
    )
    (folder / "series.tsv").write_text("".join(f"{k % 2}\t{k % 2}\t{k / 99}\t1\n" for k in range(40)))
    pixels = np.random.default_rng(0).integers(0, 60, (40, 4, 4))
    pixels[1::2, 2:] += 190
    write_idx(folder / "pictures", pixels)
    write_idx(folder / "labels", np.arange(40) % 2)
    write_idx(folder / "film", np.tile(pixels[:12, None], (1, 3, 1, 1)))
    write_idx(folder / "film_labels", np.tile(np.arange(12)[:, None] % 2, (1, 3)))
    return folder


@pytest.fixture
def call(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    """Run the command line in a folder with data of every kind."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setattr("unrolled.report.labels.labels_figure", lambda *_: b"")
    monkeypatch.setattr(labels_data, "ALONE", 3)

    return caller(capsys)


def train(call: Call, kind: str, *words: object) -> Result:
    return call("train", *KINDS[kind], *SMALL, *words)


every = pytest.mark.parametrize("kind", KINDS)


@every
def test_a_run_tells_accuracy_and_f1_beside_the_baselines_and_labels_what_it_is_given(call, kind):
    result = train(call, kind, "--steps", 30, "--rate", 0.05, "--name", "run")
    assert (result.status, result.err) == (0, "")
    assert re.search(
        r"runs/run: gru, (both ways, )?4 units.* on .*, [234] labels, [\d,]+ parameters", result.out
    )
    baselines = {
        "sentiment": "naive Bayes",
        "tags": "most frequent tag",
        "frames": "frame alone",
        "series": "nearest",
    }
    for name in ("majority", baselines[kind]):
        assert re.search(rf"{name}.* \d+\.\d% \(\d+\.\d% to \d+\.\d%\), F1 \d\.\d+ \(", result.out)
    assert re.search(r"step +30   test accuracy \d+\.\d%, 95% from .* to .*, F1 \d\.\d{3}", result.out)
    assert "figure: runs/run/labels.png" in result.out
    page = Path("runs/run/report.html").read_text()
    for heading in (baselines[kind], "Label by label", "Gradient by lag", "Gates and states"):
        assert heading in page
    assert re.search(r"done: \d+\.\d% \(.* unrolled label runs/run FILE", result.out)
    record = json.loads(Path("runs/run/config.json").read_text())
    assert set(record["baselines"]["majority"]) >= {"right", "count", "low", "high", "f1"}
    given = {"sentiment": "texts.tsv", "tags": "texts.tsv", "frames": "film", "series": "numbers"}[kind]
    if kind == "frames":
        write_idx(Path("film"), np.zeros((2, 3, 6, 6)))
    Path("numbers").write_text("1 0.5 1\n\n0, 0.2\n")
    labelled = call("label", "runs/run", given)
    assert (labelled.status, labelled.err) == (0, "")
    lines = [line.split("\t") for line in labelled.out.splitlines()]
    if kind == "sentiment":
        assert len(lines) == 60
        assert all(line[0] in ("bad", "good") and 0.5 <= float(line[1]) <= 1 for line in lines)
        assert lines[0][2:] == ["bad", "it was dull , 0"]
    elif kind == "tags":
        assert [line[0] for line in lines[:7]] == ["bad", "it", "was", "dull", ",", "0", ""]
        assert all(len(line) in (1, 3) for line in lines)
    elif kind == "frames":
        assert [line[:2] for line in lines] == [[str(n), str(t)] for n in (1, 2) for t in (1, 2, 3)]
    else:
        assert [len(line) for line in lines] == [3, 1, 3]
        assert [line[-1] for line in lines] == ["3", "", "2"]


@every
def test_a_run_that_goes_on_is_the_run_that_never_stopped(call, kind, monkeypatch):
    """Bit by bit, whether it ended, or was stopped in between; with dropout and words that are left out."""
    words = ("--dropout", 0.3, "--save-every", 5, "--evaluate-every", 4)
    assert train(call, kind, "--steps", 12, "--name", "whole", *words).status == 0
    real, calls = loop.Trainer.advance, []

    def stopping(trainer: loop.Trainer) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 7:
            signal.raise_signal(signal.SIGINT)
        return real(trainer)

    monkeypatch.setattr(loop.Trainer, "advance", stopping)
    stopped = train(call, kind, "--steps", 12, "--name", "part", *words)
    assert stopped.status == 130
    assert f"stopped and saved at step 7. To go on: unrolled train {kind} --resume runs/part" in stopped.out
    monkeypatch.setattr(loop.Trainer, "advance", real)
    again = call("train", kind, "--resume", "runs/part", "--monitor", 0)
    assert (again.status, again.err) == (0, "")
    assert losses("part") == losses("whole")
    one, two = ((Path("runs") / name / "metrics.jsonl").read_text() for name in ("whole", "part"))
    last = [json.loads(text.splitlines()[-1])["confusion"] for text in (one, two)]
    assert last[0] == last[1]
    longer = call("train", kind, "--resume", "runs/part", "--steps", 13, "--monitor", 0)
    assert longer.status == 0
    assert len(losses("part")) == 13


@every
def test_what_a_training_would_take_is_printed_and_nothing_written(call, kind):
    result = train(call, kind, "--steps", 20, "--dry-run")
    assert (result.status, result.err) == (0, "")
    assert re.search(r"layer +Recurrent +5? ?.*x .* \d+", result.out)
    assert "for 20 steps and 11 measurements" in result.out
    assert not Path("runs").exists()


@every
def test_gradient_flow_is_measured_while_it_trains_and_afterwards(call, kind):
    words = ("--hidden", 4, "--batch", 8, "--steps", 4, "--name", "run")
    result = call("train", *KINDS[kind], *words)
    assert "gradient flow: runs/run/flow.jsonl" in result.out
    records = [json.loads(line) for line in Path("runs/run/flow.jsonl").read_text().splitlines()]
    first = next(record for record in records if "places" in record)
    assert (first["step"], first["of"], first["notes"]) == (1, "loss", [])
    assert first["places"][0]["place"] == "layer.l0"
    found = call("flow", "runs/run", "--batch", 3, "--steps", 4)
    assert found.status == 0, found
    assert re.search(r"gru after 4 steps, on 3 held-out sequences of \d (words|frames|numbers) of", found.out)
    assert Path("runs/run/flow.html").stat().st_size > 10_000
    assert "give no text" in refused(call("flow", "runs/run", "texts.tsv"))


def test_gradient_flow_through_depth_is_that_of_every_picture(call):
    words = ("--depth", 5, "--width", 6, "--batch", 8, "--steps", 3)
    assert call("train", "digits", *FILES, *words, "--name", "deep").status == 0
    found = call("flow", "deep", "--batch", 6)
    assert found.status == 0, found
    assert "residual, 5 layers, after 3 steps, on 6 test pictures of pictures; a step is a layer" in found.out
    record = json.loads(Path("runs/deep/flow.json").read_text())
    assert len(record["by_lag"]["profiles"][0]["norm"]) == 6
    assert call("train", "digits", "--network", "dense", *FILES, *words, "--name", "dense").status == 0
    assert "trained a dense network, whose layers are no cells" in refused(call("flow", "dense"))


def test_data_that_moved_may_be_given_anew_and_other_data_are_refused(call):
    assert train(call, "sentiment", "--steps", 3, "--name", "run").status == 0
    Path("texts.tsv").rename("moved.tsv")
    resume = ("train", "sentiment", "--resume", "runs/run", "--monitor", 0)
    gone = refused(call(*resume, "--steps", 4))
    assert "texts.tsv" in gone
    assert "say with --resume where they are now" in gone
    assert call("train", "sentiment", "moved.tsv", *resume[2:], "--steps", 4).status == 0
    Path("moved.tsv").write_text(Path("moved.tsv").read_text().replace("fun", "odd"))
    other = refused(call("train", "sentiment", "moved.tsv", *resume[2:], "--steps", 5))
    assert "the data are not those this run was trained on (texts.tsv)" in other


def test_a_table_may_call_its_columns_as_it_likes(call):
    rows = Path("texts.tsv").read_text().splitlines()
    table = ["stars,review", *(f'{a},"{b}"' for a, b in (row.split("\t") for row in rows))]
    Path("table.csv").write_text("\n".join(table) + "\n")
    words = ("--text", "review", "--label", "stars", *SMALL, *WORDS, "--steps", 2, "--name", "run")
    assert call("train", "sentiment", "table.csv", *words).status == 0
    assert call("train", "sentiment", "--resume", "runs/run", "--steps", 3, "--monitor", 0).status == 0
    assert "columns of a file" in refused(call("train", "sentiment", "movie-reviews", "--text", "review"))


def test_sequences_of_frames_of_ones_own_are_learned(call):
    result = call("train", "frames", *FILM, *SMALL, "--channels", 2, "--steps", 2, "--name", "run")
    assert (result.status, result.err) == (0, "")
    assert "10 sequences, 2 held out" in result.out
    assert call("train", "frames", "--resume", "runs/run", "--steps", 3, "--monitor", 0).status == 0
    assert call("label", "runs/run", "film").status == 0
    write_idx(Path("film"), np.zeros((2, 3, 5, 4)))
    assert "the frames are of 5 x 4 pixels, and the model labels frames of 4 x 4" in refused(
        call("label", "runs/run", "film")
    )


def test_series_to_test_on_may_be_a_file_of_their_own(call):
    Path("other.tsv").write_text("0\t0\t0.1\t1\n1\t1\t0.2\t1\n1\t1\t0.3\n")
    result = train(call, "series", "--test", "other.tsv", "--steps", 2, "--name", "run")
    assert "40 series, 3 held out" in result.out
    assert call("train", "series", "--resume", "runs/run", "--steps", 3, "--monitor", 0).status == 0


def test_lines_are_labelled_as_they_come_in(call, monkeypatch):
    assert train(call, "tags", "--steps", 30, "--rate", 0.05, "--name", "run").status == 0
    for words, expected in (
        ((), ["a", "bird", ",", "sings", "", "", "a", ""]),
        (("--words",), ["a", "bird,", "sings", "", "", "a", ""]),
    ):
        monkeypatch.setattr(sys, "stdin", io.StringIO("a bird, sings\n\n a \n"))
        result = call("label", "runs/run", *words)
        assert [line.split("\t")[0] for line in result.out.split("\n")[:-1]] == expected
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), encoding="utf-8"))
    assert "standard input is not UTF-8" in refused(call("label", "runs/run"))


def test_words_never_seen_are_labelled_too(call):
    assert train(call, "sentiment", "--steps", 2, "--name", "run").status == 0
    Path("new").write_text("zyzzyva\n…\n\n")
    result = call("label", "runs/run", "new")
    assert result.status == 0
    assert len(result.out.splitlines()) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("sentiment",), "give a file, or the name of a data set, as in `unrolled train sentiment movie-rev"),
        (("tags",), "as in `unrolled train tags brown`"),
        (("series",), "give a file with a label and the numbers of a series on each line"),
        (("series", "nowhere.tsv"), "nowhere.tsv"),
        (("sentiment", "movie-revews"), "'movie-revews' (did you mean 'movie-reviews'?)"),
        (("sentiment", "brown"), "brown is tagged words, not labelled texts"),
        (("sentiment", "words.tsv"), "columns"),
        (("tags", "texts.tsv", "--fine"), "--fine is for the Brown corpus"),
        (("tags", "series.tsv"), "give a word, a tab and its tag"),
        (("sentiment", "texts.tsv", "--cell", "gruu"), "no cell 'gruu': did you mean 'gru'"),
        (("sentiment", "texts.tsv", "--pooling", "sum"), "--pooling is one of last, mean, max, attention"),
        (("sentiment", "texts.tsv", "--init", "f.bias=1"), "matches no parameter"),
        (("sentiment", "texts.tsv", "--holdout", "2"), "--holdout is a share"),
        (("sentiment", "texts.tsv", "--least", "1000"), "no word is there 1000 times"),
        (("sentiment", "texts.tsv", "--name", "a/b"), "run name 'a/b' will not do"),
        (("sentiment", "texts.tsv", "--endings", "20"), "--endings must be at most 8"),
        (("frames", "--images", "pictures"), "--images and --labels go together: give both"),
        (("frames", "--sequence-labels", "labels"), "--sequences and --sequence-labels go together"),
        (("frames", *FILES, *FILM), "--images move, and --sequences have frames already"),
        (("frames", *FILES, "--canvas", "3"), "--canvas 3 has no room"),
        (("frames", "--sequences", "pictures", "--sequence-labels", "labels"), "pictures has 3 axes, exp"),
    ],
)  # fmt: skip
def test_words_that_do_not_fit_cost_a_line(call, words, said):
    if "words.tsv" in words:
        Path("words.tsv").write_text("a\tb\tc\n")
    assert said in refused(call("train", *words))
    assert not Path("runs").exists()


def test_what_cannot_go_on_or_label_is_named(call):
    assert train(call, "sentiment", "--steps", 2, "--name", "run").status == 0
    resume = ("train", "sentiment", "--resume", "runs/run")
    assert "--hidden cannot change when a run goes on; what can: --steps" in refused(
        call(*resume, "--hidden", 3)
    )
    assert "--steps 1 is less than the 2" in refused(call(*resume, "--steps", 1))
    assert "--name and --runs are for a new run" in refused(call(*resume, "--name", "x"))
    assert "is not a run of a model that tags words" in refused(call("train", "tags", "--resume", "runs/run"))
    assert "no run at runs/nothing" in refused(call("label", "runs/nothing"))
    assert "nowhere" in refused(call("label", "runs/run", "nowhere"))
    assert "is not a run of a character model" in refused(call("sample", "runs/run"))
    config = json.loads(Path("runs/run/config.json").read_text())
    for change in (
        {"task": "char"},
        {"task": 3},
        {"baselines": {"majority": 0.5}},
        {"data": []},
        {"config": None},
    ):
        Path("runs/run/config.json").write_text(json.dumps({**config, **change}))
        for words in (("label", "runs/run", "texts.tsv"), resume):
            refused(call(*words))
    Path("runs/run/config.json").write_text(json.dumps({**config, "data": {**config["data"], "from": 3}}))
    refused(call(*resume))
    Path("runs/run/config.json").write_text(json.dumps(config))
    whole = {path: path.read_bytes() for path in Path("runs/run/checkpoints").glob("*/manifest.json")}
    for key, value in (
        ("task", "tags"), ("classes", 3), ("classes", ["one"]), ("reads", {}), ("reads", {"size": [4, 4]}),
        ("reads", {"lexicon": {"words": []}}), ("cell", {}), ("cell", None), ("config", {}),
        ("config", {"hidden": "x"}),
    ):  # fmt: skip
        for path, raw in whole.items():
            body = unseal(raw, "manifest")
            body["facts"] = {**body["facts"], key: value}
            path.write_bytes(seal(body, "manifest"))
        assert "checkpoint" in refused(call("label", "runs/run", "texts.tsv")) or key == "config"


def test_a_run_that_labels_frames_needs_a_file(call):
    assert train(call, "frames", "--steps", 1, "--name", "run").status == 0
    assert "give an IDX file of sequences" in refused(call("label", "runs/run"))
    assert "--words is for texts" in refused(call("label", "runs/run", "film", "--words"))
    write_idx(Path("film"), np.zeros((2, 3, 6)))
    assert "film has 3 axes, expected 4" in refused(call("label", "runs/run", "film"))


@pytest.mark.parametrize(
    ("frames", "labels", "said"),
    [
        (np.zeros((2, 3, 4, 4)), np.zeros((2, 2)), "2 x 3 frames and .* 2 x 2 labels"),
        (np.zeros((1, 3, 4, 4)), np.zeros((1, 3)), "has one sequence"),
        (np.zeros((2, 3, 4, 4)), np.zeros((2, 3)), "has labels from 0 to 0"),
        (np.zeros((0, 3, 4, 4)), np.zeros((0, 3)), "has no sequences"),
    ],
)
def test_frames_that_cannot_be_learned_are_told(tmp_path, frames, labels, said):
    write_idx(tmp_path / "f", frames)
    write_idx(tmp_path / "l", labels)
    with pytest.raises(labels_data.DataError, match=said):
        read_frames(tmp_path / "f", tmp_path / "l")


def test_training_that_diverges_says_so(call, monkeypatch):
    monkeypatch.setattr(LabelTask, "gradients", lambda *_: (float("nan"), {}))
    assert "training diverged at step 1: the loss is nan" in refused(train(call, "series", "--steps", 3))


def test_events_hold_the_accuracies(call, monkeypatch):
    pytest.importorskip("tensorboard")
    told: list[tuple[str, int]] = []
    monkeypatch.setattr(
        "torch.utils.tensorboard.SummaryWriter.add_scalar",
        lambda _, tag, value, step: told.append((tag, step)),
    )
    assert train(call, "series", "--steps", 2, "--tensorboard").status == 0
    assert {("accuracy/training", 2), ("accuracy/test", 0), ("accuracy/test", 2), ("loss", 1)} <= set(told)


def test_the_figure_is_a_picture_of_any_run():
    step = {"step": 1, "loss": 1.0, "accuracy": 0.5}
    tested = {"step": 1, "test_accuracy": 0.6, "low": 0.5, "high": 0.7}
    for classes in (0, 2, 40):
        table = torch.randint(0, 9, (classes, classes)).tolist()
        records = [step, tested, {"step": 1, "confusion": table}] if classes else []
        png = labels_figure(records, {"majority": 0.5}, [f"label {k}" for k in range(classes)], "a title")
        assert png.startswith(b"\x89PNG")
