"""The command line does what its help says, and a run that goes on is the run that never stopped."""

import json
import math
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import unrolled
from commands import Call, caller
from unrolled import cli
from unrolled.__main__ import main
from unrolled.cells import CELLS, VARIANTS, find
from unrolled.data import SOURCES, encoded
from unrolled.data.cache import sha256
from unrolled.data.extract import texts
from unrolled.data.sources import Release, Source
from unrolled.formula import formulas
from unrolled.tasks import char
from unrolled.tasks.char_config import FORMERLY
from unrolled.train import checkpoint, loop
from unrolled.train.files import seal
from unrolled.train.loop import Trainer
from unrolled.train.optimisers import OPTIMISERS
from unrolled.train.runs import Run


def make_text(length: int, seed: int = 0) -> str:
    """Words of a small lexicon, so that there is something to learn."""
    source = random.Random(seed)
    words = ["".join(source.choices("abcdefghij", k=source.randint(1, 6))) for _ in range(60)]
    text = ""
    while len(text) < length:
        text += source.choice(words) + source.choice("   \n")
    return text[:length]


TEXT = make_text(5000)
SMALL = ("--hidden", "8", "--batch", "4", "--bptt", "8", "--sample-length", "5", "--warmup", "0")


@pytest.fixture
def figures() -> None:
    """Ask for it to have figures drawn: they take longer than a small training."""


@pytest.fixture(autouse=True)
def _no_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "figures" not in request.fixturenames:
        monkeypatch.setattr("unrolled.report.figures.loss_figure", lambda *_: b"")


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the command line in an empty folder that holds `text.txt`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNROLLED_CACHE", str(tmp_path / "cache"))
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    Path("text.txt").write_text(TEXT)

    return caller(capsys)


@pytest.fixture
def train(call: Call) -> Callable[..., Run]:
    """Train a small model on `text.txt`; returns its run."""

    def train(*options: object, text: str = "text.txt", name: str = "run") -> Run:
        result = call("train", "char", text, *SMALL, "--name", name, *options)
        assert (result.status, result.err) == (0, "")
        return Run(Path(result.out.partition(":")[0]))

    return train


def step_records(run: Run) -> list[dict[str, Any]]:
    return [record for record in run.metrics() if "loss" in record]


