"""Small data with labels, which networks learn in a second."""

import random

import numpy as np
import torch

from unrolled.data.labelled import LabelledText
from unrolled.data.pictures import Pictures
from unrolled.data.tagged import TaggedSentence

GOOD, BAD = ("fine", "funny", "warm", "clever", "bright"), ("dull", "flat", "cold", "silly", "grey")
FILLING = ("the", "film", "is", "and", "a", "story", "of", "very", "it", "was")


def texts(count: int = 240) -> list[LabelledText]:
    """Of 3 to 12 words, one of which tells."""
    source, found = random.Random(0), []
    for k in range(count):
        words = source.choices(FILLING, k=source.randint(2, 11))
        words.insert(source.randrange(len(words) + 1), source.choice((BAD, GOOD)[k % 2]))
        found.append(LabelledText(f"{' '.join(words)} {k}", ("negative", "positive")[k % 2]))
    return found


def sentences(count: int = 200) -> list[TaggedSentence]:
    """In which "flies" is a noun behind "the" and a verb otherwise."""
    source, found = random.Random(0), []
    for k in range(count):
        words, tags = [], []
        for _ in range(source.randint(1, 4)):
            words += ["the", source.choice(("flies", "bird", "plane")), source.choice(("flies", "sings"))]
            tags += ["DET", "NOUN", "VERB"]
        found.append(TaggedSentence((*words, str(k)), (*tags, "NUM")))
    return found


def blobs(count: int = 60, classes: int = 3, size: int = 4) -> Pictures:
    """Noisy pictures of a few patterns."""
    generator = torch.Generator().manual_seed(1)
    patterns = (torch.rand(classes, size, size, generator=generator) < 0.5).float()
    labels = torch.arange(count) % classes
    pixels = patterns[labels] + 0.1 * torch.rand(count, size, size, generator=generator)
    return Pictures("blobs", pixels / pixels.max(), labels, classes)


def waves(count: int = 120) -> list[tuple[str, torch.Tensor]]:
    """Slow and fast ones, of 15 to 30 steps."""
    source = np.random.default_rng(0)
    found = []
    for k in range(count):
        steps = np.arange(source.integers(15, 31))
        values = np.sin(steps * (0.3, 0.9)[k % 2] + source.uniform(0, 6)) + source.normal(0, 0.1, len(steps))
        found.append((("slow", "fast")[k % 2], torch.from_numpy(values)))
    return found
