"""What can be answered, and what should be to which question: one of the commonest answers, one of those that
are given with a question, or words.

Each way knows which questions can be learned from, the texts that have to be read besides questions, and is
kept as JSON, from which it is made again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from torch import Tensor

from unrolled.data.questions import Question
from unrolled.data.subwords import END, PAD, Subwords
from unrolled.errors import CheckpointError, DataError, InputError
from unrolled.tasks.vqa_scores import people, plain

DRAWN: Final = 4
"""Answers to choose among, where none are given."""


@dataclass(frozen=True)
class Classes:
    """One of the commonest answers.

    Attributes:
        known: K answers, the commonest first.
    """

    known: tuple[str, ...]

    @classmethod
    def of(cls, questions: Sequence[Question], most: int) -> Classes:
        """Those of questions to train on.

        Raises:
            DataError: no question has an answer.
        """
        return cls(tuple(_commonest(questions))[:most])

    def learnable(self, question: Question) -> bool:
        return not {*self.known}.isdisjoint(people(question))

    def targets(self, questions: Sequence[Question]) -> tuple[Tensor, Tensor]:
        """Which answers people gave (N, A) and which share of those that are known (N, A)."""
        places = {answer: place for place, answer in enumerate(self.known)}
        rows = [
            [(places[answer], n) for answer, n in people(question).items() if answer in places]
            for question in questions
        ]
        most = max(1, *map(len, rows))
        padded = torch.tensor([[*pairs, *[(0, 0)] * (most - len(pairs))] for pairs in rows])
        found, counts = padded.unbind(2)
        return found.contiguous(), counts / counts.sum(1, keepdim=True).clamp_min(1)

    def to_json(self) -> dict[str, Any]:
        return {"known": [*self.known]}


@dataclass(frozen=True)
class Choices:
    """One of those given with a question; four are drawn where none are.

    Attributes:
        known: K answers of training, the commonest first, which they are drawn from.
    """

    known: tuple[str, ...]

    @classmethod
    def of(cls, questions: Sequence[Question]) -> Choices:
        """Those of questions to train on.

        Raises:
            DataError: no question has an answer.
        """
        return cls(tuple(_commonest(questions)))

    def given(self, questions: Sequence[Question], seed: int = 0) -> list[tuple[str, ...]]:
        """The answers to choose among.

        Where they are drawn, they are the right one and others, in the order of their frequency; first of all
        such as questions of the same kind have.

        Args:
            seed: of what is drawn.
        """
        kinds: dict[str, Counter[str]] = {}
        for question in questions:
            kinds.setdefault(question.kind, Counter())[plain(question.answer)] += 1
        rank = {answer: place for place, answer in enumerate(self.known)}
        alike = {kind: [answer for answer in found if answer in rank] for kind, found in kinds.items()}
        random = np.random.Generator(np.random.PCG64(seed))
        found = []
        for question in questions:
            if question.choices:
                found.append(tuple(dict.fromkeys(question.choices)))
                continue
            right = plain(question.answer)
            drawn = [right]
            for source in (alike[question.kind], self.known):
                left = [answer for answer in source if answer not in drawn]
                count = min(DRAWN - len(drawn), len(left))
                drawn += [left[k] for k in random.permutation(len(left))[:count]]
            found.append(tuple(sorted(drawn, key=lambda answer: (rank.get(answer, len(rank)), answer))))
        return found

    def learnable(self, question: Question) -> bool:
        right = plain(question.answer)
        return bool(right) and (not question.choices or right in map(plain, question.choices))

    def to_json(self) -> dict[str, Any]:
        return {"known": [*self.known]}


@dataclass(frozen=True)
class Words:
    """Words, one after the other.

    Attributes:
        vocabulary: of answers.
        known: answers of training, the commonest first.
        longest: words of the longest of them.
    """

    vocabulary: Subwords
    known: tuple[str, ...]
    longest: int

    @classmethod
    def of(cls, questions: Sequence[Question], most: int) -> Words:
        """Those of questions to train on.

        Raises:
            DataError: no question has an answer.
        """
        known = tuple(_commonest(questions))
        answers = [plain(question.answer) for question in questions]
        vocabulary = Subwords.of(answers, "words", most, lowercase=True)
        return cls(vocabulary, known[:1], max(map(len, vocabulary.encode(known))))

    def learnable(self, question: Question) -> bool:
        return bool(question.answer)

    def targets(self, questions: Sequence[Question]) -> tuple[Tensor, Tensor]:
        """The words of the answers and END, (T, N), and how many (N,)."""
        found = [[*each, END] for each in self.vocabulary.encode([plain(q.answer) for q in questions])]
        lengths = torch.tensor([len(each) for each in found])
        longest = int(lengths.amax())
        return torch.tensor([[*each, *[PAD] * (longest - len(each))] for each in found]).t(), lengths

    def to_json(self) -> dict[str, Any]:
        return {
            "vocabulary": self.vocabulary.to_json(), "known": [*self.known], "longest": self.longest,
        }  # fmt: skip


Ways: TypeAlias = Classes | Choices | Words


def ways_of(kind: str, questions: Sequence[Question], most_answers: int, most_words: int) -> Ways:
    """How questions are answered, learned from those to train on.

    Raises:
        DataError: no question has an answer.
    """
    if kind == "classes":
        return Classes.of(questions, most_answers)
    return Choices.of(questions) if kind == "choice" else Words.of(questions, most_words)


def ways_from_json(kind: str, value: Any) -> Ways:
    """The same again.

    Raises:
        CheckpointError: it is not what `to_json` gives.
    """
    try:
        match kind, value:
            case ("classes", {"known": list(known)}) if known:
                return Classes(tuple(map(str, known)))
            case ("choice", {"known": list(known)}) if known:
                return Choices(tuple(map(str, known)))
            case ("words", {"vocabulary": vocabulary, "known": list(known), "longest": int(longest)}) if (
                known
            ):
                return Words(Subwords.from_json(vocabulary), tuple(map(str, known)), longest)
    except DataError as error:
        raise CheckpointError(f"no answers can be made of a checkpoint: {error}") from None
    raise CheckpointError(f"a checkpoint has no answers of kind {kind!r}")


def checked_choices(choices: Iterable[str]) -> tuple[str, ...]:
    """Answers to choose among, each once.

    Raises:
        InputError: they are fewer than two, or one is empty.
    """
    found = tuple(dict.fromkeys(plain(choice) for choice in choices))
    if len(found) < 2 or not all(found):
        raise InputError("this run chooses among answers: give two or more, as in --choice red --choice blue")
    return found


def _commonest(questions: Sequence[Question]) -> list[str]:
    """Every answer, the commonest first; of two that are as common the first in the alphabet."""
    counts = Counter(plain(question.answer) for question in questions if question.answer)
    if not counts:
        raise DataError("no question has an answer to learn: give --annotations.")
    return sorted(counts, key=lambda answer: (-counts[answer], answer))
