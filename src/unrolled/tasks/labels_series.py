"""Series of numbers with a label each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from unrolled.data.splits import hold_out
from unrolled.data.text import read_lines
from unrolled.errors import DataError
from unrolled.tasks.labels_config import SeriesConfig
from unrolled.tasks.labels_data import SHOWN, Labels, classes_of, known_only
from unrolled.tasks.labels_examples import Stored, checksum
from unrolled.tasks.labels_scores import Scores, commonest, scores
from unrolled.train.files import JSON

AT_ONCE: Final = 64
"""Series that are compared with all to train on at once."""

Labelled = tuple[str, Tensor]
"""A label, and the numbers (L,)."""


class LabelledSeries:
    """Series with a label each, of any lengths."""

    unit = "series"

    def __init__(
        self,
        name: str,
        series: Sequence[Labelled],
        config: SeriesConfig,
        test: Sequence[Labelled] | None = None,
    ) -> None:
        if test is None:
            keys = [(each.numpy().tobytes(),) for _, each in series]
            train, held = hold_out(series, keys, max(1, round(config.holdout * len(series))), config.split)
        else:
            train, held = [*series], [*test]
        self.classes = classes_of([label for label, _ in train], name)
        known_only([label for label, _ in held], self.classes, name)
        self._labels = [[self.classes.index(label) for label, _ in part] for part in (train, held)]
        self._series = [[each for _, each in part] for part in (train, held)]
        dtype = getattr(torch, config.dtype)
        rows = [[each.to(dtype).unsqueeze(-1) for each in part] for part in self._series]
        self.train = Stored(rows[0], self._labels[0], min(config.batch, len(train)), config.seed)
        self.test = Stored(rows[1], self._labels[1])
        numbers = torch.cat(self._series[0])
        spread = float(numbers.std()) if len(numbers) > 1 else 0.0
        self.reads: dict[str, JSON] = {"mean": float(numbers.mean()), "spread": spread or 1.0}
        self.source: dict[str, JSON] = {
            "label": name,
            "series": len(train),
            "held_out": len(held),
            "sha256": checksum((*self.classes, self.train.sha256)),
            "test_sha256": self.test.sha256,
        }

    def baselines(self) -> dict[str, Scores]:
        labels, expected = self._labels
        nearest = Nearest(self._series[0], labels)
        return {
            "majority": scores([commonest(labels)] * len(expected), expected),
            "nearest neighbour": scores(nearest(self._series[1]), expected),
        }

    def shown(self, label: Labels) -> str:
        count = min(SHOWN, len(self.test))
        lines = []
        for place, row in enumerate(label(self.test.read(torch.arange(count)))):
            best, right = int(row.argmax()), self._labels[1][place]
            wrong = "" if best == right else f", is {self.classes[right]}"
            lines.append(f"{self.classes[best]} {row[best]:.0%}{wrong}: {_drawn(self._series[1][place])}")
        return "\n".join(lines)


class Nearest:
    """The label of the series to train on that is nearest, by the mean square of what lies between them; of
    two lengths the shorter one counts."""

    def __init__(self, series: Sequence[Tensor], labels: Sequence[int]) -> None:
        self._values, self._there = _padded(series)
        self._labels = labels

    def __call__(self, series: Sequence[Tensor]) -> list[int]:
        found: list[int] = []
        for begin in range(0, len(series), AT_ONCE):
            values, there = _padded(series[begin : begin + AT_ONCE])
            T = min(values.shape[1], self._values.shape[1])
            a, b = values[:, None, :T], self._values[None, :, :T]
            both = there[:, None, :T] & self._there[None, :, :T]
            distances = ((a - b).square() * both).sum(-1) / both.sum(-1)
            found += [self._labels[place] for place in distances.argmin(1).tolist()]
        return found


def read_table(path: Path) -> list[Labelled]:
    """Labelled series from a UTF-8 file: on each line a label and the numbers of a series, with tabs or
    commas in between, as the archive of the University of California at Riverside has them (Dau et al. 2019,
    arXiv:1810.07758). Series may differ in length; NaN at the end of a line counts as nothing.

    Raises:
        DataError: the file is missing or not UTF-8, it has no series, or a line is something else, which the
            message names.
    """
    found = []
    for place, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        label, *cells = [cell.strip() for cell in line.split("\t" if "\t" in line else ",")]
        values = numbers_in(cells, f"line {place:,} of {path}")
        if not label or not values:
            raise DataError(f"line {place:,} of {path} has no {'numbers' if label else 'label'}: give both.")
        found.append((label, torch.tensor(values, dtype=torch.float64)))
    if not found:
        raise DataError(
            f"{path} is empty: give lines of a label and numbers, with tabs or commas in between."
        )
    return found


def numbers_in(cells: Sequence[str], where: str) -> list[float]:
    """The numbers in the cells of a line, without NaN at its end.

    Raises:
        DataError: one of the others is no finite number.
    """
    values: list[float] = []
    for cell in cells:
        try:
            values.append(float(cell))
        except ValueError:
            raise DataError(f"{where} has {cell[:40]!r} where a number should be.") from None
    while values and math.isnan(values[-1]):
        values.pop()
    if not all(map(math.isfinite, values)):
        raise DataError(f"{where} has a gap or an infinite number: fill it in.")
    return values


def _padded(series: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(each) for each in series])
    values = torch.nn.utils.rnn.pad_sequence([*series], batch_first=True)
    return values, torch.arange(values.shape[1]) < lengths[:, None]


def _drawn(series: Tensor, width: int = 60) -> str:
    """A series as a line of bars."""
    places = torch.linspace(0, len(series) - 1, min(width, len(series))).round().long()
    values = series[places]
    low, high = float(values.min()), float(values.max())
    heights = ((values - low) / ((high - low) or 1) * 7).round().long()
    return "".join("▁▂▃▄▅▆▇█"[height] for height in heights.tolist())
