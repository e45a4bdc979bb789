"""How a small change of what a layer reads goes on through time.

This is the tangent of a run: the derivative of each step, at the states that the run had, of what arrives
there. Rows of the table of operations are linearised for many steps at once; products with matrices and sums
are what is left to do step by step, about 0.1 ms a step.

Changes shrink or grow by any factor: they are kept as ordinary numbers and a power of two, so that 100,000
steps are as exact as one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from unrolled.compile.step import Step, lower
from unrolled.flow.trace import Place
from unrolled.graph import OPERATIONS
from unrolled.nn.stack import RecurrentStack

NOTHING: Final = -(2**40)
"""The power of two that stands for 0."""

RANGE: Final = 2.0**100
"""Numbers that are larger, or smaller than its inverse, are scaled."""

CHUNK: Final = 256
"""Steps that are linearised at once."""


@dataclass(frozen=True)
class Changes:
    """Changes of all steps: values (T, B, W), those of step t times 2 to the power of powers[t]."""

    values: Tensor
    powers: Tensor

    @property
    def log_norm(self) -> Tensor:
        """(T,), ln of their norm, the root of the mean square over sequences."""
        return log_norm(self.values) + self.powers.double() * math.log(2)

    def turned(self) -> Changes:
        """From the last step to the first."""
        return Changes(self.values.flip(0), self.powers.flip(0))


def log_norm(values: Tensor) -> Tensor:
    """ln of the norm of what each step has, (T, B, W) to (T,); the root of the mean square over sequences."""
    top = values.abs().amax((-2, -1))
    scale = torch.where(top == 0, 1.0, top)
    total = (values / scale[:, None, None]).square().sum((-2, -1)) / values.shape[1]
    return torch.where(top == 0, -math.inf, total.log() / 2 + scale.log())


def impulse(x: Tensor, at: int, direction: Tensor) -> Changes:
    """That of one step of x (T, B, D), in a direction (D,)."""
    values, powers = torch.zeros_like(x), torch.full((len(x),), NOTHING)
    values[at], powers[at] = direction, 0
    return Changes(values, powers)


def through_layers(
    layer: RecurrentStack, places: Sequence[Place], change: Changes
) -> list[dict[str, Changes]]:
    """What becomes of a change of what a layer reads.

    Args:
        layer: in evaluation.
        places: its layers and directions as they ran.

    Returns:
        the changes of the states by name, for each place in the order in which it goes through time.
    """
    found, sides = [], []
    for k, place in enumerate(places):
        depth, reverse = divmod(k, 1 + layer.bidirectional)
        if depth and not reverse and layer.batch_norm is not None:
            norm: Any = layer.batch_norm[f"l{depth}"]
            slope = norm.weight.detach() / (norm.running_var + norm.eps).sqrt()
            change = Changes(change.values * slope, change.powers)
        moved = through_time(place, change.turned() if reverse else change)
        found.append({name: moved[name] for name in place.states})
        output = moved[place.graph.output]
        sides.append(output.turned() if reverse else output)
        if len(sides) == 1 + layer.bidirectional:
            change, sides = _beside(sides), []
    return found


def _beside(sides: Sequence[Changes]) -> Changes:
    """Changes of several values as those of one."""
    powers = torch.stack([side.powers for side in sides]).amax(0)
    scales = [torch.exp2((side.powers - powers).double())[:, None, None] for side in sides]
    values = [side.values * scale for side, scale in zip(sides, scales, strict=True)]
    return Changes(torch.cat(values, -1), powers)


def through_time(place: Place, read: Changes) -> dict[str, Changes]:
    """What becomes of a change of what one layer and direction reads.

    Returns:
        the changes of its states and outputs by name; NaN from where a state, or a change, is not finite.
    """
    graph, T, B = place.graph, place.T, place.B
    name, step, rows = graph.inputs[0], lower(graph), place.reads()
    sizes = {graph.widths[name]: place.x.shape[-1]} | graph.sizes_with(place.start, place.parameters)
    widths = graph.output_sizes(place.start, place.parameters)
    finite = torch.stack([value.isfinite().flatten(1).all(1) for value in place.states.values()]).all(0)
    end = T if finite.all() else int(finite.int().argmin())
    values = {key: torch.zeros(T, B, width, dtype=torch.float64) for key, width in widths.items()}
    arriving, powers = read.powers.tolist(), [NOTHING] * T
    now: dict[str, Tensor] = {}
    power = NOTHING
    for t in range(end):
        if t % CHUNK == 0:
            here = slice(t * B, (t + CHUNK) * B)
            some = {key: value[here] if value.ndim else value for key, value in rows.items()}
            linear = _Linear(step, some, place.parameters, sizes, B)
        top = max(power, arriving[t])
        if top == NOTHING:
            continue
        change = {key: value * math.ldexp(1.0, power - top) for key, value in now.items()}
        if arriving[t] > NOTHING:
            change[name] = read.values[t] * math.ldexp(1.0, arriving[t] - top)
        new = linear.step(t % CHUNK, change)
        size = sum(float(value.abs().max()) for value in new.values())
        if not math.isfinite(size):
            end = t
            break
        if size and not 1 / RANGE < size < RANGE:
            shift = math.frexp(size)[1]
            top += shift
            new = {key: value * math.ldexp(1.0, -shift) for key, value in new.items()}
        power = powers[t] = top if size else NOTHING
        for key, value in new.items():
            values[key][t] = value
        now = {key: new[key] for key in graph.states if key in new}
    powers[end:] = [0] * (T - end)
    for value in values.values():
        value[end:] = math.nan
    return {key: Changes(value, torch.tensor(powers)) for key, value in values.items()}


class _Linear:
    """Some steps of a cell as linear functions of a change of what they read.

    Args:
        lowered: the step.
        rows: what these steps read by name, row by row.
        B: how many rows a step has.
    """

    def __init__(
        self,
        lowered: Step,
        rows: Mapping[str, Tensor],
        parameters: Mapping[str, Tensor],
        sizes: Mapping[str, int],
        B: int,
    ) -> None:
        self.lowered, self.parameters = lowered, parameters
        values = lowered.run(rows, parameters, sizes)
        moving: set[int] = set()
        self.slopes: dict[int, list[tuple[int, tuple[Tensor, ...]]]] = {}
        """For each node of the table: the nodes it depends on, and its derivative by them at every step."""
        for k, node in enumerate(lowered.nodes):
            on = [a for a in dict.fromkeys(node.args) if a in moving]
            if node.kind == "read" or (node.kind == "product" and on):
                moving.add(k)
            elif on and (row := OPERATIONS[node.kind]).adjoint is not None:
                moving.add(k)
                with torch.enable_grad():
                    wide = {a: values[a if row.reduces else k].shape for a in on}
                    at = {a: values[a].expand(wide[a]).clone().requires_grad_() for a in on}
                    y = row.run(*(at.get(a, values[a]) for a in node.args))
                    found = torch.autograd.grad(y.sum(), [*at.values()])
                slopes = (d.view(-1, B, d.shape[-1]).unbind() for d in found)
                self.slopes[k] = list(zip(on, slopes, strict=True))

    def step(self, t: int, change: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The changes (B, W) of results by name, from those of what is read; what is missing is 0."""
        done: dict[int, Tensor] = {}
        for k, node in enumerate(self.lowered.nodes):
            if node.kind == "read":
                if node.name in change:
                    done[k] = change[node.name]
            elif node.kind == "product":
                if node.args[0] in done:
                    done[k] = F.linear(done[node.args[0]], self.parameters[node.name])
            else:
                for a, slope in self.slopes.get(k, ()):
                    if a not in done:
                        continue
                    if node.kind == "where":  # also beside a branch that is not finite
                        part = torch.where(slope[t] == 0, 0.0, done[a])
                    else:
                        part = slope[t] * done[a]
                    if OPERATIONS[node.kind].reduces:
                        part = part.sum(-1, keepdim=True)
                    done[k] = done[k] + part if k in done else part
        return {name: done[k] for name, k in self.lowered.results.items() if k in done}
