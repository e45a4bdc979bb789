"""A recurrent layer as an ONNX model.

Cells that ONNX has operators for become LSTM, GRU and RNN (`unrolled.export.operators`); any other cell, and
any layer of float64, becomes a Scan over its own equations (`unrolled.export.scan`).
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

import unrolled
from unrolled.convert import to_onnx_operator
from unrolled.convert.gates import Layer, checked, computes
from unrolled.errors import BackendError, InputError
from unrolled.export.nodes import OPSET, Nodes
from unrolled.export.operators import operator, operator_for
from unrolled.export.scan import Inputs, scan
from unrolled.train.files import write_atomically

IR_VERSION: Final = 8
"""The version of the file format that came with these operators."""

LARGEST: Final = 2**31 - 2**20
"""Bytes of weights that one file can hold, with some left for the nodes."""


def export_onnx(
    layer: Layer,
    path: str | Path,
    *,
    tokens: bool = False,
    lengths: bool = False,
    head: nn.Linear | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a layer as an ONNX model, with all its layers and directions.

    The model takes any batch B and length T from 1, and computes what the layer does in evaluation: without
    dropout, and with states that zoneout gives on average. Its values, in float32 or float64 as the layer is:

        x            (T, B, D), or token numbers (T, B), int64; (B, T, …) with `batch_first`
        h_0, c_0, …  the initial states by name, each (layers · directions, B, H); where they are not 0, as
                     learned ones, `layer.initial_state(B)` gives them
        lengths      (B,), int64, where asked for: how many steps each sequence has, from 0 to T
        y            the outputs (T, B, H · directions), in the layout of x; 0 beyond a sequence's length
        h_n, c_n, …  the final states, to go on from

    Args:
        layer: an `RNN`, `LSTM`, `GRU` or `Recurrent`, of any cell.
        path: the file to write.
        tokens: x is token numbers.
        lengths: sequences may differ in length.
        head: a linear layer that is applied to the outputs; y is what it gives.
        metadata: further texts to keep in the file, by name.

    Raises:
        InputError: it is no layer of ours, the path names no file, the head does not fit, or the weights are
            too large for one file.
        BackendError: onnx is not installed, or the layer is neither of float32 nor of float64.
        CheckpointError: the file cannot be written.
    """
    layer, path = checked(layer), Path(path)
    if not path.name:
        raise InputError(f"{str(path)!r} is no file: give one, such as model.onnx")
    if head is not None and (not isinstance(head, nn.Linear) or head.in_features != layer.output_size):
        raise InputError(f"the head is {head}, expected a torch.nn.Linear of {layer.output_size} values")
    if find_spec("onnx") is None:
        raise BackendError("to write ONNX models the package onnx is needed: pip install 'unrolled[onnx]'")
    if layer.dtype not in (torch.float32, torch.float64):
        raise BackendError(f"ONNX models are written of float32 or float64 layers, not {layer.dtype}")
    with torch.no_grad():
        model = _model(layer, tokens, lengths, head)
    for name, text in (metadata or {}).items():
        model.metadata_props.add(key=name, value=text)
    write_atomically(path, model.SerializeToString())


def _model(layer: Layer, tokens: bool, lengths: bool, head: nn.Linear | None) -> Any:
    from onnx import TensorProto, helper, numpy_helper

    nodes = Nodes(layer.dtype)
    places = len(layer.suffixes)
    time: list[str | int] = ["B", "T"] if layer.batch_first else ["T", "B"]
    start = {name: f"{name}_0" for name in layer.state_sizes}
    entering = [
        nodes.declare("x", time, TensorProto.INT64)
        if tokens
        else nodes.declare("x", [*time, layer.input_size]),
        *(nodes.declare(f"{n}_0", [places, "B", size]) for n, size in layer.state_sizes.items()),
    ]
    if lengths:
        entering.append(nodes.declare("lengths", ["B"], TensorProto.INT64))
    y, finals = _layers(nodes, layer, tokens, lengths, start)
    size = layer.output_size
    if head is not None:
        y = nodes.call("MatMul", y, nodes.tensor("head.weight", head.weight.t()))
        size = head.out_features
        if head.bias is not None:
            y = nodes.call("Add", y, nodes.tensor("head.bias", head.bias))
    nodes.rename(nodes.call("Transpose", y, perm=[1, 0, 2]) if layer.batch_first else y, "y")
    leaving = [nodes.declare("y", [*time, size])]
    for name, values in finals.items():
        nodes.rename(nodes.call("Concat", *values, axis=0), f"{name}_n")
        leaving.append(nodes.declare(f"{name}_n", [places, "B", layer.state_sizes[name]]))
    if (total := sum(array.nbytes for array in nodes.tensors.values())) > LARGEST:
        raise InputError(f"the weights are {total:,} bytes, and one ONNX file holds {LARGEST:,}")
    graph = helper.make_graph(
        nodes.made,
        layer.cell.name,
        entering,
        leaving,
        [numpy_helper.from_array(array, name) for name, array in nodes.tensors.items()],
    )
    return helper.make_model(
        graph,
        producer_name="unrolled",
        producer_version=unrolled.__version__,
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )


