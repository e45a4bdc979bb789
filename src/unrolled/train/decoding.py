"""Write sequences with a model of the next word: the likeliest word each time, drawn words, or a beam.

One implementation for translations, captions and answers. All sequences of a batch are written at once, and
those that are done leave it. What a model must be is said in `decodable.py`, what a beam does in `beam.py`.

    found = decode(model, state, B, Special(pad=0, start=1, end=2), Decoding(beam=5), max_length=2 * lengths)
    found[0].tokens, found[0].score, found[0].attention
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count
from typing import Annotated, Any, Final

import torch
from torch import Tensor

from unrolled.errors import InputError
from unrolled.train.beam import FULL, Ranking, beam
from unrolled.train.decodable import (
    Carried,
    Rules,
    S,
    Special,
    State,
    Writer,
    Written,
    check_numbers,
    no_word,
)
from unrolled.train.sampling import check_draw, draw

__all__ = ["Carried", "Decoding", "Special", "State", "Writer", "Written", "decode", "n_best"]

MOST: Final = 1_000_000
"""Of every length, and of a beam."""


@dataclass(frozen=True)
class Decoding:
    """How sequences are written; the text beside a type is the help of commands that write."""

    beam: Annotated[
        int | None, "hypotheses that are kept beside each other [none: the likeliest word each time]"
    ] = None
    length_penalty: Annotated[
        float | None, "of a beam: α of ((5 + words) / 6)^α, which log-probabilities are divided by [0.6]"
    ] = None
    coverage_penalty: Annotated[
        float | None, "of a beam: β times the log of how far each place was looked at [0]"
    ] = None
    temperature: Annotated[
        float | None,
        "words are drawn: below 1 more carefully [1 with --top-k or --top-p, otherwise not drawn]",
    ] = None
    top_k: Annotated[int | None, "words are drawn among the k likeliest [all]"] = None
    top_p: Annotated[
        float | None, "words are drawn among the fewest that together have this probability [1]"
    ] = None
    max_length: Annotated[int, "words at most"] = 100
    min_length: Annotated[int, "words at least"] = 0
    unknown: Annotated[bool, "the token for unknown words may be written"] = False

    def __post_init__(self) -> None:
        draws = any(value is not None for value in (self.temperature, self.top_k, self.top_p))
        if draws and self.beam is not None:
            raise InputError("words are drawn or sought by a beam: leave out --beam, or temperature and top")
        for name in ("beam", "max_length", "min_length"):
            value, least = getattr(self, name), int(name == "beam")
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MOST:
                raise InputError(f"{_option(name)} is a number from {least} to a million, got {value}")
        if self.min_length > self.max_length:
            raise InputError(
                f"--min-length is {self.min_length}, above --max-length, which is {self.max_length}"
            )
        for name, default in (("length_penalty", 0.6), ("coverage_penalty", 0.0)):
            value = getattr(self, name)
            if value is None:
                object.__setattr__(self, name, default if self.beam is not None else 0.0)
            elif value and self.beam is None:
                raise InputError(f"{_option(name)} is for a beam: give --beam too, such as --beam 5")
            elif not 0 <= value < math.inf:
                raise InputError(f"{_option(name)} must be a finite number from 0, got {value}")
        if draws:
            object.__setattr__(self, "temperature", 1.0 if self.temperature is None else self.temperature)
            check_draw(self.temperature, self.top_k, self.top_p)  # type: ignore[arg-type]


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


DEFAULT: Final = Decoding()


def decode(
    model: Writer[S],
    state: S,
    batch: int,
    special: Special,
    options: Decoding = DEFAULT,
    *,
    max_length: int | Tensor | Iterable[int] | None = None,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> list[Written]:
    """The best sequence that is found for each of B.

    The model is run as it is, without gradients: call `model.eval()` first if it has dropout.

    Args:
        state: of B rows, before START.
        max_length: words at most, END not counted: of all, or (B,) of each, in place of that of the options.
        mask: (B, S), True where there is something to look at: for the coverage penalty.
        generator: what words are drawn with.
        device: where the model is.

    Raises:
        InputError: arguments or what the model returns do not fit, or no word may follow.
        DivergedError: the model gives NaN.
    """
    if options.beam is not None:
        found = n_best(
            model, state, batch, special, options, 1, max_length=max_length, mask=mask, device=device
        )
        return [best for (best,) in found]
    rules = _rules(batch, special, options, max_length, device)
    if options.temperature is None:
        return greedy(model, state, rules)
    if generator is None:
        raise InputError("words are drawn with a generator: give generator=torch.Generator().manual_seed(0)")
    return sampled(model, state, rules, generator, options.temperature, options.top_k, options.top_p)


def n_best(
    model: Writer[S],
    state: S,
    batch: int,
    special: Special,
    options: Decoding,
    best: int,
    *,
    max_length: int | Tensor | Iterable[int] | None = None,
    mask: Tensor | None = None,
    device: torch.device | str | None = None,
) -> list[list[Written]]:
    """The best few of a beam for each of B sequences, best first: see `decode`.

    Args:
        best: so many, or fewer where the beam found fewer.
    """
    if options.beam is None:
        raise InputError("the best few are those of a beam: give Decoding(beam=5)")
    ranking = Ranking(options.length_penalty or 0.0, options.coverage_penalty or 0.0, mask)
    rules = _rules(batch, special, options, max_length, device)
    return beam(model, state, rules, ranking, options.beam, best)


def _rules(
    batch: int, special: Special, options: Decoding, max_length: Any, device: torch.device | str | None
) -> Rules:
    longest = options.max_length if max_length is None else max_length
    return Rules(batch, special, longest, options.min_length, options.unknown, device)


def greedy(model: Writer[S], state: S, rules: Rules) -> list[Written]:
    """The likeliest word each time; of equally likely ones the one of lowest number."""
    return _one_each(model, state, rules, lambda logs: logs.max(-1))


def sampled(
    model: Writer[S], state: S, rules: Rules, generator: torch.Generator,
    temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None,
) -> list[Written]:  # fmt: skip
    """Words that are drawn, see `sampling.draw`. Of a batch each sequence is drawn by itself.

    Source: as for `sampling`.
    """
    check_draw(temperature, top_k, top_p)

    def choose(logs: Tensor) -> tuple[Tensor, Tensor]:
        can = logs.amax(-1, keepdim=True) > -torch.inf
        some = logs if bool(can.all()) else logs.where(can, 0.0)  # if it matters, an error is told below
        words = draw(some, temperature, top_k, top_p, generator)
        return logs.gather(-1, words[:, None])[:, 0], words

    return _one_each(model, state, rules, choose)


@torch.no_grad()
def _one_each(
    model: Writer[S], state: S, rules: Rules, choose: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> list[Written]:
    """One hypothesis of each sequence.

    Args:
        choose: from log p (N, V) to those of the words that are taken (N,), and the words.
    """
    batch, limits = len(rules.limits), rules.limits
    sequence = torch.arange(batch, device=limits.device)  # of each row
    live = torch.ones_like(sequence, dtype=torch.bool)  # rows that are not done
    weights: Tensor | None = None
    words = torch.full_like(sequence, rules.special.start)
    scores = torch.zeros(batch, dtype=torch.float64, device=limits.device)
    finished = torch.zeros_like(live)
    steps: list[tuple[Tensor, Tensor, Tensor | None]] = []
    for step in count() if batch else ():
        logits, state, weights = model(words, state)
        values, words = choose(rules.log_probabilities(logits, words, step))
        if not bool(((values > -torch.inf) | ~live).all()):
            check_numbers(values[live], step)
            raise no_word(step)
        ended = live & (words == rules.special.end)
        on = live & ~ended if step < rules.shortest else live & ~ended & (limits > step)
        scores[sequence] += values.double().where(ended | on, 0.0)
        finished[sequence] |= ended
        live, left = on, int(on.sum())
        if not left:
            break
        if left == len(live):
            steps.append((sequence, words, weights))
            continue
        steps.append((sequence[live], words[live], None if weights is None else weights[live]))
        if left <= FULL * len(live):
            state = state.select(live.nonzero()[:, 0], False)
            sequence, words, limits = sequence[live], words[live], limits[live]
            live = torch.ones_like(sequence, dtype=torch.bool)

    tokens: list[list[int]] = [[] for _ in range(batch)]
    for of, which, _ in steps:
        for b, word in zip(of.tolist(), which.tolist(), strict=True):
            tokens[b].append(word)
    looks = None if weights is None else _looks(batch, steps, weights)
    return [
        Written(said, score, score, end, None if looks is None else looks[b, : len(said)])
        for b, (said, score, end) in enumerate(zip(tokens, scores.tolist(), finished.tolist(), strict=True))
    ]


def _looks(batch: int, steps: list[tuple[Tensor, Tensor, Tensor | None]], like: Tensor) -> Tensor:
    """Weights (B, T, S) of all steps, 0 where a sequence is over."""
    found = like.new_zeros(batch, len(steps), like.shape[1])
    for step, (of, _, weights) in enumerate(steps):
        if weights is not None:
            found[of, step] = weights
    return found