def without_times(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


def saved(run: Run, step: int) -> checkpoint.Checkpoint:
    return checkpoint.load(run.checkpoints / f"step-{step:08d}")


def weights(run: Run, step: int) -> dict[str, Tensor]:
    """The parameters at a step, by the name they have in a layer or the head."""
    tensors = saved(run, step).tensors
    return {
        re.sub(r"^model\.(layer\.)?", "", name): tensor
        for name, tensor in tensors.items()
        if name.startswith("model.")
    }


def as_bytes(tensors: dict[str, Tensor]) -> dict[str, bytes]:
    return {name: bytes(tensor.flatten().view(torch.uint8).tolist()) for name, tensor in tensors.items()}


# Help, cells, drawings, data sets


def test_the_help_names_every_command(call):
    result = call("--help")
    assert (result.status, result.err) == (0, "")
    for command in ("cells", "draw", "sample", "eval", "export", "train", "data"):
        assert re.search(rf"^ +{command} ", result.out, re.MULTILINE), command


@pytest.mark.parametrize("words", [(), ("train",)], ids=lambda words: " ".join(words) or "nothing")
def test_a_command_that_lacks_its_subcommand_prints_its_help_as_it_is(call, words):
    result = call(*words)
    asked = call(*words, "--help").out
    assert result.status in (0, 2)
    assert asked.splitlines()[-1] in (result.out + result.err).splitlines()


def test_the_help_of_training_has_every_setting_with_its_default(call):
    result = call("train", "char", "--help")
    assert result.status == 0
    for name, setting in char.CharConfig.__dataclass_fields__.items():
        assert f"--{name.replace('_', '-')} " in result.out, name
        if setting.default not in (None, ()):
            assert f"[{setting.default}]" in " ".join(result.out.split()), name


def test_the_version_is_the_librarys(call):
    assert call("--version") == (0, unrolled.__version__ + "\n", "")


def test_every_cell_and_variant_is_listed(call):
    result = call("cells")
    assert (result.status, result.err) == (0, "")
    listed = [line.split()[0] for line in result.out.splitlines() if line and line[0].isalpha()]
    assert listed[1:] == [*CELLS, *VARIANTS]


@pytest.mark.parametrize("name", [*CELLS, *VARIANTS, "lstm(peepholes=vector)", "lstm(projection=true)"])
def test_a_cell_is_printed_with_its_equations_parameters_shapes_and_options(call, name):
    result = call("cells", name)
    assert (result.status, result.err) == (0, "")
    cell = find(name)
    lines = [line.strip() for line in result.out.splitlines()]
    for formula in formulas(cell.graph):
        assert formula in lines
    for parameter in cell.parameters.values():
        shape = re.escape(" × ".join(parameter.shape))
        row = rf"^ +{re.escape(parameter.symbol)} +{re.escape(parameter.name)} +{shape}( |$)"
        assert re.search(row, result.out, re.MULTILINE), parameter.name
    for option, value in cell.options.items():
        row = rf"^ +{option} .* \[{re.escape(str(value).lower())}\]$"
        assert re.search(row, result.out, re.MULTILINE), option


def test_the_options_of_a_cell_change_its_equations(call):
    plain, peephole = (call("cells", name).out for name in ("lstm", "lstm(peepholes=vector)"))
    assert "p_o ⊙ cₜ" not in plain
    assert "p_o ⊙ cₜ" in peephole
    assert "[vector]" in peephole


@pytest.mark.parametrize("name", [*CELLS, *VARIANTS])
def test_every_cell_can_be_drawn(call, name):
    assert call("draw", name, "--steps", "3", "-o", "x.svg") == (0, "x.svg\n", "")
    assert ElementTree.parse("x.svg").getroot().tag.endswith("svg")


def test_a_drawing_without_a_name_is_called_after_its_cell(call):
    assert call("draw", "lstm(peepholes=vector)") == (0, "lstm_peepholes_vector.svg\n", "")
    assert Path("lstm_peepholes_vector.svg").exists()


@pytest.fixture
def parrot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The archive of a made-up data set called `parrot`."""
    text = make_text(3000) + "\n"
    archive = tmp_path / "parrot-1.0-py3-none-any.whl"
    with zipfile.ZipFile(archive, "w") as wheel:
        wheel.writestr("parrot/text.txt", text)
    kept = texts.as_printed({"": text})
    source = Source(
        name="parrot",
        title="A parrot",
        kind="text",
        contents=f"{len(kept):,} characters",
        licence="public domain",
        release=Release("PyPI", "parrot", "1.0", archive.name, sha256(archive.read_bytes()), len(text)),
        members="parrot/*.txt",
        extract=texts.in_utf8(texts.as_printed),
        kept="texts/parrot.txt",
        sha256=sha256(kept.encode()),
    )
    monkeypatch.setitem(SOURCES, "parrot", source)
    return archive


def state_of(call: Call, name: str) -> str:
    result = call("data")
    assert (result.status, result.err) == (0, "")
    row = next(line for line in result.out.splitlines() if line.split()[:1] == [name])
    return next(state for state in ("not fetched", "damaged", "here") if f" {state} " in row)


def test_the_list_of_data_sets_tells_which_are_here(call, parrot, tmp_path):
    for name in SOURCES:
        assert state_of(call, name) == "not fetched"
    path = tmp_path / "cache" / "texts" / "parrot.txt"
    assert call("data", "fetch", "parrot", "--from", parrot) == (0, f"{path}\n", "")
    assert state_of(call, "parrot") == "here"
    path.write_text("Norwegian Blue")
    assert state_of(call, "parrot") == "damaged"
    assert state_of(call, "sonnets") == "not fetched"


def test_a_data_set_is_trained_on_by_its_name_and_resumed(call, train, parrot):
    call("data", "fetch", "parrot", "--from", parrot)
    run = train("--steps", "1", text="parrot")
    assert run.config["text"]["from"] == "parrot"
    assert call("train", "char", "--resume", run.path, "--steps", "2").status == 0
    assert "on parrot (" in call("eval", run.path, "parrot").out


# Training


def test_a_run_on_a_text_in_its_file_is_the_run_in_memory(call, train, monkeypatch):
    options = ("--schedule", "constant", "--reset", "0.3")
    whole = train(*options, "--steps", "6")
    measured = call("eval", whole.path, "text.txt").out
    monkeypatch.setattr(encoded, "IN_MEMORY", 0)
    parts = train(*options, "--steps", "3")
    assert call("train", "char", "--resume", parts.path, "--steps", "6").status == 0
    assert without_times(step_records(parts)) == without_times(step_records(whole))
    assert as_bytes(saved(parts, 6).tensors) == as_bytes(saved(whole, 6).tensors)
    assert parts.config == whole.config
    assert call("eval", parts.path, "text.txt").out == measured


def test_limits_on_a_long_text_are_printed_and_kept(call, train):
    run = train("--steps", "1", "--evaluate-characters", "90", "--ngram-characters", "1000")
    said = "90 of 250 held-out characters are measured (--evaluate-characters), 1,000 of 4,750 training"
    result = call("train", "char", "--resume", run.path, "--steps", "2")
    assert said in result.out
    assert result.status == 0
    assert call("train", "char", "text.txt", *SMALL, "--steps", "0").out.count("characters") == 0


def test_a_run_of_before_there_were_limits_goes_on_without_them(call, train, monkeypatch):
    run = train("--steps", "1")
    for path in (run.path / "config.json", run.checkpoints / "step-00000001" / "manifest.json"):
        body = json.loads(path.read_bytes())
        config = body["config"] if path.name == "config.json" else body["facts"]["config"]
        for name in FORMERLY:
            del config[name]
        body.pop("sha256", None)
        path.write_bytes(seal(body, path.name) if path.name == "manifest.json" else json.dumps(body).encode())
    for steps in (1, 2):
        assert call("train", "char", "--resume", run.path, "--steps", steps).status == 0
        assert call("sample", run.path, "--length", "3").status == 0
        assert run.config["config"].items() >= FORMERLY.items()


MEASURE = """
import re, sys
from unrolled.cli import run
from unrolled.report import figures

figures.loss_figure = lambda *_: b""

def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) / 1000

