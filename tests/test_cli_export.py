"""`unrolled export`: a trained character model runs elsewhere as it does here."""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from unrolled import cli
from unrolled.tasks import char_runs

TEXT = "the cat sat on the mat and the dog sat on the log\n" * 40
TRAIN = ("train", "char", "text.txt", "--steps", "3", "--batch", "4", "--bptt", "8", "--hidden", "8",
         "--rate", "0.1", "--warmup", "0", "--sample-every", "0", "--evaluate-every", "0",
         "--name", "run")  # fmt: skip


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where commands run, with a text; figures take longer than a small training."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("unrolled.report.figures.loss_figure", lambda *_: b"")
    Path("text.txt").write_text(TEXT)


@pytest.mark.parametrize(
    ("words", "tolerance"),
    [
        (("--cell", "lstm", "--layers", "2", "--dropout", "0.5"), 1e-5),
        (("--cell", "mut1"), 1e-5),
        (("--cell", "layer_norm_lstm", "--dtype", "float64"), 1e-12),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else "",
)
def test_an_exported_model_gives_the_same_logits_and_states(words, tolerance, capsys):
    assert cli.run([*TRAIN, *words]) == 0
    capsys.readouterr()
    assert cli.run(["export", "run", "model.onnx"]) == 0
    printed = capsys.readouterr()
    model, vocabulary, _ = char_runs.open_model(Path("run"), pytest.fail)
    states = model.layer.state_sizes
    taken, given = (", ".join(f"{name}_{end}" for name in states) for end in "0n")
    assert printed.err == ""
    assert printed.out == f"model.onnx: x (T, B), {taken} -> y (T, B, {len(vocabulary)}), {given}\n"

    onnx.checker.check_model("model.onnx", full_check=True)
    session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map == {"vocabulary": vocabulary.symbols}
    tokens = vocabulary.encode("the dog sat on the cat")[:, None].repeat(1, 2)
    state = {n: torch.randn(model.layer.num_layers, 2, H, dtype=model.layer.dtype) for n, H in states.items()}
    with torch.no_grad():
        logits, end = model(tokens, state)
    found = session.run(None, {"x": tokens.numpy()} | {f"{n}_0": v.numpy() for n, v in state.items()})
    for value, expected in zip(found, (logits, *end.values()), strict=True):
        assert np.abs(value - expected.numpy()).max() <= tolerance * max(1.0, float(expected.abs().max()))


def test_without_onnx_the_command_says_what_to_install(capsys, monkeypatch):
    assert cli.run(TRAIN) == 0
    capsys.readouterr()
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert cli.run(["export", "run", "model.onnx"]) == 2
    assert capsys.readouterr().err == (
        "unrolled: to write ONNX models the package onnx is needed: pip install 'unrolled[onnx]'\n"
    )
    assert not Path("model.onnx").exists()
