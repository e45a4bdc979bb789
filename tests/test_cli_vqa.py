"""`unrolled train vqa` and `unrolled ask`: a run that goes on is the run that never stopped, an answer comes
with where was looked, and mistakes cost a line."""

import json
import re
import shutil
import signal
import sys
from pathlib import Path

import pytest

from asked import asked, write_vqa
from commands import Call, Result, caller, losses, refused
from unrolled.tasks.vqa import VqaTask
from unrolled.train import loop
from unrolled.train.files import seal, unseal

SMALL = (
    "--size", "16", "--channels", "4,8", "--hidden", "8", "--embedding", "4", "--fused", "8", "--batch", "8",
    "--question-only", "3", "--warmup", "0", "--holdout", "0.3", "--monitor", "4",
)  # fmt: skip


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the command line in a folder with questions about pictures; figures are drawn by one test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    for name in ("answers_figure", "answers_sheet", "asked_figure"):
        monkeypatch.setattr(f"unrolled.report.answers.{name}", lambda *_: b"\x89PNG")
    write_vqa(tmp_path, asked(20))

    return caller(capsys)


FILES = ("--questions", "q.json", "--annotations", "a.json", "--images", "pictures")


def train(call: Call, *words: object, files: tuple[str, ...] = FILES) -> Result:
    return call("train", "vqa", *SMALL, *files, *words)


def test_a_run_tells_accuracy_by_kind_beside_what_is_reached_without_looking(call):
    result = train(call, "--steps", 8, "--name", "run")
    assert result.status == 0, result.err
    assert "training the same network without pictures, to compare: 3 steps" in result.out
    assert "lstm, additive attention, product, 7 answers on q.json, " in result.out
    assert re.search(r"49 questions about 14 pictures to train on, 21 about 6 to test", result.out)
    assert re.search(r"majority +\d+\.\d% \(.*\n +question only +\d+\.\d% \(", result.out)
    assert re.search(r"(?m)^    is it not \w+\? \w+ \(\d+%", result.out, re.IGNORECASE)
    assert re.search(
        r"(?m)^    shape +\d+\.\d% \(\d+\.\d% to \d+\.\d%\), without looking: majority \d", result.out
    )
    assert "done: test accuracy" in result.out
    assert "To ask: unrolled ask runs/run IMAGE '" in result.out
    assert "gradient flow: runs/run/flow.jsonl" in result.out
    page = Path("runs/run/report.html").read_text()
    assert "of the questions are answered rightly" in page
    assert page.count("data:image/png") >= 1
    config = json.loads(Path("runs/run/config.json").read_text())
    assert [*config["baselines"]] == ["majority", "question only"]
    assert {*config["baselines"]["majority"]["kinds"]} == {"colour", "shape", "yes/no"}


def test_questions_that_nothing_can_be_learned_from_are_counted(call):
    result = train(call, "--steps", 1, "--most-answers", 2)
    assert result.status == 0, result.err
    found = re.search(r"(\d+) questions about \d+ pictures to train on, 21 about 6 to test", result.out)
    left_out = re.search(
        r"(\d+) questions whose answer is not among the commonest are not trained", result.out
    )
    assert int(found[1]) + int(left_out[1]) == 49
    assert "2 answers on q.json" in result.out


@pytest.mark.parametrize("answers", ["classes", "choice", "words"])
def test_a_run_that_goes_on_makes_the_steps_of_one_that_never_stopped(call, answers, monkeypatch):
    words = ("--answers", answers, "--save-every", 3, "--schedule", "constant", "--dropout", 0.1)
    assert train(call, *words, "--steps", 9, "--name", "whole").status == 0
    advance = loop.Trainer.advance

    def interrupted(trainer: loop.Trainer) -> dict[str, float]:
        if trainer.step == 4 and trainer.task.look:
            signal.raise_signal(signal.SIGINT)
        return advance(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "advance", interrupted)
        cut = train(call, *words, "--steps", 9, "--name", "cut")
    assert cut.status == 130
    assert "stopped and saved at step 5. To go on: unrolled train vqa --resume runs/cut" in cut.out
    resumed = call("train", "vqa", "--resume", "runs/cut")
    assert resumed.status == 0, resumed.err
    assert losses("cut") == losses("whole")
    assert len(losses("whole")) == 9
    assert call("train", "vqa", "--resume", "runs/whole", "--steps", 11).status == 0
    assert len(losses("whole")) == 11


