"""What gates and states do: saturation, dead units, time constants of what is carried, growth of states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from unrolled.errors import InputError
from unrolled.flow.records import Record, number
from unrolled.flow.trace import Losses, Place, Recording, record
from unrolled.graph import Graph

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ENDS: Final = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0), "relu": (0.0, None)}
"""Where functions saturate, below and above."""

ELEMENTS: Final = 1 << 22
"""Of each node of the graph that are computed at once, about."""

DEAD: Final = 1e-4
"""A unit is dead that moves by less than this part of its function's range, over all steps and sequences."""


@dataclass(frozen=True, repr=False)
class Gate(Record):
    """One squashed vector of a step, over all steps and sequences.

    Attributes:
        name: as the cell's author has it, or else what it is made of, as in "tanh(c)".
        kind: sigmoid, tanh or relu.
        mean: of all its values.
        low, high: the share of values at the lower and the upper end: within `threshold` of the range from
            it; for relu `low` is the share of zeros, and `high` 0.
        low_by_unit, high_by_unit, mean_by_unit: (W,).
        low_by_time, high_by_time: (T,).
        dead: (W,) bools, units that do not move, at whatever value.
    """

    name: str
    kind: str
    mean: float
    low: float
    high: float
    mean_by_unit: Tensor
    low_by_unit: Tensor
    high_by_unit: Tensor
    low_by_time: Tensor
    high_by_time: Tensor
    dead: Tensor

    def summary(self) -> str:
        dead = int(self.dead.sum())
        if self.kind == "relu":
            told = f"{self.name}: {self.low:.0%} inactive"
        else:
            told = f"{self.name}: mean {number(self.mean)}, {self.low:.0%} low, {self.high:.0%} high"
        return told + f", {dead} of {len(self.dead)} units dead" * bool(dead)

    def _draw(self, ax: Axes) -> None:
        ax.fill_between(range(len(self.low_by_time)), 0, self.low_by_time, label="low", alpha=0.6)
        ax.fill_between(range(len(self.high_by_time)), 1 - self.high_by_time, 1, label="high", alpha=0.6)
        ax.set_ylim(0, 1)
        ax.set_xlabel("step")
        ax.set_ylabel(f"share of {self.name} that is saturated")
        ax.legend(frameon=False)


@dataclass(frozen=True, repr=False)
class Carry(Record):
    """The factor by which a state's old value enters the new one directly, such as a forget gate.

    Attributes:
        state: which; gate: what the factor is called, as in "f" or "1 − z".
        mean: of the factor over everything; by_unit: (W,), over steps and sequences.
        time: (W,), steps that a unit remembers, 1 / (1 - mean); inf where the mean is 1 or more.
        by_time: (T,), the mean over units and sequences.
    """

    state: str
    gate: str
    mean: float
    by_unit: Tensor
    by_time: Tensor

    @property
    def time(self) -> Tensor:
        return 1 / (1 - self.by_unit.clamp(max=1.0))

    def summary(self) -> str:
        middle, high = self.time.quantile(0.5), self.time.max()
        return (
            f"{self.state} is carried by {self.gate}, {number(self.mean)} on average: units remember "
            f"{number(middle)} steps (median), {number(high)} at most"
        )

    def _draw(self, ax: Axes) -> None:
        ax.plot(self.time.sort(descending=True).values)
        ax.set_yscale("log")
        ax.set_xlabel("unit, sorted")
        ax.set_ylabel(f"steps that {self.gate} carries {self.state}")


