"""The command that trains classifiers of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from unrolled.cli_settings import tensorboard_observer, with_settings
from unrolled.cli_time import out, warn
from unrolled.errors import BudgetError, InputError, UnrolledError
from unrolled.report.accuracy import AccuracyObserver
from unrolled.tasks import digits_runs
from unrolled.tasks.digits_config import DigitsConfig
from unrolled.tasks.digits_runs import Files, Session
from unrolled.train.files import write_atomically
from unrolled.train.loop import Observer

FILES: Final = ("images", "labels", "test_images", "test_labels")


def train_digits(
    resume: Path | None, name: str | None, runs: Path | None, tensorboard: bool, **settings: Any
) -> int:
    """Train a deep network on digits (8 x 8, with scikit-learn) or other pictures, or go on with a run.

    Beside its accuracy on held-out pictures stand those of the commonest class and of a linear classifier;
    the norm of the gradient by layer says whether the first layers are told anything.
    """
    try:
        return _train(resume, name, runs, tensorboard, settings)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, UnrolledError) or not (isinstance(error, MemoryError) or "alloc" in str(error)):
            raise
        raise BudgetError("not enough memory: lower --depth, --width, --growth or --batch") from None


def _train(
    resume: Path | None, name: str | None, runs: Path | None, tensorboard: bool, settings: dict[str, Any]
) -> int:
    events = tensorboard_observer() if tensorboard else None
    files = Files(**{key: settings.pop(key) for key in FILES})
    given = {key: value for key, value in settings.items() if value is not None}
    if "init" in given:
        given["init"] = tuple(given["init"])
    if resume is not None:
        if name is not None or runs is not None:
            raise InputError("--name and --runs are for a new run: leave them out with --resume")
        session = digits_runs.resume(resume, given, files, warn)
    else:
        session = digits_runs.start(files, DigitsConfig(**given), runs or Path("runs"), name)
    path, task = session.run.path, session.task
    count = sum(p.numel() for p in task.model.parameters())
    out.print(
        f"{path}: {task.title} on {task.source['label']}, {len(task.train):,} pictures to train on and "
        f"{len(task.test):,} to test, {count:,} parameters",
        markup=False,
    )
    told = ", ".join(f"{key} {value}" for key, value in session.baselines.items())
    out.print(f"test accuracy without a deep network, with 95% confidence: {told}", markup=False)
    observers: list[Observer] = [
        AccuracyObserver(out, {key: value.share for key, value in session.baselines.items()})
    ]
    observers += [events(path / "tensorboard")] if events else []
    finished = session.train(observers)
    _write_figure(session)
    if not finished:
        out.print(f"stopped and saved at step {session.trainer.step}. To go on: "
                  f"unrolled train digits --resume {path}", markup=False)  # fmt: skip
        return 130
    out.print(f"done: test accuracy {task.accuracy()}", markup=False)
    return 0


def _write_figure(session: Session) -> None:
    try:
        from unrolled.report.figures import accuracy_figure
    except ModuleNotFoundError:
        warn("no figure: pip install 'unrolled[figures]'")
        return
    path = session.run.path / "accuracy.png"
    title = f"{session.task.title} on {session.task.source['label']}"
    shares = {name: found.share for name, found in session.baselines.items()}
    write_atomically(path, accuracy_figure(session.run.metrics(), shares, title))
    out.print(f"figure: {path}", markup=False)


def _file(what: str) -> tuple[Any, None]:
    return Annotated[Path | None, typer.Option(help=what)], None


train_digits_command = with_settings(
    train_digits,
    DigitsConfig,
    {
        "images": _file("an IDX file of pictures, plain or gzip, in place of the bundled digits"),
        "labels": _file("an IDX file of their labels"),
        "test_images": _file("an IDX file of pictures to test on, in place of a share of the others"),
        "test_labels": _file("an IDX file of their labels"),
        "resume": _file("go on with this run"),
        "name": (Annotated[str | None, typer.Option(help="name of the run's folder")], None),
        "runs": _file("folder of all runs [runs]"),
        "tensorboard": (Annotated[bool, typer.Option("--tensorboard", help="write events too")], False),
    },
)
