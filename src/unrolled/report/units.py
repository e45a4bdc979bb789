"""Units and what they stand for: a table, and text in the colours of a unit's values.

Where there is no colour, marks under the text stand for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from rich.cells import cell_len
from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from unrolled.report import page

LOW: Final = (82, 148, 226)
MIDDLE: Final = (247, 247, 247)
HIGH: Final = (232, 92, 74)
"""Blue, white and red; black letters can be read on each."""

LEVELS: Final = 5
"""Shades on each side of white."""

MARKED: Final = 0.25
"""Without colour a value is marked that is so far from the middle, as a part of how far colours go."""

MEASURES: Final = {"number": "R²", "yes/no": "AUC"}
"""What a score is called, by kind of predicate."""

COLUMNS: Final = ("predicate", "best unit", "", "score", "chance", "character", "verdict", "memory")
NUMBERS: Final = ("score", "chance", "character")
"""The columns of the table, and which are numbers."""

HOW: Final = (
    "R² is the squared correlation of the unit with a number, AUC how often it is on the right side at a yes "
    "and a no, 0.5 by guessing. Chance: the best of all units where the predicate is moved along the text. "
    "Character: the last character alone. The verdict is by what is above chance, memory by what is above "
    "both."
)
"""What the table says."""

WAYS: Final = {
    "number": {1: "rises with it", -1: "falls with it", 0: "does not follow it"},
    "yes/no": {1: "is high there", -1: "is low there", 0: "is the same there"},
}
"""What a unit does, by kind of predicate and sign."""

TELLS: Final = {"clear": "tells", "weak": "hints at"}
"""What a unit that remembers does, clearly or weakly."""

SYMBOLS: Final = {"\n": "↵", "\t": "→"}
"""What is written for characters that would move the others."""


@dataclass(frozen=True)
class Excerpt:
    """A piece of a text, with the value of one unit after each of its characters.

    Attributes:
        score: the record of the unit's score, of `UnitScore.to_dict`.
        starts: where rows begin, and the end.
        middle: the value in white.
        reach: how far from the middle colours are full.
    """

    score: Mapping[str, Any]
    text: str
    values: Sequence[float]
    starts: Sequence[int]
    middle: float
    reach: float

    @property
    def title(self) -> str:
        """The predicate, the unit, and which way it goes."""
        s = self.score
        ways = WAYS[s["kind"]]
        return f"{s['predicate']}: {s['name']} {ways[s['sign']]}"

    @property
    def facts(self) -> str:
        """The score, and what the threshold achieves."""
        s = self.score
        if s["threshold"] is None:
            return score_text(s)
        return f"{score_text(s)}, balanced accuracy {s['balanced_accuracy']:.3f} at {s['threshold']:.2g}"

    @property
    def label(self) -> str:
        """What is drawn: the value of the unit, less that of the middle."""
        return f"{self.score['name']} {'+' if self.middle < 0 else '-'} {abs(self.middle):.2g}"

    @property
    def shades(self) -> list[float]:
        """-1 for full blue, 0 for white, 1 for full red."""
        return [max(-1.0, min(1.0, (value - self.middle) / self.reach)) for value in self.values]


def score_text(score: Mapping[str, Any]) -> str:
    """As in "AUC 0.981"."""
    return f"{MEASURES[score['kind']]} {score['score']:.3f}"


def units_table(best: Sequence[Mapping[str, Any]]) -> Table:
    """The best unit for each predicate, from records of `UnitScore.to_dict`."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in COLUMNS:
        justify: Literal["left", "right"] = "right" if column in NUMBERS else "left"
        table.add_column(column, justify=justify, no_wrap=column != "predicate")
    for row in rows(best):
        table.add_row(*(cell if isinstance(cell, str) else f"{cell:.3f}" for cell in row))
    return table


def rows(best: Sequence[Mapping[str, Any]]) -> list[list[str | float]]:
    """A row of `COLUMNS` for each record."""
    names = ("score", "chance", "character")
    return [
        [
            s["predicate"],
            s["name"],
            MEASURES[s["kind"]],
            *(round(s[n], 3) for n in names),
            s["verdict"],
            s["memory"],
        ]
        for s in best
    ]


def show(console: Console, excerpt: Excerpt) -> None:
    """Print an excerpt, in colour if the console has it, and with marks under it if not."""
    console.print(Text.assemble((excerpt.title, "bold"), f" ({excerpt.facts})"))
    if console.color_system is None or console.no_color:
        console.print(Text(f"+ over {_bound(excerpt, 1)}, - under {_bound(excerpt, -1)}"))
        for line in marked(excerpt):
            console.print(Text(line))
        return
    console.print(legend(excerpt))
    for row in painted(excerpt):
        console.print(row)


