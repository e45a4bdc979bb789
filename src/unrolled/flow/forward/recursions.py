"""Linear recursions beside their closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor

from unrolled.errors import InputError, check_sizes
from unrolled.flow.forward.arguments import numbers
from unrolled.flow.forward.curves import curve, legend, name_powers
from unrolled.flow.records import Record, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EPSILON: Final = 2.0**-52

PARALLEL: Final = 1e8
"""Eigenvectors of this condition, or a larger one, are as good as too few."""

CHUNK: Final = 4096
"""Steps of the closed form that are computed at once."""


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
        curve(ax, t, self.log_norm, linewidth=2.4, color="#9db8d9", label="‖h‖, step by step")
        if self.closed is not None:
            curve(ax, t, self.closed, linewidth=1.2, color="#1f5fa8", linestyle="--", label="closed form")
        low, high = ax.get_ylim()
        for rate, label, colour in (
            (self.rate, "|λ$_{max}$|$^t$", "#c8501e"),
            (self.bound, "σ$_{max}$$^t$, the bound of one step", "#777777"),
        ):
            line = self.log_norm[0] + t * rate
            shown = line / math.log(10) <= high + 0.3 * (high - low)
            curve(ax, t[shown], line[shown], linewidth=1.0, color=colour, linestyle=":", label=label)
        ax.set_xlabel("step t")
        name_powers(ax, "‖h$_t$‖")
        legend(ax)


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
    matrix, start, inputs = _given(W, T, h0, x)
    H, scalar, constant = len(matrix), not start.ndim, inputs.ndim == start.ndim
    A, h = matrix.numpy(), start.view(H).numpy()
    each = inputs.expand(T, *start.shape).reshape(T, H).numpy()
    log_norm, sign = _recursion(A, h, each if each.any() else None, T)
    values, vectors = np.linalg.eig(A)
    condition = float(np.linalg.cond(vectors))
    closed, words = None, []
    if not constant:
        words.append("no closed form: x varies")
    elif not condition < PARALLEL:
        words.append("no closed form: W has too few eigenvectors, or some that are nearly parallel")
    else:
        closed, words = _by_eigenvalues(values, vectors, condition, h, each[0], T)
    largest = complex(values[np.abs(values).argmax()])
    rate, bound = (math.log(v) if v else -math.inf for v in (abs(largest), float(np.linalg.norm(A, 2))))
    unit = matrix / (matrix.abs().max() or 1)
    departure = float((unit @ unit.T - unit.T @ unit).norm() / unit.square().sum().clamp(min=1))
    peak = int(log_norm.argmax())
    growth = float(log_norm[peak] - log_norm[0])
    # Bauer and Fike; where eigenvectors are parallel, H eigenvalues may part by a root of order H.
    doubt = min(4 * EPSILON * condition, EPSILON ** (1 / H)) * math.exp(min(bound - rate, 700.0))
    if abs(rate) <= doubt:
        fate = f"|λ_max| is 1 within {number(doubt)}: it neither explodes nor vanishes as a power of t"
    else:
        fate = "it explodes in the end" if rate > 0 else "what was there vanishes"
    if departure > 1e-10:
        words.append(f"W is not normal (departure {number(departure)})")
        if rate < 0 < peak and not each.any() and growth > 1e-9:
            words[-1] += f": transient growth, × {_exp(growth)} at step {peak}, before it vanishes"
    return LinearRecursion(
        log_norm=log_norm,
        sign=sign if scalar else None,
        closed=closed,
        deviation=math.nan if closed is None else _deviation(closed, log_norm),
        rate=rate,
        bound=bound,
        eigenvalue=(largest.real, abs(largest.imag)),
        departure=departure,
        peak=peak,
        growth=growth,
        words=(fate, *words),
    )


def _given(W: object, T: int, h0: object, x: object) -> tuple[Tensor, Tensor, Tensor]:
    """W as a matrix, and h_0 and the inputs, which have no axis H where W is a number."""
    matrix = numbers("W", W)
    scalar = not matrix.ndim
    matrix = matrix.view(1, 1) if scalar else matrix
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.numel():
        raise InputError(f"W has shape {tuple(matrix.shape)}, expected a number or a square matrix")
    shape = () if scalar else (len(matrix),)
    if h0 is None:
        h0 = 1.0 if scalar else torch.linalg.svd(matrix).Vh[0]
    start, inputs = numbers("h0", h0), numbers("x", np.zeros(shape) if x is None else x)
    if start.shape != shape:
        raise InputError(f"h0 has shape {tuple(start.shape)}, expected {shape}, as W")
    if inputs.shape not in (shape, (T, *shape)):
        raise InputError(f"x has shape {tuple(inputs.shape)}, expected {shape}, or {(T, *shape)}")
    return matrix, start, inputs


def _exp(log: float) -> str:
    return number(math.exp(log)) if log < 700 else f"10^{log / math.log(10):.0f}"


def _deviation(closed: Tensor, found: Tensor) -> float:
    """The largest difference, as a part of the logarithm where that is above 1; none where both are 0."""
    off = (closed - found).abs() / closed.abs().clamp(min=1)
    return float(torch.where(closed == found, 0.0, off.nan_to_num(math.inf, math.inf)).max())


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
    weights = np.abs(of_h) + np.abs(of_x)
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
    for first in range(0, T + 1, CHUNK):
        t = np.arange(first, min(first + CHUNK, T + 1))[:, None]
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
