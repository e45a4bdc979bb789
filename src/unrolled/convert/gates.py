"""The cells that other libraries have too, and the weights of a layer gate by gate.

A library stacks the matrices of its gates in an order of its own; `kinds` has it, in the names of our gates.
Two of our cells have a gate that is 1 minus what others have. Since 1 − σ(a) = σ(−a), that is a gate with its
weights negated, and written -z:

    coupled LSTM   i = 1 − f: to who knows no coupling, i has the weights of f, negated
    gru_chung      z takes the new state, where Keras and ONNX keep the old one with it
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unrolled.cell import Cell
from unrolled.cells import gru, gru_cho, gru_chung, lstm, rnn
from unrolled.errors import InputError
from unrolled.nn import GRU, LSTM, RNN, Recurrent

Layer = RNN | LSTM | GRU | Recurrent


@dataclass(frozen=True)
class Kind:
    """A cell that others have too.

    name: what they call it.
    torch, keras, onnx: the order of its gates there; "" where it does not exist.
    activation: of an Elman network.
    """

    name: str
    cell: Cell
    torch: str = ""
    keras: str = ""
    onnx: str = ""
    activation: str = "tanh"

    @property
    def two_biases(self) -> bool:
        """Whether a gate adds one bias to the product of x and, within the reset, one to that of h."""
        return "m.bias" in self.cell.parameters


@cache
def kinds() -> dict[str, Kind]:
    """All of them, by what their cell computes."""
    coupled = lstm.with_options(coupled=True)
    peepholes = lstm.with_options(peepholes="vector")
    both = coupled.with_options(peepholes="vector")
    rows = (
        Kind("RNN", rnn, torch="h", keras="h", onnx="h"),
        Kind("RNN", rnn.with_options(activation="relu"), "h", "h", "h", activation="relu"),
        Kind("RNN", rnn.with_options(activation="sigmoid"), "", "h", "h", activation="sigmoid"),
        Kind("RNN", rnn.with_options(activation="softplus"), "", "h", "h", activation="softplus"),
        Kind("LSTM", lstm, torch="i f g o", keras="i f g o", onnx="i o f g"),
        Kind("LSTM", lstm.with_options(projection=True), torch="i f g o"),
        Kind("LSTM", coupled, torch="-f f g o", keras="-f f g o", onnx="-f o f g"),
        Kind("LSTM", peepholes, onnx="i o f g"),
        Kind("LSTM", both, onnx="-f o f g"),
        Kind("GRU", gru, torch="r z n", keras="z r n", onnx="z r n"),
        Kind("GRU", gru_cho, keras="z r n", onnx="z r n"),
        Kind("GRU", gru_chung, keras="-z r n", onnx="-z r n"),
    )
    return {_computes(kind.cell): kind for kind in rows}


def _computes(cell: Cell) -> str:
    """The same text for cells that differ in name and initial values alone."""
    nodes = (replace(n, bias=None if n.bias is None else 0.0) for n in cell.graph.nodes)
    return replace(cell.graph, nodes=tuple(nodes)).key


def find_kind(cell: Cell) -> Kind | None:
    """The kind of a cell, whoever wrote it; None where no other library has it."""
    return kinds().get(_computes(cell))


def kind_in(cell: Cell, library: str) -> tuple[Kind, str]:
    """The kind of a cell, and the order of its gates in "torch", "keras" or "onnx".

    Raises:
        InputError: the library has no such cell.
    """
    kind = find_kind(cell)
    order = getattr(kind, library) if kind else ""
    if not kind or not order:
        known = ", ".join(k.cell.name for k in kinds().values() if getattr(k, library))
        name = {"torch": "torch.nn", "keras": "Keras", "onnx": "ONNX"}[library]
        raise InputError(f"{name} has no layer that computes the cell {cell.name!r}; it has {known}")
    return kind, order


class Gates(NamedTuple):
    """The weights of one gate, or of several stacked, for one layer and direction.

    Shapes: x (G·H, D), h (G·H, H), x_bias and h_bias (G·H,), peephole (P·H,) of the P gates that have one.
    Biases that are not there are 0.
    """

    x: Tensor
    h: Tensor
    x_bias: Tensor
    h_bias: Tensor
    peephole: Tensor

    def __neg__(self) -> Gates:
        return Gates(*(-tensor for tensor in self))


def stack(gates: Mapping[str, Gates], order: str) -> Gates:
    """The weights of these gates one below the other, such as "i f g o"."""
    parts = [-gates[name[1:]] if name[0] == "-" else gates[name] for name in order.split()]
    return Gates(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def split(stacked: Gates, order: str, cell: Cell) -> dict[str, Gates]:
    """What `stack` put together.

    Raises:
        InputError: a gate that is 1 minus another has weights of its own.
    """
    names = order.split()
    has = [f"p_{name.lstrip('-')}" in cell.parameters for name in names]
    peepholes = iter(stacked.peephole.chunk(sum(has)) if any(has) else ())
    none = stacked.peephole[:0]
    parts = zip(*(tensor.chunk(len(names)) for tensor in stacked[:4]), strict=True)
    found: dict[str, Gates] = {}
    for name, own, (x, h, x_bias, h_bias) in zip(names, has, parts, strict=True):
        gate = Gates(x, h, x_bias, h_bias, next(peepholes) if own else none)
        plain, gate = (name[1:], -gate) if name[0] == "-" else (name, gate)
        if any(not torch.equal(a, b) for a, b in zip(found.get(plain, gate), gate, strict=True)):
            raise InputError(
                f"in the cell {cell.name!r} the input gate is 1 - {plain}, but here it has weights of its own"
            )
        found[plain] = gate
    return found


def gates_of(layer: Layer, suffix: str) -> dict[str, Gates]:
    """The weights of one layer and direction by gate; the candidate of a GRU is n, with n's x and m's h."""
    with torch.no_grad():
        parameters = layer.parameters_of(suffix)
        names = [name.removesuffix(".x") for name in parameters if name.endswith(".x")]
        found = {}
        for name in names:
            of_h = _of_h(name, parameters)
            x = parameters[f"{name}.x"]
            zeros = x.new_zeros(len(x))
            bias = parameters.get(f"{name}.bias", zeros)
            h_bias = parameters.get(f"{of_h}.bias", zeros) if of_h != name else zeros
            peephole = parameters.get(f"p_{name}", zeros[:0])
            found[name] = Gates(x, parameters[f"{of_h}.h"], bias, h_bias, peephole)
        if not isinstance(layer, Recurrent) and layer.bias:  # each of its gates has two biases
            pairs = (getattr(layer, f"bias_{side}_{suffix}").chunk(len(names)) for side in ("ih", "hh"))
            for name, x_bias, h_bias in zip(layer.x_gates, *pairs, strict=True):
                found[name] = found[name]._replace(x_bias=x_bias, h_bias=h_bias)
        return found


def _of_h(name: str, parameters: Mapping[str, Any]) -> str:
    return name if f"{name}.h" in parameters else "m"


@torch.no_grad()
def fill(layer: Layer, suffix: str, gates: Mapping[str, Gates]) -> None:
    """Give one layer and direction these weights."""
    if not isinstance(layer, Recurrent):
        stacked = stack(gates, " ".join(layer.x_gates))
        tensors = {"weight_ih": stacked.x, "weight_hh": stacked.h}
        if layer.bias:
            tensors |= {"bias_ih": stacked.x_bias, "bias_hh": stacked.h_bias}
        for name, value in tensors.items():
            getattr(layer, f"{name}_{suffix}").copy_(value)
        return
    parameters = layer.parameters_of(suffix)
    for name, gate in gates.items():
        of_h = _of_h(name, parameters)
        values = {f"{name}.x": gate.x, f"{of_h}.h": gate.h, f"p_{name}": gate.peephole}
        if of_h == name:
            values[f"{name}.bias"] = gate.x_bias + gate.h_bias
        else:
            values |= {f"{name}.bias": gate.x_bias, f"{of_h}.bias": gate.h_bias}
        for key, value in values.items():
            if key in parameters:
                parameters[key].copy_(value)


def checked(layer: object) -> Layer:
    """A layer of ours.

    Raises:
        InputError: it is something else.
    """
    if not isinstance(layer, RNN | LSTM | GRU | Recurrent):
        raise InputError(
            f"a {type(layer).__name__} is no layer of unrolled: give an RNN, LSTM, GRU or Recurrent"
        )
    return layer


def computes(layer: Layer) -> Cell:
    """The cell that a layer runs in evaluation: with zoneout it is another than its own."""
    return layer.regulariser.evaluation


def build(
    of: object, library: str, layers: Sequence[Sequence[Gates]], bias: bool, settings: Mapping[str, Any]
) -> Layer:
    """A layer with these weights, stacked as a library has them.

    Args:
        of: `unrolled.RNN`, `LSTM` or `GRU`, or a cell for a `Recurrent`.
        layers: for each layer one or two directions.
        settings: what else the layer is made with.

    Raises:
        InputError: the library has no such cell, or a tensor does not fit.
    """
    first = layers[0][0]
    options = {"bias": bias, "bidirectional": len(layers[0]) == 2, "dtype": first.x.dtype, **settings}
    sizes = first.x.shape[1], first.h.shape[1], len(layers)
    layer: Layer
    if isinstance(of, type) and issubclass(of, RNN | LSTM | GRU):
        layer = of(*sizes, **options)
    elif isinstance(of, Cell):
        layer = Recurrent(of, *sizes, **options)
    else:
        raise InputError(f"weights become an unrolled.RNN, LSTM or GRU, or a cell's Recurrent, not {of!r}")
    kind, order = kind_in(layer.cell, library)
    ways = 1 + layer.bidirectional
    for place, suffix in enumerate(layer.suffixes):
        if len(layers[place // ways]) != ways:
            raise InputError("one layer has weights of two directions, and another of one")
        stacked = layers[place // ways][place % ways]
        wanted = stack(gates_of(layer, suffix), order)
        for name, value, expected in zip(Gates._fields, stacked, wanted, strict=True):
            if value.shape != expected.shape:
                raise InputError(
                    f"the {name} weights of {suffix} have shape {tuple(value.shape)}, but "
                    f"{kind.name} of {layer.cell.name!r} needs {tuple(expected.shape)} (gates · H first)"
                )
        fill(layer, suffix, split(stacked, order, layer.cell))
    return layer


def as_tensor(value: Any) -> Tensor:
    """A copy of an array of float32 or float64.

    Raises:
        InputError: it is something else.
    """
    array = np.array(value)
    if array.dtype not in (np.float32, np.float64):
        raise InputError(f"weights are arrays of float32 or float64, got {array.dtype}")
    return torch.from_numpy(array)


def as_array(tensor: Tensor) -> np.ndarray[Any, Any]:
    """A copy for NumPy."""
    found: np.ndarray[Any, Any] = tensor.detach().cpu().contiguous().numpy().copy()
    return found
