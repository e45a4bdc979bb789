"""How long a network remembers: what its state keeps of one input, and the recursions that decide it.

`impulse_response` measures a layer. The others are small recursions, measured beside their closed form:
`linear_recursion`, `saturation` of one unit, `bounded` states, and `memory_of_tanh`, a network.

What shrinks or grows step by step is kept as a number near 1 and a power of two, so that 100,000 steps are
as exact as one. Records hold natural logarithms: -inf is that of exactly 0, and NaN is what could not be
measured; `words` say why.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.forward_ad import dual_level, make_dual, unpack_dual

from unrolled.cell import EquationCell
from unrolled.cells.rnn import POINTWISE, rnn
from unrolled.errors import InputError, check_sizes, no_such_token
from unrolled.flow.records import Record, number
from unrolled.graph import OPERATIONS, Graph, Node
from unrolled.nn.masks import Batch
from unrolled.nn.recurrent import Recurrent
from unrolled.nn.stack import RecurrentStack
from unrolled.scan import scan

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HALF: Final = math.log(0.5)
PERCENT: Final = math.log(0.01)

EPSILON: Final = 2.0**-52

ROUNDING: Final = 1e4 * EPSILON
"""The difference of two runs is measured where it is larger than this part of the states."""

NOTHING: Final = -(2**40)
"""The power of two that stands for 0."""

SETTLED: Final = 1e-14
"""A recursion has settled where a step, or two, move it by less than this part of 1 + |h|."""

NEAR: Final = 1e-3
"""A unit is saturated where it is as near to its limit."""

LARGE: Final = 1e15
"""A recursion that gets there diverges."""

NEUTRAL: Final = 1e-9
"""Where a slope is as near to 1 it decides nothing."""

KINDS: Final = ("gaussian", "symmetric", "orthogonal")


# The response of a layer to one input ----------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Response(Record):
    """What one state of one layer and direction keeps of an impulse.

    Attributes:
        place, state: such as "l0" or "l1_reverse", and "c".
        lags: (T,), steps after the impulse; negative before it.
        measured: (T,), ln(‖moved state - state‖ / size of the impulse), from two runs.
        linear: (T,), the same in the limit of small impulses, by forward-mode derivatives.
        half_life, one_percent: the steps after which no more than a half, a hundredth of the largest measured
            difference is left for good, counted as the layer reads; None if that is not within the sequence.
        linear_half_life, linear_one_percent: those of the limit.
        words: what there is to say of it.
    """

    place: str
    state: str
    lags: Tensor
    measured: Tensor
    linear: Tensor
    half_life: int | None
    one_percent: int | None
    linear_half_life: int | None
    linear_one_percent: int | None
    words: tuple[str, ...]

    def summary(self) -> str:
        def steps(count: int | None) -> str:
            return "?" if count is None else str(count)

        line = (
            f"{self.place} {self.state}: half is left after {steps(self.half_life)} steps, "
            f"1% after {steps(self.one_percent)}; of a small impulse {steps(self.linear_half_life)}, "
            f"{steps(self.linear_one_percent)}"
        )
        return "\n    ".join([line, *self.words])

    def _draw(self, ax: Axes) -> None:
        label = f"{self.place} {self.state}"
        line = _plot(ax, self.lags, self.measured, label=label, linewidth=3.5, alpha=0.45)
        _plot(ax, self.lags, self.linear, color=line.get_color(), linestyle="--", linewidth=1.4)
        ax.set_xlabel("steps after the impulse")
        _powers(ax, "difference of the state / impulse")


@dataclass(frozen=True, repr=False)
class ImpulseResponse(Record):
    """What every state of a layer keeps of an impulse; see `Response`.

    Attributes:
        at, size, direction: the step, the length and the direction (D,) of the impulse.
        responses: of each layer and direction, and each state.
    """

    at: int
    size: float
    direction: Tensor
    responses: tuple[Response, ...]

    def __getitem__(self, key: tuple[str, str]) -> Response:
        """The response of a place and a state, as in `found["l0", "c"]`."""
        return next(r for r in self.responses if (r.place, r.state) == key)

    def summary(self) -> str:
        steps = len(self.responses[0].lags)
        head = f"impulse of {number(self.size)} at step {self.at} of {steps} (? is more than there are)"
        return "\n".join([head, *(each.summary() for each in self.responses)])

    def _draw(self, ax: Axes) -> None:
        for each in self.responses:
            each._draw(ax)
        if any(each.linear.isfinite().any() for each in self.responses):
            ax.plot([], [], color="#555555", linestyle="--", linewidth=1.4, label="of a small impulse")
        if self.at:
            ax.axvline(0, color="#777777", linewidth=0.6)
        _legend(ax)
        ax.set_title(f"What is left of an input of {number(self.size)}", loc="left", fontsize=10)


def impulse_response(
    layer: RecurrentStack,
    T: int,
    *,
    at: int = 0,
    size: float = 1.0,
    unit: int | Tensor | None = None,
    x: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> ImpulseResponse:
    """How much of one input the states keep, step by step.

    A copy of the layer in float64, in evaluation, runs with and without the impulse. A third run carries the
    exact derivative along, which is the response to a small impulse, at any length without underflow.

    Args:
        layer: any recurrent layer of this library.
        T: steps.
        at: the step of the impulse, from 0.
        size: how long the impulse is.
        unit: the unit of the input that it is added to, or a direction (D,); a random one if not given.
        x: the inputs otherwise, as the layer takes them, without a batch or with one, over which the root of
            the mean square is taken; token numbers become one-hot vectors. 0 if not given.
        generator: of the random direction.

    Time: T steps of the equations on tensors, about 0.4 ms each for each layer and direction.

    Raises:
        InputError: no recurrent layer, or an argument does not fit it.
    """
    check_sizes(T=T)
    if isinstance(at, bool) or not isinstance(at, int) or not 0 <= at < T:
        raise InputError(f"at must be a step from 0 to {T - 1}, got {at!r}")
    if not _number("size", size) > 0:
        raise InputError(f"size must be above 0, got {size!r}")
    given, layer = layer, _doubled(layer)
    x = _base(given, T, x)
    direction = _direction(layer.input_size, unit, generator)
    moved_x = x.clone()
    moved_x[at] += size * direction
    with torch.no_grad():
        base, moved = (layer(each, return_states=True)[-1] for each in (x, moved_x))
        linear = _linearised(layer, x, at, direction)
    found = []
    for k, place in enumerate(layer.suffixes):
        for name in layer.cell.states:
            difference = _log_norm(moved[name][k] - base[name][k]) - math.log(size)
            floor = (_log_norm(base[name][k]) + math.log(ROUNDING)).clamp(min=-650) - math.log(size)
            logs = linear[k][name]
            found.append(_response(place, name, at, difference, floor, logs))
    return ImpulseResponse(at, float(size), direction, tuple(found))


def _response(place: str, name: str, at: int, measured: Tensor, floor: Tensor, linear: Tensor) -> Response:
    """The record of one state; what is below the floor cannot be told from rounding."""
    words = []
    T = len(measured)
    reading = torch.arange(at, -1, -1) if place.endswith("reverse") else torch.arange(at, T)
    there = measured.isfinite() & (measured > floor)
    if (there & linear.isneginf()).any():
        linear = torch.full_like(linear, math.nan)
        words.append(
            "the derivative is exactly 0 where this impulse is felt (a kink, as of relu at 0, saturation, or "
            "a response of second order): there is none to a small impulse"
        )
    elif linear[reading].isnan().any():
        words.append("the derivative is not finite: the states, or it, leave the range of float64")
    before = torch.ones(T, dtype=torch.bool)
    before[reading] = False
    told = torch.where(there | (before & measured.isneginf()), measured, math.nan)
    beyond = measured.isnan() | measured.isposinf()
    bounds = torch.where(there, measured, torch.where(beyond, math.inf, floor))[reading]
    if beyond[reading].any():
        first = int(beyond[reading].int().argmax())
        words.append(f"from {first} steps on the states leave the range of float64: not measured")
    elif not there[reading][-1]:
        known = torch.nonzero(there[reading]).flatten()
        first = int(known[-1]) + 1 if len(known) else 0
        words.append(f"from {first} steps on the two runs differ by no more than rounding: not measured")
    for what, logs in (("it", told[reading]), ("that of a small impulse", linear[reading])):
        if len(logs) > 1 and logs[-1].isfinite() and logs[-1] > logs[:-1].nan_to_num(-math.inf).max():
            words.append(f"{what} is largest at the last step")
    limit = linear[reading].nan_to_num(math.inf, neginf=-math.inf)
    return Response(
        place,
        name,
        torch.arange(T) - at,
        told,
        linear,
        _left(told[reading], bounds, HALF),
        _left(told[reading], bounds, PERCENT),
        _left(linear[reading], limit, HALF),
        _left(linear[reading], limit, PERCENT),
        tuple(words),
    )


def _left(logs: Tensor, bounds: Tensor, part: float) -> int | None:
    """The first step from which on no more than this part of the largest is left.

    Args:
        logs: what is known.
        bounds: what it is at most.
    """
    known = logs[logs.isfinite()]
    if not len(known):
        return None
    above = torch.nonzero(bounds > known.max() + part + 1e-9).flatten()
    first = int(above[-1]) + 1 if len(above) else 0
    return first if first < len(logs) else None


def _base(layer: RecurrentStack, T: int, x: Tensor | None) -> Tensor:
    """The inputs without the impulse, (T, B, D) in float64."""
    D = layer.input_size
    if x is None:
        return torch.zeros(T, 1, D, dtype=torch.float64)
    if not isinstance(x, Tensor):
        raise InputError(f"x is a {type(x).__name__}, expected a tensor")
    x = x.detach().cpu()
    if not x.is_floating_point() and x.numel():
        low, high = map(int, x.aminmax())
        if low < 0 or high >= D:
            raise no_such_token(low if low < 0 else high, D)
        x = F.one_hot(x.long(), D)
    if x.ndim == 2:
        x = x.unsqueeze(1)
    elif x.ndim == 3 and layer.batch_first:
        x = x.transpose(0, 1)
    if x.ndim != 3 or x.shape[-1] != D or not x.shape[1]:
        raise InputError(f"x has shape {tuple(x.shape)}, expected (T, {D}), or a batch of such")
    if len(x) < T:
        raise InputError(f"x has {len(x)} steps, fewer than the {T} asked for")
    return _numbers("x", x[:T]).contiguous()


def _direction(D: int, unit: int | Tensor | None, generator: torch.Generator | None) -> Tensor:
    """A vector (D,) of length 1."""
    if isinstance(unit, int) and not isinstance(unit, bool):
        if not 0 <= unit < D:
            raise InputError(f"unit must be from 0 to {D - 1}, got {unit}")
        return torch.eye(D, dtype=torch.float64)[unit]
    drawn = torch.randn(D, generator=generator, dtype=torch.float64)
    along = drawn if unit is None else _numbers("unit", unit)
    if along.shape != (D,) or not along.any():
        raise InputError(f"unit is a number from 0 to {D - 1}, or a direction ({D},) that is not 0")
    return F.normalize(along, dim=0)


def _linearised(layer: RecurrentStack, x: Tensor, at: int, direction: Tensor) -> list[dict[str, Tensor]]:
    """ln ‖derivative of a state by the impulse‖ at every step, (T,) by name, for each layer and direction."""
    T, B, _ = x.shape
    d, powers = torch.zeros_like(x), [NOTHING] * T
    d[at], powers[at] = direction, 0
    start = layer.initial_state(B)
    cell = layer.regulariser.evaluation
    drawing = layer.regulariser.drawing(None, False, Batch(1, B))
    found: list[dict[str, Tensor]] = []
    for depth in range(layer.num_layers):
        if depth and layer.batch_norm is not None:
            norm = layer.batch_norm[f"l{depth}"]
            read, change = torch.func.jvp(norm, (x.flatten(0, 1),), (d.flatten(0, 1),))  # type: ignore[misc]
            x, d = read.view(x.shape), change.view(x.shape)
        sides = []
        for reverse in map(bool, range(1 + layer.bidirectional)):
            place = len(found)
            parameters = {k: v.detach() for k, v in layer.parameters_of(layer.suffixes[place]).items()}
            leaves = None if drawing is None else drawing.leaves(cell, place, reverse)
            begin = {name: value[place].detach().clone() for name, value in start.items()}
            order = range(T - 1, -1, -1) if reverse else range(T)
            with torch.no_grad(), dual_level():
                # In torch 2.13 a dual number plus a plain vector goes through Python, 15 times slower.
                parameters |= {k: _joined(v, 0 * v) for k, v in parameters.items() if v.ndim == 1}
                step = partial(scan, cell, parameters=parameters, leaves=leaves, backend="reference")
                y, dy, own, logs = _carried(step, x, d, powers, begin, order)
            sides.append((y, dy, own))
            found.append(logs)
        x = torch.cat([y for y, _, _ in sides], -1)
        powers = [max(each) for each in zip(*(own for _, _, own in sides), strict=True)]
        d = torch.cat([_scaled(dy, own, powers) for _, dy, own in sides], -1)
    return found


def _scaled(values: Tensor, own: Sequence[int], powers: Sequence[int]) -> Tensor:
    """Values of every step, times two to the power of `own`, over two to that of `powers`."""
    scale = [math.ldexp(1.0, a - b) for a, b in zip(own, powers, strict=True)]
    return values * values.new_tensor(scale)[:, None, None]


def _carried(
    step: Callable[[Tensor, dict[str, Tensor]], tuple[Tensor, dict[str, Tensor]]],
    x: Tensor,
    d: Tensor,
    powers: Sequence[int],
    state: dict[str, Tensor],
    order: Iterable[int],
) -> tuple[Tensor, Tensor, list[int], dict[str, Tensor]]:
    """Go through time with a derivative, in a dual level.

    Args:
        step: from an input (1, B, D) and states to outputs (1, B, W) and states.
        x: (T, B, D).
        d: its derivative, that of step t times two to the power of powers[t].
        state: before the first step.

    Returns:
        the outputs (T, B, W), their derivative and its powers likewise, and ln of the norms of the states'.
    """
    T, B, _ = x.shape
    logs = {name: x.new_full((T,), -math.inf) for name in state}
    outputs: list[Any] = [None] * T
    changes: list[Any] = [None] * T
    found = [NOTHING] * T
    ds, power = {name: torch.zeros_like(value) for name, value in state.items()}, NOTHING
    for t in order:
        top = max(power, powers[t])
        down, along = math.ldexp(1.0, power - top), math.ldexp(1.0, powers[t] - top)
        read = _joined(x[t : t + 1], d[t : t + 1] * along)
        y, end = step(read, {k: _joined(v, ds[k] * down) for k, v in state.items()})
        (outputs[t], change), both = _apart(y), {name: _apart(value) for name, value in end.items()}
        state, ds = ({name: pair[k] for name, pair in both.items()} for k in (0, 1))
        if not all(value.isfinite().all() for value in state.values()):
            ds, change = {name: value * math.nan for name, value in ds.items()}, change * math.nan
        nearer, power = _near_one(tuple(ds.values()), top)
        ds = dict(zip(ds, nearer, strict=True))
        (changes[t],), found[t] = _near_one((change,), top)
        for name, value in ds.items():
            norm = float(value.norm())
            if norm != 0:
                logs[name][t] = math.log(norm / math.sqrt(B)) + power * math.log(2)
    return torch.cat(outputs), torch.cat(changes), found, logs


def _joined(value: Tensor, change: Tensor) -> Tensor:
    """A value that carries its derivative along."""
    dual: Tensor = make_dual(value, change)  # type: ignore[no-untyped-call]
    return dual


def _apart(dual: Tensor) -> tuple[Tensor, Tensor]:
    value, change = unpack_dual(dual)  # type: ignore[no-untyped-call]
    return value, torch.zeros_like(value) if change is None else change


def _near_one(values: tuple[Tensor, ...], power: int) -> tuple[tuple[Tensor, ...], int]:
    """Numbers times two to a power, the largest of them between a half and 1; NaN for all if one is none."""
    size = float(torch.stack([value.abs().max() for value in values]).max())
    if not size:
        return values, NOTHING
    if not math.isfinite(size):
        return tuple(value * math.nan for value in values), 0
    shift = math.frexp(size)[1]
    return tuple(value * math.ldexp(1.0, -shift) for value in values), power + shift


def _log_norm(value: Tensor) -> Tensor:
    """ln of the norm of what each step has, (T, B, W) to (T,); the root of the mean square over sequences."""
    top = value.abs().amax((-2, -1))
    scale = torch.where(top == 0, 1.0, top)
    total = (value / scale[:, None, None]).square().sum((-2, -1)) / value.shape[1]
    return torch.where(top == 0, -math.inf, total.log() / 2 + scale.log())


def _numbers(what: str, value: object) -> Tensor:
    """A tensor of float64.

    Raises:
        InputError: it has no real numbers, or one that is not finite.
    """
    try:
        found = value.detach().cpu() if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"{what} is a {type(value).__name__}, expected numbers") from None
    if found.is_complex():
        raise InputError(f"{what} has complex numbers, expected real ones: a pair of them is a 2 × 2 matrix")
    if not found.isfinite().all():
        raise InputError(f"{what} has a number that is not finite")
    return found.double()


def _plot(ax: Axes, x: Tensor, logs: Tensor, **style: Any) -> Any:
    """A line of numbers given by their logarithms: the axis has the power of ten, so that any size fits."""
    shown = logs.isfinite()
    (line,) = ax.plot(x[shown], logs[shown] / math.log(10), **style)
    return line


def _powers(ax: Axes, what: str) -> None:
    """Ticks for such an axis: powers of ten, or numbers where it spans a few."""
    low, high = ax.get_ylim()
    around = range(math.floor(low), math.ceil(high) + 1)
    if high - low > 3:
        fits = (m * 10**k for k in range(9) for m in (1, 2, 5))
        step = next(step for step in fits if (high - low) / step <= 7)
        ticks = [float(k) for k in range(around[0] // step * step, around[-1] + 1, step)]
        names = [f"$10^{{{tick:.0f}}}$" for tick in ticks]
    else:
        ticks = [k + math.log10(m) for k in around for m in (1, 2, 5)]
        names = [f"{10**tick:.3g}" for tick in ticks]
    inside = [(tick, name) for tick, name in zip(ticks, names, strict=True) if low <= tick <= high]
    ax.set_yticks([tick for tick, _ in inside], [name for _, name in inside])
    ax.set_ylabel(what)


def _legend(ax: Axes) -> None:
    many = len(ax.get_legend_handles_labels()[1]) > 5
    ax.legend(fontsize=9, facecolor="white", edgecolor="none", framealpha=0.85, ncols=1 + many)


# Linear recursions -----------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class LinearRecursion(Record):
    """h_t = W h_{t-1} + x_t beside its closed form.

    Attributes:
        log_norm: (T + 1,), ln ‖h_t‖ as the recursion gives it, from h_0 on.
        sign: (T + 1,), the sign of h_t; None of vectors.
        closed: (T + 1,), ln ‖h_t‖ by eigenvalues; None where there is no closed form, as words say.
        deviation: the largest difference of the two, as a part of the logarithm where that is above 1.
        rate: ln |λ_max|: what a step adds in the end, if nothing comes in.
        bound: ln σ_max: what one step adds at most.
        eigenvalue: λ_max, its real and imaginary part.
        departure: ‖W Wᵀ - Wᵀ W‖ / ‖W‖², 0 for a normal W.
        peak: the step at which ‖h_t‖ is largest.
        growth: ln of how much larger it is there than at first.
        words: what there is to say of it.
    """

    log_norm: Tensor
    sign: Tensor | None
    closed: Tensor | None
    deviation: float
    rate: float
    bound: float
    eigenvalue: tuple[float, float]
    departure: float
    peak: int
    growth: float
    words: tuple[str, ...]

    def summary(self) -> str:
        real, imaginary = self.eigenvalue
        turn = f" ± {number(abs(imaginary))}i" if imaginary else ""
        lines = [
            f"largest eigenvalue {number(real)}{turn}: × {_exp(self.rate)} a step in the end; "
            f"one step at most × {_exp(self.bound)}",
            *self.words,
        ]
        if self.closed is not None:
            lines.append(f"closed form: off by {number(self.deviation)} at most")
        return "\n    ".join(lines)

    def _draw(self, ax: Axes) -> None:
        t = torch.arange(len(self.log_norm))
        _plot(ax, t, self.log_norm, linewidth=2.4, color="#9db8d9", label="‖h‖, step by step")
        if self.closed is not None:
            _plot(ax, t, self.closed, linewidth=1.2, color="#1f5fa8", linestyle="--", label="closed form")
        low, high = ax.get_ylim()
        for rate, label, colour in (
            (self.rate, "|λ$_{max}$|$^t$", "#c8501e"),
            (self.bound, "σ$_{max}$$^t$, the bound of one step", "#777777"),
        ):
            line = self.log_norm[0] + t * rate
            shown = line / math.log(10) <= high + 0.3 * (high - low)
            _plot(ax, t[shown], line[shown], linewidth=1.0, color=colour, linestyle=":", label=label)
        ax.set_xlabel("step t")
        _powers(ax, "‖h$_t$‖")
        _legend(ax)


def linear_recursion(W: object, T: int, h0: object = None, x: object = None) -> LinearRecursion:
    """Run h_t = W h_{t-1} + x_t, beside its closed form.

        h_t = W^t h_0 + (1 + W + ... + W^{t-1}) x, by the eigenvalues of W

    The largest eigenvalue says how it goes on in the end, the largest singular value what one step can do;
    they differ where W is not normal, and there ‖h‖ may grow at first though all eigenvalues are below 1.

    Args:
        W: a number, or a square matrix (H, H); a pair of complex numbers is a 2 × 2 matrix.
        T: steps.
        h0: a number, or (H,). If not given 1, or the direction that one step stretches most.
        x: what comes in: the same at each step, a number or (H,), or a series, (T,) or (T, H), which has no
            closed form; nothing if not given.

    Raises:
        InputError: W is not square, something has another shape, or a number is not finite.
    """
    check_sizes(T=T)
    matrix = _numbers("W", W)
    scalar = not matrix.ndim
    matrix = matrix.view(1, 1) if scalar else matrix
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.numel():
        raise InputError(f"W has shape {tuple(matrix.shape)}, expected a number or a square matrix")
    H, shape = len(matrix), (() if scalar else matrix.shape[:1])
    _, stretches, directions = torch.linalg.svd(matrix)
    start = _numbers("h0", h0) if h0 is not None else torch.ones(()) if scalar else directions[0]
    inputs = torch.zeros(shape) if x is None else _numbers("x", x)
    if start.shape != shape:
        raise InputError(f"h0 has shape {tuple(start.shape)}, expected {tuple(shape)}, as W")
    if inputs.shape not in (shape, (T, *shape)):
        raise InputError(f"x has shape {tuple(inputs.shape)}, expected {tuple(shape)}, or {(T, *shape)}")
    constant, A = inputs.shape == shape, matrix.numpy()
    h, each = start.double().view(H).numpy(), inputs.double().expand(T, *shape).reshape(T, H).numpy()
    log_norm, sign = _recursion(A, h, each if inputs.any() else None, T)
    values, vectors = np.linalg.eig(A)
    condition = float(np.linalg.cond(vectors))
    closed, words, deviation = None, [], math.nan
    if not constant:
        words = ["no closed form: x varies"]
    elif not condition < 1e8:
        words = ["no closed form: W has too few eigenvectors, or some that are nearly parallel"]
    else:
        closed, words = _by_eigenvalues(values, vectors, condition, h, each[0], T)
    if closed is not None:
        same = (closed == log_norm) | (closed.isneginf() & log_norm.isneginf())
        off = (closed - log_norm).abs() / closed.abs().clamp(min=1)
        deviation = float(torch.where(same, 0.0, torch.where(off.isfinite(), off, math.inf)).max())
    largest = complex(values[np.abs(values).argmax()])
    rate, bound = _log(abs(largest)), _log(float(stretches[0]))
    unit = matrix / (matrix.abs().max() or 1)
    departure = float((unit @ unit.T - unit.T @ unit).norm() / unit.square().sum().clamp(min=1))
    peak = int(log_norm.argmax())
    growth = float(log_norm[peak] - log_norm[0])
    # Bauer and Fike; where eigenvectors are parallel, H eigenvalues may part by a root of order H.
    doubt = min(4 * EPSILON * condition, EPSILON ** (1 / H)) * math.exp(min(bound - rate, 700.0))
    if abs(rate) <= doubt:
        words.insert(
            0, f"|λ_max| is 1 within {number(doubt)}: it neither explodes nor vanishes as a power of t"
        )
    else:
        words.insert(0, "it explodes in the end" if rate > 0 else "what was there vanishes")
    if departure > 1e-10:
        words.append(f"W is not normal (departure {number(departure)})")
        if rate < 0 < peak and not inputs.any() and growth > 1e-9:
            words[-1] += f": transient growth, × {_exp(growth)} at step {peak}, before it vanishes"
    return LinearRecursion(
        log_norm,
        sign if scalar else None,
        closed,
        deviation,
        rate,
        bound,
        (largest.real, abs(largest.imag)),
        departure,
        peak,
        growth,
        tuple(words),
    )


def _log(value: float) -> float:
    return math.log(value) if value else -math.inf


def _exp(log: float) -> str:
    return number(math.exp(log)) if log < 700 else f"10^{log / math.log(10):.0f}"


def _recursion(W: Any, h: Any, x: Any, T: int) -> tuple[Tensor, Tensor]:
    """ln ‖h_t‖ and the sign of the first unit, (T + 1,), step by step."""
    values, powers = np.zeros((T + 1, len(h))), np.zeros(T + 1)
    power = 0
    for t in range(T + 1):
        if t:
            h = W @ h
            if x is not None:
                top = max(power, 0)
                h, power = np.ldexp(h, power - top) + np.ldexp(x[t - 1], -top), top
        size = float(np.abs(h).max())
        if size and not 1e-30 < size < 1e30:
            shift = math.frexp(size)[1]
            h, power = np.ldexp(h, -shift), power + shift
        values[t], powers[t] = h, power
    with np.errstate(divide="ignore"):
        logs = np.log(np.linalg.norm(values, axis=1)) + powers * math.log(2)
    return torch.from_numpy(logs), torch.from_numpy(np.sign(values[:, 0]))


def _by_eigenvalues(
    values: Any, vectors: Any, condition: float, h: Any, x: Any, T: int
) -> tuple[Tensor, list[str]]:
    """ln ‖W^t h + (1 + ... + W^{t-1}) x‖, (T + 1,), and what there is to say of it."""
    of_h, of_x = np.linalg.solve(vectors, np.stack([h, x], 1).astype(vectors.dtype)).T
    weights = np.abs(of_h) if not x.any() else np.abs(of_x) + np.abs(of_h)
    used = weights > 0
    words = []
    leading = np.abs(values) > np.abs(values).max() * (1 - 1e-9)
    if weights.any() and not (weights[leading] > 1e-13 * condition * weights.max()).any():
        words.append(
            "h_0 has no part along the largest eigenvalue: what is seen of it late comes from rounding"
        )
    values, vectors, of_h, of_x = values[used] + 0j, vectors[:, used], of_h[used], of_x[used]
    zero = values == 0
    logs = np.log(np.where(zero, 1, values))
    scale = max([0.0] * bool(x.any()) + [*logs.real[~zero]], default=0.0)
    found = np.empty(T + 1)
    for first in range(0, T + 1, 4096):
        t = np.arange(first, min(first + 4096, T + 1))[:, None]
        powers = np.where(zero, t == 0, np.exp(t * (logs - scale)))
        total = powers * of_h
        if x.any():
            small = np.exp(-t * scale)
            near = np.abs(t * logs) < 1
            few = np.expm1(np.where(near, t * logs, 0)) * small
            gap = np.where(values == 1, 1, values - 1)
            sums = np.where(values == 1, t * small, np.where(near, few, powers - small) / gap)
            total = total + np.where(zero, (t > 0) * small, sums) * of_x
        with np.errstate(divide="ignore"):
            found[t[:, 0]] = np.log(np.linalg.norm((total @ vectors.T).real, axis=1)) + t[:, 0] * scale
    return torch.from_numpy(found), words


# One unit --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class FixedPoint(Record):
    """Where h = f(w h + b).

    Attributes:
        value: h.
        slope: w f'(w h + b), which a small distance is multiplied by at each step.
        stability: "stable", "unstable", or "neutral" where |slope| is 1 and does not decide.
    """

    value: float
    slope: float
    stability: str

    def summary(self) -> str:
        return f"{self.value:.6g} ({self.stability}, slope {number(self.slope)})"

    def _draw(self, ax: Axes) -> None:
        colour = {"stable": "#2e7d32", "unstable": "#c8501e", "neutral": "#777777"}[self.stability]
        label = f"{self.stability} fixed point"
        label = "" if label in ax.get_legend_handles_labels()[1] else label
        ax.axhline(self.value, color=colour, linestyle="--", linewidth=1.2, label=label)


@dataclass(frozen=True, repr=False)
class Saturation(Record):
    """h_t = f(w h_{t-1} + b) from several starts, beside its fixed points and its 2-cycle.

    Attributes:
        activation, w, b: of the recursion.
        h: (T + 1, starts), from the starts on; NaN beyond 1e15.
        fixed_points: all of them, by solving the equation, in order.
        cycle: the two values that it jumps between, by solving the equation; None if there are none.
        limits: what each start settled to: one value, two, or none where it diverges or has not settled.
        settled: the step from which on each start is within 0.001 of its limit; None if it has none.
        deviation: the largest difference between a limit and the solution next to it; NaN without limits.
        words: what there is to say of it.
    """

    activation: str
    w: float
    b: float
    h: Tensor
    fixed_points: tuple[FixedPoint, ...]
    cycle: tuple[float, float] | None
    limits: tuple[tuple[float, ...], ...]
    settled: tuple[int | None, ...]
    deviation: float
    words: tuple[str, ...]

    def summary(self) -> str:
        b = f" {'+' if self.b > 0 else '-'} {number(abs(self.b))}" if self.b else ""
        head = f"h = {self.activation}({number(self.w)} h{b})"
        points = ", ".join(point.summary() for point in self.fixed_points)
        return "\n    ".join([head, f"fixed points: {points or 'none'}", *self.words])

    def _draw(self, ax: Axes) -> None:
        steps = [step for step in self.settled if step is not None]
        end = min(len(self.h), max([12, *(2 * step for step in steps)])) if steps else len(self.h)
        marker = "o" if end <= 60 else ""
        ax.plot(self.h[:end], color="#1f5fa8", alpha=0.7, linewidth=1.3, marker=marker, markersize=2.5)
        for point in self.fixed_points:
            point._draw(ax)
        for value, label in zip(self.cycle or (), ("2-cycle", ""), strict=False):
            ax.axhline(value, color="#6a3d9a", linestyle="--", linewidth=1.2, label=label)
        ax.set_xlabel("step t")
        ax.set_ylabel("h$_t$")
        ax.set_title(self.summary().splitlines()[0], loc="left", fontsize=10)
        if self.fixed_points:
            _legend(ax)


def saturation(activation: str, w: float, b: float = 0.0, x0: object = None, T: int = 1000) -> Saturation:
    """Run h_t = f(w h_{t-1} + b) until it settles, beside all solutions of the equation.

    These functions rise, so a unit goes to a fixed point, or for w < 0 to a 2-cycle, or without end. A
    sigmoid does not always settle to one value that w decides: w = -10 gives a 2-cycle, w = 10 and b = -5 two
    limits.

    Args:
        activation: "sigmoid", "tanh", "relu" or "softplus".
        w, b: the weight and the bias.
        x0: where to start, a number or (starts,); if not given between -1 and 1, and beside every unstable
            fixed point.
        T: steps at most.

    Raises:
        InputError: no such activation, or a number is not finite.
    """
    _check_activation(activation)
    check_sizes(T=T)
    w, b = _number("w", w), _number("b", b)
    points = _fixed_points(activation, w, b)
    cycle = _cycle(activation, w, b, points)
    if x0 is None:
        doubtful = [p.value for p in points if p.stability == "unstable"]
        beside = [value + side * (1 + abs(value)) for value in doubtful for side in (-0.01, 0.01)]
        x0 = [*np.linspace(-1, 1, 8).tolist(), *beside]
    h = _numbers("x0", x0).reshape(-1)
    if not len(h):
        raise InputError("x0 is empty, expected at least one number to start from")
    series = [h]
    for _ in range(T):
        h = _f(activation, w * h + b)
        series.append(torch.where(h.abs() < LARGE, h, math.nan))
        if len(series) > 2 and bool((_moved(series, 2) | series[-1].isnan()).all()):
            break
    every = torch.stack(series)
    limits, settled, off = [], [], []
    for own in every.unbind(1):
        limit = _limit(own)
        solutions = [p.value for p in points] if len(limit) == 1 else [*(cycle or ())]
        off += [min((abs(value - s) for s in solutions), default=math.nan) for value in limit]
        limits.append(limit)
        back = own.flip(0)
        phase = torch.tensor(limit or (math.nan,), dtype=torch.float64)
        far = ((back - phase[torch.arange(len(back)) % len(phase)]).abs() <= NEAR).logical_not().flip(0)
        last = torch.nonzero(far).flatten()
        settled.append(None if not limit else int(last[-1]) + 1 if len(last) else 0)
    words = _fates(every, limits, settled, points, w)
    deviation = max(off, default=math.nan)
    if activation == "relu" and ((w == 1 and b == 0) or (w == -1 and b > 0)):
        words.append(f"every start {'from 0 on is a fixed point' if w > 0 else 'is on a 2-cycle of its own'}")
        deviation = math.nan
    elif neutral := [p for p in points if p.stability == "neutral"]:
        point = f"at {number(neutral[0].value)} the slope is {neutral[0].slope:.0f}"
        words.append(f"{point}: solutions meet or part there, and it is approached ever more slowly")
    return Saturation(
        activation, w, b, every, points, cycle, tuple(limits), tuple(settled), deviation, tuple(words)
    )


def _check_activation(activation: str) -> None:
    if activation not in POINTWISE:
        raise InputError(f"no activation {activation!r}; there are {', '.join(POINTWISE)}")


def _number(what: str, value: object) -> float:
    found = _numbers(what, value)
    if found.ndim:
        raise InputError(f"{what} has shape {tuple(found.shape)}, expected a number")
    return float(found)


def _f(activation: str, u: Tensor) -> Tensor:
    value: Tensor = OPERATIONS[activation].run(u)
    return value


def _value(activation: str, u: float) -> float:
    return float(_f(activation, torch.tensor(u, dtype=torch.float64)))


def _slope(activation: str, w: float, b: float, h: float) -> float:
    """d f(w h + b) / dh, from the right."""
    u = torch.tensor(w * h + b, dtype=torch.float64)
    if activation == "relu" and u == 0:
        return max(w, 0.0)
    (found,) = OPERATIONS[activation].adjoint(torch.ones_like(u), _f(activation, u), u)  # type: ignore[misc]
    return w * float(found)


def _moved(series: Sequence[Tensor], steps: int) -> Tensor:
    """Which starts have come back to where they were so many steps ago."""
    return (series[-1] - series[-1 - steps]).abs() <= SETTLED * (1 + series[-1].abs())


def _limit(h: Tensor) -> tuple[float, ...]:
    """What a series ends in: one value, the two that it jumps between beginning with the last, or nothing."""
    if len(h) > 1 and bool(_moved([h[-2], h[-1]], 1)):
        return (float(h[-1]),)
    if len(h) > 2 and bool(_moved([h[-3], h[-2], h[-1]], 2)):
        return float(h[-1]), float(h[-2])
    return ()


def _fixed_points(activation: str, w: float, b: float) -> tuple[FixedPoint, ...]:
    """All solutions of h = f(w h + b): by bisection between the points where f(w h + b) - h turns, so that no
    piece of the line has more than one."""
    if activation == "relu":
        found = [0.0] * (b <= 0)
        if w != 1 and b and (value := b / (1 - w)) > 0:
            found.append(value)
    else:

        def left(h: float) -> float:
            return _value(activation, w * h + b) - h

        turns = [(u - b) / w for u in _turns(activation, w)]
        low, high = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0)}.get(activation, (0.0, math.inf))
        turns = sorted(h for h in turns if low < h < high)
        if high == math.inf:  # beyond the last turn the sign is that of w - 1, or for w = 1 that of b
            high, sign = max([1.0, *turns]) * 2, w - 1 or b
            while sign and left(high) * sign <= 0:
                high *= 2
        ends = [low, *turns, high]
        values = [left(h) for h in ends]
        for h in turns:  # it touches 0 there, as far as rounding lets one see
            if abs(left(h)) <= 4 * EPSILON * (1 + abs(h)):
                values[ends.index(h)] = 0.0
        found = [h for h, value in zip(ends, values, strict=True) if not value]
        for k in range(len(ends) - 1):
            if values[k] * values[k + 1] < 0:
                found.append(_bisected(left, ends[k], ends[k + 1]))
    slopes = {h: _slope(activation, w, b, h) for h in sorted(found)}
    return tuple(FixedPoint(h, slope, _stability(slope)) for h, slope in slopes.items())


def _stability(slope: float) -> str:
    return "neutral" if abs(abs(slope) - 1) < NEUTRAL else "stable" if abs(slope) < 1 else "unstable"


def _turns(activation: str, w: float) -> list[float]:
    """The u where f'(u) = 1 / w."""
    if activation == "softplus":
        return [-math.log(w - 1)] if w > 1 else []
    steepest = 4 if activation == "sigmoid" else 1
    if w <= steepest:
        return []
    u = math.atanh(min(math.sqrt(1 - steepest / w), 1 - EPSILON)) * (2 if activation == "sigmoid" else 1)
    return [-u, u]


