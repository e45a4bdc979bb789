"""Training, as a terminal shows it: one bar with the numbers that matter, and samples now and then."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

SMOOTHING = 0.95
"""How much of the old value a shown number keeps at each step."""


class TerminalObserver:
    """Leaves the bar. Where the output is no terminal, it prints a line at each measurement instead.

    Attributes:
        unit: what a step reads, as its record counts it.
    """

    unit = "characters"

    def __init__(self, console: Console, baselines: Mapping[str, float] | None = None) -> None:
        self._console = console
        self._baselines = dict(baselines or {})
        self._smooth: dict[str, float] = {}
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._bar = self._progress.add_task("", total=None, numbers="")

    def started(self, step: int, steps: int) -> None:
        self._progress.update(self._bar, completed=step, total=steps)
        self._progress.start()

    def stepped(self, record: Mapping[str, Any]) -> None:
        rate = record[self.unit] / record["seconds"]
        for name, value in {**record, "rate_of_units": rate}.items():
            self._smooth[name] = SMOOTHING * self._smooth.get(name, value) + (1 - SMOOTHING) * value
        self._progress.update(self._bar, completed=record["step"], numbers=self._numbers())

    def evaluated(self, record: Mapping[str, Any]) -> None:
        bits = record["held_out_bits_per_character"]
        better, training = self._beside(lambda value: bits < value)
        self._console.print(
            f"step {record['step']:>6}   held-out [bold]{bits:.3f}[/bold] bits/char{better}{training}",
            highlight=False,
        )

    def shown(self, step: int, title: str, text: str) -> None:
        self._console.print(Panel(Text(text), title=title, title_align="left", expand=False))

    def ended(self) -> None:
        self._progress.stop()

    def _beside(self, better: Callable[[float], bool]) -> tuple[str, str]:
        """What stands behind a measurement: the last baseline that it is better than, and training."""
        beaten = [name for name, value in self._baselines.items() if better(value)]
        training = f"   {self._numbers()}" if self._smooth else ""
        return f" (better than {beaten[-1]})" if beaten else "", training

    def _numbers(self) -> str:
        s = self._smooth
        return (
            f"loss {s['loss']:.3f}  {s['bits_per_character']:.2f} bits/char  "
            f"{s['rate_of_units'] / 1000:.1f}k chars/s"
        )
