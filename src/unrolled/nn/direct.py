"""A stack of layers without autograd, whose bookkeeping costs as much as a small network itself."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.utils.parametrize import is_parametrized

from unrolled.compile.direct import Direct
from unrolled.nn.stack import RecurrentStack
from unrolled.scan import cannot_run_directly


class DirectStack:
    """All layers of a stack, for token inputs of one size.

    Parameters are read, and their gradients written, where they are when this is made.

    Attributes:
        x: tokens (T, B), read by `forward`.
        y, d_y: the outputs (T, B, W), and where their gradient is put before `backward`.
    """

    def __init__(self, stack: RecurrentStack, T: int, B: int) -> None:
        self.x = torch.zeros(T, B, dtype=torch.long)
        self.layers: list[Direct] = []
        self._start, self._end = stack.initial_state(B), stack.initial_state(B)
        self._initial = stack.initial_state(B)
        x, d_x = self.x, None
        for place, suffix in enumerate(stack.suffixes):
            parameters = stack.parameters_of(suffix)
            gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
            values = {name: p.detach() for name, p in parameters.items()}
            graph = stack.cell.graph_using(parameters)
            start, end = (
                {name: value[place] for name, value in states.items()} for states in (self._start, self._end)
            )
            layer = Direct(graph, x, d_x, start, end, values, gradients)
            self.layers.append(layer)
            x, d_x = layer.y, layer.d_y
        self.y, self.d_y = self.layers[-1].y, self.layers[-1].d_y

    @staticmethod
    def why_not(stack: RecurrentStack) -> str | None:
        """Why a stack cannot be run this way, or None if it can."""
        if stack.bidirectional:
            return "it reads in both directions"
        if stack.batch_norm is not None and stack.num_layers > 1:
            return "it normalises batches between layers"
        if stack.regulariser.draws or (stack.dropout and stack.num_layers > 1):
            return "it drops values at random"
        if any(map(is_parametrized, stack.modules())):
            return "its matrices are computed from others"
        if stack.initial is not None:
            return "its initial states are learned"
        if stack.backend == "reference":
            return "it runs the reference"
        return cannot_run_directly(stack.cell, stack.parameters_of(stack.suffixes[0]))

    def forward(self, state: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """Write `y` from `x`; returns the states after it, by name, each (layers, B, H).

        Args:
            state: as it returns; None for the start.
        """
        for name, value in (state or self._initial).items():
            self._start[name].copy_(value)
        for layer in self.layers:
            layer.forward()
        return {name: value.clone() for name, value in self._end.items()}

    def backward(self) -> None:
        """Write the gradient of every parameter from `d_y`."""
        for layer in reversed(self.layers):
            layer.backward()
