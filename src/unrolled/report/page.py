"""One self-contained HTML page of findings and figures.

The page asks for nothing: no font, script or picture comes from elsewhere, and its own policy forbids it. It
follows the reader's light or dark scheme, and is read on a phone, on a wide screen, on paper, with a keyboard
and without scripts. It knows nothing of what it shows: whoever has results describes them with records.

    page("Gradient flow", "run 12", [Finding("warning", "The gradient vanishes", ...)], [Section(...)])
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from numbers import Real
from typing import Any, Final

from unrolled.errors import InputError
from unrolled.report.bars import bars
from unrolled.report.blocks import (
    LEVELS,
    Bars,
    Finding,
    Heat,
    Lines,
    Mark,
    Part,
    Picture,
    Section,
    Series,
    Spans,
    Table,
    Text,
)
from unrolled.report.colours import stylesheet
from unrolled.report.frame import figure, nothing
from unrolled.report.lines import lines
from unrolled.report.maps import heat, spans
from unrolled.report.markup import escaped, inline, paragraphs
from unrolled.report.scales import number

__all__ = [
    "Bars", "Finding", "Heat", "Lines", "Mark", "Part", "Picture", "Section", "Series", "Spans", "Table",
    "Text", "page",
]  # fmt: skip

ICONS: Final = {
    "serious": '<path d="M6 1h6l5 5v6l-5 5H6l-5-5V6z"/><path class="in" d="M6 6l6 6M12 6l-6 6"/>',
    "warning": '<path d="M9 1.5L17.5 16.5H.5z"/><path class="in" d="M9 7v4.2M9 13.8v.1"/>',
    "note": '<circle cx="9" cy="9" r="8"/><path class="in" d="M9 8.4v4.4M9 5.2v.1"/>',
    "good": '<circle cx="9" cy="9" r="8"/><path class="in" d="M5.3 9.4l2.5 2.5 5-5.3"/>',
}
"""Levels differ in shape as well as in colour."""


def page(
    title: str,
    subtitle: str,
    findings: Sequence[Finding],
    sections: Sequence[Section],
    footer: str = "",
    heading: str = "Findings",
) -> str:
    """The page as text, to be written to a file as UTF-8.

    Args:
        title: what the page is about.
        subtitle: of what, and when.
        findings: the verdict, in the order to read it; it comes first.
        sections: the figures.
        footer: how the page was made.
        heading: above the findings.
    """
    entries = [("findings", heading)] if findings else []
    entries += [(f"section-{k}", section.title) for k, section in enumerate(sections, 1)]
    places = {name: key for key, name in reversed(entries)}
    body = [_findings(heading, findings, places)] if findings else []
    body += [_section(f"section-{k}", section) for k, section in enumerate(sections, 1)]
    links = "".join(f'<li><a href="#{key}">{inline(name)}</a></li>' for key, name in entries)
    script = _file("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    text = "\n".join(
        (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escaped(title)}</title>",
            f"<style>\n{stylesheet()}{_file('page.css')}</style>\n</head>\n<body>",
            '<a class="skip" href="#main">Skip to the content</a>\n<div class="shell">',
            f"<header><h1>{inline(title)}</h1>{paragraphs(subtitle)}</header>",
            f'<nav aria-label="Sections"><ul>{links}</ul></nav>' if len(entries) > 1 else "",
            '<main id="main" tabindex="-1">',
            *body,
            "</main>",
            f"<footer>{paragraphs(footer)}</footer>" if footer else "",
            f"</div>\n<script>{script}</script>\n</body>\n</html>\n",
        )
    )
    return re.sub("[\ud800-\udfff]", "\ufffd", text)  # half a character cannot be written to a file


def _file(name: str) -> str:
    return files("unrolled.report").joinpath(name).read_text(encoding="utf-8")


def _findings(heading: str, findings: Sequence[Finding], places: Mapping[str, str]) -> str:
    """The verdict: how many findings of which level, and each of them."""
    counts = Counter((finding.level, finding.label) for finding in findings)
    totals = ""
    for (level, label), count in sorted(counts.items(), key=lambda pair: LEVELS.index(pair[0][0])):
        many = "s" if count > 1 and level in ("warning", "note") else ""
        told = f"{inline(label)}: {count}" if label else f"{count} {level}{many}"
        totals += f'<li class="{level}">{_icon(level)}{told}</li>'
    rows = "".join(_finding(finding, places) for finding in findings)
    return (
        '<section id="findings" aria-labelledby="findings-title"><div class="verdict">'
        f'<h2 id="findings-title">{inline(heading)}</h2><ul class="counts">{totals}</ul></div>'
        f'<ol class="card findings">{rows}</ol></section>'
    )


def _finding(finding: Finding, places: Mapping[str, str]) -> str:
    evidence = f"<p>{inline(finding.evidence)}</p>" if finding.evidence else ""
    remedy = (
        f'<p class="remedy"><b>{inline(finding.beside)}</b>{inline(finding.remedy)}</p>'
        if finding.remedy
        else ""
    )
    title = inline(finding.title)
    if finding.section:
        if finding.section not in places:
            raise InputError(f"a finding leads to the section {finding.section!r}, which the page has not")
        title = f'<a href="#{places[finding.section]}">{title}</a>'
    label = finding.label or finding.level
    return (
        f'<li class="{finding.level}"><span class="level">{_icon(finding.level)}'
        f"{inline(label[0].upper() + label[1:])}</span>"
        f"<div><h3>{title}</h3>{evidence}</div>{remedy}</li>"
    )


def _icon(level: str) -> str:
    return f'<svg class="icon" viewBox="0 0 18 18" aria-hidden="true">{ICONS[level]}</svg>'


def _section(key: str, section: Section) -> str:
    items = "".join(DRAWN[type(item)](item) for item in section.items)
    return (
        f'<section id="{key}" aria-labelledby="{key}-title"><h2 id="{key}-title">{inline(section.title)}</h2>'
        f'<div class="intro">{paragraphs(section.intro)}</div><div class="items">{items}</div></section>'
    )


def _table(item: Table) -> str:
    """A table that scrolls inside its card; columns of numbers are aligned at their right."""
    if not item.rows or not item.columns:
        return nothing(item.title, item.how)
    columns = zip(*item.rows, strict=True)
    numeric = [all(isinstance(cell, Real | None) for cell in column) for column in columns]

    def cells(tag: str, row: Sequence[str | float | None]) -> str:
        text = ""
        for cell, right in zip(row, numeric, strict=True):
            inside = cell if isinstance(cell, str) else number(cell)
            style = "number" if right else "short" if len(inside) < 28 else "long"
            text += f'<{tag} class="{style}">{inline(inside)}</{tag.split()[0]}>'
        return f"<tr>{text}</tr>"

    head = cells('th scope="col"', item.columns)
    rows = "".join(cells("td", row) for row in item.rows)
    content = (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escaped(item.title)}">'
        f"<table><thead>{head}</thead><tbody>{rows}</tbody></table></div>"
    )
    return figure(item.title, item.how, content, wide=item.wide or len(item.columns) > 4)


def _text(item: Text) -> str:
    title = f"<h3>{inline(item.title)}</h3>" if item.title else ""
    return f'<div class="card wide prose">{title}{paragraphs(item.body)}</div>'


def _picture(item: Picture) -> str:
    source = f"data:image/png;base64,{base64.b64encode(item.png).decode()}"
    content = f'<img class="picture" alt="{escaped(item.told)}" src="{source}">'
    return figure(item.title, item.how, content, wide=item.wide)


def _alone(item: Finding) -> str:
    return f'<ol class="card wide findings">{_finding(item, {})}</ol>'


DRAWN: Final[Mapping[type, Callable[[Any], str]]] = {
    Lines: lines, Heat: heat, Bars: bars, Table: _table, Spans: spans, Text: _text, Picture: _picture,
    Finding: _alone,
}  # fmt: skip
