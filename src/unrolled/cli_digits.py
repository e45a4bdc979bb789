"""The command that trains classifiers of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from unrolled.cli_settings import with_settings
from unrolled.cli_time import out, warn
from unrolled.cli_training import RESUME, Common, carry_out, parameters_of, say_dry_run
from unrolled.errors import BudgetError, UnrolledError
from unrolled.report.accuracy import AccuracyObserver
from unrolled.tasks import digits_runs
from unrolled.tasks.digits_config import DigitsConfig
from unrolled.tasks.digits_runs import Files

FILES: Final = ("images", "labels", "test_images", "test_labels")


def train_digits(**settings: Any) -> int:
    """Train a deep network on digits (8 x 8, with scikit-learn) or other pictures, or go on with a run.

    Beside its accuracy on held-out pictures stand those of the commonest class and of a linear classifier;
    the norm of the gradient by layer says whether the first layers are told anything.
    """
    try:
        return _train(settings)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, UnrolledError) or not (isinstance(error, MemoryError) or "alloc" in str(error)):
            raise
        raise BudgetError("not enough memory: lower --depth, --width, --growth or --batch") from None


def _train(settings: dict[str, Any]) -> int:
    files = Files(**{key: settings.pop(key) for key in FILES})
    common = Common.taken_from(settings)
    if common.dry_run:
        return say_dry_run(digits_runs.make(files, DigitsConfig(**settings)))
    if common.resume is not None:
        session = digits_runs.resume(common.resume, settings, files, warn)
    else:
        session = digits_runs.start(files, DigitsConfig(**settings), common.runs, common.name)
    task = session.task
    title = f"{task.title} on {task.source['label']}"
    out.print(
        f"{session.run.path}: {title}, {len(task.train):,} pictures to train on and {len(task.test):,} to "
        f"test, {parameters_of(task)}",
        markup=False,
    )
    told = ", ".join(f"{key} {value}" for key, value in session.baselines.items())
    out.print(f"test accuracy without a deep network, with 95% confidence: {told}", markup=False)
    shares = {key: value.share for key, value in session.baselines.items()}

    def figure() -> tuple[str, bytes]:
        from unrolled.report.figures import accuracy_figure

        return "accuracy.png", accuracy_figure(session.run.metrics(), shares, title)

    return carry_out(
        session,
        "digits",
        common,
        [AccuracyObserver(out, shares)],
        figure,
        lambda: f"done: test accuracy {task.accuracy()}",
    )


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
        **RESUME,
    },
)
