"""Which deep networks can be trained, by their depth."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import torch

from unrolled.data.pictures import Pictures
from unrolled.errors import DivergedError
from unrolled.lab.experiment import Number, Result, Verdict, at_least, at_most, experiment
from unrolled.report.page import Lines, Mark, Series
from unrolled.tasks.digits import DigitsTask
from unrolled.tasks.digits_config import DigitsConfig

CLASSES: Final = 10
NETWORKS: Final = ("plain", "residual", "highway", "dense")


@dataclass(frozen=True)
class Depths:
    """Sizes of the networks and of their training.

    depths: layers.
    width: units of a layer.
    steps: updates.
    pictures: of which a fifth is held out.
    """

    depths: tuple[int, ...] = (10, 30, 100, 300, 1000)
    width: int = 32
    steps: int = 150
    pictures: int = 1000


class Trained(NamedTuple):
    """What came of a training.

    accuracy: on held-out pictures; that of guessing where training diverged.
    ratio: of the gradient's norm in the first layer to that in the last, before training.
    """

    accuracy: float
    ratio: float


def patterns(count: int) -> Pictures:
    """Noisy copies of ten random patterns of 8 × 8 pixels."""
    drawn = torch.rand(CLASSES, 8, 8).round()
    labels = torch.arange(count) % CLASSES
    noise = 0.35 * torch.randn(count, 8, 8)
    return Pictures("drawn patterns", (drawn[labels] + noise).clamp(0, 1), labels, CLASSES)


def trained(pictures: Pictures, config: DigitsConfig) -> Trained:
    """A network that has seen the pictures."""
    task = DigitsTask(pictures, config)
    norms = task.gradient_by_layer()
    trainer = task.trainer()
    try:
        for _ in range(config.steps):
            trainer.advance()
    except DivergedError:
        return Trained(1 / CLASSES, norms[0] / norms[-1])
    return Trained(task.accuracy().share, norms[0] / norms[-1] if norms[-1] else math.nan)


@experiment(
    title="Trainability by depth",
    lectures=("000", "001", "004"),
    claim="Plain deep networks cannot be trained, for their gradients vanish or explode; with the skips "
    "of residual, highway and dense networks they can.",
    statement="Accuracy on held-out noisy patterns of ten classes after 150 updates, for 10 to 1,000 "
    "layers of 32 ReLUs, each kind from its usual initial weights: residual branches begin with 1 / L of "
    "the usual size, highway carries with a bias of ln(L − 1). And 1,000 residual layers whose branches "
    "begin at the usual size.",
    verdict=Verdict(
        "holds if", "skips begin open: with branches of the usual size a residual network explodes as well"
    ),
    setup=Depths(),
    quick=Depths(depths=(3, 200), steps=120, pictures=500),
)
def trainability(setup: Depths) -> Result:
    pictures = patterns(setup.pictures)
    seed = int(torch.randint(2**31, ()))
    usual = DigitsConfig(width=setup.width, steps=setup.steps, batch=32, rate=1e-3, seed=seed)
    deepest = setup.depths[-1]
    found: dict[str, list[Trained]] = {name: [] for name in NETWORKS}
    for depth in setup.depths:
        for name, every in found.items():
            growth = max(1, min(8, 240 // depth))
            every.append(trained(pictures, replace(usual, network=name, depth=depth, growth=growth)))
    std = math.sqrt(2 / setup.width)
    open_ = trained(pictures, replace(usual, network="residual", depth=deepest, init=(f"f.h=normal:{std}",)))
    numbers = [at_least(f"plain, {setup.depths[0]} layers: accuracy", found["plain"][0].accuracy, 0.8)]
    numbers.append(at_most(f"plain, {deepest} layers: accuracy", found["plain"][-1].accuracy, 0.3, "claim"))
    for name in NETWORKS[1:]:
        worst = min(each.accuracy for each in found[name])
        numbers.append(at_least(f"{name}: accuracy at any depth", worst, 0.9, "claim"))
    told = f"residual, {deepest} layers, branches of the usual size: accuracy"
    numbers.append(at_least(told, open_.accuracy, 0.9, "counterexample"))
    numbers.append(
        Number(
            f"guessing: accuracy of plain, {deepest} layers, off by",
            abs(found["plain"][-1].accuracy - 1 / CLASSES),
            0.0,
            0.2,
        )
    )
    figures = [
        Lines(
            "Accuracy by depth",
            "After the same number of updates. Plain layers lose what they are told on the way down; the "
            "others are as good with 1,000 layers as with 10.",
            "layers",
            "accuracy on held-out patterns",
            [Series(name, setup.depths, [each.accuracy for each in every]) for name, every in found.items()],
            log_x=True,
            marks=[Mark("y", 1 / CLASSES, "guessing")],
        ),
        Lines(
            "The gradient of the first layer, over that of the last",
            "Before training. Near 1 both learn at the same pace; far below, the first layer learns nothing.",
            "layers",
            "ratio of norms",
            [Series(name, setup.depths, [each.ratio for each in every]) for name, every in found.items()],
            log_x=True,
            log_y=True,
            marks=[Mark("y", 1.0, "1")],
        ),
    ]  # fmt: skip
    words = (
        "The same cells as through time, each layer with weights of its own. `unrolled train digits` does "
        "the same with pictures of handwritten digits."
    )
    return Result(numbers, figures, words)
