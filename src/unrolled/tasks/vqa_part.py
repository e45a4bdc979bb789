"""A part of the questions, those to train on or those to test on, ready to be put into batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from unrolled.data.questions import Question, VisualQuestions
from unrolled.data.subwords import Subwords
from unrolled.errors import DataError
from unrolled.tasks.vqa_answers import Choices, Classes, Ways
from unrolled.tasks.vqa_network import Batch
from unrolled.tasks.vqa_questions import Asked, ByPicture, Texts, said
from unrolled.tasks.vqa_scores import plain


class Pictures(Protocol):
    """Pictures, or what was made of them before."""

    def __len__(self) -> int: ...
    def at(self, places: Tensor) -> Tensor:
        """Those at these places, (P, C, h, w)."""


@dataclass(frozen=True, eq=False)
class Targets:
    """What should be answered, for N questions.

    Shapes: answers (N, A) with shares (N, A) of classes; answers (N,) of choices, −1 where the right one is
        not among them; answers (T, N) with lengths (N,) of words.
    """

    answers: Tensor
    shares: Tensor | None = None
    lengths: Tensor | None = None

    def at(self, numbers: Tensor) -> Targets:
        """Of these questions."""
        if self.lengths is not None:
            lengths = self.lengths[numbers]
            return Targets(self.answers[: int(lengths.amax()), numbers], None, lengths)
        return Targets(self.answers[numbers], None if self.shares is None else self.shares[numbers])


class Part:
    """Questions, and their pictures.

    Args:
        asked: the questions.
        pictures: theirs, as a network takes them.
        vocabulary: of questions.
        ways: how they are answered.
        learn: leave out those that nothing can be learned from.
        seed: of choices that are drawn.

    Attributes:
        questions: all of them.
        left_out: how many are not in any batch.
        choices: the answers to choose among, for each question; empty where none are.

    Raises:
        DataError: there is no question left.
    """

    def __init__(
        self,
        asked: VisualQuestions,
        pictures: Pictures,
        vocabulary: Subwords,
        ways: Ways,
        learn: bool,
        seed: int,
    ) -> None:
        self.questions: tuple[Question, ...] = asked.questions
        self.images = asked.images
        self.pictures = pictures
        numbers = [k for k, each in enumerate(self.questions) if not learn or ways.learnable(each)]
        if not numbers:
            raise DataError(f"{asked.name} has no question with an answer that can be given: give others.")
        self.left_out = len(self.questions) - len(numbers)
        self.asked = ByPicture([question.image for question in self.questions], numbers)
        self.choices = ways.given(self.questions, seed) if isinstance(ways, Choices) else []
        places: dict[str, int] = {}

        def place(text: str) -> int:
            return places.setdefault(said(text), len(places))

        self._text_of = torch.tensor([place(question.text) for question in self.questions])
        self._choices = _padded([[place(text) for text in each] for each in self.choices])
        if not self.choices:
            self._choices = torch.empty(len(self.questions), 0, dtype=torch.int64)
        self.texts = Texts.of([*places], vocabulary)
        if self.choices:
            right = zip(self.choices, self.questions, strict=True)
            self.targets = Targets(torch.tensor([_place(each, question) for each, question in right]))
        elif isinstance(ways, Classes):
            self.targets = Targets(*ways.targets(self.questions))
        else:
            assert not isinstance(ways, Choices)
            answers, lengths = ways.targets(self.questions)
            self.targets = Targets(answers, lengths=lengths)

    def __len__(self) -> int:
        """How many pictures are asked about."""
        return len(self.asked)

    def batch(self, rows: Tensor, look: bool = True) -> tuple[Batch, Asked]:
        """The questions about the pictures of these rows.

        Args:
            look: with the pictures themselves.
        """
        asked = self.asked.at(rows)
        there, numbers = asked.there, asked.questions
        wanted = self._text_of[numbers]
        choices = self._choices[numbers]
        texts = torch.cat([wanted, choices[choices >= 0]])
        used, found = torch.unique(texts, return_inverse=True)
        places = asked.numbers.clone()
        places[there] = found[: len(wanted)]
        among = choices.clone()
        among[choices >= 0] = found[len(wanted) :]
        pictures = self.pictures.at(asked.pictures) if look else torch.empty(0)
        return Batch(pictures, self.texts.at(used), places, among if self.choices else None), asked


def _place(choices: Sequence[str], question: Question) -> int:
    found = [*map(plain, choices)]
    right = plain(question.answer)
    return found.index(right) if right in found else -1


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """Rows as a tensor, (N, C), with −1 behind shorter ones."""
    longest = max(map(len, rows), default=0)
    return torch.tensor([[*row, *[-1] * (longest - len(row))] for row in rows], dtype=torch.int64)
