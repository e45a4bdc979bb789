"""What is labelled: texts, words and frames, as tensors, beside what is reached without a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unrolled.data.idx import read_idx
from unrolled.data.labelled import LabelledText, split_texts
from unrolled.data.pictures import Pictures
from unrolled.data.splits import hold_out
from unrolled.data.tagged import TaggedSentence, split_tagged
from unrolled.errors import DataError
from unrolled.tasks.labels_config import FramesConfig, SentimentConfig, TagsConfig, WordsConfig
from unrolled.tasks.labels_examples import NOTHING, Batch, Examples, Stored, checksum
from unrolled.tasks.labels_frames import MovingDigits
from unrolled.tasks.labels_model import FrameReader
from unrolled.tasks.labels_scores import MostFrequentTag, NaiveBayes, Scores, commonest, scores
from unrolled.tasks.labels_words import Lexicon, words_of
from unrolled.train.files import JSON

CLASSES: Final = 1000
"""Labels that may be told apart, at most."""

FRAMES: Final = 1000
"""Of each, at most."""

SHOWN: Final = 3
"""Held-out examples that are shown."""

ALONE: Final = 800
"""Steps in which the network that sees single frames is trained."""

FEWER: Final = 16
"""Sequences whose frames it sees in each."""

Labels = Callable[[Batch], Tensor]
"""Probabilities of labels, (B, classes) or (T, B, classes)."""


class LabelData(Protocol):
    """What is labelled.

    Attributes:
        source: what it is called and how much there is, with checksums.
        classes: the names of labels.
        train, test: to train on and to test on.
        reads: how a model reads it, as JSON; see `unrolled.tasks.labels_model.reader_of`.
        unit: what has a label: "texts", "words", "frames" or "series".
    """

    source: dict[str, JSON]
    classes: tuple[str, ...]
    reads: dict[str, JSON]
    unit: str

    @property
    def train(self) -> Examples: ...

    @property
    def test(self) -> Examples: ...

    def baselines(self) -> dict[str, Scores]:
        """What is reached on the same split without a recurrent network."""

    def shown(self, label: Labels) -> str:
        """A few held-out examples with the labels that a model gives them."""


def classes_of(labels: Sequence[str], name: str) -> tuple[str, ...]:
    """The labels there are, sorted.

    Raises:
        DataError: there is only one, or more than `CLASSES`.
    """
    found = tuple(sorted({*labels}))
    if len(found) < 2:
        raise DataError(f"{name} has no label but {found[0]!r}, so there is nothing to learn.")
    if len(found) > CLASSES:
        raise DataError(
            f"{name} has {len(found):,} different labels, and at most {CLASSES:,} can be learned."
        )
    return found


def known_only(labels: Sequence[str], classes: Sequence[str], name: str) -> None:
    """
    Raises:
        DataError: a label that is held out is none of those to train on.
    """
    if strange := sorted({*labels} - {*classes}):
        raise DataError(
            f"label {strange[0]!r} of {name} is held out alone: give more of it, or another --split."
        )


class Texts:
    """Texts with a label each."""

    unit = "texts"

    def __init__(self, name: str, texts: Sequence[LabelledText], config: SentimentConfig) -> None:
        count = max(1, round(config.holdout * len(texts)))
        train, self.held_out = split_texts(texts, count, config.split)
        self.classes = classes_of([each.label for each in train], name)
        known_only([each.label for each in self.held_out], self.classes, name)
        self._words = [
            [words_of(each.text) or [each.text] for each in part] for part in (train, self.held_out)
        ]
        self._labels = [[self.classes.index(e.label) for e in part] for part in (train, self.held_out)]
        self.lexicon = _lexicon(self._words[0], config)
        encoded = [[*map(self.lexicon.encode, part)] for part in self._words]
        self.train = Stored(encoded[0], self._labels[0], min(config.batch, len(train)), config.seed)
        self.test = Stored(encoded[1], self._labels[1])
        self.reads: dict[str, JSON] = {"lexicon": self.lexicon.to_json()}
        self.source: dict[str, JSON] = {
            "label": name,
            "texts": len(train),
            "held_out": len(self.held_out),
            "sha256": checksum(f"{each.label}\t{each.text}" for each in train),
            "test_sha256": checksum(f"{each.label}\t{each.text}" for each in self.held_out),
        }

    def baselines(self) -> dict[str, Scores]:
        (words, test), (labels, expected) = self._words, self._labels
        bayes = NaiveBayes(words, labels)
        return {
            "majority": scores([commonest(labels)] * len(expected), expected),
            "naive Bayes": scores([*map(bayes, test)], expected),
        }

    def shown(self, label: Labels) -> str:
        probabilities = label(self.test.read(torch.arange(min(SHOWN, len(self.test)))))
        lines = []
        for each, row in zip(self.held_out, probabilities, strict=False):
            best = int(row.argmax())
            found = self.classes[best]
            wrong = "" if found == each.label else f", is {each.label}"
            lines.append(f"{found} {row[best]:.0%}{wrong}: {_short(each.text)}")
        return "\n".join(lines)


class Sentences:
    """Sentences with a tag for each word."""

    unit = "words"

    def __init__(self, name: str, sentences: Sequence[TaggedSentence], config: TagsConfig) -> None:
        count = max(1, round(config.holdout * len(sentences)))
        train, self.held_out = split_tagged(sentences, count, config.split)
        self.classes = classes_of([tag for each in sentences for tag in each.tags], name)
        numbers = {tag: number for number, tag in enumerate(self.classes)}
        self._train = train
        self._tags = [[[numbers[tag] for tag in e.tags] for e in part] for part in (train, self.held_out)]
        self.lexicon = _lexicon([each.words for each in train], config)
        encoded = [[self.lexicon.encode(each.words) for each in part] for part in (train, self.held_out)]
        self.train = Stored(encoded[0], self._tags[0], min(config.batch, len(train)), config.seed)
        self.test = Stored(encoded[1], self._tags[1])
        self.reads: dict[str, JSON] = {"lexicon": self.lexicon.to_json()}
        self.source: dict[str, JSON] = {
            "label": name,
            "sentences": len(train),
            "held_out": len(self.held_out),
            "words": len(self.train.steps),
            "held_out_words": len(self.test.steps),
            "unknown": sum(self.lexicon.unknown(each.words) for each in self.held_out) / len(self.test.steps),
            "sha256": _checksum(train),
            "test_sha256": _checksum(self.held_out),
        }

    def baselines(self) -> dict[str, Scores]:
        train, test = self._tags
        expected = [tag for each in test for tag in each]
        groups = [number for number, each in enumerate(test) for _ in each]
        most = MostFrequentTag([each.words for each in self._train], train)
        usual = commonest(tag for each in train for tag in each)
        return {
            "majority": scores([usual] * len(expected), expected, groups),
            "most frequent tag": scores(
                [tag for each in self.held_out for tag in most(each.words)], expected, groups
            ),
        }

    def shown(self, label: Labels) -> str:
        count = min(SHOWN, len(self.test))
        found = label(self.test.read(torch.arange(count))).argmax(-1)
        lines = []
        for place, each in enumerate(self.held_out[:count]):
            tags = [self.classes[number] for number in found[: len(each.words), place].tolist()]
            told = [
                f"{word}/{tag}" + f"(is {right})" * (tag != right)
                for word, tag, right in zip(each.words, tags, each.tags, strict=True)
            ]
            lines.append(_short(" ".join(told)))
        return "\n".join(lines)


class Frames:
    """Digits that move, change and hide, or sequences of frames of one's own, with a label for each frame."""

    unit = "frames"

    def __init__(
        self,
        train: Examples,
        test: Examples,
        size: tuple[int, int],
        classes: int,
        source: dict[str, JSON],
        config: FramesConfig,
    ) -> None:
        self.train, self.test, self.size, self.config = train, test, size, config
        self.classes = tuple(map(str, range(classes)))
        self.reads: dict[str, JSON] = {"size": [*size]}
        checksums: dict[str, JSON] = {"sha256": train.sha256, "test_sha256": test.sha256}
        self.source = source | checksums

    @classmethod
    def moving(cls, pictures: Pictures, config: FramesConfig) -> Frames:
        """Pictures that move; those to test on move in other sequences."""
        train, test = pictures.split(config.holdout, config.split)
        moving = MovingDigits(train, config, config.seed), MovingDigits(test, config, config.split, True)
        size = moving[0].canvas, moving[0].canvas
        source: dict[str, JSON] = {
            "label": f"moving {pictures.name}",
            "pictures": len(train),
            "held_out": len(test),
        }
        return cls(*moving, size, pictures.classes, source, config)

    @classmethod
    def stored(cls, frames: Path, labels: Path, config: FramesConfig) -> Frames:
        """Sequences of one's own from two IDX files, see `read_frames`; a share of them is to test on."""
        pixels, targets = read_frames(frames, labels)
        count = max(1, round(config.holdout * len(pixels)))
        places = [*range(len(pixels))]
        parts = hold_out(places, [(place,) for place in places], count, config.split)
        x = pixels.to(getattr(torch, config.dtype)) / 255
        train, test = (
            Stored([*x[part]], targets[part].tolist(), min(config.batch, len(part)), config.seed)
            for part in parts
        )
        source: dict[str, JSON] = {"label": frames.name, "sequences": len(train), "held_out": len(test)}
        size = pixels.shape[2], pixels.shape[3]
        return cls(train, test, size, int(targets.max()) + 1, source, config)

    def baselines(self) -> dict[str, Scores]:
        batches = [*self.test.batches()]
        expected, groups = labels_in(batches)
        usual = commonest(self.train.batch(0).labels.flatten().tolist())
        alone = FrameAlone(self.train, len(self.classes), self.config)
        found, _ = labels_in(batches, alone)
        return {
            "majority": scores([usual] * len(expected), expected, groups),
            "frame alone": scores(found, expected, groups),
        }

    def shown(self, label: Labels) -> str:
        batch = next(iter(self.test.batches())).part(SHOWN, 60)
        found = label(batch).argmax(-1)
        lines = []
        for b in range(len(batch.lengths)):
            told = [
                [self.classes[k] for k in each[: batch.lengths[b], b].tolist()]
                for each in (batch.labels, found)
            ]
            lines += [f"{what} {' '.join(each)}" for what, each in zip(("is   ", "found"), told, strict=True)]
        return "\n".join(lines)


