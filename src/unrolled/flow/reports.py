"""One page about the gradient flow of a network: the verdict, then the figures it rests on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn

from unrolled.errors import InputError
from unrolled.flow.diagnose import Diagnosis, diagnose
from unrolled.flow.gates import GateStatistics, gate_statistics
from unrolled.flow.jacobian import jacobian_parts
from unrolled.flow.lag import GradientByLag, gradient_by_lag
from unrolled.flow.records import plain
from unrolled.flow.sections import findings_of, sections_of
from unrolled.flow.spectra import (
    LagSpectrum,
    Lyapunov,
    StepSpectra,
    lag_spectrum,
    lyapunov,
    step_spectra,
    usual_lags,
)
from unrolled.flow.trace import Losses, Place, record
from unrolled.report.page import Part, page

WORK: Final = 200 * 2 * 128**3
"""Steps, times sequences, times the cube of the state's width, for which Jacobians are decomposed."""

EXPONENTS: Final = 8
"""Lyapunov exponents of a place, at most."""

Said = Callable[[str], None]
"""Told what is being measured."""


@dataclass(frozen=True, repr=False)
class Report:
    """Everything that was measured for a page.

    Attributes:
        title, subtitle: of the page.
        places: every layer and direction.
        diagnosis: the verdict.
        by_lag: gradients of the last loss by lag, and `weights` how those of matrices are made up.
        gates: of every place.
        steps, lags: spectra of Jacobians by place; those that somebody had no patience for are missing.
        parts: the Jacobian of a step in the middle by map, as norms, by place.
        exponents: the largest Lyapunov exponents, by place.
        history: of the training.
        untold: what could not be measured, in words.
    """

    title: str
    subtitle: str
    places: tuple[Place, ...]
    diagnosis: Diagnosis
    by_lag: GradientByLag | None
    gates: tuple[GateStatistics, ...]
    steps: Mapping[str, StepSpectra]
    lags: Mapping[str, LagSpectrum]
    parts: Mapping[str, Mapping[str, float]]
    exponents: Mapping[str, Lyapunov]
    history: Sequence[Any] = ()
    untold: Sequence[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """All numbers as plain data."""
        return {
            "title": self.title,
            "subtitle": self.subtitle,
            "diagnosis": self.diagnosis.to_dict(),
            "by_lag": plain(self.by_lag),
            "gates": plain(self.gates),
            "steps": plain(dict(self.steps)),
            "lags": plain(dict(self.lags)),
            "parts": plain(dict(self.parts)),
            "exponents": plain(dict(self.exponents)),
            "untold": list(self.untold),
        }

    def part(self) -> Part:
        """What it finds and shows, for a page."""
        return Part([*findings_of(self.diagnosis)], [*sections_of(self)])

    def html(self) -> str:
        """A page of its own."""
        footer = " ".join(("Measured by `unrolled.flow`.", *(f"{each}." for each in self.untold)))
        part = self.part()
        return page(self.title, self.subtitle, part.findings, part.sections, footer)

    def __repr__(self) -> str:
        return f"{self.title}: {self.subtitle}\n{self.diagnosis.summary()}"

    def _repr_html_(self) -> str:
        return f'<iframe srcdoc="{escape(self.html())}" width="100%" height="900"></iframe>'


def report(
    model: nn.Module,
    batch: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    losses: Losses | None = None,
    history: Iterable[Any] | None = None,
    clip: float | None = None,
    bptt: int | None = None,
    title: str | None = None,
    subtitle: str | None = None,
    say: Said | None = None,
) -> Report:
    """Measure the gradient flow of a model on a batch, and write one page that opens without a network.

        flow.report(model, batch, "flow.html")

    Ctrl-C ends the measurement that is under way; what is done is kept.

    Args:
        model, batch, losses: see `unrolled.flow.record`.
        path: where the page is written; without it, it is had from the report's `html()`.
        history: measurements of a `unrolled.flow.Monitor`, records of a run's metrics, or both.
        clip, bptt: how the model was trained, see `unrolled.flow.diagnose`.
        title, subtitle: of the page.
        say: told what is being measured, as it begins.

    Raises:
        InputError: see `unrolled.flow.record`; or the page cannot be written.
    """
    say = say or (lambda what: None)
    say("running the model")
    recording = record(model, batch, losses)
    places, untold = recording.places, []
    past = [*history] if history is not None else []
    say("looking for what is wrong")
    noted = [each for each in past if isinstance(each, Mapping)] or past
    found = diagnose(recording, history=noted or None, clip=clip, bptt=bptt)
    by_lag = None
    try:
        by_lag = gradient_by_lag(recording, weights=True)
    except InputError as error:
        untold.append(f"Gradients by lag could not be told: {error}")
    gates = gate_statistics(recording)
    steps: dict[str, StepSpectra] = {}
    lags: dict[str, LagSpectrum] = {}
    parts: dict[str, dict[str, float]] = {}
    along: dict[str, Lyapunov] = {}
    try:
        for place in places:
            say(f"{place.name}: Jacobians of steps, and of many steps together")
            try:
                steps[place.name], lags[place.name] = _spectra(place)
                parts[place.name] = _norms(jacobian_parts(place.of_sequences(1), place.T // 2))
                along[place.name] = lyapunov(place.of_sequences(2), count=EXPONENTS)
            except InputError as error:
                untold.append(f"Spectra of {place.name} could not be told: {error}")
    except KeyboardInterrupt:
        untold.append("It was stopped before all Jacobians were done")
    T, B = places[0].T, places[0].B
    made = Report(
        title or f"Gradient flow of {type(model).__name__}",
        subtitle or f"{len(places)} layers and directions, {T} steps, {B} sequences",
        places, found, by_lag, gates, steps, lags, parts, along, past, untold,
    )  # fmt: skip
    if path is not None:
        try:
            Path(path).write_text(made.html(), encoding="utf-8")
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    return made


def _spectra(place: Place) -> tuple[StepSpectra, LagSpectrum]:
    """Of as many steps as there is time for: a few seconds."""
    S = sum(value.shape[-1] for value in place.start.values())
    few = place.of_sequences(2)
    count = max(8, WORK // (few.B * S**3))
    lag = min(place.T, count)
    every = -(-place.T // count)
    return step_spectra(few, every=every), lag_spectrum(few, lags=usual_lags(lag), sequences=1)


def _norms(parts: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: float(part[0].norm()) for name, part in parts.items()}
