"""CIDEr: how much a caption is like those that people wrote of the same picture.

Captions become vectors g_n(c) of their n-grams, n = 1 to 4, each weighted by how often it is in the caption
and how few of the N pictures it was written of:

    g_nk(c) = count_k(c) log(N / max(1, pictures whose references have k))
    CIDEr   = mean over n and references r of  cos(g_n(c), g_n(r))
    CIDEr-D = 10 mean over n and r of  exp(−(|c| − |r|)² / 2σ²) cos(min(g_n(c), g_n(r)), g_n(r))

with σ = 6, where the norm of g_n(c) stays what it was without min. CIDEr goes from 0 to 1, CIDEr-D from 0 to
10; the latter cannot be raised by repeating words, and is what is commonly reported. The paper reduces words
to their roots first; here, as in the common evaluation, they stay as they are. Weights depend on the
pictures: figures on others, or on fewer, are not comparable.

Source: Vedantam, Zitnick & Parikh 2015, arXiv:1411.5726, sections 3 and 6.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from unrolled.errors import InputError
from unrolled.measures.captions import check_captions, words
from unrolled.measures.resampling import resampled

ORDER: Final = 4
"""The longest n-grams."""

SIGMA: Final = 6.0

Vector = dict[tuple[str, ...], float]
"""Weights of the n-grams of a caption, for one n."""


@dataclass(frozen=True)
class Cider:
    """The figure of each caption, and their mean."""

    name: str
    each: list[float]

    @property
    def score(self) -> float:
        return sum(self.each) / len(self.each)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% confidence interval of the mean, by drawing pictures; their n-grams keep their weights."""
        rows = np.array([[each, 1.0] for each in self.each])
        ones = np.ones(len(rows), dtype=np.int64)
        low, high = resampled(rows, ones, lambda sums: sums[:, :1] / sums[:, 1:])
        return float(low[0]), float(high[0])

    def __str__(self) -> str:
        return f"{self.name} {self.score:.3f}"


def cider(found: Sequence[str], references: Sequence[Sequence[str]]) -> Cider:
    """CIDEr of N captions, from 0 to 1.

    Args:
        found: the captions; `captions.words` says what their words are.
        references: for each picture the captions that people wrote, at least one.

    Raises:
        InputError: numbers differ, a picture has no reference, or there are fewer than two pictures, so that
            every weight is 0.
    """
    return Cider("CIDEr", _each(found, references, _cosine))


def cider_d(found: Sequence[str], references: Sequence[Sequence[str]]) -> Cider:
    """CIDEr-D of N captions, from 0 to 10; see `cider`."""
    return Cider("CIDEr-D", [10 * score for score in _each(found, references, _clipped)])


def _each(
    found: Sequence[str], references: Sequence[Sequence[str]], alike: Callable[[Vector, Vector, int], float]
) -> list[float]:
    """The mean over n-grams and references, of each caption.

    Args:
        alike: of two captions, from their vectors and the difference of their lengths.
    """
    check_captions(found, references)
    if len(found) < 2:
        raise InputError("CIDEr weighs words by how few pictures they describe: give at least two pictures")
    written = [[_count(words(caption)) for caption in each] for each in references]
    pictures = Counter(k for each in written for k in {k for counts in each for k in counts})
    N = len(found)

    def vectors(counts: Counter[tuple[str, ...]]) -> list[Vector]:
        split: list[Vector] = [{} for _ in range(ORDER)]
        for k, count in counts.items():
            split[len(k) - 1][k] = count * math.log(N / max(1, pictures[k]))
        return split

    scores = []
    for caption, each in zip(found, written, strict=True):
        counts = _count(words(caption))
        g, total = vectors(counts), 0.0
        for reference in each:
            longer = _length(counts) - _length(reference)
            total += sum(map(alike, g, vectors(reference), [longer] * ORDER))
        scores.append(total / (ORDER * len(each)))
    return scores


def _count(said: list[str]) -> Counter[tuple[str, ...]]:
    """Every n-gram, n = 1 to 4."""
    return Counter(tuple(said[i : i + n]) for n in range(1, ORDER + 1) for i in range(len(said) - n + 1))


def _length(counts: Counter[tuple[str, ...]]) -> int:
    return sum(count for k, count in counts.items() if len(k) == 1)


def _norms(g: Vector, r: Vector) -> float:
    return math.sqrt(sum(v * v for v in g.values()) * sum(v * v for v in r.values()))


def _cosine(g: Vector, r: Vector, longer: int) -> float:
    norms = _norms(g, r)
    return sum(value * r.get(k, 0.0) for k, value in g.items()) / norms if norms else 0.0


def _clipped(g: Vector, r: Vector, longer: int) -> float:
    norms = _norms(g, r)
    if not norms:
        return 0.0
    dot = sum(min(value, r.get(k, 0.0)) * r.get(k, 0.0) for k, value in g.items())
    return math.exp(-(longer**2) / (2 * SIGMA**2)) * dot / norms
