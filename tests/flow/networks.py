"""Small tasks, networks and trainings for tests of diagnoses."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unrolled import Recurrent
from unrolled.flow.diagnose import Diagnosis, diagnose
from unrolled.nn import chrono_
from unrolled.nn.initialise import GATES

B = 8
COMPILED = ("lstm", "gru", "rnn")
"""Cells whose kernels are worth compiling for some small networks; others run on tensors."""


@dataclass
class Task:
    """Batches of so many sequences, and what is known of them.

    inputs, answers: widths; a task without answers is a layer by itself.
    needed: steps to reach back.
    losses: of every sequence, where it is not the usual one of every step.
    """

    draw: Callable[[int], Any]
    inputs: int
    answers: int = 0
    needed: int = 1
    losses: Callable[[nn.Module, Any], Tensor] | None = None


@dataclass
class Case:
    """A network on a batch, and what is known of it.

    expected: what is to be found, and `word` is in its title; "" where nothing is.
    options: of `diagnose`.
    """

    label: str
    model: nn.Module
    batch: Any
    losses: Callable[[nn.Module, Any], Tensor] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    expected: str = ""
    word: str = ""

    def diagnosis(self) -> Diagnosis:
        return diagnose(self.model, self.batch, self.losses, **self.options)


def case(label: str, model: nn.Module, task: Task, **options: Any) -> Case:
    return Case(label, model, task.draw(B), task.losses, options)


class Reader(nn.Module):
    """A layer and a linear head at every step."""

    def __init__(self, layer: nn.Module, answers: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(layer.output_size, answers)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0])


def noise(T: int, D: int) -> Task:
    """Random numbers."""
    return Task(lambda B: torch.randn(T, B, D), D)


def echo(T: int, lag: int) -> Task:
    """A sign, so many steps later."""

    def draw(B: int) -> Any:
        x = torch.randint(2, (T, B, 1)) * 2.0 - 1
        return x, torch.cat([torch.zeros(lag, B, 1), x[: T - lag]])

    return Task(draw, 1, 1, lag)


def sine(T: int) -> Task:
    """The next value of a sine."""

    def draw(B: int) -> Any:
        t = torch.arange(T + 1)[:, None] * (0.2 + 0.4 * torch.rand(B)) + 6.3 * torch.rand(B)
        return t[:-1].sin()[..., None], t[1:].sin()[..., None]

    return Task(draw, 1, 1, 3)


def adding(T: int) -> Task:
    """The sum of the two numbers that are marked, behind the last step."""

    def draw(B: int) -> Any:
        numbers, marks = torch.rand(T, B), torch.zeros(T, B)
        marks[torch.randint(T // 2, (B,)), torch.arange(B)] = 1
        marks[torch.randint(T // 2, T, (B,)), torch.arange(B)] = 1
        return torch.stack([numbers, marks], -1), (numbers * marks).sum(0)

    def losses(model: nn.Module, batch: Any) -> Tensor:
        return (model(batch[0])[-1, :, 0] - batch[1]).square()

    return Task(draw, 2, 1, T // 2, losses)


def recall(T: int, symbols: int = 4) -> Task:
    """Which symbol the first was; then come blanks, and a cue at the last step."""

    def draw(B: int) -> Any:
        x = torch.zeros(T, B, dtype=torch.long)
        x[0], x[-1] = torch.randint(1, symbols + 1, (B,)), symbols + 1
        return x, x[0] - 1

    def losses(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0])[-1], batch[1], reduction="none")

    return Task(draw, symbols + 2, symbols, T - 1, losses)


def words(T: int) -> Task:
    """The next character of words of a small lexicon."""
    source = random.Random(0)
    lexicon = ["".join(source.choices("abcdefghij", k=source.randint(1, 6))) + " " for _ in range(60)]
    tokens = torch.tensor([" abcdefghij".index(c) for c in "".join(source.choices(lexicon, k=3000))])

    def draw(B: int) -> Any:
        at = torch.arange(T)[:, None] + torch.randint(len(tokens) - T - 1, (B,))
        return tokens[at], tokens[at + 1]

    return Task(draw, 11, 11, 4)


def make(task: Task, cell: Any, H: int, layers: int = 1, **options: Any) -> nn.Module:
    backend = "auto" if cell in COMPILED else "reference"
    layer = Recurrent(cell, task.inputs, H, layers, backend=backend, **options)
    return Reader(layer, task.answers) if task.answers else layer


def inner(model: nn.Module) -> Any:
    """The recurrent layer."""
    return getattr(model, "layer", model)


def opened(model: nn.Module, T: int) -> nn.Module:
    """Start a layer so that it remembers over T steps."""
    layer = inner(model)
    name, options = layer.cell.name.partition("(")[0], getattr(layer.cell, "options", {})
    if name in GATES and options.get("forget_gate", True):
        keep, write = GATES[name]
        writes = options.get("input_gate", True) and not options.get("coupled")
        chrono_(layer, T, keep=keep, write=write if writes else None)
    with torch.no_grad():
        for key, p in parameters(layer):
            if name == "rnn" and key.endswith(".h") and not options.get("identity"):
                nn.init.orthogonal_(p)
            if name == "indrnn" and key == "u":
                p.fill_(1.0)
    return model


def parameters(layer: Any) -> list[tuple[str, Tensor]]:
    return [pair for suffix in layer.suffixes for pair in layer.parameters_of(suffix).items()]


def train(
    model: nn.Module, task: Task, steps: int, rate: float = 5e-3, clip: float = 1.0, kind: str = "Adam"
) -> list[dict[str, Any]]:
    """Records of a training; it ends where something is not finite."""
    optimiser = getattr(torch.optim, kind)(model.parameters(), lr=rate)
    named = [(name, p) for name, p in model.named_parameters()]
    history: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        batch = task.draw(16)
        if task.losses:
            loss = task.losses(model, batch).mean()
        else:
            y, target = model(batch[0]), batch[1]
            tokens = not target.is_floating_point()
            loss = F.cross_entropy(y.flatten(0, 1), target.flatten()) if tokens else F.mse_loss(y, target)
        optimiser.zero_grad()
        loss.backward()
        norms = {n: {"norm": p.detach().norm().item(), "gradient": p.grad.norm().item()} for n, p in named}
        whole = nn.utils.clip_grad_norm_(model.parameters(), clip).item()
        history.append(
            {"step": step, "loss": loss.item(), "gradient_norm": whole, "rate": rate, "parameters": norms}
        )
        if not math.isfinite(loss.item()) or not math.isfinite(whole):
            break
        optimiser.step()
    return history
