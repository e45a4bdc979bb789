"""What single units stand for: how well each predicts a property of the text that the network reads.

After Karpathy, Johnson & Li (2015, arXiv:1506.02078), who looked for units of character models that count the
position in a line or remember an open quotation. Here every unit of every state is measured against every
predicate, on text that its direction and threshold were not chosen on (see `association`), beside two others:

- chance, the best score of any unit for the same predicate moved along the text. So moved it keeps its runs
  and its period, which a network can follow by accident. It is the highest for SHIFTS such moves; without any
  relation the true place would be above all of them once in SHIFTS + 1 times.
- the character that was read last, alone: what is above it needs a memory.

Not here: what several units say together, and causes. A unit may follow a predicate and not be used for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from unrolled.errors import DataError, InputError, check_sizes
from unrolled.tasks.association import Targets, best_threshold, character_score, shifts_of, why_not
from unrolled.tasks.char import CharModel, evaluating
from unrolled.tasks.predicates import Kind, Predicate

LEAST: Final = 1000
"""Characters of the shortest text in which units are told from chance."""

CLEAR: Final = 0.3
"""How much of the way from chance to a perfect score a unit must go to be clear."""

WEAK: Final = 0.05
"""The same to be weak, and not none."""

CHUNK: Final = 1000
"""Steps that the network makes at once."""

HELD: Final = 1 << 27
"""State values that are held at once; for more units the network reads the text again."""

BLOCK: Final = 1 << 24
"""State values that are scored at once, at some 20 bytes each."""

Read = Callable[[Sequence[int]], Tensor]
"""From the places of units in a list of them to their values at every character, (units, N)."""


class Unit(NamedTuple):
    """One number of a network's state."""

    layer: int
    state: str
    unit: int

    def __str__(self) -> str:
        return f"l{self.layer}.{self.state}[{self.unit}]"


@dataclass(frozen=True)
class UnitScore:
    """How well one unit predicts one predicate.

    Attributes:
        score: on the second half of the text; squared correlation, or area under the ROC curve.
        chance: the best score of any unit for the predicate at another place of the text.
        character: the score of the character that was read last, alone.
        sign: 1 where the unit rises with the predicate, -1 where it falls; 0 where it does neither.
        threshold: of the unit's value, between no and yes; None for a number.
        balanced_accuracy: with that threshold, the mean of what is right at a yes and at a no.
    """

    layer: int
    state: str
    unit: int
    predicate: str
    kind: Kind
    score: float
    chance: float
    character: float
    sign: int
    threshold: float | None = None
    balanced_accuracy: float | None = None

    @property
    def of(self) -> Unit:
        """The unit."""
        return Unit(self.layer, self.state, self.unit)

    @property
    def name(self) -> str:
        """As in l0.c[17]."""
        return str(self.of)

    @property
    def gain(self) -> float:
        """The part of the way from chance to a perfect score, 1; below 0 where it is worse than chance."""
        return _part_of_way(self.score, self.chance)

    @property
    def beyond(self) -> float:
        """The same from chance or the last character, whichever is better."""
        return _part_of_way(self.score, max(self.chance, self.character))

    @property
    def verdict(self) -> str:
        """clear, weak or none, by the gain."""
        return _in_a_word(self.gain)

    @property
    def memory(self) -> str:
        """The same by what is beyond the last character: whether the unit remembers."""
        return _in_a_word(self.beyond)

    def to_dict(self) -> dict[str, Any]:
        derived = {"gain": self.gain, "beyond": self.beyond, "verdict": self.verdict, "memory": self.memory}
        return {"name": self.name, **asdict(self), **derived}


def _in_a_word(part: float) -> str:
    return "clear" if part >= CLEAR else "weak" if part >= WEAK else "none"


def _part_of_way(score: float, start: float) -> float:
    return (score - start) / (1 - start) if start < 1 else 0.0


@dataclass(frozen=True)
class Units:
    """The best units for each predicate.

    Attributes:
        characters: N, of the text.
        units: how many there are.
        scores: predicate by predicate, the best unit first; predicates by how far that is `beyond`.
        untold: predicates that cannot be told from this text, and why.
    """

    characters: int
    units: int
    scores: tuple[UnitScore, ...]
    untold: Mapping[str, str]

    @property
    def predicates(self) -> list[str]:
        """Those with scores, in their order."""
        return list(dict.fromkeys(score.predicate for score in self.scores))

    def best(self, predicate: str) -> UnitScore:
        """The best unit for a predicate. Raises InputError where it has none."""
        for score in self.scores:
            if score.predicate == predicate:
                return score
        why = self.untold.get(predicate, "it was not measured")
        raise InputError(f"no unit was scored for {predicate!r}: {why}")

    def to_dict(self) -> dict[str, Any]:
        return {
            "characters": self.characters,
            "units": self.units,
            "best": [self.best(name).to_dict() for name in self.predicates],
            "scores": [score.to_dict() for score in self.scores],
            "untold": dict(self.untold),
        }


