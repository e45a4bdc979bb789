"""What every recurrent layer shares: layers, directions, dropout between layers, layouts.

A subclass says where the parameters of one layer and direction are; the rest is here.
"""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, Self, TypedDict, Unpack

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from unrolled.cell import Cell
from unrolled.errors import BackendError, InputError, check_sizes
from unrolled.nn.autocast import in_own_dtype
from unrolled.nn.checks import (
    check_flags,
    check_input,
    check_names,
    checked_lengths,
    checked_resets,
    checked_state,
)
from unrolled.nn.in_graph import PackedInGraph, check_mapped
from unrolled.nn.layers import run_layers
from unrolled.nn.masks import Batch, Drawing, Masks, Regulariser, Regularisers, check_probability
from unrolled.nn.packing import Packed
from unrolled.nn.streamer import Streamer
from unrolled.nn.through_time import layers_in_chunks, policy_of, share
from unrolled.nn.weight_norm import WeightNorms, normalise_weights
from unrolled.parameters import Stacked
from unrolled.rewrite import normalise
from unrolled.rows import Rows
from unrolled.tracing import more_than_numbers
from unrolled.unroll.policies import Policy


class Options(TypedDict, total=False):
    """What a call of a layer may ask for besides; see `RecurrentStack.run`."""

    lengths: Tensor | Sequence[int] | None
    resets: Tensor | None
    masks: Masks | None
    bptt: Policy | None
    return_states: bool
    return_gates: bool


