"""What may be found, what a diagnosis knows of a network, and the words for it.

Rules are functions of what is known (`Seen`). They give findings, and in words what cannot be told: never a
number where it would not be valid. What they compare are ratios, so that a threshold holds for any size,
scale of the loss and precision.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from unrolled.errors import InputError
from unrolled.flow.gates import Carry, GateStatistics, gate_statistics
from unrolled.flow.jacobian import jacobians
from unrolled.flow.lag import GradientByLag, LagProfile, gradient_by_lag
from unrolled.flow.nan import NanSource, Words, nan_source
from unrolled.flow.records import number
from unrolled.flow.spectra import BLOCKS, Lyapunov, exponents
from unrolled.flow.trace import Place, Recording
from unrolled.nn.initialise import GATES

if TYPE_CHECKING:
    from unrolled.flow.rules_training import History

LEVELS: Final = ("serious", "warning", "note")
"""The worst first. A note alone does not make a network ill."""

PART: Final = 4
"""Where nobody says how far back a task needs to reach, a quarter of the sequence is taken for it."""

SHORT: Final = 20
"""Of sequences shorter than this nothing is said about a memory that nobody asked for."""

ENDS: Final = 0.05
"""A value is at an end of a gate's range that is within this part of the range from it."""

ROWS: Final = 4
"""Sequences whose Jacobians are multiplied for an exponent."""

STEPS: Final = 400
"""And steps, the last ones."""

WIDEST: Final = 1024
"""States wider than this have no exponents measured: the Jacobians of a hundred steps take a gigabyte."""


@dataclass(frozen=True, repr=False)
class Finding(Words):
    """Something that is wrong, or worth a note.

    Attributes:
        name: of the cause, such as "vanishing-through-time"; it stays the same.
        level: "serious", "warning" or "note".
        place: the layer and direction, such as "l0"; "" where it is the whole network, or its training.
        title: what is wrong, in a sentence.
        evidence: what was measured, by what it is.
        threshold: what the rule asks, in words.
        remedy: what to do, in this library's terms.
    """

    name: str
    level: str
    place: str
    title: str
    evidence: Mapping[str, Any]
    threshold: str
    remedy: str

    def summary(self) -> str:
        measured = ", ".join(
            f"{what} {number(value) if isinstance(value, float) else value}"
            for what, value in self.evidence.items()
        )
        told = f"{self.level}: {self.title} {self.remedy}"
        return f"{told}\n    measured: {measured}\n    asked: {self.threshold}"


@dataclass(frozen=True, repr=False)
class Unknown(Words):
    """What a rule could not tell of a place, or of the whole network where that is "", and why."""

    rule: str
    place: str
    why: str

    def summary(self) -> str:
        return f"not told: {self.rule}{f' of {self.place}' * bool(self.place)}: {self.why}"


class Untold(Exception):
    """A rule cannot be told at all, or not of a place; the message says why."""


class Seen:
    """What is known of a network on a batch, measured when a rule asks for it.

    Args:
        recording: the run.
        model: what ran, for the gradients of its parameters; None if only the recording is there.
        history: of a training; None if there was none.
        needed: the steps that the task needs to reach back; None if nobody knows.
        bptt: the steps that gradients go back in training; None for all.
        cosines: of the gradient that goes k2 steps back with the exact one, by k2.
    """

    def __init__(
        self,
        recording: Recording,
        model: nn.Module | None = None,
        *,
        history: History | None = None,
        needed: int | None = None,
        bptt: int | None = None,
        cosines: Mapping[int, float] | None = None,
    ) -> None:
        self.recording, self.model, self.history = recording, model, history
        self.needed, self.bptt, self.cosines = needed, bptt, cosines or {}
        self.everywhere = recording.places
        self.in_time = tuple(place for place in recording.places if not place.depth)
        self.deep = tuple(place for place in recording.places if place.depth)
        self._exponents: dict[str, Lyapunov] = {}

    @property
    def places(self) -> tuple[Place, ...]:
        """The layers and directions that go through time.

        Raises:
            Untold: there is none.
        """
        if not self.in_time:
            raise Untold("there are layers through depth only, and none through time")
        return self.in_time

    @cached_property
    def source(self) -> NanSource | None:
        """Where the first value that is not finite comes from."""
        named = self.model.named_parameters() if self.model is not None else ()
        return nan_source(self.recording, parameters=named)

    @cached_property
    def gates(self) -> dict[str, GateStatistics]:
        """Of each place, by name."""
        self._asked_for_finite("gates and states")
        return {each.place: each for each in gate_statistics(self.recording, threshold=ENDS)}

    @cached_property
    def gradients(self) -> GradientByLag:
        """By lag, of the last step that has a loss."""
        self._asked_for_finite("values")
        losses, at = self.recording.losses, -1
        if losses.ndim == 2 and bool((self.everywhere[0].lengths == len(losses)).all()):
            asked = torch.nonzero(losses.detach().any(1)).flatten()
            at = int(asked[-1]) if len(asked) else -1
        try:
            return gradient_by_lag(self.recording, at=at)
        except InputError as error:
            raise Untold(str(error)) from error

    def _asked_for_finite(self, what: str) -> None:
        if self.source is not None and not self.source.kind.startswith("gradient"):
            raise Untold(f"{what} are not finite, see nan")

    def profile(self, place: Place) -> LagProfile:
        return self.gradients[place.name]

    def reach(self, place: Place) -> int:
        """The lag up to which a gradient is asked for.

        Raises:
            Untold: the sequences are too short to tell.
        """
        T = int(place.lengths.max())
        if self.needed is not None:
            if self.needed > T:
                raise Untold(f"the task needs {self.needed} steps, but the batch has only {T}")
            return self.needed
        if T < SHORT:
            raise Untold(f"{T} steps are too few to say what is needed: give longer sequences, or needed=")
        return T // PART

    def stacks(self) -> list[list[Place]]:
        """Layers of one direction on top of each other, the lowest first."""
        found: dict[tuple[str, bool], list[Place]] = {}
        for place in self.places:
            found.setdefault((stack_of(place), place.reverse), []).append(place)
        return [*found.values()]

    def exponent(self, place: Place) -> Lyapunov:
        """The largest Lyapunov exponent of a layer, along a few sequences.

        Raises:
            Untold: there are too few steps, or the state is too wide.
        """
        if place.name not in self._exponents:
            T, S = int(place.lengths.max()), sum(v.shape[-1] for v in place.states.values())
            few, first = place.of_sequences(ROWS), max(0, T - STEPS)
            if S > WIDEST:
                raise Untold(f"a state of {S} units is too wide: unrolled.flow.lyapunov takes its time")
            if T - T // 10 < 2 * BLOCKS:
                raise Untold(f"{T} steps are too few for an exponent and its error")
            if not bool((few.lengths == T).all()):
                raise Untold("exponents are of sequences that are all of one length")
            factors = (J for block in jacobians(few, first) for J in block)
            try:
                self._exponents[place.name] = exponents(factors, T - first, count=1, name=place.name)
            except InputError as error:
                raise Untold(str(error)) from error
        return self._exponents[place.name]


