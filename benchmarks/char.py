"""An iteration of the published character network: the listing's NumPy, a few lines of torch on our layer,
and the project's trainer."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.family import Family, Record, Settings
from benchmarks.paired import compare
from benchmarks.published import LIBRARY_NAMES, PUBLISHED, Oracle
from unrolled import Recurrent
from unrolled.cells import rnn
from unrolled.tasks.char import CharTask
from unrolled.train import runs
from unrolled.train.runs import Run

SYMBOLS = [chr(k) for k in range(32, 97)]
STEPS, HIDDEN = PUBLISHED.bptt, PUBLISHED.hidden

Weights = dict[str, Tensor]
"""By the listing's names."""


class NumPy:
    """The listing."""

    def __init__(self, oracle: Oracle, ids: list[int], chunks: int) -> None:
        self.oracle = oracle
        self.ids = ids
        self.chunks = chunks
        self.done = 0

    def __call__(self) -> None:
        start = STEPS * (self.done % self.chunks)
        if start == 0:
            self.oracle.h = np.zeros(HIDDEN)
        ids = self.ids[start : start + STEPS + 1]
        self.loss, gradients = self.oracle.gradients(ids[:-1], ids[1:])
        self.oracle.update(gradients)
        self.done += 1

    def tensors(self) -> dict[str, Tensor]:
        weights = {name: torch.from_numpy(value) for name, value in self.oracle.weights.items()}
        return {"loss": torch.tensor(self.loss), "h": torch.from_numpy(self.oracle.h), **weights}


class Everyday:
    """What one writes with our layer and torch."""

    def __init__(self, weights: Weights, ids: list[int], chunks: int) -> None:
        self.layer = Recurrent(rnn, len(SYMBOLS), HIDDEN)
        self.head = nn.Linear(HIDDEN, len(SYMBOLS))
        self.model = nn.ModuleDict({"layer": self.layer, "head": self.head})
        put(self.model, weights)
        self.optimiser = torch.optim.Adagrad(
            self.model.parameters(), lr=0.1, eps=0, initial_accumulator_value=1e-8
        )
        self.ids = torch.tensor(ids)[:, None]
        self.chunks = chunks
        self.done = 0

    def __call__(self) -> None:
        start = STEPS * (self.done % self.chunks)
        if start == 0:
            self.state = None
        inputs, targets = self.ids[start : start + STEPS], self.ids[start + 1 : start + STEPS + 1]
        self.optimiser.zero_grad()
        outputs, state = self.layer(inputs, self.state)
        loss = F.cross_entropy(self.head(outputs).flatten(0, 1), targets.flatten(), reduction="sum")
        torch.autograd.backward(loss)
        nn.utils.clip_grad_value_(self.model.parameters(), 5)
        self.optimiser.step()
        self.state = {"h": state["h"].detach()}
        self.loss = loss.item()
        self.done += 1

    def tensors(self) -> dict[str, Tensor]:
        assert self.state is not None
        return {"loss": torch.tensor(self.loss), "h": self.state["h"].flatten(), **got(self.model)}


class Trained:
    """What `unrolled train char` does at every step: a step of the trainer, and its line in the run's log."""

    def __init__(self, task: CharTask, weights: Weights, run: Run) -> None:
        self.task = task
        self.run = run
        put(task.model, weights)
        self.trainer = task.trainer()

    def __call__(self) -> None:
        self.record = self.trainer.advance()
        self.run.log(self.record)

    def tensors(self) -> dict[str, Tensor]:
        h = self.task.tensors()["h"].flatten()
        return {"loss": torch.tensor(self.record["loss"]), "h": h, **got(self.task.model)}


def put(model: nn.Module, weights: Weights) -> None:
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in weights.items():
            parameters[LIBRARY_NAMES[name]].copy_(value)


def got(model: nn.Module) -> Weights:
    parameters = dict(model.named_parameters())
    return {name: parameters[theirs].detach() for name, theirs in LIBRARY_NAMES.items()}


def measure(settings: Settings) -> Iterator[Record]:
    # Every symbol occurs, in the part that is not held out.
    drawn = np.random.default_rng(0).zipf(1.5, 20_000) % len(SYMBOLS)
    text = "".join(SYMBOLS) + "".join(SYMBOLS[k] for k in drawn)

    def task() -> CharTask:
        return CharTask("text", text, replace(PUBLISHED, dtype="float32"))

    ids, chunks = task().vocabulary.encode(text).tolist(), len(task().streams)

    def oracle() -> Oracle:
        return Oracle(len(SYMBOLS), HIDDEN)

    weights = {name: torch.from_numpy(value) for name, value in oracle().weights.items()}
    ours = Everyday(weights, ids, chunks)
    yield compare("torch on our layer", None, ours, NumPy(oracle(), ids, chunks), settings, 3.5)
    with tempfile.TemporaryDirectory() as folder:
        trained = Trained(task(), weights, runs.create(Path(folder), "run"))
        peer = NumPy(oracle(), ids, chunks)
        yield compare("our trainer", None, trained, peer, settings, 10.0)


FAMILIES = (
    Family(
        "char",
        "The 112-line character network against its NumPy",
        measure,
        caption="One iteration: 100 tanh units, 65 characters, 25 steps, one stream, Adagrad, every element "
        "of the gradient clipped at 5. Ours is in float32, NumPy in float64 as published. The trainer also "
        "writes its log.",
    ),
)