class RecurrentStack(nn.Module):
    """A cell run through time, in one or more layers and one or both directions.

    Attributes:
        cell: the cell.
        regulariser: the cells that run in its place, and the probabilities of what is drawn.
        state_sizes: the width of each state by name.
        own_sizes: that of maps with a width of their own, by its symbol.
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
        learn_initial: bool = False,
        norm: str | None = None,
        batch_norm: bool = False,
        weight_norm: WeightNorms | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        own_sizes: Mapping[str, int] | None = None,
        **regularisers: Unpack[Regularisers],
    ) -> None:
        super().__init__()
        if len(cell.inputs) != 1:
            raise InputError(
                f"a layer feeds a cell one input, but {cell.name!r} takes {cell.inputs or 'none'}"
            )
        self.own_sizes = dict(own_sizes or {})
        sizes = {**state_sizes, **self.own_sizes}
        hidden = {f"hidden_size of {name}": size for name, size in sizes.items()}
        check_sizes(input_size=input_size, num_layers=num_layers, **hidden)
        check_flags(batch_first=batch_first, bidirectional=bidirectional, batch_norm=batch_norm)
        check_probability("dropout", dropout)
        check_names(type(self).__name__, regularisers, Regularisers.__annotations__)
        self.norm = norm
        self.weight_norm = weight_norm
        self.cell = cell = cell if norm is None else normalise(cell, norm)
        self.regulariser = Regulariser(cell, num_layers * (1 + bidirectional), **regularisers)
        self._longer: dict[tuple[str, ...], dict[str, tuple[int, int, int]]] = {}
        self.input_size = input_size
        self.state_sizes = dict(state_sizes)
        self.num_layers = num_layers
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.backend = backend
        self._streamers: dict[tuple[int, bool, torch.dtype, int], Streamer | None] = {}
        self._gates = tuple(name for name in cell.graph.gates if name in cell.square.gates)
        self._parameters_tell = cell.graph.parameters_tell and cell.square.parameters_tell
        self.suffixes = tuple(
            f"l{layer}{way}" for layer in range(num_layers) for way in ("", "_reverse")[: 1 + bidirectional]
        )
        self.initial = nn.ParameterDict() if learn_initial else None
        for name, size in self.state_sizes.items():
            if self.initial is not None and math.isfinite(cell.graph.initial.get(name, 0.0)):
                value = torch.empty(len(self.suffixes), size, device=device, dtype=dtype)
                self.initial[name] = nn.Parameter(value)
        norms = {
            f"l{layer}": nn.BatchNorm1d(self.input_size_of(layer), device=device, dtype=dtype)
            for layer in range(1, num_layers)
        }
        self.batch_norm = nn.ModuleDict(norms) if batch_norm else None
        self.reset_initial()

    def reset_initial(self) -> None:
        """Set learned initial states to what the cell's states start from; batch norms begin anew."""
        for module in self.batch_norm.values() if self.batch_norm is not None else ():
            assert isinstance(module, nn.BatchNorm1d)
            module.reset_parameters()
        with torch.no_grad():
            for name, value in self.initial.items() if self.initial is not None else ():
                value.fill_(self.cell.graph.initial.get(name, 0.0))

    @property
    def sizes(self) -> dict[str, int]:
        """The width symbols of the states and of maps, as in `cell.parameters`."""
        return {self.cell.graph.widths[n]: size for n, size in self.state_sizes.items()} | self.own_sizes

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

    def biases_of(self, suffix: str, gate: str) -> tuple[Tensor, ...]:
        """The learned biases that add up in a gate of one layer and direction; none if it has none."""
        raise NotImplementedError

    def _matrices(self) -> Mapping[str, str]:
        """What patterns call the matrices, by their full names."""
        raise NotImplementedError

    def _recurrent(self) -> Collection[str]:
        """Which of these names are those of matrices that read an old state."""
        raise NotImplementedError

    def _normalise_weights(self) -> None:
        """What `weight_norm` asks for, once the parameters are there."""
        if self.weight_norm is None:
            return
        names = self._matrices()
        if isinstance(self.weight_norm, str):
            recurrent = self._recurrent()
            names = {full: name for full, name in names.items() if name in recurrent}
            if not names:
                raise InputError(
                    f"weight_norm needs a matrix that reads a state, and cell {self.cell.name!r} has none; "
                    'for others give it by pattern, as in {"*.x": "weight"}'
                )
        normalise_weights(self, self.weight_norm, names)

    def by_name(self, state: Any) -> Mapping[str, Tensor]:
        """A state as this layer returns it, by name."""
        return state  # type: ignore[no-any-return]

    @property
    def _like(self) -> Tensor:
        """One of the parameters, which all have one dtype and device."""
        return next(self.parameters())

    @property
    def dtype(self) -> torch.dtype:
        """What the parameters are."""
        return self._like.dtype

    def initial_state(self, batch: int, like: Tensor | None = None) -> dict[str, Tensor]:
        """The state before the first step, by name, each (layers * directions, B, H)."""
        like = like if like is not None else self._like
        learned: Mapping[str, Tensor] = dict(self.initial.items()) if self.initial is not None else {}
        return {
            name: learned[name].unsqueeze(1).expand(-1, batch, -1)
            if name in learned
            else like.new_full((len(self.suffixes), batch, size), self.cell.graph.initial.get(name, 0.0))
            for name, size in self.state_sizes.items()
        }

    @in_own_dtype
    def run(
        self,
        x: Tensor | PackedSequence,
        state: Mapping[str, Tensor] | None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        resets: Tensor | None = None,
        masks: Masks | None = None,
        bptt: Policy | None = None,
        return_states: bool = False,
        return_gates: bool = False,
    ) -> tuple[Any, dict[str, Tensor], dict[str, Any]]:
        """Run all layers.

        Args:
            x: (T, B, D), or (B, T, D) with `batch_first`, or (T, D) without a batch; integers without the
                last axis are token numbers. Or a `PackedSequence` of either.
            state: by name, each (layers * directions, B, H), without B if x has no batch; None for the start.
            lengths: how many steps each sequence has, from 0 to T; what is beyond is not read, and outputs
                there are 0. Final states are those after the last step of each. For torch.compile a tensor:
                of a list it would take every number for a constant.
            resets: bools, (T, B) in the layout of x: before a marked step the state returns to its initial
                value, and no gradient crosses. To a layer that runs backwards it does so after that step.
            masks: of `layer.masks()`, to go on with those of an earlier chunk of the same sequences;
                otherwise every call draws new ones. In evaluation there are none.
            bptt: how gradients go through time, in steps: `Checkpointed(memory="200MB")` for the exact
                gradient in less memory, `Truncated(k1, k2)`, or `Full()`, as without. x, the outputs and
                their gradients are not counted. Chunks of time go through all layers; those of a layer that
                also reads backwards, or normalises batches, through one after the other.
            return_states: every state at every step.
            return_gates: every vector that the cell's author named, and every output, at every step.

        Returns:
            the last layer's outputs in the layout of x, the final states by name, and what was asked for at
            every step by name, each (layers * directions, T, B, H), or with B and T in the layout of x. Of a
            `PackedSequence` these are lists, one `PackedSequence` for each layer and direction.

        Raises:
            InputError: something does not fit; the message names it.
            BudgetError: the memory is too little; the message says how much it takes.
        """
        policy = None if bptt is None else policy_of(bptt)
        learned = tuple(self.initial) if self.initial is not None and resets is not None else ()
        if torch.compiler.is_compiling():
            self.regulariser.settle(learned)
        returning = self.cell.states * return_states + self._gates * return_gates
        if isinstance(x, PackedSequence):
            if lengths is not None or resets is not None:
                raise InputError("a PackedSequence has its own lengths, and takes no resets: give padded x")
            if policy is not None:
                raise InputError("bptt goes through padded x: give that and lengths, not a PackedSequence")
            check_input(x.data, "N", self.input_size, self._like)
            packed = (PackedInGraph if more_than_numbers(x.batch_sizes) else Packed)(x)
            given = self._given(state, packed.B, batched=True)
            batch = Batch(packed.T, packed.B, packed)
            drawing = self.regulariser.drawing(masks, self.training, batch)
            given = {name: packed.start(value) for name, value in given.items()} if given else None
            y, end, values = run_layers(
                self, x.data, given, packed.rows, drawing, self._all_parameters(drawing), returning
            )
            end = {name: packed.end(value) for name, value in end.items()}
            if masks is not None and drawing is not None:
                drawing.finish()
            each = {name: [*map(packed.unpack, found)] for name, found in values.items()}
            return packed.unpack(y), end, each
        if not isinstance(x, Tensor):
            raise InputError(f"x is a {type(x).__name__}, expected a tensor")
        batched = check_input(x, "B, T" if self.batch_first else "T, B", self.input_size, self._like)
        if not batched:
            x = x.unsqueeze(1)
        elif self.batch_first:
            x = x.transpose(0, 1)
        given = self._given(state, x.shape[1], batched)
        T, B = x.shape[:2]
        if not batched and (lengths is not None or resets is not None):
            raise InputError("lengths and resets are those of a batch, but x has none: use x.unsqueeze")
        if resets is not None:
            resets = checked_resets(resets, (B, T) if self.batch_first else (T, B))
            resets = resets.t() if self.batch_first else resets
        rows = None
        if lengths is not None and B:
            check_mapped(lengths)
            rows = Rows.of_batch(T, checked_lengths(lengths, T, B))
        if rows is not None and not more_than_numbers(x) and rows.steps == T * B:
            rows = None  # nothing is left out
        batch = Batch(T, B, rows=rows, resets=resets, learned=learned)
        if bptt is not None and masks is None and self._drops:
            masks = self.masks()  # a chunk that runs again finds the same
        if policy is not None:
            given = given or self.initial_state(B)
        if policy is not None and not self.bidirectional and self.batch_norm is None:
            of_weights = self.regulariser.drawing(masks, self.training, Batch(1, B))
            parameters = self._all_parameters(of_weights, learned)
            run = partial(run_layers, self, returning=returning)
            y, end, values = layers_in_chunks(
                run, self.regulariser, self.training, x, given or {}, batch, masks, parameters, policy
            )
        else:
            drawing = self.regulariser.drawing(masks, self.training, batch)
            parameters = self._all_parameters(drawing, learned)
            if policy is not None:
                width = sum(map(self.input_size_of, range(1, self.num_layers)))
                policy = share(policy, len(self.suffixes), between=3 * T * B * width * self.dtype.itemsize)
            y, end, values = run_layers(self, x, given, rows, drawing, parameters, returning, policy)
            if masks is not None and drawing is not None:
                drawing.finish()

        def laid_out(value: Tensor) -> Tensor:
            if not batched:
                return value.squeeze(1)
            return value.transpose(0, 1) if self.batch_first else value

        if not batched:
            end = {name: value.squeeze(1) for name, value in end.items()}
        stacked = {name: torch.stack([*map(laid_out, found)]) for name, found in values.items()}
        return laid_out(y), end, stacked

    @property
    def _drops(self) -> bool:
        """Whether values are drawn at random now."""
        return self.training and (self.regulariser.draws or bool(self.dropout and self.num_layers > 1))

    def _all_parameters(
        self, drawing: Drawing | None, learned: tuple[str, ...] = ()
    ) -> list[Mapping[str, Tensor]]:
        """The parameters of each layer and direction as they are in this pass."""
        found = []
        for place, suffix in enumerate(self.suffixes):
            parameters = self.parameters_of(suffix)
            if drawing is not None:
                parameters = drawing.weights(parameters, place)
            found.append(self._with_initial(parameters, learned, place))
        return found

    def _with_initial(
        self, parameters: Mapping[str, Tensor], learned: tuple[str, ...], place: int
    ) -> Mapping[str, Tensor]:
        """The parameters of a layer and direction, and its learned initial states as `initial.NAME`."""
        if not learned or self.initial is None:
            return parameters
        more = {f"initial.{name}": self.initial[name][place] for name in learned}
        if not isinstance(parameters, Stacked):
            return {**parameters, **more}
        first = len(parameters.tensors)
        parts = {name: (first + k, 0, len(value)) for k, (name, value) in enumerate(more.items())}
        # one object for all calls: plans are found by it
        parts = self._longer.setdefault(learned, {**parameters.parts, **parts})
        return Stacked((*parameters.tensors, *more.values()), parts)

    def masks(self, generator: torch.Generator | None = None) -> Masks:
        """New masks for a batch of sequences.

        Args:
            generator: what they are drawn with; torch's own if not given.
        """
        return self.regulariser.masks(generator)

    @in_own_dtype
    def run_step(
        self, x_t: Tensor, state: Mapping[str, Tensor] | None, masks: Masks | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One step of all layers: what a sequence of one step gives.

        Args:
            x_t: (B, D), or token numbers (B,); or without B.
            state: by name, each (layers, B, H), without B if x_t has no batch; None for the start.
            masks: see `run`.

        Returns:
            the outputs (B, H), and the new states.

        Raises:
            InputError: something does not fit, or the layer also reads backwards.
        """
        if self.bidirectional:
            raise InputError("a layer that also reads backwards cannot run step by step")
        if not isinstance(x_t, Tensor):
            raise InputError(f"x_t is a {type(x_t).__name__}, expected a tensor")
        tokens = not x_t.is_floating_point()
        axes = x_t.ndim + tokens
        if axes not in (1, 2):
            expected = "(B,), or none" if tokens else f"(B, {self.input_size}), or ({self.input_size},)"
            raise InputError(f"x_t has shape {tuple(x_t.shape)}, expected {expected} without a batch")
        if not torch.is_grad_enabled() and not self._drops and (streamer := self._streamer(x_t)) is not None:
            streamer.reset(state)
            return streamer(x_t).clone(), {name: value.clone() for name, value in streamer.state.items()}
        time = 1 if self.batch_first and axes == 2 else 0
        y, end, _ = self.run(x_t.unsqueeze(time), state, masks=masks)
        return y.squeeze(time), end

    def _streamer(self, x_t: Tensor) -> Streamer | None:
        """This thread's streamer for such steps; None where there can be none."""
        if torch.compiler.is_compiling() or type(x_t) is not Tensor or self.backend == "reference":
            return None
        tokens = not x_t.is_floating_point()
        if x_t.ndim != 2 - tokens or not len(x_t) or not x_t.is_cpu:
            return None
        key = len(x_t), tokens, self.dtype, threading.get_ident()
        if key not in self._streamers:
            try:
                self._streamers[key] = Streamer(self, len(x_t), tokens=tokens)
            except BackendError:
                self._streamers[key] = None
            while len(self._streamers) > 8:
                self._streamers.pop(next(iter(self._streamers)))
        return self._streamers[key]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_streamers": {}}  # a copy makes its own

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # torch's parametrisations forbid __getstate__, as a class made for one module cannot be saved
        memo[id(self)] = again = self.__class__.__new__(self.__class__)
        again.__dict__ = copy.deepcopy(self.__dict__ | {"_streamers": {}}, memo)
        return again

    def checked_state(self, state: Mapping[str, Tensor], batch: int) -> dict[str, Tensor]:
        """A state of so many sequences.

        Raises:
            InputError: it does not fit the layer.
        """
        places = len(self.suffixes)
        shapes = {name: (places, batch, size) for name, size in self.state_sizes.items()}
        return checked_state(state, shapes, self._like)

    def _given(
        self, state: Mapping[str, Tensor] | None, batch: int, batched: bool
    ) -> dict[str, Tensor] | None:
        """The initial states that layers are given; None where each begins with its own."""
        if state is not None and batched:
            return self.checked_state(state, batch)
        if state is not None:
            shapes = {name: (len(self.suffixes), size) for name, size in self.state_sizes.items()}
            return {name: v.unsqueeze(1) for name, v in checked_state(state, shapes, self._like).items()}
        return None if self._parameters_tell and self.initial is None else self.initial_state(batch)

    def extra_repr(self) -> str:
        named = self.state_sizes | self.own_sizes
        sizes = set(named.values())
        hidden = str(*sizes) if len(sizes) == 1 else str(named)
        parts = [f"{self.input_size}, {hidden}"]
        parts += [f"num_layers={self.num_layers}"] * (self.num_layers > 1)
        parts += [f"dropout={self.dropout}"] * bool(self.dropout)
        parts += [f"{name}=True" for name in ("batch_first", "bidirectional") if getattr(self, name)]
        return ", ".join((*parts, *self._beyond_torch))

    @property
    def _beyond_torch(self) -> list[str]:
        """The arguments that torch's layers do not have, as text."""
        given = {"norm": self.norm, "weight_norm": self.weight_norm}
        given |= {"learn_initial": self.initial is not None} | self.regulariser.arguments
        return [f"{name}={value!r}" for name, value in given.items() if value]
