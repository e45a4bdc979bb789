"""Segments of a sequence run one after the other: straight on, or each with a tape of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as tree

from unrolled.errors import InputError

Step = Callable[[Any, Any], tuple[Tensor, Any]]


class Chain:
    """A step, checked: what it returns is a loss and a state like the one before."""

    def __init__(self, step: Step) -> None:
        self.step = step

    def run(self, number: int, segment: Any, state: Any) -> tuple[Tensor, Any]:
        """The loss of a segment, and the state behind it.

        Raises:
            InputError: the step does not return these.
        """
        found = self.step(segment, state)
        where = f"the step, for segment {number},"
        if not isinstance(found, tuple) or len(found) != 2:
            raise InputError(f"{where} returned a {type(found).__name__}, expected a pair (loss, state)")
        loss, after = found
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise InputError(f"{where} returned a loss {_shape_of(loss)}, expected a tensor of one number")
        if state is not None:
            _check_like(where, state, after)
        return loss.reshape(()), after

    def straight(self, segments: Iterable[Any], state: Any) -> tuple[Tensor, Any]:
        """All segments on one tape, if one is kept at all.

        Raises:
            InputError: there is no segment.
        """
        losses = []
        for number, segment in enumerate(segments):
            loss, state = self.run(number, segment, state)
            losses.append(loss)
        if not losses:
            raise InputError("there are no segments")
        return torch.stack(losses).sum(), state


def _check_like(where: str, before: Any, after: Any) -> None:
    (old, spec), (new, found) = tree.tree_flatten(before), tree.tree_flatten(after)
    alike = spec == found and all(
        isinstance(b, Tensor) and (a.shape, a.dtype) == (b.shape, b.dtype)
        for a, b in zip(old, new, strict=True)
        if isinstance(a, Tensor)
    )
    if not alike:
        raise InputError(f"{where} changed the state from {_shape_of(before)} to {_shape_of(after)}")


def _shape_of(state: Any) -> str:
    """A state in words: shapes and dtypes in place of tensors."""

    def of(leaf: Any) -> Any:
        return _Shape(f"{leaf.dtype} {tuple(leaf.shape)}") if isinstance(leaf, Tensor) else leaf

    return str(tree.tree_map(of, state))


class _Shape(str):
    def __repr__(self) -> str:
        return self


def tensors_of(state: Any) -> list[Tensor]:
    """The tensors of a state, in order."""
    return [t for t in tree.tree_leaves(state) if isinstance(t, Tensor)]


def with_tensors(state: Any, tensors: Iterable[Tensor]) -> Any:
    """The same state with other tensors."""
    rest: Iterator[Tensor] = iter(tensors)
    return tree.tree_map(lambda leaf: next(rest) if isinstance(leaf, Tensor) else leaf, state)


def detached(state: Any, learning: bool = False) -> Any:
    """A state that knows nothing of what came before it.

    Args:
        learning: its numbers require a gradient, where they can.
    """
    return with_tensors(
        state,
        (t.detach().requires_grad_(learning and t.is_floating_point()) for t in tensors_of(state)),
    )


@dataclass
class Tape:
    """What goes back through one segment.

    start: the tensors of the state before it; loss, end: what its step returned, the state as tensors;
    leaves: the parameters, and other tensors without a history, that it depends on.
    """

    start: list[Tensor]
    loss: Tensor
    end: list[Tensor]
    leaves: list[Tensor]

    @staticmethod
    def of(chain: Chain, number: int, segment: Any, state: Any) -> tuple[Tape, Any]:
        """Run a segment on a tape of its own; returns that, and the state behind it.

        Raises:
            InputError: the segment depends on something that was computed before it ran, besides its state.
        """
        with torch.enable_grad():
            begun = torch.zeros((), requires_grad=True).clone().grad_fn
            torch.clear_autocast_cache()  # of parameters that earlier segments have converted
            state = detached(state, learning=True)
            start = tensors_of(state)  # before a step changes what the state has, as masks do
            loss, after = chain.run(number, segment, state)
        end = tensors_of(after)
        leaves = _leaves((loss, *end), begun)
        own = {id(t) for t in start}
        return Tape(start, loss, end, [t for t in leaves if id(t) not in own]), detached(after)

    def back(
        self,
        d_loss: Tensor | None,
        d_end: Sequence[Tensor | None],
        leaves: Sequence[Tensor],
        keep: bool = False,
    ) -> tuple[list[Tensor | None], list[Tensor | None]]:
        """The gradients of the state before it, and of the leaves.

        Args:
            keep: the tape will be needed again.
        """
        pairs = [(self.loss, d_loss), *zip(self.end, d_end, strict=True)]
        pairs = [(t, d) for t, d in pairs if d is not None and t.requires_grad]
        wanted = [t for t in self.start if t.requires_grad]
        if not pairs or not (wanted or leaves):
            return [None] * len(self.start), [None] * len(leaves)
        ends, gradients = zip(*pairs, strict=True)
        found = torch.autograd.grad(ends, [*wanted, *leaves], gradients, allow_unused=True, retain_graph=keep)
        of_state = iter(found[: len(wanted)])
        return [next(of_state) if t.requires_grad else None for t in self.start], list(found[len(wanted) :])


def _leaves(tensors: Iterable[Tensor], begun: Any) -> list[Tensor]:
    """The tensors without a history that others depend on, through what was computed since then."""
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
        new = {following for following, _ in node.next_functions if following is not None} - seen
        seen |= new
        waiting += new
    return list(found.values())


class Sums:
    """Gradients that add up, by what they belong to."""

    def __init__(self) -> None:
        self.values: dict[int, tuple[Tensor, Tensor]] = {}
        self._own: set[int] = set()  # those that nobody else holds

    def add(self, tensors: Iterable[Tensor], gradients: Iterable[Tensor | None]) -> None:
        """Add a gradient of each tensor, or none."""
        for tensor, d in zip(tensors, gradients, strict=True):
            if d is None:
                continue
            key = id(tensor)
            if key not in self.values:
                self.values[key] = tensor, d
            elif key in self._own:
                self.values[key][1].add_(d)
            else:
                self._own.add(key)
                self.values[key] = tensor, self.values[key][1] + d

    def of(self, tensor: Tensor) -> Tensor | None:
        """The sum that belongs to a tensor."""
        found = self.values.get(id(tensor))
        return None if found is None else found[1]
