"""How well values along a text predict what is so there, for many units and predicates at once.

For a number it is the squared correlation, for yes or no the area under the ROC curve: how often the value is
higher at a yes than at a no, ties counting half. Direction and threshold are chosen on the first half of the
text, and the second is measured. What turns about between them has the score of no information, 0 or 0.5.

Both come from a sum over characters of what is made of the unit's values, which adds up to 0, times the
predicate: of deviations from the mean for a correlation, of ranks for an area (Mann & Whitney 1947). So one
matrix product scores many units for many predicates, at their place in the text and moved along it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from unrolled.tasks.predicates import Kind, Predicate

SHIFTS: Final = 19
"""How often each predicate is moved along the text."""

STEPS: Final = 8192
"""Characters of the text that are multiplied at once; sums over them are in float32, others in float64."""


def shifts_of(length: int) -> list[int]:
    """How far predicates of a text are moved along it; the same each time."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(length // 20, length - length // 20, (SHIFTS,), generator=generator).tolist()


def halves(values: Tensor) -> tuple[Tensor, Tensor]:
    """What is chosen on, and what is measured, along the last axis."""
    middle = values.shape[-1] // 2
    return values[..., :middle], values[..., middle:]


def why_not(predicate: Predicate, shifts: Sequence[int]) -> str:
    """Why a predicate cannot be told from its text; empty where it can."""
    values = predicate.values
    length, middle = len(values), len(values) // 2
    changes = (values != values.roll(1)).cumsum(0)
    changes = torch.cat([changes, changes + changes[-1]])

    def same(half: int, shift: int = 0) -> bool:
        """Whether it is the same throughout a half of the text, moved."""
        begin = length - shift + half * middle
        last = begin + (length - middle if half else middle) - 1
        return bool(changes[last] == changes[begin])

    if not changes[-1]:
        if predicate.kind == "number":
            return f"it is {values[0]:g} everywhere in this text"
        return f"it is so {'everywhere' if values[0] else 'nowhere'} in this text"
    for half, which in enumerate(("first", "second")):
        if same(half):
            return f"it is the same throughout the {which} half of this text"
    if sum(same(0, shift) or same(1, shift) for shift in shifts) > len(shifts) / 2:
        return "it changes too rarely in this text to be told from chance"
    return ""


