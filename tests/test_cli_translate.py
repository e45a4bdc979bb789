"""`unrolled train translate`, `translate` and `lengths`: runs go on as if they never stopped, lines come out
as they went in, and mistakes cost a line."""

import io
import json
import re
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from commands import Call, Result, caller, losses, refused
from unrolled import cli
from unrolled.report.translation import Alignment
from unrolled.report.translation_figures import alignment_figure, lengths_figure, training_figure
from unrolled.tasks import translate_scores
from unrolled.tasks.symbols import symbol_pairs
from unrolled.tasks.translate import TranslateTask
from unrolled.train import loop
from unrolled.train.files import seal, unseal

pytest.importorskip("tokenizers")
pytest.importorskip("sacrebleu")

SIZES = {
    "hidden": 12,
    "embedding": 8,
    "batch": 16,
    "holdout": 30,
    "warmup": 0,
    "translated": 10,
    "monitor": 0,
}
SMALL = tuple(word for name, value in SIZES.items() for word in (f"--{name}", str(value)))
FILES = ("--source", "source.txt", "--target", "target.txt")


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the command line in a folder with sentences and their translations."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    for name in ("alignment_figure", "lengths_figure", "training_figure"):
        monkeypatch.setattr(f"unrolled.report.translation_figures.{name}", lambda *_: b"\x89PNG")
    pairs = symbol_pairs("reverse(symbols=8, shortest=2, longest=6, pairs=300)")
    Path("source.txt").write_text("".join(f"{pair.source}\n" for pair in pairs))
    Path("target.txt").write_text("".join(f"{pair.target}\n" for pair in pairs))

    return caller(capsys)


def train(call: Call, *words: object, files: tuple[str, ...] = FILES) -> Result:
    return call("train", "translate", *SMALL, *files, *words)


def test_a_run_tells_scores_beside_the_baselines_and_leaves_a_page(call):
    result = train(call, "--steps", 20, "--name", "run")
    assert result.status == 0, result.err
    assert re.search(r"runs/run: lstm, 12 units, general attention after the recurrence on source.txt and "
                     r"target.txt, [\d,]+ parameters", " ".join(result.out.split()))  # fmt: skip
    assert re.search(r"\d+ pairs to train on, 30 held out, \d+ of both tokens, 1\.2 passes", result.out)
    assert re.search(r"copy of the source +BLEU [\d.]+, chrF [\d.]+, exact [\d.]+%", result.out)
    assert re.search(r"nearest sentence +BLEU", result.out)
    assert re.search(r"step +20   held-out \d\.\d+ nats/token, BLEU [\d.]+, chrF", result.out)
    assert "at first (step 0)" in result.out
    assert result.out.count("→ ") >= 8
    assert "tok:13a" in result.out
    assert "To translate: unrolled translate runs/run FILE" in result.out
    run = Path("runs/run")
    for name in ("translation.png", "alignment.png", "report.html", "vocabulary.json"):
        assert (run / name).stat().st_size, name
    written = [json.loads(line) for line in (run / "translations.jsonl").read_text().splitlines()]
    assert len(written) == 30
    assert written[0].keys() == {"source", "translation", "right"}
    page = (run / "report.html").read_text()
    for heading in (
        "At the end",
        "While it learned",
        "Where it looks",
        "By length",
        "The worst",
        "Gradient by lag",
    ):
        assert heading in page
    config = json.loads((run / "config.json").read_text())
    assert config["baselines"]["nearest sentence"].keys() == {"bleu", "chrf", "exact"}
    assert config["config"]["score"] == "general"


