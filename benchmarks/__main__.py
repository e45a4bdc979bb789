"""Measure, print, and write the table and the figure: `python -m benchmarks`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from benchmarks import results, table
from benchmarks.families import FAMILIES
from benchmarks.family import Record, Settings
from benchmarks.figure import draw
from benchmarks.results import Section

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
README = HERE.parent / "README.md"

ALONE = {"long_memory"}
"""Families that have a picture of their own besides."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="families:\n" + "\n".join(f"  {n:<20}{family.title}" for n, family in FAMILIES.items()),
    )
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="what to measure [everything]")
    parser.add_argument("--rounds", type=int, help="timed turns of each case, at least [10; with --quick 3]")
    parser.add_argument("--threads", type=int, default=2, help="torch threads [2]")
    parser.add_argument("--quick", action="store_true", help="only a look at small cases; nothing is written")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where the records, the table and the figure go"
    )
    parser.add_argument(
        "--redraw", action="store_true", help="write table and figure again, without measuring"
    )
    chosen = parser.parse_args(arguments)
    if unknown := [name for name in chosen.families if name not in FAMILIES]:
        parser.error(f"no family {unknown[0]!r}; there are {', '.join(FAMILIES)}")
    rounds = chosen.rounds if chosen.rounds is not None else 3 if chosen.quick else 10
    if rounds < 1 or chosen.threads < 1:
        parser.error("--rounds and --threads must be at least 1")
    out: Path | None = chosen.out
    records = (out or HERE) / "results.json"
    if chosen.redraw:
        if not records.exists():
            parser.error(f"there are no results in {records}")
        write(results.load(records), out)
        return 0
    settings = Settings(rounds, chosen.threads, chosen.quick)
    torch.set_num_threads(settings.threads)
    if hasattr(os, "getloadavg") and os.getloadavg()[0] > 0.5:
        print(f"this machine is busy (load {os.getloadavg()[0]:.1f}): figures will be off", file=sys.stderr)
    print(results.conditions(settings))
    refused = False
    for name in chosen.families or FAMILIES:
        section = Section(results.conditions(settings), measure(name, settings))
        refused |= any(record.refused for record in section.records)
        if out or not settings.quick:
            if out:
                out.mkdir(parents=True, exist_ok=True)
            sections = results.load(records) | {name: section}
            results.save(records, {n: sections[n] for n in FAMILIES if n in sections})
    if out or not settings.quick:
        write(results.load(records), out)
    return int(refused)


def measure(name: str, settings: Settings) -> tuple[Record, ...]:
    """The records of a family, each printed as soon as it is there."""
    family = FAMILIES[name]
    print(f"\n{name}: {family.title}" + (f", in {family.unit}" if family.unit else ""))
    print(table.line((*table.HEAD[:4], "figure" if family.unit else "ratio", *table.HEAD[5:])))
    found = []
    for record in family.measure(settings):
        found.append(record)
        print(table.line(table.row(family, record)), flush=True)
    for subject, mean in family.means(found).items():
        print(table.line(table.mean_row(family, subject, mean)), flush=True)
    return tuple(found)


def write(sections: Mapping[str, Section], out: Path | None) -> None:
    """The table and the figure; without `out`, where the repository has them."""
    picture = (out or DOCS) / "benchmarks.svg"
    text = (out or HERE) / "results.md"
    picture.write_bytes(draw(FAMILIES, sections))
    text.write_text(table.markdown(FAMILIES, sections, os.path.relpath(picture, text.parent)))
    for name in ALONE & sections.keys():
        (picture.parent / f"{name}.svg").write_bytes(draw(FAMILIES, {name: sections[name]}))
    print(f"\n{text}\n{picture}")
    if out is None:
        README.write_text(table.in_readme(README.read_text(), FAMILIES, sections))


if __name__ == "__main__":
    sys.exit(main())