@pytest.mark.parametrize("answers", ["classes", "choice", "words"])
def test_a_run_is_asked(call, answers):
    assert train(call, "--answers", answers, "--steps", 2, "--name", "run").status == 0
    choices = ("--choice", "red", "--choice", "blue") if answers == "choice" else ()
    result = call("ask", "runs/run", "pictures/3.png", "What COLOR is it", *choices, "--best", 2)
    assert result.status == 0, result.err
    lines = result.out.splitlines()
    assert len(lines) == 3
    chances = [float(re.match(r" *(\d+\.\d)%  ", line)[1]) for line in lines[:2]]
    assert chances == sorted(chances, reverse=True)
    assert lines[2] == "figure: runs/run/3-asked.png"
    assert Path("runs/run/3-asked.png").exists()
    by_name = call("ask", "run", "pictures/4.png", "what color is it", *choices)
    assert "figure: runs/run/4-asked.png" in by_name.out
    elsewhere = call("ask", "runs/run", "pictures/3.png", "is it red?", *choices, "-o", "seen.png")
    assert "figure: seen.png" in elsewhere.out
    if choices:
        assert "give two or more, as in --choice" in refused(
            call("ask", "runs/run", "pictures/3.png", "is it red")
        )
    else:
        given = call("ask", "runs/run", "pictures/3.png", "is it red", "--choice", "a", "--choice", "b")
        assert "leave out --choice" in refused(given)


def test_answers_that_are_next_to_impossible_are_not_printed(call, monkeypatch):
    assert train(call, "--steps", 1, "--name", "run").status == 0
    monkeypatch.setattr("unrolled.cli_vqa.LEAST", 0.5)
    lines = call("ask", "run", "pictures/3.png", "is it red").out.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("figure: ")


def test_what_cannot_be_asked_is_named(call):
    assert train(call, "--steps", 1, "--name", "run").status == 0
    ask = ("ask", "runs/run", "pictures/3.png")
    assert "no question of training has 'zebra'; ask with words it knows: " in refused(
        call(*ask, "is it zebra?")
    )
    for nothing in ("", "  ", "?!"):
        assert "has no words: ask something" in refused(call(*ask, nothing))
    assert "pictures/99.png does not exist" in refused(
        call("ask", "runs/run", "pictures/99.png", "is it red")
    )
    Path("huge.pgm").write_bytes(b"P5 60000 60000 255\n")
    assert "pixels, and pictures are read up to" in refused(call("ask", "runs/run", "huge.pgm", "is it red"))
    Path("text.png").write_text("no picture")
    assert "no picture that can be read" in refused(call("ask", "runs/run", "text.png", "is it red"))
    assert "no run at runs/nothing" in refused(call("ask", "runs/nothing", "pictures/3.png", "is it red"))
    assert "is no file" in refused(call(*ask, "is it red", "-o", "pictures"))


def test_pictures_of_every_mode_and_size_are_looked_at(call):
    images = pytest.importorskip("PIL.Image")
    assert train(call, "--steps", 1, "--name", "run").status == 0
    modes = {
        "RGB": (1, 1), "RGBA": (30, 9), "P": (16, 16), "L": (3, 90), "CMYK": (20, 20), "I;16": (16, 8),
        "1": (8, 8), "LA": (8, 8),
    }  # fmt: skip
    for mode, size in modes.items():
        name = "one.tiff" if mode in ("CMYK", "I;16") else "one.png"
        images.new(mode, size).save(name)
        result = call("ask", "runs/run", name, "is it red?")
        assert result.status == 0, (mode, result.err)
        assert "nan" not in result.out


