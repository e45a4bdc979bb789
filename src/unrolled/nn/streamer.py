"""A layer one step at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from unrolled.compile.stream import Stream
from unrolled.errors import BackendError, InputError, check_sizes
from unrolled.nn.masks import Batch, Drawing
from unrolled.scan import cannot_run_directly

if TYPE_CHECKING:
    from unrolled.nn.stack import RecurrentStack

TOKENS: Final = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
"""What token numbers may be."""


class Streamer:
    """Runs all layers of a stack step by step, for inference, as sequences come in.

    `streamer(x_t)` returns the outputs of a step and keeps the states. Memory is taken and weights are packed
    once; a change of the parameters is noticed.

    Args:
        layer: a layer of this library that reads forwards.
        batch: how many sequences there are.
        tokens: whether inputs are token numbers.

    Attributes:
        state: the states by name, each (layers, B, H); `streamer.reset` sets them.

    Raises:
        InputError: the layer also reads backwards.
        BackendError: kernels cannot run the cell; the message says why.
    """

    def __init__(self, layer: RecurrentStack, batch: int = 1, *, tokens: bool = False) -> None:
        if layer.bidirectional:
            raise InputError("a layer that also reads backwards cannot run step by step")
        check_sizes(batch=batch)
        self.layer = layer
        self.batch = batch
        self._shape = (batch,) if tokens else (batch, layer.input_size)
        self._dtype = torch.long if tokens else layer.dtype
        with torch.inference_mode(False), torch.no_grad():
            self._x = torch.zeros(1, *self._shape, dtype=self._dtype)
            self._row = self._x[0]
            self.state = {name: value.clone() for name, value in layer.initial_state(batch).items()}
        self._build()

    def reset(self, state: Any = None) -> None:
        """Begin anew, with a state as the layer returns it or by name, or with its own.

        Raises:
            InputError: the state does not fit.
        """
        with torch.no_grad():
            given = self.layer.initial_state(self.batch) if state is None else state
            given = given if isinstance(given, Mapping) else self.layer.by_name(given)
            for name, value in self.layer.checked_state(given, self.batch).items():
                self.state[name].copy_(value)

    def __call__(self, x_t: Tensor) -> Tensor:
        """The outputs (B, H) of a step, memory that the next step writes over.

        Args:
            x_t: (B, D), or token numbers (B,).

        Raises:
            InputError: x_t does not fit.
        """
        fits = x_t.dtype == self._dtype or (self._dtype == torch.long and x_t.dtype in TOKENS)
        if x_t.shape != self._shape or not fits or not x_t.is_cpu:
            raise InputError(
                f"x_t is {x_t.dtype} of shape {tuple(x_t.shape)}, expected {self._dtype} of {self._shape}"
                + f" in memory, not on {x_t.device}" * (not x_t.is_cpu)
            )
        if self._stamp() != self._made_for:
            self._build()
        self._row.copy_(x_t.detach() if x_t.requires_grad else x_t)
        for stream in self._streams:
            stream.step()
        return self._y

    def _stamp(self) -> list[object]:
        """What tells whether parameters have changed, or others have taken their places."""
        found = (owner.get(name) for owner, name in self._places)
        stamp: list[object] = [None if p is None else (id(p), p.data_ptr(), p._version) for p in found]
        return [*stamp, *self.layer.regulariser.rates.values()]

    def _build(self) -> None:
        if self.layer.batch_norm is not None and self.layer.num_layers > 1:
            raise BackendError("no stream of a layer with batch_norm: its step method runs it")
        owners = ((module._parameters, module._buffers) for module in self.layer.modules())
        self._places = [(owner, name) for both in owners for owner in both for name in owner]
        self._streams: list[Stream] = []
        regulariser, x = self.layer.regulariser, self._x
        cell = regulariser.evaluation
        drawing = Drawing(regulariser, None, Batch(1, self.batch)) if cell.graph.draws else None
        with torch.inference_mode(False), torch.no_grad():
            for place, suffix in enumerate(self.layer.suffixes):
                parameters = {
                    name: value.detach().contiguous()
                    for name, value in self.layer.parameters_of(suffix).items()
                }
                tokens = not x.is_floating_point()
                if (reason := cannot_run_directly(cell, parameters, tokens)) is not None:
                    raise BackendError(f"no stream of cell {cell.name!r}: {reason}")
                graph = cell.graph_using(parameters)
                state = {name: value[place] for name, value in self.state.items()}
                leaves = None if drawing is None else drawing.leaves(cell, place)
                self._streams.append(Stream(graph, x, state, parameters, leaves))
                x = self._streams[-1].y
            self._y = x[0]
        self._made_for = self._stamp()  # now: in training, normalised matrices change when they are read
