"""A layer for any cell that looks at a memory before every step, with its parameters by gate name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from unrolled.attend import Attended, Memory, attend
from unrolled.cell import Cell
from unrolled.cells import find
from unrolled.compile.step import lower, run_to
from unrolled.errors import InputError, check_sizes
from unrolled.nn.attention import Attention
from unrolled.nn.gates import by_gate, parameters_by_gate
from unrolled.nn.initialise import Initialiser, initialise, initialise_matching
from unrolled.nn.watch import watcher
from unrolled.rewrite import CONTEXT, FED, normalise, with_context
from unrolled.scan import BACKENDS


class Attentive(nn.Module):
    """A cell through time, whose first state asks a memory before every step; what it finds enters the step.

        z_t = attention(h_{t−1}, memory)
        h_t = cell(x_t, z_t, h_{t−1})

    Args:
        cell: a cell, or a name of the zoo; it gets a context, see `unrolled.rewrite.with_context`.
        input_size: D.
        hidden_size: H, of every state.
        attention: of queries of width H.
        enters: "plain", "gated" or "fed".
        init: initialisers by pattern, as of `Recurrent`.
        norm: "layer" or "rms", as of `Recurrent`.
        backend: see `unrolled.scan.scan`.

    Attributes:
        cell: with its context.
        layer: its parameters, such as `layer.f.context`.

    Shapes: x (T, B, D); states (B, H).

    Raises:
        InputError, CellError: something does not fit.
    """

    def __init__(
        self,
        cell: Cell | str,
        input_size: int,
        hidden_size: int,
        attention: Attention,
        *,
        enters: str = "plain",
        init: Mapping[str, Initialiser] | None = None,
        norm: str | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_sizes(input_size=input_size, hidden_size=hidden_size)
        if backend not in BACKENDS:
            raise InputError(f"no backend {backend!r}; there are {', '.join(BACKENDS)}")
        if attention.query_size != hidden_size:
            raise InputError(
                f"the attention is for queries of {attention.query_size}, but states are {hidden_size} wide"
            )
        whole = with_context(find(cell) if isinstance(cell, str) else cell, enters)
        self.cell = whole if norm is None else normalise(whole, norm)
        self.input_size, self.hidden_size, self.enters = input_size, hidden_size, enters
        self.suffixes: tuple[str, ...] = ("l0",)  # as `unrolled.flow` calls its one place
        self.attention, self.backend, self.init = attention, backend, dict(init or {})
        graph = self.cell.graph_for(input_size, hidden_size)
        widths = graph.widths
        sizes = {widths[name]: hidden_size for name in graph.states}
        sizes |= {widths[self.cell.inputs[1]]: input_size, widths[self.cell.inputs[0]]: attention.memory_size}
        tensors = {
            name: nn.Parameter(torch.empty([sizes[s] for s in p.shape]))
            for name, p in graph.parameters.items()
        }
        self._starts = {name: p.init for name, p in graph.parameters.items()}
        self.layer = by_gate(tensors)
        self.cell.settle()
        self.reset_parameters()

    def parameters_by_name(self) -> dict[str, Tensor]:
        """The cell's learned tensors, as they are now."""
        return parameters_by_gate(self.layer, self._starts)

    @contextmanager
    def written(self) -> Iterator[dict[str, Tensor]]:
        """The tensors to write initial values into."""
        with torch.no_grad():
            yield self.parameters_by_name()

    def reset_parameters(self) -> None:
        """Draw the cell's initial values anew: within ±1/√H, biases 0, and what it or `init` asks for."""
        bound = 1 / math.sqrt(self.hidden_size)
        with self.written() as tensors:
            for name, tensor in tensors.items():
                how = self._starts[name]
                initialise(tensor, how if how is not None else f"uniform:{bound}")
            initialise_matching([*tensors.items()], self.init)

    def initial_state(self, batch: int) -> dict[str, Tensor]:
        """The cell's own, each (B, H)."""
        parameters = self.parameters_by_name()
        return self.cell.graph_using(parameters).start(batch, parameters)

    def forward(
        self,
        x: Tensor,
        memory: Memory,
        state: Mapping[str, Tensor] | None = None,
        *,
        last: Tensor | None = None,
        uniform: Tensor | None = None,
    ) -> Attended:
        """Outputs, contexts and weights of every step, and the final states.

        Args:
            memory: of `attention.memory(values, mask)`.
            state: by name, each (B, H); the cell's own if not given.
            last: the weights of the step before the first (B, S), for location-aware scores.
            uniform: (T, B), numbers by which places are drawn, for hard attention; see `unrolled.attend`.

        Raises:
            InputError: something does not fit.
        """
        if torch.is_autocast_enabled(x.device.type):  # kernels read memory as what its dtype says
            dtype = next(self.parameters()).dtype
            states = None if state is None else {name: value.to(dtype) for name, value in state.items()}
            with torch.autocast(x.device.type, enabled=False):
                return self.forward(x.to(dtype), memory.to(dtype), states, last=last, uniform=uniform)
        if x.ndim != 3 or x.shape[2] != self.input_size:
            raise InputError(f"x has shape {tuple(x.shape)}, expected (T, B, {self.input_size})")
        start = self.initial_state(x.shape[1]) if state is None else state
        given = self.cell, x, start, self.parameters_by_name(), memory
        if (looking_on := watcher()) is not None:
            return looking_on.attend(self, *given, last=last, uniform=uniform)
        return attend(*given, last=last, uniform=uniform, backend=self.backend)

    def fed(self, contexts: Tensor, h: Tensor) -> Tensor:
        """What enters the step after h, if enters="fed": from contexts (..., M) and states (..., H)."""
        own = self.parameters_by_name()
        step = lower(self.cell.graph_using(own).returning((FED,)))
        found: Tensor = run_to(step, step.results[FED], {CONTEXT: contexts, self.cell.states[0]: h}, own)
        return found

    def extra_repr(self) -> str:
        name = self.cell.name.partition(" with ")[0]
        return f"{name}, {self.input_size}, {self.hidden_size}, enters={self.enters!r}"
