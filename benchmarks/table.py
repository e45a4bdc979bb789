"""Results as text: lines of a terminal and a Markdown table from the same columns."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from benchmarks.family import Family, Mean, Record
from benchmarks.results import Section

HEAD = ("", "size", "ours", "peer", "ratio", "quartiles", "asked", "", "")
WIDTHS = (32, 27, 17, 17, 9, 17, 8, 10, 0)

INTRODUCTION = """\
# Benchmarks

Written by `make bench` (`python -m benchmarks --help`); nothing here is edited by hand.

Times are milliseconds in float32, the least and the median over all turns. Both sides compute the same
tensors, which is checked before anything is timed; they take turns in one process. The ratio is the peer's
time over ours, the median over the turns, with its quartiles: above 1 we are faster. "Asked" is what this
project wants of it; what falls short says so.

![ratios at every point](FIGURE)
"""


def row(family: Family, record: Record) -> tuple[str, ...]:
    """A record in the columns of `HEAD`."""
    size = str(record.size or "")
    asked = _asked(family, record.bar, record.unit)
    if record.figure is None:
        return record.subject, size, "", "", "", "", asked, _absent(record), record.note
    assert record.low is not None
    assert record.high is not None
    figure, low, high = (number(value) for value in (record.figure, record.low, record.high))
    return (
        record.subject,
        size,
        *(_milliseconds(side) for side in (record.ours, record.peer)),
        f"{figure} {unit}" if (unit := record.unit or "s" * (family.unit == "s")) else figure,
        f"{low} to {high}",
        asked,
        family.verdict(record.figure, record.bar, record.unit),
        record.note,
    )


def mean_row(family: Family, subject: str, mean: Mean) -> tuple[str, ...]:
    """A subject's geometric mean in the columns of `HEAD`; it is not judged before all points are there."""
    part = mean.measured < mean.points
    note = f"of {mean.measured} of {mean.points} points" if part else f"of {mean.points} points"
    verdict = "mismatch" * bool(mean.bar) if part else family.verdict(mean.figure, mean.bar)
    asked = _asked(family, mean.bar)
    return subject, "geometric mean", "", "", number(mean.figure), "", asked, verdict, note


def line(cells: Iterable[str]) -> str:
    """A row for the terminal."""
    return " ".join(f"{cell:<{width}}" for cell, width in zip(cells, WIDTHS, strict=True)).rstrip()


def rows(family: Family, records: Iterable[Record]) -> list[tuple[str, ...]]:
    """All records, and after the last of each subject its geometric mean."""
    records = list(records)
    means = family.means(records)
    last = {record.subject: k for k, record in enumerate(records)}
    found = []
    for k, record in enumerate(records):
        found.append(row(family, record))
        if last[record.subject] == k and record.subject in means:
            found.append(mean_row(family, record.subject, means[record.subject]))
    return found


def markdown(families: Mapping[str, Family], sections: Mapping[str, Section], figure: str) -> str:
    """The whole document; `figure` is where it finds the picture."""
    parts = [INTRODUCTION.replace("FIGURE", figure), "## In short\n", summary(families, sections)]
    for name, family in families.items():
        if name in sections:
            section = sections[name]
            head = (*HEAD[:4], f"figure, {family.unit}" if family.unit else HEAD[4], *HEAD[5:])
            parts += [
                f"## {family.title}\n",
                f"{family.caption}\n",
                f"`python -m benchmarks {name}` on {section.conditions}.\n",
                _table(head, rows(family, section.records)),
            ]
    return "\n".join(parts)


def summary(families: Mapping[str, Family], sections: Mapping[str, Section]) -> str:
    """One line for each thing of which something is asked: its mean, and its worst point. A family of many
    subjects gets one line, for the least of their means and the worst of all points."""
    head = ("", "of ours", "geometric mean", "asked", "", "worst point", "asked", "")
    lines = []
    for name, family in families.items():
        records = [record for record in sections[name].records if record.bar] if name in sections else []
        subjects = dict.fromkeys(record.subject for record in records)
        groups = {subject: [r for r in records if r.subject == subject] for subject in subjects}
        if len(subjects) > 6:
            what = "cells" if family.mean else "figures"
            groups = {f"the worst of {len(subjects)} {what}": records}
        for label, points in groups.items():
            means = sorted(family.means(points).items(), key=lambda pair: pair[1].figure)
            mean = mean_row(family, *means[0]) if means else ("",) * len(HEAD)
            point = min(points, key=lambda point: _margin(family, point))
            worst = row(family, point)
            place = [point.subject] * (len(groups) < len(subjects)) + [worst[1]] * bool(point.size)
            where = " at ".join(filter(None, [worst[4], ", ".join(place)]))
            figure = f"{mean[4]} ({mean[0]})" if means and len(groups) < len(subjects) else mean[4]
            lines.append((family.title, label, figure, *mean[6:8], where, *worst[6:8]))
    return _table(head, lines)


BEGIN, END = "<!-- by python -m benchmarks -->\n", "<!-- to here -->\n"


def in_readme(readme: str, families: Mapping[str, Family], sections: Mapping[str, Section]) -> str:
    """A README with the summary, and where and when it was measured, between its two marks."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    where = dict.fromkeys(section.conditions for section in sections.values())
    measured = "Measured on " + "; and on ".join(where) + ".\n"
    return "".join((before, BEGIN, summary(families, sections), "\n\n", measured, END, after))


def _margin(family: Family, record: Record) -> float:
    """How far the right side of its bar a figure is, as a ratio; what could not be measured is worst."""
    if record.figure is None or not record.bar:
        return 0.0
    if family.more_is_better(record.unit):
        return record.figure / record.bar
    return record.bar / record.figure if record.figure > 0 else math.inf


def _absent(record: Record) -> str:
    return "mismatch" if record.refused else "missing" if record.bar else ""


def number(value: float) -> str:
    """Two or three digits."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def _milliseconds(side: tuple[float, float] | None) -> str:
    return "" if side is None else " / ".join(number(1e3 * seconds) for seconds in side)


def _asked(family: Family, bar: float | None, unit: str = "") -> str:
    if bar is None:
        return ""
    return f"≥ {bar:g}" if family.more_is_better(unit) else f"≤ {bar:g}"


def _table(head: tuple[str, ...], lines: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table, without the columns in which no line has anything."""
    lines = list(lines)
    used = [k for k in range(len(head)) if any(cells[k] for cells in lines)]
    text = [" | ".join(head[k] for k in used), " | ".join("---" for _ in used)]
    text += [" | ".join(_strong(cells[k]) for k in used) for cells in lines]
    return "".join(f"| {cells} |\n" for cells in text)


def _strong(cell: str) -> str:
    """What is not as it should be stands out."""
    return f"**{cell}**" if cell in ("below", "above", "mismatch", "missing") else cell.replace("|", "\\|")
