"""The numbers of a training run as TensorBoard events."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

NAMES = {
    "loss": "loss",
    "bits_per_character": "bits per character/training",
    "held_out_bits_per_character": "bits per character/held-out",
    "accuracy": "accuracy/training",
    "test_accuracy": "accuracy/test",
    "gradient_norm": "gradient norm",
    "rate": "learning rate",
}


class TensorBoardObserver:
    """Writes an event for every number. Importing this module needs the extra `logging`.

    Attributes:
        writer: torch's, once training has begun; others may write to it too.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)

    def started(self, step: int, steps: int) -> None:
        # What an interrupted run wrote after its last checkpoint is hidden: those steps are made again.
        self.writer: Any = SummaryWriter(self._folder, purge_step=step + 1 if step else None)

    def stepped(self, record: Mapping[str, Any]) -> None:
        for name, tag in NAMES.items():
            if name in record:
                self.writer.add_scalar(tag, record[name], record["step"])

    evaluated = stepped

    def shown(self, step: int, title: str, text: str) -> None:
        indented = "\n".join(f"    {line}" for line in text.splitlines())  # Markdown for text as it is
        self.writer.add_text("sample", indented, step)

    def ended(self) -> None:
        self.writer.close()
