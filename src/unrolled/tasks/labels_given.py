"""Labels for what a trained model is given: lines of text, words, frames."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

import torch
from torch import Tensor

from unrolled.errors import InputError
from unrolled.tasks.labels import probabilities
from unrolled.tasks.labels_examples import Batch
from unrolled.tasks.labels_runs import Opened
from unrolled.tasks.labels_series import numbers_in
from unrolled.tasks.labels_words import Lexicon, words_of

FRAMES: Final = 64
"""Sequences of frames that are labelled at once."""


def label_lines(opened: Opened, lines: Iterable[str], separated: bool = False) -> Iterator[str]:
    """What `unrolled label` writes for each line of text, as soon as it is there.

    Args:
        separated: blanks already separate the words of a line, and its signs.

    Yields:
        of a model of texts, label, probability and text; of one of words, word, tag and probability for each,
        and an empty line. A line without words gives an empty line.
    """
    lexicon = Lexicon.from_json(opened.reads["lexicon"])
    for line in lines:
        words = line.split() if separated else words_of(line)
        if not words:
            yield ""
            continue
        row = label_words(opened, lexicon, words)
        if row.ndim == 1:
            best = int(row.argmax())
            yield f"{opened.classes[best]}\t{row[best]:.3f}\t{line.strip()}"
            continue
        values, places = row.max(-1)
        for word, value, place in zip(words, values.tolist(), places.tolist(), strict=True):
            yield f"{word}\t{opened.classes[place]}\t{value:.3f}"
        yield ""


def label_words(opened: Opened, lexicon: Lexicon, words: list[str]) -> Tensor:
    """Probabilities (classes,) of a text, or (T, classes) of its words."""
    x = lexicon.encode(words).unsqueeze(1)
    found = probabilities(opened.model, Batch(x, torch.tensor([len(words)]), torch.zeros(1)))
    return found.squeeze(-2)


def label_numbers(opened: Opened, lines: Iterable[str]) -> Iterator[str]:
    """What `unrolled label` writes for each line of numbers: label, probability, and how many there are. A
    line without numbers gives an empty line.

    Raises:
        DataError: a line has something else.
    """
    dtype = getattr(torch, opened.config.dtype)
    for place, line in enumerate(lines, 1):
        values = numbers_in([cell for cell in re.split(r"[\s,]+", line) if cell], f"line {place:,}")
        if not values:
            yield ""
            continue
        x = torch.tensor(values, dtype=dtype).view(-1, 1, 1)
        row = probabilities(opened.model, Batch(x, torch.tensor([len(x)]), torch.zeros(1)))[0]
        best = int(row.argmax())
        yield f"{opened.classes[best]}\t{row[best]:.3f}\t{len(x)}"


def label_frames(opened: Opened, frames: Tensor) -> Iterator[str]:
    """What `unrolled label` writes for sequences of frames, bytes (N, T, H, W): number of the sequence and of
    the frame, from 1, label and probability.

    Raises:
        InputError: they are of another size than those that the model was trained on.
    """
    size: Any = opened.reads["size"]
    if [*frames.shape[2:]] != size:
        given, known = (" x ".join(map(str, each)) for each in (frames.shape[2:], size))
        raise InputError(f"the frames are of {given} pixels, and the model labels frames of {known}")
    dtype = getattr(torch, opened.config.dtype)
    for begin in range(0, len(frames), FRAMES):
        x = (frames[begin : begin + FRAMES].to(dtype) / 255).transpose(0, 1)
        T, B = x.shape[:2]
        values, places = probabilities(opened.model, Batch(x, torch.full((B,), T), torch.zeros(B))).max(-1)
        for b in range(B):
            for t in range(T):
                yield f"{begin + b + 1}\t{t + 1}\t{opened.classes[int(places[t, b])]}\t{values[t, b]:.3f}"
