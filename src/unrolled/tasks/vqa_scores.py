"""How right answers to questions about pictures are: one score a question, and means of them with intervals.

Where ten people answered, an answer on which n of them agree counts min(n / 3, 1) (Agrawal et al. 2015,
arXiv:1505.00468); the evaluation server of VQA leaves out each person in turn and takes the mean, by which
one, two and three who agree count 0.3, 0.6 and 0.9. Elsewhere an answer is right or wrong.

Questions about one picture are right and wrong together, so intervals count pictures rather than questions:
they are Wilson's for as many independent questions as would have the variance that the pictures show.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from unrolled.data.questions import Question
from unrolled.measures.accuracy import wilson

PEOPLE: Final = 10
"""Answers to a question from which agreement counts."""

AGREE: Final = 3
"""People whose agreement makes an answer right."""

EVERY: Final = "all"
"""The kind of all questions."""


def plain(answer: str) -> str:
    """An answer as it is compared: in lower case, with single blanks, without a full stop."""
    return " ".join(answer.lower().split()).rstrip(".")


def people(question: Question) -> Counter[str]:
    """How many gave each answer; one, where only the answer is known, and none where it is not."""
    if question.answers:
        return Counter(map(plain, question.answers))
    return Counter([plain(question.answer)] if question.answer else [])


def score(question: Question, answer: str) -> float:
    """From 0 to 1."""
    if len(question.answers) >= PEOPLE:
        return min(people(question)[plain(answer)] / AGREE, 1.0)
    return float(plain(answer) == plain(question.answer))


@dataclass(frozen=True)
class Score:
    """A mean of scores.

    Attributes:
        share: the mean, from 0 to 1.
        count: of questions.
        effective: how many independent questions would be as uncertain.
    """

    share: float
    count: int
    effective: float

    @property
    def interval(self) -> tuple[float, float]:
        """That with 95% confidence."""
        return wilson(self.share, self.effective)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.share:.1%} ({low:.1%} to {high:.1%})"

    @classmethod
    def of(cls, scores: Sequence[float], pictures: Sequence[int]) -> Score:
        """The mean of N scores of questions about these pictures (N,).

        With sums s_g and counts n_g of G pictures the variance is G / (G − 1) Σ (s_g − p n_g)² / N², that
        of a ratio of means (Cochran 1977, Sampling Techniques, chapter 6). Where all are right, or all wrong,
        it says nothing, and a picture counts as one question.
        """
        s, (_, of) = np.asarray(scores, dtype=float), np.unique(pictures, return_inverse=True)
        N, G, p = len(s), int(of.max()) + 1, float(s.mean())
        apart = np.bincount(of, s) - p * np.bincount(of)
        variance = float(G / max(G - 1, 1) * np.square(apart).sum() / N**2)
        spread = p * (1 - p)
        effective = min(spread / variance, N) if spread > 0 and variance > 1e-12 * spread else float(G)
        return cls(p, N, max(effective, 1.0))


@dataclass(frozen=True)
class Scores:
    """Of all questions, and of each kind."""

    every: Score
    kinds: Mapping[str, Score]

    @property
    def share(self) -> float:
        return self.every.share

    def __str__(self) -> str:
        return str(self.every)

    def rows(self) -> dict[str, Score]:
        """By kind, all questions first; the kinds where there are several."""
        return {EVERY: self.every, **(self.kinds if len(self.kinds) > 1 else {})}

    @classmethod
    def of(cls, questions: Sequence[Question], answers: Iterable[str]) -> Scores:
        """Of these answers, one for each question."""
        found = [score(*pair) for pair in zip(questions, answers, strict=True)]
        kinds: dict[str, list[int]] = {}
        for place, question in enumerate(questions):
            kinds.setdefault(question.kind or "other", []).append(place)

        def mean(places: Sequence[int]) -> Score:
            return Score.of([found[k] for k in places], [questions[k].image for k in places])

        return cls(mean(range(len(questions))), {kind: mean(kinds[kind]) for kind in sorted(kinds)})

    @classmethod
    def from_json(cls, every: Mapping[str, Any], kinds: Mapping[str, Mapping[str, Any]]) -> Scores:
        """As config.json has it."""
        return cls(Score(**every), {kind: Score(**fields) for kind, fields in kinds.items()})
