"""How long tanh networks remember, as the largest eigenvalue of their matrix grows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from unrolled.cells.rnn import rnn
from unrolled.errors import InputError, check_sizes
from unrolled.flow.forward.arguments import numbers, one_number
from unrolled.flow.forward.curves import legend
from unrolled.flow.forward.impulse import impulse_response
from unrolled.flow.records import Record, number
from unrolled.nn.recurrent import Recurrent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KINDS: Final = ("gaussian", "symmetric", "orthogonal")


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
        legend(ax)


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
    scales = numbers("radii", radii).reshape(-1)
    if not len(scales) or not bool((scales > 0).all()):
        raise InputError("radii must be numbers above 0")
    if one_number("noise", noise) < 0:
        raise InputError(f"noise must be 0 or more, got {noise!r}")
    W = torch.randn(hidden, hidden, generator=generator, dtype=torch.float64)
    W = W + W.T if kind == "symmetric" else torch.linalg.qr(W).Q if kind == "orthogonal" else W
    W /= torch.linalg.eigvals(W).abs().max()
    u = F.normalize(torch.randn(hidden, generator=generator, dtype=torch.float64), dim=0)
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