def _bound(excerpt: Excerpt, side: int) -> str:
    return f"{excerpt.middle + side * MARKED * excerpt.reach:.2g}"


def legend(excerpt: Excerpt) -> Text:
    """The colours from low to high, with their values at the ends."""
    low, high = (f"{excerpt.middle + side * excerpt.reach:.2g}" for side in (-1, 1))
    bar = [(" ", _style(level / LEVELS)) for level in range(-LEVELS, LEVELS + 1)]
    return Text.assemble(f"{low} ", *bar, f" {high}")


def painted(excerpt: Excerpt) -> Iterator[Text]:
    """Its rows, each character on the colour of the unit's value after it."""
    shades = excerpt.shades
    for begin, end in zip(excerpt.starts, excerpt.starts[1:], strict=False):
        pairs = zip(excerpt.text[begin:end], shades[begin:end], strict=True)
        yield Text.assemble(*((symbol(character), _style(shade)) for character, shade in pairs))


def marked(excerpt: Excerpt) -> Iterator[str]:
    """Its rows, each with a row of + and - under it where the unit is high and low somewhere."""
    shades = excerpt.shades
    for begin, end in zip(excerpt.starts, excerpt.starts[1:], strict=False):
        shown = [symbol(character) for character in excerpt.text[begin:end]]
        marks = ["+" if s > MARKED else "-" if s < -MARKED else " " for s in shades[begin:end]]
        yield "".join(shown)
        under = "".join(mark * cell_len(c) for mark, c in zip(marks, shown, strict=True)).rstrip()
        if under:
            yield under


def symbol(character: str) -> str:
    """What is written for a character: itself, if it can be."""
    return SYMBOLS.get(character) or (character if character.isprintable() else "·")


def _style(shade: float) -> Style:
    """Black on white, or on so much of blue or red."""
    full, part = (HIGH if shade > 0 else LOW), abs(round(shade * LEVELS)) / LEVELS
    red, green, blue = (round(m + part * (f - m)) for m, f in zip(MIDDLE, full, strict=True))
    return Style(color="#000000", bgcolor=f"#{red:02x}{green:02x}{blue:02x}")


def units_page(title: str, subtitle: str, record: Mapping[str, Any], excerpts: Sequence[Excerpt]) -> str:
    """A page of the record of `Units.to_dict`, with the excerpts.

    Args:
        subtitle: what was read.
    """
    best = record["best"]
    untold = [[name, why] for name, why in record["untold"].items()]
    tables: list[page.Table | page.Bars] = []
    if best:
        tables += [
            page.Table(
                "The best unit for each predicate", HOW, [c or "measure" for c in COLUMNS], rows(best)
            ),
            page.Bars(
                "What needs a memory",
                "How much of the way the best unit goes to a perfect score (1), from chance or from what the "
                "last character tells alone (0).",
                "part of the way",
                [s["predicate"] for s in best],
                [max(0.0, s["beyond"]) for s in best],
            ),
        ]
    if untold:
        tables.append(page.Table("Cannot be told from this text", "", ["predicate", "why"], untold))
    drawn = [
        page.Spans(
            e.title,
            f"{e.facts}. Each character has the colour of the unit's value after it was read.",
            [(c, value - e.middle) for c, value in zip(e.text, e.values, strict=True)],
            -e.reach,
            e.reach,
            e.label,
        )
        for e in excerpts
    ]
    sections = [page.Section("Predicates", "", tables)]
    if drawn:
        sections.append(page.Section("The text as units see it", "", drawn))
    return page.page(title, subtitle, _findings(best), sections)


def _findings(best: Sequence[Mapping[str, Any]]) -> list[page.Finding]:
    """What units remember, one by one, and what they do not."""
    found = [
        page.Finding(
            "good",
            f"`{s['name']}` {TELLS[s['memory']]} the predicate {s['predicate']}",
            f"{score_text(s)} on the second half of the text, where the best of all units by chance has "
            f"{s['chance']:.3f} and the last character alone {s['character']:.3f}.",
        )
        for s in best
        if s["memory"] in TELLS
    ]
    for title, named in (
        (
            "Units tell this, but no better than the last character does",
            [s for s in best if s["memory"] == "none" and s["verdict"] != "none"],
        ),
        ("No single unit tells this", [s for s in best if s["verdict"] == "none"]),
    ):
        if named:
            found.append(page.Finding("note", title, ", ".join(s["predicate"] for s in named) + "."))
    return found
