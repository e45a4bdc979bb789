"""Segments of a sequence, each computed from the state behind the one before."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as tree

from unrolled.errors import InputError

Step = Callable[[Any, Any], tuple[Tensor, Any]]

SAME: Final = {torch.float64: 1e-10}
"""How near, relatively, what a segment computes must come when it runs again; in other precisions 1e-4."""


class Chain(Protocol):
    """What a policy goes along."""

    @property
    def maker(self) -> object:
        """Who computes the segments, of this sequence and of others."""

    @property
    def count(self) -> int:
        """How many segments there are."""

    @property
    def inputs(self) -> Sequence[Tensor]:
        """The tensors that learn, and that segments have parts of."""

    @property
    def shared(self) -> Sequence[Tensor]:
        """Tensors without a history that segments may depend on, as far as they are known before one runs."""

    def behind(self, leaf: Tensor) -> Tensor:
        """What the gradient of a tensor without a history belongs to."""

    def part(self, number: int) -> tuple[Any, list[Tensor]]:
        """A segment, and its parts of `inputs`, without a history."""

    def run(self, number: int, segment: Any, state: Any) -> tuple[list[Tensor], Any]:
        """What comes out of a segment, and the state behind it.

        Raises:
            InputError: it is not what it should be.
        """

    def keep(self, number: int, outs: Sequence[Tensor]) -> None:
        """Take what comes out of a segment; or compare it, where it has run before.

        Raises:
            InputError: it is not what it was then.
        """

    def outs(self) -> list[Tensor]:
        """What came out of all segments together."""

    def upstream(self, number: int, d_outs: Sequence[Tensor | None]) -> list[Tensor | None]:
        """The gradient of what comes out of a segment, from that of `outs`."""

    def take(self, number: int, gradients: Sequence[Tensor | None]) -> None:
        """Add the gradients of a segment's parts of `inputs`."""

    def gradients(self) -> list[Tensor | None]:
        """The gradients of `inputs`, from those of all their parts."""


class Losses:
    """Segments that have a loss each, for `through_time`."""

    inputs: Sequence[Tensor] = ()
    shared: Sequence[Tensor] = ()

    def __init__(self, step: Step, segments: Iterable[Any]) -> None:
        self.step = self.maker = step
        # What can be looked up is, segment by segment, and never all at once.
        found: Any = segments
        if not (hasattr(found, "__getitem__") and hasattr(found, "__len__")):
            found = [*segments]
        self.segments, self.count = found, len(found)
        if not self.count:
            raise InputError("there are no segments")
        self._values: Tensor | None = None
        self._ran = 0

    def behind(self, leaf: Tensor) -> Tensor:
        return leaf

    def part(self, number: int) -> tuple[Any, list[Tensor]]:
        try:
            return self.segments[number], []
        except (IndexError, KeyError):
            raise InputError(f"the segments end after {number}, but there should be {self.count}") from None

    def run(self, number: int, segment: Any, state: Any) -> tuple[list[Tensor], Any]:
        return run_step(self.step, number, segment, state)

    def keep(self, number: int, outs: Sequence[Tensor]) -> None:
        (loss,) = outs
        if self._values is None:
            self._values = loss.new_empty(self.count)
        if number >= self._ran:
            self._values[number], self._ran = loss.detach(), number + 1
        else:
            check_same(f"the loss of segment {number}", self._values[number], loss)

    @property
    def kept(self) -> Tensor | None:
        """The losses so far, with which another process can go on."""
        return None if self._values is None else self._values[: self._ran]

    @kept.setter
    def kept(self, losses: Tensor) -> None:
        self._values, self._ran = losses.new_empty(self.count), len(losses)
        self._values[: self._ran] = losses

    def outs(self) -> list[Tensor]:
        assert self._values is not None
        return [self._values.sum()]

    def upstream(self, number: int, d_outs: Sequence[Tensor | None]) -> list[Tensor | None]:
        return [*d_outs]

    def take(self, number: int, gradients: Sequence[Tensor | None]) -> None:
        assert not gradients

    def gradients(self) -> list[Tensor | None]:
        return []


def run_step(step: Step, number: int, segment: Any, state: Any) -> tuple[list[Tensor], Any]:
    """The loss of a segment, and the state behind it.

    Raises:
        InputError: the step does not return these, or cannot take the segment.
    """
    try:
        found = step(segment, state)
    except InputError as error:
        raise InputError(f"segment {number}: {error}") from error
    where = f"the step, for segment {number},"
    if not isinstance(found, tuple) or len(found) != 2:
        raise InputError(f"{where} returned a {type(found).__name__}, expected a pair (loss, state)")
    loss, after = found
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise InputError(f"{where} returned a loss {shape_of(loss)}, expected a tensor of one number")
    if state is not None:
        _check_like(where, state, after)
    return [loss.reshape(())], after


def check_same(what: str, before: Tensor, now: Tensor) -> None:
    """
    Raises:
        InputError: a number that was computed again is not what it was.
    """
    a, b, near = before.item(), now.item(), SAME.get(before.dtype, 1e-4)
    if math.isclose(a, b, rel_tol=near, abs_tol=near) or a == b or (math.isnan(a) and math.isnan(b)):
        return
    raise InputError(
        f"{what} was {a:.9g}, but {b:.9g} when it ran again: what a step computes may depend on nothing but "
        "its segment, its state, parameters and torch's generator (masks of a layer belong into the state)"
    )


def _check_like(where: str, before: Any, after: Any) -> None:
    (old, spec), (new, found) = tree.tree_flatten(before), tree.tree_flatten(after)
    alike = spec == found and all(
        isinstance(b, Tensor) and (a.shape, a.dtype) == (b.shape, b.dtype)
        for a, b in zip(old, new, strict=True)
        if isinstance(a, Tensor)
    )
    if not alike:
        raise InputError(f"{where} changed the state from {shape_of(before)} to {shape_of(after)}")


def shape_of(state: Any) -> str:
    """A state in words: shapes and dtypes in place of tensors."""

    def of(leaf: Any) -> Any:
        return _Shape(f"{leaf.dtype} {tuple(leaf.shape)}") if isinstance(leaf, Tensor) else leaf

    return str(tree.tree_map(of, state))


class _Shape(str):
    def __repr__(self) -> str:
        return self
