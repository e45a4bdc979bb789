"""A gradient that was interrupted anywhere goes on, and is the same."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cases import one_line
from unrolled import LSTM, Checkpointed, InputError, through_time
from unrolled.unroll import journal

N, H = 20, 6
POLICIES = {
    "passed twice": Checkpointed(memory=9_000),
    "passed once": Checkpointed(memory=20_000),
    "on disk": Checkpointed(memory=9_000, disk="1MB"),
}


class Killed(Exception):
    """What ends a process in these tests."""


class Task:
    """A step that draws random numbers, and is killed when it has run so often."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.layer, self.head = LSTM(H, H).double(), nn.Linear(H, 2).double()
        self.segments = list(torch.randn(N * 3, 2, H).double().split(3))
        self.state = tuple(torch.randn(1, 2, H, dtype=torch.double) for _ in range(2))
        self.runs, self.last = 0, 1 << 30

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        self.runs += 1
        if self.runs > self.last:
            raise Killed
        y, state = self.layer(x, state)
        return self.head(nn.functional.dropout(y, 0.5)).square().sum(), state

    def gradients(self, policy: Checkpointed, factor: float = 1.0) -> list[Tensor]:
        """Those of everything, the loss, and what the generator gives afterwards."""
        torch.manual_seed(1)
        state = tuple(t.clone().requires_grad_() for t in self.state)
        loss, end = through_time(self.step, self.segments, state, bptt=policy)
        (factor * (loss + sum(t.sum() for t in end))).backward()
        parameters = [*self.layer.parameters(), *self.head.parameters()]
        found = [loss.detach(), *(t.grad for t in (*parameters, *state)), torch.rand(3)]
        for parameter in parameters:
            parameter.grad = None
        return found


@pytest.fixture(autouse=True)
def always_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "SECONDS", 0.0)


def noted(policy: Checkpointed, tmp_path: Path) -> Checkpointed:
    return replace(policy, journal=str(tmp_path / "gradient"))


@pytest.mark.parametrize("name", POLICIES)
def test_killed_anywhere_it_goes_on(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Task().gradients(POLICIES[name])
    whole = Task()
    assert all(map(torch.equal, whole.gradients(noted(POLICIES[name], tmp_path)), expected))
    assert whole.runs > N
    assert not [*tmp_path.iterdir()]
    write, noted_at = journal.Journal.write, 0

    def writing(self: journal.Journal, notes: dict) -> None:
        nonlocal noted_at
        write(self, notes)
        noted_at = first.runs

    monkeypatch.setattr(journal.Journal, "write", writing)
    for last in range(1, whole.runs, 2):
        first, second, noted_at = Task(), Task(), 0
        first.last = last
        with pytest.raises(Killed):
            first.gradients(noted(POLICIES[name], tmp_path))
        done = noted_at
        found = second.gradients(noted(POLICIES[name], tmp_path))
        assert all(map(torch.equal, found, expected))
        assert not [*tmp_path.iterdir()]
        assert second.runs == whole.runs - done + (done > 0)  # the first is measured again


def test_killed_again_and_again(tmp_path: Path) -> None:
    expected = Task().gradients(POLICIES["passed once"])
    for _ in range(100):
        task = Task()
        task.last = 12
        try:
            found = task.gradients(noted(POLICIES["passed once"], tmp_path))
        except Killed:
            continue
        assert all(map(torch.equal, found, expected))
        return
    pytest.fail("it does not come to an end")


def half_done(tmp_path: Path, last: int) -> Checkpointed:
    policy, task = noted(POLICIES["passed twice"], tmp_path), Task()
    task.last = last
    with pytest.raises(Killed):
        task.gradients(policy)
    return policy


@pytest.mark.parametrize("last", [N - 4, 2 * N - 8])
def test_notes_of_another_gradient_are_not_used(last: int, tmp_path: Path) -> None:
    policy, other = half_done(tmp_path, last), Task()
    with torch.no_grad():
        other.head.weight[0, 0] += 1e-9
    expected = other.gradients(POLICIES["passed twice"])
    with pytest.warns(UserWarning, match="other parameters, another state or another sequence"):
        found = other.gradients(policy)
    assert all(map(torch.equal, found, expected))


def test_a_way_back_with_another_factor_is_refused(tmp_path: Path) -> None:
    policy = half_done(tmp_path, 2 * N - 8)
    with pytest.raises(InputError) as caught:
        Task().gradients(policy, factor=2.0)
    assert "is of another gradient of this loss; remove it to begin anew" in one_line(caught.value)
    assert Task().gradients(policy)[0].isfinite()


def wrong_file(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    try:
        Task().gradients(Checkpointed(memory=9_000, journal=str(path)))
    finally:
        assert path.read_text() == "mine"


def layer(tmp_path: Path) -> None:
    LSTM(2, 2)(torch.ones(3, 1, 2), bptt=noted(POLICIES["passed once"], tmp_path))


WRONG: dict[str, tuple[Callable, str]] = {
    "another file": (wrong_file, "is no journal of a gradient; give the name of another file"),
    "no folder": (
        lambda path: Checkpointed(memory=1, journal=str(path / "a" / "b")),
        "journal goes with memory, and its folder must be there",
    ),
    "no memory": (lambda path: Checkpointed(every=1, journal=str(path / "a")), "journal goes with memory"),
    "a layer": (layer, "journal is for unrolled.through_time, not for a layer's bptt"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(name: str, tmp_path: Path) -> None:
    call, message = WRONG[name]
    with pytest.raises(InputError) as caught:
        call(tmp_path)
    assert message in one_line(caught.value)


def test_what_cannot_be_written_ends_no_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal.torch, "save", full)
    with pytest.warns(UserWarning, match="could not be written: No space left on device"):
        found = Task().gradients(noted(POLICIES["passed once"], tmp_path))
    assert all(map(torch.equal, found, Task().gradients(POLICIES["passed once"])))
