"""Every cell of the zoo beside `nn.LSTM`, in multiply-adds per second: what a new cell costs for its size."""

from __future__ import annotations

import copy
from collections.abc import Iterator

from torch import nn

from benchmarks.family import Family, Record, Settings, Size
from benchmarks.layers import TrainingStep, inputs
from benchmarks.loop import two, without_kernels
from benchmarks.paired import Comparison, interleave, refusal
from unrolled.cell import Cell
from unrolled.cells import CELLS, VARIANTS, find
from unrolled.graph import Graph

LEAST, LEAST_ALONE = 0.85, 0.6
"""Of every point, and of those with one row."""


def multiply_adds(graph: Graph, size: Size) -> int:
    """Of all matrices of a cell, in the forward pass of one step and row."""
    states = {graph.widths[name] for name in graph.states}
    widths = {graph.widths[name]: size.D for name in graph.inputs} | dict.fromkeys(states, size.H)
    return sum(
        widths[node.width] * widths[graph.nodes[arg].width]
        for node in graph.nodes
        if node.kind == "affine"
        for arg in node.args
    )


def is_recurrent(graph: Graph) -> bool:
    """Whether a matrix multiplies something that depends on a state."""
    depends: list[bool] = []
    for node in graph.nodes:
        depends.append(node.kind == "state" or any(depends[arg] for arg in node.args))
    return any(node.kind == "affine" and depends[k] for k, node in enumerate(graph.nodes))


def cells() -> dict[str, Cell]:
    """The cells of the zoo that have a recurrent matrix, by name."""
    found = {name: find(name) for name in (*CELLS, *VARIANTS)}
    return {name: cell for name, cell in found.items() if len(cell.inputs) == 1 and is_recurrent(cell.graph)}


def measure(settings: Settings) -> Iterator[Record]:
    for name, cell in cells().items():
        for size in settings.sizes:
            yield point(name, cell, size, settings)


def point(name: str, cell: Cell, size: Size, settings: Settings) -> Record:
    """One cell at one size; its tensors are held to those of the loop first."""
    bar = LEAST_ALONE if size.B == 1 else LEAST
    layer, reference = two(cell, size)
    x, d_y = inputs(size)
    ours = TrainingStep(layer, x, d_y)
    held_to = TrainingStep(reference, x, d_y)

    def exact() -> TrainingStep:
        return TrainingStep(copy.deepcopy(reference).double(), x.double(), d_y.double())

    if refused := refusal(name, size, bar, ours, held_to, exact):
        return refused
    peer = TrainingStep(nn.LSTM(size.D, size.H), x, d_y)
    work = multiply_adds(cell.graph_for(size.D, size.H), size) / multiply_adds(find("lstm").graph, size)
    times, theirs = interleave(ours, peer, rounds=settings.rounds)
    return Comparison(times, tuple(seconds * work for seconds in theirs)).record(
        name, size, bar, without_kernels(cell)
    )


FAMILIES = (
    Family(
        "zoo",
        "Every cell against nn.LSTM, in multiply-adds per second",
        measure,
        mean=1.0,
        caption="Forward and backward with all gradients. The peer's time is that of nn.LSTM at the same "
        "size, for as many multiply-adds as the cell's matrices need. The cell's own tensors are checked "
        "against the PyTorch loop.",
    ),
)
