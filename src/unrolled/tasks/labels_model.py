"""The model that labels sequences: a reader of steps, recurrent layers of any cell, and a linear head on
every step, or on what a pooling makes of them all.

    words, frames, numbers -> reader -> layers -> (pooling) -> head -> scores of labels
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unrolled.cell import Cell
from unrolled.errors import DataError
from unrolled.nn.pooling import Pooling
from unrolled.nn.recurrent import Recurrent
from unrolled.tasks.labels_config import FramesConfig, LabelsConfig, SeriesConfig, WordsConfig
from unrolled.tasks.labels_examples import Batch
from unrolled.tasks.labels_words import UNKNOWN, Lexicon

NARROW: Final = 16
"""Width of the vector of an ending, and of how a word is written."""

SPREAD: Final = 0.1
"""Standard deviation of vectors at first."""


class WordReader(nn.Module):
    """A vector for each word: those of its columns beside each other.

    Args:
        sizes: how many numbers a column may have, see `Lexicon.sizes`.
        width: of a word's vector; other columns have one of `NARROW`.
        word_dropout: the probability of taking a word for an unknown one, in training.

    Shapes: numbers (T, B, F); vectors (T, B, output_size).
    """

    def __init__(
        self, sizes: Sequence[int], width: int, word_dropout: float = 0.0, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        widths = [width] + [NARROW] * (len(sizes) - 1)
        self.columns = nn.ModuleList(
            nn.Embedding(size, width, dtype=dtype) for size, width in zip(sizes, widths, strict=True)
        )
        for weight in self.parameters():
            nn.init.normal_(weight, std=SPREAD)
        self.word_dropout = word_dropout
        self.output_size = sum(widths)

    def forward(self, x: Tensor) -> Tensor:
        words, *others = x.unbind(-1)
        if self.training and self.word_dropout:
            words = torch.where(torch.rand(words.shape) < self.word_dropout, UNKNOWN, words)
        pairs = zip(self.columns, (words, *others), strict=True)
        return torch.cat([column(numbers) for column, numbers in pairs], -1)


class FrameReader(nn.Module):
    """A vector for each frame: three 3x3 convolutions of c, 2c and 4c channels with relu. Behind the first
    two the picture is halved by the largest of 2x2 values, and of each of the last channels the largest value
    over the whole picture is left: what is seen, wherever it is.

    Args:
        channels: c.

    Shapes: frames (T, B, H, W); vectors (T, B, 4 c).
    """

    def __init__(self, channels: int, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise((1, channels, 2 * channels, 4 * channels)):
            layers += [nn.Conv2d(before, after, 3, padding=1, dtype=dtype), nn.ReLU()]
            layers += [nn.MaxPool2d(2, ceil_mode=True)]
        self.layers = nn.Sequential(*layers[:-1])
        self.output_size = 4 * channels

    def forward(self, x: Tensor) -> Tensor:
        T, B = x.shape[:2]
        found: Tensor = self.layers(x.flatten(0, 1).unsqueeze(1))
        return found.amax((-2, -1)).view(T, B, -1)


class SeriesReader(nn.Module):
    """Numbers with mean 0 and variance 1, by those to train on.

    Shapes: numbers (T, B, 1), and what is made of them.
    """

    def __init__(self, mean: float, spread: float) -> None:
        super().__init__()
        self.mean, self.spread, self.output_size = mean, spread, 1

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.spread


Reader = WordReader | FrameReader | SeriesReader


class Labeller(nn.Module):
    """Scores of labels for sequences, or for each of their steps.

    Args:
        reader: from steps to vectors; it has an `output_size`.
        classes: labels there are.
        config: with `pooled`, how the steps become one vector; None for a label of every step.

    Shapes: x (T, B, ...), lengths (B,); scores (B, classes), or (T, B, classes).
    """

    def __init__(
        self,
        reader: Reader,
        cell: Cell | str,
        classes: int,
        config: LabelsConfig,
    ) -> None:
        super().__init__()
        dtype = getattr(torch, config.dtype)
        self.reader = reader
        self.layer = Recurrent(
            cell,
            reader.output_size,
            config.hidden,
            config.layers,
            bidirectional=config.bidirectional,
            dropout=config.dropout if config.layers > 1 else 0.0,
            norm=config.norm,
            init=config.initialisers,
            dtype=dtype,
        )
        width = self.layer.output_size
        self.pooling = (
            Pooling(config.pooled, width, bidirectional=config.bidirectional, dtype=dtype)
            if config.pooled
            else None
        )
        self.head = nn.Linear(width, classes, dtype=dtype)
        self.dropout = config.dropout

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        vectors = self.reader(x)
        if not isinstance(self.reader, SeriesReader):  # whose only number would be gone
            vectors = F.dropout(vectors, self.dropout, self.training)
        y, _ = self.layer(vectors, lengths=lengths)
        if self.pooling is not None:
            y = self.pooling(y, lengths)
        scores: Tensor = self.head(F.dropout(y, self.dropout, self.training))
        return scores


def losses_of(model: nn.Module, batch: Batch) -> Tensor:
    """The cross-entropy in nats of every sequence (B,), or of every step of each (T, B), 0 behind its end."""
    scores = model(batch.x, batch.lengths)
    return F.cross_entropy(scores.movedim(-1, 1), batch.labels, reduction="none")


def reader_of(reads: Mapping[str, Any], config: LabelsConfig) -> Reader:
    """The reader of a model, for what its data say of how they are read: a lexicon, the size of a
    frame, or the mean and the spread of numbers.

    Raises:
        DataError: they say something else.
    """
    dtype = getattr(torch, config.dtype)
    match reads, config:
        case {"lexicon": lexicon}, WordsConfig():
            return WordReader(Lexicon.from_json(lexicon).sizes, config.embedding, config.word_dropout, dtype)
        case {"size": [int(), int()]}, FramesConfig():
            return FrameReader(config.channels, dtype)
        case {"mean": float(mean), "spread": float(spread)}, SeriesConfig():
            return SeriesReader(mean, spread)
    raise DataError(f"nothing reads {', '.join(reads)}: words have a lexicon, frames a size, numbers a mean.")
