"""What every recurrent layer shares: layers, directions, dropout between layers, layouts.

A subclass says where the parameters of one layer and direction are; the rest is here.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unrolled.cell import Cell
from unrolled.errors import InputError
from unrolled.scan import scan


class RecurrentStack(nn.Module):
    """A cell run through time, in one or more layers and one or both directions.

    Attributes:
        cell: the cell.
        state_sizes: the width of each state by name.
        output_size: the width of the output, both directions together.
    """

    def __init__(
        self,
        cell: Cell,
        input_size: int,
        state_sizes: Mapping[str, int],
        num_layers: int = 1,
        *,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        if len(cell.inputs) != 1:
            raise InputError(
                f"a layer feeds a cell one input, but {cell.name!r} takes {cell.inputs or 'none'}"
            )
        hidden = {f"hidden_size of {name}": size for name, size in state_sizes.items()}
        for what, size in {"input_size": input_size, "num_layers": num_layers, **hidden}.items():
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise InputError(f"{what} must be a whole number of at least 1, got {size!r}")
        if isinstance(dropout, bool) or not 0 <= dropout <= 1:
            raise InputError(f"dropout must be between 0 and 1, got {dropout!r}")
        self.cell = cell
        self.input_size = input_size
        self.state_sizes = dict(state_sizes)
        self.num_layers = num_layers
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.backend = backend
        self._parameters_tell = cell.graph.parameters_tell and cell.square.parameters_tell
        self.suffixes = tuple(
            f"l{layer}{way}" for layer in range(num_layers) for way in ("", "_reverse")[: 1 + bidirectional]
        )

    @property
    def sizes(self) -> dict[str, int]:
        """The width symbols of the states, as in `cell.parameters`."""
        return {self.cell.graph.widths[name]: size for name, size in self.state_sizes.items()}

    @property
    def output_size(self) -> int:
        return self.input_size_of(self.num_layers)

    def input_size_of(self, layer: int) -> int:
        """The width of what a layer reads, which is what the one below hands on."""
        if not layer:
            return self.input_size
        own = self.sizes.get(self.cell.graph.output_width)
        return (own or self.input_size_of(layer - 1)) * (1 + self.bidirectional)

    def parameters_of(self, suffix: str) -> Mapping[str, Tensor]:
        """The cell's parameters by gate name for one layer and direction, such as "l0" or "l1_reverse"."""
        raise NotImplementedError

    @property
    def dtype(self) -> torch.dtype:
        """What the parameters are."""
        return next(self.parameters()).dtype

    def initial_state(self, batch: int, like: Tensor | None = None) -> dict[str, Tensor]:
        """The state before the first step, by name, each (layers * directions, B, H)."""
        like = like if like is not None else next(self.parameters())
        return {
            name: like.new_full((len(self.suffixes), batch, size), self.cell.graph.initial.get(name, 0.0))
            for name, size in self.state_sizes.items()
        }

    def run(self, x: Tensor, state: Mapping[str, Tensor] | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Run all layers.

        Args:
            x: (T, B, D), or (B, T, D) with `batch_first`, or (T, D) without a batch; integers without the
                last axis are token numbers.
            state: by name, each (layers * directions, B, H), without B if x has no batch; None for the start.

        Returns:
            the last layer's outputs in the layout of x, and the final states by name.

        Raises:
            InputError: something does not fit; the message names it.
        """
        if not isinstance(x, Tensor):
            raise InputError(f"x is a {type(x).__name__}, expected a tensor")
        tokens = not x.is_floating_point()
        axes = x.ndim + tokens
        self._check_input(x, tokens, axes)
        batched = axes == 3
        if not batched:
            x = x.unsqueeze(1)
        elif self.batch_first:
            x = x.transpose(0, 1)
        given = None
        if state is not None:
            given = self._check_state(state, x.shape[1], batched)
        elif not self._parameters_tell:
            given = self.initial_state(x.shape[1])
        finals: list[dict[str, Tensor]] = []
        for layer in range(self.num_layers):
            if layer and self.dropout:
                x = F.dropout(x, self.dropout, self.training)
            outputs = []
            for reverse in range(1 + self.bidirectional):
                place = len(finals)
                y, final = scan(
                    self.cell,
                    x,
                    {name: value[place] for name, value in given.items()} if given else None,
                    self.parameters_of(self.suffixes[place]),
                    reverse=bool(reverse),
                    backend=self.backend,
                )
                outputs.append(y)
                finals.append(final)
            x = torch.cat(outputs, -1) if self.bidirectional else outputs[0]
        end = {
            name: torch.stack([f[name] for f in finals]) if finals[1:] else finals[0][name].unsqueeze(0)
            for name in self.cell.states
        }
        if not batched:
            return x.squeeze(1), {name: value.squeeze(1) for name, value in end.items()}
        return x.transpose(0, 1) if self.batch_first else x, end

    def _check_input(self, x: Tensor, tokens: bool, axes: int) -> None:
        layout = ("B, T" if self.batch_first else "T, B") + ("" if tokens else f", {self.input_size}")
        if x.dtype == torch.bool or x.is_complex():
            raise InputError(f"x is {x.dtype}, expected floats, or integers as token numbers")
        if axes not in (2, 3):
            raise InputError(f"x has shape {tuple(x.shape)}, expected ({layout})")
        if not tokens and x.shape[-1] != self.input_size:
            raise InputError(f"x has {x.shape[-1]} features in its last axis, expected {self.input_size}")
        if x.numel() == 0 and 0 in x.shape[: 2 if axes == 3 else 1]:
            raise InputError(f"x has shape {tuple(x.shape)}: a sequence needs at least one step and one row")
        if not tokens and x.dtype != (dtype := self.dtype):
            raise InputError(f"x is {x.dtype}, but the layer is {dtype}; use x.to({dtype})")

    def _check_state(self, state: Mapping[str, Tensor], batch: int, batched: bool) -> dict[str, Tensor]:
        if not isinstance(state, Mapping):
            names = ", ".join(self.state_sizes)
            raise InputError(
                f"the state is a {type(state).__name__}, expected a mapping from {names} to tensors"
            )
        if state.keys() != self.state_sizes.keys():
            raise InputError(f"the state has {', '.join(state)}, expected {', '.join(self.state_sizes)}")
        checked = {}
        for name, size in self.state_sizes.items():
            shape = (len(self.suffixes), *((batch,) if batched else ()), size)
            if not isinstance(state[name], Tensor):
                raise InputError(
                    f"state {name!r} is a {type(state[name]).__name__}, expected a tensor {shape}"
                )
            if state[name].dtype != (dtype := self.dtype):
                raise InputError(f"state {name!r} is {state[name].dtype}, but the layer is {dtype}")
            if tuple(state[name].shape) != shape:
                raise InputError(f"state {name!r} has shape {tuple(state[name].shape)}, expected {shape}")
            checked[name] = state[name] if batched else state[name].unsqueeze(1)
        return checked

    def extra_repr(self) -> str:
        sizes = set(self.state_sizes.values())
        hidden = str(*sizes) if len(sizes) == 1 else str(self.state_sizes)
        parts = [f"{self.input_size}, {hidden}"]
        parts += [f"num_layers={self.num_layers}"] * (self.num_layers > 1)
        parts += [f"dropout={self.dropout}"] * bool(self.dropout)
        parts += [f"{name}=True" for name in ("batch_first", "bidirectional") if getattr(self, name)]
        return ", ".join(parts)
