"""Reading a page back: its elements, the points of its lines, and what its axes say."""

import math
import re
from html.parser import HTMLParser

from unrolled.report.page import Bars, Finding, Heat, Lines, Mark, Section, Series, Spans, Table, Text, page

NASTY = "</script></style><script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;\u2028\x00<!--"
HOW = "How to read it."
VOID = {"meta", "img", "source"}


class Tree(HTMLParser):
    """The elements of a page: name, attributes and text; every element must be closed where it belongs."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.elements = [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "text": "", "parents": [*self.open], **dict(attrs)}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.elements.append({"tag": tag, "text": "", "parents": [*self.open], **dict(attrs)})

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def find(self, tag, style=""):
        return [
            e
            for e in self.elements
            if e["tag"] == tag and {*style.split()} <= {*(e.get("class") or "").split()}
        ]


def show(*items, findings=()):
    return page("A page", "of a test", findings, [Section("Part", "", items)])


def line_chart(*series, **how):
    return Lines("Title", HOW, "x", "y", series, **how)


def parsed(label):
    """The number that a label says."""
    label = label.replace("−", "-").replace(",", "")
    match = re.fullmatch("(-?)(?:(.+)×)?10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)", label)
    if not match:
        return float(label)
    sign, mantissa, exponent = match.groups()
    return float(f"{sign}{mantissa or 1}e{exponent.translate(str.maketrans('⁻⁰¹²³⁴⁵⁶⁷⁸⁹', '-0123456789'))}")


def axis(tree, which, log):
    """What places on an axis stand for, by its first and last label: from value to a fraction."""
    side = {"xs": "left", "ys": "top"}[which]
    places = [
        (parsed(e["text"]), float(re.search(rf"{side}:([\d.]+)%", e["style"])[1]) / 100)
        for e in tree.find("span")
        if "style" in e and e["parents"][-1].get("class") == which
    ]
    assert len(places) >= 2
    (a, first), (b, last) = places[0], places[-1]
    to = math.log10 if log else float
    return lambda value: first + (last - first) * (to(value) - to(a)) / (to(b) - to(a))


def drawn(tree, k=0, style="line"):
    """The points of a series: one list for each stretch between gaps."""
    group = next(e for e in tree.find("g", "series") if e["data-k"] == str(k))
    path = next(e for e in tree.find("path", style) if e["parents"][-1] is group)
    runs = path["d"].rstrip("Z").split("M")[1:]
    return [
        [tuple(map(float, p.split())) for p in run.removesuffix("h0").replace("h0", "").split("L")]
        for run in runs
    ]


def everything(text=NASTY):
    """Each kind of item, with this text wherever there is a text."""
    return page(
        text, text,
        [Finding(level, text, text, text) for level in ("good", "note", "warning", "serious")],
        [Section(text, text, [
            Lines(text, text, text, text, [Series(text, [1, 2], [3, 4]), Series(text, [1, 2], [5, 4])],
                  marks=[Mark("x", 1, text), Mark("y", 3, text)]),
            Heat(text, text, text, text, [[1, None], [0, 2]], [text, text], [text, text], 0, 1, text),
            Bars(text, text, text, [text], [1]),
            Table(text, text, [text, text], [[text, 1]]),
            Spans(text, text, [(text, 0.5), ("\n", -0.5)], -1, 1, text),
            Text(text, text),
        ])],
        text,
    )  # fmt: skip


def heat(values, low=0.0, high=1.0, **how):
    rows, columns = len(values), len(values[0])
    return Heat("t", "How.", "x", "y", values, (0, columns - 1), (0, rows - 1), low, high, "v", **how)
