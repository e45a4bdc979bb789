"""Units on a terminal, in a file and on a page."""

import io
import re

import pytest
from rich.console import Console

from unrolled.report.units import HIGH, LOW, MIDDLE, Excerpt, painted, show, symbol, units_page, units_table

SCORE = {
    "name": "l0.c[17]", "layer": 0, "state": "c", "unit": 17, "predicate": "in quotation", "kind": "yes/no",
    "score": 0.9876, "chance": 0.7123, "character": 0.5, "sign": -1, "threshold": 0.5,
    "balanced_accuracy": 0.9432, "gain": 0.957, "beyond": 0.957, "verdict": "clear",
    "memory": "clear",
}  # fmt: skip
NUMBER = {
    **SCORE, "name": "l1.h[3]", "predicate": "position in line", "kind": "number", "score": 0.2,
    "chance": 0.19, "character": 0.3, "sign": 1, "threshold": None, "balanced_accuracy": None, "gain": 0.012,
    "beyond": -0.14, "verdict": "none", "memory": "none",
}  # fmt: skip
TEXT = 'a "b\tc"\nd'
EXCERPT = Excerpt(SCORE, TEXT, [0.5, 0.6, -1.0, -1.0, -0.5, -0.5, 2.0, 0.7, 9.0], [0, 8, 9], 0.5, 1.0)


def console(colours: str | None, **options: bool) -> Console:
    options |= {"force_terminal": colours is not None}
    return Console(file=io.StringIO(), width=120, color_system=colours, _environ={}, **options)


def shown(to: Console, excerpt: Excerpt = EXCERPT) -> str:
    show(to, excerpt)
    return to.file.getvalue()


@pytest.mark.parametrize("to", [console(None), console("truecolor", no_color=True)])
def test_without_colour_marks_stand_under_what_is_high_and_low(to):
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown(to))
    assert plain.splitlines() == [
        "in quotation: l0.c[17] is low there (AUC 0.988, balanced accuracy 0.943 at 0.5)",
        "+ over 0.75, - under 0.25",
        'a "b→c"↵',
        "  ----+",
        "d",
        "+",
    ]


def test_marks_are_as_wide_as_their_characters():
    wide = Excerpt(SCORE, "漢a\x07", [9.0, -9.0, 9.0], [0, 3], 0.5, 1.0)
    assert shown(console(None), wide).splitlines()[2:] == ["漢a·", "++-+"]


@pytest.mark.parametrize("colours", ["truecolor", "256", "standard"])
def test_colour_changes_no_letter_and_needs_no_marks(colours):
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown(console(colours)))
    title, legend, *rows = plain.splitlines()
    assert title.startswith("in quotation: l0.c[17] is low there")
    assert re.fullmatch(r"-0\.5 +1\.5", legend)
    assert rows == ['a "b→c"↵', "d"]


def test_colours_go_from_blue_over_white_to_red():
    ends = {"a": MIDDLE, '"': LOW, "d": HIGH}
    for row in painted(EXCERPT):
        for span in row.spans:
            character = row.plain[span.start]
            if character in ends and span.end - span.start == 1:
                assert span.style.bgcolor.get_truecolor() == ends.pop(character)
            assert span.style.color.get_truecolor() == (0, 0, 0)
    assert not ends


def test_what_cannot_be_written_has_a_sign():
    assert [*map(symbol, "a \n\t\x1b\r\xad")] == ["a", " ", "↵", "→", "·", "·", "·"]


def test_the_table_has_a_row_for_each_predicate():
    to = console(None)
    to.print(units_table([SCORE, NUMBER]))
    header, first, second = to.file.getvalue().splitlines()
    assert re.split(r"  +", header.strip()) == [
        "predicate", "best unit", "score", "chance", "character", "verdict", "memory",
    ]  # fmt: skip
    assert re.split(r" +", first.strip()) == [
        "in", "quotation", "l0.c[17]", "AUC", "0.988", "0.712", "0.500", "clear", "clear",
    ]  # fmt: skip
    assert re.split(r" +", second.strip()) == [
        "position", "in", "line", "l1.h[3]", "R²", "0.200", "0.190", "0.300", "none", "none",
    ]  # fmt: skip


def test_the_page_has_the_table_the_reasons_and_the_text():
    record = {"best": [SCORE, NUMBER], "untold": {"digit": "it is so nowhere in this text"}}
    html = units_page("What units stand for", "a <text>", record, [EXCERPT])
    for part in (
        "What units stand for", "a &lt;text&gt;", "l0.c[17]", "0.988", "digit",
        "it is so nowhere in this text", "in quotation: l0.c[17] is low there",
        "<code>l0.c[17]</code> tells the predicate in quotation", "No single unit tells this",
    ):  # fmt: skip
        assert part in html, part
    assert units_page("nothing", "", {"best": [], "untold": {"digit": "so"}}, [])
