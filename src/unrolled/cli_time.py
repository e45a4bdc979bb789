"""The commands about gradients through time: what an exact one takes, and what truncation loses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from unrolled import data
from unrolled.tasks import char_plan, char_runs
from unrolled.tasks.char_config import CharConfig
from unrolled.train import runs
from unrolled.train.files import encode_json, write_atomically
from unrolled.unroll import Checkpointed
from unrolled.unroll.planner import duration
from unrolled.unroll.policies import amount
from unrolled.unroll.truncation import ALL

out = Console(highlight=False, soft_wrap=True, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def warn(message: str) -> None:
    """Say something on standard error, and go on."""
    err.print(f"warning: {message}", markup=False)


def plan_command(
    memory: Annotated[str, typer.Option(help="what it may take, as in 200MB, besides the weights")],
    cell: Annotated[str, typer.Option(help="a cell, as in 'lstm(peepholes=vector)'")] = "lstm",
    hidden: Annotated[int, typer.Option(help="units in each layer (H)")] = 256,
    layers: Annotated[int, typer.Option(help="layers, one above the other")] = 1,
    batch: Annotated[int, typer.Option(help="sequences side by side (B)")] = 32,
    steps: Annotated[int, typer.Option(help="steps of a sequence (T)")] = 10_000,
    vocabulary: Annotated[int, typer.Option(help="characters there are (V)")] = 80,
    segment: Annotated[
        int | None, typer.Option(help="steps that are run at once [the fastest of some]")
    ] = None,
    disk: Annotated[str | None, typer.Option(help="room for stored states in a file, as in 10GB")] = None,
) -> None:
    """Say what the exact gradient of a character model takes, in memory and time, before it is trained."""
    policy = Checkpointed(memory=memory, disk=disk)
    config = CharConfig(cell=cell, hidden=hidden, layers=layers, batch=batch)
    found = char_plan.plans(config, steps, vocabulary, policy, segment)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("steps a segment", "stored states", "tapes at once", "run again", "memory", "time"):
        table.add_column(column, justify="right")
    for length, each in found.items():
        schedule = each.planned.schedule
        taped = max(taped for _, taped in schedule.loads) * each.planned.group
        again = f"{each.passes / each.planned.segments:.2f}"
        row = (length, schedule.stored, taped, again, amount(each.memory), duration(each.seconds))
        table.add_row(*map(str, row))
    Console(highlight=False).print(table)
    length, best = min(found.items(), key=lambda pair: pair[1].seconds)
    out.print(f"\nfastest, segments of {length} steps:\n{best}", markup=False)


RunArgument = Annotated[
    Path, typer.Argument(metavar="RUN", help="the folder of a run, or its name under runs/")
]


def truncation_command(
    path: RunArgument,
    text: Annotated[
        str | None, typer.Argument(help="a text file, or a data set's name [the run's own text]")
    ] = None,
    steps: Annotated[int, typer.Option(help="how far the exact gradient goes back (T)")] = 1000,
    batch: Annotated[int, typer.Option(help="streams of the text (B)")] = 16,
    k1: Annotated[
        int | None, typer.Option(help="a gradient after every so many steps [as far as it reaches]")
    ] = None,
    memory: Annotated[str, typer.Option(help="what the exact gradient may take")] = "1GB",
) -> None:
    """Compare truncated gradients of a trained model with the exact one, as they reach further back."""
    run = runs.open_run(path)
    model, vocabulary, _ = char_runs.open_model(path, warn)
    label, characters = data.open_text(text or run.config["text"]["from"])
    losses = char_plan.lost(
        model, characters.encode(vocabulary), batch, steps, k1, Checkpointed(memory=memory)
    )
    whole = [record for record in losses if record["parameter"] == ALL]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("reaches back", "cosine", "ratio of norms", "least cosine of a parameter"):
        table.add_column(column, justify="left" if column.startswith("least") else "right")
    for record in whole:
        each = [r for r in losses if r["k2"] == record["k2"] and r["cosine"] is not None]
        least = min((r for r in each if r["parameter"] != ALL), key=lambda r: float(r["cosine"]))
        table.add_row(
            str(record["k2"]),
            f"{record['cosine']:.4f}",
            f"{record['norm_ratio']:.4f}",
            f"{least['cosine']:.4f} {least['parameter']}",
        )
    title = f"{path.name} on {label}: {steps} steps, {batch} streams"
    out.print(f"{title}\n", markup=False)
    Console(highlight=False).print(table)
    record_path = run.path / "truncation.json"
    write_atomically(record_path, encode_json(losses, "truncation", indent=1))
    out.print(f"\nrecord: {record_path}", markup=False)
    try:
        from unrolled.report.figures import truncation_figure
    except ModuleNotFoundError:
        warn("no figure: pip install 'unrolled[figures]'")
        return
    picture = run.path / "truncation.png"
    write_atomically(picture, truncation_figure(losses, ALL, title))
    out.print(f"figure: {picture}", markup=False)
