"""The cells that ONNX has operators for, as these: LSTM, GRU and RNN."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from unrolled.convert.gates import Kind, Layer, computes, find_kind
from unrolled.export.nodes import Nodes


def operator_for(layer: Layer, tokens: bool) -> Kind | None:
    """What a layer is in ONNX; None where it has no operator for it, or one that is of no use.

    onnxruntime has these operators in float32 alone. They take tokens as one-hot vectors, which is not worth
    it where there are more tokens than rows in all gates together.
    """
    kind = find_kind(computes(layer))
    if kind is None or not kind.onnx or layer.dtype != torch.float32:
        return None
    rows = len(kind.onnx.split()) * layer.state_sizes["h"] * (1 + layer.bidirectional)
    return None if tokens and layer.input_size > rows else kind


def operator(
    nodes: Nodes,
    kind: Kind,
    tensors: Mapping[str, Tensor],
    place: str,
    x: str,
    state: Mapping[str, str],
    lengths: str | None,
) -> tuple[str, dict[str, str]]:
    """One layer in all its directions.

    Args:
        tensors: W, R, and B and P if they are there, as `unrolled.convert.to_onnx_operator` gives them.
        place: of the layer, for the names of its tensors.
        x: (T, B, D).
        state: the initial states by name, each (directions, B, H).
        lengths: (B,); None where all sequences have the same.

    Returns:
        the outputs (T, B, H · directions), and the final states by name, each (directions, B, H).
    """
    from onnx import TensorProto

    directions, _, H = tensors["R"].shape
    options: dict[str, object] = {}
    if kind.name == "RNN":
        options["activations"] = [kind.activation.capitalize()] * directions
    if kind.name == "GRU":
        options["linear_before_reset"] = int(kind.two_biases)
    W, R, B, P = (
        nodes.tensor(f"{place}.{name}", tensors[name]) if name in tensors else "" for name in "WRBP"
    )
    steps = nodes.call("Cast", lengths, to=TensorProto.INT32) if lengths else ""
    inputs = (x, W, R, B, steps, *state.values(), *[P] * bool(P))
    found, *finals = nodes.calls(
        kind.name,
        inputs,
        1 + len(state),
        hidden_size=H,
        direction="bidirectional" if directions == 2 else "forward",
        **options,
    )
    side_by_side = nodes.call("Transpose", found, perm=[0, 2, 1, 3])  # from (T, directions, B, H)
    outputs = nodes.call("Reshape", side_by_side, nodes.integers(0, 0, directions * H))
    after = dict(zip(state, finals, strict=True))
    if lengths:  # the final state of a sequence without steps is its first one; here it would be 0
        some = nodes.call("Greater", lengths, nodes.integers(0))
        column = nodes.call("Unsqueeze", some, nodes.integers(-1))
        after = {name: nodes.call("Where", column, value, state[name]) for name, value in after.items()}
    return outputs, after
