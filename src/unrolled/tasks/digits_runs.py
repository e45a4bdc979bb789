"""Runs of picture classifiers: start one, go on with one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import unrolled
from unrolled.data.pictures import Pictures, bundled_digits, read_pictures
from unrolled.errors import CheckpointError, DataError, InputError
from unrolled.tasks.accuracy import Accuracy
from unrolled.tasks.digits import DigitsTask
from unrolled.tasks.digits_config import DigitsConfig
from unrolled.train import checkpoint, runs
from unrolled.train.checkpoint import Checkpoint
from unrolled.train.loop import Observer, Trainer, train
from unrolled.train.runs import Run

CHANGEABLE: Final = ("steps", "evaluate_every", "show_every", "save_every", "keep")
"""The settings that may change when a run goes on; the others would make it another run."""


@dataclass(frozen=True)
class Files:
    """Where pictures come from: IDX files, or, without any, the bundled digits."""

    images: Path | None = None
    labels: Path | None = None
    test_images: Path | None = None
    test_labels: Path | None = None

    def __post_init__(self) -> None:
        for one, other in (("images", "labels"), ("test_images", "test_labels")):
            if (getattr(self, one) is None) != (getattr(self, other) is None):
                here, there = (one, other) if getattr(self, other) is None else (other, one)
                options = tuple(f"--{name.replace('_', '-')}" for name in (here, there))
                raise InputError(f"{options[0]} goes with {options[1]}: give both")
        if self.test_images is not None and self.images is None:
            raise InputError("--test-images and --test-labels go with --images and --labels: give those too")

    def read(self) -> tuple[Pictures, Pictures | None]:
        """The pictures, and those to test on if they come apart.

        Raises:
            DataError: they cannot be read.
        """
        if self.images is None or self.labels is None:
            return bundled_digits(), None
        if self.test_images is None or self.test_labels is None:
            return read_pictures(self.images, self.labels), None
        train = read_pictures(self.images, self.labels)
        test = read_pictures(self.test_images, self.test_labels)
        if train.size != test.size:
            sizes = " and ".join(" x ".join(map(str, each.size)) for each in (train, test))
            raise DataError(f"pictures to train and to test on are of different sizes: {sizes}.")
        classes = max(train.classes, test.classes)
        return replace(train, classes=classes), replace(test, classes=classes)

    def to_json(self) -> dict[str, str]:
        return {name: str(path.resolve()) for name, path in vars(self).items() if path is not None}


@dataclass(frozen=True)
class Session:
    """A run that is about to train.

    Attributes:
        baselines: accuracies of the commonest class and of a linear classifier on the same split, by name.
    """

    run: Run
    task: DigitsTask
    trainer: Trainer
    baselines: Mapping[str, Accuracy]

    def train(self, observers: Sequence[Observer] = ()) -> bool:
        """Make the remaining steps; returns whether all were made, or Ctrl-C asked to stop. At the end the
        norm of the gradient of every layer is written down, as it was at the beginning."""
        if self.trainer.step == 0:
            self._look()
        finished = train(self.trainer, self.run, self.task.config.plan, observers)
        if finished:
            self._look()
        return finished

    def _look(self) -> None:
        self.run.log({"step": self.trainer.step, "gradient_by_layer": self.task.gradient_by_layer()})


def start(files: Files, config: DigitsConfig, root: Path, name: str | None = None) -> Session:
    """A new run in a folder of its own.

    Args:
        root: the folder of all runs.
        name: of the run's folder; a number is added where it is taken.

    Raises:
        UnrolledError: whatever is wrong with the pictures, the settings or the folder.
    """
    pictures, test = files.read()
    task = DigitsTask(pictures, config, test)
    trainer = task.trainer()
    baselines = task.baselines
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in config.network.rpartition(":")[2])
    run = runs.create(root, name or f"digits-{plain.strip('-')}-{config.depth}")
    run.write_config(
        {
            "unrolled": unrolled.__version__,
            "task": "digits",
            "pictures": {**task.source, "files": files.to_json()},
            "config": asdict(config),
            "baselines": {name: asdict(found) for name, found in baselines.items()},
        }
    )
    return Session(run, task, trainer, baselines)


def resume(path: Path, changes: Mapping[str, Any], files: Files, warn: Callable[[str], None]) -> Session:
    """A run that goes on after its newest checkpoint.

    Args:
        changes: settings that are to be different, of `CHANGEABLE`.
        files: where the pictures are now, if they have moved.
        warn: told of a damaged checkpoint that was passed over.

    Raises:
        UnrolledError: no such run, no usable checkpoint, other pictures, or a setting that cannot change.
    """
    if fixed := sorted(changes.keys() - set(CHANGEABLE)):
        raise InputError(
            f"--{fixed[0].replace('_', '-')} cannot change when a run goes on; what can: "
            + ", ".join(f"--{name.replace('_', '-')}" for name in CHANGEABLE)
        )
    run = runs.open_run(path)
    saved, recorded = newest(run, warn), run.config
    there = (
        files
        if files.images
        else Files(**{name: Path(at) for name, at in recorded["pictures"]["files"].items()})
    )
    try:
        pictures, test = there.read()
    except DataError as error:
        raise DataError(f"{error} If the files have moved, say where with --images and --labels.") from None
    config = {**recorded["config"], "init": tuple(recorded["config"]["init"]), **changes}
    task = DigitsTask(pictures, DigitsConfig(**config), test)
    if any(task.source[key] != recorded["pictures"].get(key) for key in task.source if "sha256" in key):
        raise CheckpointError(
            f"the pictures are not those this run was trained on ({recorded['pictures']['label']}); give "
            "those, or start a new run"
        )
    trainer = task.trainer()
    trainer.restore(saved)
    if task.config.steps < saved.step:
        raise InputError(f"--steps {task.config.steps} is less than the {saved.step} that were made already")
    run.truncate_metrics(saved.step)
    run.write_config({**recorded, "config": asdict(task.config)})
    return Session(run, task, trainer, {name: Accuracy(**v) for name, v in recorded["baselines"].items()})


def newest(run: Run, warn: Callable[[str], None]) -> Checkpoint:
    """The newest usable checkpoint of a run of a picture classifier.

    Raises:
        CheckpointError: there is none, or it belongs to another run.
    """
    match recorded := run.config:
        case {
            "task": "digits",
            "pictures": {"label": str(), "sha256": str(), "files": dict()},
            "config": {"init": list(), **_rest},
            "baselines": dict(baselines),
        } if all(set(value) == {"right", "count"} for value in baselines.values()):
            here = {**recorded["config"], "pictures": recorded["pictures"]["sha256"]}
        case _:
            raise CheckpointError(f"{run.path} is not a run of a picture classifier: see its config.json")
    saved = checkpoint.newest(run.checkpoints, warn)
    match saved.facts:
        case {"config": dict(config), "pictures": {"sha256": str(digest)}}:
            there = {**config, "pictures": digest}
        case _:
            raise CheckpointError(f"{saved.path} is not a checkpoint of a picture classifier")
    for name in sorted(here.keys() - set(CHANGEABLE)):
        if there.get(name) != here[name]:
            raise CheckpointError(
                f"{saved.path} belongs to another run: "
                f"its {name} is {there.get(name)!r}, here it is {here[name]!r}"
            )
    return saved
