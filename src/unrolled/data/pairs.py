"""Pairs of sentences in two languages: of a data set, or of two files of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unrolled.data.extract.dictionary import is_sentence
from unrolled.data.library import kept
from unrolled.data.splits import hold_out, plain
from unrolled.data.text import read_lines
from unrolled.errors import DataError


@dataclass(frozen=True, slots=True)
class Pair:
    """A sentence and its translation."""

    source: str
    target: str


def named_pairs(name: str, *, phrases: bool = False, cache: Path | None = None) -> list[Pair]:
    """The sentence pairs of a data set that was fetched, each once, in the order of its file.

    Args:
        name: such as "german-english": the source is the language named first.
        phrases: return pairs of two words and more that are no sentences too.

    Raises:
        DataError: no data set of pairs has this name, it was not fetched, or its file was changed since.
    """
    lines = kept(name, "sentence pairs", cache).read_bytes().decode().removesuffix("\n").split("\n")
    pairs = (Pair(*line.split("\t")) for line in lines)
    return [pair for pair in pairs if phrases or (is_sentence(pair.source) and is_sentence(pair.target))]


def read_pairs(source: Path, target: Path) -> list[Pair]:
    """Pairs from two UTF-8 text files, line by line; blanks at the ends of a line are dropped.

    Raises:
        DataError: a file is missing or not UTF-8, the files have different numbers of lines or none, or a
            line is empty; the message names the first such line.
    """
    texts = {path: [line.strip() for line in read_lines(path)] for path in (Path(source), Path(target))}
    counts = [f"{path} has {len(lines):,} lines" for path, lines in texts.items()]
    if len({len(lines) for lines in texts.values()}) > 1:
        raise DataError(f"{' and '.join(counts)}: line n of the one must translate line n of the other.")
    for path, lines in texts.items():
        if empty := [place for place, line in enumerate(lines, 1) if not line]:
            more = f", as are {len(empty) - 1:,} more" if len(empty) > 1 else ""
            raise DataError(
                f"line {empty[0]:,} of {path} is empty{more}: delete it in both files, or fill it in."
            )
    if not texts[Path(source)]:
        raise DataError(f"{source} has no lines: give at least a few hundred sentences.")
    return [Pair(*pair) for pair in zip(texts[Path(source)], texts[Path(target)], strict=True)]


def split_pairs(pairs: Sequence[Pair], held_out: int = 1000, seed: int = 0) -> tuple[list[Pair], list[Pair]]:
    """Pairs to train on and pairs held out.

    A pair that shares its source or its target with another, but for case, blanks and punctuation, is in the
    same part as that, and so on along chains; so no held-out sentence is seen in training.

    Raises:
        DataError: too few pairs to hold out so many.
    """
    keys = [(("source", plain(pair.source)), ("target", plain(pair.target))) for pair in pairs]
    return hold_out(pairs, keys, held_out, seed)
