"""Words as numbers: the word itself, its last letters, and how it is written.

A word that was seen too rarely, or never, is `UNKNOWN`; what its ending says of it is still there. Endings
are taken of the word in lower case, each as long as there are letters for it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import torch
from torch import Tensor

from unrolled.errors import DataError

UNKNOWN: Final = 0
"""The number of words and endings that are not known."""

_WORD: Final = re.compile(r"\w+(?:['’.,-]\w+)*|[^\w\s]")

SHAPES: Final = 16
"""Ways in which a word may be written, see `shape_of`."""


def words_of(text: str) -> list[str]:
    """The words and signs of a text; signs within a word, as in "don't" or "3.50", belong to it."""
    return _WORD.findall(text)


def shape_of(word: str) -> int:
    """Whether a word begins with a capital, 1, has no other letters than capitals, 2, has digits, 4, or a
    hyphen, 8; added up."""
    return word[:1].isupper() + 2 * word.isupper() + 4 * any(map(str.isdigit, word)) + 8 * ("-" in word[1:])


@dataclass(frozen=True)
class Lexicon:
    """The words and endings that a model knows.

    Args:
        words: each once, the most frequent first; their numbers begin with 1.
        endings: of one letter, of two and so on, likewise; empty if a model looks up words alone.
        lowercase: words are looked up in lower case.
    """

    words: tuple[str, ...]
    endings: tuple[tuple[str, ...], ...] = ()
    lowercase: bool = True

    @classmethod
    def of(
        cls, sentences: Iterable[Sequence[str]], lowercase: bool = True, least: int = 2, endings: int = 0
    ) -> Lexicon:
        """Those of the sentences to train on.

        Args:
            least: how often a word, or an ending, is there to be known.
            endings: letters of the longest.

        Raises:
            DataError: there is no such word.
        """
        words: Counter[str] = Counter()
        for sentence in sentences:
            words.update(map(str.lower, sentence) if lowercase else sentence)
        known = tuple(word for word, count in words.most_common() if count >= least)
        if not known:
            raise DataError(f"no word is there {least} times: give more texts, or lower --least.")
        found = []
        for k in range(1, endings + 1):
            counts: Counter[str] = Counter()
            for word, count in words.items():
                if len(word) >= k:
                    counts[word[-k:].lower()] += count
            found.append(tuple(ending for ending, count in counts.most_common() if count >= least))
        return cls(known, tuple(found), lowercase)

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many numbers each column of `encode` may have."""
        columns = [len(self.words) + 1, *(len(each) + 1 for each in self.endings)]
        return (*columns, SHAPES) if self.endings else (*columns,)

    def encode(self, words: Sequence[str]) -> Tensor:
        """Numbers (L, F) of L words: of the word, of its endings from one letter on, of how it is written."""
        return torch.tensor([self._row(word) for word in words]).view(len(words), len(self.sizes))

    def unknown(self, words: Sequence[str]) -> int:
        """How many of the words are not known."""
        numbers, _ = self._numbers
        return sum((word.lower() if self.lowercase else word) not in numbers for word in words)

    def to_json(self) -> dict[str, Any]:
        return {
            "words": [*self.words],
            "endings": [[*each] for each in self.endings],
            "lowercase": self.lowercase,
        }

    @classmethod
    def from_json(cls, value: Any) -> Lexicon:
        """The same again.

        Raises:
            DataError: it is not what `to_json` gives.
        """
        match value:
            case {"words": list(words), "endings": list(endings), "lowercase": bool(lowercase)} if all(
                isinstance(each, list) for each in endings
            ):
                return cls(tuple(map(str, words)), tuple(tuple(map(str, e)) for e in endings), lowercase)
        raise DataError("a lexicon has words, endings and lowercase.")

    @cached_property
    def _numbers(self) -> tuple[dict[str, int], list[dict[str, int]]]:
        return (
            {word: number for number, word in enumerate(self.words, 1)},
            [{ending: number for number, ending in enumerate(each, 1)} for each in self.endings],
        )

    @cached_property
    def _rows(self) -> dict[str, tuple[int, ...]]:
        return {}

    def _row(self, word: str) -> tuple[int, ...]:
        found = self._rows.get(word)
        if found is None:
            numbers, endings = self._numbers
            lower = word.lower()
            row = [numbers.get(lower if self.lowercase else word, UNKNOWN)]
            for k, each in enumerate(endings, 1):
                row.append(each.get(lower[-k:], UNKNOWN) if len(lower) >= k else UNKNOWN)
            found = self._rows[word] = (*row, shape_of(word)) if self.endings else (*row,)
        return found
