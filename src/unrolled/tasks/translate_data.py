"""Sentence pairs for translators: where they come from, their vocabularies, and batches of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from unrolled.data.buckets import Buckets
from unrolled.data.pairs import Pair, named_pairs, read_pairs
from unrolled.data.subwords import END, PAD, START, Subwords
from unrolled.errors import DataError, InputError
from unrolled.options import read_call
from unrolled.tasks.symbols import TASKS, symbol_pairs
from unrolled.tasks.translate_config import TranslateConfig
from unrolled.train.files import JSON

ROWS: Final = 256
"""Sentences that are measured at once."""


@dataclass(frozen=True)
class Origin:
    """Where pairs come from: a data set's name, a synthetic task, or two files.

    Raises:
        InputError: none of these is given, or more than one.
    """

    data: str | None = None
    source: Path | None = None
    target: Path | None = None

    def __post_init__(self) -> None:
        if (self.source is None) != (self.target is None):
            here, there = ("--source", "--target") if self.target is None else ("--target", "--source")
            raise InputError(
                f"{here} goes with {there}: give both, line n of one translates line n of the other"
            )
        if self.data is not None and self.source is not None:
            raise InputError("--source and --target are files in place of a data set: give one or the other")

    @property
    def synthetic(self) -> bool:
        return self.data is not None and read_call(self.data)[0] in TASKS

    @property
    def label(self) -> str:
        """What the pairs are called."""
        if self.source is not None and self.target is not None:
            return f"{self.source.name} and {self.target.name}"
        return self.data or ""

    def read(self) -> list[Pair]:
        """All pairs.

        Raises:
            DataError, InputError: they cannot be read, or nothing is named.
        """
        if self.source is not None and self.target is not None:
            return read_pairs(self.source, self.target)
        if self.data is None:
            raise InputError(
                "give a data set such as german-english, --source FILE and --target FILE, or what is made "
                f"up: {', '.join(TASKS)}"
            )
        return symbol_pairs(self.data) if self.synthetic else named_pairs(self.data)

    def to_json(self) -> dict[str, str]:
        files = {"source": self.source, "target": self.target}
        named = {} if self.data is None else {"data": self.data}
        return named | {name: str(path.resolve()) for name, path in files.items() if path is not None}

    @classmethod
    def from_json(cls, value: Mapping[str, str]) -> Origin:
        files = {name: Path(value[name]) for name in ("source", "target") if name in value}
        return cls(value.get("data"), **files)


def checksum(pairs: Sequence[Pair]) -> str:
    """The same for the same pairs in the same order."""
    told = "\n".join(f"{pair.source}\t{pair.target}" for pair in pairs)
    return hashlib.sha256(told.encode()).hexdigest()


@dataclass(frozen=True)
class Sides:
    """The vocabularies of both languages, which may be one."""

    source: Subwords
    target: Subwords

    @classmethod
    def of(cls, pairs: Sequence[Pair], config: TranslateConfig) -> Sides:
        """Those of sentences to train on."""
        c = config
        sources, targets = [pair.source for pair in pairs], [pair.target for pair in pairs]
        if c.joint:
            both = Subwords.of([*sources, *targets], c.vocabulary, c.vocabulary_size, c.lowercase)
            return cls(both, both)
        return cls(
            Subwords.of(sources, c.vocabulary, c.vocabulary_size, c.lowercase),
            Subwords.of(targets, c.vocabulary, c.vocabulary_size, c.lowercase),
        )

    @property
    def joint(self) -> bool:
        return self.source is self.target

    @property
    def sha256(self) -> str:
        return hashlib.sha256(f"{self.source.sha256} {self.target.sha256}".encode()).hexdigest()

    def to_json(self) -> dict[str, JSON]:
        target: JSON = None if self.joint else self.target.to_json()
        return {"source": self.source.to_json(), "target": target, "both_sha256": self.sha256}

    @classmethod
    def from_json(cls, value: Any) -> Sides:
        """
        Raises:
            DataError: it is not what `to_json` gives.
        """
        if not isinstance(value, dict) or not {"source", "target", "both_sha256"} <= value.keys():
            raise DataError("no vocabularies: source, target and both_sha256 are what they have.")
        source = Subwords.from_json(value["source"])
        found = cls(source, source if value["target"] is None else Subwords.from_json(value["target"]))
        if found.sha256 != value["both_sha256"]:
            raise DataError("the vocabularies do not match their own checksum: they were changed.")
        return found


@dataclass(frozen=True, eq=False)
class Batch:
    """Padded sentences.

    Shapes: source (S, B), with END behind each; lengths (B,), END counted; read and said (T, B), what the
        decoder reads, from START on, and what it is to say, to END; there (T, B), true where there is a word.
    """

    source: Tensor
    lengths: Tensor
    read: Tensor
    said: Tensor
    there: Tensor

    def part(self, rows: int, steps: int) -> Batch:
        """The first rows, and at most the first steps of either side; of the target as many words of each."""
        lengths = self.lengths[:rows].clamp_max(steps)
        steps = min(steps, int(self.there[:, :rows].sum(0).min()))
        read, said, there = (each[:steps, :rows] for each in (self.read, self.said, self.there))
        return Batch(self.source[: int(lengths.max()), :rows], lengths, read, said, there)


class Encoded:
    """Pairs as numbers of tokens."""

    def __init__(self, pairs: Sequence[Pair], sides: Sides) -> None:
        self.sources = [[*ids, END] for ids in sides.source.encode([pair.source for pair in pairs])]
        self.targets = sides.target.encode([pair.target for pair in pairs])

    def __len__(self) -> int:
        return len(self.targets)

    def kept(self, longest: int) -> list[int]:
        """The places of pairs of which neither side is longer, END not counted."""
        sizes = zip(self.sources, self.targets, strict=True)
        return [k for k, (a, b) in enumerate(sizes) if len(a) <= longest + 1 and len(b) <= longest]

    def chosen(self, places: Sequence[int]) -> Encoded:
        """Those alone."""
        found = Encoded.__new__(Encoded)
        found.sources, found.targets = ([each[k] for k in places] for each in (self.sources, self.targets))
        return found

    def buckets(self, config: TranslateConfig) -> Buckets:
        """What is read at each step."""
        lengths = [len(target) + 1 for target in self.targets]
        if config.batch_tokens is not None:
            return Buckets(lengths, tokens=config.batch_tokens, seed=config.seed)
        return Buckets(lengths, batch=config.batch, seed=config.seed)

    def batch(self, places: Sequence[int]) -> Batch:
        """Some of them, padded."""
        targets = [self.targets[k] for k in places]
        read, said = padded([[START, *each] for each in targets]), padded([[*each, END] for each in targets])
        source, lengths = source_of([self.sources[k] for k in places])
        ends = torch.tensor([len(each) + 1 for each in targets])
        return Batch(source, lengths, read, said, torch.arange(len(read))[:, None] < ends)

    def batches(self, rows: int = ROWS) -> Iterator[Batch]:
        """Each once, those of about the same length together."""
        order = sorted(range(len(self)), key=lambda k: len(self.targets[k]))
        for begin in range(0, len(order), rows):
            yield self.batch(order[begin : begin + rows])


def padded(sentences: Sequence[Sequence[int]]) -> Tensor:
    """Tokens (T, B)."""
    return pad_sequence([torch.tensor(each, dtype=torch.long) for each in sentences], padding_value=PAD)


def source_of(sentences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """What an encoder reads (S, B), and lengths (B,); of sentences that end with END."""
    return padded(sentences), torch.tensor([len(each) for each in sentences])
