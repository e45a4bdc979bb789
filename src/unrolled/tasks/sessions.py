"""What the runs of all tasks have in common: one begins, one goes on, a model is read out of one.

A task says what its runs are called and what they record (`Kind`), and makes itself from data and settings;
the rest is here:

    session = begin(KIND, MyTask(data, config), root, "my-run", {"from": path})
    session = go_on(KIND, path, changes, warn, lambda recorded, settings: ...)
    session.train(observers)

    saved = newest(KIND, runs.open_run(path), warn)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from torch import Tensor

import unrolled
from unrolled.cell import Cell
from unrolled.errors import CheckpointError, InputError, UnrolledError
from unrolled.graph import Graph
from unrolled.nn import decay_groups
from unrolled.tasks.settings import CHANGEABLE, as_settings, option_of
from unrolled.train import checkpoint, runs
from unrolled.train.checkpoint import Checkpoint
from unrolled.train.files import JSON
from unrolled.train.flat import flatten, parts_of
from unrolled.train.loop import Observer, Task, Trainer, train
from unrolled.train.optimisers import Clip, Schedule, make_optimiser
from unrolled.train.runs import Run


class Trained(Task, Protocol):
    """A task whose runs can begin and go on.

    Attributes:
        config: its settings, a dataclass such as one that inherits `unrolled.tasks.settings.TrainingConfig`.
        source: what it is trained on: a `label`, and checksums under keys with `sha256` in them.
        baselines: what is reached without its model, by name.
    """

    @property
    def config(self) -> Any: ...

    @property
    def source(self) -> Mapping[str, JSON]: ...

    @property
    def baselines(self) -> Mapping[str, Any]: ...

    def trainer(self) -> Trainer:
        """A trainer at step 0; see `trainer_of`."""


class Stateless:
    """A task that carries nothing from step to step but its model: the step alone says what is read."""

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        pass


TaskT = TypeVar("TaskT", bound=Trained)


@dataclass(frozen=True)
class Kind:
    """What tells the runs of one task from others.

    Attributes:
        name: of the task, in config.json and in checkpoints.
        what: what is trained, in an error: "a picture classifier".
        data: what its data are called: there lies the task's `source`.
        origin: under this key, there too, where they came from.
        changeable: settings that may change when a run goes on.
        formerly: settings that runs may lack, as they did not always exist, and what was done then.
        is_baseline: whether a value in config.json can be one of its baselines.
    """

    name: str
    what: str
    data: str = "data"
    origin: str = "from"
    changeable: tuple[str, ...] = CHANGEABLE
    formerly: Mapping[str, Any] = field(default_factory=dict)
    is_baseline: Callable[[Any], bool] = lambda value: isinstance(value, int | float)


@dataclass(frozen=True)
class Session(Generic[TaskT]):
    """A run that is about to train.

    Attributes:
        baselines: as its config.json has them if it goes on, or the task's.
    """

    run: Run
    task: TaskT
    trainer: Trainer
    baselines: Mapping[str, Any]

    def train(self, observers: Sequence[Observer] = ()) -> bool:
        """Make the remaining steps, and `finish`; returns whether all were made, or Ctrl-C asked to stop."""
        finished = train(self.trainer, self.run, self.task.config.plan, observers)
        if finished:
            self.finish()
        return finished

    def finish(self) -> None:
        """Write down what is known when all steps are made."""


def trainer_of(task: Task, config: Any) -> Trainer:
    """A trainer at step 0, as the settings of a training say (`unrolled.tasks.settings.TrainingConfig`)."""
    groups = decay_groups(task.model, config.weight_decay) if config.weight_decay else []
    whole = flatten(task.model, groups)
    return Trainer(
        task,
        whole,
        make_optimiser(config.optimiser, parts_of(whole, groups) if groups else [whole], config.rate),
        Clip(value=config.clip_value or None, norm=config.clip_norm or None),
        Schedule(config.rate, config.schedule, config.warmup, config.steps),
    )


def run_name(*parts: str) -> str:
    """A name for a run's folder, from a few words."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in "-".join(parts)).strip("-")


def begin(kind: Kind, task: TaskT, root: Path, name: str, origin: JSON) -> Session[TaskT]:
    """A new run in a folder of its own.

    Args:
        root: the folder of all runs.
        name: of the run's folder; a number is added where it is taken.
        origin: where the data came from, so that they are found again.

    Raises:
        UnrolledError: whatever is wrong with the settings or the folder.
    """
    trainer, baselines = task.trainer(), task.baselines
    run = runs.create(root, name)
    run.write_config(
        {
            "unrolled": unrolled.__version__,
            "task": kind.name,
            kind.data: {**task.source, kind.origin: origin},
            "config": asdict(task.config),
            "baselines": {name: _plain(value) for name, value in baselines.items()},
        }
    )
    return Session(run, task, trainer, baselines)


