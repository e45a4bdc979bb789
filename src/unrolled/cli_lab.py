"""The command about the theory: experiments that measure what lectures claim."""

from __future__ import annotations

import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

import unrolled
from unrolled.cli_time import err, out
from unrolled.errors import InputError
from unrolled.lab import EXPERIMENTS, Experiment, Outcome, find
from unrolled.lab.pages import lab_page, said, wanted
from unrolled.report.scales import number
from unrolled.train.files import JSON, encode_json, write_atomically

COLOURS: Final = {"holds": "green", "holds if": "blue", "fails": "yellow"}


def lab_command(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME|all]", help="an experiment, or all of them [list them]")
    ] = None,
    seed: Annotated[int, typer.Option(help="of all random numbers")] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="the page [lab.html, or lab-NAME.html]")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="open the page in a browser")] = False,
) -> None:
    """Measure what lectures claim about gradients and memory: numbers beside closed forms, and a verdict.

    Several claims are false as they are stated: an experiment passes when it finds what is known of its
    claim. Writes one page of numbers and figures, and a record beside it. Status 1 says that a verdict was
    not reproduced.
    """
    if name is None:
        _list()
        return
    if output is not None and (not output.name or output.is_dir()):
        raise InputError(f"--output {str(output)!r} is no file: give one, such as lab.html")
    chosen = [*EXPERIMENTS.values()] if name == "all" else [find(name)]
    page = output or Path("lab.html" if name == "all" else f"lab-{name}.html")
    if not page.parent.is_dir():
        raise InputError(f"there is no folder {str(page.parent)!r} to write {page.name} to")
    outcomes = _run(chosen, seed)
    record = page.with_suffix(".json")
    body: dict[str, JSON] = {
        "version": unrolled.__version__,
        "seed": seed,
        "experiments": [each.to_dict() for each in outcomes],
    }
    write_atomically(page, lab_page(outcomes, unrolled.__version__).encode())
    write_atomically(record, encode_json(body, "lab", indent=1))
    out.print(f"\nrecord: {record}\npage: {page}", markup=False)
    if show:
        webbrowser.open(page.resolve().as_uri())
    wrong = [each for each in outcomes if not each.reproduced]
    for each in wrong:
        err.print(f"unrolled: {each.complaint}", markup=False)
    if left := [each.name for each in chosen[len(outcomes) :]]:
        err.print(f"unrolled: interrupted, and not done: {', '.join(left)}", markup=False)
        raise typer.Exit(130)
    if wrong:
        raise typer.Exit(1)


def _list() -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("experiment", "lecture", "claim", "verdict"):
        table.add_column(column, no_wrap=column in ("experiment", "verdict"))
    for each in EXPERIMENTS.values():
        kind = each.verdict.kind
        table.add_row(each.name, " ".join(each.lectures), each.claim, Text(kind, style=COLOURS[kind]))
    Console(highlight=False).print(table)
    out.print("\n`unrolled lab NAME` measures one, `unrolled lab all` every one.")


def _run(chosen: Sequence[Experiment], seed: int) -> list[Outcome]:
    """Run them one after another, and say of each what came out. Ctrl-C keeps those that are done."""
    outcomes: list[Outcome] = []
    for each in chosen:
        try:
            with err.status(f"{each.name}: {each.title}"):
                outcomes.append(each.run(seed))
        except KeyboardInterrupt:
            if not outcomes:
                raise
            break
        if len(chosen) == 1:
            _tell(outcomes[-1])
        else:
            _line(outcomes[-1], len(outcomes), len(chosen))
    return outcomes


def _line(outcome: Outcome, count: int, of: int) -> None:
    kind = outcome.result.kind
    told = Text(f"{count:>2}/{of}  {outcome.experiment.name:<24} ")
    told.append(
        f"{kind or 'not reproduced':<10}", style=COLOURS[kind] if kind and outcome.reproduced else "red"
    )
    told.append(f" {outcome.seconds:6.1f} s")
    out.print(told)


def _tell(outcome: Outcome) -> None:
    """The claim, its numbers and the verdict."""
    known = outcome.experiment
    out.print(f"{known.title}\n\nClaim ({', '.join(known.lectures)}): {known.claim}", markup=False)
    out.print(f"Tested: {known.statement}\n", markup=False)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("", "measured", "expected", ""):
        table.add_column(column, justify="right" if column == "measured" else "left")
    for each in outcome.result.numbers:
        style = "" if each.as_known else "red"
        cells = each.name, number(each.measured, 6), wanted(each, 6), said(each)
        table.add_row(*(Text(cell, style=style) for cell in cells))
    Console(highlight=False).print(table)
    verdict = Text("\nVerdict: ")
    if outcome.reproduced:
        verdict.append(str(known.verdict), style=COLOURS[known.verdict.kind])
    else:
        verdict.append("not reproduced", style="red")
    out.print(verdict)
    out.print(outcome.result.words, markup=False)
