"""Networks with an illness that was planted, from a seed."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
from networks import (
    B,
    Case,
    Task,
    adding,
    case,
    echo,
    inner,
    make,
    noise,
    opened,
    parameters,
    recall,
    sine,
    train,
    words,
)
from torch import Tensor, log, nn, sigmoid, sqrt, tanh

from unrolled import LSTM, cell


@cell(states="h")
def with_log(x, h, W):
    """Its logarithm meets a negative number sooner or later."""
    a = W.a(x, h)
    scale = log(W.s(x) + 2.5)
    return tanh(a) * sigmoid(scale)


@cell(states="h")
def with_sqrt(x, h, W):
    """At a state of 0 its square root has no derivative."""
    return tanh(W.a(x, h)) + 0.1 * sqrt(abs(h))


@cell(states="h")
def with_division(x, h, W):
    """A quotient of 0 and 0 where x is 0."""
    size = (x * x).sum(-1, keepdim=True)
    return tanh(W.a(x, h)) * (size / size)


@cell(states="h")
def linear(x, h, W):
    return W.a(x, h)


def scale(model: nn.Module, factor: float, end: str = "") -> None:
    with torch.no_grad():
        for name, p in parameters(inner(model)):
            if name.endswith(end):
                p.mul_(factor)


def set_bias(
    model: nn.Module, gate: str, value: float, units: slice = slice(None), top: bool = False
) -> None:
    """A gate's bias, in the highest layer alone or in all."""
    layer = inner(model)
    with torch.no_grad():
        for suffix in layer.suffixes[-1:] if top else layer.suffixes:
            layer.biases_of(suffix, gate)[0][units] = value


def set_recurrent(model: nn.Module, how: Callable[[Tensor], object]) -> None:
    with torch.no_grad():
        for name, p in parameters(inner(model)):
            if name.endswith(".h"):
                how(p)


def radius(size: float) -> Callable[[Tensor], object]:
    return lambda p: p.mul_(size / torch.linalg.eigvals(p).abs().max())


def identity(factor: float) -> Callable[[Tensor], object]:
    return lambda p: nn.init.eye_(p).mul_(factor)


def orthogonal(factor: float) -> Callable[[Tensor], object]:
    return lambda p: nn.init.orthogonal_(p, factor)


