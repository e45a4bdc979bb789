"""A monitor as a callback of Lightning. Importing this module needs Lightning, under either of its names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

try:
    from lightning.pytorch.callbacks import Callback
except ModuleNotFoundError:
    from pytorch_lightning.callbacks import Callback

from unrolled.flow.monitor import Monitor


class LightningMonitor(Callback):
    """`Trainer(callbacks=[LightningMonitor(monitor)])`.

    Gradients are looked at before they are clipped, and the trainer's limit on their norm is the monitor's,
    if that has none. If it has `losses` and no batch of its own, it measures on those that the trainer has.
    """

    def __init__(self, monitor: Monitor) -> None:
        super().__init__()
        self.monitor = monitor

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        if trainer.global_step:
            self.monitor.resume(trainer.global_step)
        if self.monitor.clip is None and trainer.gradient_clip_algorithm in (None, "norm"):
            self.monitor.clip = trainer.gradient_clip_val or None
        self.monitor.__enter__()

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.monitor.gradients()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # While gradients add up over batches, no step is made.
        if self.monitor.runs and trainer.global_step != self.monitor.step:
            loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
            wanted = self.monitor.losses is not None and self.monitor.batch is None
            self.monitor(loss, trainer.global_step, batch=batch if wanted else None)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self.monitor.__exit__(None, None, None)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self.monitor.__exit__(None, None, None)
