"""Questions about pictures, as words and in batches of pictures, each with all its questions.

A picture is looked at once for all of them, and a text that stands several times in a batch is read once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Final

import numpy as np
import torch
from torch import Tensor

from unrolled.data.images import ImageFiles, Images, fit
from unrolled.data.questions import Question, VisualQuestions
from unrolled.data.subwords import PAD, UNKNOWN, Subwords
from unrolled.errors import InputError
from unrolled.measures import captions

FIELDS: Final = tuple(field.name for field in fields(Question))

ROOM: Final = 2 << 30
"""Bytes of pictures that are kept; if all are more, they are read whenever they are used."""

SAMPLE: Final = 1000
"""Pictures by which their mean and spread are told."""


@cache
def said(text: str) -> str:
    """The words of a text in lower case, with a blank between them; punctuation is left out."""
    return " ".join(captions.words(text))


def checked_question(text: str, vocabulary: Subwords) -> str:
    """The words of a question, all of which are known.

    Raises:
        InputError: it has none, or some that were in no question of training.
    """
    found = said(text).split()
    if not found:
        raise InputError(f"{text!r} has no words: ask something, as in 'what color is the shape?'")
    numbers = vocabulary.encode(found)
    unknown = [word for word, own in zip(found, numbers, strict=True) if UNKNOWN in own]
    if unknown:
        shown = ", ".join(map(repr, dict.fromkeys(unknown)))
        known = [token.strip("▁") for token in vocabulary.tokens[4:]]
        some = ", ".join(known[:30]) + (", …" if len(known) > 30 else "")
        raise InputError(f"no question of training has {shown}; ask with words it knows: {some}")
    return " ".join(found)


@dataclass(frozen=True, eq=False)
class Texts:
    """Texts as numbers of words.

    Shapes: numbers (T, U), lengths (U,).
    """

    numbers: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, texts: Sequence[str], vocabulary: Subwords) -> Texts:
        found = vocabulary.encode(texts)
        lengths = torch.tensor([len(each) for each in found])
        longest = max(1, int(lengths.amax()))
        numbers = torch.tensor([[*each, *[PAD] * (longest - len(each))] for each in found])
        return cls(numbers.t().contiguous(), lengths)

    def at(self, places: Tensor) -> Texts:
        """Those at these places."""
        lengths = self.lengths[places]
        return Texts(self.numbers[: max(1, int(lengths.amax())), places], lengths)


class Squares:
    """Pictures as squares of bytes, each made when it is first asked for, and kept if there is room for all.

    Args:
        images: of any size.
        size: of the square's side.
    """

    def __init__(self, images: Images, size: int) -> None:
        self.images, self.size = images, size
        self._kept, self._there = torch.empty(0), torch.zeros(len(images), dtype=torch.bool)
        if isinstance(images, Tensor) and images.shape[2:] == (size, size):
            self._kept, self._there = images, ~self._there
        elif len(images) * 3 * size * size <= ROOM:
            self._kept = torch.empty(len(images), 3, size, size, dtype=torch.uint8)

    def __len__(self) -> int:
        return len(self.images)

    def at(self, places: Tensor) -> Tensor:
        """(P, 3, size, size) of bytes."""
        if not len(self._kept):
            return torch.stack([fit(self.images[place], self.size) for place in places.tolist()])
        for place in places[~self._there[places]].tolist():
            self._kept[place] = fit(self.images[place], self.size)
            self._there[place] = True
        return self._kept[places]

    def spread(self) -> tuple[Tensor, Tensor]:
        """The mean and the standard deviation of each channel (3,), from 0 to 1, over some pictures."""
        step = max(1, len(self) // SAMPLE)
        pixels = self.at(torch.arange(0, len(self), step)).transpose(0, 1).flatten(1).double() / 255
        return pixels.mean(1).float(), pixels.std(1).clamp_min(1e-3).float()


@dataclass(frozen=True, eq=False)
class Asked:
    """Questions of a batch, by picture.

    Shapes: pictures (P,), their places; numbers (Q, P) of questions, −1 where there are fewer of a picture.
    """

    pictures: Tensor
    numbers: Tensor

    @property
    def there(self) -> Tensor:
        """(Q, P), true where there is a question."""
        return self.numbers >= 0

    @property
    def questions(self) -> Tensor:
        """(N,), the numbers of those there are, in the order of `there`."""
        return self.numbers[self.there]


class ByPicture:
    """Which questions are about which picture.

    Args:
        pictures: (N,), the picture of each question.
        numbers: those that are asked; all of them if not given.
    """

    def __init__(self, pictures: Sequence[int], numbers: Sequence[int] | None = None) -> None:
        asked = np.arange(len(pictures)) if numbers is None else np.asarray(numbers, dtype=np.int64)
        of = np.asarray(pictures, dtype=np.int64)[asked]
        found, counts = np.unique(of, return_counts=True)
        self.pictures = torch.from_numpy(found)
        self._numbers = torch.from_numpy(asked[np.argsort(of, kind="stable")])
        self._counts = torch.from_numpy(counts)
        self._starts = self._counts.cumsum(0) - self._counts

    def __len__(self) -> int:
        return len(self.pictures)

    def at(self, rows: Tensor) -> Asked:
        """The questions of these rows of `pictures`."""
        counts = self._counts[rows]
        place = torch.arange(int(counts.amax()))[:, None]
        at = (self._starts[rows] + place).clamp_max(len(self._numbers) - 1)
        return Asked(self.pictures[rows], torch.where(place < counts, self._numbers[at], -1))


def digest(asked: VisualQuestions) -> str:
    """A checksum of questions, answers and pictures; of pictures in files, of their names and sizes."""
    found = hashlib.sha256()
    found.update(json.dumps([[getattr(q, name) for name in FIELDS] for q in asked.questions]).encode())
    if isinstance(asked.images, ImageFiles):
        for path in asked.images.paths:
            found.update(f"{path.name} {path.stat().st_size}\n".encode())
    else:
        for picture in map(asked.images.__getitem__, range(len(asked.images))):
            found.update(f"{tuple(picture.shape)}".encode() + picture.contiguous().numpy().tobytes())
    return found.hexdigest()
