"""The command about units: what single ones stand for, and a text in their colours."""

from __future__ import annotations

from typing import Annotated

import torch
import typer
from rich.console import Console
from torch import Tensor

from unrolled import data
from unrolled.cli_time import RunArgument, out, warn
from unrolled.data import EncodedText
from unrolled.errors import InputError
from unrolled.report.units import HOW, Excerpt, show, units_page, units_table
from unrolled.tasks import char_runs
from unrolled.tasks.predicates import Predicate, most_varied, predicates, read_predicates, rows_of
from unrolled.tasks.units import LEAST, States, Unit, Units, score
from unrolled.train import runs
from unrolled.train.files import encode_json, write_atomically

WIDTH = 78
"""Characters in a row of an excerpt."""


def units_command(
    path: RunArgument,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="a text file, or a data set's name")],
    characters: Annotated[int, typer.Option(help="read at most so many, from the beginning")] = 100_000,
    predicate: Annotated[
        list[str] | None,
        typer.Option(help=r"one more, NAME=REGEX, as in 'speaker=^\w+:'; may be given again"),
    ] = None,
    top: Annotated[int, typer.Option(help="how many units are drawn")] = 3,
) -> None:
    """Say which single units tell the position in a line, an open quotation and the like, and draw them.

    Every unit is scored on the second half of the text, beside what is found by chance.
    """
    if top < 1:
        raise InputError(f"--top must be at least 1, got {top}")
    if characters < LEAST:
        raise InputError(
            f"--characters must be at least {LEAST}, as many as units need to be told from chance, "
            f"got {characters}"
        )
    more = read_predicates(predicate or ())
    run = runs.open_run(path)
    model, vocabulary, _ = char_runs.open_model(path, warn)
    label, whole = data.open_text(text)
    part = whole.encode(vocabulary)[:characters]
    ids = part.read() if isinstance(part, EncodedText) else part
    read = vocabulary.decode(ids)
    known = predicates(read, more)
    for made in known:
        if made.name in more and not made.values.any():
            warn(f"--predicate {made.name}: {made.what!r} matches nothing in this text")
    states = States(model, ids)
    found = score(states, states.units, known, ids)
    measured = f"the first {len(ids):,} of " if len(ids) < len(whole) else ""
    title = f"{path.name} on {label}: {len(states.units):,} units, {measured}{len(whole):,} characters"
    record = found.to_dict()
    out.print(f"{title}\n", markup=False)
    if record["best"]:
        Console(highlight=False).print(units_table(record["best"]))
    for name, why in found.untold.items():
        out.print(f"{name} cannot be told: {why}", markup=False)
    Console(highlight=False).print(f"\n{HOW}", markup=False)
    drawn = [_excerpt(read, known, states, found, name) for name in _shown(found)[:top]]
    for each in drawn:
        out.print()
        show(out, each)
    record_path, page_path = run.path / "units.json", run.path / "units.html"
    write_atomically(record_path, encode_json(record, "units", indent=1))
    write_atomically(page_path, units_page("What units stand for", title, record, drawn).encode())
    out.print(f"\nrecord: {record_path}\npage: {page_path}", markup=False)


def _shown(found: Units) -> list[str]:
    """Predicates that some unit tells, one for each unit."""
    by_unit: dict[Unit, str] = {}
    for name in found.predicates:
        best = found.best(name)
        if best.verdict != "none":
            by_unit.setdefault(best.of, name)
    return [*by_unit.values()]


def _excerpt(text: str, known: list[Predicate], states: States, found: Units, name: str) -> Excerpt:
    """Rows of the second half of the text in which a predicate varies most, with its best unit's values."""
    best = found.best(name)
    (target,) = (each.values for each in known if each.name == name)
    half = len(text) // 2
    half = text.find("\n", half, half + half // 2) + 1 or half
    begin, end = (half + place for place in most_varied(text[half:], target[half:], width=WIDTH))
    values: Tensor = states([states.units.index(best.of)])[0, begin:end].double()
    low, high = values.quantile(torch.tensor([0.02, 0.98], dtype=torch.float64)).tolist()
    middle = (low + high) / 2 if best.threshold is None else best.threshold
    piece = text[begin:end]
    return Excerpt(
        best.to_dict(),
        piece,
        values.tolist(),
        rows_of(piece, WIDTH),
        middle,
        max(high - middle, middle - low) or 1.0,
    )
