"""Runs whose gradient flow is measured: while they train, into flow.jsonl, and at their end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar

from unrolled.flow.callbacks import MonitorObserver
from unrolled.flow.monitor import Monitor
from unrolled.flow.reports import Report, report
from unrolled.flow.trace import Losses
from unrolled.tasks import sessions
from unrolled.tasks.char import evaluating

SHOWN: Final = (8, 40)
"""Sequences, and steps of each, that the flow of a page is measured on."""


class Watched(sessions.Trained, Protocol):
    """A task with a recurrent network.

    Attributes:
        flow_losses: the loss of every step and sequence of what `few` gives.
    """

    @property
    def flow_losses(self) -> Losses: ...

    def few(self, step: int, rows: int, steps: int) -> Any:
        """Some rows and steps of what is read after `step` steps are done, at most so many."""


WatchedT = TypeVar("WatchedT", bound=Watched)


class Session(sessions.Session[WatchedT]):
    """A run that is about to train."""

    def monitor(self, every: int, writer: Callable[[], Any] | None = None) -> MonitorObserver:
        """Who measures the gradient flow every so many steps, into flow.jsonl.

        Args:
            writer: gives where events go, once training has begun.
        """
        task = self.task
        clip = task.config.clip_norm or None
        log = self.run.path / "flow.jsonl"
        monitor = Monitor(task.model, every, log=log, losses=task.flow_losses, clip=clip)
        return MonitorObserver(monitor, lambda step: task.few(step, monitor.rows, monitor.steps), writer)

    def flow(self) -> Report:
        """The gradient flow now, without dropout, on a few sequences to train on."""
        task, log = self.task, self.run.path / "flow.jsonl"
        history = [*self.run.metrics(), *(Monitor.read(log) if log.exists() else ())]
        few, clip = task.few(self.trainer.step, *SHOWN), task.config.clip_norm or None
        with evaluating(task.model):
            return report(task.model, few, losses=task.flow_losses, history=history, clip=clip)
