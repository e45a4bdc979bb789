"""Predicates of a text are what their definitions say, character by character."""

import random
import re
from itertools import pairwise

import pytest
import torch

from unrolled.errors import InputError
from unrolled.tasks.predicates import (
    KNOWN,
    bracket_depth,
    in_quotation,
    most_varied,
    predicates,
    read_predicates,
    rows_of,
)

LETTERS = "aabBC1_ \n\n\t.!'’\"“”„‘’«»()[]{}"
CLOSING = {'"': '"', "“": "”", "„": "“", "‘": "’", "«": "»"}


def random_texts(count: int = 150, length: int = 60) -> list[str]:
    draw = random.Random(0)
    return ["".join(draw.choices(LETTERS, k=draw.randint(1, length))) for _ in range(count)]


def line_of(text: str, i: int) -> str:
    """The line of a character, with the newline that ends it."""
    begin = text.rfind("\n", 0, i) + 1
    end = text.find("\n", i)
    return text[begin:] if end < 0 else text[begin : end + 1]


def position(text: str, i: int) -> int:
    return 0 if text[i] == "\n" else i - text.rfind("\n", 0, i)


def rest(text: str, i: int) -> int:
    return len(text[i + 1 :].split("\n")[0])


def indent(text: str, i: int) -> int:
    line = line_of(text, i)
    return len(line) - len(line.lstrip(" \t"))


def blank(text: str, i: int) -> bool:
    line = line_of(text, i)
    return line.endswith("\n") and not line.strip(" \t\n")


def quoted(text: str, i: int) -> bool:
    """Read the text once more, up to here."""
    closing = ""
    for k, c in enumerate(text[: i + 1]):
        if c == "\n" and blank(text, k):
            closing = ""
        elif closing:
            apostrophe = c == "’" and k > 0 and text[k - 1].isalnum() and text[k + 1 : k + 2].isalnum()
            closing = "" if c == closing and not apostrophe else closing
        else:
            closing = CLOSING.get(c, "")
    return closing != ""


def depth(text: str, i: int) -> int:
    opened: list[str] = []
    for c in text[: i + 1]:
        if c in "([{":
            opened.append(c)
        elif c in ")]}" and "([{"[")]}".index(c)] in opened:
            while opened.pop() != "([{"[")]}".index(c)]:
                pass
    return len(opened)


def letter(text: str, i: int) -> bool:
    return 0 <= i < len(text) and (text[i].isalnum() or text[i] == "_")


def word(text: str, i: int) -> bool:
    return letter(text, i) or (
        0 <= i < len(text) and text[i] in "'’" and letter(text, i - 1) and letter(text, i + 1)
    )


def place_in_word(text: str, i: int) -> int:
    return 1 + place_in_word(text, i - 1) if word(text, i) else 0


def sentence_end(text: str, i: int) -> bool:
    """There is a run of stops, then of closing marks, then white space or the end, that has i in it."""
    for begin in range(i + 1):
        if text[begin] in ".!?…" and not (begin and text[begin - 1] in ".!?…"):
            end = begin
            while end < len(text) and text[end] in ".!?…":
                end += 1
            while end < len(text) and text[end] in "\"'”’)]":
                end += 1
            if begin <= i < end and (end == len(text) or text[end].isspace()):
                return True
    return False


def capital(text: str, i: int) -> bool:
    beside = text[max(0, i - 1) : i] + text[i + 1 : i + 2]
    return text[i].isupper() and any(c.isupper() for c in beside)


DEFINED = {
    "position in line": position,
    "rest of line": rest,
    "indentation": indent,
    "blank line": blank,
    "in quotation": quoted,
    "in brackets": lambda text, i: depth(text, i) > 0,
    "bracket depth": depth,
    "in a word": word,
    "position in word": place_in_word,
    "word end": lambda text, i: word(text, i) and not word(text, i + 1),
    "sentence end": sentence_end,
    "digit": lambda text, i: text[i].isdigit(),
    "capitals": capital,
    "before a space": lambda text, i: text[i + 1 : i + 2] == " ",
    "before a newline": lambda text, i: text[i + 1 : i + 2] == "\n",
}


