"""How good translations are, and what is reached without a network."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from unrolled.data.pairs import Pair
from unrolled.measures.text import TextScore, bleu, chrf

ORDER: Final = 3
"""n-grams up to so many words tell how similar sentences are."""


@dataclass(frozen=True)
class Scores:
    """BLEU and chrF, from 0 to 100, and the share of sentences that are word for word as they should be."""

    bleu: float
    chrf: float
    exact: float

    def __str__(self) -> str:
        return f"BLEU {self.bleu:.1f}, chrF {self.chrf:.1f}, exact {self.exact:.1%}"


@dataclass(frozen=True)
class Signed:
    """The same with what sacrebleu says of how they were computed."""

    bleu: TextScore
    chrf: TextScore
    exact: float

    @property
    def plain(self) -> Scores:
        return Scores(self.bleu.score, self.chrf.score, self.exact)

    def __str__(self) -> str:
        return (
            f"{self.bleu}, {self.chrf}, exact {self.exact:.1%}\n"
            f"    {self.bleu.name}|{self.bleu.signature}\n    {self.chrf.name}|{self.chrf.signature}"
        )


def signed(
    found: Sequence[str], expected: Sequence[str], lowercase: bool = False, resamples: int = 0
) -> Signed:
    """Of N translations, each beside one that is right.

    Args:
        lowercase: case is not looked at.
        resamples: for intervals, see `unrolled.measures.text.bleu`.
    """
    if lowercase:
        found, expected = [text.lower() for text in found], [text.lower() for text in expected]
    right = sum(_words(a) == _words(b) for a, b in zip(found, expected, strict=True))
    return Signed(
        bleu(found, expected, lowercase=lowercase, resamples=resamples),
        chrf(found, expected, resamples=resamples),
        right / len(expected),
    )


def scores(found: Sequence[str], expected: Sequence[str], lowercase: bool = False) -> Scores:
    """The same without signatures."""
    return signed(found, expected, lowercase).plain


def of_sentences(found: Sequence[str], expected: Sequence[str]) -> list[float]:
    """chrF of each of N sentences."""
    return [chrf([text], [right]).score for text, right in zip(found, expected, strict=True)]


def _words(text: str) -> list[str]:
    return text.split()


@dataclass(frozen=True)
class Group:
    """Sentences whose source has from `low` to `high` words."""

    low: int
    high: int
    count: int
    scores: Scores

    @property
    def label(self) -> str:
        return f"{self.low}" if self.low == self.high else f"{self.low} to {self.high}"


def by_length(
    sources: Sequence[str],
    found: Sequence[str],
    expected: Sequence[str],
    groups: int | None = None,
    lowercase: bool = False,
) -> list[Group]:
    """How good translations are by the length of the source, the shortest first.

    Args:
        groups: of about as many sentences each; every length by itself, if not given.
    """
    lengths = [len(_words(text)) for text in sources]
    order = sorted(range(len(lengths)), key=lambda k: lengths[k])
    least = 1 if groups is None else len(order) / groups
    parts: list[list[int]] = []
    for k in order:
        fresh = not parts or (len(parts[-1]) >= least and lengths[parts[-1][-1]] != lengths[k])
        if fresh:
            parts.append([])
        parts[-1].append(k)
    if len(parts) > 1 and len(parts[-1]) < least / 2:
        parts[-2] += parts.pop()
    return [
        Group(
            lengths[part[0]],
            lengths[part[-1]],
            len(part),
            scores([found[k] for k in part], [expected[k] for k in part], lowercase),
        )
        for part in parts
    ]


class Nearest:
    """The translation of the most similar sentence.

    Similar are sentences that share n-grams of words, up to three, each the more the fewer sentences have it:
    the cosine of their vectors of log(N / sentences with the n-gram). Of equal ones the first.

    Args:
        pairs: to look in.
    """

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self._targets = [pair.target for pair in pairs]
        self._having: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for place, pair in enumerate(pairs):
            for part in {*_parts(pair.source)}:
                self._having[part].append(place)
        squares = [0.0] * len(pairs)
        for places in self._having.values():
            weight = self._weight(places) ** 2
            for place in places:
                squares[place] += weight
        self._norms = [math.sqrt(square) or 1.0 for square in squares]

    def _weight(self, places: Sequence[int]) -> float:
        return math.log(len(self._targets) / len(places)) + 1e-9

    def __call__(self, source: str) -> str:
        """The translation of the sentence that is most like this one."""
        likeness: Counter[int] = Counter()
        for part in {*_parts(source)}:
            if part in self._having:
                weight = self._weight(self._having[part]) ** 2
                for place in self._having[part]:
                    likeness[place] += weight  # type: ignore[assignment]
        best = max(likeness, key=lambda place: (likeness[place] / self._norms[place], -place), default=0)
        return self._targets[best]


def _parts(text: str) -> Iterator[tuple[str, ...]]:
    words = text.casefold().split()
    for n in range(1, ORDER + 1):
        for k in range(len(words) - n + 1):
            yield tuple(words[k : k + n])


def baselines(train: Sequence[Pair], held_out: Sequence[Pair], lowercase: bool = False) -> dict[str, Scores]:
    """What is reached by saying the source again, and by the translation of the most similar sentence."""
    expected, nearest = [pair.target for pair in held_out], Nearest(train)
    said = {
        "copy of the source": [pair.source for pair in held_out],
        "nearest sentence": [nearest(pair.source) for pair in held_out],
    }
    return {name: scores(found, expected, lowercase) for name, found in said.items()}