def test_broken_pictures_are_listed_and_skipped_only_where_that_is_asked_for(call):
    Path("pictures/3.png").unlink()
    Path("pictures/5.png").write_bytes(Path("pictures/5.png").read_bytes()[:60])
    said = refused(train(call))
    assert "2 of 20 pictures in" in said
    assert "3 (missing)" in said
    assert "5.png (cannot be read" in said
    assert "--skip-broken" in said
    assert not Path("runs").exists()
    result = train(call, "--skip-broken", "--steps", 2, "--name", "run")
    assert result.status == 0, result.err
    assert "q.json: 2 left out: 3 (missing)" in result.out
    assert call("train", "vqa", "--resume", "runs/run", "--steps", 3).status == 0
    assert "as it was when the run began" in refused(
        call("train", "vqa", "--resume", "runs/run", "--skip-broken")
    )


def test_questions_may_move_and_must_be_the_same(call):
    assert train(call, "--steps", 2, "--name", "run").status == 0
    shutil.move("q.json", "moved.json")
    gone = call("train", "vqa", "--resume", "runs/run", "--steps", 3)
    assert "q.json cannot be read" in refused(gone)
    assert "say with --resume where they are now: --questions" in gone.err
    moved = ("--questions", "moved.json", *FILES[2:])
    assert call("train", "vqa", "--resume", "runs/run", "--steps", 3, *moved).status == 0
    Path("moved.json").write_text(Path("moved.json").read_text().replace("what is it", "what was it", 1))
    other = call("train", "vqa", "--resume", "runs/run", "--steps", 4, *moved)
    assert "the questions are not those this run was trained on (q.json)" in refused(other)


def test_questions_to_test_on_may_be_files_of_their_own(call):
    write_vqa(Path("t"), asked(5, seed=50))
    test = ("--test-questions", "t/q.json", "--test-annotations", "t/a.json", "--test-images", "t/pictures")
    result = train(call, "--steps", 1, "--name", "run", *test)
    assert "70 questions about 20 pictures to train on, 18 about 5 to test" in result.out
    assert call("train", "vqa", "--resume", "runs/run", "--steps", 2).status == 0


def test_questions_of_visual7w_bring_their_answers_and_parts(call):
    found = asked(12)
    about = [
        {
            "filename": f"{k}.png",
            "split": "train" if k < 8 else "test",
            "qa_pairs": [
                {
                    "question": q.text,
                    "answer": q.answer,
                    "type": q.kind,
                    "multiple_choices": ["red", "no", "bar"],
                }
                for q in found.questions
                if q.image == k
            ],
        }
        for k in range(12)
    ]
    Path("v7w.json").write_text(json.dumps({"images": about}))
    files = ("--questions", "v7w.json", "--images", "pictures")
    result = train(call, "--steps", 2, "--answers", "choice", "--name", "run", files=files)
    assert result.status == 0, result.err
    assert "28 questions about 8 pictures to train on, 14 about 4 to test" in result.out
    assert call("train", "vqa", "--resume", "runs/run", "--steps", 3).status == 0
    Path("pictures/9.png").unlink()
    skipping = train(call, "--steps", 1, "--skip-broken", files=files)
    assert skipping.out.count("v7w.json: 1 left out: 9.png (missing)") == 1
    assert "give --annotations too" in refused(train(call, files=(*FILES[:2], *FILES[4:])))


def test_a_dry_run_tells_what_training_takes_and_leaves_nothing(call):
    result = train(call, "--dry-run", "--steps", 100)
    assert result.status == 0, result.err
    for said in (
        "encoder",
        "3 x 16 x 16",
        "read.l0.f.h",
        "parameters  1,",
        "for 100 steps and 11 measurements",
    ):
        assert said in result.out
    assert not Path("runs").exists()


