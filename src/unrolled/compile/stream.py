"""A recurrence one step at a time, for inference: memory of its own, and weights that are packed once."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from unrolled.compile.loop import loop_of
from unrolled.compile.recurrence import prepare
from unrolled.graph import Graph
from unrolled.leaves import Leaves


class Stream:
    """One layer of a cell.

    Args:
        x: where its input is put, (1, B, D), or tokens (1, B).
        state: its states, each (B, W), by name; every step writes the new ones over them.
        leaves: the probabilities of what enters on average.
        parameters: by name, contiguous. They are read by the first step, and by the first after `changed`.

    Attributes:
        y: the outputs (1, B, W).
    """

    def __init__(
        self,
        graph: Graph,
        x: Tensor,
        state: Mapping[str, Tensor],
        parameters: Mapping[str, Tensor],
        leaves: Leaves | None = None,
    ) -> None:
        loop = loop_of(graph, next(iter(state.values())).dtype)
        prepared = prepare(loop, x, state, parameters, None, False, needs_x=False, learning=False)
        self._plan = prepared.plan("inference")
        name = f"y {graph.output}"
        self.y = torch.zeros(prepared.shapes[name], dtype=loop.dtype)
        tensors = {"x": x, name: self.y, **prepared.equal.tensors, **(leaves.tensors if leaves else {})}
        for key, value in state.items():
            tensors |= {f"start {key}": value, f"end {key}": value}
        others = sum(not key.startswith("parameter ") for key in prepared.names)
        there = [parameters[key] for key in loop.parameters if key in parameters]
        tensors |= {f"parameter {k}": value for k, value in enumerate(prepared.complete(there, others))}
        tensors |= {kind: torch.empty(size, dtype=loop.dtype) for kind, size in self._plan.size.items()}
        self._tensors = tensors
        self._addresses = self._plan.addresses(tensors)
        self._begun = False

    def changed(self) -> None:
        """The parameters are others now."""
        self._begun = False

    def step(self) -> None:
        """From x and the states to y and the new states."""
        self._plan.run(self._addresses, self._begun)
        self._begun = True
