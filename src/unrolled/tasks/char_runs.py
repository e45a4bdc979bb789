"""Runs of character models: start one, go on with one, read the model out of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from unrolled.cells import find
from unrolled.data import Vocabulary, open_text
from unrolled.errors import DataError
from unrolled.tasks import char, sessions, watched
from unrolled.tasks.char import CharModel, CharTask
from unrolled.tasks.char_config import FORMERLY, CharConfig
from unrolled.tasks.sessions import Kind, check_changes, ready, run_name
from unrolled.train import runs
from unrolled.train.checkpoint import Checkpoint
from unrolled.train.runs import Run

KIND: Final = Kind(
    "char",
    "a character model",
    data="text",
    changeable=(
        "steps", "evaluate_every", "sample_every", "save_every", "keep", "sample_length", "temperature",
    ),
    formerly=FORMERLY,
)  # fmt: skip


class Session(watched.Session[CharTask]):
    """A run that is about to train, beside the bits per character of n-gram models on the same split."""


def start(text: str, config: CharConfig, root: Path, name: str | None = None) -> Session:
    """A new run in a folder of its own.

    Args:
        text: the path of a text file, or the name of a data set.
        root: the folder of all runs.
        name: of the run's folder; a number is added where it is taken.

    Raises:
        UnrolledError: whatever is wrong with the text, the settings or the folder.
    """
    task = make(text, config)
    name = name or f"char-{run_name(Path(str(task.source['label'])).stem, config.cell.rpartition(':')[2])}"
    path = Path(text)
    origin = str(path.resolve()) if path.is_file() else text
    return Session(**vars(sessions.begin(KIND, task, root, name, origin)))


def make(text: str, config: CharConfig) -> CharTask:
    """The task of a text file or a data set.

    Raises:
        UnrolledError: whatever is wrong with the text or the settings.
    """
    find(config.cell)  # a misspelt cell is told before a long text is read
    return CharTask(*open_text(text), config)


def resume(path: Path, changes: Mapping[str, Any], text: str | None, warn: Callable[[str], None]) -> Session:
    """A run that goes on after its newest checkpoint.

    Args:
        changes: settings that are to be different, of `CHANGEABLE`.
        text: where the text is now, if it has moved.
        warn: told of a damaged checkpoint that was passed over.

    Raises:
        UnrolledError: no such run, no usable checkpoint, another text, or a setting that cannot change.
    """
    check_changes(KIND, changes)
    run = runs.open_run(path)
    saved = newest(run, warn)
    recorded = run.config
    try:
        _, whole = open_text(text or recorded["text"]["from"])
    except DataError as error:
        raise DataError(f"{error} If the text has moved, give its new path: TEXT --resume {path}") from None
    task, trainer = char.resume(saved, whole, changes)
    ready(run, trainer, task.config)
    return Session(run, task, trainer, recorded["baselines"])


def open_model(path: Path, warn: Callable[[str], None]) -> tuple[CharModel, Vocabulary, Checkpoint]:
    """The model of a run's newest usable checkpoint, ready to be run.

    Raises:
        CheckpointError: there is none; the message says why.
    """
    saved = newest(runs.open_run(path), warn)
    model, vocabulary, _ = char.load(saved)
    return model, vocabulary, saved


def newest(run: Run, warn: Callable[[str], None]) -> Checkpoint:
    """The newest usable checkpoint of a run of a character model; see `unrolled.tasks.sessions.newest`."""
    return sessions.newest(KIND, run, warn)