@pytest.mark.parametrize("name", [name for name, *_ in KNOWN])
def test_a_predicate_is_what_it_is_defined_to_be(name):
    seen = set()
    for text in random_texts():
        (found,) = (p.values.tolist() for p in predicates(text) if p.name == name)
        assert found == [float(DEFINED[name](text, i)) for i in range(len(text))], repr(text)
        seen.update(found)
    assert len(seen) > 1


def test_a_stray_mark_is_forgotten_at_a_blank_line():
    text = 'a " stray\nmark\n\nand "more" of it'
    quoted = "".join(c for c, q in zip(text, in_quotation(text), strict=True) if q)
    assert quoted == '" stray\nmark\n"more'


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("“He said ‘no’ to me” so", "“He said ‘no’ to me"),
        ("‘It’s “no” here’ so", "‘It’s “no” here"),
        ("dogs’ days, it’s", ""),
        ("„so“ und «so»", "„so«so"),
    ],
)
def test_quotations_end_with_the_mark_that_fits_the_first(text, inside):
    assert "".join(c for c, q in zip(text, in_quotation(text), strict=True) if q) == inside


def test_brackets_that_close_nothing_change_nothing():
    assert bracket_depth("a) [b (c] d) {e}").tolist() == [0, 0, 0, 1, 1, 1, 2, 2] + [0] * 5 + [1, 1, 0]


def test_expressions_are_yes_where_a_match_covers_a_character():
    more = read_predicates([r"speaker=^\w+:", "name with = sign = a.c"])
    assert list(more) == ["speaker", "name with"]  # the first sign ends a name
    assert more["name with"].pattern == " sign = a.c"
    text = "one: a\nc two:\ntwo: abc"
    more = read_predicates([r"speaker=^\w+:", "any=a.c", "nothing=x*"])
    found = {p.name: p for p in predicates(text, more)}
    assert [int(v) for v in found["speaker"].values] == [1] * 4 + [0] * 10 + [1] * 4 + [0] * 4
    assert [int(v) for v in found["any"].values] == [0] * 5 + [1] * 3 + [0] * 11 + [1] * 3
    assert not found["nothing"].values.any()
    assert found["speaker"].kind == "yes/no"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["speaker"], r"cannot read --predicate 'speaker'; write NAME=REGEX"),
        (["=a"], "write NAME=REGEX"),
        (["a="], "write NAME=REGEX"),
        (["a=b", "a=c"], "there is a predicate 'a' already"),
        (["digit=[0-9]"], "there is a predicate 'digit' already"),
        (["a=(b"], r"'\(b' of --predicate a is no regular expression: missing \)"),
        (["a=b{99999999999999999999}"], "is no regular expression"),
    ],
)
def test_what_is_no_expression_is_told(given, message):
    with pytest.raises(InputError, match=message):
        read_predicates(given)


def test_rows_are_the_text_and_no_longer_than_asked():
    for text in random_texts():
        starts = rows_of(text, 7)
        rows = [text[a:b] for a, b in pairwise(starts)]
        assert "".join(rows) == text
        assert all(row for row in rows)
        assert all(len(row.removesuffix("\n")) <= 7 and "\n" not in row[:-1] for row in rows)
        whole = [
            part
            for line in re.findall(r"[^\n]*\n|[^\n]+", text)
            for part in re.findall(r".{1,7}\n?|\n", line)
        ]
        assert rows == whole


def test_the_rows_that_vary_most_have_the_highest_variance():
    for seed, text in enumerate(random_texts(60)):
        values = torch.rand(len(text), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        begin, end = most_varied(text, values, rows=3, width=7)
        starts = rows_of(text, 7)
        windows = [*zip(starts, starts[3:], strict=False)] or [(0, len(text))]
        assert (begin, end) in windows
        variances = [values[a:b].var(correction=0) for a, b in windows]
        assert values[begin:end].var(correction=0) == pytest.approx(float(max(variances)))
