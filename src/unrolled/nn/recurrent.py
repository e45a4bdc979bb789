"""A layer for any cell, with its parameters by gate name."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from unrolled.cell import Cell
from unrolled.cells import find
from unrolled.errors import InputError
from unrolled.nn.gates import by_gate
from unrolled.nn.initialise import Initialiser, initialise, initialise_matching
from unrolled.nn.masks import Masks, Regularisers
from unrolled.nn.stack import Options, RecurrentStack
from unrolled.nn.weight_norm import WeightNorms, written
from unrolled.rewrite import recurrent_matrices


class Recurrent(RecurrentStack):
    """Any cell through time.

    `layer(x, state)` returns the outputs of the last layer and the final states by name. Parameters are named
    by layer, gate and argument: `l0.f.x`, `l0.f.h`, `l0.f.bias`, `l1_reverse.p_i`.

    Args:
        cell: a cell, from `unrolled.cells` or of one's own; or a name of the zoo, as in "lstm(coupled=true)".
        input_size: D, the width of the input; for token inputs the size of the vocabulary.
        hidden_size: H, the width of the states; a mapping by state name where they differ, as in
            {"h": 64, "c": 256} for an LSTM with a projection. It may also say how wide maps are that have a
            width of their own, as in {"y1": 1, "y2": 1, "N": 16} for `narx`.
        num_layers: layers, each reading the outputs of the one below.
        bias: False leaves out every bias.
        batch_first: x and the outputs are (B, T, D) instead of (T, B, D); states are not changed by it.
        dropout: the probability of dropping a value between layers, in training.
        bidirectional: a second cell reads from the end; outputs are joined.
        init: initialisers by pattern, as in {"f.bias": 1.0, "*.h": "orthogonal"}; see
            `unrolled.nn.initialise`. Without: uniform within ±1/√H, biases 0, and what the cell asks for.
        learn_initial: initial states are parameters, `initial.h`, (layers · directions, H); they begin with
            what the cell says, and `init` may say otherwise, as in {"initial.*": "normal:0.1"}.
        norm: "layer" or "rms" normalises the summed inputs of the cell's maps, each with a gain such as
            `f.gain`; see `unrolled.rewrite.normalise`.
        batch_norm: values between layers are normalised over all real steps of all sequences
            (`torch.nn.BatchNorm1d`, as in Laurent et al. 2016, arXiv:1510.01378).
        weight_norm: matrices are normalised where they are used: "weight" for lengths apart from directions,
            "spectral" for a largest singular value of 1, or of 0.9 by "spectral:0.9". As text it means the
            matrices that read an old state; others by pattern, as in {"*.h": "spectral", "*.x": "weight"}.
            See `unrolled.nn.weight_norm`.
        backend: see `unrolled.scan.scan`.
        zoneout, recurrent_dropout, weight_dropout, variational: what else may be drawn in training, see
            `unrolled.nn.masks.Regularisers`.

    Shapes: x (T, B, D) or token numbers (T, B), also without B; outputs (T, B, H · directions); states
        (layers · directions, B, H).

    Raises:
        InputError: an argument or an input does not fit.
        CellError: no cell has this name.
    """

    def __init__(
        self,
        cell: Cell | str,
        input_size: int,
        hidden_size: int | Mapping[str, int],
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        init: Mapping[str, Initialiser] | None = None,
        learn_initial: bool = False,
        norm: str | None = None,
        batch_norm: bool = False,
        weight_norm: WeightNorms | None = None,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **regularisers: Unpack[Regularisers],
    ) -> None:
        cell = find(cell) if isinstance(cell, str) else cell
        if not isinstance(cell, Cell):
            raise InputError(f"cell is a {type(cell).__name__}, expected a cell or its name in the zoo")
        widths, own = _state_sizes(cell, hidden_size)
        super().__init__(
            cell,
            input_size,
            widths,
            num_layers,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            backend=backend,
            learn_initial=learn_initial,
            norm=norm,
            batch_norm=batch_norm,
            weight_norm=weight_norm,
            device=device,
            dtype=dtype,
            own_sizes=own,
            **regularisers,
        )
        self.bias = bias
        self.init = dict(init or {})
        self._places: dict[str, list[tuple[str, nn.Module, str]]] = {}  # names, and where they are
        for place, suffix in enumerate(self.suffixes):
            below = self.input_size_of(place // (1 + bidirectional))
            graph = self.cell.graph_for(below, widths[cell.states[0]])
            sizes = self.sizes | {graph.widths[cell.inputs[0]]: below}
            tensors = {
                name: nn.Parameter(torch.empty([sizes[s] for s in p.shape], device=device, dtype=dtype))
                for name, p in graph.parameters.items()
                if bias or not name.endswith(".bias")
            }
            self.add_module(suffix, by_gate(tensors))
            self._places[suffix] = [
                (name, self.get_submodule(".".join((suffix, *path))), last)
                for name, (*path, last) in ((name, name.split(".")) for name in tensors)
            ]
        self.reset_parameters()
        self._normalise_weights()

    def forward(
        self,
        x: Tensor | PackedSequence,
        state: Mapping[str, Tensor] | None = None,
        **options: Unpack[Options],
    ) -> tuple[Any, ...]:
        """The outputs, the final states, and where asked for what was at every step; see `run`."""
        output, end, steps = self.run(x, state, **options)
        return (output, end, steps) if steps else (output, end)

    def step(
        self, x_t: Tensor, state: Mapping[str, Tensor] | None = None, *, masks: Masks | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One step of all layers, for x_t (B, D) or token numbers (B,): what a sequence of one step gives."""
        return self.run_step(x_t, state, masks)

    def parameters_of(self, suffix: str) -> dict[str, Tensor]:
        return {name: getattr(module, last) for name, module, last in self._places[suffix]}

    def biases_of(self, suffix: str, gate: str) -> tuple[Tensor, ...]:
        own = self.parameters_of(suffix)
        return tuple(own[name] for name in (f"{gate}.bias", f"bias_{gate}") if name in own)

    @property
    def _like(self) -> Tensor:
        _, module, name = self._places["l0"][0]
        found = module._parameters.get(name)  # none of one that is parametrised
        return super()._like if found is None else found

    def _matrices(self) -> Mapping[str, str]:
        return {
            f"{suffix}.{name}": name
            for suffix, places in self._places.items()
            for name, module, last in places
            if module.get_parameter(last).ndim > 1
        }

    def _recurrent(self) -> Collection[str]:
        return recurrent_matrices(self.cell.graph)

    @contextmanager
    def written(self) -> Iterator[dict[str, dict[str, Tensor]]]:
        """The parameters of each layer and direction, to be filled in place; see
        `unrolled.nn.weight_norm.written`."""
        names = {suffix: [name for name, *_ in places] for suffix, places in self._places.items()}
        with written(self, (f"{suffix}.{name}" for suffix, own in names.items() for name in own)) as tensors:
            yield {s: {name: tensors[f"{s}.{name}"] for name in own} for s, own in names.items()}

    def reset_parameters(self) -> None:
        """Draw the initial values anew."""
        wanted = {
            name: p.init
            for graph in (self.cell.square, self.cell.graph)
            for name, p in graph.parameters.items()
        }
        bound = 1 / math.sqrt(self.state_sizes[self.cell.states[0]])
        self.reset_initial()
        with self.written() as layers:
            for tensors in layers.values():
                for name, tensor in tensors.items():
                    how = wanted[name]
                    initialise(tensor, how if how is not None else f"uniform:{bound}")
            everything = [pair for tensors in layers.values() for pair in tensors.items()]
            everything += [(f"initial.{n}", t) for n, t in (self.initial.items() if self.initial else ())]
            initialise_matching(everything, self.init)

    def extra_repr(self) -> str:
        return f"{self.cell.name}, {super().extra_repr()}"


def _state_sizes(cell: Cell, hidden_size: int | Mapping[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    """The widths of the states by name, and those of maps that have one of their own by symbol: as wide as
    the first state where it is not said."""
    own = cell.graph.own_widths
    if not isinstance(hidden_size, Mapping):
        return dict.fromkeys(cell.states, hidden_size), dict.fromkeys(own, hidden_size)
    if hidden_size.keys() - {*own} != {*cell.states}:
        besides = f"; widths of their own are {', '.join(own)}" if own else ""
        raise InputError(
            f"hidden_size names {', '.join(hidden_size)}; the states are {', '.join(cell.states)}{besides}"
        )
    by_symbol: dict[str, int] = {}
    for name in cell.states:
        if by_symbol.setdefault(cell.graph.widths[name], hidden_size[name]) != hidden_size[name]:
            raise InputError(
                f"the states of cell {cell.name!r} must be of one width, got {dict(hidden_size)}"
            )
    states = {name: hidden_size[name] for name in cell.states}
    return states, {symbol: hidden_size.get(symbol, states[cell.states[0]]) for symbol in own}