class States:
    """The states of a character model after each character of a text, in one stream from its beginning.

    Called with places in `units`, it gives their values, (units, N): the network runs each time, and only
    what was asked for is kept.

    Args:
        ids: (N,), the text.
    """

    def __init__(self, model: CharModel, ids: Tensor) -> None:
        self._model, self._ids = model, ids
        sizes = model.layer.state_sizes
        self.units = [
            Unit(layer, name, unit)
            for layer in range(model.layer.num_layers)
            for name, size in sizes.items()
            for unit in range(size)
        ]

    def __call__(self, places: Sequence[int]) -> Tensor:
        layer, state = self._model.layer, None
        values = torch.empty(len(places), len(self._ids), dtype=layer.dtype)
        wanted = torch.tensor(places)
        with evaluating(self._model), torch.no_grad():
            for start in range(0, len(self._ids), CHUNK):
                tokens = self._ids[start : start + CHUNK].unsqueeze(1)
                _, state, steps = layer(tokens, state, return_states=True)
                each = [steps[name][k, :, 0] for k in range(layer.num_layers) for name in layer.state_sizes]
                values[:, start : start + CHUNK] = torch.cat(each, 1)[:, wanted].t()
        return values


def score(
    read: Read, units: Sequence[Unit], predicates: Sequence[Predicate], ids: Tensor, keep: int = 5
) -> Units:
    """Score units for predicates of the text that they were read on.

    Args:
        read: gives the values of units, such as `States`.
        predicates: of a text of N characters.
        ids: (N,), that text.
        keep: how many of the best units are kept for each predicate.

    Raises:
        DataError: the text is shorter than LEAST.
        InputError: there are no units or predicates, or none are to be kept.

    Time: two sorts of the values of each unit. Memory: HELD values, and what BLOCK of them take.
    """
    check_sizes(units=len(units), predicates=len(predicates), keep=keep)
    length = len(ids)
    if length < LEAST:
        raise DataError(
            f"the text has {length:,} characters, and units are told from chance in {LEAST:,} at least: "
            "give a longer text"
        )
    shifts = shifts_of(length)
    reasons = {p.name: why_not(p, shifts) for p in predicates}
    told = [p for p in predicates if not reasons[p.name]]
    kinds = dict.fromkeys(p.kind for p in told)
    targets = [Targets(kind, [p for p in told if p.kind == kind], shifts) for kind in kinds]
    found: list[list[tuple[Tensor, Tensor]]] = [[] for _ in targets]
    for values in _blocks(read, len(units), length) if told else ():
        for target, parts in zip(targets, found, strict=True):
            parts.append(target.scores(values))
    groups: list[list[UnitScore]] = []
    for target, parts in zip(targets, found, strict=True):
        scores, signs = (torch.cat(each, -2) for each in zip(*parts, strict=True))
        chance = scores[1:].amax((0, 1))
        best = scores[0].topk(min(keep, len(units)), 0).indices
        for p, predicate in enumerate(target.predicates):
            luck, alone = float(chance[p]), character_score(predicate, ids)
            group = []
            for k in best[:, p].tolist():
                value, sign = float(scores[0, k, p]), int(signs[k, p])
                layer, state, unit = units[k]
                group.append(
                    UnitScore(layer, state, unit, predicate.name, predicate.kind, value, luck, alone, sign)
                )
            groups.append(group)
    groups.sort(key=lambda group: -group[0].beyond)
    kept = _with_thresholds([each for group in groups for each in group], read, units, predicates)
    return Units(length, len(units), tuple(kept), {name: why for name, why in reasons.items() if why})


def _blocks(read: Read, count: int, length: int) -> Iterator[Tensor]:
    """The values of all units at every character, some units at a time."""
    held, block = (max(1, values // length) for values in (HELD, BLOCK))
    for start in range(0, count, held):
        values = read(range(start, min(start + held, count)))
        for first in range(0, len(values), block):
            yield values[first : first + block]


def _with_thresholds(
    scores: Sequence[UnitScore], read: Read, units: Sequence[Unit], predicates: Sequence[Predicate]
) -> Iterator[UnitScore]:
    """The scores, with threshold and balanced accuracy where they are for a yes/no."""
    place = {unit: k for k, unit in enumerate(units)}
    wanted = list(dict.fromkeys(score.of for score in scores if score.kind == "yes/no"))
    values = dict(zip(wanted, read([place[unit] for unit in wanted]) if wanted else (), strict=True))
    targets = {p.name: p.values for p in predicates}
    for score in scores:
        if score.kind == "number":
            yield score
        else:
            found = best_threshold(values[score.of], targets[score.predicate], score.sign)
            yield replace(score, threshold=found[0], balanced_accuracy=found[1])
