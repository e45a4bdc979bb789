"""Training of a translator, as a terminal shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.panel import Panel
from rich.text import Text

from unrolled.report.terminal import SMOOTHING, TerminalObserver


class TranslationObserver(TerminalObserver):
    """As for a character model, with nats per token, BLEU and chrF; the baselines are BLEU."""

    def stepped(self, record: Mapping[str, Any]) -> None:
        rate = record["words"] / record["seconds"]
        for name, value in {**record, "rate_of_words": rate}.items():
            self._smooth[name] = SMOOTHING * self._smooth.get(name, value) + (1 - SMOOTHING) * value
        self._progress.update(self._bar, completed=record["step"], numbers=self._numbers())

    def evaluated(self, record: Mapping[str, Any]) -> None:
        bleu = record["bleu"]
        beaten = [name for name, value in self._baselines.items() if bleu > value]
        better = f" (better than {beaten[-1]})" if beaten else ""
        training = f"   {self._numbers()}" if self._smooth else ""
        self._console.print(
            f"step {record['step']:>6}   held-out {record['held_out_nats_per_token']:.3f} nats/token, BLEU "
            f"[bold]{bleu:.1f}[/bold], chrF {record['chrf']:.1f}, exact {record['exact']:.1%}{better}"
            f"{training}",
            highlight=False,
        )

    def shown(self, step: int, title: str, text: str) -> None:
        self._console.print(Panel(Text(text), title=title, title_align="left", expand=False))

    def _numbers(self) -> str:
        return f"loss {self._smooth['loss']:.3f}  {self._smooth['rate_of_words']:,.0f} tokens/s"
