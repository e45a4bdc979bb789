"""Rules about what gates, units, weights and inputs are like."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

from unrolled.flow.findings import (
    ENDS,
    SHORT,
    Finding,
    Seen,
    Unknown,
    Untold,
    bias_of,
    carry_of,
    gate_of,
    layer_of,
    left,
    of_gate,
    opening,
    where,
)
from unrolled.flow.gates import Carry, Gate, GateStatistics, called, squashed
from unrolled.flow.records import number
from unrolled.flow.rules import LEFT
from unrolled.flow.trace import Place

CLOSED: Final = 0.2
"""A gate that lets less of a state through, on average, forgets nearly everything within three steps."""

SHUT: Final = 0.05
"""And whatever else brings a gradient back: with less than this the state is no memory. In trained cells that
write anew at every step it may be 0.1."""

SATURATED: Final = 0.8
"""A gate of which more values lie at the ends of its range passes hardly any gradient. Of trained gates two
thirds may."""

SWITCHING: Final = 0.15
"""A gate that carries a state may be open all the time, or closed; that it jumps between both is told by more
values than this at either end."""

BALANCED: Final = 0.2
"""A gate that lets in about as much as a long memory lets go is nearly closed on purpose (`chrono_`): what it
lets through a step, times the steps that are remembered."""

DEAD: Final = 0.4
"""As many units as this that never do anything are not chance. A third of trained relus may be such."""

OUT_OF_REACH: Final = 2.0
"""A relu is dead whose argument never comes nearer to 0 than so many of its standard deviations. Behind
inputs of one sign half of all relus are 0, but close to it: a step of training wakes them."""

SAMPLES: Final = 64
"""Steps of which arguments are looked at."""

SMALL: Final = 0.03
"""Of the length of a state a recurrent matrix leaves at least as much. The default start leaves 0.58, an
orthogonal one 1; the smallest that anybody published, a deviation of 0.01 for 100 units, 0.1."""

LARGE: Final = 4.0
"""A recurrent matrix that makes states so much longer drives every squashing function to its ends, and so do
gains, which start at 1."""

ABSORBED: Final = 0.05
"""Of weights whose scale no recurrent matrix tells, and of gains: their part of the usual."""

TOO_LONG: Final = 20.0
"""A memory of so many sequences' lengths adds up everything that it ever sees."""

TOO_LONG_FOR: Final = 100.0
"""And one of so many times what the task needs, where it is also twice as long as the sequence."""

DOMINATES: Final = 100.0
"""One input that is so much larger than the others drowns them."""

SMALLEST: Final = 1e-2
"""The largest of all inputs is not smaller than this: weights expect inputs of about 1."""

LARGEST: Final = 50.0
"""And their root mean square is not larger."""


def closed_forget_gate(seen: Seen) -> Iterator[Finding | Unknown]:
    """What carries a state lets hardly anything through. A note where the gradient finds another way."""
    rule = "closed-forget-gate"
    for place, carry in _carried(seen):
        if carry.mean >= CLOSED:
            continue
        try:
            reach = seen.reach(place)
            other = left(seen.profile(place), min(reach, len(seen.profile(place).norm) - 1)) >= LEFT
        except Untold as why:
            yield Unknown(rule, place.name, str(why))
            continue
        if carry.mean**reach > LEFT:
            continue  # so few steps are needed that enough is left
        steps = float(carry.time.quantile(0.5))
        told = f"{carry.state} is forgotten within {number(steps)} steps"
        yield Finding(
            rule,
            "note" if other and carry.mean >= SHUT else "warning",
            place.name,
            f"{where(place)}: {told}; {of_gate(place, carry)}.",
            {f"mean of {carry.gate}": carry.mean, "steps remembered (median)": steps},
            f"{carry.gate} is at least {CLOSED:g} on average",
            opening(place, carry, reach),
        )


