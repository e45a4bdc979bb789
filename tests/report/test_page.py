"""Laws of a page: what is on it, what can never happen, and what is refused."""

import json
import math
import re

import numpy as np
import pytest
from parsed_page import HOW, NASTY, Tree, everything, heat, line_chart, show

from unrolled.errors import InputError
from unrolled.report.page import Bars, Finding, Heat, Mark, Section, Series, Spans, Table, Text, page

# What is refused


def test_markup_in_any_text_is_text():
    tree = Tree(everything())
    assert not [e for e in tree.elements if "onerror" in e]
    assert len(tree.find("script")) == len(tree.find("div", "chart")) + 1
    assert len(tree.find("style")) == 1
    assert tree.find("h1")[0]["text"] == NASTY.replace("\x00", "␀")
    for data in tree.find("script")[:-1]:
        json.loads(data["text"])


def test_each_text_is_on_the_page():
    """Title, subtitle, evidence, remedy, intro, how, labels, names, marks, cells, pieces, paragraphs."""
    found = Tree(everything("~")).find("body")[0]["text"]
    assert found.count("~") >= 40


def test_backticks_make_code_and_cannot_make_anything_else():
    tree = Tree(show(Text("", "Call `f(<b>)` now.\n\nOr `not")))
    assert [e["text"] for e in tree.find("code")] == ["f(<b>)"]
    paragraphs = [e["text"] for e in tree.find("p") if e["parents"][-1].get("class") == "card wide prose"]
    assert paragraphs == ["Call f(<b>) now.", "Or `not"]


def test_half_a_character_is_written_as_one_that_is_unknown():
    everything("\ud83d").encode()


@pytest.mark.parametrize("text", ["~", NASTY], ids=["plain", "nasty"])
def test_nothing_is_asked_of_anyone(text):
    html = everything(text)
    assert "default-src 'none'" in html
    assert "@import" not in html
    assert "url(" not in html
    assert "//" not in re.sub(r"(?m)^\s*//.*$", "", html).replace("alert", "")
    tree = Tree(html)
    assert not tree.find("link")
    for element in tree.elements:
        for name in ("src", "srcset", "href", "action", "data", "poster", "xlink:href"):
            assert (element.get(name) or "data:").startswith(("data:", "#")), element


def test_the_verdict_comes_first():
    tree = Tree(show(line_chart(), findings=[Finding("serious", "S"), Finding("good", "G")]))
    assert [e["id"] for e in tree.find("section")] == ["findings", "section-1"]
    levels = [e["class"] for e in tree.find("li") if e["parents"][-1].get("class") == "card findings"]
    assert levels == ["serious", "good"]
    assert [e["href"] for e in tree.find("a")] == ["#main", "#findings", "#section-1"]


@pytest.mark.parametrize("y", [
    [0.0, 0.0], [5e-324, 5e-324], [1e-310, 0.0], [1.7e308, -1.7e308], [1e300, 1.0], [7.0], [1.0, 1.0 + 1e-15],
    [1e-300, 1e308], [3.0, 1e-7], [1e9, 1e9 + 1], [None, None], [math.nan], [math.inf, -math.inf], [],
])  # fmt: skip
@pytest.mark.parametrize("log", [False, True])
def test_no_value_breaks_a_chart(y, log):
    x = list(range(len(y)))
    html = show(
        line_chart(Series("a", x, y), log_y=log), line_chart(Series("a", y, x), log_x=log),
        line_chart(Series("a", x, y, y, y), log_y=log),
        Bars("b", "", "x", [str(k) for k in x], y, y, y),
        Heat("h", "", "x", "y", [y], (0, 1), (0, 0), -1, 1, "v", diverging=log),
        Spans("s", "", [("a", v) for v in y], -1, 1, "v"),
        Table("t", "", ["v"], [[v] for v in y]),
    )  # fmt: skip
    tree = Tree(html)
    places = " ".join(e.get("d") or "" for e in tree.elements) + " ".join(
        e.get("style") or "" for e in tree.elements
    )
    assert not re.search(r"nan|inf|None", places)


EMPTY = {
    "no line": line_chart(),
    "no point": line_chart(Series("a", [], [])),
    "no y": line_chart(Series("a", [1], [None])),
    "no x": line_chart(Series("a", [math.nan], [1])),
    "no row": Heat("t", HOW, "", "", [], [], [], 0, 1, ""),
    "no column": Heat("t", HOW, "", "", [[], []], [], (0, 1), 0, 1, ""),
    "no value": Heat("t", HOW, "", "", [[None]], ["a"], ["b"], 0, 1, ""),
    "no bar": Bars("t", HOW, "", [], []),
    "no bar's value": Bars("t", HOW, "", ["a"], [None]),
    "no row of a table": Table("t", HOW, ["a"], []),
    "no column of a table": Table("t", HOW, [], []),
    "no text": Spans("t", HOW, [], 0, 0, ""),
}


@pytest.mark.parametrize("item", EMPTY.values(), ids=EMPTY)
def test_without_data_a_figure_says_so_and_how_it_would_be_read(item):
    tree = Tree(show(item))
    assert [e["text"] for e in tree.find("p", "nothing")] == ["nothing to show"]
    assert tree.find("figcaption")[0]["text"].startswith(HOW)
    assert not tree.find("div", "chart")


