"""Rules about a training: what is known of it, its rate, and its clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from unrolled.errors import InputError
from unrolled.flow.findings import Finding, Seen, Unknown, Untold
from unrolled.flow.gates import clipping
from unrolled.flow.records import number

FEW: Final = 10
"""Measurements of a training below which nothing is said of its rate or its clipping."""

OFTEN: Final = 0.9
"""Clipping at more steps than this is no safeguard, but a part of the rate."""

KEPT: Final = 0.5
"""Where less than this is left of norms on average."""

WORSE: Final = 1.5
"""A training whose losses end above so much of what they began with has diverged."""

SPIKE: Final = 5.0
"""No step of a healthy training has a loss so many times that of the first ones."""

BACK: Final = 0.5
"""A loss that rises by so much of what had been learned, or of a third of the first loss, has lost it."""

NOISE: Final = 6.0
"""And by so many times the usual difference between neighbouring losses: batches differ."""

JUMPS: Final = 0.2
"""At so many steps a healthy training has not lost what it had learned."""

STEP: Final = 0.1
"""By so much of its norm the first ten steps do not change a matrix, on average. Of Adam at a rate that small
networks learn well with it is 0.02, at one thirty to a hundred times as high 0.3."""


@dataclass(frozen=True)
class History:
    """What was measured in a training, in the order of its steps; NaN is what was not measured.

    steps, losses, rates: of each measurement.
    norms: of the whole gradient before clipping.
    clip: the limit on that; None if there was none, or nobody says.
    clipped: the share of gradients at the limit or above, where that was noted; None if it was not.
    parameters: the norm of each parameter by name.
    """

    steps: Tensor
    losses: Tensor
    norms: Tensor
    rates: Tensor
    clip: float | None
    clipped: float | None
    parameters: Mapping[str, Tensor]


def read_history(records: Iterable[Any], clip: float | None = None) -> History:
    """A history from records of a training.

    Each is a mapping, or an object with such attributes: `step`, `loss`, `gradient_norm` (of all parameters
    together, before clipping), `rate`, `clip` (the limit on that norm), `clipped` (whether it was), and
    `parameters`, from names to norms, or to mappings with `norm` and `gradient`. So measurements of a monitor
    are, and the records of a run's metrics.jsonl. All but the loss may be missing; records without a loss,
    such as evaluations, are left out.

    Args:
        clip: the limit on norms; that in the records, if not given.

    Raises:
        InputError: a record is none.
    """
    rows = [row for row in map(_mapping, records) if _number(row.get("loss")) is not None]
    limits = [limit for row in rows if (limit := _number(row.get("clip"))) is not None]
    noted = [row["clipped"] for row in rows if isinstance(row.get("clipped"), bool)]
    names = dict.fromkeys(name for row in rows for name in row.get("parameters") or {})
    return History(
        _column(_number(row.get("step")) for row in rows),
        _column(_number(row.get("loss")) for row in rows),
        _column(_whole(row) for row in rows),
        _column(_number(row.get("rate")) for row in rows),
        clip if clip is not None else limits[-1] if limits else None,
        sum(noted) / len(noted) if noted else None,
        {
            name: _column(_part((row.get("parameters") or {}).get(name), "norm") for row in rows)
            for name in names
        },
    )


def _mapping(record: Any) -> Mapping[str, Any]:
    if isinstance(record, Mapping):
        return record
    if not hasattr(record, "__dict__"):
        what = type(record).__name__
        raise InputError(f"a record of a training is a mapping with step and loss, not {what}")
    found: Mapping[str, Any] = vars(record)
    return found


def _column(values: Iterable[float | None]) -> Tensor:
    return torch.tensor([math.nan if v is None else v for v in values], dtype=torch.float64)


def _number(value: Any) -> float | None:
    if isinstance(value, Tensor) and value.numel() == 1:
        return float(value.detach())
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _part(value: Any, key: str) -> float | None:
    """A parameter's norm, told alone or with that of its gradient."""
    if value is None or (told := _number(value)) is not None:
        return told if value is not None and key == "norm" else None
    return _number(_mapping(value).get(key))


def _whole(row: Mapping[str, Any]) -> float | None:
    """The norm of the whole gradient, or that of its parts together."""
    if (found := _number(row.get("gradient_norm"))) is not None:
        return found
    parts = [_part(each, "gradient") for each in (row.get("parameters") or {}).values()]
    told = [part for part in parts if part is not None]
    return math.hypot(*told) if told and len(told) == len(parts) else None


def _history(seen: Seen) -> History:
    """
    Raises:
        Untold: there is none, or it is too short.
    """
    if seen.history is None:
        raise Untold("no training history: give history=")
    if len(seen.history.losses) < FEW:
        raise Untold(f"the history has {len(seen.history.losses)} losses: {FEW} or more say something")
    return seen.history


