"""F1 of labels: per class, macro and micro.

With tp right answers of a class, fp answers that should be another and fn that are another,

    F1 = 2 tp / (2 tp + fp + fn),   the harmonic mean of precision and recall.

Macro is the mean over classes, micro that of all counts together (over all classes of single labels it is the
accuracy). Intervals come from resampling answers, or whole groups of them. Where nothing, or everything, is
wrong, samples all look alike; there J = tp / (tp + fp + fn) is a share, and F1 = 2 J / (1 + J) of the ends of
Wilson's interval.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unrolled.errors import InputError
from unrolled.measures.accuracy import Accuracy, check_pairs
from unrolled.measures.resampling import Array, resampled


@dataclass(frozen=True)
class Figure:
    """A value, and the ends of its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class F1:
    """F1 from 0 to 1.

    Args:
        macro: the mean over classes.
        micro: of all counts together.
        each: of each class, by label.
        support: how many answers should be of each class.
    """

    macro: Figure
    micro: Figure
    each: dict[Any, Figure]
    support: dict[Any, int]

    def __str__(self) -> str:
        return f"macro F1 {self.macro}, micro F1 {self.micro}"


def f1(
    found: Sequence[Any],
    expected: Sequence[Any],
    *,
    among: Sequence[Any] | None = None,
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> F1:
    """F1 of N labels.

    Args:
        found, expected: (N,), numbers or texts.
        among: the classes that count, such as all tags but the one of what is no name; all that there are.
        groups: (N,), answers of one group are drawn together: the words of a sentence depend on each other.
        seed: of what is drawn for the intervals.

    Raises:
        InputError: numbers differ, there are none, or a class of `among` occurs nowhere.
    """
    check_pairs(found, expected)
    if groups is not None and len(groups) != len(found):
        raise InputError(f"there are {len(found)} answers, and groups of {len(groups)}: give one for each")
    there = {*found, *expected}
    labels = sorted(there) if among is None else [*among]
    if not labels or there.isdisjoint(labels) or not there.issuperset(labels):
        missing = ", ".join(repr(label) for label in labels if label not in there)
        raise InputError(f"no answer is or should be of class {missing or 'none'}: leave it out of among=")
    index, C = {label: c for c, label in enumerate(labels)}, len(labels)
    f, e = (np.array([index.get(label, C) for label in labels_]) for labels_ in (found, expected))
    rows, counts = _rows(f, e, groups, C)

    sums = (counts @ rows)[None]
    low, high = resampled(rows, counts, _figures, seed)
    values = _figures(sums)[0]
    tp, wrong = sums[0, :C], sums[0, C:]
    figures = [
        Figure(*map(float, three))
        if 0 < right < right + mistakes
        else Figure(float(three[0]), *_wilson(int(right), int(mistakes)))
        for *three, right, mistakes in zip(values[:C], low[:C], high[:C], tp, wrong, strict=True)
    ]
    all_right, all_wrong = int(tp.sum()), int(wrong.sum())
    macro, micro = (Figure(*map(float, three)) for three in zip(values[C:], low[C:], high[C:], strict=True))
    if not all_right or not all_wrong:
        ends = [float(np.mean([getattr(figure, end) for figure in figures])) for end in ("low", "high")]
        macro, micro = Figure(macro.value, *ends), Figure(micro.value, *_wilson(all_right, all_wrong))
    support = {label: int((e == c).sum()) for c, label in enumerate(labels)}
    return F1(macro, micro, dict(zip(labels, figures, strict=True)), support)


def _rows(f: Any, e: Any, groups: Sequence[Hashable] | None, C: int) -> tuple[Array, Any]:
    """What is drawn: for each class its right answers, then its mistakes (G, 2 C), and how often (G,)."""
    if groups is None:  # answers that are alike are one row
        pairs, of, counts = np.unique(e * (C + 1) + f, return_inverse=True, return_counts=True)
        e, f, of = pairs // (C + 1), pairs % (C + 1), np.arange(len(pairs))
    else:
        place = {group: g for g, group in enumerate(dict.fromkeys(groups))}
        of, counts = np.array([place[group] for group in groups]), np.ones(len(place), dtype=np.int64)
    rows = np.zeros((len(counts), 2, C + 1))
    right = f == e
    np.add.at(rows, (of[right], 0, e[right]), 1)
    for side in (f, e):
        np.add.at(rows, (of[~right], 1, side[~right]), 1)
    return rows[:, :, :C].reshape(len(counts), 2 * C), counts


def _figures(sums: Array) -> Array:
    """F1 of each class, macro and micro (R, C + 2), of sums (R, 2 C); NaN of a class that does not occur."""
    tp, wrong = np.split(sums, 2, axis=1)
    every = np.stack([tp.sum(1), wrong.sum(1)])
    with np.errstate(invalid="ignore"):
        each = 2 * tp / (2 * tp + wrong)
        micro = 2 * every[0] / (2 * every[0] + every[1])
    occurs = ~np.isnan(each)
    macro = np.where(occurs, each, 0).sum(1) / np.maximum(occurs.sum(1), 1)
    return np.column_stack([each, macro, micro])


def _wilson(right: int, wrong: int) -> tuple[float, float]:
    low, high = Accuracy(right, right + wrong).interval
    return 2 * low / (1 + low), 2 * high / (1 + high)
