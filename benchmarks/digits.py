"""What learns digits through a thousand layers: residual, highway and dense ones, and plain ones beside them.

Each trains on scikit-learn's bundled digits with the settings of `unrolled train digits`, and so does
`unrolled train digits --network highway --depth 1000 --steps 150`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final, NamedTuple

from benchmarks.family import MINUTE, Family, Record, Settings
from benchmarks.paired import quartiles
from unrolled.data.pictures import Pictures, bundled_digits
from unrolled.errors import DataError
from unrolled.tasks.digits import DigitsTask
from unrolled.tasks.digits_config import DigitsConfig

LEARNED: Final = 0.1
"""Of the test digits, asked of what learns: as many are wrong."""
UNLEARNED: Final = 0.2
"""And of the plain network: as many are right."""
MINUTES: Final = 3.0

STEPS: Final = 150
DEPTH: Final = 1000
SEEDS: Final = 3


class Subject(NamedTuple):
    """A network, and whether it is one that learns."""

    network: str
    learns: bool
    growth: int = 16


SUBJECTS: Final = {
    "residual": Subject("residual", True),
    "highway": Subject("highway", True),
    "dense, growth 2": Subject("dense", True, growth=2),
    "plain": Subject("plain", False),
    "plain, layer norm": Subject("plain", False),
}


class Training(NamedTuple):
    """What came of a training."""

    minutes: float
    share: float
    """Of the test digits that are right."""
    ratio: float
    """The gradient of the first layer over that of the last, before the first step."""


def train(pictures: Pictures, config: DigitsConfig) -> Training:
    """All steps of a training."""
    began = time.perf_counter()
    task = DigitsTask(pictures, config)
    trainer = task.trainer()
    norms = task.gradient_by_layer()
    for _ in range(config.steps):
        trainer.advance()
    share = task.accuracy().share
    return Training((time.perf_counter() - began) / 60, share, norms[0] / norms[-1] if norms[-1] else 0.0)


def measure(settings: Settings) -> Iterator[Record]:
    depth, steps, seeds = (30, 60, 1) if settings.quick else (DEPTH, STEPS, min(SEEDS, settings.rounds))
    try:
        pictures = bundled_digits()
    except DataError as error:
        yield Record("digits", note=str(error), refused=True)
        return
    for name, subject in SUBJECTS.items():
        norm = "layer" if "norm" in name else None
        found = [
            train(
                pictures,
                DigitsConfig(
                    network=subject.network, depth=depth, width=64, growth=subject.growth, norm=norm,
                    steps=steps, seed=seed,
                ),
            )
            for seed in range(seeds)
        ]  # fmt: skip
        yield from records(name, subject, found, asked=not settings.quick)


def records(name: str, subject: Subject, found: list[Training], asked: bool) -> Iterator[Record]:
    """What is asked of a network: of the worst of its trainings."""
    shares = [1 - each.share if subject.learns else each.share for each in found]
    low, _, high = quartiles(shares)
    ratios = ", ".join(f"{each.ratio:.1g}" for each in found)
    what = "wrong" if subject.learns else "right"
    note = f"the most of {len(found)}; gradient of the first layer over that of the last, at first: {ratios}"
    bar = LEARNED if subject.learns else UNLEARNED
    asked_of = bar if asked else None
    yield Record(f"{name}: {what}", max(shares), low, high, bar=asked_of, turns=len(found), note=note)
    minutes = [each.minutes for each in found]
    low, median, high = quartiles(minutes)
    bar = MINUTES if asked else None
    yield Record(f"{name}: training", median, low, high, bar=bar, turns=len(found), unit=MINUTE)


FAMILIES = (
    Family(
        "digits",
        "Digits through a thousand layers",
        measure,
        unit="of the test digits",
        caption="1,797 pictures of 8 x 8, a fifth of every class kept to test on; 1,000 layers of 64 units; "
        f"{STEPS} steps of Adam at batches of 64, from three seeds. With residual, highway and dense "
        "layers a tenth may be wrong after each of these, with plain ones a fifth may be right; a training "
        "may take 3 minutes. Dense layers add 2 units each, so the last reads 2,062.",
    ),
)
