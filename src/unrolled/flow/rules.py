"""Rules about what becomes of a gradient through time and through depth."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import torch

from unrolled.flow.findings import (
    Finding,
    Seen,
    Unknown,
    Untold,
    carry_of,
    known,
    layer_of,
    left,
    of_gate,
    opening,
    where,
)
from unrolled.flow.lag import LagProfile
from unrolled.flow.records import number
from unrolled.flow.trace import Place

LEFT: Final = 0.01
"""A gradient of which less is left has vanished."""

GROWN: Final = 1e4
"""A gradient that grows by more on its way through time explodes: what is near is lost in what is far."""

DOUBLED: Final = 32.0
"""And where it does not grow like a power of the lag. Where several layers add up, or a cell that is open, it
does, and then twice the lag makes it larger by 2 to the number of layers, about."""

OVERFLOWING: Final = 1e6
"""By which it grows where it is serious, or where what is not finite behind has overflown."""

STATES_GROW: Final = 30.0
"""States that grow by more from the second to the last tenth of a sequence are not bounded. A sum of random
inputs, as in the cell of an LSTM that is open, grows at most tenfold."""

STATES_EXPLODE: Final = 1e3
"""And by more than this no sum grows."""

DEPTH: Final = 1e-3
"""The lowest layer is starved that gets less of the gradient than this part of what the highest gets."""

BEYOND: Final = 0.1
"""Where more of the gradient is left, a truncation there changes its direction."""

COSINE: Final = 0.9
"""Of the angle between truncated and exact gradient: 25 degrees."""


def vanishing_through_time(seen: Seen) -> Iterator[Finding | Unknown]:
    """Less than a hundredth of the gradient is left where the task needs it, in all layers of a stack. Where
    another layer brings it there, it is a note."""
    for stack in seen.stacks():
        lost: list[tuple[float, int, Place]] = []
        reached = False
        for place in stack:
            try:
                part, reach = _left(seen, place)
            except Untold as why:
                yield Unknown("vanishing-through-time", place.name, str(why))
                continue
            if part < LEFT:
                lost.append((part, reach, place))
            else:
                reached = True
        if lost and not reached:
            yield _vanished(seen, *max(lost, key=lambda each: each[0]), others=len(lost) - 1)
        for each in lost if reached else ():
            yield _vanished(seen, *each, level="note")


def _left(seen: Seen, place: Place) -> tuple[float, int]:
    """The part of the gradient that is left where it is needed, and the lag."""
    reach, profile = seen.reach(place), seen.profile(place)
    if reach >= len(profile.norm):
        raise Untold(f"the last loss is at step {len(profile.norm) - 2}, and {reach} steps back is nothing")
    resets = place.leaves.get("reset state")
    if resets is not None and resets.ndim:
        late = (torch.arange(place.T)[:, None] >= place.lengths - reach) & place.there
        if bool((resets.flatten(2).any(-1) & late).any(0).all()):
            raise Untold(f"the states of all sequences begin anew within {reach} steps")
    if math.isnan(part := left(profile, reach)):
        raise Untold("the loss does not depend on this layer, or its gradient is not finite")
    return part, reach


def _vanished(
    seen: Seen, part: float, reach: int, place: Place, others: int = 0, level: str | None = None
) -> Finding:
    profile, carry = seen.profile(place), carry_of(seen.gates[place.name])
    life = profile.half_life
    pace = "the gradient shrinks"
    if life is not None and math.isfinite(life):
        pace = f"the gradient {'halves' if life > 0 else 'doubles'} every {number(abs(life))} steps"
    rest = f"{part:.1g} of it" if part else "nothing that a float holds"
    title = f"{where(place)}: {pace}, and {rest} is left {reach} steps back"
    title += f" ({others} other layer{'s bring' if others > 1 else ' brings'} it no further)" * bool(others)
    title += f"; {of_gate(place, carry)}" if carry else ""
    evidence = {
        "part left": part,
        "lag": reach,
        "half-life in steps": life,
        "lag at which 1% is left": profile.horizon(LEFT),
    }
    asked = "which the task needs" if seen.needed is not None else "a quarter of the sequence"
    return Finding(
        "vanishing-through-time",
        level or ("warning" if seen.needed is None else "serious"),
        place.name,
        f"{title}.",
        known(evidence),
        f"at least {LEFT:g} of what there is at lag 1 at lag {reach}, {asked}",
        opening(place, carry, reach),
    )


def vanishing_through_depth(seen: Seen) -> Iterator[Finding | Unknown]:
    """The lowest layer of a stack gets far less of the gradient than the highest, all lags together."""
    rule = "vanishing-through-depth"
    stacks = [stack for stack in seen.stacks() if len(stack) > 1] if seen.in_time else []
    if not stacks and not seen.deep:
        raise Untold("there is one layer only")
    for place in seen.deep:
        norm = seen.profile(place).norm
        if not float(norm[0]) > 0 or not bool(norm.isfinite().all()):
            yield Unknown(rule, place.name, "no finite gradient arrives at the last layer")
        elif (part := float(norm[-1] / norm[0])) < DEPTH:
            a_layer = part ** (1 / place.T)
            yield Finding(
                rule,
                "serious",
                place.name,
                f"{where(place)}: {f'{part:.1g} of the gradient' if part else 'nothing that a float holds'} "
                f"behind the last layer arrives before the first; a layer lets {a_layer:.2g} through.",
                {"part that arrives": part, "a layer": a_layer, "layers": place.T},
                f"at least {DEPTH:g} of the gradient behind the last layer before the first",
                "Let layers carry what is there: nn.Deep('residual', ...) or 'highway', with carry_bias=2 or "
                "more; or norm='layer', or init={'*.h': 'orthogonal'}.",
            )
    for stack in stacks:
        sizes = [float(seen.profile(place).norm.norm()) for place in stack]
        if not sizes[-1] > 0 or not all(map(math.isfinite, sizes)):
            yield Unknown(rule, stack[0].name, "no finite gradient arrives at the highest layer")
            continue
        part = sizes[0] / sizes[-1]
        if part < DEPTH:
            a_layer = part ** (1 / (len(stack) - 1))
            yield Finding(
                rule,
                "warning",
                stack[0].name,
                f"{where(stack[0])}: {part:.1g} of the gradient at layer {layer_of(stack[-1]) + 1} arrives "
                f"here; a layer lets {a_layer:.2g} through.",
                {"part that arrives": part, "a layer": a_layer, "layers": len(stack)},
                f"at least {DEPTH:g} of the highest layer's gradient at the lowest, all lags together",
                "Take fewer layers, norm='layer', or larger input weights, init={'*.x': 'orthogonal'}; or "
                "let the loss see every layer.",
            )


def growth(profile: LagProfile) -> tuple[float, int]:
    """By how much a gradient is largest compared to lag 1, and at which lag.

    The first tenth of the steps does not count: where states begin with 0, what normalises them by their own
    size has huge derivatives.

    Returns:
        infinity if it overflows, 1 if it grows like a power of the lag, and NaN if it is 0 at lag 1, or not
        finite for another reason.
    """
    last = len(profile.norm) - 1
    norm = profile.norm[1 : max(2, last - max(2, last // 10))]  # that of lag k is at k - 1
    broken = torch.nonzero(~norm.isfinite()).flatten()
    whole = norm[: int(broken[0])] if len(broken) else norm
    if not len(whole) or not float(whole[0]) > 0:
        return math.nan, 1
    at = int(whole.argmax())
    grown = float(whole[at] / whole[0])
    if len(broken):
        return math.inf if grown > OVERFLOWING else math.nan, int(broken[0]) + 1
    half = whole[: len(whole) // 2]
    doubled = (whole[1::2] / half).nan_to_num(0.0, 0.0).max() if len(half) else torch.tensor(math.inf)
    return grown if float(doubled) > DOUBLED else 1.0, at + 1


def unbounded(place: Place) -> float:
    """By how much the states of a layer grow over the sequence, the fastest; infinite if they overflow."""
    found = 1.0
    for name, value in place.states.items():
        squares = torch.where(place.there[..., None], value.double().square(), 0.0)
        norms = squares.mean((1, 2)).sqrt()
        finite = norms[norms.isfinite()]
        tenth = max(1, len(norms) // 10)
        if len(finite) < 2 * tenth or math.isinf(place.graph.initial.get(name, 0.0)):
            continue
        early, late = float(finite[tenth : 2 * tenth].mean()), float(finite[-tenth:].mean())
        if early > 0:
            overflown = len(finite) < len(norms) and late > OVERFLOWING * early
            found = max(found, math.inf if overflown else late / early)
    return found


def chaotic(seen: Seen) -> Iterator[Finding | Unknown]:
    """Small changes of the state grow, along the inputs that there are, while the states stay as large."""
    rule = "chaotic-dynamics"
    for place in seen.places:
        grown, lag = growth(seen.profile(place))
        if math.isnan(grown):
            yield Unknown(rule, place.name, f"the gradient is 0 or not finite at lag {lag}")
        if not grown > GROWN or unbounded(place) > STATES_GROW:
            continue
        try:
            found = seen.exponent(place)
        except Untold as why:
            yield Unknown(rule, place.name, str(why))
            continue
        largest, error = float(found.exponents[0]), float(found.error[0])
        # Of both halves, however much they differ.
        if largest > max(3 * error, found.drift / 2, 1e-3):
            yield Finding(
                rule,
                "warning" if grown < OVERFLOWING else "serious",
                place.name,
                f"{where(place)}: the dynamics is chaotic: a small change of the state grows by "
                f"{math.expm1(largest):.1%} a step, while the states stay bounded.",
                {
                    "largest Lyapunov exponent": largest,
                    "its standard error": error,
                    "growth of the gradient": grown,
                    "lag": lag,
                },
                "no exponent above 0 by three standard errors, in both halves of the sequences, where the "
                f"gradient grows {GROWN:g} times",
                "Make the recurrent matrices smaller: init={'*.h': 'orthogonal'}, or scale them by "
                f"{math.exp(-largest):.2g} or less; clip the gradient's norm.",
            )
        elif not found.converged:
            told = f"the exponent {largest:+.3f} has not converged: give longer sequences"
            yield Unknown(rule, place.name, told)


def exploding(seen: Seen) -> Iterator[Finding | Unknown]:
    """The gradient grows on its way back, or the states on their way, by orders of magnitude."""
    rule = "exploding"
    for place in seen.deep:
        growing, layers = growth(seen.profile(place))
        if growing > GROWN:
            yield Finding(
                rule,
                "serious" if growing > OVERFLOWING else "warning",
                place.name,
                f"{where(place)}: the gradient grows {number(growing)} times on its way through {layers} "
                "layers.",
                {"growth of the gradient": growing, "layers": layers},
                f"a gradient that grows at most {GROWN:g} times, or like a power of the layers",
                "Start with smaller matrices, in a residual layer by 1 / depth; norm='layer'; weight decay; "
                "or clip the gradient's norm (--clip-norm 1).",
            )
    for stack in seen.stacks() if seen.in_time else []:
        above = 1.0
        for place in reversed(stack):
            states = unbounded(place)
            grown, lag, life, why = math.nan, None, None, ""
            try:
                grown, lag = growth(seen.profile(place))
                life = seen.profile(place).half_life
                why = f"the gradient is 0 or not finite at lag {lag}"
            except Untold as untold:
                why = str(untold)
            # What comes from the layer above is that one's finding.
            own = grown > GROWN and math.log(grown) > 1.2 * math.log(above)
            above = max(above, grown if not math.isnan(grown) else 1.0)
            if own or states > STATES_EXPLODE:
                evidence = {"growth of the gradient": grown, "lag": lag, "growth of the states": states}
                yield _exploded(place, grown if own else math.nan, states, lag, evidence, life)
            elif math.isnan(grown):
                yield Unknown(rule, place.name, why)


def _exploded(
    place: Place,
    grown: float,
    states: float,
    lag: int | None,
    evidence: dict[str, float | int | None],
    life: float | None,
) -> Finding:
    told = []
    if math.isinf(grown):
        told.append(f"the gradient grows until no float holds it, at lag {lag}")
    elif not math.isnan(grown):
        told.append(f"the gradient grows {number(grown)} times up to lag {lag}")
    if states > STATES_EXPLODE:
        times = "until no float holds them" if math.isinf(states) else f"{number(states)} times"
        told.append(f"the states grow {times} over the sequence")
    large = grown > OVERFLOWING or states > OVERFLOWING
    return Finding(
        "exploding",
        "serious" if large else "warning",
        place.name,
        f"{where(place)}: {' and '.join(told)}.",
        known({**evidence, "half-life in steps": life}),
        f"a gradient that grows at most {GROWN:g} times on its way, or like a power of the lag, and states "
        f"at most {STATES_EXPLODE:g} times",
        "Start the recurrent matrices smaller, init={'*.h': 'orthogonal'}, or 'identity:0.9' with relu; clip "
        "the gradient's norm (--clip-norm 1); or use lstm or gru.",
    )


def truncated(seen: Seen) -> Iterator[Finding | Unknown]:
    """Much of the gradient lies further back than training goes."""
    rule, k2 = "truncation-too-short", seen.bptt
    remedy = (
        "Go further back: --bptt, Truncated(k1, k2) with a larger k2; or exactly, Checkpointed(memory=...)."
    )
    if k2 is None:
        raise Untold("nobody says that gradients are truncated: give bptt=")
    if seen.needed is not None:
        if seen.needed > k2:
            title = f"Gradients go {k2} steps back, but the task needs {seen.needed}."
            asked, evidence = (
                "a truncation no shorter than what is needed",
                {"bptt": k2, "needed": seen.needed},
            )
            yield Finding(rule, "serious", "", title, evidence, asked, remedy)
        return
    near = max((k for k in seen.cosines if k <= k2), default=None)
    if near is not None:
        cosine = seen.cosines[near]
        if math.isnan(cosine):
            yield Unknown(rule, "", "the exact gradient is 0")
        elif cosine < COSINE:
            title = (
                f"The gradient that goes {near} steps back has a cosine of {cosine:.2f} with the exact one."
            )
            asked = f"a cosine of at least {COSINE:g}"
            yield Finding(rule, "warning", "", title, {"k2": near, "cosine": cosine}, asked, remedy)
        return
    for stack in seen.stacks():
        parts: list[tuple[float, Place]] = []
        for place in stack:
            T = len(seen.profile(place).norm) - 1
            if 2 * k2 > T:
                why = f"{T} steps do not show what lies beyond {k2}: give sequences twice as long"
                yield Unknown(rule, place.name, why)
            elif math.isnan(part := left(seen.profile(place), k2)):
                yield Unknown(rule, place.name, "the loss does not depend on this layer")
            else:
                parts.append((part, place))
        part, place = max(parts, key=lambda each: each[0], default=(0.0, stack[0]))
        if part > BEYOND:
            title = (
                f"{where(place)}: {part:.0%} of the gradient is left {k2} steps back, where it is cut off."
            )
            asked = f"at most {BEYOND:g} of what there is at lag 1 where it is cut off"
            yield Finding(rule, "warning", place.name, title, {"part left": part, "bptt": k2}, asked, remedy)