def read_frames(frames: Path, labels: Path) -> tuple[Tensor, Tensor]:
    """Sequences of frames from two IDX files, plain or gzip: bytes (N, T, H, W), and labels (N, T).

    Raises:
        DataError: a file cannot be read, is not what is expected, or the two do not belong together.
    """
    pixels, targets = read_pixels(frames), read_idx(labels, axes=2)
    if not np.issubdtype(targets.dtype, np.integer):
        raise DataError(f"{labels} has numbers of kind {targets.dtype}, expected whole numbers.")
    if pixels.shape[:2] != targets.shape:
        here, there = (" x ".join(map(str, shape)) for shape in (pixels.shape[:2], targets.shape))
        raise DataError(
            f"{frames} has {here} frames and {labels} {there} labels: they do not belong together."
        )
    if len(pixels) < 2:
        raise DataError(f"{frames} has one sequence: give two at least, to train on and to test on.")
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= CLASSES or low == high:
        raise DataError(
            f"{labels} has labels from {low} to {high}, expected several from 0 to {CLASSES - 1}."
        )
    return pixels, torch.from_numpy(targets.astype(np.int64))


def read_pixels(frames: Path) -> Tensor:
    """Sequences of frames from an IDX file, plain or gzip: bytes (N, T, H, W).

    Raises:
        DataError: the file cannot be read, or is not what is expected.
    """
    pixels = read_idx(frames, axes=4)
    if pixels.dtype != np.dtype("u1"):
        raise DataError(f"{frames} has numbers of kind {pixels.dtype}, expected bytes, from 0 to 255.")
    if not pixels.size:
        raise DataError(f"{frames} has no sequences, or frames without pixels.")
    return torch.from_numpy(pixels.astype(np.uint8))


