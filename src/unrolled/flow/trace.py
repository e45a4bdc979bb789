"""A run of a model with everything that its recurrent layers did: what they read, their full states at every
step, and how a loss depends on these.

Layers run compiled as ever. To each state an input is added that is 0 (`unrolled.rewrite.nudged`): what comes
back to it at a step is the gradient of the state before that step, so that one backward pass gives those of
all steps.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from unrolled.attend import Attended, Memory, attend
from unrolled.cell import Cell
from unrolled.errors import InputError
from unrolled.graph import Graph
from unrolled.leaves import Leaves
from unrolled.nn.attentive import Attentive
from unrolled.nn.deep import Deep
from unrolled.nn.stack import RecurrentStack
from unrolled.nn.watch import Watchable, watched
from unrolled.parameters import Stacked, Untied
from unrolled.rewrite import CONTEXT, NUDGE, nudged
from unrolled.rows import Rows
from unrolled.scan import scan

EVERY: Final = slice(None)

LAYERS: Final = RecurrentStack | Deep | Attentive
"""What runs cells."""

Losses = Callable[[nn.Module, Any], Tensor]
"""`losses(model, batch)`: the loss of every step and sequence (T, B), or of every sequence (B,), as it is
before anything is summed or averaged over them."""


@dataclass(frozen=True, eq=False)
class Place:
    """One layer and direction at every step, in the order in which it goes through time.

    Attributes:
        name: such as "l0", "l1_reverse", or "encoder.l0" where the layer is a part of a model.
        cell: what ran, with its regularisers.
        parameters: of the cell, by name.
        x: what it read, (T, B, D), or token numbers (T, B).
        start: the states before the first step by name, each (B, W).
        states: the states after each step by name, each (T, B, W).
        leaves: what its random masks and resets were, by leaf, and the context that it found in a memory,
            each (T, B, ...).
        lengths: (B,), the steps of each sequence; what is beyond is 0.
        reverse: whether it goes from the last step to the first.
        depth: whether its steps are the layers of a deep network, which has no x.
    """

    name: str
    cell: Cell
    parameters: Mapping[str, Tensor]
    x: Tensor
    start: Mapping[str, Tensor]
    states: Mapping[str, Tensor]
    leaves: Mapping[str, Tensor]
    lengths: Tensor
    reverse: bool
    depth: bool = False

    @property
    def T(self) -> int:
        return self.x.shape[0]

    @property
    def B(self) -> int:
        return self.x.shape[1]

    @property
    def graph(self) -> Graph:
        """The step."""
        return self.cell.graph_using(self.parameters)

    @property
    def there(self) -> Tensor:
        """Which steps sequences have: bools (T, B)."""
        return torch.arange(self.T)[:, None] < self.lengths

    @property
    def before(self) -> dict[str, Tensor]:
        """The states before each step by name, each (T, B, W)."""
        return {name: torch.cat([self.start[name][None], value[:-1]]) for name, value in self.states.items()}

    def reads(self, steps: slice = EVERY, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """What some steps read, row by row: x, the states before them and random masks, each (N, ...)."""
        every = {self.graph.inputs[0]: self.x, **self.before, **self.leaves}
        rows = {name: value[steps].flatten(0, 1) if value.ndim else value for name, value in every.items()}
        return {
            name: value.to(dtype) if dtype and value.is_floating_point() else value
            for name, value in rows.items()
        }

    def of_sequences(self, count: int) -> Place:
        """The first so many sequences alone."""
        if count >= self.B:
            return self
        return replace(
            self,
            x=self.x[:, :count],
            start={name: value[:count] for name, value in self.start.items()},
            states={name: value[:, :count] for name, value in self.states.items()},
            leaves={name: value[:, :count] if value.ndim else value for name, value in self.leaves.items()},
            lengths=self.lengths[:count],
        )

    def parameters_at(self, t: int, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """The parameters of a step, and of as many with it as `together` says; or those in another
        precision."""
        found = self.parameters.at(t) if isinstance(self.parameters, Untied) else self.parameters
        return {name: value.to(dtype) if dtype else value for name, value in found.items()}

    def together(self, count: int, every: int = 1, first: int = 0, end: int | None = None) -> list[slice]:
        """One of `every` steps from `first` to `end`, in parts of at most `count` that have the same
        parameters."""
        size = (1 if isinstance(self.parameters, Untied) else max(count, 1)) * every
        end = self.T if end is None else end
        return [slice(begin, min(begin + size, end), every) for begin in range(first, end, size)]


@dataclass
class _Scan:
    """What was recorded of one layer and direction while it ran."""

    name: str
    cell: Cell
    parameters: Mapping[str, Tensor]
    x: Tensor
    start: Mapping[str, Tensor]
    states: Mapping[str, Tensor]
    leaves: Leaves | None
    rows: Rows | None
    reverse: bool
    depth: bool
    nudges: Mapping[str, Tensor]
    handed: list[tuple[str, Tensor]] = field(default_factory=list)
    """Values at every step that the model went on with, by name."""
    ends: Mapping[str, Tensor] = field(default_factory=dict)
    """Final states."""
    contexts: Tensor | None = None
    """What a cell with a memory found in it."""

    @property
    def lengths(self) -> Tensor:
        if self.rows is None:
            return torch.full((self.x.shape[1],), self.x.shape[0])
        return self.rows.unsort(self.rows.lengths)

    def laid_out(self, value: Tensor) -> Tensor:
        """A value of every step as (T, B, ...), in the order in which the layer runs."""
        return turned(value, self.lengths) if self.reverse else value

    def place(self) -> Place:
        cell, parameters, start = self.cell, _detached(self.parameters), _detached(self.start)
        x, states = self.x.detach(), _detached(self.states)
        if self.rows is not None:
            x, states = self.rows.blank(x), {name: self.rows.blank(value) for name, value in states.items()}
        leaves = {} if self.contexts is None else {CONTEXT: self.contexts.detach()}
        if self.leaves is not None:
            graph = cell.graph_using(parameters)
            values = self.leaves.on(graph, graph.sizes_with(start, parameters), next(iter(start.values())))
            leading = x.shape[:2]
            leaves = {
                name: self.laid_out(value.expand(leading.numel(), *value.shape[1:]).reshape(*leading, -1))
                for name, value in values.items()
                if value.ndim
            } | {name: value for name, value in values.items() if not value.ndim}
        return Place(
            self.name,
            cell,
            parameters,
            self.laid_out(x),
            start,
            {name: self.laid_out(value) for name, value in states.items()},
            leaves,
            self.lengths,
            self.reverse,
            self.depth,
        )


@dataclass(frozen=True, eq=False)
class Gradients:
    """How a loss depends on what one place did.

    Attributes:
        place: where.
        before: the gradient of the states before each step, (T, B, W) by name: of what the step and those
            after it make of them.
        arriving: that of the new states and outputs of each step, from all that comes after the step.
        x: that of what it read; None for tokens.
    """

    place: Place
    before: Mapping[str, Tensor]
    arriving: Mapping[str, Tensor]
    x: Tensor | None

    def after(self) -> dict[str, Tensor]:
        """The gradient of the state after each step, (T, B, W) by name: all paths from it to the loss. States
        are values of their own: what an LSTM's h is made of its c in the same step is no path of c's."""
        total = {name: self.arriving[name] for name in self.place.states}
        if not self.place.cell.outputs:
            return total
        graph, names = self.place.graph, self.place.cell.outputs
        upstream = [self.arriving[name].flatten(0, 1) for name in names]
        with torch.enable_grad():
            parameters = {k: v.clone().requires_grad_() for k, v in self.place.parameters.items()}
            done = graph.values(self.place.reads(), parameters)
            results = dict(zip((*graph.states, *graph.outputs), graph.results, strict=True))
            new = {name: done[results[name]] for name in graph.states}
            learn = [value for value in new.values() if value.requires_grad]
            outputs = [done[results[name]] for name in names]
            found = iter(torch.autograd.grad(outputs, learn, upstream, allow_unused=True) if learn else ())
        for name, value in new.items():
            if value.requires_grad and (d := next(found)) is not None:
                total[name] = total[name] + d.view_as(total[name])
        return total


class Recording:
    """A forward pass of a model, from which gradients of losses can be had again and again.

    Attributes:
        losses: as the model computed them, (T, B) or (B,).
        places: every layer and direction that ran, in that order.
    """

    def __init__(self, losses: Tensor, scans: Sequence[_Scan]) -> None:
        self.losses = losses
        self._scans = scans
        self.places = tuple(scan.place() for scan in scans)

    def gradients(self, weights: Tensor) -> list[Gradients]:
        """The gradient of the losses' sum with these weights, at every place.

        Raises:
            InputError: the losses do not depend on what the layers did, or are not finite.
        """
        if not self.losses.requires_grad:
            raise InputError("the loss is constant: it does not depend on what the recurrent layers do")
        total = (self.losses * weights).sum()
        if not total.isfinite():
            raise InputError(f"the loss is {float(total.detach())}: there is no gradient of that")
        wanted: list[Tensor] = []
        for each in self._scans:
            wanted += [*each.nudges.values(), *(t for _, t in each.handed), *each.ends.values()]
            wanted += [each.x] * each.x.is_floating_point()
        found = torch.autograd.grad(total, wanted, allow_unused=True, retain_graph=True)
        by_id = {id(t): d for t, d in zip(wanted, found, strict=True)}
        if all(d is None for d in found):
            raise InputError("the loss is constant: it does not depend on what the recurrent layers do")
        return [_gradients(each, place, by_id) for each, place in zip(self._scans, self.places, strict=True)]


def _gradients(scan: _Scan, place: Place, found: Mapping[int, Tensor | None]) -> Gradients:
    def of(tensor: Tensor) -> Tensor:
        d = found[id(tensor)]
        return torch.zeros_like(tensor) if d is None else d

    before = {name: scan.laid_out(of(nudge)) for name, nudge in scan.nudges.items()}
    arriving: dict[str, Tensor] = {}
    for name, nudge in before.items():
        arriving[name] = torch.cat([nudge[1:], torch.zeros_like(nudge[:1])])
    rows = torch.arange(place.B)
    has = place.lengths > 0
    for name, end in scan.ends.items():
        d = of(end)
        arriving[name][(place.lengths - 1)[has], rows[has]] += d[has]
    for name, value in scan.handed:
        d = scan.laid_out(of(value))
        arriving[name] = arriving[name] + d if name in arriving else d
    for name in place.cell.outputs:
        if name not in arriving:
            width = place.graph.output_sizes(place.start, place.parameters)[name]
            arriving[name] = place.start[place.cell.states[0]].new_zeros(place.T, place.B, width)
    x = scan.laid_out(of(scan.x)) if scan.x.is_floating_point() else None
    return Gradients(place, before, arriving, x)


class _Recorder:
    """Runs scans with nudges, and keeps what there is to see."""

    def __init__(self, model: nn.Module) -> None:
        self.names = {id(m): name for name, m in model.named_modules() if isinstance(m, LAYERS)}
        self.scans: list[_Scan] = []

    def __call__(
        self,
        stack: Watchable,
        place: int,
        cell: Cell,
        x: Tensor,
        state: Mapping[str, Tensor] | None,
        parameters: Mapping[str, Tensor],
        *,
        rows: Rows | None,
        leaves: Leaves | None,
        returning: Sequence[str],
        reverse: bool,
        backend: str,
    ) -> tuple[Any, dict[str, Tensor]]:
        if rows is not None and rows.order is None:
            raise InputError(
                "gradient flow is that of a padded batch: give it and lengths=, no PackedSequence"
            )
        cell.settle()
        graph = cell.graph_using(parameters)
        start = dict(state or graph.start(x.shape[1], parameters))
        if x.is_floating_point():
            x = x.view_as(x) if x.requires_grad else x.detach().requires_grad_()
        zeros = {
            name: value.new_zeros(*x.shape[:2], value.shape[-1]).requires_grad_()
            for name, value in start.items()
        }
        output = graph.output
        values, ends = scan(
            nudged(cell),
            x,
            state,
            parameters,
            rows=rows,
            leaves=leaves,
            others={f"{NUDGE}{name}": value for name, value in zeros.items()},
            returning=tuple(dict.fromkeys((output, *cell.states, *returning))),
            reverse=reverse,
            backend=backend,
        )
        found = {name: values[name].view_as(values[name]) for name in (*returning, output)}
        ends = {name: value.view_as(value) for name, value in ends.items()}
        name = self._name(stack, place)
        kept = [(key, value) for key, value in found.items() if key in (*cell.states, *cell.outputs)]
        self.scans.append(
            _Scan(
                name, cell, parameters, x, start, {key: values[key] for key in cell.states}, leaves, rows,
                reverse, isinstance(stack, Deep), zeros, kept, ends,
            )
        )  # fmt: skip
        return (found if returning else found[output]), ends

    def attend(
        self,
        stack: Watchable,
        cell: Cell,
        x: Tensor,
        state: Mapping[str, Tensor],
        parameters: Mapping[str, Tensor],
        memory: Memory,
        *,
        last: Tensor | None,
        uniform: Tensor | None,
    ) -> Attended:
        """A state's gradient is that of the step, and of what it finds in the memory."""
        x = x.view_as(x) if x.requires_grad else x.detach().requires_grad_()
        zeros = {
            name: value.new_zeros(*x.shape[:2], value.shape[-1]).requires_grad_()
            for name, value in state.items()
        }
        output, states = cell.graph_using(parameters).output, cell.states
        found = attend(
            cell,
            x,
            state,
            parameters,
            memory,
            returning=tuple(dict.fromkeys((output, *states))),
            last=last,
            uniform=uniform,
            nudges=zeros,
        )
        values = {name: value.view_as(value) for name, value in found.outputs.items()}
        ends = {name: value.view_as(value) for name, value in found.state.items()}
        alone = Cell(cell.name, _asked_last(cell.graph), _asked_last(cell.square))
        self.scans.append(
            _Scan(
                self._name(stack, 0), alone, parameters, x, dict(state), {key: values[key] for key in states},
                None, None, False, False, zeros, [(output, values[output])], ends, found.contexts,
            )
        )  # fmt: skip
        return replace(found, outputs={output: values[output]}, state=ends)

    def _name(self, stack: Watchable, place: int) -> str:
        """Of a layer and direction that runs now."""
        name = ".".join(part for part in (self.names.get(id(stack), ""), stack.suffixes[place]) if part)
        again = sum(each.name.partition(" #")[0] == name for each in self.scans)
        return f"{name} #{again + 1}" if again else name