def _bisected(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function changes its sign, to the last bit."""
    rising = function(low) < 0
    while low < (middle := (low + high) / 2) < high:
        value = function(middle)
        if not value:
            return middle
        low, high = (middle, high) if (value < 0) == rising else (low, middle)
    return min(low, high, key=lambda h: abs(function(h)))


def _cycle(activation: str, w: float, b: float, points: Sequence[FixedPoint]) -> tuple[float, float] | None:
    """The 2-cycle. For w < 0 there is one fixed point; these functions have a negative Schwarzian derivative,
    or are straight, so that there is a 2-cycle, and one only, where that is unstable."""
    if w >= 0 or points[0].stability != "unstable":
        return None

    def again(h: float) -> float:
        return _value(activation, w * _value(activation, w * h + b) + b) - h

    low = {"tanh": -1.0}.get(activation, 0.0)
    high = points[0].value
    while low < (middle := (low + high) / 2) < high and again(low):
        low, high = (middle, high) if again(middle) >= 0 else (low, middle)
    return low, _value(activation, w * low + b)


def _fates(
    h: Tensor,
    limits: Sequence[tuple[float, ...]],
    settled: Sequence[int | None],
    points: Sequence[FixedPoint],
    w: float,
) -> list[str]:
    """What became of the starts, in words."""
    words = []
    distinct: list[float] = []
    for (value,) in (limit for limit in limits if len(limit) == 1):
        if all(abs(value - other) > 1e-6 * (1 + abs(value)) for other in distinct):
            distinct.append(value)
    if len(distinct) > 1:
        words.append(f"the limit depends on the start: {' or '.join(map(number, sorted(distinct)))}")
    elif distinct:
        words.append(f"it settles at {number(distinct[0])}")
    if pairs := [limit for limit in limits if len(limit) == 2]:
        words.append(f"it jumps between {' and '.join(map(number, sorted(pairs[0])))}: a 2-cycle")
    if known := [step for step in settled if step is not None]:
        words.append(f"within {NEAR} of that after {max(known)} steps at most")
    open_ended = [k for k, limit in enumerate(limits) if not limit]
    above = max([p.value for p in points], default=-math.inf)
    gone = [k for k in open_ended if h[-1, k].isnan() or (w > 0 and h[-1, k] > max(float(h[-2, k]), above))]
    if gone:
        words.append(f"{len(gone)} of {len(limits)} starts diverge: above them there is no fixed point")
    if len(gone) < len(open_ended):
        words.append(
            f"{len(open_ended) - len(gone)} of {len(limits)} starts have not settled in {len(h) - 1} steps"
        )
    return words


# Bounded input, bounded output -----------------------------------------------------------------------------


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
            line = _plot(ax, t, largest.log(), label=f"{place} {name}", linewidth=2.0)
            if math.isfinite(bound):
                ends = torch.full((2,), bound, dtype=torch.float64).log()
                _plot(ax, t[[0, -1]], ends, color=line.get_color(), linestyle="--", linewidth=1.2)
        if any(map(math.isfinite, self.bounds)):
            ax.plot([], [], color="#555555", linestyle="--", linewidth=1.2, label="bound")
        ax.set_xlabel("step t")
        _powers(ax, "largest unit so far")
        ax.set_title("Inputs between -1 and 1", loc="left", fontsize=10)
        _legend(ax)


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
    layer = _doubled(_unit(layer, w, u, b) if isinstance(layer, str) else layer)
    signs = torch.randint(2, (sequences, layer.input_size), generator=generator).double() * 2 - 1
    parts: list[Tensor] = []
    state, chunk = None, T if layer.bidirectional else 1024
    for first in range(0, T, chunk):
        x = _between(first, min(chunk, T - first), signs, generator)
        with torch.no_grad():
            _, state, steps = layer(x, state, return_states=True)
        every = [steps[name][k] for k in range(len(layer.suffixes)) for name in layer.cell.states]
        parts.append(
            torch.stack([value.abs().amax((1, 2)).nan_to_num(math.inf, math.inf) for value in every])
        )
        if not parts[-1].isfinite().all():
            parts.append(torch.full((len(every), T - first - parts[-1].shape[1]), math.inf).double())
            break
    largest = torch.cat(parts, 1).cummax(1).values
    places = tuple((place, name) for place in layer.suffixes for name in layer.cell.states)
    found = _bounds(layer)
    words = [_told(*key, own, *found[key]) for key, own in zip(places, largest, strict=True)]
    return Bounded(places, largest, tuple(found[key][0] for key in places), tuple(words))


def _told(place: str, name: str, largest: Tensor, bound: float, why: str) -> str:
    """What happened to one state, in words."""
    most = f"{place} {name}: at most {number(largest[-1])}"
    if largest[-1].isinf():
        first = int(largest.isinf().int().argmax())
        most = f"{place} {name}: left the range of float64 at step {first}"
    return f"{most}; {f'the bound is {number(bound)}' if math.isfinite(bound) else why}"


def _doubled(layer: object) -> RecurrentStack:
    """A copy of a layer in float64, in evaluation, with time first."""
    if not isinstance(layer, RecurrentStack):
        raise InputError(
            f"expected a recurrent layer such as unrolled.LSTM, got a {type(layer).__name__}; "
            "unrolled.convert.from_torch makes one of torch's"
        )
    layer = copy.deepcopy(layer).double().cpu().eval()
    layer.batch_first, layer.backend = False, "auto"
    return layer


def _unit(activation: str, w: float, u: float, b: float) -> Recurrent:
    """A layer of one unit."""
    _check_activation(activation)
    layer = Recurrent(rnn.with_options(activation=activation), 1, 1, dtype=torch.float64)
    with torch.no_grad():
        for name, value in {"h.h": w, "h.x": u, "h.bias": b}.items():
            layer.parameters_of("l0")[name].fill_(_number(name, value))
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


# The memory of a tanh network ------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class TanhMemory(Record):
    """Half-lives of an impulse in tanh networks, beside those of the largest eigenvalue.

    Attributes:
        radii: (N,), the spectral radius ρ of W in each.
        expected: (N,), ln 2 / -ln ρ steps; inf from ρ = 1 on.
        linear: (N,), the half-life of a small impulse, from the slope of its logarithm in the second half of
            the steps; inf where it does not fade, NaN where its slope is not known to a tenth.
        measured, one_percent: (N,), after how many steps no more than a half, a hundredth is left of the
            impulse; NaN where it is more.
        kind, hidden, T, size, noise: of the networks, the impulse, and the inputs.
        words: what there is to say of it.
    """

    radii: Tensor
    expected: Tensor
    linear: Tensor
    measured: Tensor
    one_percent: Tensor
    kind: str
    hidden: int
    T: int
    size: float
    noise: float
    words: tuple[str, ...]

    def summary(self) -> str:
        columns = (self.radii, self.expected, self.linear, self.measured, self.one_percent)
        rows = ["".join(f"{number(v):>13}" for v in row) for row in zip(*columns, strict=True)]
        head = "".join(f"{h:>13}" for h in ("ρ", "ln 2 / -ln ρ", "small", "half", "1%"))
        what = f"steps that {self.hidden} tanh units remember ({self.kind} W, noise {number(self.noise)})"
        return "\n".join([what, head, *rows, *self.words])

    def _draw(self, ax: Axes) -> None:
        inside = self.expected.isfinite()
        if inside.any():
            ends = self.radii[inside].aminmax()
            rho = torch.linspace(float(ends[0]), float(ends[1]), 200, dtype=torch.float64)
            ax.plot(rho, math.log(2) / -rho.log(), color="#777777", linestyle="--", label="ln 2 / -ln ρ")
        for values, label, colour, marker in (
            (self.linear, "half-life of a small impulse", "#1f5fa8", "o"),
            (self.measured, f"half is left of {number(self.size)}", "#c8501e", "s"),
            (self.one_percent, "1% is left", "#e8a33d", "^"),
        ):
            ok = values.isfinite() & (values > 0)
            ax.plot(self.radii[ok], values[ok], marker, color=colour, label=label, markersize=6, alpha=0.85)
        ax.set_yscale("log")
        ax.set_xlabel("spectral radius ρ of W")
        ax.set_ylabel("steps")
        title = f"Memory of {self.hidden} tanh units ({self.kind} W, noise {number(self.noise)})"
        ax.set_title(title, loc="left", fontsize=10)
        _legend(ax)


def memory_of_tanh(
    radii: Sequence[float] = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0, 1.1),
    *,
    hidden: int = 64,
    T: int = 1000,
    size: float = 1.0,
    noise: float = 0.0,
    kind: str = "gaussian",
    generator: torch.Generator | None = None,
) -> TanhMemory:
    """How long h = tanh(W h + u x) remembers an impulse, as its largest eigenvalue grows.

    At rest a small impulse is multiplied by W at each step, and in the end by its largest eigenvalue. Inputs
    besides (`noise`), or a large impulse, take units where tanh is flatter: they forget sooner.

    Args:
        radii: the spectral radii.
        hidden: H.
        T: steps.
        size: how long the impulse is; u has length 1.
        noise: the standard deviation of the other inputs.
        kind: of W, "gaussian", "symmetric" or "orthogonal"; scaled to each radius.
        generator: of W, u and noise.

    Raises:
        InputError: no such kind, or a number does not fit.
    """
    check_sizes(hidden=hidden, T=T)
    if kind not in KINDS:
        raise InputError(f"no kind {kind!r}; there are {', '.join(KINDS)}")
    scales = _numbers("radii", radii).reshape(-1)
    if not len(scales) or not bool((scales > 0).all()):
        raise InputError("radii must be numbers above 0")
    if _number("noise", noise) < 0:
        raise InputError(f"noise must be 0 or more, got {noise!r}")
    W = torch.randn(hidden, hidden, generator=generator, dtype=torch.float64)
    W = W + W.T if kind == "symmetric" else torch.linalg.qr(W).Q if kind == "orthogonal" else W
    W /= torch.linalg.eigvals(W).abs().max()
    u = _direction(hidden, None, generator)
    x = noise * torch.randn(T, 1, generator=generator, dtype=torch.float64)
    layer = Recurrent(rnn, 1, hidden, dtype=torch.float64)
    rows, words = [], []
    for rho in scales:
        with torch.no_grad():
            for name, value in {"h.h": rho * W, "h.x": u[:, None], "h.bias": torch.zeros(hidden)}.items():
                layer.parameters_of("l0")[name].copy_(value)
        found = impulse_response(layer, T, size=size, unit=0, x=x)["l0", "h"]
        linear, why = _half_life(found.linear)
        words += [f"ρ = {number(rho)}: {why}"] * bool(why)
        half, percent = (math.nan if k is None else k for k in (found.half_life, found.one_percent))
        rows.append((math.log(2) / -math.log(rho) if rho < 1 else math.inf, linear, half, percent))
    expected, linears, halves, percents = torch.tensor(rows, dtype=torch.float64).T
    return TanhMemory(
        scales, expected, linears, halves, percents,
        kind, hidden, T, float(size), float(noise), tuple(words),
    )  # fmt: skip


def _half_life(logs: Tensor) -> tuple[float, str]:
    """ln 2 over the fall of a line through the logarithm in the second half of the steps, which is known as
    well as lines through its four quarters agree."""
    late = logs[len(logs) // 2 :]
    if len(logs) < 24 or not late.isfinite().all():
        return math.nan, "a small impulse leaves nothing, or there are too few steps to tell"
    slope = float(_trend(late))
    error = float(torch.stack([_trend(part) for part in late.chunk(4)]).std() / 2)
    if (abs(slope) + error) * len(logs) < 0.1:
        return math.inf, "a small impulse neither fades nor grows"
    if error > abs(slope) / 10:
        return math.nan, "how fast a small impulse fades cannot be told within these steps"
    return (math.inf, "a small impulse grows") if slope > 0 else (math.log(2) / -slope, "")


def _trend(values: Tensor) -> Tensor:
    """The slope of a line through values one step apart."""
    t = torch.arange(len(values), dtype=torch.float64)
    t -= t.mean()
    return t @ values / (t @ t)
