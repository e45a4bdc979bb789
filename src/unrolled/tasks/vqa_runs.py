"""Runs of networks that answer questions about pictures: start one, go on with one, ask one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from unrolled.data.images import fit, read_image
from unrolled.data.subwords import Subwords
from unrolled.errors import CellError, CheckpointError, DataError, InputError
from unrolled.tasks import sessions, watched
from unrolled.tasks.maps import Looker, Say, efficientnet
from unrolled.tasks.sessions import Kind, cell_from_json, run_name
from unrolled.tasks.settings import as_settings
from unrolled.tasks.vqa import VqaTask, as_maps, likeliest, network, prepare
from unrolled.tasks.vqa_answers import Choices, Ways, checked_choices, ways_from_json
from unrolled.tasks.vqa_config import VqaConfig
from unrolled.tasks.vqa_files import Files
from unrolled.tasks.vqa_network import Answerer, Batch
from unrolled.tasks.vqa_questions import Texts, checked_question, said
from unrolled.tasks.vqa_scores import Scores
from unrolled.train import runs
from unrolled.train.checkpoint import Checkpoint
from unrolled.train.files import JSON
from unrolled.train.loop import restore_model
from unrolled.train.runs import Run

READ: Final = 256
"""Pixels of the longer side of a picture that is read from a file, unless more are looked at."""

KIND: Final = Kind(
    "vqa",
    "a network that answers questions about pictures",
    data="questions",
    origin="files",
    is_baseline=lambda value: isinstance(value, dict) and set(value) == {"every", "kinds"},
)


class Session(watched.Session[VqaTask]):
    """A run that is about to train, beside what is reached without looking at pictures."""


def start(
    files: Files,
    config: VqaConfig,
    root: Path,
    name: str | None = None,
    skip_broken: bool = False,
    say: Say | None = None,
) -> Session:
    """A new run in a folder of its own.

    Args:
        root: the folder of all runs.
        name: of the run's folder; a number is added where it is taken.
        skip_broken: leave out what cannot be used, see `unrolled.data.questions.read_vqa`.
        say: told what takes long.

    Raises:
        UnrolledError: whatever is wrong with the questions, the pictures, the settings or the folder.
    """
    task = make(files, config, skip_broken, say)
    if say is not None and config.baseline_steps:
        say(f"training the same network without pictures, to compare: {config.baseline_steps:,} steps")
    name = name or f"vqa-{run_name(config.cell.rpartition(':')[2])}"
    origin: dict[str, JSON] = {**files.to_json(), "skip_broken": skip_broken}
    return Session(**vars(sessions.begin(KIND, task, root, name, origin)))


def make(files: Files, config: VqaConfig, skip_broken: bool = False, say: Say | None = None) -> VqaTask:
    """The task of these questions; see `start`."""
    train, test = files.read(max(READ, config.size), skip_broken)
    parts = [part for part in (train, test) if part is not None]
    for name, skipped in dict.fromkeys((part.name.partition(",")[0], part.skipped) for part in parts):
        if skipped and say is not None:  # parts of one file tell the same
            first = "; ".join(skipped[:3]) + ("; …" if len(skipped) > 3 else "")
            say(f"{name}: {len(skipped):,} left out: {first}")
    return VqaTask(prepare(train, config, test, say), config)


def resume(
    path: Path,
    changes: Mapping[str, Any],
    files: Files | None,
    warn: Callable[[str], None],
    say: Say | None = None,
) -> Session:
    """A run that goes on after its newest checkpoint.

    Args:
        changes: settings that are to be different, of those that may change.
        files: where the questions and pictures are now, if they have moved.
        warn: told of a damaged checkpoint that was passed over.
        say: told what takes long.

    Raises:
        UnrolledError: no such run, no usable checkpoint, other questions, or a setting that cannot change.
    """

    def again(recorded: dict[str, Any], settings: dict[str, Any]) -> VqaTask:
        return _again(recorded, settings, files, say)

    return Session(**vars(sessions.go_on(KIND, path, changes, warn, again, Scores.from_json)))


def as_it_was(run: Run, warn: Callable[[str], None]) -> tuple[VqaTask, Checkpoint]:
    """The task of a run with the network of its newest usable checkpoint.

    Raises:
        UnrolledError: there is none, or its questions are gone.
    """
    saved = sessions.newest(KIND, run, warn)
    task = _again(run.config[KIND.data], as_settings(saved.facts["config"]), None, None)
    sessions.check_same(KIND, task.source, run.config[KIND.data])
    restore_model(task.model, saved)
    return task, saved


def _again(
    recorded: Mapping[str, Any], settings: dict[str, Any], files: Files | None, say: Say | None
) -> VqaTask:
    origin = dict(recorded[KIND.origin])
    skip_broken = bool(origin.pop("skip_broken"))
    try:
        return make(files or Files.from_json(origin), VqaConfig(**settings), skip_broken, say)
    except DataError as error:
        raise DataError(
            f"{error} If the files have moved, say with --resume where they are now: --questions, "
            "--annotations and --images."
        ) from None


@dataclass(frozen=True, eq=False)
class Opened:
    """A network read out of a run, ready to be asked.

    Attributes:
        looker: what looks at pictures before it, if it does not do so itself.
    """

    model: Answerer
    config: VqaConfig
    vocabulary: Subwords
    ways: Ways
    looker: Looker | None
    run: Run


@dataclass(frozen=True, eq=False)
class Answered:
    """What was answered to a question about a picture.

    Attributes:
        question: its words, as they were read.
        answers: with their probabilities, the likeliest first.
        picture: bytes (3, S, S), in the middle of a square, as it was looked at.
        weights: where was looked (G, h, w), in each glimpse.
    """

    question: str
    answers: tuple[tuple[str, float], ...]
    picture: Tensor
    weights: Tensor


def open_model(path: Path, warn: Callable[[str], None]) -> Opened:
    """The network of a run's newest usable checkpoint. The cell comes from its stored graph: no code is run.

    Raises:
        CheckpointError: there is none; the message says why.
        DataError: weights that it needs besides were not fetched.
    """
    run = runs.open_run(path)
    saved = sessions.newest(KIND, run, warn)
    try:
        facts = saved.facts
        config = VqaConfig(**as_settings(facts["config"]))
        vocabulary = Subwords.from_json(facts["vocabulary"])
        ways = ways_from_json(config.answers, facts["ways"])
        cell = cell_from_json(facts["cell"])
    except (KeyError, TypeError, CellError, DataError, InputError) as error:
        raise CheckpointError(f"{saved.path} is not a checkpoint of {KIND.what}: {error}") from error
    small = config.encoder == "small"
    spread = (torch.zeros(3), torch.ones(3)) if small else None
    model = network(config, cell, len(vocabulary), ways, spread)
    restore_model(model, saved)
    return Opened(model.eval(), config, vocabulary, ways, None if small else efficientnet(), run)


def ask(opened: Opened, image: Path, question: str, choices: Sequence[str] = (), best: int = 5) -> Answered:
    """Ask a question about a picture.

    Args:
        choices: to choose among, of a run that does so.
        best: how many of the likeliest answers to give.

    Raises:
        InputError: the question has no words, or some that were never seen in training; or choices are
            missing, or none are wanted.
        DataError: the picture cannot be read.
    """
    text = checked_question(question, opened.vocabulary)
    among = isinstance(opened.ways, Choices)
    if choices and not among:
        raise InputError("this run gives answers of its own: leave out --choice")
    given = checked_choices(choices) if among else ()
    for choice in given:
        checked_question(choice, opened.vocabulary)
    size = opened.config.size if opened.looker is None else opened.looker.size
    picture = read_image(image, max(READ, size))
    square = fit(picture, size)[None]
    texts = Texts.of([text, *map(said, given)], opened.vocabulary)
    chosen = torch.arange(1, 1 + len(given))[None] if among else None
    pictures = square if opened.looker is None else opened.looker(square).float()
    batch = Batch(pictures, texts, torch.zeros(1, 1, dtype=torch.int64), chosen)
    with torch.no_grad():
        seen = opened.model(batch)
        (answers,) = likeliest(opened.model, seen, batch, [given] if among else None, best)
    assert seen.weights is not None
    return Answered(text, answers, fit(picture, max(READ, size)), as_maps(seen.weights[:, 0]))
