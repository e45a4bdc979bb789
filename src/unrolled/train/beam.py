"""Beam search: the best of several hypotheses for each sequence of a batch, written side by side.

A beam has so many places. At every step the likeliest of all one-word continuations take those that are
left; one that continues with END is finished and keeps its place for good, as in Nematus and Marian. So a
beam of one is the greedy choice, and one with a place for every sequence finds the best of all.

Finished hypotheses Y of a source X are compared by (Wu et al. 2016, arXiv:1609.08144, equation 14)

    log P(Y | X) / lp(Y) + cp(X; Y),   lp = ((5 + |Y|) / 6)^α,   cp = β Σ_i log min(Σ_t a_ti, 1)

where |Y| counts END, and a_ti is the weight on place i of the source at word t. α = β = 0 compares
probabilities. Those that had to be cut at their greatest length come after all finished ones.

A sequence is done when no hypothesis that is still being written can become one of the best: log P only
falls, lp is greatest at the greatest length, and cp is at most 0, so that log P / lp there is a bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import count
from operator import attrgetter
from typing import Final

import torch
from torch import Tensor

from unrolled.errors import InputError, check_sizes
from unrolled.train.decodable import Rules, S, Writer, Written, check_numbers, no_word

UNSEEN: Final = 1e-10
"""What a place of the source counts in cp at least, where the weight on it is 0 at all steps."""

FULL: Final = 0.75
"""Sequences that are done leave the batch when at most this share of it is not."""


@dataclass(frozen=True)
class Ranking:
    """What hypotheses are compared by.

    Args:
        length: α.
        coverage: β.
        places: (B, S), True where the source has something; None: everywhere.

    Raises:
        InputError: α or β is below 0 or not finite.
    """

    length: float = 0.0
    coverage: float = 0.0
    places: Tensor | None = None

    def __post_init__(self) -> None:
        for name, value in (("length", self.length), ("coverage", self.coverage)):
            if not 0 <= value < math.inf:
                raise InputError(f"the {name} penalty must be a finite number from 0, got {value}")

    def lp(self, length: Tensor | int) -> Tensor:
        return ((5.0 + torch.as_tensor(length, dtype=torch.float64)) / 6.0) ** self.length

    def cp(self, covered: Tensor | None, sequence: Tensor) -> Tensor | float:
        """
        Args:
            covered: (N, S), weights summed over the words.
            sequence: (N,), whose source that is.
        """
        if covered is None:
            return 0.0
        logs = covered.double().clamp(UNSEEN, 1.0).log()
        if self.places is not None:
            logs = logs.where(self.places[sequence], 0.0)
        return self.coverage * logs.sum(1)

    def __call__(self, scores: Tensor, length: int, covered: Tensor | None, sequence: Tensor) -> Tensor:
        """Normalised scores (N,) of hypotheses of one length."""
        return scores / self.lp(length) + self.cp(covered, sequence)

    def covered(self, before: Tensor | None, weights: Tensor | None) -> Tensor | None:
        """Weights summed over the words so far, if they count.

        Raises:
            InputError: they do, and the model does not tell them, or not those of the places.
        """
        if not self.coverage:
            return None
        if weights is None:
            raise InputError("a coverage penalty is for models that tell where they look; this one does not")
        if self.places is not None and self.places.shape[1] != weights.shape[1]:
            raise InputError(
                f"the mask has {self.places.shape[1]} places, and the model looks at {weights.shape[1]}"
            )
        return weights if before is None else before + weights


@dataclass(frozen=True)
class Step:
    """One more word of all hypotheses.

    Args:
        rows: (N,), which hypothesis of before each one continues.
        words: (N,), with which word.
        weights: (M, S), where the model looked for that, in each hypothesis of before.
    """

    rows: Tensor
    words: Tensor
    weights: Tensor | None


@dataclass(frozen=True)
class Ending:
    """The hypothesis in a row after so many steps, which goes no further."""

    finished: bool
    normalised: float
    score: float
    steps: int
    row: int


class Endings:
    """Hypotheses that go no further, of B sequences, and the normalised scores of the best finished ones."""

    def __init__(self, batch: int, best: int, device: torch.device) -> None:
        self._of: list[list[Ending]] = [[] for _ in range(batch)]
        self._best = torch.full((batch, best), -torch.inf, dtype=torch.float64, device=device)

    def add(
        self, finished: bool, sequence: Tensor, normalised: Tensor, scores: Tensor, steps: int, rows: Tensor
    ) -> None:  # fmt: skip
        """Hypotheses (N,) of one length."""
        each = zip(*(value.tolist() for value in (sequence, normalised, scores, rows)), strict=True)
        for b, value, score, row in each:
            self._of[b].append(Ending(finished, value, score, steps, row))

    def lead(self, sequence: Tensor, normalised: Tensor) -> Tensor:
        """The score that a hypothesis must exceed to be among the best (b,), after those of these (b, c)."""
        best = self._best.shape[1]
        self._best[sequence] = torch.cat([self._best[sequence], normalised], 1).topk(best).values
        return self._best[sequence, -1]

    def ordered(self) -> list[list[Ending]]:
        """Of each sequence, best first: those that are finished, then those that were cut."""
        key = attrgetter("finished", "normalised")
        return [sorted(each, key=key, reverse=True)[: self._best.shape[1]] for each in self._of]


@torch.no_grad()
def beam(
    model: Writer[S], state: S, rules: Rules, ranking: Ranking, size: int, best: int = 1
) -> list[list[Written]]:
    """The best hypotheses for each of B sequences, best first.

    Args:
        state: of B rows.
        size: places of each beam, K.
        best: hypotheses wanted of each sequence, 1 to K; there are fewer where the beam found fewer.

    Memory: the state for B K rows.

    Raises:
        InputError: arguments or what the model returns do not fit, or no word may follow.
        DivergedError: the model gives NaN.
    """
    check_sizes(beam=size, best=best)
    if best > size:
        raise InputError(f"the {best} best are wanted of a beam of {size}: make the beam larger")
    batch, limits, end = len(rules.limits), rules.limits, rules.special.end
    device, lowest = limits.device, -torch.inf
    sequence = torch.arange(batch, device=device)  # (b,), those that are not done
    scores = torch.zeros(batch, 1, dtype=torch.float64, device=device)  # (b, w), lowest: no hypothesis
    words = torch.full((batch,), rules.special.start, device=device)
    room = torch.full((batch, 1), size, device=device)
    covered: Tensor | None = None
    weights: Tensor | None = None
    steps: list[Step] = []
    endings = Endings(batch, best, device)
    for step in count() if batch else ():
        logits, state, weights = model(words, state)
        values, following = rules.log_probabilities(logits, words, step).topk(min(size, logits.shape[1]))
        check_numbers(values[:, 0], step)
        (b, w), k = scores.shape, values.shape[1]
        totals, place = (scores[:, :, None] + values.view(b, w, k)).flatten(1).topk(min(size, w * k))
        rows = place // k + w * torch.arange(b, device=device)[:, None]  # (b, c), from best to worst
        following = following.view(b, w * k).gather(1, place)
        stay = (totals > lowest) & (torch.arange(totals.shape[1], device=device) < room)
        ended = stay & (following == end)
        going = stay & ~ended
        before, covered = covered, ranking.covered(covered, weights)

        found = torch.full_like(totals, lowest)
        if bool(ended.any()):
            its, at, of = totals[ended], rows[ended], sequence[ended.nonzero()[:, 0]]
            found[ended] = ranking(its, step + 1, None if covered is None else covered[at], of)
            endings.add(True, of, found[ended], its, step, at)
            room = room - ended.sum(1, keepdim=True)
        if step >= rules.shortest:
            last = (limits <= step)[:, None]
            cut = (last & (scores > lowest)).flatten()
            cut[rows[ended]] = False
            its, at = scores.flatten()[cut], cut.nonzero()[:, 0]
            of = sequence[at // w]
            endings.add(
                False, of, ranking(its, step, None if before is None else before[at], of), its, step, at
            )
            going &= ~last
        may_lead = totals / ranking.lp(limits + 1)[:, None] > endings.lead(sequence, found)[:, None]
        going &= (going & may_lead).any(1, keepdim=True)

        width = int(going.sum(1).max())
        if not width:
            break
        scores, pick = totals.where(going, lowest).topk(width)
        rows, words = rows.gather(1, pick), following.gather(1, pick)
        on = going.any(1)
        if int(on.sum()) <= FULL * b:
            rows, words, scores, sequence, limits, room = (
                value[on] for value in (rows, words, scores, sequence, limits, room)
            )
        within = rows.shape == (b, w)
        rows, words = rows.flatten(), words.flatten()
        state = state.select(rows, within)
        covered = None if covered is None else covered[rows]
        steps.append(Step(rows, words, weights))
    ordered = endings.ordered()
    if not all(ordered):
        raise no_word(len(steps))
    return _traced(steps, ordered, weights)


def _traced(steps: list[Step], ordered: list[list[Ending]], like: Tensor | None) -> list[list[Written]]:
    """Back from the last word of each to its first.

    Args:
        like: weights (N, S), if there are any.
    """
    rows, words = ([getattr(step, name).tolist() for step in steps] for name in ("rows", "words"))

    def written(ending: Ending) -> Written:
        row, tokens, looks = ending.row, [], []
        for step in reversed(range(ending.steps)):
            tokens.append(words[step][row])
            row = rows[step][row]
            weights = steps[step].weights
            if weights is not None:
                looks.append(weights[row])
        attention = None if like is None else torch.stack(looks[::-1]) if looks else like[:0]
        return Written(tokens[::-1], ending.score, ending.normalised, ending.finished, attention)

    return [[written(ending) for ending in each] for each in ordered]
