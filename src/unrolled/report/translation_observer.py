"""Training of a translator, as a terminal shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unrolled.report.terminal import TerminalObserver


class TranslationObserver(TerminalObserver):
    """As for a character model, with nats per token, BLEU and chrF; the baselines are BLEU."""

    unit = "words"

    def evaluated(self, record: Mapping[str, Any]) -> None:
        bleu = record["bleu"]
        better, training = self._beside(lambda value: bleu > value)
        self._console.print(
            f"step {record['step']:>6}   held-out {record['held_out_nats_per_token']:.3f} nats/token, BLEU "
            f"[bold]{bleu:.1f}[/bold], chrF {record['chrf']:.1f}, exact {record['exact']:.1%}{better}"
            f"{training}",
            highlight=False,
        )

    def _numbers(self) -> str:
        return f"loss {self._smooth['loss']:.3f}  {self._smooth['rate_of_units']:,.0f} tokens/s"
