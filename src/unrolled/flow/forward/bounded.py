"""Bounded input, bounded output: how large states become, beside what they can be at most."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from unrolled.cell import EquationCell
from unrolled.cells.rnn import rnn
from unrolled.errors import check_sizes
from unrolled.flow.forward.arguments import in_double, one_number
from unrolled.flow.forward.curves import curve, legend, name_powers
from unrolled.flow.forward.fixed_points import check_activation
from unrolled.flow.records import Record, number
from unrolled.graph import Graph, Node
from unrolled.nn.recurrent import Recurrent
from unrolled.nn.stack import RecurrentStack

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CHUNK: Final = 1024
"""Steps that run at once."""


@dataclass(frozen=True, repr=False)
class Bounded(Record):
    """The largest states for inputs between -1 and 1, beside what they can be at most.

    Attributes:
        places: the layer and direction, and the state, as in ("l0", "h").
        largest: (places, T), the largest |unit| up to each step; inf beyond float64.
        bounds: what no input between -1 and 1 can exceed, for each; inf where there is none, or none known.
        words: what there is to say of each.
    """

    places: tuple[tuple[str, str], ...]
    largest: Tensor
    bounds: tuple[float, ...]
    words: tuple[str, ...]

    def summary(self) -> str:
        return "\n".join(self.words)

    def _draw(self, ax: Axes) -> None:
        t = torch.arange(self.largest.shape[1])
        for (place, name), largest, bound in zip(self.places, self.largest, self.bounds, strict=True):
            line = curve(ax, t, largest.log(), label=f"{place} {name}", linewidth=2.0)
            if math.isfinite(bound):
                ends = torch.full((2,), bound, dtype=torch.float64).log()
                curve(ax, t[[0, -1]], ends, color=line.get_color(), linestyle="--", linewidth=1.2)
        if any(map(math.isfinite, self.bounds)):
            ax.plot([], [], color="#555555", linestyle="--", linewidth=1.2, label="bound")
        ax.set_xlabel("step t")
        name_powers(ax, "largest unit so far")
        ax.set_title("Inputs between -1 and 1", loc="left", fontsize=10)
        legend(ax)


def bounded(
    layer: RecurrentStack | str,
    T: int = 1000,
    *,
    w: float = 1.0,
    u: float = 1.0,
    b: float = 0.0,
    sequences: int = 24,
    generator: torch.Generator | None = None,
) -> Bounded:
    """Whether bounded inputs give bounded states, and how large these become.

    Bounds: 1 for what tanh or a sigmoid makes, also mixed by a gate with such a state (a GRU's); for
    relu (‖U‖ + ‖b‖) / (1 - ‖W‖) where ‖W‖ < 1, the smaller one by row sums and by singular values, and none
    otherwise; for softplus with ln 2 more above the line; for the cell of an LSTM 1 / (1 - f), with the
    largest f there can be. What is measured is the largest for constant, alternating and random inputs.

    Args:
        layer: any recurrent layer, or an activation: one unit h = f(w h + u x + b).
        T: steps.
        w, u, b: of that unit.
        sequences: how many inputs are tried.
        generator: of random inputs.

    Raises:
        InputError: no layer, no such activation, or a number is not finite.
    """
    check_sizes(T=T, sequences=sequences)
    layer = in_double(_unit(layer, w, u, b) if isinstance(layer, str) else layer)
    signs = torch.randint(2, (sequences, layer.input_size), generator=generator).double() * 2 - 1
    places = tuple((place, name) for place in layer.suffixes for name in layer.cell.states)
    largest = torch.full((len(places), T), math.inf, dtype=torch.float64)
    state, chunk = None, T if layer.bidirectional else CHUNK
    for first in range(0, T, chunk):
        x = _between(first, min(chunk, T - first), signs, generator)
        with torch.no_grad():
            _, state, steps = layer(x, state, return_states=True)
        every = (steps[name][layer.suffixes.index(place)] for place, name in places)
        found = torch.stack([value.abs().amax((1, 2)).nan_to_num(math.inf, math.inf) for value in every])
        largest[:, first : first + chunk] = found
        if not found.isfinite().all():
            break
    largest = largest.cummax(1).values
    bounds = _bounds(layer)
    words = [_told(*key, own, *bounds[key]) for key, own in zip(places, largest, strict=True)]
    return Bounded(places, largest, tuple(bounds[key][0] for key in places), tuple(words))


def _told(place: str, name: str, largest: Tensor, bound: float, why: str) -> str:
    """What happened to one state, in words."""
    most = f"{place} {name}: at most {number(largest[-1])}"
    if largest[-1].isinf():
        first = int(largest.isinf().int().argmax())
        most = f"{place} {name}: left the range of float64 at step {first}"
    return f"{most}; {f'the bound is {number(bound)}' if math.isfinite(bound) else why}"


def _unit(activation: str, w: float, u: float, b: float) -> Recurrent:
    """A layer of one unit."""
    check_activation(activation)
    layer = Recurrent(rnn.with_options(activation=activation), 1, 1, dtype=torch.float64)
    with torch.no_grad():
        for name, value in {"h.h": w, "h.x": u, "h.bias": b}.items():
            layer.parameters_of("l0")[name].fill_(one_number(name, value))
    return layer


def _between(first: int, steps: int, signs: Tensor, generator: torch.Generator | None) -> Tensor:
    """Inputs between -1 and 1 from a step on, (steps, B, D): of each six sequences one is 1, one -1, one
    alternates, one is constant, one of random signs, and one of any numbers."""
    B, D = signs.shape
    x = torch.rand(steps, B, D, generator=generator, dtype=torch.float64) * 2 - 1
    turns = 1.0 - 2.0 * ((first + torch.arange(steps)) % 2).double()
    kind = torch.arange(B) % 6
    x[:, kind == 0], x[:, kind == 1] = 1.0, -1.0
    x[:, kind == 2] = turns[:, None, None] * signs[kind == 2]
    x[:, kind == 3] = signs[kind == 3]
    x[:, kind == 4] = x[:, kind == 4].sign()
    return x


# Bounds


def _bounds(layer: RecurrentStack) -> dict[tuple[str, str], tuple[float, str]]:
    """The bound of each state of each layer and direction; where there is none inf, and why."""
    found: dict[tuple[str, str], tuple[float, str]] = {}
    cell, reach, handed = layer.regulariser.evaluation, 1.0, 0.0
    start = {name: float(value.detach().abs().max()) for name, value in layer.initial_state(1).items()}
    for k, place in enumerate(layer.suffixes):
        parameters = {name: value.detach() for name, value in layer.parameters_of(place).items()}
        graph = cell.graph_using(parameters)
        caps = _caps(graph, start)
        for name, cap in caps.items():
            found[place, name] = cap, f"no bound is known of {name} of {cell.name!r}"
        if isinstance(cell, EquationCell) and cell.base_name in ("rnn", "lstm"):
            by_weights = _of_rnn if cell.base_name == "rnn" else _of_lstm
            name, bound, why = by_weights(cell, parameters, reach, start)
            if caps[name] == math.inf:
                found[place, name] = bound, why
        handed = max(handed, found[place, graph.output][0] if graph.output in caps else math.inf)
        if (k + 1) % (1 + layer.bidirectional) == 0:  # what the next layer reads
            reach, handed = math.inf if layer.batch_norm is not None else handed, 0.0
    return found


def _caps(graph: Graph, start: Mapping[str, float]) -> dict[str, float]:
    """For each state a bound that holds for all weights and inputs: at first 1 is supposed of each, and where
    the step leads out of that there is none."""
    caps = {name: max(1.0, start[name]) for name in graph.states}
    while True:
        values: list[float] = []
        for node in graph.nodes:
            values.append(_cap(graph, node, values, caps))
        new = dict(zip(graph.states, graph.results, strict=False))
        broken = [name for name, cap in caps.items() if values[new[name]] > cap]
        if not broken:
            return caps
        caps |= dict.fromkeys(broken, math.inf)


def _cap(graph: Graph, node: Node, values: Sequence[float], caps: Mapping[str, float]) -> float:
    """What |value| of a node is at most, from those before it."""
    a = [values[k] for k in node.args]
    if node.kind == "add" and (mixed := _mixed(graph, node)):
        return max(values[k] for k in mixed)
    match node.kind:
        case "tanh" | "sigmoid":
            return 1.0
        case "state":
            return caps[node.name]
        case "constant":
            return abs(node.value)
        case "mul":
            return a[0] * a[1] if all(a) else 0.0
        case "add" | "sub":
            return a[0] + a[1]
        case "neg" | "abs" | "relu":
            return a[0]
        case "maximum" | "minimum":
            return max(a)
        case "where":
            return max(a[1:])
    return math.inf


def _mixed(graph: Graph, node: Node) -> tuple[int, int] | None:
    """The nodes a and b of z a + (1 - z) b with a gate z, if the node is that."""
    sides = [graph.nodes[k] for k in node.args]
    for one, other in (sides, sides[::-1]):
        if one.kind != "mul" or other.kind != "mul":
            return None
        for k, gate in enumerate(one.args):
            for j, rest in enumerate(other.args):
                minus = graph.nodes[rest]
                if graph.nodes[gate].kind == "sigmoid" and minus.kind == "sub" and minus.args[1] == gate:
                    whole = graph.nodes[minus.args[0]]
                    if whole.kind == "constant" and whole.value == 1:
                        return one.args[1 - k], other.args[1 - j]
    return None


def _of_rnn(
    cell: EquationCell, parameters: Mapping[str, Tensor], reach: float, start: Mapping[str, float]
) -> tuple[str, float, str]:
    """The bound of h of a network that is not bounded by its activation."""
    activation = cell.options["activation"]
    if activation == "maxout":
        return "h", math.inf, "no bound is known of h with maxout"
    W, U = parameters["h.h"], parameters["h.x"]
    b = parameters.get("h.bias", W.new_zeros(len(W))).abs()
    b = b + (math.log(2) if activation == "softplus" else 0.0)  # softplus(z) <= max(z, 0) + ln 2
    rows = W.abs().sum(1).max(), (U.abs().sum(1) * reach + b).max(), 1
    added = torch.linalg.matrix_norm(U, 2) * reach * math.sqrt(U.shape[1]) + b.norm()
    singular = torch.linalg.matrix_norm(W, 2), added, math.sqrt(len(W))
    bounds = [
        max(float(added / (1 - norm)), start["h"] * by) for norm, added, by in (rows, singular) if norm < 1
    ]
    if bounds:
        return "h", min(bounds), "what it reads is unbounded"
    least = number(min(rows[0], singular[0]))
    return "h", math.inf, f"‖W‖ is {least}, and only below 1 there is a bound"


def _of_lstm(
    cell: EquationCell, parameters: Mapping[str, Tensor], reach: float, start: Mapping[str, float]
) -> tuple[str, float, str]:
    """The bound of c, where |i g| <= 1: 1 / (1 - f), f = σ(z), is 1 + e^z."""
    plain = all(cell.options[name] for name in ("forget_gate", "input_activation", "output_activation"))
    if not plain or cell.options["peepholes"] != "none" or cell.options["projection"]:
        return "c", math.inf, "no bound is known of c with these options"
    z = parameters["f.x"].abs().sum(1) * reach + parameters["f.h"].abs().sum(1) * max(1.0, start["h"])
    if "f.bias" in parameters:
        z = z + parameters["f.bias"]
    return "c", max(1 + float(z.max().exp()), start["c"]), "f may be 1: there is no bound"
