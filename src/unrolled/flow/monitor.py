"""Gradient flow while a model trains: a few numbers every so many steps, in little time.

What is measured is measured on what the layers were called with, on a few rows of it and in evaluation, so
that nothing is drawn at random. Training is not changed by it, to the last bit.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Self

import torch
from torch import Tensor, nn

from unrolled.errors import InputError, UnrolledError, check_sizes
from unrolled.flow import log as logs
from unrolled.flow.measurement import Measurement, PlaceMeasurement, kept, measure, summary
from unrolled.flow.replay import Remember, given, signed, undisturbed
from unrolled.flow.trace import LAYERS, Losses, record
from unrolled.nn.deep import Deep

AT_LIMIT: Final = 1e-3
"""A gradient that was clipped has the limit as its norm, but for so much."""


class Monitor:
    """Measures a model now and then while it trains.

        with Monitor(model, every=50, log="flow.jsonl") as monitor:
            for x, targets in batches:
                loss = ...
                loss.backward()
                monitor(loss)
                optimiser.step()
        print(monitor.summary())

    Called once a step, behind `backward()`, it measures at its first step and at every multiple of `every`:
    of each layer and direction the gradient by lag, gates and states; of each parameter its norm and, as they
    are at that moment, that of its gradient; and the loss. A loss that is not finite is looked into at once.
    What cannot be measured is said in the measurement's `notes`; training goes on.

    Args:
        model: with recurrent layers of unrolled's among its modules.
        every: steps between measurements.
        log: a file for one JSON object a line; it is appended to.
        tensorboard: a folder for events, or a `SummaryWriter`.
        losses: what gradients are of, see `unrolled.flow.record`; it needs a batch. Without a batch they are
            of each layer's outputs with random signs, on what the layer read last in training mode.
        batch: for `losses`, always the same; or a function that gives it. Or give one with each call.
        rows: sequences that are measured, of a layer; a batch is taken as it is.
        steps: of them at most, from the first on.
        share: of the time since the monitor began. Where a measurement, together with all before, would take
            more, it is left out, and counted in `skipped`; but for the first. math.inf for no limit.
        clip: the limit on the norm of the whole gradient, if there is one.

    Attributes:
        step: the last one that it was told of.
        history: what was measured.
        skipped: how many measurements took too long to be made.
        problems: what could not be written, and why.

    Raises:
        InputError: no such layer, or an argument does not fit.
    """

    def __init__(
        self,
        model: nn.Module,
        every: int = 50,
        *,
        log: str | os.PathLike[str] | None = None,
        tensorboard: Any = None,
        losses: Losses | None = None,
        batch: Any = None,
        rows: int = 4,
        steps: int = 512,
        share: float = 0.04,
        clip: float | None = None,
    ) -> None:
        check_sizes(every=every, rows=rows, steps=steps)
        if not share > 0:
            raise InputError(f"share is a part of the time, above 0, got {share}")
        if clip is not None and not clip > 0:
            raise InputError(f"clip is a limit on norms, above 0, or None, got {clip}")
        self.model, self.every, self.rows, self.steps, self.share = model, every, rows, steps, share
        self.clip, self.losses = clip, losses
        self.log = None if log is None else Path(log)
        self.tensorboard = tensorboard
        self.step = 0
        self.history: list[Measurement] = []
        self.skipped = 0
        self.problems: list[str] = []
        self.batch = batch
        self._remember = Remember(model)
        # Layers that look at a memory are measured with losses, not by what they were called with.
        readable = losses is not None and any(isinstance(module, LAYERS) for module in model.modules())
        if not self._remember.layers and not readable:
            raise InputError(
                f"{type(model).__name__} has no recurrent layer of unrolled's: use unrolled.LSTM, GRU, RNN "
                "or Recurrent in it, or unrolled.convert.from_torch for one of torch's"
            )
        self._open = _events(tensorboard)
        self._resumed: int | None = None
        self._writer: Any = None
        self._handles: list[Any] = []
        self._began: float | None = None
        self._elapsed, self._spent, self._last = 0.0, 0.0, 0.0
        self._noted: dict[str, float] | None = None
        self._broken = False

    def __enter__(self) -> Self:
        if self._began is not None:
            return self
        if self.log is not None:
            try:
                logs.append(self.log, None)
            except OSError as error:
                raise InputError(f"cannot write {self.log}: {error.strerror or error}") from error
        if self._open is not None:
            self._writer = self._open(self._resumed)
        self._began = time.perf_counter()
        for layer in self._remember.layers.values():
            self._handles.append(layer.register_forward_pre_hook(self._remember, with_kwargs=True))
        self._compile()
        self._spent += time.perf_counter() - self._began
        return self

    def __exit__(self, *_: object) -> None:
        if self._began is None:
            return
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._remember.calls.clear()
        if self._writer is not None and self._writer is not self.tensorboard:
            self._writer.close()
        self._writer = None
        self._elapsed, self._began = self.elapsed, None

    def resume(self, step: int) -> None:
        """Training goes on behind this step: what the log has of later ones is dropped.

        Raises:
            InputError: the log is damaged, or cannot be written.
        """
        self.step = step
        self._resumed = step
        if self.log is not None:
            try:
                logs.drop_after(self.log, step)
            except OSError as error:
                raise InputError(f"cannot write {self.log}: {error.strerror or error}") from error

    def write_to(self, writer: Any) -> None:
        """Write events to this `SummaryWriter` from now on; whoever opened it closes it."""
        self.tensorboard, self._open = writer, lambda _: writer

    @property
    def runs(self) -> bool:
        """Whether it is inside its `with`."""
        return self._began is not None

    @property
    def elapsed(self) -> float:
        """Seconds inside the monitor's `with`."""
        return self._elapsed + (time.perf_counter() - self._began if self._began is not None else 0.0)

    @property
    def overhead(self) -> float:
        """The share of that time which the monitor took."""
        return self._spent / self.elapsed if self.elapsed else 0.0

    def __call__(
        self,
        loss: float | Tensor | None = None,
        step: int | None = None,
        *,
        batch: Any = None,
        gradient_norm: float | Tensor | None = None,
    ) -> Measurement | None:
        """A step was made: behind `backward()`, before or after the optimiser's step.

        Args:
            loss: of the step, one number.
            step: how many steps were made; one more than before, if not given.
            batch: to be measured on; or a function that gives it, called when it is needed.
            gradient_norm: of the whole gradient before it was clipped, if that is known.

        Returns:
            what was measured, if it was time to.

        Raises:
            InputError: the monitor does not run, or the loss is no number.
        """
        if self._began is None:
            raise InputError("the monitor does not run: call it inside `with Monitor(...) as monitor:`")
        began = time.perf_counter()
        before, self.step = self.step, self.step + 1 if step is None else step
        try:
            due = self._is_due(before, self.step)
            value = _number(loss) if due or not isinstance(loss, Tensor) or loss.is_cpu else None
            broken = value is not None and not math.isfinite(value)
            found, self._broken = broken and not self._broken, broken
            if not due and not found:
                return None
            if not found and not self._may():
                self.skipped += 1
                return None
            measurement = self._measure(value, self.batch if batch is None else batch, gradient_norm)
            self._keep(measurement)
            self._last = time.perf_counter() - began
            return measurement
        finally:
            self._remember.calls.clear()
            self._noted = None
            self._spent += time.perf_counter() - began

    def gradients(self) -> None:
        """Note the norms of gradients as they are now, for the step that ends with the next call: for loops
        that clip or clear them before. At steps that are not measured it does nothing."""
        if self._began is not None and self._is_due(self.step, self.step + 1) and self._may():
            began = time.perf_counter()
            noted: dict[str, float] = {}
            self._try([], lambda: noted.update(self._norms_of_gradients()))
            self._noted = noted
            self._spent += time.perf_counter() - began

    def _is_due(self, before: int, step: int) -> bool:
        return not self.history or step // self.every != before // self.every

    def _may(self) -> bool:
        return not self.history or self._spent + self._last <= self.share * self.elapsed

    def _compile(self) -> None:
        """Have the kernels ready before the first measurement, whose time is taken for that of others."""
        with undisturbed(self.model):
            for name, layer in self._remember.layers.items():
                leading, width = (
                    ((1,), layer.width) if isinstance(layer, Deep) else ((1, 1), layer.input_size)
                )
                x = next(layer.parameters()).new_zeros(*leading, width)
                self._try([], self._of_layer, name, ((x,), {}), [], [])

    def _signed(self, layer: nn.Module, call: Any) -> Tensor:
        return signed(layer, given(layer, call, self.rows, self.steps))  # type: ignore[arg-type]

    def _measure(self, loss: float | None, batch: Any, gradient_norm: float | Tensor | None) -> Measurement:
        began = time.perf_counter()
        notes = [f"the loss is {loss}"] if loss is not None and not math.isfinite(loss) else []
        places: list[PlaceMeasurement] = []
        with undisturbed(self.model):
            if batch is not None:
                self._try(notes, self._of_loss, batch, places, notes)
            elif self._remember.calls:
                for name, call in self._remember.calls.items():
                    self._try(notes, self._of_layer, name, call, places, notes)
            else:
                notes.append(
                    "no recurrent layer was seen in training since the last step, as under torch.compile: "
                    "give a batch"
                )
        if self.losses is not None and batch is None:
            notes.append("losses= needs a batch: give one to the monitor, or with each call")
        parameters: dict[str, float] = {}
        gradients = self._noted or {}
        self._try(notes, lambda: parameters.update(_norms(dict(self.model.named_parameters()))))
        if self._noted is None:
            self._try(notes, lambda: gradients.update(self._norms_of_gradients()))
        whole = _number(gradient_norm)
        if whole is None and gradients:
            whole = math.sqrt(sum(norm * norm for norm in gradients.values()))
        for what, norms in (("", parameters), ("gradient of ", gradients)):
            if strange := next((name for name, norm in norms.items() if not math.isfinite(norm)), None):
                notes.append(f"the {what}{strange} is not finite")
        now = time.perf_counter()
        return Measurement(
            self.step,
            kept(self.elapsed) or 0.0,
            kept(now - began) or 0.0,
            kept(loss),
            "outputs" if batch is None else "loss",
            tuple(places),
            {name: kept(norm) for name, norm in parameters.items()},
            {name: kept(norm) for name, norm in gradients.items()},
            kept(whole),
            None if self.clip is None or whole is None else whole >= self.clip * (1 - AT_LIMIT),
            tuple(notes),
        )

    def _of_loss(self, batch: Any, places: list[PlaceMeasurement], notes: list[str]) -> None:
        found, said = measure(record(self.model, batch() if callable(batch) else batch, self.losses))
        places += found
        notes += said

    def _of_layer(self, name: str, call: Any, places: list[PlaceMeasurement], notes: list[str]) -> None:
        found, said = measure(record(self._remember.layers[name], call, self._signed), name)
        places += found
        notes += said

    def _try(self, notes: list[str], function: Callable[..., object], *arguments: Any) -> None:
        try:
            function(*arguments)
        except UnrolledError as error:
            notes.append(str(error))
        except Exception as error:  # noqa: BLE001 - training goes on, whatever a measurement meets
            notes.append(f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}")

    def _norms_of_gradients(self) -> dict[str, float]:
        named = self.model.named_parameters()
        return _norms({name: p.grad for name, p in named if p.grad is not None})

    def _keep(self, measurement: Measurement) -> None:
        self.history.append(measurement)

        def write() -> None:
            if self.log is not None:
                logs.append(self.log, measurement)
            if self._writer is not None:
                for name, value in measurement.scalars():
                    self._writer.add_scalar(f"flow/{name}", value, measurement.step)

        said: list[str] = []
        self._try(said, write)
        self.problems += [f"step {measurement.step}: {each}" for each in said]

    def summary(self) -> str:
        """The first and the last measurement beside each other, clipping, and what there was to say."""
        took = f"{self.overhead:.1%} of the time"
        left_out = f", {self.skipped} left out that would have taken more" * bool(self.skipped)
        return "\n".join([summary(self.history), f"measuring took {took}{left_out}", *self.problems])

    def __repr__(self) -> str:
        return self.summary()

    read = staticmethod(logs.read)
    """The measurements in a log, for reports."""


def _events(where: Any) -> Callable[[int | None], Any] | None:
    """What gives the writer of events, told after which step training goes on."""
    if where is None or hasattr(where, "add_scalar"):
        return None if where is None else lambda _: where
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError:
        raise InputError("tensorboard= needs TensorBoard: pip install 'unrolled[logging]'") from None
    folder = os.fspath(where)
    # What was written of later steps is hidden.
    return lambda step: SummaryWriter(folder, purge_step=step + 1 if step else None)


def _number(value: float | Tensor | None) -> float | None:
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise InputError(f"the loss is of shape {tuple(value.shape)}, expected one number")
        return float(value.detach())
    return None if value is None else float(value)


def _norms(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """The L2 norms of tensors."""
    found = {}
    for name, tensor in tensors.items():
        value = tensor.detach().coalesce().values() if tensor.is_sparse else tensor.detach()
        if value.is_floating_point():
            wide = torch.float32 if value.dtype.itemsize < 4 else value.dtype
            found[name] = float(torch.linalg.vector_norm(value, dtype=wide))
    return found