@pytest.mark.parametrize(
    "words",
    [("--attention", "inside", "--enters", "fed", "--scheduled-sampling", 0.3), ("--batch-tokens", 50)],
)
def test_a_run_that_goes_on_makes_the_steps_of_one_that_never_stopped(call, words, monkeypatch):
    """Bit for bit, with dropout, over the end of a pass."""
    words = (*words, "--save-every", 4, "--schedule", "constant", "--steps", 24)
    assert train(call, *words, "--name", "whole").status == 0
    advance = loop.Trainer.advance

    def interrupted(trainer: loop.Trainer) -> dict[str, float]:
        if trainer.step == 6:
            signal.raise_signal(signal.SIGINT)
        return advance(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "advance", interrupted)
        cut = train(call, *words, "--name", "cut")
    assert cut.status == 130
    assert "stopped and saved at step 7. To go on: unrolled train translate --resume runs/cut" in cut.out
    assert not Path("runs/cut/translations.jsonl").exists()
    resumed = call("train", "translate", "--resume", "runs/cut", "--monitor", 0)
    assert resumed.status == 0, resumed.err
    assert losses("cut") == losses("whole")
    assert len(losses("whole")) == 24
    texts = [(Path("runs") / name / "translations.jsonl").read_text() for name in ("cut", "whole")]
    assert texts[0] == texts[1]
    again = call("train", "translate", "--resume", "runs/whole", "--steps", 26, "--translated", 5)
    assert again.status == 0, again.err
    assert len(losses("whole")) == 26


