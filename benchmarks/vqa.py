"""Questions about pictures, from pixels, beside what is answered without looking.

`unrolled train vqa easy-vqa` trains the same network with the same settings.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from benchmarks.family import Family, Record, Settings
from benchmarks.trainings import Training, longest, mean, minutes_of, seeds
from unrolled.errors import DataError
from unrolled.tasks.vqa import VqaTask, prepare
from unrolled.tasks.vqa_config import VqaConfig
from unrolled.tasks.vqa_files import Files
from unrolled.tasks.vqa_runs import READ

DATA: Final = "easy-vqa"

RIGHT: Final = 0.99
MINUTES: Final = 10.0


def measure(settings: Settings) -> Iterator[Record]:
    config = VqaConfig(steps=10, hidden=16) if settings.quick else VqaConfig()
    try:
        train, test = Files(DATA).read(max(READ, config.size))
    except DataError as error:
        yield Record(DATA, note=str(error), refused=True)
        return
    prepared = prepare(train, config, test)
    found = []
    for seed in seeds(settings):
        task = VqaTask(prepared, replace(config, seed=seed))
        minutes = minutes_of(task)
        found.append(Training(minutes, {"right": task.answered()[1].share}))
    baselines = {name: each.share for name, each in task.baselines.items()}
    yield from records(found, baselines, asked=not settings.quick)


def records(found: list[Training], baselines: dict[str, float], asked: bool) -> Iterator[Record]:
    """What is asked: of the mean over trainings, and of the longest."""
    beside = ", ".join(f"{name} {share:.3f}" for name, share in baselines.items())
    yield mean("right answers", [each.figures["right"] for each in found], RIGHT if asked else None, beside)
    yield longest("training", [each.minutes for each in found], MINUTES if asked else None)


FAMILIES = (
    Family(
        "vqa",
        "Questions about pictures, from pixels",
        measure,
        unit="right",
        least=True,
        caption="easy-VQA: 4,000 pictures of 64 x 64 with 38,575 questions, and 9,673 questions about 1,000 "
        "other pictures to test on; the defaults of `unrolled train vqa easy-vqa`, in the mean of three "
        f"seeds. A training may take {MINUTES:g} minutes. Beside it: the commonest answer, and the same "
        "network without pictures.",
    ),
)