class Targets:
    """P predicates of one kind, at their place in the text and moved along it, its end put in front."""

    def __init__(self, kind: Kind, predicates: Sequence[Predicate], shifts: Sequence[int]) -> None:
        self.kind, self.predicates = kind, predicates
        self._shifts = (0, *shifts)
        values = torch.stack([p.values for p in predicates])
        self._length = values.shape[1]
        if kind == "number":
            values = values - values.mean(1, keepdim=True)  # less is lost in sums of float32
        self._twice = torch.cat([values, values], 1).float()
        self._scales = [
            torch.cat([self._scale(self._at(half, shift)) for shift in self._shifts]) for half in (0, 1)
        ]

    def _at(self, half: int, shift: int) -> Tensor:
        """The predicates (P, N / 2) in a half of the text, moved."""
        begin, middle = self._length - shift, self._length // 2
        return self._twice[:, begin + half * middle : begin + (self._length if half else middle)]

    def _scale(self, target: Tensor) -> Tensor:
        """What the sums are multiplied with, (P,); 0 for a predicate that is the same everywhere."""
        if self.kind == "number":
            scale = 1 / (target.double() - target.double().mean(1, keepdim=True)).norm(dim=1)
        else:
            yes = target.sum(1, dtype=torch.float64)
            scale = 1 / (yes * (target.shape[1] - yes))
        return torch.where(target.amax(1) == target.amin(1), 0, scale)

    def scores(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Of units with these values (units, N): scores (1 + SHIFTS, units, P), and signs (units, P)."""
        first, second = (self._associations(part, half) for half, part in enumerate(halves(values)))
        aligned = (second * first.sign()).clamp_min(0)
        return aligned.square() if self.kind == "number" else 0.5 + aligned, first[0].sign()

    def _associations(self, values: Tensor, half: int) -> Tensor:
        """Correlations, or areas less 0.5, for each shift, unit and predicate."""
        units = standardised(values) if self.kind == "number" else centred_ranks(values)
        sums = torch.zeros(len(units), len(self._scales[half]), dtype=torch.float64)
        for first in range(0, units.shape[1], STEPS):
            part = slice(first, first + STEPS)
            moved = torch.cat([self._at(half, shift)[:, part] for shift in self._shifts])
            sums += units[:, part] @ moved.t()
        scaled = sums * self._scales[half]
        return scaled.view(len(units), len(self._shifts), len(self.predicates)).transpose(0, 1)


def standardised(values: Tensor) -> Tensor:
    """Deviations from the mean of each row, of length 1; zeros where all are the same. Float32."""
    away = values.float() - values.float().mean(1, keepdim=True)
    away -= away.mean(1, keepdim=True)  # what rounding has left
    same = values.amax(1, keepdim=True) == values.amin(1, keepdim=True)
    return away * torch.where(same, 0, 1 / away.norm(dim=1, keepdim=True))


def centred_ranks(values: Tensor) -> Tensor:
    """The rank of each value in its row, less the mean rank; equal values share the mean of theirs. Float32,
    as are the values that are compared."""
    return torch.stack([_ranks(row) for row in values]) - (values.shape[1] - 1) / 2


def _ranks(row: Tensor) -> Tensor:
    keys, order = _ordered(row)
    begins = torch.ones(len(row) + 1, dtype=torch.bool)
    begins[1:-1] = keys[1:] != keys[:-1]
    edges = begins.nonzero().squeeze(1)
    counts = edges.diff()
    shared = (edges[:-1] + (counts - 1) / 2).float().repeat_interleave(counts)
    return torch.empty(len(row)).scatter_(0, order, shared)


def _ordered(row: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers that are ordered as the values are, from the lowest, and where each value was.

    The bits of a float, read as a whole number, are in its order but for the sign. Torch sorts whole numbers
    by their digits, ten times as fast.
    """
    bits = (row.float() + 0.0).view(torch.int32)  # -0 becomes 0
    keys, order = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).sort()
    return keys, order


def best_threshold(values: Tensor, target: Tensor, sign: int) -> tuple[float, float]:
    """The threshold with the highest balanced accuracy on the first half, and that accuracy on the second.

    Args:
        values: (N,), of a unit.
        target: (N,), 0 or 1, both in each half.
        sign: 1 where yes is above the threshold, -1 where it is below; 0 counts as 1.
    """
    sign = sign or 1
    first, second = halves(values.float() * sign)
    yes, truth = (half.double() for half in halves(target))
    keys, order = _ordered(first)
    misses = yes[order].cumsum(0)  # at or below each value
    rejected = torch.arange(1, len(first) + 1) - misses
    balanced = rejected / rejected[-1] - misses / misses[-1]
    cut = int(torch.where(keys[1:] > keys[:-1], balanced[:-1], -2.0).argmax())
    threshold = float(first[order[cut : cut + 2]].double().mean())
    said = (second > threshold).double()
    right = (said @ truth / truth.sum() + (1 - said) @ (1 - truth) / (1 - truth).sum()) / 2
    return sign * threshold, float(right)


def character_score(predicate: Predicate, ids: Tensor) -> float:
    """The score of the last character alone: of the predicate's mean at each character in the first half.

    Args:
        ids: (N,), the text.
    """
    (before, after), (known, truth) = halves(ids), halves(predicate.values)
    symbols = int(ids.max()) + 1
    counts = before.bincount(minlength=symbols)
    sums = before.bincount(known, minlength=symbols)
    guess = torch.where(counts > 0, sums / counts, known.mean())[after].unsqueeze(0)
    if predicate.kind == "number":
        found = standardised(guess)[0].double() @ standardised(truth.unsqueeze(0))[0].double()
        return float(found.clamp_min(0).square())
    pairs = truth.sum() * (1 - truth).sum()
    return float((centred_ranks(guess)[0].double() @ truth / pairs).clamp_min(0) + 0.5)
