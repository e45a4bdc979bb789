"""Networks with nothing wrong, from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import torch
from networks import B, Case, Reader, adding, case, echo, make, noise, opened, recall, sine, train, words
from torch import Tensor, nn

from unrolled import GRU, LSTM, RNN, Recurrent
from unrolled.cells import CELLS, VARIANTS

TRAININGS = [
    ("lstm(forget_bias=1)", echo(40, 2), 5e-3), ("gru", echo(40, 2), 5e-3), ("rnn", echo(30, 1), 3e-3),
    ("mgu", echo(30, 1), 5e-3), ("layer_norm_lstm", echo(30, 2), 5e-3), ("lstm", sine(50), 5e-3),
    ("gru", sine(60), 5e-3), ("rnn", sine(30), 3e-3), ("gated", sine(30), 5e-3), ("irnn", sine(30), 1e-3),
    ("indrnn", sine(30), 2e-3), ("mut1", sine(30), 5e-3), ("mut3", sine(40), 5e-3),
    ("lstm", adding(40), 5e-3), ("gru", adding(50), 5e-3), ("irnn", adding(30), 1e-3),
    ("lstm", recall(40), 5e-3), ("gru", recall(30), 1e-2), ("gru_chung", recall(30), 1e-2),
    ("lstm", words(50), 5e-3), ("gru", words(50), 5e-3), ("lstm", words(100), 1e-2), ("rnn", words(40), 3e-3),
    ("lstm_peephole", words(30), 5e-3), ("lstm_cifg", words(30), 5e-3), ("gru_cho", words(30), 5e-3),
    ("layer_norm_rnn", words(30), 3e-3), ("mut2", words(30), 5e-3),
]  # fmt: skip
"""Cells, tasks and rates that they learn well with."""


class Embedded(nn.Module):
    """Tokens through an embedding, a layer, and a head."""

    def __init__(self, tokens: int, layer: Any) -> None:
        super().__init__()
        self.embedding, self.reader = nn.Embedding(tokens, layer.input_size), Reader(layer, tokens)

    def forward(self, x: Tensor) -> Tensor:
        return self.reader(self.embedding(x))


def healthy(seed: int) -> Iterator[Case]:
    """Networks that can do what they are there for: short sequences with any start, longer ones with a start
    that remembers, or of which it is known that they need not; and in training."""
    torch.manual_seed(seed)
    draw = random.Random(seed)
    yield from _starting(draw)
    yield from _shapes(draw)
    yield from _in_training(draw)


UNBOUNDED = ("residual",)
"""Cells that add up what they ever did: through time they explode, as they are found to."""

SHORT = ("rhn",)
"""Cells that remember for a few steps, however they start."""


def _starting(draw: random.Random) -> Iterator[Case]:
    for name in (each for each in (*CELLS, *VARIANTS) if each not in UNBOUNDED):
        T, D, layers = draw.randint(8, 19), draw.randint(1, 8), draw.randint(1, 3)
        task, H = noise(T, D), draw.choice([16, 24, 32, 64, 128])
        yield case(f"{name} T={T} D={D} H={H} layers={layers}", make(task, name, H, layers), task)
        T, H, layers = draw.choice([40, 50, 80, 120, 200]), draw.choice([16, 32, 64]), draw.randint(1, 2)
        if name in ("lstm_nfg", "lstm_nig"):  # without one of two gates, what is added up is never let go
            T = min(T, 50)
        task = words(T) if draw.random() < 0.4 else noise(T, draw.randint(2, 6))
        model = opened(make(task, name, H, layers), T)
        needed = {"needed": 3} if name in (*SHORT, "rnn", "layer_norm_rnn", "indrnn") else {}
        yield case(f"{name} opened, T={T} H={H} layers={layers} {needed}", model, task, **needed)
    for name in ("lstm", "gru", "rnn", "mgu", "lstm_peephole", "layer_norm_lstm"):
        for needed in (1, 2, 3):
            task, H = noise(draw.choice([50, 100]), 3), draw.choice([16, 32, 64])
            yield case(f"{name} H={H} needed={needed}", make(task, name, H), task, needed=needed)


def _shapes(draw: random.Random) -> Iterator[Case]:
    for kind in (LSTM, GRU, RNN):
        model, task = kind(4, 24, num_layers=2, bidirectional=True), noise(15, 4)
        yield case(f"{kind.__name__}, both ways", model, task)
    for norm in ("layer", "rms"):
        task = noise(60, 4)
        yield case(f"lstm with {norm} norm", make(task, "lstm(forget_bias=3)", 24, norm=norm), task)
    task = noise(60, 4)
    model = make(task, "lstm(forget_bias=3)", 24, zoneout=0.1, recurrent_dropout=0.2)
    yield case("lstm with zoneout and dropout", model, task)
    task = words(40)
    yield case("gru on embeddings", Embedded(11, Recurrent("gru", 12, 32, 2, init={"z.bias": 2.0})), task)
    yield Case("lstm, the batch first", LSTM(3, 16, batch_first=True), torch.randn(B, 18, 3))
    lengths = sorted((draw.randint(3, 30) for _ in range(B)), reverse=True)
    layer, x = Recurrent("lstm", 3, 16, backend="reference"), torch.randn(lengths[0], B, 3)

    def padded(model: nn.Module, batch: Any) -> Tensor:
        return model(batch[0], lengths=batch[1])[0].sum(-1)

    yield Case(f"lstm, lengths {lengths}", opened(layer, 30), (x, lengths), padded)


def _in_training(draw: random.Random) -> Iterator[Case]:
    for name, task, rate in TRAININGS:
        H, steps = draw.choice([16, 32, 48]), draw.choice([30, 60, 100])
        layers = 1 if name == "irnn" else draw.choice([1, 1, 2])
        model, T = make(task, name, H, layers), len(task.draw(1)[0])
        if task.needed > 4:
            opened(model, T)
        history = train(model, task, steps, rate, clip=5.0)
        label = f"{name} after {steps} steps, H={H} layers={layers} T={T} needed={task.needed}"
        yield case(label, model, task, history=history, clip=5.0, needed=task.needed)
    for name, task, rate in (("gru", words(40), 5e-3), ("lstm", sine(40), 5e-3)):  # until it has learned
        model = make(task, name, 24)
        history = train(model, task, 250, rate, clip=5.0)
        yield case(f"{name} after 250 steps", model, task, history=history, clip=5.0, needed=task.needed)
    for name in ("lstm", "gru"):  # nobody knows what is needed
        task = words(48)
        model = opened(make(task, name, 32), 48)
        history = train(model, task, 60, 5e-3, clip=5.0)
        yield case(f"{name} opened, after 60 steps of words", model, task, history=history, clip=5.0)