def learning_rate(seen: Seen) -> Iterator[Finding | Unknown]:
    """Losses diverge, or are back again and again where they were; or single steps change whole matrices."""
    rule = "learning-rate-high"
    history = _history(seen)
    finite = history.losses[history.losses.isfinite()]
    broken = len(history.losses) - len(finite)
    evidence: dict[str, float | int] = {"losses that are not finite": broken} if broken else {}
    reasons = ["the loss is not finite in the end"] if broken else []
    if len(finite) >= FEW:
        end, most, lost = _course(finite)
        evidence |= {
            "loss at the end, in that at first": end,
            "the highest": most,
            "steps that had lost": lost,
        }
        if end > WORSE:
            reasons.append(f"the loss ends {number(end)} times as high as it began")
        if most > SPIKE:
            reasons.append(f"a loss is {number(most)} times that of the first steps")
        if lost > JUMPS:
            reasons.append(f"at {lost:.0%} of steps the loss is back where it was")
    change = _change(history)
    if change is not None:
        evidence["change of a matrix's norm a step"] = change
        if change > STEP:
            reasons.append(f"each of the first steps changes the norm of a matrix by {change:.0%}")
    if not reasons:
        if change is None:
            why = "losses do not diverge; more is known where the first ten steps note norms of parameters"
            yield Unknown(rule, "", why)
        return
    rates = history.rates[history.rates.isfinite()]
    rate = float(rates.max()) if len(rates) else None
    lower = f"to {rate / 10:.1g}" if rate else "to a tenth"
    yield Finding(
        rule,
        "serious" if len(reasons) > 1 else "warning",
        "",
        f"The learning rate{f' of {rate:.3g}' if rate else ''} is too high: {', and '.join(reasons)}.",
        evidence,
        f"a loss that ends below {WORSE:g} times the first and is never {SPIKE:g} times as high, at most "
        f"{JUMPS:.0%} of steps that had lost half of what was learned, and first steps that change norms by "
        f"less than {STEP:.0%}",
        f"Lower the rate {lower}, let it rise slowly at first (--warmup), and clip the gradient's norm.",
    )


def _course(losses: Tensor) -> tuple[float, float, float]:
    """The median of the last quarter and the highest, in the median of the first few; and the share of steps
    at which half of what had been learned was lost."""
    first = float(losses[: max(1, min(3, len(losses) // 10))].median())
    size, best = max(abs(first), 1e-12), losses.cummin(0).values
    noise = NOISE * float((losses[1:] - losses[:-1]).abs().median())
    learned = (first - best).clamp(min=size / 3)
    lost = (losses - best > (BACK * learned).clamp(min=noise)).double().mean()
    last, most = float(losses[-(len(losses) // 4) :].median()), float(losses.max())
    return 1 + (last - first) / size, 1 + (most - first) / size, float(lost)


def _change(history: History) -> float | None:
    """How much the first ten steps change the norm of a matrix on average, the median of all matrices; None
    where they were not measured. Biases start at 0, and move far from there."""
    steps = history.steps[1:] - history.steps[:-1]
    if len(steps) < FEW or not bool((steps[:FEW] == 1).all()):
        return None
    found = []
    for name, norms in history.parameters.items():
        ratios = ((norms[1:] - norms[:-1]).abs() / norms[:-1])[:FEW]
        if "bias" not in name and bool(ratios.isfinite().all()):
            found.append(float(ratios.mean()))
    return float(torch.tensor(found, dtype=torch.float64).median()) if found else None


def clipping_always_on(seen: Seen) -> Iterator[Finding | Unknown]:
    """Nearly every gradient is clipped, and by much."""
    history = _history(seen)
    if history.clip is None:
        if history.clipped is not None and history.clipped <= OFTEN:
            return
        raise Untold("nobody says at which norm gradients are clipped: give clip=")
    norms = history.norms[history.norms.isfinite()]
    if len(norms) < FEW:
        raise Untold("the history holds too few norms of whole gradients")
    found = clipping(norms.tolist(), history.clip)
    if found.often > OFTEN and found.left < KEPT:
        middle = float(norms.median())
        yield Finding(
            "clipping-always-on",
            "warning",
            "",
            f"Clipping is always on: at {found.often:.0%} of steps; {found.left:.0%} of a norm is left.",
            {
                "steps clipped": found.often,
                "norm left": found.left,
                "limit": history.clip,
                "median norm": middle,
            },
            f"at most {OFTEN:.0%} of steps, or at least {KEPT:.0%} of norms left",
            f"Raise the limit to about {number(2 * middle)}, where it catches what is out of the ordinary "
            "(--clip-norm), and lower the rate; or find out why gradients are large.",
        )