def test_lines_come_out_as_they_went_in(call, monkeypatch):
    assert train(call, "--steps", 20, "--name", "run").status == 0
    Path("lines.txt").write_text("a b c\n\nc d\nzzz Щ\n")
    found = call("translate", "run", "lines.txt")
    assert found.status == 0, found.err
    lines = found.out.split("\n")
    assert len(lines) == 5
    assert (lines[1], lines[4]) == ("", "")
    monkeypatch.setattr("sys.stdin", io.StringIO("a b c\n\nc d\nzzz Щ"))
    assert call("translate", "run").out == found.out
    one = call("translate", "run", "lines.txt", "--beam", 1)
    scored = call("translate", "run", "lines.txt", "--beam", 1, "--scores")
    parts = [line.split("\t") for line in scored.out.rstrip("\n").split("\n")]
    assert [text for _, text in parts] == one.out.split("\n")[:4]
    assert all(float(score) <= 0 for score, _ in parts)
    drawn = [call("translate", "run", "lines.txt", "--temperature", 2, "--seed", k).out for k in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert call("translate", "run", "lines.txt", "--alignment", "looks.png").out == found.out
    assert Path("looks.png").read_bytes() == b"\x89PNG"
    Path("empty.txt").write_text("")
    assert call("translate", "run", "empty.txt").out == ""


def test_a_line_is_translated_as_soon_as_it_is_typed(call, monkeypatch):
    assert train(call, "--steps", 5, "--name", "run").status == 0
    read = []

    class Typed(io.StringIO):
        def isatty(self):
            return True

        def __next__(self):
            read.append("line")
            return super().__next__()

    monkeypatch.setattr("sys.stdin", Typed("a b\nc d\n"))
    seen = []
    monkeypatch.setattr("sys.stdout.write", lambda text: seen.append((len(read), text)))
    assert cli.run(["translate", "run"]) == 0
    assert [at for at, _ in seen][:2] == [1, 2]


def test_scores_by_length_stand_beside_each_other(call):
    for attention in ("none", "after"):
        made_up = ("reverse(symbols=5, shortest=2, longest=5, pairs=300)", "--attention", attention)
        assert train(call, "--steps", 5, "--name", attention, *made_up, files=()).status == 0
    result = call("lengths", "runs/none", "runs/after", "-o", "figure.png")
    assert result.status == 0, result.err
    assert result.out.count("without a mistake by words of the source") == 2
    record = json.loads(Path("figure.json").read_text())
    assert record["what"] == "without a mistake"
    assert [length for length, _ in record["curves"]["after"]] == [2, 3, 4, 5]
    assert Path("figure.png").exists()
    assert train(call, "--steps", 5, "--name", "files").status == 0
    shutil.copytree("runs/files", "others/files")
    both = call("lengths", "runs/files", "others/files", "-o", "both.png")
    assert "runs/files: BLEU by words" in both.out
    assert "others/files: BLEU by words" in both.out
    assert "files: BLEU by words of the source" in call("lengths", "runs/files").out
    assert Path("runs/files/lengths.png").exists()
    Path("runs/files/translations.jsonl").write_text("{}\n")
    assert "translations.jsonl is damaged" in refused(call("lengths", "runs/files"))
    Path("runs/files/translations.jsonl").unlink()
    assert "let it end, with --resume" in refused(call("lengths", "runs/files"))
    assert "is no file" in refused(call("lengths", "runs/after", "-o", "."))


def test_a_dry_run_tells_what_a_training_would_take(call):
    result = train(call, "--dry-run", "--steps", 100)
    assert result.status == 0, result.err
    assert not Path("runs").exists()
    for part in ("encoder", "decoder", "Bridge", "parameters", "100 steps"):
        assert part in result.out


def test_gradient_flow_is_measured_while_it_learns(call):
    result = train(call, "--monitor", 4, "--steps", 8, "--name", "run")
    assert result.status == 0, result.err
    assert "gradient flow: runs/run/flow.jsonl" in result.out
    for place in ("encoder.l0", "encoder.l0_reverse", "decoder.upper.l0"):
        assert f"{place} at step" in result.out


def test_gradient_flow_is_told_of_sentences_of_any_lengths(call):
    """Of a translation that is longer than its source, or shorter, the last word is looked at."""
    for name, longer in (("long", True), ("short", False)):
        lines = [line.split() for line in Path("source.txt").read_text().splitlines()]
        said = [[*line, *line] if longer else line[:1] for line in lines]
        Path(name).write_text("".join(f"{' '.join(line)}\n" for line in said))
        found = train(call, "--steps", 2, "--name", name, files=("--source", "source.txt", "--target", name))
        assert found.status == 0, found.err
        assert "Gradient by lag" in Path(f"runs/{name}/report.html").read_text()
        assert call("flow", name).status == 0


def test_gradient_flow_of_a_run_has_a_page(call):
    assert train(call, "--steps", 4, "--name", "run", "--attention", "inside").status == 0
    result = call("flow", "run", "--batch", 4)
    assert result.status == 0, result.err
    assert re.search(r"lstm after 4 steps, on 4 held-out sentences of \d tokens of source.txt", result.out)
    page = Path("runs/run/flow.html").read_text()
    for place in ("encoder.l0", "encoder.l0_reverse", "decoder.first"):
        assert place in page
    text = Path("source.txt").read_text()
    Path("source.txt").write_text(text.replace("a", "b", 1))
    assert "the data are not those this run was trained on" in refused(call("flow", "run"))


def test_files_may_move_and_must_be_the_same(call):
    assert train(call, "--steps", 4, "--name", "run").status == 0
    shutil.move("source.txt", "moved.txt")
    resume = ("train", "translate", "--resume", "runs/run", "--monitor", 0)
    gone = call(*resume, "--steps", 6)
    assert "source.txt does not exist" in refused(gone)
    assert "say where with --source and --target" in gone.err
    moved = ("--source", "moved.txt", "--target", "target.txt")
    assert call(*resume, "--steps", 6, *moved).status == 0
    text = Path("moved.txt").read_text()
    Path("moved.txt").write_text(text.replace("a", "b", 1))
    assert "the data are not those this run was trained on" in refused(call(*resume, "--steps", 8, *moved))


def test_a_vocabulary_that_is_not_the_checkpoints_is_named(call):
    assert train(call, "--steps", 4, "--name", "run").status == 0
    assert train(call, "--steps", 4, "--name", "other", "--vocabulary-size", 14).status == 0
    file = Path("runs/run/vocabulary.json")
    whole = file.read_bytes()
    before = sorted(path.read_bytes() for path in Path("runs/run").rglob("*") if path.is_file())
    shutil.copy("runs/other/vocabulary.json", file)
    resume = ("train", "translate", "--resume", "runs/run", "--steps", 6, "--monitor", 0)
    Path("lines.txt").write_text("a b\n")
    for command in (("translate", "run", "lines.txt"), resume):
        told = refused(call(*command))
        assert "the vocabulary in runs/run/vocabulary.json (14 and 14 tokens) is not that of" in told
        assert "delete runs/run/vocabulary.json to take that of the checkpoint" in told
    file.write_bytes(whole[:-20])
    assert "is damaged (vocabulary.json is unreadable or cut short)" in refused(call(*resume))
    file.write_bytes(whole)
    assert sorted(path.read_bytes() for path in Path("runs/run").rglob("*") if path.is_file()) == before
    file.unlink()
    assert call("translate", "run", "lines.txt").status == 0
    assert call(*resume).status == 0
    assert unseal(file.read_bytes(), "v") == unseal(whole, "v")
    for manifest in Path("runs/run/checkpoints").glob("*/manifest.json"):
        body = unseal(manifest.read_bytes(), "manifest")
        body["facts"]["vocabularies"]["source"]["tokens"][5] = "changed"
        manifest.write_bytes(seal(body, "manifest"))
    assert "has no usable vocabulary" in refused(call("translate", "run", "lines.txt"))


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        (b"a\nb\n", b"a\n", "source.txt has 2 lines and target.txt has 1 lines"),
        (b"a\n\nb\n", b"a\nb\nc\n", "line 2 of source.txt is empty"),
        (b"a\nb\n", b"a\n \t\n", "line 2 of target.txt is empty"),
        ("ä\n".encode("latin1"), b"a\n", "source.txt is not UTF-8: byte 0xe4 at offset 0 (line 1)"),
        (b"a\n", "a\n".encode("utf-16"), "iconv -f utf-16 -t utf-8"),
        (b"", b"", "source.txt has no lines"),
        (b"a\nb\n", b"a\nb\n", "30 of 2 records cannot be held out"),
        (None, b"a\n", "source.txt does not exist"),
    ],
)
def test_files_that_do_not_fit_cost_a_line(call, source, target, said):
    for name, content in (("source.txt", source), ("target.txt", target)):
        Path(name).unlink()
        if content is not None:
            Path(name).write_bytes(content)
    assert said in refused(train(call))
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("words", "files", "said"),
    [
        ((), (), "give a data set such as german-english"),
        (("reverse",), FILES, "--source and --target are files in place of a data set"),
        (("english-german",), (), "no data set"),
        (("reverse(lengths=3)",), (), "reverse has no option 'lengths'"),
        ((), FILES[:2], "--source goes with --target"),
        (("--cell", "lstn"), FILES, "no cell 'lstn': did you mean"),
        (("--attention", "after", "--score", "location"), FILES, "take attention='inside'"),
        (("--score", "dot", "--encoder-hidden", "5"), FILES, "score 'dot' multiplies queries of 12"),
        (("--bridge", "pass", "--encoder-hidden", "5"), FILES, "final states of 10 cannot be passed"),
        (("--longest", "1"), FILES, "every sentence to train on has more than 1 tokens"),
        (("--holdout", "400"), FILES, "400 of 300 records cannot be held out"),
        (("--optimiser", "lion"), FILES, "no optimiser 'lion'"),
        (("--enters", "fed"), FILES, "--enters fed is for --attention inside"),
        (("--norm", "batch"), FILES, "batch"),
    ],
)  # fmt: skip
def test_words_that_do_not_fit_cost_a_line(call, words, files, said):
    assert said in refused(train(call, *words, files=files))
    assert not Path("runs").exists()


