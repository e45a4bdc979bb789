"""A monitor in the loops of others: of this library's trainer, of Lightning, of Hugging Face's Trainer.

`LightningMonitor` and `HuggingFaceMonitor` are looked up when they are asked for, so that nothing else needs
their libraries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Final

from unrolled.errors import InputError
from unrolled.flow.monitor import Monitor

ADAPTERS: Final = {
    "LightningMonitor": ("unrolled.flow.lightning", "Lightning: pip install lightning"),
    "HuggingFaceMonitor": ("unrolled.flow.huggingface", "its Trainer: pip install 'transformers[torch]'"),
}
"""Where they are, and what they need."""


def __getattr__(name: str) -> Any:
    if name not in ADAPTERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, needs = ADAPTERS[name]
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError:
        raise InputError(f"{name} needs {needs}") from None


class MonitorObserver:
    """A monitor as an observer of `unrolled.train.loop.train`.

    Args:
        batch: gives what is measured after so many steps, if the monitor is to measure the model's own loss.
        writer: gives where events go once training begins, if the monitor is to write some.
    """

    def __init__(
        self,
        monitor: Monitor,
        batch: Callable[[int], Any] | None = None,
        writer: Callable[[], Any] | None = None,
    ) -> None:
        self.monitor = monitor
        self._batch, self._writer = batch, writer

    def started(self, step: int, steps: int) -> None:
        self.monitor.resume(step)
        if self._writer is not None:
            self.monitor.write_to(self._writer())
        self.monitor.__enter__()

    def stepped(self, record: Mapping[str, Any]) -> None:
        step, batch = record["step"], self._batch
        self.monitor(
            record.get("loss"),
            step,
            batch=None if batch is None else lambda: batch(step),
            gradient_norm=record.get("gradient_norm"),
        )

    def evaluated(self, record: Mapping[str, Any]) -> None:
        pass

    def shown(self, step: int, title: str, text: str) -> None:
        pass

    def ended(self) -> None:
        self.monitor.__exit__(None, None, None)
