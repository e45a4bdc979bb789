"""Runs of picture classifiers: start one, go on with one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from unrolled.data.pictures import Pictures, bundled_digits, read_pictures
from unrolled.errors import DataError, InputError
from unrolled.tasks import sessions
from unrolled.tasks.accuracy import Accuracy
from unrolled.tasks.digits import DigitsTask
from unrolled.tasks.digits_config import DigitsConfig
from unrolled.tasks.sessions import Kind, run_name
from unrolled.train.loop import Observer

KIND: Final = Kind(
    "digits",
    "a picture classifier",
    data="pictures",
    origin="files",
    is_baseline=lambda value: isinstance(value, dict) and set(value) == {"right", "count"},
)


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


class Session(sessions.Session[DigitsTask]):
    """A run that is about to train, beside accuracies of the commonest class and of a linear classifier."""

    def train(self, observers: Sequence[Observer] = ()) -> bool:
        """Make the remaining steps; returns whether all were made, or Ctrl-C asked to stop. At the end the
        norm of the gradient of every layer is written down, as it was at the beginning."""
        if self.trainer.step == 0:
            self._look()
        return super().train(observers)

    def finish(self) -> None:
        self._look()

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
    task = make(files, config)
    name = name or f"digits-{run_name(config.network.rpartition(':')[2])}-{config.depth}"
    return Session(**vars(sessions.begin(KIND, task, root, name, files.to_json())))


def make(files: Files, config: DigitsConfig) -> DigitsTask:
    """The task of these pictures."""
    pictures, test = files.read()
    return DigitsTask(pictures, config, test)


def resume(path: Path, changes: Mapping[str, Any], files: Files, warn: Callable[[str], None]) -> Session:
    """A run that goes on after its newest checkpoint.

    Args:
        changes: settings that are to be different, of those that may change.
        files: where the pictures are now, if they have moved.
        warn: told of a damaged checkpoint that was passed over.

    Raises:
        UnrolledError: no such run, no usable checkpoint, other pictures, or a setting that cannot change.
    """

    made = partial(again, files)
    return Session(**vars(sessions.go_on(KIND, path, changes, warn, made, Accuracy)))


def again(files: Files, recorded: Mapping[str, Any], settings: Mapping[str, Any]) -> DigitsTask:
    """The task of a run.

    Args:
        files: where the pictures are now, if they have moved.
        recorded: what its config.json has of them.
        settings: its own.

    Raises:
        DataError: they are not where they were.
    """
    there = files if files.images else Files(**{n: Path(at) for n, at in recorded["files"].items()})
    try:
        return make(there, DigitsConfig(**settings))
    except DataError as error:
        raise DataError(f"{error} If the files have moved, say where with --images and --labels.") from None