def test_what_cannot_be_translated_is_told(call, monkeypatch):
    assert train(call, "--steps", 4, "--name", "run", "--attention", "none").status == 0
    Path("lines.txt").write_text("a b\n")
    told = refused(call("translate", "run", "lines.txt", "--alignment", "a.png"))
    assert "has no attention, so there are no alignments" in told
    Path("bad.txt").write_bytes(b"a\n\xff\n")
    for words, said in (
        (["missing", "lines.txt"], "no run at missing"),
        (["run", "missing.txt"], "missing.txt does not exist"),
        (["run", "bad.txt"], "bad.txt is not UTF-8"),
        (["run", "lines.txt", "--beam", "0"], "--beam is a number from 1"),
        (["run", "lines.txt", "--beam", "3", "--top-k", "2"], "words are drawn or sought by a beam"),
        (["run", "lines.txt", "--seed", "-1"], "--seed must be between 0"),
    ):
        assert said in refused(call("translate", *words))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a\n\xff\n"), encoding="utf-8"))
    assert "standard input is not UTF-8" in refused(call("translate", "run"))
    assert "is not a run of a character model" in refused(call("sample", "runs/run"))
    config = json.loads(Path("runs/run/config.json").read_text())
    Path("runs/run/config.json").write_text(json.dumps({**config, "task": "char"}))
    assert "is not a run of a translator" in refused(call("translate", "run", "lines.txt"))
    changed = {**config, "config": {**config["config"], "hidden": 13}}
    Path("runs/run/config.json").write_text(json.dumps(changed))
    assert "its hidden is 12, here it is 13" in refused(call("translate", "run", "lines.txt"))
    Path("runs/run/config.json").write_text(json.dumps(config))
    for manifest in Path("runs/run/checkpoints").glob("*/manifest.json"):
        body = unseal(manifest.read_bytes(), "manifest")
        body["facts"]["cell"] = {}
        manifest.write_bytes(seal(body, "manifest"))
    assert "is not a checkpoint of a translator" in refused(call("translate", "run", "lines.txt"))


