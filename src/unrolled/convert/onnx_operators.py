"""The tensors of ONNX's operators RNN, LSTM and GRU.

    W (directions, G·H, D), R (directions, G·H, H), B (directions, 2·G·H): the biases of W, then those of R,
    P (directions, 3·H): the peepholes of i, o and f

The gates of an LSTM are i o f c, where c is our g; those of a GRU z r h, where h is our n and z keeps the old
state. With `linear_before_reset=1` a GRU is our `gru`, with 0 `gru_cho`. `input_forget` does not say which of
the two gates follows the other, so coupled gates are written out instead.

Source: onnx.ai/onnx/operators, of version 14. `unrolled.export` writes whole models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from unrolled.cell import Cell
from unrolled.convert.gates import (
    Gates,
    Layer,
    as_array,
    as_tensor,
    build,
    checked,
    computes,
    gates_of,
    kind_in,
    stack,
)
from unrolled.errors import InputError
from unrolled.nn import GRU, LSTM, RNN

Tensors = dict[str, np.ndarray[Any, Any]]


def to_onnx_operator(layer: Layer) -> list[Tensors]:
    """The tensors by name, for one operator a layer; B and P are there if the layer has them.

    Raises:
        InputError: it is no layer of ours, or ONNX has no operator for its cell.
    """
    layer = checked(layer)
    _, order = kind_in(computes(layer), "onnx")
    ways = 1 + layer.bidirectional
    each = [stack(gates_of(layer, suffix), order) for suffix in layer.suffixes]
    found = []
    for first in range(0, len(each), ways):
        gates = each[first : first + ways]
        tensors = {"W": [g.x for g in gates], "R": [g.h for g in gates]}
        if layer.bias:
            tensors["B"] = [torch.cat([g.x_bias, g.h_bias]) for g in gates]
        if gates[0].peephole.numel():
            tensors["P"] = [g.peephole for g in gates]
        found.append({name: as_array(torch.stack(values)) for name, values in tensors.items()})
    return found


def from_onnx_operator(
    tensors: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    of: type[RNN] | type[LSTM] | type[GRU] | Cell,
    **settings: Any,
) -> Layer:
    """Our layer with the weights of an operator.

    Args:
        tensors: arrays W, R and, if they are there, B and P by name; or a list of such, for layers one above
            the other.
        of: `unrolled.RNN`, `LSTM` or `GRU`, or a cell for a `Recurrent`: `gru` for linear_before_reset=1,
            `gru_cho` for 0, `lstm.with_options(peepholes="vector")` for an LSTM with P.
        settings: other arguments of the layer, such as `batch_first`.

    Raises:
        InputError: ONNX has no such operator, or the arrays are not its tensors.
    """
    layers = [tensors] if isinstance(tensors, Mapping) else tensors
    if not isinstance(layers, Sequence) or not layers or not all(isinstance(t, Mapping) for t in layers):
        raise InputError("tensors are W, R, B and P by name, or a list of such for several layers")
    for layer in layers:
        if wrong := {"W", "R"} - layer.keys() or layer.keys() - {"W", "R", "B", "P"}:
            what = "is missing" if min(wrong) in "WR" else "is no weight of an operator"
            raise InputError(f"{min(wrong)!r} {what}: give W, R, and B and P if they are there")
    bias = any("B" in layer for layer in layers)
    return build(of, "onnx", [_directions(layer) for layer in layers], bias, settings)


def _directions(tensors: Mapping[str, Any]) -> list[Gates]:
    found = {name: as_tensor(value) for name, value in tensors.items()}
    W, R = found["W"], found["R"]
    if W.ndim != 3 or R.ndim != 3 or not 1 <= len(W) <= 2 or any(len(t) != len(W) for t in found.values()):
        raise InputError("W and R have three axes, and the first of all tensors is of one or two directions")
    B = found.get("B", W.new_zeros(len(W), 2 * W.shape[1]))
    P = found.get("P", W.new_zeros(len(W), 0))
    if B.ndim != 2 or B.shape[1] != 2 * W.shape[1]:
        raise InputError(f"B has shape {tuple(B.shape)}, expected {(len(W), 2 * W.shape[1])}")
    x_bias, h_bias = B.chunk(2, -1)
    return [Gates(*tensors) for tensors in zip(W, R, x_bias, h_bias, P, strict=True)]
