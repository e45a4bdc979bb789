"""Runs of captioners: start one, go on with one, read the model out of one, caption pictures with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from unrolled.cells import find
from unrolled.data.images import fit, read_image
from unrolled.data.subwords import Subwords
from unrolled.errors import CellError, CheckpointError, DataError, InputError
from unrolled.tasks import sessions, watched
from unrolled.tasks.caption import ALONE, CaptionTask, best, captions
from unrolled.tasks.caption_config import CaptionConfig
from unrolled.tasks.caption_data import READ, CaptionData, Given, Origin
from unrolled.tasks.caption_neighbours import Neighbours
from unrolled.tasks.caption_network import Captioner, encoder_of
from unrolled.tasks.caption_scores import Scores, Written
from unrolled.tasks.maps import Looker, Say, efficientnet, roots
from unrolled.tasks.sessions import Kind, cell_from_json, run_name
from unrolled.tasks.settings import CHANGEABLE, as_settings
from unrolled.train import runs
from unrolled.train.checkpoint import Checkpoint
from unrolled.train.decoding import Decoding
from unrolled.train.files import JSON, encode_json, read_bytes, write_atomically
from unrolled.train.loop import restore_model
from unrolled.train.runs import Run

_SCORES: Final = {field.name for field in fields(Scores)}

KIND: Final = Kind(
    "caption",
    "a captioner",
    changeable=(*CHANGEABLE, "evaluate_pictures"),
    is_baseline=lambda value: isinstance(value, dict) and set(value) == _SCORES,
)

WRITTEN: Final = "captions.jsonl"


class Session(watched.Session[CaptionTask]):
    """A run that is about to train, beside what is reached without a network that writes."""

    def finish(self) -> None:
        """Caption all pictures that are held out with a beam; captions are kept beside those of people."""
        task = self.task
        written = task.written(best(task.config), alone=False)
        looked = task.focus(written)
        told: JSON = {
            "scores": asdict(task.scores(written)),
            "alone": asdict(task.scores(task.written(ALONE))),
            "focus": None if looked is None else asdict(looked),
        }
        self.run.log({"step": self.trainer.step, "at_the_end": told})
        people = task.data.references([each.place for each in written])
        items = task.data.whole.items
        lines = [
            encode_json(
                {"picture": items[each.place].name, **each.to_json(), "people": list(said)}, "caption"
            )
            for each, said in zip(written, people, strict=True)
        ]
        write_atomically(self.run.path / WRITTEN, b"".join(lines))


def written_of(run: Run) -> list[Written]:
    """What was written at the end of a run of all pictures that are held out; nothing where it did not end.

    Raises:
        CheckpointError: the file is damaged.
    """
    file = run.path / WRITTEN
    if not file.exists():
        return []
    try:
        return [Written.from_json(json.loads(line)) for line in read_bytes(file).splitlines()]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} is damaged: {error}") from None


def make(
    origin: Origin,
    config: CaptionConfig,
    vocabulary: Subwords | None = None,
    looker: Looker | None = None,
    say: Say | None = None,
) -> CaptionTask:
    """The task of these pictures.

    Args:
        vocabulary: if it is not to be learned.
        looker, say: see `CaptionData`.

    Raises:
        UnrolledError: whatever is wrong with the pictures or the settings.
    """
    find(config.cell)  # a misspelt cell is told before much is read
    return CaptionTask(CaptionData(origin.read(), config, vocabulary, looker, say), config)


def start(
    origin: Origin,
    config: CaptionConfig,
    root: Path,
    name: str | None = None,
    looker: Looker | None = None,
    say: Say | None = None,
) -> Session:
    """A new run in a folder of its own.

    Args:
        root: the folder of all runs.
        name: of the run's folder; a number is added where it is taken.

    Raises:
        UnrolledError: whatever is wrong with the pictures, the settings or the folder.
    """
    task = make(origin, config, None, looker, say)
    what = origin.data or "files"
    name = name or f"caption-{run_name(what, config.image)}"
    return Session(**vars(sessions.begin(KIND, task, root, name, origin.to_json())))


def resume(
    path: Path,
    changes: Mapping[str, Any],
    origin: Origin | None,
    warn: Callable[[str], None],
    looker: Looker | None = None,
    say: Say | None = None,
) -> Session:
    """A run that goes on after its newest checkpoint.

    Args:
        changes: settings that are to be different, of those that may change.
        origin: where the pictures are now, if they have moved.
        warn: told of a damaged checkpoint that was passed over.

    Raises:
        UnrolledError: no such run, no usable checkpoint, other pictures, or a setting that cannot change.
    """
    sessions.check_changes(KIND, changes)
    run = runs.open_run(path)
    vocabulary = vocabulary_of(sessions.newest(KIND, run, warn))

    def again(recorded: dict[str, Any], settings: dict[str, Any]) -> CaptionTask:
        try:
            there = origin or Origin.from_json(recorded["from"])
            return make(there, CaptionConfig(**settings), vocabulary, looker, say)
        except DataError as error:
            raise DataError(
                f"{error} If the files have moved, say where with FOLDER and --captions."
            ) from None

    found = sessions.go_on(KIND, path, changes, lambda _: None, again, Scores.from_json)
    return Session(**vars(found))


def vocabulary_of(saved: Checkpoint) -> Subwords:
    """The words of a checkpoint.

    Raises:
        CheckpointError: there are none.
    """
    try:
        return Subwords.from_json(saved.facts.get("vocabulary"))
    except DataError as error:
        raise CheckpointError(f"{saved.path} has no usable vocabulary: {error}") from None


@dataclass(frozen=True)
class Opened:
    """A captioner read out of a run, ready to be run.

    Attributes:
        size: side of the squares that pictures are put into.
        side: height and width of the map of places.
    """

    run: Run
    model: Captioner
    vocabulary: Subwords
    config: CaptionConfig
    saved: Checkpoint
    size: int
    side: tuple[int, int]

    def caption(
        self,
        squares: Tensor,
        options: Decoding | None = None,
        generator: torch.Generator | None = None,
        looker: Looker | None = None,
        alone: bool = False,
    ) -> list[Written]:
        """Captions of pictures.

        Args:
            squares: (B, 3, size, size) of bytes, see `square`.
            generator: what words are drawn with, if they are.
            options: `best` if not given.
            looker: what makes features, where the network does not itself; EfficientNet-Lite0 if not given.
            alone: by the network, without its neighbours.
        """
        options = options or best(self.config)
        given = Given(squares)
        if not self.config.learned_encoder:
            look = looker or efficientnet()
            views = [look(squares), *([look(squares.flip(3))] if self.config.flips else [])]
            given = Given(views[0], roots(views))
        places = range(len(squares))
        return captions(self.model, self.vocabulary, given, places, options, generator, alone)

    def square(self, path: Path) -> Tensor:
        """A picture from a file, as the network takes it, (3, size, size) of bytes.

        Raises:
            DataError: it cannot be read.
        """
        return fit(read_image(path, READ), self.size)


def open_model(path: Path, warn: Callable[[str], None]) -> Opened:
    """The model of a run's newest usable checkpoint. The cell comes from its stored graph, so no code is run.

    Raises:
        CheckpointError: there is none; the message says why.
    """
    run = runs.open_run(path)
    saved = sessions.newest(KIND, run, warn)
    vocabulary = vocabulary_of(saved)
    try:
        config = CaptionConfig(**as_settings(saved.facts["config"]))
        encoder, _ = encoder_of(config)
        cell, channels = cell_from_json(saved.facts["cell"]), saved.facts["channels"]
        near = (
            Neighbours.like(config.neighbours, saved.tensors, "model.neighbours.")
            if config.neighbours
            else None
        )
        model = Captioner(config, cell, len(vocabulary), channels, encoder, near)
        size, (height, width) = saved.facts["size"], saved.facts["side"]
    except (KeyError, TypeError, ValueError, CellError, InputError) as error:
        raise CheckpointError(f"{saved.path} is not a checkpoint of {KIND.what}: {error}") from error
    restore_model(model, saved)
    return Opened(run, model.eval(), vocabulary, config, saved, size, (height, width))


def again(run: Run, opened: Opened) -> CaptionTask:
    """The task of a run, with its pictures, and a model that has learned nothing.

    Raises:
        UnrolledError: whatever is wrong with the pictures.
    """
    return make(Origin.from_json(run.config["data"]["from"]), opened.config, opened.vocabulary)
