"""Where the first number that is no number comes from.

What is not finite spreads: from one operation to the state, over all later steps and all layers above, and
backwards over all earlier ones. So it is looked for where it is first: layer by layer as they ran, step by
step, and within a step node by node of the cell's graph, on the row where it was seen.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from unrolled.flow.gates import called
from unrolled.flow.records import Record, number
from unrolled.flow.trace import Gradients, Losses, Place, Recording, record
from unrolled.graph import Graph
from unrolled.parameters import tensors_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIGNS: Final = {
    "add": "sum", "sub": "difference", "mul": "product", "div": "quotient", "affine": "map", "pow": "power",
}  # fmt: skip
"""What operations are called that are written with a sign."""


class Words(Record):
    """A record that is words."""

    def _draw(self, ax: Axes) -> None:
        ax.axis("off")
        ax.text(0, 1, textwrap.fill(self.summary(), 80), verticalalignment="top")


@dataclass(frozen=True, repr=False)
class NanSource(Words):
    """The first value that is not finite.

    Attributes:
        kind: "parameter", "x", "initial state", "operation", "loss", "gradient of an operation", "gradient
            of a parameter", or "gradient of the loss" where it comes from behind the layers.
        place: the layer and direction; "" where it is none.
        step: as the sequence goes, from 0; None where it is no step's.
        sequence: of the batch; None where it is none's.
        name: of the parameter, the state, or the operation, as in "log(a)".
        value: "nan", "inf" or "-inf".
        words: all of it in a sentence.
    """

    kind: str
    place: str
    step: int | None
    sequence: int | None
    name: str
    value: str
    words: str

    def summary(self) -> str:
        return self.words


def nan_source(
    model: nn.Module | Recording,
    batch: Any = None,
    losses: Losses | None = None,
    *,
    parameters: Iterable[tuple[str, Tensor]] | None = None,
) -> NanSource | None:
    """The first step, layer and operation at which something is not finite; None if all is.

    Forwards, what the layers did is looked at, then the loss; where these are finite, backwards the gradients
    of the losses' sum with respect to states and, of a model, its parameters.

    Args:
        model, batch, losses: see `unrolled.flow.record`; or a recording.
        parameters: whose gradients are looked at, by name; if not given those of the model, of a recording
            none.
    """
    recording = model if isinstance(model, Recording) else record(model, batch, losses)
    for place in recording.places:
        if found := _forwards(place):
            return found
    if not recording.losses.isfinite().all():
        where = torch.nonzero(~recording.losses.isfinite())[0].tolist()
        value = _value(recording.losses.detach()[~recording.losses.isfinite()][0])
        step = where[0] if len(where) == 2 else None
        at = f" of step {step}" if step is not None else ""
        words = (
            f"the loss{at} is {value}, but all that the recurrent layers did is finite: it comes from what "
            "follows them"
        )
        return NanSource("loss", "", step, where[-1] if where else None, "loss", value, words)
    if not recording.losses.requires_grad:
        return None
    if parameters is None:
        parameters = () if isinstance(model, Recording) else model.named_parameters()
    return _backwards(recording) or _of_parameters(recording, parameters)


def _value(element: Tensor) -> str:
    return str(float(element))


def _bad(place: Place, name: str, value: Tensor) -> Tensor:
    """Which steps and sequences are not finite, (T, B); a state that begins with ±∞ may be that."""
    allowed = name in place.graph.states and math.isinf(place.graph.initial.get(name, 0.0))
    return ((value.isnan() if allowed else ~value.isfinite()).any(-1)) & place.there


def _forwards(place: Place) -> NanSource | None:
    for name, parameter in zip(place.parameters, tensors_of(place.parameters), strict=True):
        if not parameter.isfinite().all():
            value = _value(parameter[~parameter.isfinite()][0])
            words = f"{place.name}: the parameter {name} holds {value}, from the first step on"
            return NanSource("parameter", place.name, 0, None, name, value, words)
    graph = place.graph
    bad: dict[str, Tensor] = {}
    if place.x.is_floating_point():
        bad["x"] = _bad(place, "x", place.x)
    bad |= {f"state {name}": _bad(place, name, value) for name, value in place.states.items()}
    if place.cell.outputs:
        with torch.no_grad():
            done = graph.run(place.reads(), place.parameters)[len(graph.states) :]
        for name, output in zip(graph.outputs, done, strict=True):
            bad[f"output {name}"] = _bad(place, name, output.view(place.T, place.B, -1))
    steps = {what: int(where.any(1).long().argmax()) for what, where in bad.items() if where.any()}
    if not steps:
        return None
    t = min(steps.values())
    if steps.get("x") == t:
        b = int(bad["x"][t].long().argmax())
        step, row = _step(place, t, b), place.x[t, b]
        value = _value(row[~row.isfinite()][0])
        words = f"{place.name}: x is {value} at step {step} of sequence {b}, before anything is computed"
        return NanSource("x", place.name, step, b, "x", value, words)
    b = int(next(where for what, where in bad.items() if steps.get(what) == t)[t].long().argmax())
    return _operation(place, t, b)


def _step(place: Place, t: int, b: int) -> int:
    """A step as the sequence goes."""
    return int(place.lengths[b]) - 1 - t if place.reverse else t


def _row(place: Place, t: int, b: int) -> dict[str, Tensor]:
    """What one step of one sequence read."""
    reads = place.reads(slice(t, t + 1))
    return {name: value[b : b + 1] if value.ndim else value for name, value in reads.items()}


def _operation(place: Place, t: int, b: int) -> NanSource:
    graph, step = place.graph, _step(place, t, b)
    read = _row(place, t, b)
    for name in graph.states:
        given, start = read[name], graph.initial.get(name, 0.0)
        if not given.isfinite().all() and not math.isinf(start):
            value = _value(given[~given.isfinite()][0])
            words = f"{place.name}: the initial state {name} of sequence {b} holds {value}"
            return NanSource("initial state", place.name, step, b, name, value, words)
    with torch.no_grad():
        done = graph.values(read, place.parameters_at(t))
    finite = [not isinstance(v, Tensor) or bool(v.isfinite().all()) for v in done]
    waiting = [k for k in graph.results if not finite[k]]
    seen = set(waiting)
    while waiting:
        for a in graph.nodes[waiting.pop()].args:
            if not finite[a] and a not in seen:
                seen.add(a)
                waiting.append(a)
    # The first one that is made of finite values, or of infinite ones that were there from the start.
    sources = sorted(k for k in seen if graph.nodes[k].args and all(finite[a] for a in graph.nodes[k].args))
    sources = sources or sorted(k for k in seen if graph.nodes[k].args and bool(done[k].isnan().any()))
    if not sources:
        words = f"{place.name}: the state is not finite behind step {step} of sequence {b}"
        return NanSource("operation", place.name, step, b, "a step", "nan", words)
    k = sources[0]
    unit = int((~done[k].isfinite()).flatten().long().argmax())
    value = _value(done[k].flatten()[unit])
    text = written(graph, k)
    words = (
        f"{place.name}: {value} first appears at step {step} of sequence {b}, in unit {unit} of {text}"
        f"{_of(graph, k, done, unit)}"
    )
    return NanSource("operation", place.name, step, b, text, value, words)


def written(graph: Graph, k: int) -> str:
    """A node as an operation on what its author named."""
    node = graph.nodes[k]
    name = f"{graph.names[k]} = " if k in graph.names else ""
    if node.kind == "affine":
        return f"{name}W.{node.name}({', '.join(node.sources)})"
    inside = ", ".join(called(graph, a) for a in node.args)
    return f"{name}{SIGNS.get(node.kind, node.kind)}({inside})"


def _of(graph: Graph, k: int, done: list[Any], unit: int) -> str:
    """The operands, in words."""
    node = graph.nodes[k]
    if node.kind == "affine":
        sizes = [float(done[a].abs().max()) for a in node.args if done[a].is_floating_point()]
        return f", whose arguments go up to {number(max(sizes))}" if sizes else ""
    values = []
    for a in node.args:
        flat = done[a].flatten() if isinstance(done[a], Tensor) else torch.tensor([float(done[a])])
        values.append(number(flat[unit if len(flat) > unit else 0].double()))
    return f", of {' and '.join(values)}"


def _backwards(recording: Recording) -> NanSource | None:
    for found in reversed(recording.gradients(torch.ones_like(recording.losses))):
        place = found.place
        bad = torch.stack([~d.isfinite().all(-1) for d in (*found.before.values(), *found.arriving.values())])
        where = bad.any(0) & place.there
        if not where.any():
            continue
        t = place.T - 1 - int(where.any(1).flip(0).long().argmax())
        b = int(where[t].long().argmax())
        return _of_gradient(found, t, b)
    return None


def _of_gradient(found: Gradients, t: int, b: int) -> NanSource:
    place, graph = found.place, found.place.graph
    step = _step(place, t, b)
    arriving = {name: d[t, b][None] for name, d in found.arriving.items()}
    for name, d in arriving.items():
        if not d.isfinite().all():
            value = _value(d[~d.isfinite()][0])
            words = (
                f"{place.name}: all values are finite, but the gradient that arrives at {name} of step "
                f"{step} holds {value}: it comes from what follows this layer"
            )
            return NanSource("gradient of the loss", place.name, step, b, name, value, words)
    k, value = _of_node(graph, _row(place, t, b), place.parameters_at(t), arriving)
    text = written(graph, k) if k is not None else "a step"
    words = (
        f"{place.name}: all values are finite, but the derivative of {text} at step {step} of sequence {b} "
        f"gives {value}"
    )
    return NanSource("gradient of an operation", place.name, step, b, text, value, words)


def _of_node(
    graph: Graph, read: Mapping[str, Tensor], parameters: Mapping[str, Tensor], arriving: Mapping[str, Tensor]
) -> tuple[int | None, str]:
    """The node whose derivative is the first that is not finite, in the order of a backward pass."""
    with torch.enable_grad():
        read = {n: v.clone().requires_grad_() if v.is_floating_point() else v for n, v in read.items()}
        learned = {name: value.clone().requires_grad_() for name, value in parameters.items()}
        done = graph.values(read, learned)
        results = dict(zip((*graph.states, *graph.outputs), graph.results, strict=True))
        ends = [(done[results[n]], d) for n, d in arriving.items() if done[results[n]].requires_grad]
        learn = [k for k, v in enumerate(done) if isinstance(v, Tensor) and v.requires_grad]
        gradients = torch.autograd.grad(
            [v for v, _ in ends], [done[k] for k in learn], [d.view_as(v) for v, d in ends], allow_unused=True
        )
    bad = {k: d for k, d in zip(learn, gradients, strict=True) if d is not None and not d.isfinite().all()}
    for k in reversed(range(len(graph.nodes))):
        if k not in bad and any(a in bad for a in graph.nodes[k].args):
            d = next(bad[a] for a in graph.nodes[k].args if a in bad)
            return k, _value(d[~d.isfinite()][0])
    return None, "nan"


def _of_parameters(recording: Recording, parameters: Iterable[tuple[str, Tensor]]) -> NanSource | None:
    named = [(name, p) for name, p in parameters if p.requires_grad]
    if not named:
        return None
    found = torch.autograd.grad(
        recording.losses.sum(), [p for _, p in named], allow_unused=True, retain_graph=True
    )
    for (name, _), d in zip(named, found, strict=True):
        if d is not None and not d.isfinite().all():
            value = _value(d[~d.isfinite()][0])
            words = f"all values and the gradients of states are finite, but that of {name} holds {value}"
            return NanSource("gradient of a parameter", "", None, None, name, value, words)
    return None