def test_every_chart_is_reached_by_keyboard_and_says_what_it_shows():
    for chart in Tree(everything("~")).find("div", "chart"):
        assert chart["tabindex"] == "0"
        assert chart["role"] == "img"
        assert len(chart["aria-label"]) > 20


def rising(n):
    return list(range(n))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Series("a", rising(3), rising(2)),
            "series 'a' has 3 values of x but 2 of y; give as many of each",
        ),
        (
            lambda: Series("a", rising(2), rising(2), rising(2)),
            "series 'a' has only one edge of its band; give low and high, or neither",
        ),
        (
            lambda: Series("a", rising(2), rising(2), rising(2), rising(3)),
            "series 'a' has 2 values of x but 3 of high; give as many of each",
        ),
        (lambda: Series("a", [0], ["1"]), "series 'a' takes numbers or None, got '1'"),
        (lambda: Finding("bad", "t"), "a finding is serious, warning, note or good, not 'bad'"),
        (lambda: Mark("z", 1, "m"), "mark 'm' stands on axis 'x' or 'y', not 'z'"),
        (
            lambda: Heat("h", "", "", "", [[1, 2], [3]], (0, 1), (0, 1), 0, 1, ""),
            "heat map 'h' has rows of 1 and of 2 values; give as many in each",
        ),
        (
            lambda: Heat("h", "", "", "", [["a"]], (0, 0), (0, 0), 0, 1, ""),
            "heat map 'h' takes numbers or None",
        ),
        (
            lambda: Heat("h", "", "", "", [[1, 2]], ["a"], ["b"], 0, 1, ""),
            "heat map 'h' has 2 columns but 1 labels for them; give one each, or a range",
        ),
        (
            lambda: Heat("h", "", "", "", [[1, 2]], ["a", "b"], [], 0, 1, ""),
            "heat map 'h' has 1 rows but 0 labels for them; give one each, or a range",
        ),
        (
            lambda: Heat("h", "", "", "", [[1]], (0, 0), (0, 0), 1, 0, ""),
            "heat map 'h' has colours from 1 to 0; give two finite numbers, the lower first",
        ),
        (
            lambda: Bars("b", "", "", ["a"], [1, 2]),
            "bar chart 'b' has 1 values of labels but 2 of values; give as many of each",
        ),
        (
            lambda: Bars("b", "", "", ["a"], [1], high=[2]),
            "bar chart 'b' has only one end of its error bars; give low and high, or neither",
        ),
        (lambda: Table("t", "", ["a", "b"], [[1, 2], [1]]), "table 't' has 2 columns, but 1 cells in row 1"),
        (
            lambda: Spans("s", "", [("a", 1)], 0, math.inf, ""),
            "text 's' has colours from 0 to inf; give two finite numbers, the lower first",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(make, message):
    with pytest.raises(InputError) as error:
        make()
    assert str(error.value) == message


def test_arrays_are_taken_as_they_are():
    values = np.linspace(0, 1, 5)
    html = show(
        line_chart(Series("a", np.arange(5), values, values, values)), heat(np.ones((2, 3))),
        Bars("b", "", "", list("abcde"), values, values, values),
        Table("t", "", ["v"], [[v] for v in values]),
    )  # fmt: skip
    assert "nothing to show" not in html


def test_a_finding_may_have_a_word_of_its_own_and_lead_to_a_section():
    found = Finding("note", "A claim", "Measured.", "w < 1.", label="holds if", beside="If", section="Part")
    plain = Finding("good", "Another", label="holds")
    text = page("A page", "", [found, found, plain], [Section("Part", "", [])], heading="Verdicts")
    tree = Tree(text)
    assert [e["text"] for e in tree.find("h2")] == ["Verdicts", "Part"]
    assert [e["text"] for e in tree.find("span", "level")] == ["Holds if", "Holds if", "Holds"]
    (counts,) = tree.find("ul", "counts")
    assert counts["text"] == "holds if: 2holds: 1"
    assert [e["text"] for e in tree.find("b")] == ["If", "If"]
    links = [e for e in tree.find("a") if e["text"] == "A claim"]
    (part,) = (e["id"] for e in tree.find("section") if e["id"] != "findings")
    assert [e["href"] for e in links] == [f"#{part}"] * 2


def test_a_finding_that_leads_nowhere_is_refused():
    with pytest.raises(InputError, match="leads to the section 'None', which the page has not"):
        page("A page", "", [Finding("good", "A", section="None")], [Section("Part", "", [])])


def test_a_finding_may_stand_in_a_section():
    tree = Tree(show(Finding("warning", "It fails", "Measured.", label="fails")))
    (item,) = (e for e in tree.find("li", "warning") if e["parents"])
    assert item["text"] == "FailsIt failsMeasured."


def test_a_table_may_have_a_row_for_itself():
    narrow, wide = Table("A", HOW, ("a",), [[1]]), Table("B", HOW, ("a",), [[1]], wide=True)
    assert [{*e["class"].split()} for e in Tree(show(narrow, wide)).find("figure")] == [
        {"card"},
        {"card", "wide"},
    ]


def test_the_room_for_labels_is_that_of_the_widest():
    """0.1 has as many characters as 100, and is narrower."""
    tree = Tree(show(line_chart(Series("a", [0, 1], [0.1, 100]), log_y=True)))
    (labels,) = tree.find("div", "ys")
    assert [e["text"] for e in tree.find("b") if e["parents"][-1] is labels] == ["100"]
