"""How good labels are: accuracy and F1 with 95% intervals, and what is reached without a network."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from unrolled.measures import f1
from unrolled.measures.accuracy import Accuracy


@dataclass(frozen=True)
class Scores:
    """How many labels are right, and F1.

    Attributes:
        right, count: of labels.
        low, high: the 95% interval of their share.
        f1, f1_low, f1_high: the mean of F1 over classes (macro), and its interval.
    """

    right: int
    count: int
    low: float
    high: float
    f1: float
    f1_low: float
    f1_high: float

    @property
    def share(self) -> float:
        return self.right / self.count

    def __str__(self) -> str:
        return (
            f"{self.share:.1%} ({self.low:.1%} to {self.high:.1%}), "
            f"F1 {self.f1:.3f} ({self.f1_low:.3f} to {self.f1_high:.3f})"
        )


def scores(found: Sequence[int], expected: Sequence[int], groups: Sequence[Hashable] | None = None) -> Scores:
    """Of N labels.

    Args:
        groups: (N,), to which sequence each belongs, if sequences have many: what is of one is drawn together
            for the intervals, as errors come together.
    """
    figures = f1(found, expected, groups=groups)
    counted = Accuracy(sum(a == b for a, b in zip(found, expected, strict=True)), len(found))
    low, high = counted.interval if groups is None else (figures.micro.low, figures.micro.high)
    macro = figures.macro
    return Scores(counted.right, counted.count, low, high, macro.value, macro.low, macro.high)


def commonest(labels: Iterable[int]) -> int:
    """The label that is there most often; of several the smallest."""
    counts = Counter(labels)
    return min(counts, key=lambda label: (-counts[label], label))


class NaiveBayes:
    """The label of a text by the words and pairs of words that are in it, each as if it were there by itself:

        log p(label) + Σ log (texts of the label with the word + 1) / (those of all words + V)

    Args:
        texts: words of each, to learn from.
        labels: of each, from 0.

    Source: Wang & Manning 2012, doi:10.5555/2390665.2390688, its MNB with bigrams.
    """

    def __init__(self, texts: Sequence[Sequence[str]], labels: Sequence[int]) -> None:
        classes = range(max(labels) + 1)
        counts: list[Counter[str]] = [Counter() for _ in classes]
        for words, label in zip(texts, labels, strict=True):
            counts[label].update(_parts(words))
        known = {part for each in counts for part in each}
        totals = [each.total() + len(known) for each in counts]
        self._logs = {
            part: [math.log((each[part] + 1) / total) for each, total in zip(counts, totals, strict=True)]
            for part in known
        }
        there = Counter(labels)
        self._prior = [
            math.log(there[label] / len(labels)) if there[label] else -math.inf for label in classes
        ]

    def __call__(self, words: Sequence[str]) -> int:
        """The likeliest label of a text."""
        logs = [self._logs[part] for part in _parts(words) if part in self._logs]
        sums = [prior + sum(each[label] for each in logs) for label, prior in enumerate(self._prior)]
        return max(range(len(sums)), key=sums.__getitem__)


def _parts(words: Sequence[str]) -> set[str]:
    return {*words, *(f"{a} {b}" for a, b in pairwise(words))}


class MostFrequentTag:
    """The tag that a word has most often; of an unknown word the commonest of words that are there once, if
    there are some.

    Args:
        sentences: words of each, to learn from.
        tags: of each word, from 0.
    """

    def __init__(self, sentences: Sequence[Sequence[str]], tags: Sequence[Sequence[int]]) -> None:
        found: defaultdict[str, list[int]] = defaultdict(list)
        for words, own in zip(sentences, tags, strict=True):
            for word, tag in zip(words, own, strict=True):
                found[word].append(tag)
        self._tags = {word: commonest(each) for word, each in found.items()}
        once = [each[0] for each in found.values() if len(each) == 1]
        self._otherwise = commonest(once or (tag for own in tags for tag in own))

    def __call__(self, words: Sequence[str]) -> list[int]:
        """A tag for each word."""
        return [self._tags.get(word, self._otherwise) for word in words]
