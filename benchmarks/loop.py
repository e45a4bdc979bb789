"""Cells that torch has no layer for, beside the loop that one writes instead, plain and compiled by torch."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from typing import cast
from unittest import mock

import torch
from torch import Tensor, nn, sigmoid, tanh
from torch.nn.functional import layer_norm, linear

from benchmarks.family import GRID, Family, Record, Settings, Size
from benchmarks.layers import TrainingStep, inputs
from benchmarks.paired import compare
from unrolled import Recurrent
from unrolled.cell import Cell
from unrolled.cells import find
from unrolled.errors import BackendError

PEEPHOLES = "LSTM with peepholes"
NORMALISED = "LSTM with layer normalisation"
LEAST = 2.0


def cells() -> dict[str, Cell]:
    """The cells that are compared."""
    return {
        PEEPHOLES: find("lstm_peephole"),
        "GRU as published (gru_cho)": find("gru_cho"),
        "MUT1": find("mut1"),
        NORMALISED: find("layer_norm_lstm"),
    }


class PlainLoop(nn.Module):
    """A layer's cell on tensors, step by step; the parameters are the layer's."""

    def __init__(self, layer: Recurrent) -> None:
        super().__init__()
        self.layer = layer
        self.graph = layer.cell.graph_for(layer.input_size, next(iter(layer.state_sizes.values())))

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        parameters = self.layer.parameters_of("l0")
        state = {name: x.new_zeros(x.shape[1], width) for name, width in self.layer.state_sizes.items()}
        outputs = []
        for x_t in x.unbind():
            results = self.graph.run({"x": x_t} | state, parameters)
            state = dict(zip(self.graph.states, results, strict=True))
            outputs.append(results[0])
        return torch.stack(outputs), {name: value[None] for name, value in state.items()}


class StackedLoop(nn.Module):
    """The LSTM with peepholes as a careful hand writes it: one product of x for all steps, one of h each."""

    def __init__(self, layer: Recurrent) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        W = self.layer.parameters_of("l0")
        of_x, of_h, bias = (torch.cat([W[f"{gate}.{s}"] for gate in "ifgo"]) for s in ("x", "h", "bias"))
        h = c = x.new_zeros(x.shape[1], of_h.shape[1])
        outputs = []
        for pre in linear(x, of_x, bias).unbind():
            i, f, g, o = (pre + h @ of_h.t()).chunk(4, -1)
            i, f = sigmoid(i + W["p_i"] * c), sigmoid(f + W["p_f"] * c)
            c = f * c + i * tanh(g)
            h = sigmoid(o + W["p_o"] * c) * tanh(c)
            outputs.append(h)
        return torch.stack(outputs), {"h": h[None], "c": c[None]}


class NormalisedLoop(nn.Module):
    """The LSTM with layer normalisation as one writes it with torch's own `layer_norm`, which is faster than
    the means and differences that `backend="reference"` is made of."""

    def __init__(self, layer: Recurrent) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        W = self.layer.parameters_of("l0")
        width = W["gain_c"].shape
        h = c = x.new_zeros(x.shape[1], *width)
        outputs = []
        for x_t in x.unbind():
            f, i, g, o = (
                layer_norm(linear(x_t, W[f"{k}.x"]), width, W[f"gain_{k}x"])
                + layer_norm(linear(h, W[f"u{k}.h"]), width, W[f"gain_{k}h"], W[f"bias_{k}"])
                for k in "figo"
            )
            c = sigmoid(f) * c + sigmoid(i) * tanh(g)
            h = sigmoid(o) * tanh(layer_norm(c, width, W["gain_c"], W["bias_c"]))
            outputs.append(h)
        return torch.stack(outputs), {"h": h[None], "c": c[None]}


def two(cell: Cell, size: Size) -> tuple[Recurrent, Recurrent]:
    """Our layer, and the same with the loop for a backend.

    The gains of normalised cells are one half instead of 1: with 1, an untrained LSTM is chaotic, and no two
    computations in float32 agree after some hundred steps.
    """
    torch.manual_seed(0)
    halved = {"gain_*": 0.5} if any(name.startswith("gain_") for name in cell.parameters) else {}
    ours = Recurrent(cell, size.D, size.H, init=halved)
    peer = Recurrent(cell, size.D, size.H, backend="reference")
    peer.load_state_dict(ours.state_dict())
    return ours, peer


def without_kernels(cell: Cell) -> str:
    """Why our side runs as the loop too, or nothing where it does not."""
    try:
        Recurrent(cell, 2, 3, backend="cpu")(torch.zeros(1, 1, 2))
    except BackendError as error:
        return str(error)
    return ""


def everyday(settings: Settings) -> Iterator[Record]:
    for name, cell in cells().items():
        note = without_kernels(cell)
        for size in settings.sizes:
            ours, peer = two(cell, size)
            x, d_y = inputs(size)
            theirs = (
                Within(NormalisedLoop(peer), x, d_y) if name == NORMALISED else TrainingStep(peer, x, d_y)
            )
            yield compare(name, size, TrainingStep(ours, x, d_y), theirs, settings, LEAST, note)
    for size in settings.sizes:
        ours, peer = two(find("lstm_peephole"), size)
        x, d_y = inputs(size)
        sides = TrainingStep(ours, x, d_y), Within(StackedLoop(peer), x, d_y)
        yield compare(f"{PEEPHOLES}, stacked", size, *sides, settings, None)


def compiled(settings: Settings) -> Iterator[Record]:
    cases = [(PEEPHOLES, GRID[0])]
    if not settings.quick:
        cases += [("GRU as published (gru_cho)", GRID[0]), ("MUT1", GRID[0]), (PEEPHOLES, GRID[1])]
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=folder):
        for name, size in cases:
            yield against_compiled(name, size, settings)


def against_compiled(name: str, size: Size, settings: Settings) -> Record:
    """One case; torch's compiler begins anew and finds nothing in its cache."""
    ours, peer = two(cells()[name], size)
    x, d_y = inputs(size)
    torch.compiler.reset()
    theirs = Within(cast(nn.Module, torch.compile(PlainLoop(peer))), x, d_y)
    began = time.perf_counter()
    try:
        theirs()
    except RuntimeError as error:  # of torch's compiler, or that it finds no C++ compiler
        said = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = " ".join(said[:2])[:160] or type(error).__name__
        return Record(name, size=size, note=f"torch.compile cannot: {reason}")
    note = f"torch.compile took {time.perf_counter() - began:.0f} s"
    return compare(name, size, TrainingStep(ours, x, d_y), theirs, settings, None, note)


class Within(TrainingStep):
    """A training step of a module that holds the layer; gradients keep the layer's names."""

    def tensors(self) -> dict[str, Tensor]:
        return {
            n.replace("_orig_mod.", "").replace("d_layer.", "d_"): v for n, v in super().tensors().items()
        }


FAMILIES = (
    Family(
        "loop",
        "Cells without a torch layer against the PyTorch loop",
        everyday,
        mean=6.0,
        caption='Forward and backward with all gradients. The loop is `backend="reference"`: the cell\'s '
        "equations on tensors, step by step, a product for each matrix; for layer normalisation it is "
        "written with torch's own `layer_norm`, which is faster. The stacked form is written with more "
        "care: one product of x for all steps, and one of h a step for all gates.",
    ),
    Family(
        "compile",
        "Against the same loop under torch.compile",
        compiled,
        caption="Forward and backward with all gradients. torch.compile unrolls the loop, so its compile "
        "time grows with T and is paid again for every T and B.",
    ),
)
