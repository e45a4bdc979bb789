"""Predicates of a text: what is so at each of its characters, from the text alone.

The value at a character is what holds once that character has been read. So the mark that opens a quotation
is inside it and the one that closes it is not, and after a newline a line has no characters yet. A predicate
is a number, such as the position in the line, or yes or no, which are 1 and 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

from unrolled.errors import InputError

Kind = Literal["number", "yes/no"]

CLOSING: Final = {'"': '"', "“": "”", "„": "“", "‘": "’", "«": "»"}
"""The mark that ends a quotation, by the one that begins it."""

BRACKETS: Final = {"(": ")", "[": "]", "{": "}"}

WORD: Final = re.compile(r"\w+(?:['’]\w+)*")
SENTENCE_END: Final = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s|\Z)")
BLANK: Final = re.compile(r"^[ \t]*\n", re.MULTILINE)
LINE: Final = re.compile(r"([ \t]*)[^\n]*\n?")
QUOTING: Final = re.compile(r'["“”„‘’«»]|^[ \t]*\n', re.MULTILINE)
BRACKET: Final = re.compile(r"[()\[\]{}]")


@dataclass(frozen=True, eq=False)
class Predicate:
    """A property of a text, with its value at each of N characters.

    Attributes:
        values: (N,), float64; 0 and 1 for yes/no.
    """

    name: str
    kind: Kind
    what: str
    values: Tensor


def predicates(text: str, more: Mapping[str, re.Pattern[str]] | None = None) -> list[Predicate]:
    """What is known of every character of a text.

    Args:
        text: N characters, at least one.
        more: expressions by name, of `read_predicates`; yes is where a match covers a character.
    """
    found = [Predicate(name, kind, what, of(text)) for name, kind, what, of in KNOWN]
    for name, pattern in (more or {}).items():
        found.append(Predicate(name, "yes/no", pattern.pattern, covered(pattern, text)))
    return found


def read_predicates(given: Sequence[str]) -> dict[str, re.Pattern[str]]:
    """Regular expressions by name, as the command line has them: NAME=REGEX.

    In them `^` and `$` are at line ends too, and a dot is also a newline.

    Raises:
        InputError: one is not written so, its name is taken, or it is no regular expression.
    """
    found: dict[str, re.Pattern[str]] = {}
    for each in given:
        name, equals, expression = each.partition("=")
        name = name.strip()
        if not (name and equals and expression):
            raise InputError(rf"cannot read --predicate {each!r}; write NAME=REGEX, as in 'speaker=^\w+:'")
        if name in found or name in (known for known, *_ in KNOWN):
            raise InputError(f"there is a predicate {name!r} already: give yours another name")
        try:
            found[name] = re.compile(expression, re.MULTILINE | re.DOTALL)
        except (re.error, OverflowError, RecursionError) as error:
            raise InputError(
                f"{expression!r} of --predicate {name} is no regular expression: {error}"
            ) from None
    return found


def covered(pattern: re.Pattern[str], text: str) -> Tensor:
    """1 at every character that a match covers."""
    marks = bytearray(len(text))
    for match in pattern.finditer(text):
        marks[match.start() : match.end()] = b"\1" * (match.end() - match.start())
    return _numbers(marks)


def _numbers(marks: bytearray) -> Tensor:
    return torch.frombuffer(marks, dtype=torch.uint8).double()


def _each(text: str, test: Callable[[str], bool]) -> Tensor:
    """1 at every character that passes a test."""
    return _numbers(bytearray(map(test, text)))


def _held(length: int, changes: Iterable[tuple[int, float]]) -> Tensor:
    """Values that stay from one change, at a place in ascending order, to the next; 0 before the first."""
    given = list(changes)
    places = torch.tensor([0, *(place for place, _ in given), length])
    values = torch.tensor([0.0, *(value for _, value in given)], dtype=torch.float64)
    return values.repeat_interleave(places.diff())


def position_in_line(text: str) -> Tensor:
    """Characters of the line that have been read; 0 after a newline."""
    places = torch.arange(len(text))
    newline = _each(text, "\n".__eq__).bool()
    last: Tensor = torch.where(newline, places, -1).cummax(0).values
    return (places - last).double()


def rest_of_line(text: str) -> Tensor:
    """Characters yet to come before the next newline, or the end of the text."""
    length = len(text)
    places = torch.arange(length)
    newline = _each(text, "\n".__eq__).bool()
    here_or_after: Tensor = torch.where(newline, places, length).flip(0).cummin(0).values.flip(0)
    following = torch.cat([here_or_after[1:], torch.tensor([length])])
    return (following - places - 1).double()


def indentation(text: str) -> Tensor:
    """Spaces and tabs that the line begins with; a newline belongs to the line it ends."""
    lines = torch.tensor([(len(match[0]), len(match[1])) for match in LINE.finditer(text)])
    return lines[:, 1].double().repeat_interleave(lines[:, 0])


def in_quotation(text: str) -> Tensor:
    """Inside a quotation, by the marks that the text uses.

    Within one only its own closing mark counts, and ’ between letters is an apostrophe. A blank line ends
    every quotation, so that a stray mark does not turn the rest of the text about.
    """
    closing, changes = "", []
    for match in QUOTING.finditer(text):
        mark, place = match[0], match.end() - 1
        if mark.endswith("\n"):
            closing = ""
        elif not closing:
            closing = CLOSING.get(mark, "")
        elif mark == closing and not (mark == "’" and _between_letters(text, place)):
            closing = ""
        changes.append((place, float(bool(closing))))
    return _held(len(text), changes)


def _between_letters(text: str, place: int) -> bool:
    return text[place - 1 : place].isalnum() and text[place + 1 : place + 2].isalnum()


def bracket_depth(text: str) -> Tensor:
    """How many of the brackets () [] {} are open.

    A bracket that closes one also closes all that were opened in it; one that closes nothing changes nothing.
    """
    awaited: list[str] = []
    changes = []
    for match in BRACKET.finditer(text):
        mark = match[0]
        if mark in BRACKETS:
            awaited.append(BRACKETS[mark])
        elif mark in awaited:
            while awaited.pop() != mark:
                pass
        changes.append((match.start(), float(len(awaited))))
    return _held(len(text), changes)


def position_in_word(text: str) -> Tensor:
    """Characters of the word that have been read; 0 outside words."""
    values = [0] * len(text)
    for match in WORD.finditer(text):
        values[match.start() : match.end()] = range(1, match.end() - match.start() + 1)
    return torch.tensor(values, dtype=torch.float64)


def word_end(text: str) -> Tensor:
    """The last character of a word."""
    marks = bytearray(len(text))
    for match in WORD.finditer(text):
        marks[match.end() - 1] = 1
    return _numbers(marks)


def capitals(text: str) -> Tensor:
    """In a run of at least two upper-case letters."""
    upper = _each(text, str.isupper)
    beside = torch.zeros_like(upper)
    beside[1:] += upper[:-1]
    beside[:-1] += upper[1:]
    return upper.minimum(beside)


def before(character: str) -> Callable[[str], Tensor]:
    """The predicate that this character comes next."""

    def next_is(text: str) -> Tensor:
        found = _each(text, character.__eq__).roll(-1)
        found[-1] = 0
        return found

    return next_is


KNOWN: Final[Sequence[tuple[str, Kind, str, Callable[[str], Tensor]]]] = (
    ("position in line", "number", "characters of the line so far", position_in_line),
    ("rest of line", "number", "characters of the line to come", rest_of_line),
    ("indentation", "number", "spaces and tabs the line begins with", indentation),
    ("blank line", "yes/no", "in a line of spaces at most", lambda text: covered(BLANK, text)),
    ("in quotation", "yes/no", "between quotation marks", in_quotation),
    ("in brackets", "yes/no", "a bracket is open", lambda text: bracket_depth(text).sign()),
    ("bracket depth", "number", "brackets that are open", bracket_depth),
    ("in a word", "yes/no", "letters, digits, and apostrophes between", lambda text: covered(WORD, text)),
    ("position in word", "number", "characters of the word so far", position_in_word),
    ("word end", "yes/no", "the last character of a word", word_end),
    ("sentence end", "yes/no", ". ! ? and what closes with it", lambda text: covered(SENTENCE_END, text)),
    ("digit", "yes/no", "a digit", lambda text: _each(text, str.isdigit)),
    ("capitals", "yes/no", "in a run of two or more capitals", capitals),
    ("before a space", "yes/no", "a space comes next", before(" ")),
    ("before a newline", "yes/no", "a newline comes next", before("\n")),
)
"""Name, kind, what it is, and how it is had from a text."""


def rows_of(text: str, width: int) -> list[int]:
    """Where rows begin when a text is written with at most so many characters in each, and its end.

    A newline may stand beyond them.
    """
    starts, begin = [0], 0
    for place, character in enumerate(text):
        full = place - begin + 1 >= width and text[place + 1 : place + 2] != "\n"
        if character == "\n" or full:
            begin = place + 1
            starts.append(begin)
    return starts if starts[-1] == len(text) else [*starts, len(text)]


def most_varied(text: str, values: Tensor, rows: int = 10, width: int = 80) -> tuple[int, int]:
    """Where so many rows of a text begin and end: those in which values (N,) have the highest variance."""
    starts = torch.tensor(rows_of(text, width))
    ends = starts[rows:] if len(starts) > rows else starts[-1:]
    begins = starts[: len(ends)]
    away = (values - values.mean()).double()
    sums, squares = (torch.cat([torch.zeros(1), each.cumsum(0)]) for each in (away, away.square()))
    counts = ends - begins
    means = (sums[ends] - sums[begins]) / counts
    variances = (squares[ends] - squares[begins]) / counts - means.square()
    best = int(variances.argmax())
    return int(begins[best]), int(ends[best])
