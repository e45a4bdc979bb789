"""The weights of keras.layers.SimpleRNN, LSTM and GRU: lists of arrays, as `get_weights()` gives them.

    kernel (D, G·H), recurrent_kernel (H, G·H), bias (G·H,) or none with use_bias=False

The gates of an LSTM are i f c o, where c is our g; those of a GRU z r h, where h is our n and z keeps the
old state. With `reset_after=True`, Keras's default, a GRU is our `gru`, with a bias (2, 3·H) for the products
of x and of h; with False it is `gru_cho`. `Bidirectional` has the arrays of the forward layer, then those of
the backward one. Keras itself is not needed here.

Source: keras.io/api/layers/recurrent_layers.
"""

from __future__ import annotations

from collections.abc import Sequence
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

Arrays = list[np.ndarray[Any, Any]]


def to_keras(layer: Layer) -> list[Arrays]:
    """The arrays for Keras's layers, one list for each layer: `keras_layer.set_weights(to_keras(layer)[0])`.

    The two biases of `unrolled.RNN`, `LSTM` and `GRU` are added up where Keras has one, and coupled gates are
    written out.

    Raises:
        InputError: it is no layer of ours, or Keras has none for its cell.
    """
    layer = checked(layer)
    kind, order = kind_in(computes(layer), "keras")
    found: list[Arrays] = [[] for _ in range(layer.num_layers)]
    for place, suffix in enumerate(layer.suffixes):
        g = stack(gates_of(layer, suffix), order)
        bias = torch.stack([g.x_bias, g.h_bias]) if kind.two_biases else g.x_bias + g.h_bias
        tensors = [g.x.t(), g.h.t(), *[bias] * layer.bias]
        found[place // (1 + layer.bidirectional)] += map(as_array, tensors)
    return found


def from_keras(
    weights: Sequence[Any],
    of: type[RNN] | type[LSTM] | type[GRU] | Cell,
    *,
    batch_first: bool = True,
    **settings: Any,
) -> Layer:
    """Our layer with the weights of Keras's.

    Args:
        weights: `keras_layer.get_weights()`, of a layer or its `Bidirectional`; or a list of such lists, for
            layers one above the other.
        of: `unrolled.RNN`, `LSTM` or `GRU`, or a cell for a `Recurrent`: `gru` for reset_after=True,
            `gru_cho` for False, `rnn.with_options(activation="relu")`.
        batch_first: x is (B, T, D), as in Keras.
        settings: other arguments of the layer, such as `nonlinearity` or `dropout`.

    Raises:
        InputError: Keras has no such cell, or the arrays are not its weights.
    """
    if not isinstance(weights, Sequence) or not weights:
        raise InputError("weights are a list of arrays, or for several layers a list of such lists")
    layers = weights if isinstance(weights[0], Sequence) else [weights]
    if (count := len(layers[0])) not in (2, 3, 4, 6) or any(len(arrays) != count for arrays in layers):
        counts = ", ".join(str(len(arrays)) for arrays in layers)
        raise InputError(
            "a layer of Keras has 2 arrays or 3 with a bias, and twice as many in both directions; "
            f"got {counts}"
        )
    each, bias = (count, count == 3) if count < 4 else (count // 2, count == 6)
    stacked = [[_gates(list(arrays[k : k + each])) for k in range(0, count, each)] for arrays in layers]
    layer = build(of, "keras", stacked, bias, {"batch_first": batch_first, **settings})
    kind, _ = kind_in(layer.cell, "keras")
    if bias and kind.two_biases != (np.ndim(layers[0][2]) == 2):
        raise InputError(
            f"a bias of shape {np.shape(layers[0][2])} is not that of {kind.cell.name!r}: with "
            "reset_after=True it is (2, 3 · H) and the cell is gru, with False (3 · H,) and gru_cho"
        )
    return layer


def _gates(arrays: list[Any]) -> Gates:
    kernel, recurrent, *rest = map(as_tensor, arrays)
    if kernel.ndim != 2 or recurrent.ndim != 2:
        raise InputError("the kernels of a layer of Keras have two axes")
    zeros = kernel.new_zeros(kernel.shape[1])
    bias = rest[0] if rest else zeros
    x_bias, h_bias = bias if bias.ndim == 2 and len(bias) == 2 else (bias, zeros)
    return Gates(kernel.t(), recurrent.t(), x_bias, h_bias, zeros[:0])
