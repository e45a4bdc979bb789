"""How commands train: the options that all of them have, and what they print, draw and return.

A command that trains takes `COMMON` besides its settings, and is written in a few lines:

    def train_tags(data: str | None, **settings):
        common = Common.taken_from(settings)
        if common.dry_run:
            return say_dry_run(make(data, TagsConfig(**settings)))
        session = resume(...) if common.resume else start(...)
        out.print(headline)
        return carry_out(session, "tags", common, [observer], figure, done)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from unrolled.cli_settings import tensorboard_observer
from unrolled.cli_time import out, warn
from unrolled.errors import InputError
from unrolled.flow.callbacks import MonitorObserver
from unrolled.tasks.sessions import Session, Trained
from unrolled.train.dry_run import dry_run
from unrolled.train.files import write_atomically
from unrolled.train.loop import Observer

RESUME: Final[dict[str, Any]] = {
    "resume": (Annotated[Path | None, typer.Option(help="go on with this run")], None),
    "name": (Annotated[str | None, typer.Option(help="name of the run's folder")], None),
    "runs": (Annotated[Path | None, typer.Option(help="folder of all runs [runs]")], None),
    "tensorboard": (Annotated[bool, typer.Option("--tensorboard", help="write events too")], False),
    "dry_run": (
        Annotated[
            bool,
            typer.Option(
                "--dry-run", help="train nothing: print shapes, parameters, memory and time from a few steps"
            ),
        ],
        False,
    ),
}
"""Options of every command that trains, besides its settings."""

MONITOR: Final[dict[str, Any]] = {
    "monitor": (
        Annotated[
            int,
            typer.Option(min=0, help="measure gradient flow every N steps, into flow.jsonl; 0 for never"),
        ],
        50,
    ),
}
"""That of models with recurrent layers."""


@dataclass(frozen=True)
class Common:
    """What the options of `RESUME` and `MONITOR` said."""

    resume: Path | None
    name: str | None
    runs: Path
    tensorboard: Callable[[Path], Any] | None
    dry_run: bool
    monitor: int

    @classmethod
    def taken_from(cls, settings: dict[str, Any]) -> Common:
        """Take these out of what a command was given; what is left are the settings that were given, with
        tuples for lists.

        Raises:
            InputError: they do not go together, or TensorBoard is asked for and not installed.
        """
        resume, name, runs, board, dry = (settings.pop(key) for key in RESUME)
        monitor = settings.pop("monitor", 0)
        for key, value in [*settings.items()]:
            if value is None:
                del settings[key]
            elif isinstance(value, list):
                settings[key] = tuple(value)
        events = tensorboard_observer() if board else None
        if resume is not None and (name is not None or runs is not None):
            raise InputError("--name and --runs are for a new run: leave them out with --resume")
        if resume is not None and dry:
            raise InputError("--dry-run is for a new run: leave it out with --resume")
        return cls(resume, name, runs or Path("runs"), events, dry, monitor)


def say_dry_run(task: Trained) -> int:
    """Print what a training would take; returns the exit status."""
    out.print(str(dry_run(task.trainer(), task.config.plan)), markup=False)
    return 0


def parameters_of(task: Trained) -> str:
    """How many there are, in words."""
    return f"{sum(p.numel() for p in task.model.parameters()):,} parameters"


def carry_out(
    session: Session[Any],
    command: str,
    common: Common,
    observers: Sequence[Observer],
    figure: Callable[[], tuple[str, bytes]],
    done: Callable[[], str],
    monitor: Callable[[int, Callable[[], Any] | None], MonitorObserver] | None = None,
    drawn: str = "figure",
) -> int:
    """Train, draw the figure, and say how to go on; returns the exit status.

    Args:
        command: its name, behind `unrolled train`.
        observers: who hears of it besides TensorBoard.
        figure: a file's name and a picture; it may raise ModuleNotFoundError.
        done: what to say when all steps are made.
        monitor: measures the gradient flow every so many steps, and writes events where it is told to.
        drawn: what the figure is called where it cannot be drawn.
    """
    path = session.run.path
    heard = [*observers]
    board = common.tensorboard(path / "tensorboard") if common.tensorboard else None
    if board is not None:
        heard.append(board)
    flow = None
    if monitor and common.monitor:
        flow = monitor(common.monitor, (lambda: board.writer) if board is not None else None)
        heard.append(flow)
    finished = session.train(heard)
    try:
        name, picture = figure()
    except ModuleNotFoundError:
        warn(f"no {drawn}: pip install 'unrolled[figures]'")
    else:
        write_atomically(path / name, picture)
        out.print(f"figure: {path / name}", markup=False)
    if flow and flow.monitor.history:
        out.print(f"gradient flow: {flow.monitor.log}", markup=False)
        last = flow.monitor.history[-1]
        for place in last.places:
            out.print(f"{place.place} at step {last.step}: {place.reach}", markup=False)
    if not finished:
        out.print(f"stopped and saved at step {session.trainer.step}. To go on: "
                  f"unrolled train {command} --resume {path}", markup=False)  # fmt: skip
        return 130
    out.print(done(), markup=False)
    return 0
