"""A recurrence on memory of its own: forward and backward without autograd."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from unrolled.compile.loop import loop_of
from unrolled.compile.recurrence import prepare
from unrolled.graph import Graph


class Direct:
    """One layer and direction of a cell, for inputs of one size and tensors that stay where they are.

    Addresses are put together once, so that a pass costs a call and nothing else.

    Args:
        x: (T, B, D), or tokens (T, B).
        d_x: where the gradient of x goes, if it is wanted.
        start, end: the states before and after, each (B, W), by name.
        parameters, gradients: by name, contiguous.

    Attributes:
        y, d_y: the outputs (T, B, W), and their gradient.
    """

    def __init__(
        self,
        graph: Graph,
        x: Tensor,
        d_x: Tensor | None,
        start: Mapping[str, Tensor],
        end: Mapping[str, Tensor],
        parameters: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
    ) -> None:
        dtype = next(iter(start.values())).dtype
        loop = loop_of(graph, dtype)
        prepared = prepare(loop, x, start, parameters, None, False, needs_x=d_x is not None, learning=True)
        self._forward, self._backward = prepared.plan("save"), prepared.plan("backward")
        y = f"y {graph.output}"
        self.y, self.d_y = (torch.zeros(prepared.shapes[y], dtype=dtype) for _ in range(2))
        tensors = {"x": x, y: self.y, f"d_{y}": self.d_y}
        tensors |= prepared.equal.tensors
        if d_x is not None:
            tensors["d_x"] = d_x
        for name in graph.states:
            tensors |= {f"start {name}": start[name], f"end {name}": end[name]}
            tensors |= {f"{what} {name}": torch.zeros_like(end[name]) for what in ("d_start", "d_end")}
        names = [name for name in loop.parameters if name in parameters]
        for k, name in enumerate(names):
            tensors |= {f"parameter {k}": parameters[name], f"d_parameter {k}": gradients[name]}
        if len(names) < len(loop.parameters):  # biases that are left out
            rest = f"parameter {len(names)}"
            nothing = (torch.zeros(prepared.shapes[rest], dtype=dtype) for _ in range(2))
            tensors |= dict(zip((rest, f"d_{rest}"), nothing, strict=True))
        work = max(plan.size["work"] for plan in (self._forward, self._backward))
        tensors["work"] = torch.empty(work, dtype=dtype)
        tensors["saved"] = torch.empty(self._forward.size["saved"], dtype=dtype)
        self._tensors = tensors  # they stay where they are
        self._addresses = self._forward.addresses(tensors), self._backward.addresses(tensors)

    def forward(self) -> None:
        """Write `y` and `end` from `x` and `start`."""
        self._forward.run(self._addresses[0])

    def backward(self) -> None:
        """Write the gradients from `d_y`; one that is always 0 is left as it is."""
        self._backward.run(self._addresses[1])
