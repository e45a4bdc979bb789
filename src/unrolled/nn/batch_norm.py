"""Batch normalisation of the maps of a cell through depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unrolled.errors import InputError
from unrolled.graph import Graph, Node

MOMENTUM: Final = 0.1
"""How much a batch counts in the running statistics."""

EPS: Final = 1e-5


class BatchNorm(nn.Module):
    """The statistics of every map and layer of a cell; gains and biases are the cell's parameters.

        W_i h + b_i  becomes  (W_i h − μ) / √(σ² + eps) ⊙ γ_i + b_i

    In training μ and σ² are those of the batch, afterwards running means of them. Maps whose value is a new
    state are as before.

    Source: Ioffe & Szegedy 2015, arXiv:1502.03167.
    """

    def __init__(self, graph: Graph, depth: int, width: int, **how: Any) -> None:
        super().__init__()
        self.graph = graph
        affine = [(k, node) for k, node in enumerate(graph.nodes) if node.kind == "affine"]
        self.maps = tuple(dict.fromkeys(node.name for k, node in affine if k not in graph.results))
        for name in self.maps:
            self.register_buffer(f"{name}_mean", torch.zeros(depth, width, **how))
            self.register_buffer(f"{name}_variance", torch.ones(depth, width, **how))

    def statistics(self, name: str) -> tuple[Tensor, Tensor]:
        """The running mean and variance of a map, each (depth, W)."""
        return self.get_buffer(f"{name}_mean"), self.get_buffer(f"{name}_variance")

    def run(
        self, x: Tensor, state: Mapping[str, Tensor], each: Sequence[Mapping[str, Tensor]]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Layers in training, one after the other: the states behind each, (depth, B, W), and the last.

        Args:
            x: (depth, B, 1), the input that there is none of.
            each: the parameters of every layer.

        Raises:
            InputError: there is one row, whose variance is 0.
        """
        if x.shape[1] < 2:
            raise InputError("batch norm in training takes at least 2 rows, for one has no variance")
        now, found = dict(state), []
        for layer, parameters in enumerate(each):

            def normal(
                node: Node, value: Tensor, layer: int = layer, parameters: Mapping[str, Tensor] = parameters
            ) -> Tensor:
                if node.name not in self.maps:
                    bias = parameters.get(f"{node.name}.bias")
                    return value if bias is None else value + bias
                mean, variance = (each[layer] for each in self.statistics(node.name))
                gain, bias = (parameters.get(f"{node.name}.{last}") for last in ("gain", "bias"))
                return F.batch_norm(value, mean, variance, gain, bias, True, MOMENTUM, EPS)

            matrices = {name: value for name, value in parameters.items() if not name.endswith(".bias")}
            done = self.graph.values({self.graph.inputs[0]: x[layer], **now}, matrices, normal)
            now = {name: done[k] for name, k in zip(self.graph.states, self.graph.results, strict=False)}
            found.append(now)
        return {name: torch.stack([one[name] for one in found]) for name in now}, now

    def folded(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Parameters (depth, ...) with which the cell without this computes what it does after training."""
        found = {name: value for name, value in parameters.items() if not name.endswith(".gain")}
        for name in self.maps:
            mean, variance = self.statistics(name)
            scale = parameters[f"{name}.gain"] * torch.rsqrt(variance + EPS)
            for key in [key for key in found if key.partition(".")[0] == name]:
                if not key.endswith(".bias"):
                    found[key] = found[key] * scale[..., None]
            shift = -mean * scale
            bias = found.get(f"{name}.bias")
            found[f"{name}.bias"] = shift if bias is None else bias + shift
        return found
