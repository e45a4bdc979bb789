"""A monitor as a callback of Hugging Face's Trainer. Importing this module needs transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import TrainerCallback

from unrolled.flow.monitor import Monitor


class HuggingFaceMonitor(TrainerCallback):
    """`Trainer(..., callbacks=[HuggingFaceMonitor(monitor)])`.

    Gradients are seen after they were clipped; the trainer's limit on their norm is the monitor's, if that
    has none. The loss is what the model's outputs have first, or under that name, at the last call.
    """

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self._loss: Tensor | None = None
        self._handle: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        if state.global_step:
            self.monitor.resume(state.global_step)
        if self.monitor.clip is None:
            self.monitor.clip = args.max_grad_norm or None
        self._handle = kwargs["model"].register_forward_hook(self._called)
        self.monitor.__enter__()

    def _called(self, model: Any, inputs: Any, outputs: Any) -> None:
        if model.training:
            loss = outputs.get("loss") if isinstance(outputs, Mapping) else next(iter(outputs), None)
            self._loss = loss.detach() if isinstance(loss, Tensor) and loss.numel() == 1 else None

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.monitor.gradients()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.monitor.runs:
            self.monitor(self._loss, state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
        self.monitor.__exit__(None, None, None)
