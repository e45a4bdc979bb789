"""What the states of a layer keep of one input, step by step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from unrolled.errors import InputError, check_sizes, no_such_token
from unrolled.flow.forward.arguments import in_double, numbers, one_number
from unrolled.flow.forward.curves import curve, legend, name_powers
from unrolled.flow.forward.tangent import impulse, log_norm, through_layers
from unrolled.flow.records import Record, number
from unrolled.flow.trace import Place, record
from unrolled.nn.stack import RecurrentStack

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HALF: Final = math.log(0.5)
PERCENT: Final = math.log(0.01)

ROUNDING: Final = 1e4 * 2.0**-52
"""The difference of two runs is measured where it is larger than this part of the states."""


@dataclass(frozen=True, repr=False)
class Response(Record):
    """What one state of one layer and direction keeps of an impulse.

    Attributes:
        place, state: such as "l0" or "l1_reverse", and "c".
        lags: (T,), steps after the impulse; negative before it.
        measured: (T,), ln(‖moved state - state‖ / size of the impulse), from two runs.
        linear: (T,), the same in the limit of small impulses, by derivatives.
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
        lives = (self.half_life, self.one_percent, self.linear_half_life, self.linear_one_percent)
        half, percent, small_half, small_percent = ("?" if k is None else k for k in lives)
        line = (
            f"{self.place} {self.state}: half is left after {half} steps, 1% after {percent}; "
            f"of a small impulse {small_half}, {small_percent}"
        )
        return "\n    ".join([line, *self.words])

    def _draw(self, ax: Axes) -> None:
        label = f"{self.place} {self.state}"
        line = curve(ax, self.lags, self.measured, label=label, linewidth=3.5, alpha=0.45)
        curve(ax, self.lags, self.linear, color=line.get_color(), linestyle="--", linewidth=1.4)
        ax.set_xlabel("steps after the impulse")
        name_powers(ax, "difference of the state / impulse")


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
        legend(ax)
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

    A copy of the layer in float64, in evaluation, runs with and without the impulse. The response to a small
    impulse is the exact derivative, carried along in logarithms: it holds at any length.

    Args:
        layer: any recurrent layer of this library.
        T: steps.
        at: the step of the impulse, from 0.
        size: how long the impulse is.
        unit: the unit of the input that it is added to, or a direction (D,); a random one if not given.
        x: the inputs otherwise, as the layer takes them, without a batch or with one, over which the root of
            the mean square is taken; token numbers become one-hot vectors. 0 if not given.
        generator: of the random direction.

    Time: about 0.1 ms a step for each layer and direction.

    Raises:
        InputError: no recurrent layer, or an argument does not fit it.
    """
    check_sizes(T=T)
    if isinstance(at, bool) or not isinstance(at, int) or not 0 <= at < T:
        raise InputError(f"at must be a step from 0 to {T - 1}, got {at!r}")
    if not one_number("size", size) > 0:
        raise InputError(f"size must be above 0, got {size!r}")
    given, layer = layer, in_double(layer)
    x = _inputs(given, T, x)
    along = _direction(layer.input_size, unit, generator)
    small = impulse(x, at, along)
    base, moved = (record(layer, each).places for each in (x, x + size * small.values))
    linear = through_layers(layer, base, small)
    found = [
        _response(place, other, name, at, size, changes[name].log_norm)
        for place, other, changes in zip(base, moved, linear, strict=True)
        for name in place.states
    ]
    return ImpulseResponse(at, float(size), along, tuple(found))


def _response(base: Place, moved: Place, name: str, at: int, size: float, linear: Tensor) -> Response:
    """The record of one state. Up to the end all is in the order in which the layer reads."""
    T = base.T
    start = T - 1 - at if base.reverse else at
    measured = log_norm(moved.states[name] - base.states[name]) - math.log(size)
    floor = (log_norm(base.states[name]) + math.log(ROUNDING)).clamp(min=-650) - math.log(size)
    told = measured > floor  # from rounding
    words = []
    if (told & linear.isneginf()).any():
        linear = torch.full_like(linear, math.nan)
        words.append(
            "the derivative is exactly 0 where this impulse is felt (a kink, as of relu at 0, saturation, or "
            "a response of second order): there is none to a small impulse"
        )
    elif linear[start:].isnan().any():
        words.append("the derivative is not finite: the states, or it, leave the range of float64")
    if (beyond := measured[start:].isnan()).any():
        first = int(beyond.int().argmax())
        words.append(f"from {first} steps on the states leave the range of float64: not measured")
    elif not told[-1]:
        first = int((told[start:] * torch.arange(1, T - start + 1)).max())
        words.append(f"from {first} steps on the two runs differ by no more than rounding: not measured")
    most = torch.maximum(measured, floor)  # NaN where it is not known
    untouched = (torch.arange(T) < start) & measured.isneginf()
    measured = torch.where(told | untouched, measured, math.nan)
    for what, logs in (("it", measured[start:]), ("that of a small impulse", linear[start:])):
        if len(logs) > 1 and logs[-1].isfinite() and logs[-1] > logs[:-1].nan_to_num(-math.inf).max():
            words.append(f"{what} is largest at the last step")
    of_measured, of_linear = (measured[start:], most[start:]), (linear[start:], linear[start:])
    return Response(
        place=base.name,
        state=name,
        lags=torch.arange(T) - at,
        measured=measured.flip(0) if base.reverse else measured,
        linear=linear.flip(0) if base.reverse else linear,
        half_life=_left(*of_measured, HALF),
        one_percent=_left(*of_measured, PERCENT),
        linear_half_life=_left(*of_linear, HALF),
        linear_one_percent=_left(*of_linear, PERCENT),
        words=tuple(words),
    )


def _left(logs: Tensor, most: Tensor, part: float) -> int | None:
    """The first step from which on no more than this part of the largest is left.

    Args:
        logs: what is known.
        most: what it is at most; NaN where there is no telling.
    """
    known = logs[logs.isfinite()]
    if not len(known):
        return None
    above = torch.nonzero(most.nan_to_num(math.inf) > known.max() + part + 1e-9).flatten()
    first = int(above[-1]) + 1 if len(above) else 0
    return first if first < len(logs) else None


def _inputs(layer: RecurrentStack, T: int, x: Tensor | None) -> Tensor:
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
    return numbers("x", x[:T]).contiguous()


def _direction(D: int, unit: int | Tensor | None, generator: torch.Generator | None) -> Tensor:
    """A vector (D,) of length 1."""
    if isinstance(unit, int) and not isinstance(unit, bool):
        if not 0 <= unit < D:
            raise InputError(f"unit must be from 0 to {D - 1}, got {unit}")
        return torch.eye(D, dtype=torch.float64)[unit]
    drawn = torch.randn(D, generator=generator, dtype=torch.float64)
    along = drawn if unit is None else numbers("unit", unit)
    if along.shape != (D,) or not along.any():
        raise InputError(f"unit is a number from 0 to {D - 1}, or a direction ({D},) that is not 0")
    return F.normalize(along, dim=0)
