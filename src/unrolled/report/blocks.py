"""What a page is made of: findings, figures, tables and texts, as plain records that check themselves.

A number may be missing anywhere: None, NaN and infinity are gaps. Texts are plain. Markup in them is shown
as it is written, but words in `backticks` are set as code.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from unrolled.errors import InputError

Values: TypeAlias = Sequence[float | None]
Axis: TypeAlias = Sequence[str] | tuple[float, float]
"""A label for every row or column, or the coordinates of the first and the last."""

LEVELS: Final = ("serious", "warning", "note", "good")


@dataclass(frozen=True)
class Finding:
    """One thing a reader should know: in the verdict of a page, or in one of its sections.

    Args:
        level: "good", "note", "warning" or "serious".
        title: the finding in one sentence.
        evidence: the numbers it rests on.
        remedy: what to do about it.
        label: a word that stands in the place of the level, such as "holds".
        beside: what stands above the remedy.
        section: the title of the section that tells more; the finding's own title leads there.
    """

    level: str
    title: str
    evidence: str = ""
    remedy: str = ""
    label: str = ""
    beside: str = "What to do"
    section: str = ""

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise InputError(f"a finding is {', '.join(LEVELS[:-1])} or {LEVELS[-1]}, not {self.level!r}")


@dataclass(frozen=True)
class Series:
    """One line of a chart, and a band around it where `low` and `high` are given."""

    name: str
    x: Sequence[float]
    y: Values
    low: Values | None = None
    high: Values | None = None

    def __post_init__(self) -> None:
        what = f"series {self.name!r}"
        if (self.low is None) != (self.high is None):
            raise InputError(f"{what} has only one edge of its band; give low and high, or neither")
        _check_lengths(what, x=self.x, y=self.y, low=self.low, high=self.high)
        for values in (self.x, self.y, self.low, self.high):
            floats(() if values is None else values, what)


@dataclass(frozen=True)
class Mark:
    """A dashed line across a chart, at a value of its axis "x" or "y"."""

    axis: str
    at: float
    label: str

    def __post_init__(self) -> None:
        if self.axis not in ("x", "y"):
            raise InputError(f"mark {self.label!r} stands on axis 'x' or 'y', not {self.axis!r}")


@dataclass(frozen=True)
class Lines:
    """Values over a common axis. `how` says in one sentence how to read it, here and in every figure."""

    title: str
    how: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    log_x: bool = False
    log_y: bool = False
    marks: Sequence[Mark] = ()


@dataclass(frozen=True)
class Heat:
    """A table of numbers as colours, its first row at the top.

    Low values have the colour of the paper, light or dark: `how` had better not call them by either.

    Args:
        values: rows of equal length.
        x: a label for each column, or the coordinates of the first and the last.
        y: the same for the rows.
        low: what the first colour stands for; values below it have that colour too.
        high: the same for the last colour.
        value_label: what the numbers are.
        diverging: two hues that part at 0, or in the middle where 0 is not between `low` and `high`.
    """

    title: str
    how: str
    x_label: str
    y_label: str
    values: Sequence[Values]
    x: Axis
    y: Axis
    low: float
    high: float
    value_label: str
    diverging: bool = False

    def __post_init__(self) -> None:
        what = f"heat map {self.title!r}"
        rows, columns = grid(self.values, what).shape
        for axis, size, parts in ((self.y, rows, "rows"), (self.x, columns, "columns")):
            if not is_range(axis) and len(axis) != size:
                raise InputError(
                    f"{what} has {size} {parts} but {len(axis)} labels for them; give one each, or a range"
                )
        _check_range(what, self.low, self.high)


@dataclass(frozen=True)
class Bars:
    """A number for each label, from 0, with error bars where `low` and `high` are given."""

    title: str
    how: str
    x_label: str
    labels: Sequence[str]
    values: Values
    low: Values | None = None
    high: Values | None = None

    def __post_init__(self) -> None:
        what = f"bar chart {self.title!r}"
        if (self.low is None) != (self.high is None):
            raise InputError(f"{what} has only one end of its error bars; give low and high, or neither")
        _check_lengths(what, labels=self.labels, values=self.values, low=self.low, high=self.high)
        for values in (self.values, self.low, self.high):
            floats(() if values is None else values, what)


@dataclass(frozen=True)
class Table:
    """Rows of texts and numbers. Tables that are `wide`, or have more than four columns, stand alone."""

    title: str
    how: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | float | int | None]]
    wide: bool = False

    def __post_init__(self) -> None:
        for k, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise InputError(
                    f"table {self.title!r} has {len(self.columns)} columns, but {len(row)} cells in row {k}"
                )


@dataclass(frozen=True)
class Spans:
    """A text, piece by piece, each coloured by its value: one hue below 0, another above."""

    title: str
    how: str
    spans: Sequence[tuple[str, float]]
    low: float
    high: float
    value_label: str

    def __post_init__(self) -> None:
        what = f"text {self.title!r}"
        floats((value for _, value in self.spans), what)
        _check_range(what, self.low, self.high)


@dataclass(frozen=True)
class Text:
    """Paragraphs, parted by empty lines."""

    title: str
    body: str


@dataclass(frozen=True)
class Picture:
    """A picture of pixels on a light ground, which it keeps in the dark scheme.

    Args:
        png: the file's bytes.
        told: what is on it, for those who cannot see it.
    """

    title: str
    how: str
    png: bytes
    told: str
    wide: bool = False

    def __post_init__(self) -> None:
        if not self.png.startswith(b"\x89PNG"):
            raise InputError(f"picture {self.title!r} is no PNG")


Item: TypeAlias = Lines | Heat | Bars | Table | Spans | Text | Picture | Finding


@dataclass(frozen=True)
class Section:
    """A part of the page, with an entry in its navigation."""

    title: str
    intro: str
    items: Sequence[Item]


@dataclass(frozen=True)
class Part:
    """Findings and sections that belong together, on a page that has others too."""

    findings: Sequence[Finding] = ()
    sections: Sequence[Section] = ()


def floats(values: Iterable[float | None], what: str) -> list[float]:
    """Numbers as floats, missing ones as NaN.

    Raises:
        InputError: one of them is no number.
    """
    found = []
    for value in values:
        try:
            if isinstance(value, str):
                raise TypeError
            found.append(math.nan if value is None else float(value))
        except (TypeError, ValueError, OverflowError):
            raise InputError(f"{what} takes numbers or None, got {value!r}") from None
    return found


def grid(values: Sequence[Values], what: str) -> NDArray[np.float64]:
    """Rows of numbers as an array, missing ones as NaN.

    Raises:
        InputError: the rows differ in length, or hold something else than numbers.
    """
    lengths = sorted({len(row) for row in values})
    if len(lengths) > 1:
        raise InputError(f"{what} has rows of {lengths[0]} and of {lengths[-1]} values; give as many in each")
    try:
        found = np.array([*values], dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{what} takes numbers or None") from None
    return found.reshape(len(values), lengths[0] if lengths else 0)


def is_range(axis: Axis) -> bool:
    """Whether an axis of a heat map is given by its ends."""
    return len(axis) == 2 and not any(isinstance(end, str) for end in axis)


def _check_lengths(what: str, **columns: Sequence[object] | None) -> None:
    lengths = {name: len(values) for name, values in columns.items() if values is not None}
    first, size = next(iter(lengths.items()))
    for name, other in lengths.items():
        if other != size:
            raise InputError(
                f"{what} has {size} values of {first} but {other} of {name}; give as many of each"
            )


def _check_range(what: str, low: float, high: float) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise InputError(f"{what} has colours from {low} to {high}; give two finite numbers, the lower first")
