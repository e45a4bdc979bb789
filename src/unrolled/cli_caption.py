"""The commands of captions: train a captioner, and let it say what is on pictures."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer
from torch import Tensor

from unrolled.cli_settings import with_settings
from unrolled.cli_time import RunArgument, err, out, warn
from unrolled.cli_training import MONITOR, RESUME, Common, carry_out, parameters_of, say_dry_run
from unrolled.data.images import fit
from unrolled.errors import DataError, InputError
from unrolled.report.captions import CaptionObserver, Looked, caption_page
from unrolled.tasks import caption_runs
from unrolled.tasks.caption import ALONE, CaptionTask, best
from unrolled.tasks.caption_config import CaptionConfig
from unrolled.tasks.caption_data import Origin
from unrolled.tasks.caption_runs import Opened, Session
from unrolled.tasks.caption_scores import Focus, Scores, Written
from unrolled.train.decoding import Decoding
from unrolled.train.files import write_atomically

SHOWN: Final = 6
"""The best and the worst captions on a page, so many of each."""

SIDE: Final = 224
"""Pixels of a picture that is shown."""

ROWS: Final = 40
"""Pictures on a sheet of overlays, at most."""


def train_caption(data: str | None, captions: Path | None, skip_broken: bool, **settings: Any) -> int:
    """Train a captioner on pictures with captions, or go on with a run.

    PICTURES is a data set (stamps), or a folder, with --captions JSON in the format of COCO's captions.
    Beside BLEU, CIDEr-D and how often the noun is right, on pictures that are held out, stand those of the
    commonest caption and of the caption of the most similar picture.
    """
    common = Common.taken_from(settings)
    origin = None if data is None and captions is None else _origin(data, captions, skip_broken)
    with err.status("") as status:
        if common.resume is not None:
            session = caption_runs.resume(common.resume, settings, origin, warn, say=status.update)
        else:
            origin, config = origin or Origin(), CaptionConfig(**settings)
            if common.dry_run:
                task = caption_runs.make(origin, config, say=status.update)
                status.stop()
                return say_dry_run(task)
            session = caption_runs.start(origin, config, common.runs, common.name, say=status.update)
    _say_sizes(session)
    title = f"{session.task.title} on {session.task.source['label']}"

    def figure() -> tuple[str, bytes]:
        from unrolled.report.overlays import overlay_sheet

        written = caption_runs.written_of(session.run) or session.task.written(most=SHOWN)
        some = written[:: max(1, len(written) // SHOWN)][:SHOWN]
        return "captions.png", overlay_sheet([_of_task(session.task, each) for each in some])

    return carry_out(
        session,
        "caption",
        common,
        [CaptionObserver(out, {name: each.noun.share for name, each in session.baselines.items()})],
        figure,
        lambda: _done(session, title),
        session.monitor,
    )


def _origin(data: str | None, captions: Path | None, skip_broken: bool) -> Origin:
    """Where pictures come from: a word is a folder if there is one, or if captions are given."""
    if data is not None and (captions is not None or Path(data).is_dir()):
        return Origin(None, Path(data), captions, skip_broken)
    return Origin(data, None, captions, skip_broken)


def _say_sizes(session: Session) -> None:
    task, data = session.task, session.task.data
    title = f"{task.title} on {task.source['label']}"
    out.print(f"{session.run.path}: {title}, {parameters_of(task)}", markup=False)
    moved = f" ({data.moved} more than asked, which look nearly as another)" if data.moved else ""
    out.print(
        f"{len(data.train):,} pictures to learn from, {len(data.test):,} held out{moved}, "
        f"{len(data.vocabulary):,} words",
        markup=False,
    )
    if data.whole.skipped:
        out.print(f"left out: {', '.join(data.whole.skipped)}", markup=False)
    out.print("held-out pictures without a network that writes:", markup=False)
    for name, found in session.baselines.items():
        out.print(f"    {name:<18} {found}", markup=False)


def looked(square: Tensor, each: Written, side: tuple[int, int] | None, below: str = "") -> Looked:
    """A row of a sheet of overlays.

    Args:
        square: the picture, (3, size, size) of bytes.
        side: height and width of the map of places; None where the picture enters as a whole.
    """
    texts, weights = each.by_word()
    maps = None
    if weights is not None and side is not None:
        maps = weights.view(-1, *side).double().numpy()
    return Looked(
        square.permute(1, 2, 0).numpy(),
        texts if maps is not None else [],
        maps,
        each.caption or "(nothing)",
        below,
    )


def _of_task(task: CaptionTask, each: Written) -> Looked:
    square = fit(task.data.whole.images[each.place], SIDE)
    people = task.data.references([each.place])[0][0]
    return looked(square, each, task.data.side, f"people: {people}")


def _done(session: Session, title: str) -> str:
    """Write what a finished run has to show; returns what to say."""
    task, run = session.task, session.run
    written, metrics = caption_runs.written_of(run), run.metrics()
    ranked = sorted(written, key=lambda each: (-each.cider, each.place))
    page = caption_page(
        title,
        f"{len(task.data.train):,} pictures to learn from, {len(task.data.test):,} held out; "
        f"{session.trainer.step:,} steps.",
        metrics,
        {name: asdict(each) for name, each in session.baselines.items()},
        {
            "The best captions": _pictures(task, ranked[:SHOWN]),
            "The worst captions": _pictures(task, ranked[::-1][:SHOWN]),
        },
        session.flow().part(),
        f"`unrolled train caption`, {run.path}.",
    )
    write_atomically(run.path / "report.html", page.encode())
    out.print(f"page: {run.path / 'report.html'}", markup=False)
    told = next(record["at_the_end"] for record in reversed(metrics) if "at_the_end" in record)
    scores, alone = (Scores.from_json(**told[name]) for name in ("scores", "alone"))
    beside = f"\n    the network alone: {alone}" if task.config.neighbours else ""
    if told["focus"]:
        beside += f"\n    {Focus(**told['focus'])}"
    return (
        f"done. Held-out pictures, a beam of 5: {scores}{beside}\nTo caption pictures: unrolled caption "
        f"{run.path} PICTURE..."
    )


def _pictures(task: CaptionTask, some: Sequence[Written]) -> list[tuple[bytes, str, str]]:
    try:
        from unrolled.report.overlays import overlay_sheet
    except ModuleNotFoundError:
        return []
    found = []
    for each in some:
        people = "; ".join(task.data.references([each.place])[0])
        heading = f"{each.caption or '(nothing)'} (CIDEr-D {each.cider:.2f})"
        found.append((overlay_sheet([_of_task(task, each)]), heading, f"People wrote: {people}"))
    return found


def caption(
    path: Path,
    pictures: list[Path],
    output: Path | None,
    overlays: bool,
    alone: bool,
    seed: int,
    **settings: Any,
) -> int:
    """Say what is on pictures, one line each, and draw where was looked for each word.

    A beam of 5 writes, if nothing else is said; --beam 1 takes the likeliest word each time. Pictures may be
    of any kind that Pillow reads; one that cannot be read is told, and the others are captioned.
    """
    opened = caption_runs.open_model(path, warn)
    if alone and not opened.config.neighbours:
        raise InputError("--alone is for runs whose captions have a share of similar pictures' captions")
    options = _options(settings, ALONE if alone else best(opened.config))
    if not 0 <= seed < 2**63:
        raise InputError(f"--seed must be between 0 and 2^63 - 1, got {seed}")
    if output is not None and (not output.name or output.is_dir()):
        raise InputError(f"--output {str(output)!r} is no file: give one, such as captions.png")
    squares, broken = {}, []
    for picture in pictures:
        try:
            squares[picture] = opened.square(picture)
        except DataError as error:
            broken.append(str(error))
    for problem in broken:
        warn(problem)
    if not squares:
        raise InputError("none of the pictures can be read")
    generator = torch.Generator().manual_seed(seed)
    given = torch.stack([*squares.values()])
    written = opened.caption(given, options, generator, alone=alone)
    for picture, each in zip(squares, written, strict=True):
        sys.stdout.write(f"{picture}\t{each.caption}\t{each.log_probability:.3f}\n")
    if overlays:
        _draw(opened, squares, written, output)
    return 2 if broken else 0


def _options(settings: Mapping[str, Any], usual: Decoding) -> Decoding:
    given = {name: value for name, value in settings.items() if value is not None}
    if not given.keys() & {"beam", "temperature", "top_k", "top_p"}:
        given = {"beam": usual.beam, "length_penalty": usual.length_penalty} | given
    if given.get("beam") == 1 and not given.keys() & {"length_penalty", "coverage_penalty"}:
        del given["beam"]
    return Decoding(**{"max_length": usual.max_length} | given)


def _draw(
    opened: Opened, squares: Mapping[Path, Tensor], written: Sequence[Written], output: Path | None
) -> None:
    if not opened.config.places:
        warn("no overlays: in this run the picture enters as a whole, not by its places")
        return
    try:
        from unrolled.report.overlays import overlay_sheet
    except ModuleNotFoundError:
        warn("no overlays: pip install 'unrolled[figures]'")
        return
    rows = [
        looked(square, each, opened.side, path.name)
        for (path, square), each in zip([*squares.items()][:ROWS], written, strict=False)
    ]
    figure = output or opened.run.path / "overlays.png"
    write_atomically(figure, overlay_sheet(rows))
    more = f" (the first {ROWS} pictures)" if len(squares) > ROWS else ""
    out.print(f"overlays: {figure}{more}", markup=False)


def _path(what: str) -> tuple[Any, None]:
    return Annotated[Path | None, typer.Option(help=what)], None


train_caption_command = with_settings(
    train_caption,
    CaptionConfig,
    {
        "data": (
            Annotated[str | None, typer.Argument(metavar="PICTURES", help="stamps, or a folder of pictures")],
            None,
        ),
        "captions": _path("a JSON file in the format of COCO's captions, of the pictures of the folder"),
        "skip_broken": (
            Annotated[
                bool,
                typer.Option(
                    "--skip-broken", help="leave out pictures that are missing or broken or have no caption"
                ),
            ],
            False,
        ),
        **RESUME,
        **MONITOR,
    },
)
caption_command = with_settings(
    caption,
    Decoding,
    {
        "path": (RunArgument, inspect.Parameter.empty),
        "pictures": (
            Annotated[list[Path], typer.Argument(metavar="PICTURE...", help="files of pictures")],
            inspect.Parameter.empty,
        ),
        "output": (
            Annotated[
                Path | None,
                typer.Option("--output", "-o", help="the sheet of overlays [RUN/overlays.png]"),
            ],
            None,
        ),
        "overlays": (
            Annotated[bool, typer.Option("--overlays/--no-overlays", help="draw where was looked")],
            True,
        ),
        "alone": (
            Annotated[
                bool, typer.Option("--alone", help="by the network, without captions of similar pictures")
            ],
            False,
        ),
        "seed": (Annotated[int, typer.Option(help="of words that are drawn")], 0),
    },
)