def test_gradient_flow_of_a_run_is_measured(call):
    assert train(call, "--steps", 2, "--name", "run").status == 0
    result = call("flow", "runs/run", "--batch", 2)
    assert result.status == 0, result.err
    assert "lstm after 2 steps, on " in result.out
    assert "questions about 2 pictures of q.json" in result.out
    assert Path("runs/run/flow.html").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--answers", "essay"], "--answers is one of classes, choice, words"),
        (["--cell", "lsmt"], "did you mean 'lstm'"),
        (["--channels", "1,2,3,4,5,6"], "halve a picture 6 times"),
        (["--glimpses", "0"], "--glimpses must be a whole number of at least 1"),
        (["--encoder", "efficientnet-lite0"], "--size is for --encoder small"),
        (["--holdout", "1"], "--holdout is a share"),
        (["--name", "a/b"], "run name 'a/b' will not do"),
        (["--test-questions", "q.json"], "--test-questions and so on: give all"),
        (["--hiden", "3"], "--hiden"),
    ],
)
def test_words_that_do_not_fit_cost_a_line(call, words, said):
    assert said in refused(train(call, *words))
    assert not Path("runs").exists()


def test_data_that_do_not_fit_cost_a_line(call):
    assert "give the name of a data set, such as easy-vqa, or --questions" in refused(train(call, files=()))
    assert "give the name of a data set" in refused(train(call, "easy-vqa"))
    assert "no data set is called 'esay-vqa' (did you mean 'easy-vqa'?)" in refused(
        train(call, "esay-vqa", files=())
    )
    Path("a.json").write_text("[1, 2]")
    assert "a.json is no JSON object" in refused(train(call))
    Path("a.json").write_text(json.dumps({"annotations": []}))
    assert "no answer" in refused(train(call))
    Path("q.json").write_bytes(b"\xff\xfe{}")
    assert "q.json is not JSON" in refused(train(call))


def test_what_cannot_go_on_is_named(call):
    assert train(call, "--steps", 2, "--name", "run").status == 0
    resume = ("train", "vqa", "--resume", "runs/run")
    assert "--hidden cannot change when a run goes on; what can: --steps" in refused(
        call(*resume, "--hidden", 9)
    )
    assert "--dry-run is for a new run" in refused(call(*resume, "--dry-run"))
    assert "is not a run of a character model" in refused(call("sample", "runs/run"))
    config = json.loads(Path("runs/run/config.json").read_text())
    Path("runs/run/config.json").write_text(json.dumps({**config, "task": "digits"}))
    asking = ("ask", "runs/run", "pictures/3.png", "is it red")
    assert "is not a run of a network that answers questions about pictures" in refused(call(*asking))
    Path("runs/run/config.json").write_text(json.dumps(config))
    damaged = {
        "vocabulary": [
            ({"kind": "words", "tokens": ["a"], "merges": [], "lowercase": True}, "is not a checkpoint of"),
            (
                {"kind": "words", "tokens": ["<pad>", "<start>", "<end>", "<unknown>", "▁is", "▁it", "▁red"],
                 "merges": [], "lowercase": True},
                "is of another model: embed.weight is",
            ),
        ],
        "ways": [
            ({"known": []}, "has no answers of kind 'classes'"),
            ({"known": ["yes"]}, "of another model: head"),
        ],
    }  # fmt: skip
    for key, changes in damaged.items():
        for value, said in changes:
            for manifest in Path("runs/run/checkpoints").glob("*/manifest.json"):
                before = manifest.read_bytes()
                body = unseal(before, "manifest")
                body["facts"][key] = value
                manifest.write_bytes(seal(body, "manifest"))
            assert said in refused(call(*asking))
            manifest.write_bytes(before)


def test_training_that_diverges_says_so(call, monkeypatch):
    monkeypatch.setattr(VqaTask, "gradients", lambda *_: (float("nan"), {}))
    assert "training diverged at step 1: the loss is nan" in refused(train(call, "--question-only", 0))


def test_without_matplotlib_a_line_says_how_to_get_it(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "unrolled.report.answers", None)
    result = train(call, "--steps", 1, "--name", "run")
    assert result.status == 0
    assert result.err.count("pip install 'unrolled[figures]'") == 2
    assert "warning: no figure: pip" in call("ask", "runs/run", "pictures/3.png", "is it red").err
