"""The LSTM with peepholes beside JAX: `jit` of the value and gradients of `lax.scan`, written by hand."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.family import Family, Record, Settings
from benchmarks.layers import TrainingStep, inputs
from benchmarks.loop import PEEPHOLES
from benchmarks.paired import compare
from unrolled import Recurrent
from unrolled.cells import find

LEAST = 1.1


def everyday(W: Any, x: Any) -> Any:
    """The equations as they stand."""
    import jax
    import jax.numpy as jnp

    def step(state: Any, x_t: Any) -> Any:
        h, c = state

        def gate(name: str) -> Any:
            return x_t @ W[f"{name}.x"].T + h @ W[f"{name}.h"].T + W[f"{name}.bias"]

        i = jax.nn.sigmoid(gate("i") + W["p_i"] * c)
        f = jax.nn.sigmoid(gate("f") + W["p_f"] * c)
        c = f * c + i * jnp.tanh(gate("g"))
        h = jax.nn.sigmoid(gate("o") + W["p_o"] * c) * jnp.tanh(c)
        return (h, c), h

    zero = jnp.zeros((x.shape[1], W["i.h"].shape[0]), x.dtype)
    return jax.lax.scan(step, (zero, zero), x)


def stacked(W: Any, x: Any) -> Any:
    """One product of x for all steps, and one of h a step for all gates."""
    import jax
    import jax.numpy as jnp

    of_x, of_h, bias = (
        jnp.concatenate([W[f"{gate}.{source}"] for gate in "ifgo"]) for source in ("x", "h", "bias")
    )

    def step(state: Any, pre: Any) -> Any:
        h, c = state
        i, f, g, o = jnp.split(pre + h @ of_h.T, 4, -1)
        i, f = jax.nn.sigmoid(i + W["p_i"] * c), jax.nn.sigmoid(f + W["p_f"] * c)
        c = f * c + i * jnp.tanh(g)
        h = jax.nn.sigmoid(o + W["p_o"] * c) * jnp.tanh(c)
        return (h, c), h

    zero = jnp.zeros((x.shape[1], W["i.h"].shape[0]), x.dtype)
    return jax.lax.scan(step, (zero, zero), x @ of_x.T + bias)


class Scan:
    """A training step in JAX, on copies of a layer's parameters that are made once."""

    def __init__(
        self, equations: Callable[[Any, Any], Any], layer: Recurrent, x: Tensor, d_y: Tensor
    ) -> None:
        import jax

        def array(tensor: Tensor) -> Any:
            return jax.numpy.asarray(tensor.detach().numpy())

        def training_step(W: Any, x: Any, d_y: Any) -> Any:
            def outputs(W: Any, x: Any) -> Any:
                state, y = equations(W, x)
                return y, state

            y, back, state = jax.vjp(outputs, W, x, has_aux=True)
            return y, state, *back(d_y)

        self.step = jax.jit(training_step)
        self.wait = jax.block_until_ready
        self.values = {n: array(p) for n, p in layer.parameters_of("l0").items()}, array(x), array(d_y)

    def __call__(self) -> None:
        self.results = self.wait(self.step(*self.values))

    def tensors(self) -> dict[str, Tensor]:
        y, (h, c), d_W, d_x = self.results
        found = {"y": y, "final state 0": h[None], "final state 1": c[None], "d_x": d_x}
        found |= {f"d_l0.{name}": gradient for name, gradient in d_W.items()}
        return {name: torch.from_numpy(np.array(value)) for name, value in found.items()}


def measure(settings: Settings) -> Iterator[Record]:
    try:
        import jax
    except ImportError:
        yield Record(PEEPHOLES, bar=LEAST, note="JAX is not installed: pip install jax")
        return
    note = f"JAX {jax.__version__}"
    if settings.threads != (cores := os.cpu_count()):
        note += f", on all {cores} cores"
    for subject, equations, bar in (
        (PEEPHOLES, everyday, LEAST),
        (f"{PEEPHOLES}, stacked", stacked, None),
    ):
        for size in settings.sizes:
            torch.manual_seed(0)
            layer = Recurrent(find("lstm_peephole"), size.D, size.H)
            x, d_y = inputs(size)
            sides = TrainingStep(layer, x, d_y), Scan(equations, layer, x, d_y)
            yield compare(subject, size, *sides, settings, bar, note)


FAMILIES = (
    Family(
        "jax",
        "LSTM with peepholes against JAX lax.scan",
        measure,
        mean=1.5,
        caption="Forward and backward with all gradients, in float32: `jit` of the value and its gradients, "
        "compiled before. Copying between torch and JAX is not timed. The stacked form is written with more "
        "care: one product of x for all steps, and one of h a step for all gates.",
    ),
)
