"""Any cell through depth: layers instead of steps, each with weights of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, TypeGuard

import torch
from torch import Tensor, nn

from unrolled.cell import Cell
from unrolled.cells import find
from unrolled.compile.separate import through_layers
from unrolled.errors import CellError, InputError, check_sizes
from unrolled.nn.autocast import in_own_dtype
from unrolled.nn.batch_norm import BatchNorm
from unrolled.nn.gates import by_gate, parameters_by_gate
from unrolled.nn.initialise import Initialiser, initialise, initialise_matching
from unrolled.nn.through_time import policy_of, scan_in_chunks
from unrolled.nn.watch import watcher
from unrolled.nn.weight_norm import WeightNorms, normalise_weights, written
from unrolled.parameters import Untied
from unrolled.rewrite import normalise, without_input
from unrolled.scan import BACKENDS, scan
from unrolled.tracing import more_than_numbers
from unrolled.unroll.policies import Checkpointed, Policy, Truncated

WIDE: Final = 256
"""Units from which on large products of torch, layer by layer, are faster than one kernel over all layers."""

LARGE: Final = 1 << 17
"""Values of a layer's batch from which on they are so at any width."""


class Deep(nn.Module):
    """A cell through depth: A_t = cell(A_{t-1}; W_t) for t = 1, ..., depth.

    The same equations as through time, without an input: "rnn" is a plain network, "residual" and "highway"
    are those of these names, and an "lstm" carries its c from layer to layer. Parameters are named by gate
    and hold all layers: `layers.f.h` is (depth, width, width).

    Args:
        cell: a cell, from `unrolled.cells` or of one's own; or a name of the zoo, as in
            "residual(activation=tanh)".
        width: H, the units of every layer.
        depth: layers.
        tied: all layers have the same weights: a recurrence without input.
        bias: False leaves out every bias.
        init: initialisers by pattern, as in {"*.h": "orthogonal"}, for every layer anew; see
            `unrolled.nn.initialise`. Without: uniform within ±1/√H, biases 0, and what the cell asks for.
        norm: "layer", "rms" or "batch" normalises the summed inputs of the cell's maps, each with a gain such
            as `f.gain`; see `unrolled.rewrite.normalise` and `unrolled.nn.batch_norm.BatchNorm`.
        weight_norm: matrices are normalised where they are used, each layer's by itself: "weight", "spectral"
            or such as "spectral:0.9"; see `unrolled.nn.weight_norm`.
        backend: see `unrolled.scan.scan`; "auto" runs one compiled kernel over all layers where they are
            narrow, and torch's products layer by layer where these are faster: from 256 units on, or where a
            batch has 131,072 values in a layer.

    Shapes: A (B, H), or (H,) alone.

    Raises:
        InputError: an argument or an input does not fit.
        CellError: no cell has this name, or it cannot do without an input.

    Source: He et al. 2015, arXiv:1512.03385; Srivastava, Greff & Schmidhuber 2015, arXiv:1505.00387.
    """

    def __init__(
        self,
        cell: Cell | str,
        width: int,
        depth: int,
        *,
        tied: bool = False,
        bias: bool = True,
        init: Mapping[str, Initialiser] | None = None,
        norm: str | None = None,
        weight_norm: WeightNorms | None = None,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        cell = find(cell) if isinstance(cell, str) else cell
        if not isinstance(cell, Cell):
            raise InputError(f"cell is a {type(cell).__name__}, expected a cell or its name in the zoo")
        check_sizes(width=width, depth=depth)
        if backend not in BACKENDS:
            raise InputError(f"no backend {backend!r}; there are {', '.join(BACKENDS)}")
        if cell.outputs:
            raise CellError(
                f"cell {cell.name!r} hands on {cell.outputs[0]!r}, which is no state: a layer of a deep "
                "network hands on its first state"
            )
        self.cell = without_input(cell)
        if norm not in (None, "batch"):
            self.cell = normalise(self.cell, norm)
        self.width, self.depth, self.tied, self.bias = width, depth, tied, bias
        self.init, self.norm, self.backend = dict(init or {}), norm, backend
        layers = () if tied else (depth,)
        tensors = {
            name: nn.Parameter(torch.empty(*layers, *[width for _ in p.shape], device=device, dtype=dtype))
            for name, p in self.cell.parameters.items()
            if bias or not name.endswith(".bias")
        }
        self.batch_norm: BatchNorm | None = None
        if norm == "batch":
            self.batch_norm = BatchNorm(self.cell.graph, depth, width, device=device, dtype=dtype)
            gains = {f"{name}.gain": torch.empty(*layers, width, device=device, dtype=dtype)
                     for name in self.batch_norm.maps}  # fmt: skip
            tensors |= {name: nn.Parameter(gain) for name, gain in gains.items()}
        self.names = tuple(tensors)
        self.suffixes: tuple[str, ...] = ("depth",)  # as `unrolled.flow` calls its one place
        self.layers = by_gate(tensors)
        self.reset_parameters()
        self.weight_norm = weight_norm
        if weight_norm is not None:
            matrices = {n: n for n, p in self.cell.parameters.items() if len(p.shape) == 2}
            normalise_weights(self.layers, weight_norm, matrices)

    def stacked(self) -> dict[str, Tensor]:
        """The parameters by name, each with the layers as its first axis; without it where they are tied."""
        return parameters_by_gate(self.layers, self.names)

    @property
    def learned(self) -> Mapping[str, Tensor]:
        """The parameters as `unrolled.scan.scan` takes them."""
        return self.stacked() if self.tied else Untied(self.stacked())

    def reset_parameters(self) -> None:
        """Draw the initial values anew."""
        bound = 1 / math.sqrt(self.width)
        with written(self.layers, self.names) as tensors:
            for each in [tensors] if self.tied else Untied(tensors).each():
                for name, tensor in each.items():
                    known = self.cell.parameters.get(name)
                    how = 1.0 if known is None else known.init  # the gain of a batch norm
                    initialise(tensor, how if how is not None else f"uniform:{bound}")
                initialise_matching([*each.items()], self.init)

    def forward(
        self,
        A: Tensor,
        state: Mapping[str, Tensor] | None = None,
        *,
        bptt: Policy | None = None,
        return_states: bool = False,
    ) -> Any:
        """What the last layer hands on.

        Args:
            A: (B, H), what the first layer gets: the cell's first state.
            state: its other states by name, each (B, H), such as an LSTM's c; what the cell says if not
                given.
            bptt: how gradients go through the layers, see `unrolled.unroll.policies`: with
                `Checkpointed(memory="50MB")` layers run again instead of being kept.
            return_states: return also the states after every layer.

        Returns:
            A (B, H); with `return_states` a pair of that and the states by name, each (depth, B, H).

        Raises:
            InputError: something does not fit.
            BudgetError: see `Checkpointed`.
        """
        return self._through(A, state, bptt, return_states)

    @in_own_dtype
    def _through(
        self, A: Tensor, state: Mapping[str, Tensor] | None, bptt: Policy | None, return_states: bool
    ) -> Any:
        start = self._start(A, state or {})
        names = self.cell.states
        values, end = self._run(start, names if return_states else (), policy_of(bptt))

        def laid_out(value: Tensor) -> Tensor:
            return value if A.ndim == 2 else value.squeeze(-2)

        last = laid_out(end[names[0]])
        return (last, {name: laid_out(values[name]) for name in names}) if return_states else last

    def _start(self, A: Tensor, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The states that the first layer gets, each (B, H)."""
        first, *others = self.cell.states
        if not isinstance(A, Tensor) or A.ndim not in (1, 2) or A.shape[-1] != self.width:
            got = f"shape {tuple(A.shape)}" if isinstance(A, Tensor) else f"type {type(A).__name__}"
            raise InputError(f"A has {got}, expected (B, {self.width}), or ({self.width},)")
        if A.dtype != self.dtype:
            raise InputError(f"A is {A.dtype}, but the parameters are {self.dtype}")
        for name, value in state.items():
            if name not in others:
                known = ", ".join(others) or "none"
                raise InputError(f"there is no further state {name!r}; there are {known} besides {first!r}")
            if value.shape != A.shape:
                raise InputError(f"state {name!r} has shape {tuple(value.shape)}, expected {tuple(A.shape)}")
        given = {name: value if A.ndim == 2 else value[None] for name, value in {**state, first: A}.items()}
        return self.cell.graph.start(given[first].shape[0], self.learned) | given

    def _run(
        self,
        start: Mapping[str, Tensor],
        returning: tuple[str, ...],
        policy: Truncated | Checkpointed | None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The states of `returning` behind each layer, (depth, B, H), and all behind the last."""
        batch = start[self.cell.states[0]]
        nothing = batch.new_zeros(self.depth, batch.shape[0], 1)  # the input that there is none of
        learned = self.learned
        looking_on = watcher()
        if self.batch_norm is not None:
            own = self.stacked()
            whole = {n: v.expand(self.depth, *v.shape) if self.tied else v for n, v in own.items()}
            if self.training and looking_on is None:
                if policy is not None:
                    raise InputError(
                        "layers with batch norm do not run again: leave out bptt, or norm='batch'"
                    )
                return self.batch_norm.run(nothing, start, Untied(whole).each())
            learned = Untied(self.batch_norm.folded(whole))
        if looking_on is None and policy is None and self._separately(learned, start):
            return through_layers(self.cell.graph, start, learned, returning)
        run: Callable[..., Any] = scan if policy is None else partial(scan_in_chunks, policy=policy)
        if looking_on is not None:
            run = partial(looking_on, self, 0)
        values, end = run(
            self.cell,
            nothing,
            start,
            learned,
            rows=None,
            leaves=None,
            returning=returning,
            reverse=False,
            backend=self.backend,
        )
        return values if returning else {}, end

    def _separately(self, learned: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> TypeGuard[Untied]:
        """Whether torch's products run, layer by layer."""
        large = self.width >= WIDE or next(iter(start.values())).numel() >= LARGE
        if self.backend != "auto" or not large or not isinstance(learned, Untied):
            return False
        return not more_than_numbers(*start.values(), *learned.tensors.values())

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def extra_repr(self) -> str:
        parts = [self.cell.name.partition(" with ")[0], f"{self.width}, depth={self.depth}"]
        parts += [f"{name}=True" for name in ("tied",) if getattr(self, name)]
        given = {"norm": self.norm, "weight_norm": self.weight_norm}
        return ", ".join(parts + [f"{name}={value!r}" for name, value in given.items() if value])
