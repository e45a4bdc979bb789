"""The training loop: gradient steps, and everything needed to stop at any of them and go on.

A `Task` knows the model, the data and the loss; the loop knows steps, checkpoints, interruption and
divergence. A run that is stopped and resumed gives the losses of one that was not, bit for bit on the CPU.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from unrolled.errors import CheckpointError, DivergedError
from unrolled.train import checkpoint
from unrolled.train.checkpoint import Checkpoint
from unrolled.train.files import JSON
from unrolled.train.optimiser_state import optimizer_tensors, restore_optimizer
from unrolled.train.optimisers import Clip, Schedule
from unrolled.train.runs import Run


class Task(Protocol):
    """What is trained. Everything in it that changes between steps is in `tensors`."""

    @property
    def model(self) -> nn.Module:
        """The network; its parameters are what the steps change."""

    def gradients(self, step: int) -> tuple[float, dict[str, float]]:
        """The loss of the step after `step` steps are done, and measurements to log with it; its gradient is
        added to what is in each parameter's `grad`, or replaces it."""

    def evaluate(self) -> dict[str, float]:
        """Measurements on held-out data."""

    def show(self, step: int) -> str:
        """Something a reader can look at."""

    def tensors(self) -> dict[str, Tensor]:
        """What the task carries from step to step, besides the model."""

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put `tensors` back."""

    def facts(self) -> dict[str, JSON]:
        """What is needed to build the model again."""


class Observer(Protocol):
    """Hears what happens."""

    def started(self, step: int, steps: int) -> None:
        """Training begins, or goes on after `step` steps."""

    def stepped(self, record: Mapping[str, Any]) -> None:
        """A step was made."""

    def evaluated(self, record: Mapping[str, Any]) -> None:
        """The held-out data were measured."""

    def shown(self, step: int, title: str, text: str) -> None:
        """The task has something to show."""

    def ended(self) -> None:
        """Training is over, for whatever reason."""


@dataclass(frozen=True)
class Plan:
    """When to do what, in steps. 0 for `show_every` and `evaluate_every`: only at the ends."""

    steps: int
    evaluate_every: int
    save_every: int
    show_every: int
    keep: int = 3


class Trainer:
    """A task, its optimiser and the number of steps done.

    Args:
        whole: all parameters as one, from `unrolled.train.flat`; it is what the optimiser changes.
    """

    def __init__(
        self, task: Task, whole: nn.Parameter, optimiser: Optimizer, clip: Clip, schedule: Schedule
    ) -> None:
        self.task = task
        self.whole = whole
        self.optimiser = optimiser
        self.clip = clip
        self.schedule = schedule
        self.step = 0
        self._norms: deque[float] = deque(maxlen=10)

    def advance(self) -> dict[str, float]:
        """One gradient step; returns its measurements.

        Raises:
            DivergedError: the loss or the gradient is not finite. The parameters are those before the step.
        """
        rate = self.schedule(self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        gradient = self.whole.grad
        assert gradient is not None
        gradient.zero_()
        value, measured = self.task.gradients(self.step)
        if not math.isfinite(value):
            raise self._diverged(f"the loss is {value}", rate)
        norm = self.clip([gradient])
        if not math.isfinite(norm):
            raise self._diverged(f"the gradient's norm is {norm} at a loss of {value:.4g}", rate)
        self.optimiser.step()
        self.step += 1
        self._norms.append(norm)
        return {"step": self.step, "loss": value, **measured, "gradient_norm": norm, "rate": rate}

    def check(self) -> None:
        """Make sure that the model can be measured, shown and saved.

        Raises:
            DivergedError: a weight is not finite.
        """
        for name, weight in self.task.model.named_parameters():
            if not weight.isfinite().all():
                cause = "its initial value; change it or --init"
                if self.step:
                    rate = self.schedule(self.step - 1)
                    cause = f"a rate of {rate:.3g} or an option of the optimiser; try --rate {rate / 10:.1g}"
                raise DivergedError(
                    f"training diverged at step {self.step}: {name} is not finite; likely cause: {cause}"
                )

    def save(self, run: Run, keep: int) -> None:
        """Write a checkpoint of everything."""
        tensors, state = optimizer_tensors(self.optimiser)
        tensors |= {f"model.{name}": value for name, value in self.task.model.state_dict().items()}
        tensors |= {f"task.{name}": value for name, value in self.task.tensors().items()}
        tensors["generator"] = torch.get_rng_state()
        facts = {**self.task.facts(), "optimiser": state}
        checkpoint.save(run.checkpoints, self.step, tensors, facts, keep)

    def restore(self, saved: Checkpoint) -> None:
        """Go on from a checkpoint.

        Raises:
            CheckpointError: it is of another model or another optimiser.
        """
        restore_model(self.task.model, saved)
        try:
            restore_optimizer(self.optimiser, saved.tensors, saved.facts.get("optimiser", {}))
            torch.set_rng_state(saved.tensors["generator"])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise CheckpointError(f"no training can go on from {saved.path}: {error}") from error
        self.task.restore(_under("task.", saved.tensors))
        self.step = saved.step

    def _diverged(self, what: str, rate: float) -> DivergedError:
        """The error, with the likely cause read off the last gradients."""
        rising = len(self._norms) > 1 and self._norms[-1] > 10 * min(self._norms)
        norms = (
            f"the gradient's norm rose from {min(self._norms):.3g} to {self._norms[-1]:.3g}" if rising else ""
        )
        if any(not p.isfinite().all() for p in self.task.model.parameters()):
            cause = "a weight was not finite before the step; start again from an earlier checkpoint"
        elif self.clip.norm is None and self.clip.value is None:
            cause = f"exploding gradients without clipping{f' ({norms})' * rising}; try --clip-norm 1"
        else:
            cause = f"a rate of {rate:.3g} is too high{f' ({norms})' * rising}; try --rate {rate / 10:.1g}"
        return DivergedError(f"training diverged at step {self.step + 1}: {what}; likely cause: {cause}")


def restore_model(model: nn.Module, saved: Checkpoint) -> None:
    """Put a checkpoint's parameters into a model.

    Raises:
        CheckpointError: they are of another model; the message names the first that does not fit.
    """
    found, wanted = _under("model.", saved.tensors), model.state_dict()
    for name in sorted(found.keys() | wanted.keys()):
        shapes = [tuple(tensors[name].shape) if name in tensors else "none" for tensors in (found, wanted)]
        if shapes[0] != shapes[1]:
            raise CheckpointError(
                f"{saved.path} is of another model: {name} is {shapes[0]} there and {shapes[1]} here"
            )
    model.load_state_dict(found)


def train(trainer: Trainer, run: Run, plan: Plan, observers: Sequence[Observer] = ()) -> bool:
    """Make steps until `plan.steps` are done, or Ctrl-C asks to stop; a checkpoint is written either way.

    Returns:
        whether all steps were made.

    Raises:
        DivergedError: a loss or gradient is not finite; the message names the last good checkpoint.
        CheckpointError: something could not be written.
    """
    try:
        for observer in observers:
            observer.started(trainer.step, plan.steps)
        with _interrupts() as interrupted:
            if not checkpoint.steps(run.checkpoints):
                _milestone(trainer, run, plan, observers)
            while trainer.step < plan.steps and not interrupted.is_set():
                _step(trainer, run, observers)
                _milestone(trainer, run, plan, observers)
            if trainer.step not in checkpoint.steps(run.checkpoints):  # Ctrl-C, at whatever moment
                trainer.check()
                trainer.save(run, plan.keep)
    except DivergedError as error:
        good = checkpoint.steps(run.checkpoints)
        last = f"the last good checkpoint is step {good[-1]}" if good else "there is no checkpoint yet"
        raise DivergedError(f"{error}; {last}") from None
    finally:
        for observer in observers:
            observer.ended()
    return trainer.step >= plan.steps


def _step(trainer: Trainer, run: Run, observers: Sequence[Observer]) -> None:
    began = time.perf_counter()
    record = trainer.advance()
    record["seconds"] = time.perf_counter() - began
    run.log(record)
    for observer in observers:
        observer.stepped(record)


def _milestone(trainer: Trainer, run: Run, plan: Plan, observers: Sequence[Observer]) -> None:
    """Show, measure and save, as far as they are due. Saving comes last: what is logged before a checkpoint
    that was not finished is logged again."""
    step = trainer.step
    ends = step in (0, plan.steps)
    show, evaluate, save = (
        ends or (every > 0 and step % every == 0)
        for every in (plan.show_every, plan.evaluate_every, plan.save_every)
    )
    if show or evaluate or save:
        trainer.check()
    if show:
        title = f"{'at first' if step == 0 else 'at the end' if ends else 'later'} (step {step})"
        text = trainer.task.show(step)
        run.log({"step": step, "shown": text, "title": title})
        for observer in observers:
            observer.shown(step, title, text)
    if evaluate:
        record = {"step": step, **trainer.task.evaluate()}
        run.log(record)
        for observer in observers:
            observer.evaluated(record)
    if save:
        trainer.save(run, plan.keep)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """An event that Ctrl-C (or a polite kill) sets; a second Ctrl-C stops at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
