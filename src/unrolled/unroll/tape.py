"""What goes back through one segment, and gradients that add up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as tree

from unrolled.compile.recurrence import adding
from unrolled.errors import InputError
from unrolled.unroll.chain import Chain


def tensors_of(state: Any) -> list[Tensor]:
    """The tensors of a state, in order."""
    return [t for t in tree.tree_leaves(state) if isinstance(t, Tensor)]


def with_tensors(state: Any, tensors: Iterable[Tensor]) -> Any:
    """The same state with other tensors."""
    rest: Iterator[Tensor] = iter(tensors)
    return tree.tree_map(lambda leaf: next(rest) if isinstance(leaf, Tensor) else leaf, state)


def detached(state: Any, learning: bool = False) -> Any:
    """A state that knows nothing of what came before it, and holds no more memory than it needs.

    Args:
        learning: its numbers require a gradient, where they can.
    """
    return with_tensors(
        state,
        (_alone(t.detach()).requires_grad_(learning and t.is_floating_point()) for t in tensors_of(state)),
    )


def _alone(tensor: Tensor) -> Tensor:
    """The tensor, or a copy where it is a small part of something large."""
    return tensor.clone() if tensor.untyped_storage().nbytes() > 2 * tensor.nbytes + 64 else tensor


@dataclass
class Tape:
    """What goes back through one segment.

    number: of the segment; inputs: those of its tensors that learn; start: the tensors of the state before
    it; outs, end: what came out of it, and the state behind it; leaves: the parameters, and other tensors
    without a history, that it depends on.
    """

    number: int
    inputs: list[Tensor]
    start: list[Tensor]
    outs: list[Tensor]
    end: list[Tensor]
    leaves: list[Tensor]

    @staticmethod
    def of(chain: Chain, number: int, state: Any) -> tuple[Tape, Any]:
        """Run a segment on a tape of its own; returns that, and the state behind it.

        Raises:
            InputError: the segment depends on something that was computed before it ran, besides its state.
        """
        with torch.enable_grad():
            begun = torch.zeros((), requires_grad=True).clone().grad_fn
            torch.clear_autocast_cache()  # of parameters that earlier segments have converted
            state = detached(state, learning=True)
            start = tensors_of(state)  # before a step changes what the state has, as masks do
            segment, inputs = chain.part(number)
            outs, after = chain.run(number, segment, state)
        end = tensors_of(after)
        leaves = _leaves((*outs, *end), begun)
        own = {id(t) for t in (*start, *inputs)}
        leaves = [t for t in leaves if id(t) not in own]
        return Tape(number, inputs, start, outs, end, leaves), detached(after)

    def back(
        self,
        d_outs: Sequence[Tensor | None],
        d_end: Sequence[Tensor | None],
        sums: Sums,
        keep: bool = False,
    ) -> tuple[list[Tensor | None], list[Tensor | None]]:
        """The gradients of the state before it, and of its inputs.

        Args:
            sums: where those of its leaves are added.
            keep: the tape will be needed again.
        """
        pairs = [*zip((*self.outs, *self.end), (*d_outs, *d_end), strict=True)]
        pairs = [(t, d) for t, d in pairs if d is not None and t.requires_grad]
        start = [t for t in self.start if t.requires_grad]
        wanted = [*start, *self.inputs, *self.leaves]
        found: Sequence[Tensor | None] = [None] * len(wanted)
        if pairs and wanted:
            ends, gradients = zip(*pairs, strict=True)
            with torch.enable_grad():
                seed = _Seed.apply(gradients, *ends)  # type: ignore[no-untyped-call]
            leaves = {id(t) for t in self.leaves}
            with adding(lambda t: sums.room(t) if id(t) in leaves else None):
                found = torch.autograd.grad(seed, wanted, allow_unused=True, retain_graph=keep)
        rest = iter(found)
        of_start = [next(rest) if t.requires_grad else None for t in self.start]
        of_inputs = [next(rest) for _ in self.inputs]
        sums.add(self.leaves, rest)
        return of_start, of_inputs


class _Seed(torch.autograd.Function):
    """A number whose gradients are known. Given to `torch.autograd.grad`, they would make it import computer
    algebra, in 60 MB and half a second."""

    @staticmethod
    def forward(ctx: Any, gradients: Sequence[Tensor], *tensors: Tensor) -> Tensor:
        ctx.gradients = gradients
        return tensors[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> Any:
        return (None, *ctx.gradients)


def _leaves(tensors: Iterable[Tensor], begun: Any) -> list[Tensor]:
    """The tensors without a history that others depend on, through what was computed since then; in an order
    that is the same wherever they are in memory."""
    waiting = [t.grad_fn for t in tensors if t.grad_fn is not None]
    seen, found = {*waiting}, {}
    while waiting:
        node: Any = waiting.pop()
        if hasattr(node, "variable"):
            found[id(node.variable)] = node.variable
        elif node._sequence_nr() < begun._sequence_nr():
            raise InputError(
                f"the step depends on a tensor that was computed outside of it ({node.name()}), and would go "
                "back through that once a segment: put that tensor into the state"
            )
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)
    return list(found.values())


class Sums:
    """Gradients that add up, by what they belong to."""

    def __init__(self) -> None:
        self.values: dict[int, tuple[Tensor, Tensor]] = {}

    def room(self, tensor: Tensor) -> Tensor:
        """Where the gradient of a tensor is added."""
        if id(tensor) not in self.values:
            self.values[id(tensor)] = tensor, torch.zeros_like(tensor, memory_format=torch.contiguous_format)
        return self.values[id(tensor)][1]

    def add(self, tensors: Iterable[Tensor], gradients: Iterable[Tensor | None]) -> None:
        """Add a gradient of each tensor, or none."""
        for tensor, d in zip(tensors, gradients, strict=True):
            if d is not None:
                self.room(tensor).add_(d)

    @property
    def bytes(self) -> int:
        return sum(d.nbytes for _, d in self.values.values())

    def of(self, tensor: Tensor) -> Tensor | None:
        """The sum that belongs to a tensor."""
        found = self.values.get(id(tensor))
        return None if found is None else found[1]