def _carried(seen: Seen) -> list[tuple[Place, Carry]]:
    """Places with a state that a gate carries.

    Raises:
        Untold: there are none.
    """
    found = [(place, carry_of(seen.gates[place.name])) for place in seen.places]
    carried = [(place, carry) for place, carry in found if carry is not None]
    if not carried:
        raise Untold("no gate carries a state in these cells")
    return carried


def saturated_gates(seen: Seen) -> Iterator[Finding | Unknown]:
    """Nearly all values of a gate lie at the ends of its range."""
    for place in seen.everywhere:
        found = seen.gates[place.name]
        shares = [(gate, at_ends(gate, found)) for gate in found.gates if gate.kind != "relu"]
        stuck = [(gate, share) for gate, share in shares if share > SATURATED]
        if not stuck:
            continue
        names = ", ".join(
            f"{gate.name} ({share:.0%}{' low' * (gate.high < 0.1)}{' high' * (gate.low < 0.1)})"
            for gate, share in stuck
        )
        one = len(stuck) == 1
        says = f"gate {names} is saturated: what it" if one else f"gates {names} are saturated: what they"
        yield Finding(
            "saturated-gates",
            "warning",
            place.name,
            f"{where(place)}: {says} might learn from is gone.",
            {f"{gate.name} at its ends": share for gate, share in stuck}
            | {f"mean of {gate.name}": gate.mean for gate, _ in stuck},
            f"at most {SATURATED:.0%} of a gate's values within {ENDS:.0%} of the range from its ends",
            _moving(place, stuck[0][0]),
        )


def at_ends(gate: Gate, found: GateStatistics) -> float:
    """The share of a gate's values that are saturated and should not be."""
    if any(gate_of(carry)[0] == gate.name for carry in found.carries):
        return gate.low + gate.high if min(gate.low, gate.high) > SWITCHING else 0.0
    if gate.kind == "sigmoid" and any(_balances(gate, carry) for carry in found.carries):
        return gate.high
    return gate.low + gate.high


def _balances(gate: Gate, carry: Carry) -> bool:
    if gate.mean_by_unit.shape != carry.by_unit.shape:
        return False
    return float((gate.mean_by_unit * carry.time).quantile(0.5)) > BALANCED


def _moving(place: Place, gate: Gate) -> str:
    """How to bring a gate away from its ends."""
    key = bias_of(place, gate.name)
    if key and min(gate.low, gate.high) < SWITCHING:
        return (
            f"Start its bias near 0, init={{'{key}': 0.0}}; where training brought it there, lower the rate."
        )
    smaller = "init={'*.x': 'xavier', '*.h': 'orthogonal'}"
    return f'Make what it sees smaller: smaller weights, {smaller}, norm="layer", or scale the input.'


def dead_units(seen: Seen) -> Iterator[Finding | Unknown]:
    """Many units never do anything: a relu far below 0, or a state that never moves."""
    rule = "dead-units"
    for place in seen.everywhere:
        x = place.x[place.there]
        if len(x) < 2 or not bool((x != x[:1]).any()):
            why = "what this layer reads never changes, and so units need not"
            yield Unknown(rule, place.name, why)
            continue
        found = seen.gates[place.name]
        relus = _out_of_reach(place, found)
        name, units = max((relus or found.frozen).items(), key=lambda pair: float(pair[1].double().mean()))
        share = float(units.double().mean())
        if share >= DEAD:
            did = "are 0 and far from anything else" if relus else "never move"
            yield Finding(
                rule,
                "serious" if share > 0.9 else "warning",
                place.name,
                f"{where(place)}: {int(units.sum())} of {len(units)} units of {name} {did}.",
                {"share of dead units": share},
                f"less than {DEAD:.0%} of units that never move, relus by {OUT_OF_REACH:g} deviations",
                "Start biases at 0 or a little above, init={'*.bias': 0.1}; use a lower rate, or tanh.",
            )