def test_what_cannot_go_on_is_named(call):
    assert train(call, "--steps", 4, "--name", "run").status == 0
    resume = ("train", "translate", "--resume", "runs/run")
    assert "--hidden cannot change when a run goes on; what can: --steps" in refused(
        call(*resume, "--hidden", 3)
    )
    assert "--steps 2 is less than the 4" in refused(call(*resume, "--steps", 2))
    assert "no run at runs/nothing" in refused(call("train", "translate", "--resume", "runs/nothing"))


def test_where_no_interval_can_be_told_there_is_none(call, monkeypatch):
    bleu = translate_scores.bleu
    monkeypatch.setattr(translate_scores, "bleu", lambda *a, **k: replace(bleu(*a, **k), interval=None))
    result = train(call, "--steps", 2, "--name", "run")
    assert result.status == 0, result.err
    assert re.search(r"with a beam of 5: BLEU [\d.]+, chrF", result.out)
    assert "confidence" not in result.out


def test_training_that_diverges_says_so(call, monkeypatch):
    monkeypatch.setattr(TranslateTask, "gradients", lambda *_: (float("nan"), {}))
    assert "training diverged at step 1: the loss is nan" in refused(train(call, "--steps", 3))


def test_without_matplotlib_a_line_says_how_to_get_it(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "unrolled.report.translation_figures", None)
    result = train(call, "--steps", 2, "--name", "run")
    assert result.status == 0
    assert "warning: no figure: pip install 'unrolled[figures]'" in result.err
    assert "warning: no picture of alignments" in result.err
    assert "no figure" in call("lengths", "run").err


def test_figures_are_pictures_of_any_run():
    look = Alignment(("a", "b", "(end)"), ("x",), ((0.2, 0.7, 0.1),), "y")
    assert Alignment.from_dict(json.loads(json.dumps(look.to_dict()))) == look
    long = Alignment(("word",) * 100, ("word",) * 90, ((0.01,) * 100,) * 90)
    for looks in ([], [look], [look, long], [Alignment(("a",), (), ())]):
        assert alignment_figure(looks).startswith(b"\x89PNG")
    step = {"step": 1, "loss": 1.0}
    held = {"step": 1, "held_out_nats_per_token": 1.0, "bleu": 3.0, "chrf": 20.0, "exact": 0.0}
    for records in ([], [step], [step, held], [held]):
        assert training_figure(records, {"copy": {"bleu": 1.0}}, "a title").startswith(b"\x89PNG")
    for what in ("BLEU", "without a mistake"):
        assert lengths_figure({"a": [(1, 0.5), (2, 0.1)], "b": []}, what, "a title").startswith(b"\x89PNG")
