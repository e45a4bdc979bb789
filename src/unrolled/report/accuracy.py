"""Training of a classifier, as a terminal shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from unrolled.report.terminal import TerminalObserver


class AccuracyObserver(TerminalObserver):
    """As for a character model, with accuracies; the baselines are some too.

    Args:
        unit: what is labelled, as records of steps count it.
    """

    def __init__(self, console: Console, baselines: Mapping[str, float], unit: str = "pictures") -> None:
        super().__init__(console, baselines)
        self.unit = unit

    def evaluated(self, record: Mapping[str, Any]) -> None:
        found, low, high = (record[name] for name in ("test_accuracy", "low", "high"))
        better, training = self._beside(lambda value: found > value)
        f1 = f", F1 {record['test_f1']:.3f}" if "test_f1" in record else ""
        self._console.print(
            f"step {record['step']:>6}   test accuracy [bold]{found:.1%}[/bold], "
            f"95% from {low:.1%} to {high:.1%}{f1}{better}{training}",
            highlight=False,
        )

    def shown(self, step: int, title: str, text: str) -> None:
        lines = text.splitlines()
        told = f" {text}" if len(lines) < 2 else "".join(f"\n    {line}" for line in lines)
        self._console.print(f"{title}:{told}", markup=False, highlight=False)

    def _numbers(self) -> str:
        s = self._smooth
        return (
            f"loss {s['loss']:.3f}  training accuracy {s['accuracy']:.1%}  "
            f"{s['rate_of_units']:,.0f} {self.unit}/s"
        )
