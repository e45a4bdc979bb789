"""What a monitor notes of a step of training: few and small numbers, so that thousands of them fit a file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final, Self

from torch import Tensor

from unrolled.errors import InputError
from unrolled.flow.gates import GateStatistics, gate_statistics
from unrolled.flow.lag import HALF, PERCENT, LagProfile, gradient_by_lag
from unrolled.flow.nan import nan_source
from unrolled.flow.records import Record, number
from unrolled.flow.spectra import usual_lags
from unrolled.flow.trace import Place, Recording

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Numbers = Mapping[str, float | None]
"""Numbers by name; None is one that is not finite, or cannot be told."""


NOTES: Final = 3
"""How many notes a summary has."""


class _Read(Record):
    """A record that can be had back from what `to_dict` gives."""

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """The record again; entries that it does not have are left out.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: it is no such record.
        """
        values = {field.name: found[field.name] for field in fields(cls)}  # type: ignore[arg-type]
        return cls(**{key: tuple(each) if isinstance(each, list) else each for key, each in values.items()})


@dataclass(frozen=True, repr=False)
class PlaceMeasurement(_Read):
    """One layer and direction at one step of training.

    Attributes:
        place: such as "l0", or "encoder.l0" where the layer is a part of a model.
        steps, rows: T and B of what was measured.
        lags, gradient: some lags from 0 on, and the norm of d loss_t / d state_{t-k} there; see `LagProfile`.
        half_life: the steps in which it halves; negative where it doubles, None if that cannot be told.
        half, percent: the first lag at which a half and a hundredth of it are left; None if it is further
            away than what was measured.
        gates: of each its "mean", the shares that are "low" and "high", and how many units are "dead".
        carries: by names such as "c by f" the "mean" of the factor, and of the steps that units remember the
            "median" and the "longest".
        states: of each its "norm", the root mean square, and its "growth" from early to late steps.
    """

    place: str
    steps: int
    rows: int
    lags: tuple[int, ...]
    gradient: tuple[float | None, ...]
    half_life: float | None
    half: int | None
    percent: int | None
    gates: Mapping[str, Numbers]
    carries: Mapping[str, Numbers]
    states: Mapping[str, Numbers]

    def scalars(self) -> Iterator[tuple[str, float]]:
        """Every number with a name, as "half_life" or "gradient at lag 10"."""
        yield from _told("", {"half_life": self.half_life, "half": self.half, "percent": self.percent})
        for lag, norm in zip(self.lags, self.gradient, strict=True):
            yield from _told("", {f"gradient at lag {lag}": norm})
        for group in (self.gates, self.carries, self.states):
            for name, numbers in group.items():
                yield from _told(f"{name} ", numbers)

    @property
    def reach(self) -> str:
        """How far back gradients go, in words."""
        if not self.lags:
            return "no gradient by lag"
        beyond = f"> {self.lags[-1]}"
        half, percent = (beyond if lag is None else str(lag) for lag in (self.half, self.percent))
        told = f"half of the gradient is left at lag {half}, 1% at lag {percent}"
        if self.half_life is not None:
            told += f"; it {'halves' if self.half_life > 0 else 'doubles'} every "
            told += f"{number(abs(self.half_life))} steps"
        return told

    def summary(self) -> str:
        lines = [f"{self.place}: {self.reach}"]
        for name, gate in self.gates.items():
            low, high = (f"{gate[end] or 0:.0%} {end}" for end in ("low", "high"))
            dead = f", {gate['dead']} units dead" if gate["dead"] else ""
            lines.append(f"    {name}: mean {_word(gate['mean'])}, {low}, {high}{dead}")
        for name, carry in self.carries.items():
            median, longest = _word(carry["median"]), _word(carry["longest"])
            lines.append(f"    {name}: units remember {median} steps (median), {longest} at most")
        for name, state in self.states.items():
            norm, growth = _word(state["norm"]), _word(state["growth"])
            lines.append(f"    {name}: size {norm}, {growth} times as large late as early")
        return "\n".join(lines)

    def _draw(self, ax: Axes) -> None:
        known = [(k, v) for k, v in zip(self.lags, self.gradient, strict=True) if v]
        ax.plot([k for k, _ in known], [v for _, v in known], "o-", markersize=3, label=self.place)
        ax.set_yscale("log")
        ax.set_xlabel("lag k, steps back from the loss")
        ax.set_ylabel("‖∂ loss_t / ∂ state_{t−k}‖")


@dataclass(frozen=True, repr=False)
class Measurement(_Read):
    """One step of training.

    Attributes:
        step: how many steps were done.
        seconds: since the monitor began; took: of those, to measure this.
        loss: of the step, if it was told.
        of: what gradients by lag are of: "loss", or "outputs" with random signs.
        places: every layer and direction.
        parameters, gradients: the norm of each parameter, and of its gradient as it was found.
        gradient_norm: that of all gradients together.
        clipped: whether it is at the limit or above; None if there is no limit, or no gradient.
        notes: what could not be measured and why, and what is not finite.
    """

    step: int
    seconds: float
    took: float
    loss: float | None
    of: str
    places: tuple[PlaceMeasurement, ...]
    parameters: Numbers
    gradients: Numbers
    gradient_norm: float | None
    clipped: bool | None
    notes: tuple[str, ...]

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        step = found["step"]
        if isinstance(step, bool) or not isinstance(step, int):
            raise TypeError("its step is no whole number")
        places = tuple(PlaceMeasurement.from_dict(each) for each in found["places"])
        return replace(super().from_dict(found), places=places)

    def __getitem__(self, place: str) -> PlaceMeasurement:
        return next(each for each in self.places if each.place == place)

    def scalars(self) -> Iterator[tuple[str, float]]:
        """Every number with a name, as "l0/half_life" or "gradient/head.weight"."""
        yield from _told("", {"loss": self.loss, "gradient norm": self.gradient_norm})
        for place in self.places:
            for name, value in place.scalars():
                yield f"{place.place}/{name}", value
        yield from _told("parameter/", self.parameters)
        yield from _told("gradient/", self.gradients)

    def summary(self) -> str:
        loss = "" if self.loss is None else f", loss {number(self.loss)}"
        lines = [f"step {self.step}{loss}"]
        if self.gradient_norm is not None:
            lines[0] += f", gradient {number(self.gradient_norm)}{' (clipped)' * bool(self.clipped)}"
        return "\n".join([*lines, *(place.summary() for place in self.places), *self.notes])

    def _draw(self, ax: Axes) -> None:
        for place in self.places:
            place._draw(ax)
        ax.legend(frameon=False)


def kept(value: float | Tensor | None) -> float | None:
    """A number as it is noted: six digits, and None where it is not finite."""
    return None if value is None or not math.isfinite(value) else float(f"{float(value):.6g}")


def measure(recording: Recording, under: str = "") -> tuple[list[PlaceMeasurement], list[str]]:
    """What is noted of every place of a recording, and what there is to say.

    Args:
        under: the name of the layer, if the recording is of a layer by itself.
    """
    notes: list[str] = []
    profiles: dict[str, LagProfile] = {}
    try:
        profiles = {each.place: each for each in gradient_by_lag(recording).profiles}
    except InputError as error:
        notes.append(str(error))
    found = [
        _of_place(place, statistics, profiles.get(place.name), under)
        for place, statistics in zip(recording.places, gate_statistics(recording), strict=True)
    ]
    finite = bool(recording.losses.isfinite().all())
    finite &= all(bool(v.isfinite().all()) for place in recording.places for v in place.states.values())
    finite &= all(bool(profile.norm.isfinite().all()) for profile in profiles.values())
    if not finite and (source := nan_source(recording)) is not None:
        notes.append(f"{under}.{source.words}" if under and source.place else source.words)
    return found, notes


def _of_place(
    place: Place, statistics: GateStatistics, profile: LagProfile | None, under: str
) -> PlaceMeasurement:
    last = len(profile.lags) - 1 if profile is not None else -1
    lags = [0, *usual_lags(last)] if last > 0 else []
    return PlaceMeasurement(
        ".".join(part for part in (under, place.name) if part),
        place.T,
        place.B,
        tuple(lags),
        tuple(kept(profile.norm[k]) for k in lags) if profile is not None else (),
        kept(profile.half_life) if profile is not None else None,
        profile.horizon(HALF) if profile is not None else None,
        profile.horizon(PERCENT) if profile is not None else None,
        {
            gate.name: {
                "mean": kept(gate.mean),
                "low": kept(gate.low),
                "high": kept(gate.high),
                "dead": int(gate.dead.sum()),
            }
            for gate in statistics.gates
        },
        {
            f"{carry.state} by {carry.gate}": {
                "mean": kept(carry.mean),
                "median": kept(carry.time.quantile(0.5)),
                "longest": kept(carry.time.max()),
            }
            for carry in statistics.carries
        },
        {
            name: {"norm": kept(norms.square().mean().sqrt()), "growth": kept(statistics.growth(name))}
            for name, norms in statistics.state_norms.items()
        },
    )


def summary(history: Sequence[Measurement]) -> str:
    """What became of a training: its first and its last measurement, clipping, and what there was to say."""
    if not history:
        return "nothing measured"
    first, last = history[0], history[-1]
    count = f"{len(history)} measurement{'s' * (len(history) > 1)}"
    lines = [f"{count}, from step {first.step} to {last.step}, of {_of(last)}"]
    losses = [each.loss for each in history if each.loss is not None]
    if losses:
        lines.append(f"loss {number(losses[0])} at first, {number(losses[-1])} at the end")
    for place in last.places:
        before = next((each for each in first.places if each.place == place.place), None)
        lines.append(f"{place.place} at step {last.step}: {place.reach}")
        if before is not None and first is not last:
            lines.append(f"    at step {first.step}: {before.reach}")
        lines += place.summary().splitlines()[1:]
    limits = [each.clipped for each in history if each.clipped is not None]
    if limits:
        lines.append(f"the gradient was clipped at {sum(limits)} of {len(limits)} measurements")
    said = [(each.step, note) for each in history for note in each.notes]
    lines += [f"step {step}: {note}" for step, note in said[:NOTES]]
    lines += [f"and {len(said) - NOTES} notes more"] * (len(said) > NOTES)
    return "\n".join(lines)


def _of(measurement: Measurement) -> str:
    return "the loss" if measurement.of == "loss" else "the layers' outputs with random signs"


def _told(prefix: str, numbers: Numbers) -> Iterator[tuple[str, float]]:
    for name, value in numbers.items():
        if value is not None:
            yield f"{prefix}{name}", value


def _word(value: float | None) -> str:
    return "?" if value is None else number(value)