settings = ["--cell", "rnn", "--hidden", "8", "--steps", "2", "--ngram-characters", "9000"]
for text in sys.argv[1:]:
    assert run(["train", "char", text, *settings, "--evaluate-characters", "9000", "--name", "run"]) == 0
    print("peak", peak())
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is counted by Linux")
def test_memory_does_not_grow_with_the_text(call):
    """From a text of 100 kB to one of 80 MB."""
    block = (make_text(100_000) + "é漢🦜\r\n").encode()
    Path("short.txt").write_bytes(block)
    with open("long.txt", "wb") as file:
        file.writelines([block] * 800)
    process = subprocess.run(
        [sys.executable, "-c", MEASURE, "short.txt", "long.txt"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    Path("long.txt").unlink()
    assert process.returncode == 0, process.stderr
    short, long = (float(peak) for peak in re.findall(r"^peak (.+)$", process.stdout, re.MULTILINE))
    assert long - short < 30


def test_training_leaves_a_run_folder_that_says_everything(train, figures):
    run = train("--steps", "6", "--save-every", "1", "--keep", "2")
    assert {entry.name for entry in run.path.iterdir()} == {
        "config.json", "metrics.jsonl", "flow.jsonl", "loss.png", "checkpoints",
    }  # fmt: skip
    assert checkpoint.steps(run.checkpoints) == [5, 6]
    assert (run.path / "loss.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    config = run.config
    assert config["task"] == "char"
    assert config["unrolled"] == unrolled.__version__
    assert config["config"]["hidden"] == 8
    assert config["text"]["characters"] == len(TEXT)
    assert config["baselines"].keys() == {"uniform", "unigram", "3-gram", "5-gram"}

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    text = (run.path / "metrics.jsonl").read_text()
    assert text.endswith("\n")
    records = [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
    steps = [record for record in records if "loss" in record]
    assert [record["step"] for record in steps] == [1, 2, 3, 4, 5, 6]
    for record in steps:
        assert record["characters"] == 4 * 8
        assert record["bits_per_character"] == pytest.approx(record["loss"] / math.log(2), rel=1e-6)
        assert record["gradient_norm"] > 0
        assert record["seconds"] > 0
    assert [r["step"] for r in records if "held_out_bits_per_character" in r] == [0, 1, 2, 3, 4, 5, 6]
    assert all(len(r["shown"]) == 5 for r in records if "shown" in r)


def test_training_learns(train):
    run = train("--steps", "150", "--batch", "16", "--hidden", "16", "--rate", "0.03", "--sample-every", "0",
                "--evaluate-every", "0", "--save-every", "0")  # fmt: skip
    first, last = [r["held_out_bits_per_character"] for r in run.metrics() if len(r) == 2]
    assert last < 0.9 * first
    assert last < run.config["baselines"]["unigram"]


def test_training_reports_the_baselines_and_each_measurement(call):
    result = call("train", "char", "text.txt", *SMALL, "--steps", "2")
    assert result.out.startswith("runs/char-text-lstm: lstm on text.txt, ")
    assert "uniform 3.585, unigram " in result.out
    assert len(re.findall(r"^step +\d+   held-out \d+\.\d{3} bits/char", result.out, re.MULTILINE)) == 3
    assert "figure: runs/char-text-lstm/loss.png\n" in result.out
    command = re.search(r"unrolled (sample .+)$", result.out, re.MULTILINE)
    assert shlex.split(command[1])[:2] == ["sample", "runs/char-text-lstm"]


def test_a_second_training_gets_a_folder_of_its_own(train):
    first = train("--steps", "1")
    before = {path: path.read_bytes() for path in first.path.rglob("*") if path.is_file()}
    second = train("--steps", "1")
    assert (str(first.path), str(second.path)) == ("runs/run", "runs/run-2")
    assert before == {path: path.read_bytes() for path in first.path.rglob("*") if path.is_file()}


@pytest.mark.parametrize("text", ["été 2.txt", "[b] :bug:.txt", "...", "-"])
@pytest.mark.parametrize("cell", ["gru", "lstm(peepholes=vector)"])
def test_any_file_name_makes_a_name_for_the_run(call, text, cell):
    Path(text).write_text(TEXT)
    result = call("train", "char", "--steps", "0", *SMALL, "--cell", cell, "--", text)
    assert (result.status, result.err) == (0, "")
    path, _, rest = result.out.partition(": ")
    assert rest.startswith(f"{cell} on {text}, ")
    assert (Path(path) / "config.json").exists()
    assert re.fullmatch(r"runs/char-[\w-]*(gru|lstm-peepholes-vector)", path, re.ASCII)


def test_the_same_seed_gives_the_same_run_and_another_seed_another(train):
    options = ("--steps", "3", "--layers", "2", "--dropout", "0.3")
    one, same, other = (train(*options, "--seed", seed) for seed in (1, 1, 2))
    assert without_times(one.metrics()) == without_times(same.metrics())
    assert as_bytes(saved(one, 3).tensors) == as_bytes(saved(same, 3).tensors)
    assert [r["loss"] for r in step_records(one)] != [r["loss"] for r in step_records(other)]


@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_optimiser_trains(train, name):
    run = train("--steps", "2", "--optimiser", name)
    assert saved(run, 2).facts["optimiser"]["class"].lower() == name
    before, after = weights(run, 0), weights(run, 2)
    assert all(not torch.equal(before[key], after[key]) for key in before)


def test_the_options_of_an_optimiser_reach_it(train):
    run = train("--steps", "1", "--optimiser", "adam(betas=0.5/0.75, eps=1e-3, amsgrad=true)")
    group = saved(run, 1).facts["optimiser"]["groups"][0]["dict"]
    assert group["betas"] == {"tuple": [0.5, 0.75]}
    assert (group["eps"], group["amsgrad"]) == (1e-3, True)


@pytest.mark.parametrize(
    ("kind", "rates"),
    [
        ("constant", [0.05, 0.1, 0.1, 0.1, 0.1, 0.1]),
        ("linear", [0.05, 0.1, 0.1, 0.075, 0.05, 0.025]),
        ("cosine", [0.05, 0.1, 0.1, 0.05 + 0.05 * 0.5**0.5, 0.05, 0.05 - 0.05 * 0.5**0.5]),
    ],
)
def test_the_rate_rises_and_then_follows_its_schedule(train, kind, rates):
    run = train("--steps", "6", "--warmup", "2", "--rate", "0.1", "--schedule", kind)
    assert [record["rate"] for record in step_records(run)] == pytest.approx(rates, rel=1e-9)


@pytest.mark.parametrize("kind", ["norm", "value"])
def test_a_clipped_step_of_sgd_is_no_longer_than_the_limit_allows(train, kind):
    rate, limit = 10.0, 1e-4
    none = ("--clip-norm", "0") if kind == "value" else ()
    run = train("--steps", "1", "--optimiser", "sgd", "--rate", rate, *none, f"--clip-{kind}", limit)
    before, after = weights(run, 0), weights(run, 1)
    change = torch.cat([(after[name] - before[name]).double().flatten() for name in before])
    size = change.norm() if kind == "norm" else change.abs().max()
    assert step_records(run)[0]["gradient_norm"] > limit
    assert float(size) == pytest.approx(rate * limit, rel=1e-3)


def test_without_clipping_the_step_of_sgd_is_the_gradient(train):
    run = train("--steps", "1", "--optimiser", "sgd", "--rate", "1", "--clip-norm", "0")
    before, after = weights(run, 0), weights(run, 1)
    change = torch.cat([(after[name] - before[name]).double().flatten() for name in before])
    assert float(change.norm()) == pytest.approx(step_records(run)[0]["gradient_norm"], rel=1e-5)


def test_the_loss_is_a_mean_or_a_sum_over_the_steps_of_a_chunk(train):
    mean, total = (step_records(train("--steps", "1", "--loss", loss))[0] for loss in ("mean", "sum"))
    assert total["loss"] == pytest.approx(8 * mean["loss"], rel=1e-6)
    assert total["bits_per_character"] == mean["bits_per_character"]
    assert total["gradient_norm"] == pytest.approx(8 * mean["gradient_norm"], rel=1e-5)


def test_initial_values_are_set_by_pattern_and_later_patterns_win(train):
    patterns = ("*.h=orthogonal", "f.bias=1", "g=normal:0.01", "i.h=identity:0.5", "head.bias=-2",
                "o.x=zeros",
                "o.x=uniform:0.25")  # fmt: skip
    run = train("--steps", "0", "--layers", "2", *(word for p in patterns for word in ("--init", p)))
    found = weights(run, 0)
    for layer in ("l0", "l1"):
        assert torch.equal(found[f"{layer}.f.bias"], torch.ones(8))
        matrix = found[f"{layer}.o.h"].double()
        assert torch.allclose(matrix @ matrix.T, torch.eye(8).double(), atol=1e-6)
        assert torch.equal(found[f"{layer}.i.h"], 0.5 * torch.eye(8))
        for part in ("x", "h", "bias"):
            assert 0 < found[f"{layer}.g.{part}"].abs().max() < 0.06
        assert 0.15 < found[f"{layer}.o.x"].abs().max() <= 0.25
    assert torch.equal(found["head.bias"], torch.full((len(set(TEXT)),), -2.0))


def test_layers_and_dropout_reach_the_model(train):
    run = train("--steps", "2", "--layers", "2", "--dropout", "0.2")
    assert {name.partition(".")[0] for name in weights(run, 2)} == {"l0", "l1", "head"}
    assert saved(run, 2).tensors["task.h"].shape == (2, 4, 8)
    without = train("--steps", "2", "--layers", "2")
    assert [r["loss"] for r in step_records(run)] != [r["loss"] for r in step_records(without)]


def test_a_model_can_be_of_float64(call, train):
    run = train("--steps", "2", "--dtype", "float64")
    assert {tensor.dtype for tensor in weights(run, 2).values()} == {torch.float64}
    assert saved(run, 2).tensors["task.c"].dtype == torch.float64
    assert call("sample", run.path, "--length", "3").status == 0
    assert call("train", "char", "--resume", run.path, "--steps", "3").status == 0


def test_a_zero_step_training_is_an_untrained_model(call, train, figures):
    run = train("--steps", "0")
    assert checkpoint.steps(run.checkpoints) == [0]
    assert call("sample", run.path, "--length", "3").status == 0


def test_tensorboard_events_are_written_when_asked_for(train):
    run = train("--steps", "1", "--tensorboard")
    (events,) = (run.path / "tensorboard").iterdir()
    assert "tfevents" in events.name
    assert events.stat().st_size > 100


def test_without_tensorboard_the_option_says_what_to_install(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "unrolled.report.tensorboard", None)
    result = call("train", "char", "text.txt", *SMALL, "--steps", "1", "--tensorboard")
    assert result.status == 2
    assert result.err == "unrolled: --tensorboard needs TensorBoard: pip install 'unrolled[logging]'\n"


def test_without_matplotlib_training_goes_on_and_says_what_to_install(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "unrolled.report.figures", None)
    result = call("train", "char", "text.txt", *SMALL, "--steps", "1")
    assert (result.status, result.err) == (0, "warning: no loss figure: pip install 'unrolled[figures]'\n")


OWN_CELL = """\
from torch import tanh
from unrolled import cell

@cell(states="h")
def mine(x, h, W):
    \"\"\"A cell of my own.\"\"\"
    return tanh(W.n(x, h))
"""


def test_a_cell_from_a_file_outlives_the_file(call, train):
    Path("mycells.py").write_text(OWN_CELL)
    assert "hₜ = tanh(W_nx xₜ + W_nh hₜ₋₁ + b_n)" in call("cells", "mycells.py:mine").out
    run = train("--steps", "1", "--cell", "mycells.py:mine")
    expected = call("sample", run.path, "--seed", "1", "--length", "9")
    Path("mycells.py").unlink()
    assert expected.status == 0
    assert call("sample", run.path, "--seed", "1", "--length", "9") == expected
    assert call("train", "char", "--resume", run.path, "--steps", "2").status == 0


# Resuming


SHORT = make_text(230)
"""Five chunks of 4 × 8 characters an epoch, so that twelve steps wrap twice."""

HARD = ("--layers", "2", "--dropout", "0.3", "--sample-every", "0", "--evaluate-every", "3",
        "--save-every", "100", "--rate", "0.02", "--warmup", "3")  # fmt: skip


def assert_same_run(one: Run, two: Run, step: int, leaving_out: Callable[[dict[str, Any]], bool]) -> None:
    records = [
        [record for record in without_times(run.metrics()) if not leaving_out(record)] for run in (one, two)
    ]
    assert records[0] == records[1]
    first, second = saved(one, step), saved(two, step)
    assert as_bytes(first.tensors) == as_bytes(second.tensors)
    assert first.facts["optimiser"] == second.facts["optimiser"]


@pytest.mark.parametrize("stop", [1, 5, 7])
@pytest.mark.parametrize(
    "optimiser", ["adam", "sgd(momentum=0.9, nesterov=true)", "rmsprop(momentum=0.5, centered=true)"]
)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(call, train, optimiser, stop):
    """The text ends after 5 and 10 steps: the stop is mid-epoch, at its end, and before."""
    Path("short.txt").write_text(SHORT)
    options = (*HARD, "--schedule", "constant", "--optimiser", optimiser)
    whole = train(*options, "--steps", "12", text="short.txt")
    parts = train(*options, "--steps", stop, text="short.txt")
    assert call("train", "char", "--resume", parts.path, "--steps", "12").status == 0
    # At its end the first part measured and wrote once more than the whole did there.
    assert_same_run(whole, parts, 12, lambda r: r["step"] == stop and "loss" not in r)
    assert [r["step"] for r in step_records(parts)] == list(range(1, 13))


@pytest.mark.parametrize("optimiser", ["adamw(amsgrad=true)", "adagrad"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_an_interrupted_run_goes_on_bit_for_bit(call, train, monkeypatch, optimiser, number):
    """Under a falling rate and with everything logged: nothing tells the runs apart but the times."""
    Path("short.txt").write_text(SHORT)
    options = (*HARD, "--steps", "12", "--optimiser", optimiser)
    whole = train(*options, text="short.txt")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "advance", interrupting(Trainer.advance, number, at=7))
        result = call("train", "char", "short.txt", *SMALL, *options, "--name", "parts")
    assert result.status == 130
    assert "stopped and saved at step 7. To go on: unrolled train char --resume runs/parts\n" in result.out
    parts = Run(Path("runs/parts"))
    assert checkpoint.steps(parts.checkpoints) == [0, 7]
    assert call("train", "char", "--resume", "parts").status == 0
    assert_same_run(whole, parts, 12, lambda record: False)


def interrupting(advance: Callable[[Trainer], Any], number: int, at: int) -> Callable[[Trainer], Any]:
    def advance_and_interrupt(self: Trainer) -> Any:
        record = advance(self)
        if self.step == at:
            os.kill(os.getpid(), number)
        return record

    return advance_and_interrupt


def test_an_interruption_at_the_worst_moment_loses_no_step(call, monkeypatch):
    """After the loop has decided that nothing needs to be saved now."""
    milestone = loop._milestone

    def interrupt(trainer: Trainer, *rest: Any) -> None:
        milestone(trainer, *rest)
        if trainer.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(loop, "_milestone", interrupt)
    result = call("train", "char", "text.txt", *SMALL, "--steps", "9", "--save-every", "100")
    assert result.status == 130
    stopped = int(re.search(r"stopped and saved at step (\d+)\.", result.out)[1])
    assert checkpoint.steps(Path("runs/char-text-lstm/checkpoints")) == [0, stopped]


def test_a_second_interruption_stops_at_once(call, monkeypatch):
    def twice(self: Trainer) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("still running")

    monkeypatch.setattr(Trainer, "advance", twice)
    before = signal.getsignal(signal.SIGINT)
    result = call("train", "char", "text.txt", *SMALL, "--steps", "9")
    assert result.status == 130
    assert "Traceback" not in result.err
    assert signal.getsignal(signal.SIGINT) is before


def test_steps_made_after_the_last_checkpoint_are_made_again_and_logged_once(call, train):
    run = train("--steps", "6", "--save-every", "2", "--schedule", "constant")
    before = without_times(run.metrics())
    shutil.rmtree(run.checkpoints / "step-00000006")  # as if killed before it was written
    assert call("train", "char", "--resume", run.path, "--sample-every", "1", "--save-every", "2").status == 0
    assert without_times(run.metrics()) == before


def test_going_on_from_the_first_checkpoint_logs_it_once(call, train):
    run = train("--steps", "2", "--save-every", "0")
    before = without_times(run.metrics())
    shutil.rmtree(run.checkpoints / "step-00000002")
    assert call("train", "char", "--resume", run.path).status == 0
    assert without_times(run.metrics()) == before


def test_a_run_that_goes_on_keeps_its_settings_but_those_that_may_change(call, train):
    run = train("--steps", "2", "--init", "f.bias=1", "--clip-value", "0.5")
    before = run.config
    result = call("train", "char", "--resume", run.path, "--steps", "4", "--keep", "1", "--temperature", "0")
    assert (result.status, result.err) == (0, "")
    changed = {**before["config"], "steps": 4, "keep": 1, "temperature": 0.0}
    assert run.config == {**before, "config": changed}
    assert checkpoint.steps(run.checkpoints) == [4]


def test_a_text_that_was_moved_is_given_again(call, train):
    run = train("--steps", "1")
    os.rename("text.txt", "moved.txt")
    assert call("train", "char", "--resume", run.path, "--steps", "2").status == 2
    assert call("train", "char", "--resume", run.path, "moved.txt", "--steps", "2").status == 0
    assert call("train", "char", "--resume", run.path, "moved.txt", "--steps", "2").status == 0


@pytest.fixture
def environment(call: Call) -> dict[str, str]:
    """What a process of its own needs to see; ask for it to be in the folder of `text.txt`."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def test_control_c_stops_a_process_after_a_step_and_its_command_goes_on(call, environment):
    words = [
        "train",
        "char",
        "text.txt",
        *SMALL,
        "--steps",
        "1000000",
        "--evaluate-every",
        "0",
        "--sample-every",
        "0",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "unrolled", *words, "--save-every", "0", "--schedule", "constant"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        run = Run(Path("runs/char-text-lstm"))
        deadline = time.monotonic() + 60
        while not (run.path / "metrics.jsonl").exists() or len(run.metrics()) < 5:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, err) == (130, "")
    step, command = re.search(r"stopped and saved at step (\d+)\. To go on: unrolled (.+)", out).groups()
    assert checkpoint.steps(run.checkpoints) == [0, int(step)]
    assert step_records(run)[-1]["step"] == int(step)
    assert call(*shlex.split(command), "--steps", int(step) + 2).status == 0
    assert [record["step"] for record in step_records(run)] == list(range(1, int(step) + 3))


# Sampling and measuring


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run for reading only: two layers and a lot of dropout, which must be off."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text.txt").write_text(TEXT)
    words = ["train", "char", str(folder / "text.txt"), *SMALL, "--steps", "30", "--rate", "0.03",
             "--layers", "2", "--dropout", "0.5", "--sample-every", "0", "--evaluate-every", "0",
             "--save-every", "0", "--runs", str(folder), "--name", "run"]  # fmt: skip
    assert cli.run(words) == 0
    return Run(folder / "run")


def test_a_sample_repeats_under_a_seed_and_differs_without(call, trained):
    words = ("sample", trained.path, "--length", "80")
    assert call(*words, "--seed", "3") == call(*words, "--seed", "3")
    assert len({call(*words, "--seed", seed).out for seed in (3, 4, 5)}) == 3
    assert call(*words).out != call(*words).out


@pytest.mark.parametrize("length", [0, 1, 37])
@pytest.mark.parametrize("prime", ["a", "abc dea\nbd"])
def test_a_sample_has_as_many_characters_as_asked_for_after_its_prime(call, trained, prime, length):
    result = call("sample", trained.path, "--prime", prime, "--length", length)
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith(prime)
    assert result.out.endswith("\n")
    assert len(result.out) == len(prime) + length + 1
    assert set(result.out) <= set(TEXT)


@pytest.mark.parametrize("options", [("--temperature", "0"), ("--top-k", "1"), ("--top-p", "1e-9")])
def test_the_most_careful_sample_is_the_likeliest_character_each_time(call, trained, options):
    model, vocabulary, _ = char.load(checkpoint.newest(trained.checkpoints, print))
    text = "bad cab"
    for _ in range(20):
        with torch.no_grad():
            logits, _ = model(vocabulary.encode(text)[:, None])  # the whole text anew: no state is carried
        text += vocabulary.symbols[int(logits[-1, 0].argmax())]
    assert call("sample", trained.path, "--prime", "bad cab", "--length", "20", *options).out == text + "\n"


@pytest.mark.parametrize("options", [{}, {"temperature": 2.0}, {"top_k": 2}, {"top_p": 0.5}])
def test_a_sample_is_what_the_library_writes(call, trained, options):
    model, vocabulary, _ = char.load(checkpoint.newest(trained.checkpoints, print))
    generator = torch.Generator().manual_seed(5)
    expected = "".join(
        char.write(model, vocabulary, "ab", 30, generator=generator, **{"temperature": 0.8, **options})
    )
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    result = call("sample", trained.path, "--prime", "ab", "--length", "30", "--seed", "5", *words)
    assert result.out == f"ab{expected}\n"


@pytest.mark.parametrize("characters", [2, 61, 1003])
def test_the_measured_bits_are_those_of_a_direct_computation(call, trained, characters):
    """64 streams from the zero state, and a last one for what does not divide; one character at a time."""
    text = make_text(characters + 1, seed=7)[1:]
    text = "ab" if characters == 2 else text
    Path("other.txt").write_text(text)
    result = call("eval", trained.path, "other.txt")
    assert (result.status, result.err) == (0, "")
    model, vocabulary, _ = char.load(checkpoint.newest(trained.checkpoints, print))
    ids = vocabulary.encode(text)
    length = (len(ids) - 1) // 64
    starts = [b * length for b in range(64 + 1)] if length else [0]
    ends = [*starts[1:], len(ids) - 1]
    nats = 0.0
    for start, end in zip(starts, ends, strict=True):
        if start == end:
            continue
        with torch.no_grad():
            logits, _ = model(ids[start:end, None])
        nats -= (
            F.log_softmax(logits[:, 0].double(), -1)[range(end - start), ids[start + 1 : end + 1]]
            .sum()
            .item()
        )
    bits = nats / (len(ids) - 1) / math.log(2)
    printed = re.fullmatch(
        r"(\d+\.\d{4}) bits per character on other\.txt \(([\d,]+) characters\), step 30\n", result.out
    )
    assert float(printed[1]) == pytest.approx(bits, abs=0.6e-4)
    assert printed[2] == f"{characters:,}"


@pytest.mark.parametrize("name", ["[bold].txt", ":bug:.txt", r"\[b].txt"])
def test_a_file_name_is_printed_as_it_is(call, trained, name):
    Path(name).write_text(TEXT)
    assert f" on {name} (5,000 characters)" in call("eval", trained.path, name).out


def test_the_beginning_of_a_text_can_be_measured(call, trained):
    Path("part.txt").write_text(TEXT[:300])
    bits = call("eval", trained.path, "part.txt").out.split()[0]
    found = call("eval", trained.path, "text.txt", "--characters", "300").out
    assert found.startswith(
        f"{bits} bits per character on text.txt (the first 300 of 5,000 characters), step"
    )
    for all_of_it in ("0", "5000"):
        assert call("eval", trained.path, "text.txt", "--characters", all_of_it) == call(
            "eval", trained.path, "text.txt"
        )


def test_a_model_of_a_text_without_line_ends_writes_without_being_given_a_prime(call, train):
    Path("line.txt").write_text(TEXT.replace("\n", " "))
    run = train("--steps", "1", text="line.txt")
    result = call("sample", run.path, "--length", "7")
    assert (result.status, result.err) == (0, "")
    assert len(result.out.rstrip("\n")) in (7, 8)


def test_a_run_is_found_by_its_name_too(call, train):
    run = train("--steps", "1", name="mine")
    assert call("sample", "mine", "--seed", "1") == call("sample", run.path, "--seed", "1")


# As a program


def test_the_package_runs_as_a_program(environment):
    result = subprocess.run(
        [sys.executable, "-m", "unrolled", "--version"], env=environment, capture_output=True, text=True
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, unrolled.__version__ + "\n", "")


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_without_the_packages_of_the_command_line_it_says_what_to_install(monkeypatch, capsys, package):
    class Missing:
        """Finds no such package, as where it is not installed."""

        def find_spec(self, name: str, *_: object) -> None:
            if name.partition(".")[0] == package:
                raise ModuleNotFoundError(f"No module named {name!r}", name=package)

    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    for name in [name for name in sys.modules if name.split(".")[0] == package or name == "unrolled.cli"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(unrolled, "cli")
    assert main() == 2
    message = "unrolled: the command line needs typer and rich: pip install 'unrolled[cli]'\n"
    assert capsys.readouterr() == ("", message)


def test_another_missing_module_is_not_blamed_on_the_command_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "unrolled.cli", None)
    with pytest.raises(ModuleNotFoundError, match=r"unrolled\.cli"):
        main()


def test_a_terminal_that_cannot_show_greek_gets_the_equations_anyway(environment):
    result = subprocess.run(
        [sys.executable, "-m", "unrolled", "cells", "lstm"],
        env={**environment, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"},
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert "tanh(" in result.stdout


def test_a_reader_that_has_gone_is_no_error(environment):
    process = subprocess.Popen(
        [sys.executable, "-m", "unrolled", "cells"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(timeout=60) in (0, 1)
