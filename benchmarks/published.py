"""The published 112-line character network: its settings for the trainer, and itself in NumPy.

The tests hold the trainer's every step to this oracle; the benchmarks time it.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from unrolled.tasks.char import CharConfig

Array = npt.NDArray[np.float64]

PUBLISHED = CharConfig(
    cell="rnn",
    hidden=100,
    batch=1,
    bptt=25,
    reset=0.0,
    optimiser="adagrad(eps=0, initial_accumulator_value=1e-8)",
    rate=0.1,
    schedule="constant",
    warmup=0,
    clip_norm=None,
    clip_value=5.0,
    loss="sum",
    init=("*=normal:0.01", "*.bias=0"),
    steps=200,
    dtype="float64",
)
"""The 112-line character network: its sizes, its loss, its clipping and its optimiser."""

LIBRARY_NAMES = {
    "Wxh": "layer.l0.h.x",
    "Whh": "layer.l0.h.h",
    "bh": "layer.l0.h.bias",
    "Why": "head.weight",
    "by": "head.bias",
}


class Oracle:
    """The published character network in NumPy, with the mathematics of the listing put right."""

    def __init__(self, symbols: int, hidden: int = 100, seed: int = 0) -> None:
        draw = np.random.default_rng(seed).standard_normal
        self.weights: dict[str, Array] = {
            "Wxh": 0.01 * draw((hidden, symbols)),
            "Whh": 0.01 * draw((hidden, hidden)),
            "bh": np.zeros(hidden),
            "Why": 0.01 * draw((symbols, hidden)),
            "by": np.zeros(symbols),
        }
        self.memory = {name: np.zeros_like(value) for name, value in self.weights.items()}
        self.h: Array = np.zeros(hidden)

    def gradients(self, inputs: list[int], targets: list[int]) -> tuple[float, dict[str, Array]]:
        """The summed cross-entropy in nats and its clipped gradients; the state moves on."""
        w = self.weights
        h, p, loss = [self.h], [], 0.0
        for character, target in zip(inputs, targets, strict=True):
            h.append(np.tanh(w["Wxh"][:, character] + w["Whh"] @ h[-1] + w["bh"]))
            y = w["Why"] @ h[-1] + w["by"]
            p.append(np.exp(y - y.max()) / np.exp(y - y.max()).sum())
            loss -= math.log(p[-1][target])
        d = {name: np.zeros_like(value) for name, value in w.items()}
        d_h = np.zeros_like(self.h)
        for t in reversed(range(len(inputs))):
            d_y = p[t].copy()
            d_y[targets[t]] -= 1
            d["Why"] += np.outer(d_y, h[t + 1])
            d["by"] += d_y
            d_raw = (1 - h[t + 1] ** 2) * (w["Why"].T @ d_y + d_h)
            d["Wxh"][:, inputs[t]] += d_raw
            d["Whh"] += np.outer(d_raw, h[t])
            d["bh"] += d_raw
            d_h = w["Whh"].T @ d_raw
        self.h = h[-1]
        return loss, {name: value.clip(-5, 5) for name, value in d.items()}

    def update(self, gradients: dict[str, Array], rate: float = 0.1) -> None:
        """Adagrad."""
        for name, gradient in gradients.items():
            self.memory[name] += gradient**2
            self.weights[name] = self.weights[name] - rate * gradient / np.sqrt(self.memory[name] + 1e-8)
