"""Captions of the stamps: soft and hard attention beside the caption of the most similar picture.

`unrolled train caption stamps`, and with `--image hard`, trains the same networks with the same settings.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from benchmarks.family import Family, Record, Settings
from benchmarks.trainings import Training, longest, mean, minutes_of, seeds
from unrolled.data.captions import CaptionedImages, named_captions
from unrolled.errors import DataError
from unrolled.tasks.caption import ALONE, CaptionTask, best
from unrolled.tasks.caption_config import CaptionConfig
from unrolled.tasks.caption_data import CaptionData

DATA: Final = "stamps"

ABOVE: Final = 1.0
"""Asked of BLEU-4 and of how often the noun is right, as a multiple of the nearest neighbour's."""
ON_OBJECT: Final = 1.5
"""Asked of the weight on the object's opaque pixels, as a multiple of what equal weights have there."""
HARD: Final = 0.9
"""Asked of BLEU-4 with hard attention, as a share of that with soft."""


def train(whole: CaptionedImages, config: CaptionConfig) -> tuple[Training, CaptionTask]:
    """All steps of a training, and what a beam writes of the held-out pictures then."""
    task = CaptionTask(CaptionData(whole, config), config)
    minutes = minutes_of(task)
    written = task.written(best(config), alone=False)
    found, alone, looked = task.scores(written), task.scores(task.written(ALONE)), task.focus(written)
    figures = {"bleu": found.bleu[3], "noun": found.noun.share}
    figures |= {"bleu, alone": alone.bleu[3], "noun, alone": alone.noun.share}
    if looked is not None:
        figures["focus"] = looked.weights
    return Training(minutes, figures), task


def measure(settings: Settings) -> Iterator[Record]:
    try:
        whole = named_captions(DATA)
    except DataError as error:
        yield Record(DATA, note=str(error), refused=True)
        return
    config = CaptionConfig()
    if settings.quick:
        config = replace(config, steps=10, hidden=32)
    pairs = {
        image: [train(whole, replace(config, image=image, seed=seed)) for seed in seeds(settings)]
        for image in ("soft", "hard")
    }
    nearest = pairs["soft"][0][1].baselines["nearest neighbour"]
    yield from records(
        *([training for training, _ in found] for found in pairs.values()),
        {"bleu": nearest.bleu[3], "noun": nearest.noun.share},
        asked=not settings.quick,
    )


def records(
    soft: list[Training], hard: list[Training], nearest: dict[str, float], asked: bool
) -> Iterator[Record]:
    """What is asked: of means over trainings."""

    def each(found: list[Training], name: str, unit: float = 1.0) -> list[float]:
        return [training.figures[name] / unit for training in found]

    def bar(value: float) -> float | None:
        return value if asked else None

    for name, told in (("bleu", "BLEU-4"), ("noun", "the same noun")):
        own, other = each(soft, name), nearest[name]
        note = f"{sum(own) / len(own):.3g} against {other:.3g}"
        yield mean(f"soft, {told}, over the nearest neighbour's", each(soft, name, other), bar(ABOVE), note)
        yield mean(f"soft, {told}, the network alone", each(soft, f"{name}, alone", other))
    yield mean("soft, weight on the object, over equal weights'", each(soft, "focus"), bar(ON_OBJECT))
    for name, told, asked_of in (
        ("bleu", "over soft's", bar(HARD)),
        ("bleu, alone", "the networks alone", None),
    ):
        own, other = (sum(each(found, name)) / len(found) for found in (hard, soft))
        note = f"{own:.3g} against {other:.3g}"
        yield mean(f"hard, BLEU-4, {told}", each(hard, name, other or 1.0), asked_of, note)
    yield longest("soft: training", [each.minutes for each in soft])
    yield longest("hard: training", [each.minutes for each in hard])


FAMILIES = (
    Family(
        "captions",
        "Captions of the stamps",
        measure,
        caption="538 pictures, a fifth held out; the defaults of `unrolled train caption stamps`, with "
        "`--image hard` beside it; features of EfficientNet-Lite0. Captions of a beam of 5, in the mean of "
        "three seeds, beside what people wrote of the picture of the training part that has the most similar "
        "features. In half of what is written the captions of similar pictures have their share "
        "(`--neighbours 0.5`); what the network does alone is beside it.",
    ),
)
