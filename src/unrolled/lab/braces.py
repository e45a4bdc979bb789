"""Remember until the switch: what stood behind an open brace, until that is closed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unrolled.cells import find
from unrolled.lab.experiment import Number, Result, Verdict, at_least, at_most, experiment
from unrolled.lab.networks import listed
from unrolled.nn.recurrent import Recurrent
from unrolled.report.blocks import Item
from unrolled.report.page import Heat, Lines, Mark, Series
from unrolled.train.optimisers import Clip

LETTERS: Final = 4
OPEN, CLOSE = LETTERS, LETTERS + 1


@dataclass(frozen=True)
class Braces:
    """Sizes of the task and of its training.

    hidden: units.
    updates: of every network; `more` times as many of the tanh network that gets a second try.
    batch: sequences of an update, all with the same gap.
    longest: gap in training; in the test gaps go up to four times that.
    """

    hidden: int = 32
    updates: int = 1000
    more: int = 4
    batch: int = 64
    longest: int = 40

    @property
    def gaps(self) -> tuple[int, ...]:
        """Those of the test."""
        return tuple(max(1, round(self.longest * part)) for part in (0.025, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0))


KINDS: Final = (
    ("LSTM", "lstm(forget_bias=1)", 0.01),
    ("LSTM with peepholes", "lstm(forget_bias=1, peepholes=vector)", 0.01),
    ("GRU", "gru", 0.01),
    ("RNN, tanh", "rnn", 0.01),
    ("RNN, ReLU from the identity", "irnn", 0.003),
)
"""What is trained, and at which rate."""


def draw(gap: int, batch: int) -> tuple[Tensor, Tensor]:
    """Letters, a brace, the letter to remember, so many letters more, and the closing brace.

    Returns:
        tokens (T, B), and the letter (B,).
    """
    first = int(torch.randint(1, 11, ()))
    x = torch.randint(LETTERS, (first + gap + 3, batch))
    x[first], x[-1] = OPEN, CLOSE
    return x, x[first + 1]


class Reader(nn.Module):
    """A layer, and its answer at the last step."""

    def __init__(self, cell: str, hidden: int) -> None:
        super().__init__()
        self.layer = Recurrent(find(cell), LETTERS + 2, hidden)
        self.head = nn.Linear(hidden, LETTERS)

    def forward(self, x: Tensor) -> Tensor:
        answers: Tensor = self.head(self.layer(x)[0][-1])
        return answers


def trained(cell: str, rate: float, updates: int, setup: Braces) -> Reader:
    """A reader that has seen gaps up to the longest."""
    reader, clip = Reader(cell, setup.hidden), Clip(norm=1.0)
    optimiser = torch.optim.Adam(reader.parameters(), rate)
    for _ in range(updates):
        gap = int(torch.randint(1, setup.longest + 1, ()))
        x, letter = draw(gap, setup.batch)
        optimiser.zero_grad()
        F.cross_entropy(reader(x), letter).backward()  # type: ignore[no-untyped-call]
        clip([p.grad for p in reader.parameters() if p.grad is not None])
        optimiser.step()
    return reader


@torch.no_grad()
def accuracy(reader: Reader, gap: int) -> float:
    """The share of 1,000 new sequences that are answered rightly."""
    x, letter = draw(gap, 1000)
    return float((reader(x).argmax(-1) == letter).double().mean())


@experiment(
    title="Remember until the switch",
    lectures=("003",),
    claim="To hold a curly brace in mind until it is closed, memory has to depend on the input and not on "
    "the weights: that is what LSTM and GRU have over a plain network.",
    statement="One of four letters stands behind an open brace and is asked for at the closing one; the "
    "same letters stand everywhere else and are to be ignored. 1,000 updates with gaps up to 40, accuracy "
    "on new sequences with gaps up to 160, where guessing is right in one of four.",
    verdict=Verdict(
        "holds if", "the plain network is one of tanh: one of ReLUs that begins as the identity learns it too"
    ),
    setup=Braces(),
    quick=Braces(hidden=24, updates=500, more=1, batch=32, longest=16),
)
def curly_brace(setup: Braces) -> Result:
    numbers, curves = [], []
    found = {}
    for name, cell, rate in KINDS:
        reader = trained(cell, rate, setup.updates, setup)
        found[name] = reader, [accuracy(reader, gap) for gap in setup.gaps]
    again = trained("rnn", 0.001, setup.more * setup.updates, setup)
    slowly = f"RNN, tanh, {setup.more} × the updates"
    found[slowly] = again, [accuracy(again, gap) for gap in setup.gaps]
    within = sum(gap <= setup.longest for gap in setup.gaps)
    for name in ("LSTM", "LSTM with peepholes", "GRU"):
        told = f"{name}: accuracy at gaps up to {setup.longest}, the worst"
        numbers.append(at_least(told, min(found[name][1][:within]), 0.98, "claim"))
        numbers.append(at_least(f"{name}: at four times that", found[name][1][-1], 0.6, "claim"))
    mean = sum(found["RNN, tanh"][1]) / len(setup.gaps)
    numbers.append(at_most("RNN, tanh: the mean over gaps", mean, 0.5, "claim"))
    numbers.append(at_most(f"{slowly}: the worst", min(found[slowly][1]), 0.95, "claim"))
    plain = min(found["RNN, ReLU from the identity"][1][:within])
    numbers.append(
        Number(
            "RNN, ReLU from the identity: the worst, as the claim has it",
            plain,
            0.9,
            relation="≤",
            role="counterexample",
        )
    )
    for name, (_, every) in found.items():
        curves.append(Series(name, setup.gaps, every))
    figures: list[Item] = [
        Lines(
            "Accuracy by the gap",
            "How often the letter is known when the brace is closed. What is right of the mark is longer "
            "than anything in training.",
            "letters in between",
            "accuracy",
            curves,
            log_x=True,
            marks=[Mark("x", setup.longest, "longest in training"), Mark("y", 1 / LETTERS, "guessing")],
        ),
        _cells(found["LSTM"][0], setup.longest),
    ]
    words = (
        "A gate lets the letter in when it comes behind a brace, and lets nothing else in until the other "
        "brace; the cell holds it without loss, so that gaps four times as long are no harder. A tanh "
        "network has to find weights that do the same by saturation."
    )
    return Result(numbers, figures, words)


@torch.no_grad()
def _cells(reader: Reader, gap: int) -> Heat:
    """The cell of a trained LSTM over one sequence."""
    x, _ = draw(gap, 1)
    _, _, steps = reader.layer(x, return_states=True)
    c = steps["c"][0][:, 0].tanh()
    opened = int((x[:, 0] == OPEN).int().argmax())
    held = c[opened + 2 : -1].mean(0)
    order = held.argsort(descending=True)
    return Heat(
        "What an LSTM holds over one sequence",
        "tanh of every unit's c; the brace opens at step "
        f"{opened}, the letter follows it, and the last step closes it. In between most units stand still.",
        "step",
        "unit, sorted",
        [listed(row) for row in c[:, order].T],
        (0, len(x) - 1),
        (1, c.shape[1]),
        -1.0,
        1.0,
        "tanh c",
        diverging=True,
    )
