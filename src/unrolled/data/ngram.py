"""Character n-grams: what counting alone achieves, to hold a network against.

`KneserNey` is interpolated Kneser-Ney smoothing with one discount an order. For a context h of k - 1
characters, h' the same context without its oldest character and c the count of order k,

    p_k(w | h) = max(c(h w) - D_k, 0) / c(h .) + D_k N(h .) / c(h .) p_{k-1}(w | h')
    p_0(w)     = 1 / V

where c(h .) sums over w, and N(h .) is how many w followed h. In the highest order c counts
occurrences; below it c(h w) is the number of distinct characters seen before h w (the continuation
count). A context never seen leaves p_k = p_{k-1}. D_k = n1 / (n1 + 2 n2), where n1 and n2 are how many
n-grams have count 1 and 2; 0.5 where either is 0, since a discount of 0 or 1 would drop the lower orders
or the counts. p_0 makes every probability positive.

Sources: Kneser and Ney, 1995, "Improved backing-off for m-gram language modeling"; Chen and Goodman,
1999, "An empirical study of smoothing techniques for language modeling". Their modified variant with
three discounts an order is not here.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from unrolled.errors import DataError, InputError

Ids = torch.Tensor | npt.NDArray[np.integer]


@dataclass(frozen=True)
class _Order:
    """The n-grams of one length, numbered by rank. The G contexts are the n-grams one shorter, by number."""

    keys: npt.NDArray[np.int64]
    """Distinct n-grams as context * V + last character, ascending; a place here is an n-gram's number."""
    counts: npt.NDArray[np.int64]
    """c(h w) of each n-gram."""
    totals: npt.NDArray[np.float64]
    """c(h .) of each context, (G,)."""
    kinds: npt.NDArray[np.int64]
    """N(h .) of each context, (G,)."""
    discount: float

    @classmethod
    def of(cls, keys: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], G: int, V: int) -> "_Order":
        contexts = keys // V
        n1, n2 = int((counts == 1).sum()), int((counts == 2).sum())
        return cls(
            keys,
            counts,
            totals=np.bincount(contexts, weights=counts, minlength=G).astype(np.float64),
            kinds=np.bincount(contexts[counts > 0], minlength=G),
            discount=n1 / (n1 + 2 * n2) if n1 and n2 else 0.5,
        )

    def find(self, keys: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The numbers of n-grams given as keys, -1 where one never occurred, as none below 0 did."""
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[places] == keys, places, -1)


class KneserNey:
    """An interpolated Kneser-Ney model of the text `ids`.

    Args:
        ids: (N,) training text, each id from 0 to V - 1.
        order: n, the longest n-gram; a prediction sees at most n - 1 characters.
        vocabulary_size: V.

    Raises:
        InputError: an id is out of range, `ids` is not (N,), or `order` or V is below 1.
        DataError: the text has fewer than `order` characters.

    Time: one sort of N numbers an order. Memory while counting: some 100 bytes a character.
    """

    def __init__(self, ids: Ids, order: int, vocabulary_size: int) -> None:
        if order < 1 or vocabulary_size < 1:
            raise InputError(f"order={order} and vocabulary_size={vocabulary_size} must be at least 1.")
        text = _text(ids, vocabulary_size, at_least=order)
        self.order, self.vocabulary_size = order, vocabulary_size
        # Numbering the n-grams of each length by rank keeps every key below N * V: nothing overflows,
        # whatever the order. `numbers` has one entry for each n-gram of the length before, in text
        # order; without its last entry it lists prefixes, and without its first suffixes.
        numbers = np.zeros(len(text) + 1, dtype=np.int64)
        found, sizes = [], [1]
        for k in range(order):
            keys, first, ranks, counts = np.unique(
                numbers[:-1] * vocabulary_size + text[k:],
                return_index=True,
                return_inverse=True,
                return_counts=True,
            )
            found.append((keys, counts, numbers[1:][first]))
            sizes.append(len(keys))
            numbers = ranks
        self._orders = []
        for k, (keys, counts, _) in enumerate(found):
            if k + 1 < order:  # distinct n-grams one longer, by suffix: the continuation counts
                counts = np.bincount(found[k + 1][2], minlength=len(keys))
            self._orders.append(_Order.of(keys, counts, sizes[k], vocabulary_size))

    def log2_probabilities(self, ids: Ids) -> npt.NDArray[np.float64]:
        """log2 p of every character but the first, (N - 1,), given up to n - 1 characters before it.

        Args:
            ids: (N,) a text, N at least 2. The first n - 2 predictions see what there is of it.

        Raises:
            InputError: an id is out of range, or `ids` is not (N,).
            DataError: the text has fewer than two characters.
        """
        text = _text(ids, self.vocabulary_size, at_least=2)
        p = np.full(len(text), 1 / self.vocabulary_size)
        # numbers[i]: the n-gram of the length before that ends just before character i, -1 if unseen.
        numbers = np.zeros(len(text), dtype=np.int64)
        for order in self._orders:
            places = order.find(numbers * self.vocabulary_size + text)
            seen = np.flatnonzero((numbers >= 0) & (order.totals[numbers] > 0))
            context, place = numbers[seen], places[seen]
            kept = np.where(place < 0, 0, np.maximum(order.counts[place] - order.discount, 0))
            p[seen] = (kept + order.discount * order.kinds[context] * p[seen]) / order.totals[context]
            numbers = np.concatenate(([-1], places[:-1]))
        bits: npt.NDArray[np.float64] = np.log2(p[1:])
        return bits

    def bits_per_character(self, ids: Ids) -> float:
        """Mean of -log2 p over every character but the first; `ids` and errors as above."""
        return float(-self.log2_probabilities(ids).mean())


def unigram_bits(train: Ids, held_out: Ids, vocabulary_size: int) -> float:
    """Bits a character of `held_out` (M,), but the first, under add-one frequencies of `train` (N,).

    Raises:
        InputError: an id is not from 0 to V - 1, or a text is not of shape (N,).
        DataError: `train` is empty, or `held_out` has fewer than two characters.
    """
    counts = np.bincount(_text(train, vocabulary_size, at_least=1), minlength=vocabulary_size) + 1
    targets = _text(held_out, vocabulary_size, at_least=2)[1:]
    return float(-np.log2(counts[targets] / counts.sum()).mean())


def baselines(train: Ids, held_out: Ids, vocabulary_size: int) -> dict[str, float]:
    """What simple models reach, in bits a character of `held_out` (M,) but the first.

    Returns:
        'uniform' (log2 V), 'unigram', '3-gram' and '5-gram', the last two by `KneserNey`.

    Raises:
        InputError: an id is not from 0 to V - 1, or a text is not of shape (N,).
        DataError: `train` has fewer than five characters or `held_out` fewer than two.
    """
    bits = {
        "uniform": math.log2(vocabulary_size),
        "unigram": unigram_bits(train, held_out, vocabulary_size),
    }
    for order in (3, 5):
        bits[f"{order}-gram"] = KneserNey(train, order, vocabulary_size).bits_per_character(held_out)
    return bits


def _text(ids: Ids, vocabulary_size: int, *, at_least: int) -> npt.NDArray[np.int64]:
    text = np.asarray(ids.cpu() if isinstance(ids, torch.Tensor) else ids)
    if text.ndim != 1 or text.dtype.kind not in "iu":
        raise InputError(f"ids has shape {text.shape} and type {text.dtype}: give whole numbers, (N,).")
    if len(text) < at_least:
        raise DataError(f"the text has {len(text)} characters and this needs at least {at_least}.")
    if text.min() < 0 or text.max() >= vocabulary_size:
        raise InputError(
            f"ids must be from 0 to {vocabulary_size - 1} for a vocabulary of {vocabulary_size}."
        )
    return text.astype(np.int64, copy=False)