def _asked_last(graph: Graph) -> Graph:
    """The step with its context behind its other input."""
    return replace(graph, inputs=(*graph.inputs[1:], graph.inputs[0]))


def record(model: nn.Module, batch: Any, losses: Losses | None = None) -> Recording:
    """Run a model on a batch.

    Args:
        model: a recurrent layer, or a model that has some among its modules.
        batch: what it is called with, or a tuple of that and targets.
        losses: how the losses of every step and sequence are had. Without it they are, of a layer, its
            outputs times random signs; of a model with targets (T, B), or (B,), of numbers of classes its
            cross-entropy, and with targets as large as its outputs the square of what is between.

    Raises:
        InputError: there is no recurrent layer, or nothing says what the loss is.
    """
    if not any(isinstance(module, LAYERS) for module in model.modules()):
        raise InputError(
            f"{type(model).__name__} has no recurrent layer of unrolled's: use unrolled.LSTM, GRU, RNN, "
            "Recurrent or nn.Deep in it, or unrolled.convert.from_torch for one of torch's"
        )
    recorder = _Recorder(model)
    # What nobody has compiled runs eagerly anyway, and torch's compiler takes two seconds to import.
    eager = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    with torch.enable_grad(), watched(recorder), eager:
        found = (losses or usual_losses)(model, batch)
    if not recorder.scans:
        raise InputError(f"no recurrent layer of {type(model).__name__} ran on this batch")
    if not isinstance(found, Tensor) or found.ndim > 2 or not found.is_floating_point():
        what = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise InputError(f"losses gave {what}, expected a tensor (T, B) or (B,) of numbers")
    T, B = recorder.scans[0].x.shape[:2]
    if found.shape not in ((T, B), (B,), ()):
        raise InputError(f"losses gave a tensor of shape {tuple(found.shape)}, expected {(T, B)} or {(B,)}")
    return Recording(found, recorder.scans)


