"""Digits: pictures are classified by a deep network, which is where plain layers, residual ones, highways and
dense ones differ.

Every step reads a batch of pictures, in an order that is drawn anew for every pass through them. Beside the
accuracy on held-out pictures stand those of the commonest class and of a linear classifier; the norm of the
gradient by layer says whether the first layers are told anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from unrolled.data.pictures import Pictures
from unrolled.tasks.accuracy import Accuracy, linear, majority
from unrolled.tasks.digits_config import DigitsConfig
from unrolled.tasks.digits_network import Classifier
from unrolled.tasks.sessions import trainer_of
from unrolled.train.files import JSON
from unrolled.train.loop import Trainer

ROWS: Final = 1000
"""Pictures that are classified at once where accuracy is measured."""

LOOKED: Final = 256
"""Pictures whose gradient is looked at by layer."""


class DigitsTask:
    """Pictures, and a classifier of them.

    Args:
        pictures: all of them; a share is held out.
        test: or the held-out ones, and then all of the others are trained on.

    Raises:
        DataError, InputError, CellError: too few pictures, or a setting that does not fit.
    """

    def __init__(self, pictures: Pictures, config: DigitsConfig, test: Pictures | None = None) -> None:
        self.config = config
        self.source: dict[str, JSON] = {
            "label": pictures.name,
            "pictures": len(pictures),
            "sha256": pictures.sha256,
        }
        if test is not None:
            self.source |= {"test_pictures": len(test), "test_sha256": test.sha256}
        self.train, self.test = (
            pictures.split(config.holdout, config.split) if test is None else (pictures, test)
        )
        self.classes = pictures.classes
        torch.manual_seed(config.seed)
        self.model = Classifier(config, pictures.size, pictures.classes, self.train.pixels)
        self._order: tuple[int, Tensor] | None = None

    @property
    def title(self) -> str:
        """What the network is, in a line."""
        of = {"conv-residual": "blocks a stage", "conv-dense": "layers a block"}
        return f"{self.model.kind}, {self.config.depth:,} {of.get(self.model.kind, 'layers')}"

    @cached_property
    def baselines(self) -> dict[str, Accuracy]:
        """What is reached on the same split without a deep network."""
        train, test = self.train, self.test
        pixels = train.pixels.flatten(1), train.labels, test.pixels.flatten(1), test.labels
        return {"majority": majority(train.labels, test.labels), "linear": linear(*pixels)}

    def trainer(self) -> Trainer:
        """A trainer at step 0."""
        return trainer_of(self, self.config)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """The pictures and labels that are read after `step` steps are done."""
        batch = min(self.config.batch, len(self.train))
        per_pass = len(self.train) // batch
        epoch, place = divmod(step, per_pass)
        if self._order is None or self._order[0] != epoch:
            drawn = np.random.PCG64((self.config.seed, epoch)).random_raw(len(self.train))
            self._order = epoch, torch.from_numpy(np.argsort(drawn, kind="stable"))
        places = self._order[1][place * batch : (place + 1) * batch]
        return self.train.pixels[places], self.train.labels[places]

    def gradients(self, step: int) -> tuple[float, dict[str, float]]:
        pixels, labels = self.batch(step)
        scores = self.model(pixels)
        loss = F.cross_entropy(scores, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        right = (scores.detach().argmax(1) == labels).float().mean().item()
        return loss.item(), {"accuracy": right, "pictures": len(labels)}

    def accuracy(self) -> Accuracy:
        """On the held-out pictures."""
        training = self.model.training
        self.model.eval()
        right = 0
        with torch.no_grad():
            for begin in range(0, len(self.test), ROWS):
                found = self.model(self.test.pixels[begin : begin + ROWS]).argmax(1)
                right += int((found == self.test.labels[begin : begin + ROWS]).sum())
        self.model.train(training)
        return Accuracy(right, len(self.test))

    def evaluate(self) -> dict[str, float]:
        found = self.accuracy()
        low, high = found.interval
        return {"test_accuracy": found.share, "low": low, "high": high}

    def gradient_by_layer(self) -> list[float]:
        """The norm of the gradient of each layer's parameters, from the first layer to the last, for some of
        the pictures to train on. The model stays as it is, with what it counts of batches."""
        buffers = {name: value.clone() for name, value in self.model.named_buffers()}
        scores = functional_call(self.model, buffers, (self.train.pixels[:LOOKED],))
        return self.model.norms_by_layer(F.cross_entropy(scores, self.train.labels[:LOOKED]))

    def show(self, step: int) -> str:
        norms = self.gradient_by_layer()
        places = sorted({0, len(norms) // 2, len(norms) - 1})
        told = ", ".join(f"layer {place + 1} {norms[place]:.2g}" for place in places)
        ratio = f"; first over last {norms[0] / norms[-1]:.2g}" if norms[-1] else ""
        return f"norm of the gradient: {told}{ratio}"

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self._order = None

    def facts(self) -> dict[str, JSON]:
        return {"task": "digits", "config": asdict(self.config), "pictures": self.source}
