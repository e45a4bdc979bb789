"""Runs of models that label sequences: start one, go on with one, read the model out of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from unrolled.cells import find
from unrolled.data.labelled import named_texts, read_texts
from unrolled.data.tagged import named_tagged, read_tagged
from unrolled.errors import CellError, CheckpointError, DataError, InputError
from unrolled.tasks import sessions, watched
from unrolled.tasks.digits_runs import Files
from unrolled.tasks.labels import LabelTask
from unrolled.tasks.labels_config import FramesConfig, LabelsConfig, SentimentConfig, SeriesConfig, TagsConfig
from unrolled.tasks.labels_data import Frames, LabelData, Sentences, Texts
from unrolled.tasks.labels_model import Labeller, reader_of
from unrolled.tasks.labels_scores import Scores
from unrolled.tasks.labels_series import LabelledSeries, read_table
from unrolled.tasks.sessions import Kind, cell_from_json, run_name
from unrolled.tasks.settings import as_settings
from unrolled.train import runs
from unrolled.train.checkpoint import Checkpoint
from unrolled.train.loop import restore_model


def _kind(name: str, what: str) -> Kind:
    known = {field.name for field in fields(Scores)}
    return Kind(name, what, is_baseline=lambda value: isinstance(value, dict) and set(value) == known)


KINDS: Final = {
    "sentiment": _kind("sentiment", "a model that labels texts"),
    "tags": _kind("tags", "a model that tags words"),
    "frames": _kind("frames", "a model that labels frames"),
    "series": _kind("series", "a model that labels series"),
}

CONFIGS: Final[dict[str, type[LabelsConfig]]] = {
    "sentiment": SentimentConfig,
    "tags": TagsConfig,
    "frames": FramesConfig,
    "series": SeriesConfig,
}

Origin = Mapping[str, str]
"""Where the data are: a name or the path of a file under "data", columns of a table, or files of frames."""


class Session(watched.Session[LabelTask]):
    """A run that is about to train, beside what is reached without a recurrent network."""

    def finish(self) -> None:
        """Write down which labels were taken for which."""
        self.run.log({"step": self.trainer.step, "confusion": self.task.confusion()})


def open_data(origin: Origin, config: LabelsConfig) -> LabelData:
    """The data of a task.

    Raises:
        DataError, InputError: they cannot be read, or do not fit the settings.
    """
    match config:
        case SentimentConfig():
            name, columns = origin["data"], {key: origin[key] for key in ("text", "label") if key in origin}
            if Path(name).is_file():
                return Texts(Path(name).name, read_texts(Path(name), **columns), config)
            if columns:
                raise InputError("--text and --label are columns of a file: leave them out with a data set")
            return Texts(name, named_texts(name), config)
        case TagsConfig():
            name = origin["data"]
            if Path(name).is_file():
                if config.fine:
                    raise InputError("--fine is for the Brown corpus: your own tags are taken as they are")
                return Sentences(Path(name).name, read_tagged(Path(name)), config)
            return Sentences(name, named_tagged(name, fine=config.fine), config)
        case FramesConfig():
            paths = {key: Path(path) for key, path in origin.items()}
            if "sequences" in paths:
                return Frames.stored(paths["sequences"], paths["sequence_labels"], config)
            return Frames.moving(Files(**paths).read()[0], config)
        case SeriesConfig():
            path = Path(origin["data"])
            test = read_table(Path(origin["test"])) if "test" in origin else None
            return LabelledSeries(path.name, read_table(path), config, test)
    raise InputError(f"nothing is labelled by {type(config).__name__}")


def make(kind: str, origin: Origin, config: LabelsConfig) -> LabelTask:
    """The task of these data; see `open_data`."""
    find(config.cell)  # a misspelt cell is told before much is read
    return LabelTask(kind, open_data(origin, config), config)


def start(kind: str, origin: Origin, config: LabelsConfig, root: Path, name: str | None = None) -> Session:
    """A new run in a folder of its own.

    Args:
        kind: of `KINDS`.
        root: the folder of all runs.
        name: of the run's folder; a number is added where it is taken.

    Raises:
        UnrolledError: whatever is wrong with the data, the settings or the folder.
    """
    task = make(kind, origin, config)
    name = name or f"{kind}-{run_name(config.cell.rpartition(':')[2])}"
    kept = {key: str(Path(at).resolve()) if Path(at).is_file() else at for key, at in origin.items()}
    return Session(**vars(sessions.begin(KINDS[kind], task, root, name, kept)))


def resume(
    kind: str, path: Path, changes: Mapping[str, Any], origin: Origin, warn: Callable[[str], None]
) -> Session:
    """A run that goes on after its newest checkpoint.

    Args:
        changes: settings that are to be different, of those that may change.
        origin: where the data are now, if they have moved.
        warn: told of a damaged checkpoint that was passed over.

    Raises:
        UnrolledError: no such run, no usable checkpoint, other data, or a setting that cannot change.
    """

    def again(recorded: dict[str, Any], settings: dict[str, Any]) -> LabelTask:
        try:
            return make(kind, {**recorded["from"], **origin}, CONFIGS[kind](**settings))
        except DataError as error:
            raise DataError(
                f"{error} If the data have moved, say with --resume where they are now."
            ) from None

    return Session(**vars(sessions.go_on(KINDS[kind], path, changes, warn, again, Scores)))


@dataclass(frozen=True)
class Opened:
    """A model read out of a run, ready to be run.

    Attributes:
        kind: of `KINDS`.
        classes: the names of labels.
        reads: how it reads, see `unrolled.tasks.labels_model.reader_of`.
    """

    kind: str
    model: Labeller
    classes: tuple[str, ...]
    reads: Mapping[str, Any]
    config: LabelsConfig
    saved: Checkpoint


def open_model(path: Path, warn: Callable[[str], None]) -> Opened:
    """The model of a run's newest usable checkpoint. The cell comes from its stored graph, so no code is run.

    Raises:
        CheckpointError: there is none; the message says why.
    """
    run = runs.open_run(path)
    kind = run.config.get("task")
    if kind not in KINDS:
        raise CheckpointError(f"{path} is not a run of a model that labels sequences: see its config.json")
    saved = sessions.newest(KINDS[kind], run, warn)
    try:
        facts = saved.facts
        config = CONFIGS[kind](**as_settings(facts["config"]))
        classes, reads = tuple(map(str, facts["classes"])), facts["reads"]
        model = Labeller(reader_of(reads, config), cell_from_json(facts["cell"]), len(classes), config)
    except (KeyError, TypeError, CellError, DataError, InputError) as error:
        raise CheckpointError(f"{saved.path} is not a checkpoint of {KINDS[kind].what}: {error}") from error
    restore_model(model, saved)
    return Opened(kind, model.eval(), classes, reads, config, saved)