def _out_of_reach(place: Place, found: GateStatistics) -> dict[str, Tensor]:
    """Which units of each relu are dead, (W,) bools."""
    graph = place.graph
    nodes = [k for k in squashed(graph) if graph.nodes[k].kind == "relu"]
    if not nodes:
        return {}
    parts = place.together(SAMPLES, -(-place.T // SAMPLES))
    with torch.no_grad():
        done = [graph.values(place.reads(steps), place.parameters_at(steps.start)) for steps in parts]
    there = torch.cat([place.there[steps] for steps in parts]).flatten()
    dead = {}
    for k in nodes:
        rows = [values[graph.nodes[k].args[0]] for values in done]
        values = torch.cat([v.expand(len(there) // len(rows), -1) for v in rows])[there].double()
        far = values.amax(0) < -OUT_OF_REACH * values.std(0, correction=0)
        dead[called(graph, k)] = found[called(graph, k)].dead & far
    return dead


def initial_scale(seen: Seen) -> Iterator[Finding | Unknown]:
    """Recurrent matrices are far smaller or larger than what keeps states alive."""
    for place in seen.everywhere:
        found = scale_of(place)
        if found is None or math.isnan(found[1]):
            why = "the cell has no matrix and no gain" if found is None else "its weights are not finite"
            yield Unknown("initial-scale", place.name, why)
            continue
        what, size, small, large, usual = found
        if small <= size <= large:
            continue
        word, asked = ("small", f"at least {small:g}") if size < small else ("large", f"at most {large:g}")
        after = "; after training, a lower rate or weight decay (unrolled.nn.decay_groups)" * (
            word == "large"
        )
        yield Finding(
            f"initial-scale-{word}",
            "warning",
            place.name,
            f"{where(place)}: weights are too {word}: {what} is {number(size)}, where {usual} is usual.",
            {what: size},
            asked,
            f"Leave out init=, or say init={{'*.h': 'orthogonal', '*.x': 'xavier'}}{after}.",
        )


def scale_of(place: Place) -> tuple[str, float, float, float, str] | None:
    """What is measured of the weights, its size, what is too small and too large, and what is usual."""
    graph, parameters = place.graph, place.parameters
    gains = [v for name, v in parameters.items() if name.endswith(".gain") or name.startswith("gain_")]
    if gains:
        return "the root mean square of gains", _middle([_size(v) for v in gains]), ABSORBED, LARGE, "1"
    recurrent: list[str] = []
    depends: list[bool] = []
    for node in graph.nodes:
        depends.append(node.kind == "state" or any(depends[a] for a in node.args))
        if node.kind == "affine":
            sources = zip(node.sources, node.args, strict=True)
            recurrent += [f"{node.name}.{source}" for source, a in sources if depends[a]]
    matrices = [parameters[name] for name in dict.fromkeys(recurrent)]
    if matrices:
        sizes = [_size(matrix) * math.sqrt(matrix.shape[1]) for matrix in matrices]
        return "what recurrent matrices make of a length of 1", _middle(sizes), SMALL, LARGE, "0.6 to 1"
    inputs = [_size(v) * math.sqrt(3 * v.shape[0]) for v in parameters.values() if v.ndim == 2]
    if not inputs:
        return None
    return "the size of weights, in that of the default start,", _middle(inputs), ABSORBED, math.inf, "1"


def _size(value: Tensor) -> float:
    return float(value.double().square().mean().sqrt())


def _middle(values: list[float]) -> float:
    return float(torch.tensor(values, dtype=torch.float64).quantile(0.5))


def memory_too_long(seen: Seen) -> Iterator[Finding | Unknown]:
    """Units remember for far longer than there is anything to remember."""
    rule = "memory-too-long"
    for place, carry in _carried(seen):
        T, needed = int(place.lengths.max()), seen.needed
        if T < SHORT // 2:
            yield Unknown(rule, place.name, f"{T} steps are too few to compare a memory with")
            continue
        time, limit = float(carry.time.quantile(0.5)), TOO_LONG * T
        if needed is not None:
            limit = min(limit, max(TOO_LONG_FOR * needed, 2.0 * T))
        if time <= limit:
            continue
        gate, sign = gate_of(carry)
        span = max(needed or T, 2)
        key, bias = bias_of(place, gate), f"{sign * math.log(span):.1f}"
        close = f"init={{'{key}': {bias}}}" if key else f"a bias of {bias} for {gate}"
        there = f"there are {T}" + (f" and the task needs {needed}" if needed is not None else "")
        yield Finding(
            rule,
            "warning",
            place.name,
            f"{where(place)}: units remember {number(time)} steps, but {there}; {of_gate(place, carry)}.",
            {
                "steps remembered (median)": time,
                "steps": T,
                "growth of the state": seen.gates[place.name].growth(carry.state),
            },
            f"a median of at most {limit:g} steps",
            f"Close it a little: {close} remembers for {span} steps; or unrolled.nn.chrono_ with the longest "
            "span of the task.",
        )


def degenerate_input(seen: Seen) -> Iterator[Finding | Unknown]:
    """What the lowest layers read says nothing, or one part of it drowns the rest."""
    rule = "degenerate-input"
    for place in seen.places:
        if layer_of(place) or place.reverse or not bool(place.there.any()):
            continue
        x = place.x[place.there]
        if not x.isfinite().all():
            yield Unknown(rule, place.name, "the input is not finite")
            continue
        for level, what, evidence, asked, remedy in (*_says_nothing(place, x), *_out_of_scale(x)):
            yield Finding(rule, level, place.name, f"{where(place)}: {what}.", evidence, asked, remedy)


Wrong = tuple[str, str, dict[str, float | int], str, str]
"""Of an input: level, what is wrong, evidence, what is asked, and the remedy."""


def _says_nothing(place: Place, x: Tensor) -> Iterator[Wrong]:
    starts = any(len(s) > 1 and bool((s != s[:1]).any()) for s in place.start.values())
    if starts or len(x) < 2:
        return  # what differs is the state that they begin with
    asked, remedy = "inputs that differ between steps and between sequences", "Look at what the batch holds."
    everywhere = "at every step of every sequence"
    if not (x != x[:1]).any():
        if not x.is_floating_point():
            yield "serious", f"the input is token {int(x[0])} {everywhere}", {"tokens": 1}, asked, remedy
        elif not x.any():
            yield "serious", f"the input is 0 {everywhere}", {"largest": 0.0}, asked, remedy
        else:
            largest = float(x.abs().max())
            yield "serious", f"the input is the same {everywhere}", {"largest": largest}, asked, remedy
        return
    there = place.there.view(place.T, place.B, *[1] * (place.x.ndim - 2))
    whole = torch.where(there, place.x, 0)
    if place.B > 1 and not (whole != whole[:, :1]).any():
        what = f"all {place.B} sequences of the batch are the same"
        yield "warning", what, {"different sequences": 1}, asked, "Draw another sequence for each row."


def _out_of_scale(x: Tensor) -> Iterator[Wrong]:
    if not x.is_floating_point() or not x.any():
        return
    squares = x.double().square()
    sizes, size, largest = squares.mean(0).sqrt(), float(squares.mean().sqrt()), float(x.abs().max())
    remedy = "Scale it: subtract the mean of each feature, and divide by its standard deviation."
    others = sizes[sizes > 0].sort().values
    middle, most = float(others[(len(others) - 1) // 2]), float(others[-1])
    if most > DOMINATES * middle:
        k = int(sizes.argmax())
        what = f"feature {k} of the input is {number(most / middle)} times as large as the others"
        asked = f"at most {DOMINATES:g} times the median of features"
        yield "warning", what, {f"size of feature {k}": most, "median": middle}, asked, remedy
    elif size > LARGEST:
        what = f"the input is large, {number(size)} in root mean square"
        yield "warning", what, {"root mean square": size}, f"at most {LARGEST:g}", remedy
    if largest < SMALLEST:
        what = f"the input is small, {number(largest)} at most"
        yield "warning", what, {"largest": largest}, f"at least {SMALLEST:g} somewhere", remedy
