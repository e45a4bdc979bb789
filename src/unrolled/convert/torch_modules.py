"""torch.nn.RNN, LSTM and GRU.

Their gates are i f g o and r z n, each with two biases; z keeps the old state, and r resets after the
product. `unrolled.RNN`, `LSTM` and `GRU` have the same parameters under the same names. A `Recurrent` has one
bias where torch adds up two: it becomes torch's first, and the second is 0.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from unrolled.cell import Cell
from unrolled.convert.gates import Layer, checked, computes, fill, find_kind, gates_of, kind_in, stack
from unrolled.errors import InputError
from unrolled.nn import GRU, LSTM, RNN, Recurrent

CLASSES = {nn.RNN: RNN, nn.LSTM: LSTM, nn.GRU: GRU}


def from_torch(module: nn.RNNBase, cell: Cell | None = None) -> Layer:
    """Our layer with the settings and the weights of torch's.

    Args:
        module: a `torch.nn.RNN`, `LSTM` or `GRU`, with any of its arguments.
        cell: None for `unrolled.RNN`, `LSTM` or `GRU`; a cell for a `Recurrent` of it, which must compute the
            same, as `lstm.with_options(forget_bias=1.0)` does.

    Raises:
        InputError: it is another module, or the cell computes something else.
    """
    ours = next((ours for theirs, ours in CLASSES.items() if isinstance(module, theirs)), None)
    if ours is None:
        raise InputError(f"a {type(module).__name__} is no torch.nn.RNN, LSTM or GRU")
    weight = next(module.parameters())
    common: dict[str, Any] = {
        "num_layers": module.num_layers,
        "bias": module.bias,
        "batch_first": module.batch_first,
        "dropout": module.dropout,
        "bidirectional": module.bidirectional,
        "device": weight.device,
        "dtype": weight.dtype,
    }
    own = {"nonlinearity": module.nonlinearity} if isinstance(module, nn.RNN) else {}
    own |= {"proj_size": module.proj_size} if module.proj_size else {}
    layer: Layer = ours(module.input_size, module.hidden_size, **common, **own)
    layer.load_state_dict({name: getattr(module, name) for name in layer.state_dict()})
    layer.train(module.training)
    if cell is None:
        return layer
    kind = find_kind(layer.cell)
    assert kind is not None
    if find_kind(cell) is not kind:
        raise InputError(
            f"the cell {cell.name!r} does not compute what this {type(module).__name__} does; "
            f"{kind.cell.name!r} does"
        )
    named = Recurrent(cell, module.input_size, layer.state_sizes, **common)
    for suffix in named.suffixes:
        fill(named, suffix, gates_of(layer, suffix))
        if module.proj_size:
            with torch.no_grad():
                named.parameters_of(suffix)["r.h"].copy_(getattr(module, f"weight_hr_{suffix}"))
    return named.train(module.training)


def to_torch(layer: Layer) -> nn.RNNBase:
    """torch's layer with the settings and the weights of ours; it computes the same.

    Coupled gates are written out: the input gate of torch gets the weights of f, negated.

    Raises:
        InputError: it is no layer of ours, or torch has none for its cell.
    """
    layer = checked(layer)
    if layer.batch_norm:
        raise InputError("torch.nn has no recurrent layer with batch_norm between its layers")
    kind, order = kind_in(computes(layer), "torch")
    h, c = layer.state_sizes["h"], layer.state_sizes.get("c")
    own: dict[str, object] = {"nonlinearity": kind.activation} if kind.name == "RNN" else {}
    if kind.name == "LSTM" and "r.h" in kind.cell.parameters:
        if h >= layer.state_sizes["c"]:
            raise InputError(f"torch.nn.LSTM projects to fewer values than it has units, not {c} to {h}")
        own["proj_size"] = h
    weight = next(layer.parameters())
    module: nn.RNNBase = getattr(nn, kind.name)(
        layer.input_size,
        c or h,
        num_layers=layer.num_layers,
        bias=layer.bias,
        batch_first=layer.batch_first,
        dropout=layer.dropout,
        bidirectional=layer.bidirectional,
        device=weight.device,
        dtype=layer.dtype,
        **own,
    )
    state: dict[str, Tensor] = {}
    for suffix in layer.suffixes:
        stacked = stack(gates_of(layer, suffix), order)
        state |= {f"weight_ih_{suffix}": stacked.x, f"weight_hh_{suffix}": stacked.h}
        if layer.bias:
            state |= {f"bias_ih_{suffix}": stacked.x_bias, f"bias_hh_{suffix}": stacked.h_bias}
        if "proj_size" in own:
            state[f"weight_hr_{suffix}"] = layer.parameters_of(suffix)["r.h"].detach()
    module.load_state_dict(state)
    return module.train(layer.training)
