"""The commands about gradient flow: the verdict on a trained model with a page of figures, and models beside
each other."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from unrolled import data
from unrolled.cli_time import RunArgument, err, out, warn
from unrolled.errors import InputError
from unrolled.flow.compare import compare
from unrolled.flow.monitor import Monitor
from unrolled.flow.reports import report
from unrolled.tasks import char_runs
from unrolled.tasks.char_plan import first_chunk
from unrolled.tasks.char_time import losses_of
from unrolled.tasks.subjects import subject_of
from unrolled.train import runs
from unrolled.train.files import encode_json, write_atomically


def flow_command(
    path: RunArgument,
    text: Annotated[
        str | None,
        typer.Argument(help="of a character model, a text file or a data set's name [the run's own text]"),
    ] = None,
    steps: Annotated[int, typer.Option(help="steps of a sequence (T), at most")] = 200,
    batch: Annotated[int, typer.Option(help="sequences side by side (B)")] = 8,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="the page [RUN/flow.html]")] = None,
    show: Annotated[bool, typer.Option("--show", help="open the page in a browser")] = False,
) -> None:
    """See where the gradient of a trained model dies, at which lag, in which gate, and what to do.

    RUN is one of a character model, of labels, of a translator, a captioner, of answers to questions about
    pictures, or of digits through depth. Prints the verdict and writes one page of figures that opens without
    a network. Ctrl-C ends the longest measurements and keeps what is done.
    """
    if output is not None and (not output.name or output.is_dir()):
        raise InputError(f"--output {str(output)!r} is no file: give one, such as flow.html")
    run = runs.open_run(path)
    subject = subject_of(run, text, steps, batch, warn)
    log = run.path / "flow.jsonl"
    history = [*run.metrics(), *(Monitor.read(log) if log.exists() else ())]
    title = f"Gradient flow of {path.name}"
    with err.status("") as status:
        found = report(
            subject.model,
            subject.batch,
            losses=subject.losses,
            history=history,
            clip=run.config["config"].get("clip_norm") or None,
            bptt=subject.bptt,
            title=title,
            subtitle=subject.says,
            say=lambda what: status.update(what),
        )
    out.print(f"{title}: {subject.says}\n", markup=False)
    out.print(found.diagnosis.summary(), markup=False)
    for each in found.untold:
        warn(each)
    page = output or run.path / "flow.html"
    record = run.path / "flow.json"
    write_atomically(page, found.html().encode())
    write_atomically(record, encode_json(found.to_dict(), "flow"))
    out.print(f"\nrecord: {record}\npage: {page}", markup=False)
    if show:
        webbrowser.open(page.resolve().as_uri())


def compare_command(
    paths: Annotated[list[Path], typer.Argument(metavar="RUN...", help="the folders of two runs or more")],
    text: Annotated[
        str | None, typer.Option(help="a text file, or a data set's name [the first run's own]")
    ] = None,
    steps: Annotated[int, typer.Option(help="steps of a sequence (T)")] = 100,
    batch: Annotated[int, typer.Option(help="sequences side by side (B)")] = 8,
    layer: Annotated[str | None, typer.Option(help="which layer, as in layer.l1 [the first]")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="the figure [FIRST RUN/compare.png]")
    ] = None,
) -> None:
    """See how far back the gradients of trained models reach, and what their steps do, beside each other.

    So one sees what a norm, an initialiser or another cell does to the gradient.
    """
    if output is not None and (not output.name or output.is_dir()):
        raise InputError(f"--output {str(output)!r} is no file: give one, such as compare.png")
    if len({*paths}) < 2:
        raise InputError("compare takes two runs or more: unrolled compare RUN RUN")
    opened = {str(path): char_runs.open_model(path, warn) for path in paths}
    vocabulary = opened[str(paths[0])][1]
    for name, (_, other, _) in opened.items():
        if other.symbols != vocabulary.symbols:
            raise InputError(f"{name} has other characters than {paths[0]}: compare runs of one text")
    run = runs.open_run(paths[0])
    label, characters = data.open_text(text or run.config["text"]["from"])
    chunk = first_chunk(characters.encode(vocabulary), batch, steps)
    found = compare({name: each[0] for name, each in opened.items()}, chunk, losses_of, place=layer)
    out.print(f"on {batch} sequences of {steps} characters of {label}", markup=False)
    out.print(found.summary(), markup=False)
    figure = output or run.path / "compare.png"
    record = figure.with_suffix(".json")
    write_atomically(record, encode_json(found.to_dict(), "compare"))
    out.print(f"\nrecord: {record}", markup=False)
    try:
        picture = found.png()
    except InputError as error:  # no matplotlib
        warn(str(error))
        return
    write_atomically(figure, picture)
    out.print(f"figure: {figure}", markup=False)
