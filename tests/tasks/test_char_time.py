"""`--bptt`: a chunk's gradient is the one that is asked for, and a run that is resumed goes on with it."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cases import assert_same, one_line
from unrolled.errors import InputError
from unrolled.tasks import char_runs
from unrolled.tasks.char import CharTask
from unrolled.tasks.char_config import CharConfig
from unrolled.tasks.char_time import read_bptt, summed_loss
from unrolled.train import runs
from unrolled.unroll import Checkpointed, Full, Truncated

TEXT = "the quick brown fox jumps over the lazy dog and then it sleeps. " * 40
SETTINGS = {"hidden": 8, "layers": 2, "batch": 3, "reset": 0.4, "dtype": "float64", "cell": "gru"}


def task_of(bptt: str | int) -> CharTask:
    return CharTask("text", TEXT, CharConfig(bptt=bptt, **SETTINGS))


def gradients(task: CharTask, step: int) -> tuple[float, dict[str, Tensor]]:
    task.model.zero_grad()
    loss, _ = task.gradients(step)
    return loss, {name: p.grad.clone() for name, p in task.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "bptt", ["checkpointed(steps=30, memory=100KB)", "checkpointed(steps=30, every=7)", "full(steps=30)"]
)
def test_a_budget_changes_no_gradient(bptt: str) -> None:
    plain, other = task_of(30), task_of(bptt)
    for step in range(3):
        (expected, by_name), (found, also) = gradients(plain, step), gradients(other, step)
        assert found == pytest.approx(expected, rel=1e-12)
        assert_same(also, by_name, 1e-12)


@pytest.mark.parametrize(("k1", "k2"), [(10, 25), (10, 30), (10, 13), (10, 4), (5, 100)])
def test_a_gradient_reaches_as_far_as_is_said(k1: int, k2: int) -> None:
    """From its chunk's end k2 steps back, through what was read before, with the parameters as they are."""
    task = task_of(f"truncated(k1={k1}, k2={k2})")
    whole = task_of(k1)
    layer, head = task.model.layer, task.model.head
    starts: dict[int, dict[str, Tensor]] = {0: layer.initial_state(3)}
    inputs, resets = [], []
    for step in range(8):
        found, by_name = gradients(task, step)
        x, targets = whole.streams[step]
        generator = torch.Generator().manual_seed(step)
        again = (
            torch.rand(3, 1, generator=generator).squeeze(1) < 0.4
            if step
            else torch.zeros(3, dtype=torch.bool)
        )
        mark = torch.zeros(k1, 3, dtype=torch.bool)
        mark[0] = again
        inputs.append(x)
        resets.append(mark)
        tokens, marks = torch.cat(inputs), torch.cat(resets)
        end = len(tokens)
        first = max(end - k2, 0) if k2 > k1 else end - k1
        y, _ = layer(tokens[first:], starts[first], resets=marks[first:])
        loss = summed_loss(head(y[-k1:]), targets) / k1
        assert found == pytest.approx(loss.item(), rel=1e-12)
        if k2 < k1:
            with torch.no_grad():
                _, cut = layer(tokens[first : end - k2], starts[first], resets=marks[first : end - k2])
            y, _ = layer(tokens[end - k2 :], cut)
            loss = summed_loss(head(y), targets[-k2:]) / k1
        task.model.zero_grad()
        loss.backward()
        assert_same(
            by_name, {n: p.grad for n, p in task.model.named_parameters() if p.grad is not None}, 1e-12
        )
        with torch.no_grad():
            for t in range(first, end):  # the states that later gradients begin from
                _, starts[t + 1] = layer(tokens[t : t + 1], starts[t], resets=marks[t : t + 1])
            for p in task.model.parameters():  # as an update would
                p.mul_(0.99)


@pytest.mark.parametrize("bptt", ["truncated(k1=10, k2=25)", "checkpointed(steps=20, memory=100KB)"])
def test_a_run_goes_on_with_the_same_losses(bptt: str, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    config = CharConfig(bptt=bptt, steps=9, save_every=5, sample_length=1, **SETTINGS)
    whole = char_runs.start(str(text), config, tmp_path / "runs", "whole")
    whole.train()
    part = char_runs.start(str(text), CharConfig(**{**vars(config), "steps": 5}), tmp_path / "runs", "part")
    part.train()
    again = char_runs.resume(tmp_path / "runs" / "part", {"steps": 9}, None, print)
    again.train()
    losses = [
        [r["loss"] for r in runs.open_run(tmp_path / "runs" / n).metrics() if "loss" in r]
        for n in ("whole", "part")
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 9
    assert all(map(math.isfinite, losses[0]))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (64, (64, Full())),
        ("truncated(k1=3, k2=9)", (3, Truncated(3, 9))),
        ("full(steps=7)", (7, Full())),
        ("checkpointed(steps=7, memory=2MB)", (7, Checkpointed(memory="2MB"))),
        ("checkpointed(steps=7, every=2)", (7, Checkpointed(every=2))),
        ("checkpointed(steps=7, memory=2MB, disk=1GB)", (7, Checkpointed(memory="2MB", disk="1GB"))),
    ],
)
def test_what_can_be_said(text: str, expected: tuple) -> None:
    assert read_bptt(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0", "--bptt must be at least 1, got 0"),
        ("-3", "--bptt must be at least 1, got -3"),
        ("most", "cannot read --bptt 'most'; write a number of steps, truncated(k1=64, k2=256)"),
        ("truncated(k1=3)", "--bptt truncated needs k2"),
        ("truncated(k1=3, k2=0)", "k2 of --bptt must be a whole number of at least 1, got '0'"),
        ("full(k=3)", "--bptt full has no option 'k'; it has steps"),
        ("checkpointed(memory=3MB)", "--bptt checkpointed needs steps"),
        ("checkpointed(steps=10)", "Checkpointed takes memory, as in '200MB', or every"),
        ("checkpointed(steps=10, memory=-3MB)", "'-3MB' is no amount of memory"),
        ("truncated(k1=3", "cannot read --bptt 'truncated(k1=3'"),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        CharConfig(bptt=text)
    assert message in one_line(caught.value)