def go_on(
    kind: Kind,
    path: Path,
    changes: Mapping[str, Any],
    warn: Callable[[str], None],
    make: Callable[[dict[str, Any], dict[str, Any]], TaskT],
    baseline: Callable[..., Any] | None = None,
) -> Session[TaskT]:
    """A run that goes on after its newest checkpoint.

    Args:
        changes: settings that are to be different, of those that may change.
        warn: told of a damaged checkpoint that was passed over.
        make: the task, from what config.json has under `kind.data`, and from its settings.
        baseline: makes a baseline of the fields in config.json, if they are no numbers.

    Raises:
        UnrolledError: no such run, no usable checkpoint, other data, or a setting that cannot change.
    """
    check_changes(kind, changes)
    run = runs.open_run(path)
    saved, recorded = newest(kind, run, warn), run.config
    config = recorded["config"]
    may_differ = {key: config[key] for key in kind.changeable if key in config}
    settings = as_settings({**kind.formerly, **saved.facts["config"], **may_differ, **changes})
    try:
        task = make(recorded[kind.data], settings)
    except UnrolledError:
        raise
    except (KeyError, TypeError, AttributeError) as error:  # of a file that somebody changed
        raise CheckpointError(f"{run.path} cannot go on: its config.json does not fit ({error!r})") from error
    check_same(kind, task.source, recorded[kind.data])
    trainer = task.trainer()
    trainer.restore(saved)
    ready(run, trainer, task.config)
    found = recorded["baselines"]
    return Session(run, task, trainer, {k: baseline(**v) for k, v in found.items()} if baseline else found)


def ready(run: Run, trainer: Trainer, config: Any) -> None:
    """Let a run go on where its trainer was restored to: records of later steps are dropped.

    Raises:
        InputError: more steps were made already than are to be made.
        CheckpointError: something could not be written.
    """
    if config.steps < trainer.step:
        raise InputError(f"--steps {config.steps} is less than the {trainer.step} that were made already")
    recorded = run.config
    run.truncate_metrics(trainer.step)
    run.write_config({**recorded, "config": asdict(config)})


def check_changes(kind: Kind, changes: Iterable[str]) -> None:
    """
    Raises:
        InputError: one of the settings cannot change when a run goes on.
    """
    if fixed := sorted({*changes} - {*kind.changeable}):
        can = ", ".join(map(option_of, kind.changeable))
        raise InputError(f"{option_of(fixed[0])} cannot change when a run goes on; what can: {can}")


def check_same(kind: Kind, source: Mapping[str, Any], recorded: Mapping[str, Any]) -> None:
    """
    Raises:
        CheckpointError: the data are not those of the run: a checksum differs.
    """
    if any(source[key] != recorded.get(key) for key in source if "sha256" in key):
        raise CheckpointError(
            f"the {kind.data} are not those this run was trained on ({recorded['label']}); give those, or "
            "start a new run"
        )


def newest(kind: Kind, run: Run, warn: Callable[[str], None]) -> Checkpoint:
    """The newest usable checkpoint of a run.

    Raises:
        CheckpointError: there is none, or it belongs to another run, or the run is of another kind.
    """
    match recorded := run.config:
        case {"task": kind.name, "config": dict(config), "baselines": dict(baselines)} if all(
            map(kind.is_baseline, baselines.values())
        ):
            data = recorded.get(kind.data)
        case _:
            data, config = None, {}
    if not (isinstance(data, dict) and isinstance(data.get("sha256"), str) and kind.origin in data):
        raise CheckpointError(f"{run.path} is not a run of {kind.what}: see its config.json")
    here = {**kind.formerly, **config, kind.data: data["sha256"]}
    saved = checkpoint.newest(run.checkpoints, warn)
    match saved.facts:
        case {"task": kind.name, "config": dict(config)} if isinstance(saved.facts.get(kind.data), dict):
            there = {**kind.formerly, **config, kind.data: saved.facts[kind.data].get("sha256")}
        case _:
            raise CheckpointError(f"{saved.path} is not a checkpoint of {kind.what}")
    for name in sorted(here.keys() - {*kind.changeable}):
        if there.get(name) != here[name]:
            raise CheckpointError(
                f"{saved.path} belongs to another run: "
                f"its {name} is {there.get(name)!r}, here it is {here[name]!r}"
            )
    return saved


def _plain(value: Any) -> JSON:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def cell_to_json(cell: Cell) -> JSON:
    """A cell with its equations, for the facts of a checkpoint: no code is needed to have it again."""
    return {"name": cell.name, "graph": cell.graph.to_json(), "square": cell.square.to_json()}


def cell_from_json(value: Any) -> Cell:
    """The same cell again.

    Raises:
        CellError, KeyError, TypeError: it is none.
    """
    return Cell(value["name"], Graph.from_json(value["graph"]), Graph.from_json(value["square"]))