def _layers(
    nodes: Nodes, layer: Layer, tokens: bool, lengths: bool, start: Mapping[str, str]
) -> tuple[str, dict[str, list[str]]]:
    """All layers: the outputs (T, B, ·), and the parts of each final state, to be joined."""
    ways = 1 + layer.bidirectional
    x = "x"
    if layer.batch_first:
        x = nodes.call("Transpose", x, perm=[1, 0] if tokens else [1, 0, 2])
    kinds = [operator_for(layer, tokens and not place) for place in range(layer.num_layers)]
    mask = _mask(nodes, x) if lengths and None in kinds else None
    finals: dict[str, list[str]] = {name: [] for name in start}
    tensors = None
    for place, kind in enumerate(kinds):
        if place and layer.batch_norm is not None:
            x = _batch_norm(nodes, layer.batch_norm[f"l{place}"], f"l{place}", x)
        read = Inputs(nodes, x, layer.input_size if tokens and not place else None, mask)
        if kind is not None:
            tensors = tensors or to_onnx_operator(layer)
            first = nodes.integers(place * ways)
            state = {
                name: nodes.call("Slice", value, first, nodes.integers((place + 1) * ways), nodes.integers(0))
                for name, value in start.items()
            }
            weights = {name: torch.from_numpy(value) for name, value in tensors[place].items()}
            x, after = operator(
                nodes, kind, weights, f"l{place}", read.dense, state, "lengths" if lengths else None
            )
            for name, value in after.items():
                finals[name].append(value)
            continue
        outputs = []
        for way in range(ways):
            row = place * ways + way
            suffix = layer.suffixes[row]
            parameters: Mapping[str, Tensor] = dict(layer.parameters_of(suffix))
            number = nodes.tensor(f"integer/{row}", torch.tensor(row))
            state = {name: nodes.call("Gather", value, number, axis=0) for name, value in start.items()}
            graph = computes(layer).graph_using(parameters)
            output, after = scan(
                nodes, graph, parameters, layer.regulariser.rates, suffix, read, state, bool(way)
            )
            outputs.append(output)
            for name, value in after.items():
                finals[name].append(nodes.call("Unsqueeze", value, nodes.integers(0)))
        x = nodes.call("Concat", *outputs, axis=-1) if ways == 2 else outputs[0]
    return x, finals


def _batch_norm(nodes: Nodes, norm: nn.Module, name: str, x: str) -> str:
    """What the norm does in evaluation: each feature times a number, plus another."""
    assert isinstance(norm, nn.BatchNorm1d)
    mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    factor = norm.weight / torch.sqrt(variance + norm.eps)
    scaled = nodes.call("Mul", x, nodes.tensor(f"{name}.batch_norm.factor", factor))
    return nodes.call("Add", scaled, nodes.tensor(f"{name}.batch_norm.rest", norm.bias - mean * factor))


def _mask(nodes: Nodes, x: str) -> str:
    """(T, B, 1), true at the steps that a sequence has."""
    zero, one = (nodes.tensor(f"integer/{k}", torch.tensor(k)) for k in (0, 1))
    steps = nodes.call("Squeeze", nodes.call("Shape", x, start=0, end=1), nodes.integers(0))
    numbers = nodes.call("Range", zero, steps, one)
    column = nodes.call("Reshape", numbers, nodes.integers(-1, 1, 1))
    return nodes.call("Less", column, nodes.call("Unsqueeze", "lengths", nodes.integers(-1)))
