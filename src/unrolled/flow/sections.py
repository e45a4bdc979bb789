"""The figures of a report, from its records."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unrolled.flow.diagnose import Diagnosis
from unrolled.flow.gates import called, carried, squashed
from unrolled.flow.lag import HALF, PERCENT
from unrolled.flow.measurement import Measurement
from unrolled.flow.records import number
from unrolled.flow.trace import Place
from unrolled.report.page import Bars, Finding, Heat, Lines, Mark, Section, Series, Table

if TYPE_CHECKING:
    from unrolled.flow.reports import Report


def findings_of(found: Diagnosis) -> Iterator[Finding]:
    if found.healthy:
        told = f"{len(found.checked)} rules looked, and none found anything wrong"
        yield Finding("good", "No alarm", told, "")
    for each in found.findings:
        measured = "; ".join(
            f"{what} {number(value) if isinstance(value, float) else value}"
            for what, value in each.evidence.items()
        )
        yield Finding(each.level, each.title, f"{measured} (asked: {each.threshold})", each.remedy)


def sections_of(found: Report) -> Iterator[Section]:
    for title, intro, items in (
        (
            "Gradient by lag",
            "How much of one loss, that of the last step, still reaches the state so many steps before. The "
            "gradient of a summed loss would hide this: there near losses cover for the far ones.",
            _by_lag(found),
        ),
        (
            "What one step can do, and many",
            "Singular values of the Jacobians of the full state say how much a small change of the state can "
            "grow or shrink on its way back, in one step and in many together; the spectral radius, what "
            "equal steps would make of it in the end.",
            _jacobians(found),
        ),
        (
            "Gates and states",
            "A gate at its end passes no gradient, and a unit that never moves carries nothing.",
            _gates(found),
        ),
        ("Training", "What was measured on the way.", _training(found.history)),
    ):
        if shown := [*items]:
            yield Section(title, intro, shown)


def _by_lag(found: Report) -> Iterator[Any]:
    if found.by_lag is None:
        return
    profiles = found.by_lag.profiles
    yield Lines(
        "The gradient of the last loss, by lag",
        "A straight fall is a gradient that shrinks by the same factor at every step; flat is a memory.",
        "lag k, steps back from the loss",
        "‖∂ loss_t / ∂ state_{t−k}‖",
        [
            Series(
                p.place,
                p.lags.tolist(),
                _list(p.norm),
                _list((p.norm - p.error).clamp(min=0)),
                _list(p.norm + p.error),
            )
            for p in profiles
        ],
        log_y=True,
    )
    yield Table(
        "Memory horizons",
        "The first lag at which no more than a half, or a hundredth, of the gradient at lag 0 is left.",
        ("layer", "half is left", "1% is left", "halves every", "at lag 0", "at the last lag"),
        [
            (
                p.place,
                _lag(p.horizon(HALF), p.lags),
                _lag(p.horizon(PERCENT), p.lags),
                _life(p.half_life),
                number(p.norm[0]),
                f"{number(p.norm[-1])} (lag {int(p.lags[-1])})",
            )
            for p in profiles
        ],
    )
    for p in profiles:
        if len(p.states) > 1:
            yield Lines(
                f"By state: {p.place}",
                "The same for each state alone: which of them carries the gradient back.",
                "lag k",
                "norm",
                [Series(name, p.lags.tolist(), _list(norm)) for name, norm in p.states.items()],
                log_y=True,
            )
        if p.weights:
            yield Lines(
                f"Gradients of matrices, by the step they were used at: {p.place}",
                "What the use of a matrix k steps ago adds to its gradient: where only small lags do, the "
                "matrix learns nothing of what is further back.",
                "lag k",
                "norm of a step's part of ∂ loss_t / ∂ W",
                [Series(name, p.lags[:-1].tolist(), _list(norm)) for name, norm in p.weights.items()],
                log_y=True,
            )


def _lag(lag: int | None, lags: Tensor) -> str:
    return str(lag) if lag is not None else f"> {int(lags[-1])}"


def _life(life: float | None) -> str:
    if life is None or not math.isfinite(life):
        return "–"
    return f"{number(life)} steps" if life > 0 else f"doubles every {number(-life)}"


def _jacobians(found: Report) -> Iterator[Any]:
    one = Mark("y", 1.0, "1")
    for name, each in found.steps.items():
        every = -(-_place(found, name).T // len(each.largest))
        steps = [float(k * every) for k in range(len(each.largest))]

        def series(label: str, value: Tensor, steps: list[float] = steps) -> Series:
            middle, low, high = (value.nanquantile(q, dim=1) for q in (0.5, 0.1, 0.9))
            return Series(label, steps, _list(middle), _list(low), _list(high))

        yield Lines(
            f"Every step: {name}",
            "Above the dashed line a step can enlarge a change in some direction; the distance between the "
            "lines is how unlike directions are treated.",
            f"step, as {name} runs",
            "value",
            [
                series("largest singular value", each.largest),
                series("spectral radius", each.radius),
                series("smallest singular value", each.smallest),
            ],
            log_y=True,
            marks=[one],
        )
    for name, spectrum in found.lags.items():
        logs = spectrum.logs.nanmean(1) / math.log(10)
        S = logs.shape[1]
        ranks = sorted({round(q * (S - 1)) for q in (0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1)})
        yield Lines(
            f"Many steps together: {name}",
            "Each line is one singular value of the product of Jacobians, in powers of ten: at 0 a direction "
            "is kept, far below it is forgotten.",
            "lag k",
            "log₁₀ singular value",
            [Series(f"{k + 1} of {S}", spectrum.lags.tolist(), _list(logs[:, k])) for k in ranks],
            marks=[Mark("y", 0.0, "kept")],
        )
    if found.exponents:
        yield Table(
            "Lyapunov exponents",
            "How fast small changes of the state grow for ever, in nats a step: above 0 is chaos, far below "
            "it forgetting.",
            ("layer", "the largest", "± standard error", "the next", "over", "verdict"),
            [
                (
                    name,
                    f"{float(each.exponents[0]):+.4f}",
                    number(each.error[0]),
                    ", ".join(f"{float(e):+.3f}" for e in each.exponents[1:4]),
                    f"{each.steps} steps",
                    ("chaotic" if each.is_chaotic else "not chaotic") if each.converged else "not converged",
                )
                for name, each in found.exponents.items()
            ],
        )
    for name, parts in found.parts.items():
        yield Bars(
            f"Through which map a change passes: {name}",
            "The size of what each map contributes to the Jacobian of a step in the middle; `direct` passes "
            "no map, as what a forget gate keeps does.",
            "Frobenius norm",
            [*parts],
            [*parts.values()],
        )


def _place(found: Report, name: str) -> Place:
    return next(place for place in found.places if place.name == name)


def _gates(found: Report) -> Iterator[Any]:
    for place, each in zip(found.places, found.gates, strict=True):
        yield Bars(
            f"Saturated gates: {each.place}",
            "The share of all values, over steps, units and sequences, that are within a tenth of the end of "
            "their function's range; for relu, that are 0.",
            "share",
            [f"{gate.name} {end}" for gate in each.gates for end in _ends(gate.kind)],
            [getattr(gate, end) for gate in each.gates for end in _ends(gate.kind)],
        )
        yield from _maps(place)
        for carry in each.carries:
            order = carry.time.sort(descending=True).values
            yield Lines(
                f"How long {carry.state} is carried by {carry.gate}: {each.place}",
                "Units from the one that remembers longest to the shortest: 1 / (1 − mean of the gate).",
                "unit, sorted",
                "steps",
                [Series(f"{carry.state} by {carry.gate}", list(range(1, len(order) + 1)), _list(order))],
                log_y=True,
            )
        yield Lines(
            f"Sizes of states: {each.place}",
            "The root mean square of each state over units and sequences: growth without end is no memory.",
            f"step, as {each.place} runs",
            "root mean square",
            [Series(name, list(range(len(norms))), _list(norms)) for name, norms in each.state_norms.items()],
        )


def _ends(kind: str) -> tuple[str, ...]:
    return ("low",) if kind == "relu" else ("low", "high")


def _maps(place: Place) -> Iterator[Heat]:
    """What carries the state, or else each squashed vector, of the first sequence over time."""
    graph, one = place.graph, place.of_sequences(1)
    carriers = [k for _, k in carried(graph)] or squashed(graph)
    with torch.no_grad():
        parts = one.together(one.T)
        done = [graph.values(one.reads(steps), one.parameters_at(steps.start)) for steps in parts]
    for k in carriers:
        values = torch.cat([each[k] for each in done])
        name = called(graph, k)
        kind = graph.nodes[k].kind
        largest = float(values[values.isfinite()].max()) if values.isfinite().any() else 1.0
        low, high = (-1.0, 1.0) if kind == "tanh" else (0.0, max(largest, 1.0))
        order = values.mean(0).argsort(descending=True)
        yield Heat(
            f"{name} over time: {place.name}",
            "One sequence; a row is a unit, the one with the highest mean at the top.",
            f"step, as {place.name} runs",
            "unit, sorted",
            values[:, order].T.tolist(),
            (0, place.T - 1),
            (1, values.shape[1]),
            low,
            high,
            name,
            diverging=kind == "tanh",
        )


def _training(history: Sequence[Any]) -> Iterator[Any]:
    measured = [each for each in history if isinstance(each, Measurement)]
    plain_records = [each for each in history if isinstance(each, Mapping)]

    def curve(key: str, label: str) -> Series | None:
        points = [(r["step"], r[key]) for r in plain_records if isinstance(r.get(key), int | float)]
        points = points or [(m.step, getattr(m, key)) for m in measured if getattr(m, key, None) is not None]
        return Series(label, [x for x, _ in points], [y for _, y in points]) if points else None

    if (loss := curve("loss", "loss")) is not None:
        yield Lines("Loss", "Of every step that was noted.", "step", "loss", [loss])
    if (norm := curve("gradient_norm", "gradient")) is not None:
        yield Lines(
            "Norm of the gradient",
            "Of all parameters together, before clipping; spikes are steps to distrust.",
            "step",
            "L2 norm",
            [norm],
            log_y=True,
        )
    names = dict.fromkeys(place.place for m in measured for place in m.places)
    every = [(m.step, place) for m in measured for place in m.places if place.lags]
    reach = {name: [(step, place) for step, place in every if place.place == name] for name in names}
    if len(measured) > 1:
        yield Lines(
            "How far back gradients went",
            "The lag at which a hundredth of the gradient was left, over training; at the top it went as far "
            "as was measured, or further.",
            "step",
            "lag",
            [
                Series(
                    name,
                    [s for s, _ in found],
                    [float(p.lags[-1] if p.percent is None else p.percent) for _, p in found],
                )
                for name, found in reach.items()
            ],
        )
        for name, found in reach.items():
            carries = dict.fromkeys(key for _, p in found for key in p.carries)
            if carries:
                yield Lines(
                    f"Time constants over training: {name}",
                    "How many steps units remember, in the median, by what carries them.",
                    "step",
                    "steps",
                    [
                        Series(
                            key,
                            [s for s, _ in found],
                            [p.carries.get(key, {}).get("median") for _, p in found],
                        )
                        for key in carries
                    ],
                    log_y=True,
                )


def _list(values: Tensor) -> list[float]:
    return [float(v) for v in values]