class Clinic:
    """Draws what networks with planted illnesses have in common."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.draw = random.Random(seed)

    def dose(self, low: float, high: float) -> float:
        return self.draw.uniform(low, high)

    @property
    def H(self) -> int:
        return self.draw.choice([16, 24, 32, 48])

    @property
    def layers(self) -> int:
        return self.draw.randint(1, 2)

    def fresh(self, name: Any, *lengths: int, layers: int = 1, **options: Any) -> tuple[nn.Module, Task]:
        T = self.draw.choice(lengths or (50, 80, 120, 200))
        task = words(T) if self.draw.random() < 0.3 else noise(T, self.draw.randint(2, 6))
        return make(task, name, self.H, layers, **options), task

    def partly(self, name: Any, task: Task, rate: float = 5e-3) -> tuple[nn.Module, Task]:
        """A network that was trained for a while."""
        model = make(task, name, 24)
        train(model, task, 40, rate)
        return model, task


def ill(seed: int) -> Iterator[Case]:
    """Every illness in several cells, sizes and starts, and in networks that learned something before."""
    clinic = Clinic(seed)
    for name, plant in ILLNESSES.items():
        for each in plant(clinic):
            each.expected, each.label = name, f"{name}: {each.label}"
            yield each


def _vanishing(clinic: Clinic) -> Iterator[Case]:
    for name in ("rnn", "rnn", "gru_cho", "rnn(activation=sigmoid)"):
        (model, task), size = clinic.fresh(name, 50, 100, 200), clinic.dose(0.2, 0.55)
        set_recurrent(model, radius(size))
        yield case(f"{name}, radius {size:.2f}", model, task)
    for name in ("lstm", "gru", "mgu", "lstm_peephole", "gated", "mut1"):
        yield case(f"{name} as it starts", *clinic.fresh(name, 100, 150, 200, layers=clinic.layers))
    model, task = clinic.partly("rnn", echo(60, 1))
    set_recurrent(model, radius(0.5))
    yield case("rnn in training, then radius 0.5", model, task, needed=30)
    yield case("lstm that does not learn to recall", *clinic.partly("lstm", recall(60)), needed=59)
    yield case("LSTM of torch's form", LSTM(3, 24, num_layers=2), noise(100, 3))


def _closed(clinic: Clinic) -> Iterator[Case]:
    for name, gate, sign in (
        ("lstm", "f", -1), ("lstm", "f", -1), ("gru", "z", -1), ("gru_cho", "z", -1), ("gru_chung", "z", 1),
        ("lstm_peephole", "f", -1), ("mgu", "f", 1), ("gated", "b", 1), ("mut1", "z", 1),
        ("lstm_cifg", "f", -1),
    ):  # fmt: skip
        (model, task), value = clinic.fresh(name, layers=clinic.layers), sign * clinic.dose(2.5, 6)
        set_bias(model, gate, value)
        yield case(f"{name} {gate}={value:.1f}", model, task)
    model, task = clinic.fresh("layer_norm_lstm")
    set_bias(model, "f", -5.0)
    yield case("layer_norm_lstm f=-5", model, task)
    model, task = clinic.fresh("lstm", layers=2, init={"f.bias": 2.0})
    set_bias(model, "f", -4.0, top=True)
    yield Case("lstm f=-4 in the upper layer", model, task.draw(B), word="layer 2")
    for name, gate in (("lstm", "f"), ("gru", "z")):
        model, task = clinic.partly(name, adding(50))
        set_bias(model, gate, -4.0)
        yield case(f"{name} in training, then {gate}=-4", model, task)


def _exploding(clinic: Clinic) -> Iterator[Case]:
    for name, how, low, high in (
        ("irnn", identity, 1.25, 1.5), ("irnn", identity, 1.5, 2.0), (linear, orthogonal, 1.15, 1.3),
        (linear, orthogonal, 1.3, 1.8), ("rnn(activation=relu)", orthogonal, 2.2, 3.0),
    ):  # fmt: skip
        for lengths in ((80, 100), (150, 200)):
            layers = clinic.layers if name == "rnn(activation=relu)" else 1
            (model, task), factor = clinic.fresh(name, *lengths, layers=layers), clinic.dose(low, high)
            set_recurrent(model, how(factor))
            called = name if isinstance(name, str) else "linear"
            yield case(f"{called} {how.__name__} times {factor:.2f}", model, task)
    yield case("indrnn u=1.2", *clinic.fresh("indrnn", 120, init={"u": 1.2}))
    model, task = clinic.partly("irnn", sine(60), rate=1e-3)
    scale(model, 1.6, "h.h")
    yield case("irnn in training, then times 1.6", model, task)


def _saturated(clinic: Clinic) -> Iterator[Case]:
    for name, gate, sign in (
        ("lstm", "i", -1), ("lstm", "o", -1), ("lstm", "o", 1), ("lstm", "i", 1), ("lstm", "g", 1),
        ("gru", "r", -1), ("gru", "r", 1), ("gru", "n", 1), ("gru_cho", "r", -1), ("mut1", "r", -1),
        ("lstm_peephole", "o", -1),
    ):  # fmt: skip
        (model, task), value = clinic.fresh(name, 60, layers=clinic.layers), sign * clinic.dose(7, 14)
        set_bias(model, gate, value)
        yield Case(f"{name} {gate}={value:.1f}", model, task.draw(B), word=f"{gate} (")
    for name in ("lstm", "gru", "lstm_peephole"):
        task, factor = noise(60, 5), clinic.dose(30, 60)
        model = make(task, name, clinic.draw.choice([16, 32]))
        scale(model, factor, ".x")
        yield case(f"{name}, input weights times {factor:.0f}", model, task)
    for gate in "io":
        model, task = clinic.partly("lstm", words(50))
        set_bias(model, gate, -10.0)
        yield Case(f"lstm in training, then {gate}=-10", model, task.draw(B), word=f"{gate} (")
    model, task = clinic.fresh("lstm", 60, layers=2)
    opened(model, 60)
    set_bias(model, "o", -10.0, top=True)
    yield Case("lstm o=-10 in the upper layer", model, task.draw(B), word="layer 2")


def _dead(clinic: Clinic) -> Iterator[Case]:
    for name, gate in (
        ("rnn(activation=relu)", "h"), ("irnn", "h"), ("indrnn", "h"), ("gated(activation=relu)", "n"),
    ):  # fmt: skip
        model, task = clinic.fresh(name, 60, layers=clinic.layers)
        share = clinic.dose(0.5, 0.95)
        set_bias(model, gate, -10.0, slice(0, math.ceil(share * inner(model).state_sizes["h"])))
        yield case(f"{share:.0%} of {name}", model, task, needed=2)
    model, task = clinic.partly("irnn", sine(50), rate=1e-3)
    set_bias(model, "h", -30.0, slice(0, 12))
    yield case("irnn in training, then half of it", model, task, needed=2)


def _deep(clinic: Clinic) -> Iterator[Case]:
    for layers, factor in ((6, 1.0), (5, 0.5), (4, 0.3)):
        model, task = clinic.fresh("rnn(activation=sigmoid)", 50, layers=layers)
        scale(model, factor)
        yield case(f"sigmoid, layers={layers}, times {factor}", model, task)
    for name in ("rnn", "gru", "lstm"):
        model, task = clinic.fresh(name, 40, layers=6)
        scale(model, 0.2, ".x")
        yield case(f"{name}, six layers, input weights times 0.2", model, task)


def _scale(low: float, high: float) -> Callable[[Clinic], Iterator[Case]]:
    def plant(clinic: Clinic) -> Iterator[Case]:
        for name in ("rnn", "lstm", "gru", "mgu", "layer_norm_lstm", "lstm_peephole", "gated"):
            (model, task), factor = clinic.fresh(name, 30, 60, layers=clinic.layers), clinic.dose(low, high)
            scale(model, factor)
            yield case(f"{name} times {factor:.2g}", model, task)
        model, task = clinic.partly("gru", words(50))
        scale(model, low)
        yield case(f"gru in training, then times {low}", model, task)

    return plant


def _chaotic(clinic: Clinic) -> Iterator[Case]:
    for H in (32, 48, 64, 64, 96):
        task, g = noise(clinic.draw.choice([100, 200]), 2), clinic.dose(2.0, 3.5)
        model = make(task, "rnn", H)
        while not _sensitive(model, task):
            set_recurrent(model, lambda p, g=g: p.normal_(0, g / math.sqrt(len(p))))
        yield case(f"rnn g={g:.2f} H={H}", model, task)
    model, task = clinic.partly("rnn", sine(100), rate=1e-3)
    while not _sensitive(model, task):
        set_recurrent(model, lambda p: p.normal_(0, 3 / math.sqrt(len(p))))
    yield case("rnn in training, then g=3", model, task)


@torch.no_grad()
def _sensitive(model: nn.Module, task: Task) -> bool:
    """Whether two runs part that begin a billionth apart: not every large random matrix makes chaos."""
    layer, batch = copy.deepcopy(inner(model)).double(), task.draw(B)
    x = (batch[0] if isinstance(batch, tuple) else batch).double()
    start = torch.randn(1, B, layer.state_sizes["h"], dtype=torch.float64)
    one, two = (layer(x, {"h": start + apart})[0][-1] for apart in (0.0, 1e-9))
    return float((one - two).norm() / (1e-9 * math.sqrt(one.numel()))) > 1e5


def _input(clinic: Clinic) -> Iterator[Case]:
    for name in ("lstm", "gru", "rnn"):
        T = clinic.draw.choice([15, 30, 60])
        for word, x, D in (
            ("the same", torch.randn(4).expand(T, B, 4), 4), ("is 0", torch.zeros(T, B, 4), 4),
            ("token 3", torch.full((T, B), 3), 7),
        ):  # fmt: skip
            yield Case(f"{name}: {word}", make(noise(T, D), name, clinic.H), x, word=word)
    row = torch.randn(30, 1, 4).expand(30, B, 4)
    yield Case("one sequence", make(noise(30, 4), "gru", 16), row, word="are the same")
    wild = torch.randn(40, B, 5)
    wild[..., 2] *= 1e4
    yield Case("one wild feature", make(noise(40, 5), "lstm", 24), wild, word="feature 2")
    yield Case("bytes", make(noise(40, 5), "gru", 24), torch.rand(40, B, 5) * 255, word="large")


def _nan(clinic: Clinic) -> Iterator[Case]:
    for name in ("lstm", "gru", "rnn"):
        model, task = clinic.fresh(name, 50, layers=2)
        key, p = clinic.draw.choice([*inner(model).parameters_of("l1").items()])
        with torch.no_grad():
            p.view(-1)[clinic.draw.randrange(p.numel())] = math.nan
        yield Case(f"{name} l1.{key}", model, task.draw(B), word=f"l1: the parameter {key}")
        x, step = torch.randn(50, B, 3), clinic.draw.randint(1, 49)
        x[step, clinic.draw.randrange(B), 1] = clinic.draw.choice([math.nan, math.inf])
        yield Case(f"{name} x", make(noise(50, 3), name, 16), x, word=f"at step {step} ")
    for made, word in (
        (with_log, "scale = log("), (with_sqrt, "derivative of sqrt("), (with_division, "quotient("),
    ):  # fmt: skip
        layer, x = make(noise(40, 3), made, 8), torch.randn(40, B, 3)
        x[17:, 2] = -9.0 if made is with_log else 0.0
        if made is with_log:
            with torch.no_grad():
                layer.parameters_of("l0")["s.x"].abs_().add_(0.1)
        yield Case(made.name, layer, x, word=word)


def _rate(clinic: Clinic) -> Iterator[Case]:
    for name, task in (
        ("lstm", sine(40)), ("gru", sine(40)), ("rnn", sine(40)), ("gru", echo(40, 2)), ("lstm", words(40)),
        ("rnn", words(40)), ("gru", adding(40)), ("mgu", words(30)),
    ):  # fmt: skip
        model, rate = make(task, name, clinic.H), 5e-3 * clinic.dose(30, 100)
        yield case(f"{name} {rate:.2f}", model, task, history=train(model, task, 40, rate))
    model, task = make(sine(40), "rnn", 24), sine(40)
    history = train(model, task, 40, 30.0, clip=1e9, kind="SGD")
    yield case("rnn by gradient descent", model, task, history=history)
    plain = [{key: each[key] for key in ("step", "loss", "gradient_norm")} for each in history]
    yield case("rnn by gradient descent, losses alone", model, task, history=plain)


def _clipping(clinic: Clinic) -> Iterator[Case]:
    for name, task, limit in (("lstm", words(40), 0.01), ("gru", sine(40), 1e-3), ("rnn", adding(30), 1e-2)):
        model = make(task, name, clinic.H)
        history = train(model, task, 40, 3e-3, clip=limit)
        yield case(name, model, task, history=history, clip=limit, needed=2)


def _truncation(clinic: Clinic) -> Iterator[Case]:
    for name in ("lstm", "gru"):
        task = recall(41)
        model = opened(make(task, name, 24), 41)
        train(model, task, 40)
        yield case(f"{name} opened", model, task, bptt=10)
        yield case(f"{name} that needs more", *clinic.partly(name, recall(41)), bptt=10, needed=40)


def _memory(clinic: Clinic) -> Iterator[Case]:
    for name, gate, sign in (
        ("lstm", "f", 1), ("gru", "z", 1), ("gru_chung", "z", -1), ("lstm_peephole", "f", 1),
        ("mgu", "f", -1),
    ):  # fmt: skip
        (model, task), value = clinic.fresh(name, 50), sign * clinic.dose(7.5, 10)
        set_bias(model, gate, value)
        yield case(f"{name} {gate}={value:.1f}", model, task, needed=2)
    model, task = clinic.partly("lstm", echo(50, 2))
    set_bias(model, "f", 8.0)
    yield case("lstm in training, then f=8", model, task, needed=2)


ILLNESSES = {
    "vanishing-through-time": _vanishing, "closed-forget-gate": _closed, "exploding": _exploding,
    "saturated-gates": _saturated, "dead-units": _dead, "vanishing-through-depth": _deep,
    "initial-scale-large": _scale(8, 20), "initial-scale-small": _scale(0.002, 0.02),
    "chaotic-dynamics": _chaotic, "degenerate-input": _input, "nan": _nan, "learning-rate-high": _rate,
    "clipping-always-on": _clipping, "truncation-too-short": _truncation, "memory-too-long": _memory,
}  # fmt: skip
