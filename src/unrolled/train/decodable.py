"""What is decoded, what comes out, and what words may come when."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol, Self, TypeVar

import torch
from torch import Tensor

from unrolled.errors import DivergedError, InputError


class State(Protocol):
    """What a model carries from word to word, for N rows; each row writes one sequence or one hypothesis."""

    def select(self, rows: Tensor, within: bool) -> Self:
        """The state of other rows: number i of it is number `rows[i]` of this one.

        Args:
            rows: (M,), int64; rows may be left out, moved and repeated.
            within: M = N, and every row is replaced by one of the same sequence: what belongs to the
                sequence and is the same at all steps, such as a memory to look at, may stay as it is.
        """
        ...


S = TypeVar("S", bound=State)


class Writer(Protocol[S]):
    """A model of the next word.

    Called with the words before (N,), START at first, and a state; returns logits (N, V), the state after
    these words, and where it looked (N, S), or None: weights of at least 0, which are 0 on padding.
    """

    def __call__(self, words: Tensor, state: S) -> tuple[Tensor, S, Tensor | None]: ...


@dataclass(frozen=True)
class Carried:
    """A state of recurrent layers, beside what belongs to the sequence.

    Args:
        states: (layers, N, H), as layers give and take them: a tensor, or a tuple, list or mapping of them.
        memory: by name, (N, ...): the same at all steps.
    """

    states: Any
    memory: Mapping[str, Tensor] = field(default_factory=dict)

    def select(self, rows: Tensor, within: bool) -> Carried:
        memory = {name: value.index_select(0, rows) for name, value in self.memory.items() if not within}
        return Carried(_selected(self.states, rows), self.memory if within else memory)

    def after(self, states: Any) -> Carried:
        """The next state, with the same memory."""
        return replace(self, states=states)


def _selected(states: Any, rows: Tensor) -> Any:
    if isinstance(states, Tensor):
        return states.index_select(1, rows)
    if isinstance(states, Mapping):
        return {name: _selected(value, rows) for name, value in states.items()}
    return tuple(_selected(value, rows) for value in states)


@dataclass(frozen=True)
class Special:
    """The numbers of the tokens that are no words.

    Args:
        pad: fills what is shorter than others; never written.
        start: read before the first word; never written, unless it is END too.
        end: ends a sequence.
        unknown: stands for words that are in no vocabulary, if there is one.

    Raises:
        InputError: a number is below 0.
    """

    pad: int
    start: int
    end: int
    unknown: int | None = None

    def __post_init__(self) -> None:
        if min(self.pad, self.start, self.end, self.unknown or 0) < 0:
            raise InputError(f"numbers of special tokens cannot be negative, got {self}")


@dataclass(frozen=True)
class Written:
    """A sequence that a model wrote.

    Args:
        tokens: without START, END and PAD.
        score: log P(tokens, END), or without END where the sequence was cut. It is the model's own: neither
            the temperature nor what was not allowed changes it.
        normalised: what hypotheses of a beam are compared by; the score itself without a beam.
        finished: END came; otherwise the sequence was cut at its greatest length.
        attention: (len(tokens), S), where the model looked for each token, if it tells.
    """

    tokens: list[int]
    score: float
    normalised: float
    finished: bool
    attention: Tensor | None = None


class Rules:
    """Which words may come when, and how long sequences may be.

    Args:
        batch: sequences, B.
        max_length: of all, or (B,) of each; END is not counted.
        min_length: END cannot come before so many words.
        unknown: the token for unknown words may be written.

    Raises:
        InputError: lengths do not fit each other or the batch.
    """

    def __init__(
        self, batch: int, special: Special, max_length: int | Tensor | Iterable[int], min_length: int = 0,
        unknown: bool = False, device: torch.device | str | None = None,
    ) -> None:  # fmt: skip
        if isinstance(batch, bool) or not isinstance(batch, int) or batch < 0:
            raise InputError(f"batch is a number of sequences from 0, got {batch!r}")
        limits = torch.as_tensor(max_length) if batch else torch.zeros(0, dtype=torch.int64)
        if limits.is_floating_point() or limits.is_complex() or limits.dtype == torch.bool:
            raise InputError(f"max_length is a whole number or a tensor of them, got {limits.dtype}")
        if limits.shape not in ((), (batch,)):
            raise InputError(
                f"max_length is one number or {batch} of them, one a sequence, got {tuple(limits.shape)}"
            )
        self.limits: Final = limits.to(device, torch.int64).expand(batch)
        self.shortest: Final = int(self.limits.min()) if batch else 0
        if min_length < 0:
            raise InputError(f"min_length cannot be negative, got {min_length}")
        if batch and self.shortest < min_length:
            raise InputError(f"max_length is {self.shortest}, which is below min_length, {min_length}")
        self.special: Final = special
        self.min_length: Final = min_length
        never = {special.pad, special.start} - {special.end}
        never |= set() if unknown or special.unknown is None else {special.unknown}
        self._never = torch.tensor(sorted(never), device=device)
        self._not_yet = torch.tensor(sorted({*never, special.end}), device=device)

    def log_probabilities(self, logits: Tensor, words: Tensor, step: int) -> Tensor:
        """log p of every next word (N, V), in at least float32; -inf of those that cannot come now.

        Args:
            logits: (N, V), from the model.
            words: (N,), what it was given.
            step: so many words are there.
        """
        if logits.ndim != 2 or len(logits) != len(words):
            raise InputError(
                f"a model that is decoded gives logits (N, V) for words (N,): N is {len(words)}, and it gave "
                f"{tuple(logits.shape)}"
            )
        special, V = self.special, logits.shape[1]
        greatest = max(special.pad, special.start, special.end, special.unknown or 0)
        if greatest >= V:
            raise InputError(f"the model knows tokens 0 to {V - 1}, but {special} has {greatest}")
        logs = logits.log_softmax(-1, torch.promote_types(logits.dtype, torch.float32))
        return logs.index_fill_(1, self._not_yet if step < self.min_length else self._never, -torch.inf)


def check_numbers(likeliest: Tensor, step: int) -> None:
    """
    Args:
        likeliest: the greatest log p of each row.

    Raises:
        DivergedError: one is NaN.
    """
    if bool(likeliest.isnan().any()):
        raise DivergedError(f"the model gives logits that are not finite for word {step + 1}")


def no_word(step: int) -> InputError:
    """What to raise where no word may follow."""
    return InputError(
        f"nothing can follow at word {step + 1}: the model gives probability 0 to every word that is allowed"
    )
