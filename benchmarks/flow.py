"""What it costs to look at gradient flow: Jacobian spectra, gradients by lag, and a monitor in training."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

import torch

import unrolled
from benchmarks.family import Family, Record, Settings, Size
from benchmarks.paired import quartiles
from unrolled import flow

SPECTRA: Final = 5.0
"""Seconds, asked of the spectra of every step's Jacobian at T=200, B=8, H=128."""

BACKWARDS: Final = 3.0
"""Of an ordinary backward pass, asked of gradients by lag at T=1000, B=16, H=256."""

MONITOR: Final = 1.05
"""Of the time of training without a monitor."""


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def record(subject: str, figures: list[float], size: Size, bar: float | None, note: str = "") -> Record:
    low, median, high = quartiles(figures)
    return Record(subject, median, low, high, size, bar, turns=len(figures), note=note)


def spectra(settings: Settings) -> Iterator[Record]:
    size = Size(20, 2, 32, 32) if settings.quick else Size(200, 8, 128, 128)
    layer, x = layer_and_input(size)
    flow.step_spectra(layer, x[:2])
    bar = None if settings.quick else SPECTRA
    for subject, work in (
        ("singular values and spectral radius of every step", lambda: flow.step_spectra(layer, x)),
        ("singular spectrum by lag, of 4 sequences", lambda: flow.lag_spectrum(layer, x)),
        ("ten Lyapunov exponents", lambda: flow.lyapunov(layer, x, count=10, transient=0)),
    ):
        figures = [seconds(work) for _ in range(min(3, settings.rounds))]
        yield record(subject, figures, size, bar if "every step" in subject else None)


def by_lag(settings: Settings) -> Iterator[Record]:
    """Gradients by lag, with their own forward pass, in backward passes of the last step's loss."""
    size = Size(50, 4, 32, 32) if settings.quick else Size(1000, 16, 256, 256)
    layer, x = layer_and_input(size)
    x.requires_grad_()
    wanted = [x, *layer.parameters()]

    def backward() -> float:
        loss = layer(x)[0][-1].sum()
        return seconds(lambda: torch.autograd.grad(loss, wanted))

    for _ in range(2):
        backward()
        flow.gradient_by_lag(layer, x)
    pairs = [(seconds(lambda: flow.gradient_by_lag(layer, x)), backward()) for _ in range(settings.rounds)]
    bar = None if settings.quick else BACKWARDS
    note = f"{sorted(a for a, _ in pairs)[len(pairs) // 2]:.3g} s"
    yield record("gradients by lag", [a / b for a, b in pairs], size, bar, note)


def monitored(settings: Settings) -> Iterator[Record]:
    """Training with a monitor, over training without, in turn."""
    size = Size(50, 8, 32, 32) if settings.quick else Size(100, 32, 128, 128)
    steps = 60 if settings.quick else 400
    train(size, 5, watched=True)
    turns = range(min(5, settings.rounds))
    figures = [train(size, steps, watched=True) / train(size, steps, watched=False) for _ in turns]
    yield record("a monitor at its defaults", figures, size, None if settings.quick else MONITOR)


def train(size: Size, steps: int, watched: bool) -> float:
    """The seconds of some steps."""
    layer, x = layer_and_input(size)
    optimiser = torch.optim.Adam(layer.parameters())

    def run(monitor: flow.Monitor | None) -> None:
        for _ in range(steps):
            optimiser.zero_grad()
            loss = layer(x)[0].square().mean()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            if monitor is not None:
                monitor(loss.detach())

    if not watched:
        return seconds(lambda: run(None))
    with flow.Monitor(layer) as monitor:
        return seconds(lambda: run(monitor))


def layer_and_input(size: Size) -> tuple[unrolled.LSTM, torch.Tensor]:
    torch.manual_seed(0)
    return unrolled.LSTM(size.D, size.H), torch.randn(size.T, size.B, size.D)


def measure(settings: Settings) -> Iterator[Record]:
    yield from by_lag(settings)
    yield from monitored(settings)


FAMILIES = (
    Family(
        "spectra",
        "Spectra of Jacobians",
        spectra,
        unit="s",
        caption="Of the full state (h and c) of an LSTM: singular values and spectral radius of every step's "
        "Jacobian, of all sequences; the singular values of their products, by lag; Lyapunov exponents.",
    ),
    Family(
        "flow",
        "Gradients by lag, and a monitor while training",
        measure,
        unit="ratio",
        caption="Gradients by lag of the last step's loss, with their forward pass, over an ordinary "
        "backward pass of the same loss. Training with `flow.Monitor(model)` over training without.",
    ),
)