Rule = Callable[[Seen], Iterator[Finding | Unknown]]


def stack_of(place: Place) -> str:
    """The module that a layer belongs to."""
    return place.name.rpartition(".")[0]


def layer_of(place: Place) -> int:
    """Its number from the bottom, from 0."""
    found = re.match(r"l(\d+)", place.name.rpartition(".")[2])
    return int(found[1]) if found else 0


def where(place: Place) -> str:
    """A place in words, as in "layer 2, cell lstm"."""
    stack = f" of {stack_of(place)}" * (stack_of(place) not in ("", "layer", "layers"))
    if place.depth:
        return f"{place.T} layers{stack}, cell {place.cell.name.replace(' with no input', '')}"
    again = place.name.partition(" #")[2]
    turn = f" (run {again})" * bool(again)
    return f"layer {layer_of(place) + 1}{stack}{' backwards' * place.reverse}{turn}, cell {place.cell.name}"


def base(place: Place) -> str:
    """The cell's name in the zoo."""
    return place.cell.name.partition("(")[0].partition(" ")[0]


def known(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """Without what could not be measured."""
    return {
        what: value
        for what, value in evidence.items()
        if value is not None and not (isinstance(value, float) and math.isnan(value))
    }


def left(profile: LagProfile, lag: int) -> float:
    """The part of a gradient that is left at a lag; NaN if there is none. It is compared with lag 1: at lag 0
    an LSTM's cell is not yet seen, and what its output gate takes away there is not lost through time."""
    first = float(profile.norm[min(1, len(profile.norm) - 1)])
    if not first > 0:
        return 0.0 if float(profile.norm[0]) > 0 else math.nan
    return float(profile.norm[lag]) / first


def bias_of(place: Place, gate: str) -> str | None:
    """The name of a gate's bias."""
    return next((name for name in (f"{gate}.bias", f"bias_{gate}") if name in place.parameters), None)


def carry_of(gates: GateStatistics) -> Carry | None:
    """What carries a state the furthest."""
    return max(gates.carries, key=lambda each: each.mean, default=None)


def gate_of(carry: Carry) -> tuple[str, int]:
    """The gate behind what carries a state, and the sign of a bias that opens it."""
    gate = carry.gate.removeprefix("1 − ")
    return gate, 1 if gate == carry.gate else -1


def of_gate(place: Place, carry: Carry) -> str:
    """What there is to say of the gate that carries a state."""
    key = bias_of(place, gate_of(carry)[0])
    bias = f" (bias {float(place.parameters[key].float().mean()):.2g})" if key else ""
    named = "forget gates average"
    if carry.gate != "f":
        named = f"{carry.gate} carries {carry.state} and averages"
    return f"{named} {carry.mean:.2f}{bias}"


def opening(place: Place, carry: Carry | None, reach: int) -> str:
    """How to start a layer so that a tenth of its state is left so many steps later."""
    if carry is None:
        if base(place) == "indrnn":
            return "Start each unit's own weight at 1: init={'u': 1.0}."
        start = "identity" if any(node.kind == "relu" for node in place.graph.nodes) else "orthogonal"
        return f"Start recurrent matrices that keep lengths, init={{'*.h': '{start}'}}; or use lstm or gru."
    gate, sign = gate_of(carry)
    key = bias_of(place, gate)
    if key is None:
        return f"Give {gate} a bias, and start it open."
    kept = 0.1 ** (1 / reach)
    low = max(1, math.floor(math.log(kept / (1 - kept))))
    chrono = f", or unrolled.nn.chrono_(layer, {max(3, int(place.lengths.max()))})" * (base(place) in GATES)
    if base(place) in ("lstm", "layer_norm_lstm"):
        return f"Start them open: forget_bias={low} or {low + 1}{chrono}."
    return f"Start it open: init={{'{key}': {sign * (low + 1)}}}{chrono}."