class FrameAlone:
    """A convolutional network that sees one frame at a time: what is reached without a memory."""

    def __init__(self, train: Examples, classes: int, config: FramesConfig) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            reader = FrameReader(config.channels)
            self._model = nn.Sequential(
                reader, nn.Dropout(config.dropout), nn.Linear(reader.output_size, classes)
            )
            optimiser = torch.optim.Adam(self._model.parameters(), lr=4e-3)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, ALONE)
            for step in range(ALONE):
                batch = train.batch(step).part(FEWER, FRAMES)
                loss = F.cross_entropy(
                    self._model(batch.x.float()).flatten(0, 1), batch.labels.flatten(), ignore_index=NOTHING
                )
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
            self._model.eval()

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor:
        """Scores of every frame (T, B, classes)."""
        found: Tensor = self._model(batch.x.float())
        return found


def labels_in(batches: Sequence[Batch], label: Labels | None = None) -> tuple[list[int], list[int]]:
    """The labels of all steps that are there, or of all sequences, and to which sequence each belongs.

    Args:
        label: gives the scores of labels; those of the batch if not given.
    """
    labels: list[int] = []
    groups: list[int] = []
    first = 0
    for batch in batches:
        found = batch.labels if label is None else label(batch).argmax(-1)
        rows = torch.arange(first, first + len(batch.lengths))
        first += len(batch.lengths)
        if found.ndim == 2:
            there = batch.labels != NOTHING
            rows, found = rows.expand(len(found), -1)[there], found[there]
        labels += found.tolist()
        groups += rows.tolist()
    return labels, groups


def _lexicon(sentences: Sequence[Sequence[str]], config: WordsConfig) -> Lexicon:
    return Lexicon.of(sentences, config.lowercase, config.least, config.endings)


def _checksum(sentences: Sequence[TaggedSentence]) -> str:
    return checksum("\n".join((*each.words, *each.tags)) for each in sentences)


def _short(text: str, most: int = 100) -> str:
    return text if len(text) <= most else text[:most].rsplit(" ", 1)[0] + " …"
