"""Labels: one for a sequence (many to one), or one for each of its steps (many to many, in step).

Whether a film review is good; which class every word of a sentence is of; which digit every frame of a
picture sequence shows. The model is the same (`labels_model.py`), what it reads differs (`labels_data.py`).
Every step reads a batch of sequences of about the same length; what is behind the end of each is not read.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property

import torch
from torch import Tensor

from unrolled.cell import Cell
from unrolled.cells import find
from unrolled.flow.trace import Losses
from unrolled.tasks.char import evaluating
from unrolled.tasks.labels_config import LabelsConfig
from unrolled.tasks.labels_data import LabelData, labels_in
from unrolled.tasks.labels_examples import NOTHING, Batch
from unrolled.tasks.labels_model import Labeller, losses_of, reader_of
from unrolled.tasks.labels_scores import Scores, scores
from unrolled.tasks.sessions import Stateless, cell_to_json, trainer_of
from unrolled.train.files import JSON
from unrolled.train.loop import Trainer


class LabelTask(Stateless):
    """Sequences with labels, and a model that gives them.

    Args:
        kind: the task in checkpoints, such as "sentiment".
        cell: the cell, if it is not to be looked up by the configuration's name.

    Raises:
        InputError, CellError: a setting does not fit.
    """

    def __init__(self, kind: str, data: LabelData, config: LabelsConfig, cell: Cell | None = None) -> None:
        self.kind, self.data, self.config = kind, data, config
        self.source = data.source
        self.cell = cell or find(config.cell)
        torch.manual_seed(config.seed)
        self.model = Labeller(reader_of(data.reads, config), self.cell, len(data.classes), config)

    @property
    def title(self) -> str:
        """What the network is, in a line."""
        ways = "both ways, " * self.config.bidirectional
        pooled = f", {self.config.pooled} pooling" if self.config.pooled else ""
        return f"{self.cell.name}, {ways}{self.config.hidden} units{pooled}"

    @cached_property
    def baselines(self) -> dict[str, Scores]:
        """What is reached on the same split without a recurrent network."""
        return self.data.baselines()

    def trainer(self) -> Trainer:
        """A trainer at step 0."""
        return trainer_of(self, self.config)

    def gradients(self, step: int) -> tuple[float, dict[str, float]]:
        batch = self.data.train.batch(step)
        count = int((batch.labels != NOTHING).sum())
        scores = self.model(batch.x, batch.lengths)
        loss = torch.nn.functional.cross_entropy(scores.flatten(0, -2), batch.labels.flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        right = int((scores.detach().argmax(-1) == batch.labels).sum())
        return loss.item(), {"accuracy": right / count, self.data.unit: count}

    def label(self, batch: Batch) -> Tensor:
        """Probabilities of labels, (B, classes) or (T, B, classes)."""
        return probabilities(self.model, batch)

    def measured(self) -> tuple[list[int], list[int], list[int]]:
        """On what is held out: the labels that are found, those that are right, and the sequence of each."""
        batches = [*self.data.test.batches()]
        found, _ = labels_in(batches, self.label)
        expected, groups = labels_in(batches)
        return found, expected, groups

    def scores(self) -> Scores:
        """On what is held out."""
        found, expected, groups = self.measured()
        return scores(found, expected, groups if self.config.pooled is None else None)

    def evaluate(self) -> dict[str, float]:
        found = self.scores()
        return {
            "test_accuracy": found.share,
            "low": found.low,
            "high": found.high,
            "test_f1": found.f1,
            "f1_low": found.f1_low,
            "f1_high": found.f1_high,
        }

    def confusion(self) -> list[list[int]]:
        """How often each label (row) was taken for each (column), on what is held out."""
        found, expected, _ = self.measured()
        classes = len(self.data.classes)
        pairs = torch.tensor(expected) * classes + torch.tensor(found)
        counts: list[list[int]] = pairs.bincount(minlength=classes**2).view(classes, classes).tolist()
        return counts

    def show(self, step: int) -> str:
        return self.data.shown(self.label)

    @property
    def flow_losses(self) -> Losses:
        return losses_of

    def few(self, step: int, rows: int, steps: int) -> Batch:
        return self.data.train.batch(step).part(rows, steps)

    def facts(self) -> dict[str, JSON]:
        return {
            "task": self.kind,
            "config": asdict(self.config),
            "data": self.source,
            "classes": self.data.classes,
            "reads": self.data.reads,
            "cell": cell_to_json(self.cell),
        }


@torch.no_grad()
def probabilities(model: Labeller, batch: Batch) -> Tensor:
    """Of labels, (B, classes) or (T, B, classes); without dropout."""
    with evaluating(model):
        found: Tensor = model(batch.x, batch.lengths).softmax(-1)
        return found
