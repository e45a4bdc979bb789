"""What regularises or normalises a recurrence, against the same layer without it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, Final

import torch

from benchmarks.family import Family, Record, Settings
from benchmarks.layers import PAIRS
from benchmarks.paired import Comparison, interleave, refusal
from benchmarks.ragged import Step

REGULARISED, NORMALISED = 0.91, 0.71
"""Asked of the plain layer's time over ours: at most a tenth more, and at most 0.4 more."""

REGULARISERS: Final[dict[str, dict[str, Any]]] = {
    "zoneout": {"zoneout": {"h": 0.1}},
    "variational dropout": {"recurrent_dropout": 0.3},
}
NORMS: Final[dict[str, dict[str, Any]]] = {"layer norm": {"norm": "layer"}}


def _against_plain(settings: Settings, kinds: dict[str, dict[str, Any]], asked: float) -> Iterator[Record]:
    every = [torch.ones(1, 1, 1)]
    for name in ("LSTM", "GRU"):
        for what, options in kinds.items():
            for size in settings.sizes:
                subject = f"{name}, {what}"
                layer = PAIRS[name][0](size.D, size.H, **options)
                slow = copy.deepcopy(layer)
                slow.backend = "reference"
                masks = layer.masks(torch.Generator().manual_seed(2))
                checked, reference = (
                    Step(each, size, [{"masks": copy.deepcopy(masks)}], every) for each in (layer, slow)
                )
                if refused := refusal(subject, size, asked, checked, reference):
                    yield refused
                    continue
                plain = Step(PAIRS[name][0](size.D, size.H), size, [{}], every)
                times = interleave(Step(layer, size, [{}], every), plain, rounds=settings.rounds)
                yield Comparison(*times).record(subject, size, asked)


def regularisers(settings: Settings) -> Iterator[Record]:
    yield from _against_plain(settings, REGULARISERS, REGULARISED)


def norms(settings: Settings) -> Iterator[Record]:
    yield from _against_plain(settings, NORMS, NORMALISED)


FAMILIES = (
    Family(
        "regularisers",
        "Zoneout and variational dropout, against the same layer without",
        regularisers,
        mean=REGULARISED,
        caption="Forward and backward with all gradients; every call draws new masks. That they are right is "
        "checked against the PyTorch loop with the same masks.",
    ),
    Family(
        "norms",
        "Layer normalisation, against the same layer without",
        norms,
        mean=NORMALISED,
        caption="Forward and backward with all gradients. That they are right is checked against the PyTorch "
        "loop.",
    ),
)