def usual_losses(model: nn.Module, batch: Any) -> Tensor:
    """See `record`.

    Raises:
        InputError: nothing says what the loss is.
    """
    x, targets = batch if isinstance(batch, tuple | list) and len(batch) == 2 else (batch, None)
    outputs = model(x)
    outputs = outputs[0] if isinstance(outputs, tuple) else outputs
    if not isinstance(outputs, Tensor) or outputs.ndim not in (2, 3):
        raise InputError(
            f"{type(model).__name__} does not give one value (T, B, W) at every step, or one (B, W) for "
            "every sequence: say with losses= what its loss is"
        )
    if outputs.ndim == 3 and getattr(model, "batch_first", False):
        outputs = outputs.transpose(0, 1)
    if targets is None:
        generator = torch.Generator().manual_seed(0)
        signs = torch.randint(2, outputs.shape[-1:], generator=generator).to(outputs) * 2 - 1
        projected: Tensor = outputs @ signs
        return projected
    if targets.shape == outputs.shape and targets.is_floating_point():
        squares: Tensor = (outputs - targets).square().sum(-1)
        return squares
    if targets.shape == outputs.shape[:-1] and not targets.is_floating_point():
        flat: Tensor = nn.functional.cross_entropy(
            outputs.flatten(0, -2), targets.flatten(), reduction="none"
        )
        return flat.view(targets.shape)
    raise InputError(
        f"outputs are {tuple(outputs.shape)} and targets {tuple(targets.shape)}: say with losses= what the "
        "loss of every step and sequence is"
    )


def turned(value: Tensor, lengths: Tensor) -> Tensor:
    """A padded batch (T, B, ...) with each sequence from its last step to its first."""
    steps = torch.arange(value.shape[0])[:, None]
    index = torch.where(steps < lengths, lengths - 1 - steps, steps)
    return value[index, torch.arange(value.shape[1])]


def _detached(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    if isinstance(tensors, Untied):
        return tensors.map(Tensor.detach)
    if isinstance(tensors, Stacked):
        return {name: tensors[name].detach() for name in tensors}
    return {name: value.detach() for name, value in tensors.items()}