@dataclass(frozen=True, repr=False)
class GateStatistics(Record):
    """Gates and states of one layer and direction.

    Attributes:
        gates: every sigmoid, tanh and relu of a step.
        carries: what carries states.
        state_norms: (T,) for each state, its root mean square over units and sequences.
        frozen: units of each state that are the same at all steps and in all sequences, (W,) bools.
    """

    place: str
    gates: tuple[Gate, ...]
    carries: tuple[Carry, ...]
    state_norms: Mapping[str, Tensor]
    frozen: Mapping[str, Tensor]

    def __getitem__(self, name: str) -> Gate:
        return next(gate for gate in self.gates if gate.name == name)

    def growth(self, state: str) -> float:
        """How much larger a state is in the last tenth of all steps than in the second tenth."""
        norms = self.state_norms[state]
        tenth = max(1, len(norms) // 10)
        early, late = norms[tenth : 2 * tenth], norms[-tenth:]
        return float(late.mean() / early.mean()) if len(early) and float(early.mean()) else 1.0

    def summary(self) -> str:
        lines = [f"{self.place}:"]
        lines += [f"    {each.summary()}" for each in (*self.gates, *self.carries)]
        lines += [
            f"    {name}: size {number(norms[0])} at first, {number(norms[-1])} at the end"
            for name, norms in self.state_norms.items()
        ]
        return "\n".join(lines)

    def _draw(self, ax: Axes) -> None:
        names = [gate.name for gate in self.gates]
        place = range(len(names))
        ax.barh(place, [gate.low for gate in self.gates], label="low")
        ax.barh(place, [gate.high for gate in self.gates], left=[g.low for g in self.gates], label="high")
        ax.set_yticks(place, names)
        ax.set_xlim(0, 1)
        ax.set_xlabel(f"share of values that are saturated, {self.place}")
        ax.legend(frameon=False)


def gate_statistics(
    model: nn.Module | Recording, batch: Any = None, losses: Losses | None = None, *, threshold: float = 0.1
) -> tuple[GateStatistics, ...]:
    """Saturation, dead units, carried states and growth, for every layer and direction.

    Args:
        model, batch, losses: see `unrolled.flow.record`; or a recording.
        threshold: the part of a function's range at each end that counts as saturated.

    Raises:
        InputError: the threshold is not between 0 and 1/2.
    """
    if not 0 < threshold < 0.5:
        raise InputError(f"threshold is a part of the range, between 0 and 0.5, got {threshold}")
    recording = model if isinstance(model, Recording) else record(model, batch, losses)
    return tuple(_of_place(place, threshold) for place in recording.places)


def squashed(graph: Graph) -> list[int]:
    """The sigmoids, tanhs and relus of a step."""
    varies = {*range(len(graph.nodes))} - {
        k for k, n in enumerate(graph.nodes) if n.kind in ("constant", "vector", "rate")
    }
    return [k for k, node in enumerate(graph.nodes) if node.kind in ENDS and node.args[0] in varies]


def called(graph: Graph, k: int) -> str:
    """What a node is called: by the cell's author, as the state it becomes, or by what it is made of."""
    node = graph.nodes[k]
    if k in graph.names:
        return graph.names[k]
    results = dict(zip(graph.results, (*graph.states, *graph.outputs), strict=True))
    if k in results:
        return results[k]
    if node.kind in ("input", "state", "vector", "affine"):
        return node.name
    if node.kind == "constant":
        return f"{node.value:g}"
    inside = [called(graph, a) for a in node.args]
    if node.kind == "sub":
        return f"{inside[0]} − {inside[1]}"
    return f"{node.kind}({', '.join(inside)})"


def carried(graph: Graph) -> list[tuple[str, int]]:
    """States, and the nodes of factors by which their old values enter a sum."""
    found = []
    for node in graph.nodes:
        if node.kind != "mul":
            continue
        for state, factor in (node.args, node.args[::-1]):
            is_state = graph.nodes[state].kind == "state"
            if is_state and _is_between(graph, factor) and _reaches(graph, node, graph.nodes[state].name):
                found.append((graph.nodes[state].name, factor))
    return found


def _is_between(graph: Graph, k: int) -> bool:
    """Whether a node's values are between 0 and 1: a sigmoid, or 1 less one."""
    node = graph.nodes[k]
    if node.kind == "sub" and graph.nodes[node.args[0]].kind == "constant":
        return graph.nodes[node.args[0]].value == 1.0 and _is_between(graph, node.args[1])
    return node.kind == "sigmoid"


def _reaches(graph: Graph, product: Any, state: str) -> bool:
    """Whether a product is a term of the state's new value, and not of what enters a matrix."""
    waiting = [graph.results[graph.states.index(state)]]
    while waiting:
        node = graph.nodes[waiting.pop()]
        if node is product:
            return True
        if node.kind in ("add", "sub", "where"):
            waiting += node.args
    return False


def _of_place(place: Place, threshold: float) -> GateStatistics:
    graph = place.graph
    gates = {k: _Sums(place) for k in squashed(graph)}
    carries = [(state, k, _Sums(place)) for state, k in carried(graph)]
    for first, end, done in _chunks(place):
        there = place.there[first:end]
        for k, sums in gates.items():
            sums.add(done[k], there, first, _ends(graph.nodes[k].kind, threshold))
        for _, k, sums in carries:
            sums.add(done[k], there, first, (-1.0, 2.0))
    norms, frozen = {}, {}
    for name, value in place.states.items():
        there = place.there[..., None]
        squares = (value.square() * there).sum((1, 2)) / (there.sum((1, 2)) * value.shape[-1]).clamp(min=1)
        norms[name] = squares.sqrt()
        flat = value[place.there]
        frozen[name] = (flat == flat[:1]).all(0) if len(flat) > 1 else torch.zeros(value.shape[-1]).bool()
    return GateStatistics(
        place.name,
        tuple(sums.gate(called(graph, k), graph.nodes[k].kind) for k, sums in gates.items()),
        tuple(
            Carry(state, called(graph, k), sums.mean, sums.by_unit(sums.total), sums.mean_by_time)
            for state, k, sums in carries
        ),
        norms,
        frozen,
    )


def _ends(kind: str, threshold: float) -> tuple[float, float | None]:
    low, high = ENDS[kind]
    if high is None:
        return 0.0, None
    reach = threshold * (high - low)
    return low + reach, high - reach


def _chunks(place: Place) -> Iterator[tuple[int, int, list[Any]]]:
    """The values of all nodes of some steps (steps, B, W), then of the next."""
    width = max(value.shape[-1] for value in place.states.values())
    for steps in place.together(ELEMENTS // max(place.B * width, 1)):
        first, end = steps.start, steps.stop
        with torch.no_grad():
            done = place.graph.values(place.reads(steps), place.parameters_at(first))
        shape = end - first, place.B, -1
        yield first, end, [v.reshape(shape) if isinstance(v, Tensor) and v.ndim == 2 else v for v in done]


class _Sums:
    """What is counted of one vector, chunk by chunk."""

    def __init__(self, place: Place) -> None:
        self.count = place.there.sum(1)  # sequences at each step
        self.T = place.T
        self.total: Tensor = torch.zeros(())
        self.low: Tensor = torch.zeros(())
        self.high: Tensor = torch.zeros(())
        self.least: Tensor | None = None
        self.most: Tensor | None = None
        self.times: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, value: Any, there: Tensor, first: int, ends: tuple[float, float | None]) -> None:
        value = value.float()
        mask = there[..., None]
        lowest, highest = ends
        low = ((value <= lowest) & mask).double()
        high = ((value >= highest) & mask).double() if highest is not None else torch.zeros_like(low)
        values = (value * mask).double()
        self.total, self.low, self.high = (
            a + b.sum((0, 1)) for a, b in ((self.total, values), (self.low, low), (self.high, high))
        )
        self.times.append((values.mean(-1).sum(1), low.mean(-1).sum(1), high.mean(-1).sum(1)))
        real = value[there]
        if len(real):
            least, most = real.amin(0), real.amax(0)
            self.least = least if self.least is None else torch.minimum(self.least, least)
            self.most = most if self.most is None else torch.maximum(self.most, most)

    def by_unit(self, sums: Tensor) -> Tensor:
        return sums / self.count.sum().clamp(min=1)

    def by_time(self, which: int) -> Tensor:
        return torch.cat([each[which] for each in self.times]) / self.count.clamp(min=1)

    @property
    def mean(self) -> float:
        return float(self.by_unit(self.total).mean())

    @property
    def mean_by_time(self) -> Tensor:
        return self.by_time(0)

    def gate(self, name: str, kind: str) -> Gate:
        low, high = ENDS[kind]
        reach = DEAD * ((high if high is not None else 1.0) - low)
        dead = torch.zeros(self.total.shape).bool()
        if self.least is not None and self.most is not None:
            dead = self.most <= 0 if kind == "relu" else self.most - self.least <= reach
        return Gate(
            name, kind, self.mean,
            float(self.by_unit(self.low).mean()), float(self.by_unit(self.high).mean()),
            self.by_unit(self.total), self.by_unit(self.low), self.by_unit(self.high),
            self.by_time(1), self.by_time(2), dead,
        )  # fmt: skip


@dataclass(frozen=True, repr=False)
class Clipping(Record):
    """What clipping a gradient's norm took away, over some steps.

    Attributes:
        limit: of the L2 norm.
        norms: (steps,), before.
        often: the share of steps at which it was clipped.
        left: the share of the gradients' norm that was left, on average over steps.
        parts: for each parameter its mean share of the squared norm, in steps that were clipped.
    """

    limit: float
    norms: Tensor
    often: float
    left: float
    parts: Mapping[str, float]

    def summary(self) -> str:
        told = (
            f"norms above {number(self.limit)} were clipped at {self.often:.0%} of {len(self.norms)} steps; "
        )
        told += f"{self.left:.0%} of them was left on average"
        if self.parts:
            name, share = max(self.parts.items(), key=lambda pair: pair[1])
            told += f"\n    {name} had {share:.0%} of the square of what was clipped"
        return told

    def _draw(self, ax: Axes) -> None:
        ax.plot(self.norms, linewidth=0.8)
        ax.axhline(self.limit, color="#777777", linewidth=0.8, linestyle=(0, (4, 3)))
        ax.set_yscale("log")
        ax.set_xlabel("step")
        ax.set_ylabel("norm of the gradient before clipping")


def clipping(norms: Sequence[float] | Sequence[Mapping[str, float]], limit: float) -> Clipping:
    """What a limit on the L2 norm of the whole gradient takes away.

    Args:
        norms: of each step, before clipping; the whole norm, or that of each parameter by name.

    Raises:
        InputError: there are no steps, or the limit is not above 0.
    """
    if not len(norms):
        raise InputError("there are no gradients whose clipping could be told")
    if not limit > 0:
        raise InputError(f"a limit on norms is above 0, got {limit}")
    each = [norm if isinstance(norm, Mapping) else {"": float(norm)} for norm in norms]
    whole = torch.tensor([sum(n * n for n in step.values()) ** 0.5 for step in each], dtype=torch.float64)
    clipped = whole > limit
    left = torch.where(clipped, limit / whole.clamp(min=limit), 1.0)
    shares: dict[str, float] = {}
    for name in each[0]:
        parts = [
            step[name] ** 2 / float(total) ** 2
            for step, total, c in zip(each, whole, clipped, strict=True)
            if c
        ]
        if name and parts:
            shares[name] = sum(parts) / len(parts)
    return Clipping(float(limit), whole, float(clipped.double().mean()), float(left.mean()), shares)
