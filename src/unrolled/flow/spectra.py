"""Eigenvalues and singular values of Jacobians: of single steps, of products over lags, and along for ever.

A singular value says what one step, or k of them, can do to a small change at most; an eigenvalue what many
equal steps make of it in the end; a Lyapunov exponent the same where steps differ. A spectral radius below 1
bounds no transient growth, and a largest singular value above 1 alone means no explosion: so all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from unrolled.errors import InputError, check_sizes
from unrolled.flow.jacobian import jacobians, jacobians_of, spans
from unrolled.flow.products import LogProduct
from unrolled.flow.records import Record, number
from unrolled.flow.trace import Losses, Place, Recording, record, usual_losses
from unrolled.flow.values import each, singular_values, spectral_radius, triangular

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Progress = Callable[[int, int], None]
"""`progress(done, of)`, called now and then; Ctrl-C keeps what is done."""

BLOCKS: Final = 10
"""Parts of a trajectory whose exponents are compared."""


@dataclass(frozen=True, repr=False)
class StepSpectra(Record):
    """The Jacobians d state_t / d state_{t-1} of each step and sequence.

    Attributes:
        place: the layer and direction.
        largest, smallest: (T, B), singular values; NaN where a sequence has no such step.
        radius: (T, n), the largest absolute value of an eigenvalue, of the first n sequences.
        values: (T, B, S), all singular values, the largest first; None if not asked for.
        complete: whether all steps were done, or somebody stopped it.
    """

    place: str
    largest: Tensor
    smallest: Tensor
    radius: Tensor
    values: Tensor | None
    complete: bool

    @property
    def condition(self) -> Tensor:
        """(T, B), the largest over the smallest; inf where the smallest is 0."""
        return self.largest / self.smallest

    def summary(self) -> str:
        def told(value: Tensor) -> str:
            known = value[value.isfinite()]
            if not len(known):
                return "no finite number"
            low, middle, high = (number(known.quantile(q)) for q in (0.05, 0.5, 0.95))
            return f"{middle} ({low} to {high})"

        lines = [
            f"{self.place}: Jacobians of {len(self.largest)} steps, medians (and 5% to 95%)",
            f"    largest singular value   {told(self.largest)}",
            f"    smallest singular value  {told(self.smallest)}",
            f"    spectral radius          {told(self.radius)}",
        ]
        return "\n".join(lines + ["    stopped before the end"] * (not self.complete))

    def _draw(self, ax: Axes) -> None:
        for label, value in (
            ("largest singular value", self.largest),
            ("spectral radius", self.radius),
            ("smallest singular value", self.smallest),
        ):
            middle = value.nanquantile(0.5, dim=1)
            low, high = value.nanquantile(0.1, dim=1), value.nanquantile(0.9, dim=1)
            (line,) = ax.plot(middle, label=label)
            ax.fill_between(range(len(middle)), low, high, alpha=0.2, color=line.get_color())
        ax.axhline(1, color="#777777", linewidth=0.8, linestyle=(0, (4, 3)))
        ax.set_yscale("log")
        ax.set_xlabel(f"step of {self.place}")
        ax.legend(frameon=False)


def step_spectra(
    model: nn.Module | Recording | Place,
    batch: Any = None,
    losses: Losses | None = None,
    *,
    place: str | None = None,
    every: int = 1,
    radii: int = 1,
    all_values: bool = False,
    progress: Progress | None = None,
) -> StepSpectra:
    """Singular values and spectral radii of the step Jacobians of one layer and direction.

    Args:
        model, batch, losses: see `unrolled.flow.record`; or a recording, or one of its places.
        place: which layer and direction; the first, if not given.
        every: of so many steps one; the others are left out.
        radii: of so many sequences the spectral radius, which costs several times what singular values do.
        all_values: also keep all singular values.
        progress: told of the steps that are done.
    """
    check_sizes(every=every, radii=radii)
    where = place_of(model, batch, losses, place)
    rows, B = -(-where.T // every), where.B
    largest, smallest = torch.full((2, rows, B), math.nan, dtype=torch.float64)
    radius = torch.full((rows, min(radii, B)), math.nan, dtype=torch.float64)
    values: Tensor | None = None
    done = 0

    def decomposed(steps: slice) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        J = jacobians_of(where, steps)
        there = torch.arange(where.T)[steps, None] < where.lengths
        few = there[:, : radius.shape[1]]
        radii = spectral_radius(J[:, : radius.shape[1]][few])
        return there, singular_values(J.flatten(0, 1) if there.all() else J[there]), few, radii

    try:
        for there, found, few, radii_found in each(decomposed, spans(where, every=every)):
            steps = slice(done, done + len(there))
            largest[steps][there], smallest[steps][there] = found[:, 0], found[:, -1]
            radius[steps][few] = radii_found
            if all_values:
                if values is None:
                    values = torch.full((rows, B, found.shape[1]), math.nan, dtype=torch.float64)
                values[steps][there] = found
            done += len(there)
            if progress:
                progress(done, rows)
    except KeyboardInterrupt:
        if not done:
            raise
    return StepSpectra(where.name, largest, smallest, radius, values, complete=done == rows)


@dataclass(frozen=True, repr=False)
class LagSpectrum(Record):
    """The singular values of d state_t / d state_{t-k}, in logarithms, by lag.

    Attributes:
        place: the layer and direction.
        lags: (L,), k.
        logs: (L, B, S), natural logarithms of all singular values, the largest first; -inf is 0, NaN where a
            sequence has no such lag.
        complete: whether all lags were done.
    """

    place: str
    lags: Tensor
    logs: Tensor
    complete: bool

    @property
    def rates(self) -> Tensor:
        """(L, S), the logarithm of each singular value a step, as a mean over sequences."""
        return self.logs.nanmean(1) / self.lags[:, None]

    def summary(self) -> str:
        last = int(self.lags[-1])
        middle = self.logs.nanmean(1)[-1]
        lines = [
            f"{self.place}: singular values of the product of Jacobians over {last} steps",
            f"    largest 10^{number(middle[0] / math.log(10))}, median "
            f"10^{number(middle[len(middle) // 2] / math.log(10))}, smallest "
            f"10^{number(middle[-1] / math.log(10))}",
        ]
        return "\n".join(lines + ["    stopped before the end"] * (not self.complete))

    def _draw(self, ax: Axes) -> None:
        logs = self.logs.nanmean(1) / math.log(10)
        S = logs.shape[1]
        for k in sorted({round(q * (S - 1)) for q in (0, 0.1, 0.25, 0.5, 0.75, 0.9, 1)}):
            ax.plot(self.lags, logs[:, k], label=f"{k + 1} of {S}")
        ax.axhline(0, color="#777777", linewidth=0.8, linestyle=(0, (4, 3)))
        ax.set_xlabel("lag k")
        ax.set_ylabel("log₁₀ singular value of ∂ state_t / ∂ state_{t−k}")
        ax.legend(frameon=False, fontsize=8)


def usual_lags(T: int) -> list[int]:
    """1, 2, 3, 5, 7, 10, 14, 20 and so on, and T."""
    found = sorted({round(2 ** (k / 2)) for k in range(2 * T.bit_length())})
    return [k for k in found if k < T] + [T]


def lag_spectrum(
    model: nn.Module | Recording | Place,
    batch: Any = None,
    losses: Losses | None = None,
    *,
    place: str | None = None,
    lags: Iterable[int] | None = None,
    sequences: int = 4,
    progress: Progress | None = None,
) -> LagSpectrum:
    """The singular spectrum of d state_t / d state_{t-k} from the last step of each sequence back, by lag.

    Products are kept in logarithms and float64, so that a hundred thousand steps neither over- nor underflow.

    Args:
        lags: those that are wanted; if not given about two an octave.
        sequences: at most so many of the batch, the first.
        progress: told of the steps that are done.

    Raises:
        InputError: a lag is no whole number from 1 to T.
    """
    check_sizes(sequences=sequences)
    where = place_of(model, batch, losses, place).of_sequences(sequences)
    wanted = sorted({*(usual_lags(where.T) if lags is None else lags)})
    check_sizes(**{f"lag {k}": k for k in wanted})
    if not wanted or wanted[-1] > where.T:
        raise InputError(f"lags go from 1 to the {where.T} steps that there are, got {wanted[-1:] or 'none'}")
    if not bool((where.lengths == where.T).all()):
        raise InputError("a spectrum by lag is of sequences that are all of one length")
    found: list[Tensor] = []
    product: LogProduct | None = None
    try:
        for done, J in enumerate(_backwards(where, wanted[-1]), 1):
            product = product or LogProduct(where.B, J.shape[-1])
            product.append(J.mT)  # the transposed product has the same singular values
            if done in wanted:
                found.append(product.log_singular_values)
            if progress:
                progress(done, wanted[-1])
    except KeyboardInterrupt:
        if not found:
            raise
    kept = torch.tensor(wanted[: len(found)])
    return LagSpectrum(where.name, kept, torch.stack(found), complete=len(found) == len(wanted))


def _backwards(place: Place, count: int) -> Iterator[Tensor]:
    """The Jacobians of the last `count` steps, the last one first."""
    size = max(1, min(count, 16))
    for end in range(place.T, place.T - count, -size):
        first = max(end - size, place.T - count)
        blocks = [*jacobians(place, first, end)]
        yield from torch.cat(blocks).flip(0)


@dataclass(frozen=True, repr=False)
class Lyapunov(Record):
    """Lyapunov exponents: how fast small changes of the state grow for ever, in nats a step.

    Attributes:
        place: the layer and direction, or what was given.
        exponents: the largest first.
        error: the standard error of each, from how parts of the trajectory differ.
        transient: steps at the beginning that were left out.
        steps: that were averaged over.
        drift: how far the largest exponent of the second half is from that of the first.
        complete: whether all steps were done.
    """

    place: str
    exponents: Tensor
    error: Tensor
    transient: int
    steps: int
    drift: float
    complete: bool

    @property
    def converged(self) -> bool:
        """Whether both halves say the same of the largest exponent, within four standard errors or a
        thousandth."""
        return self.drift <= max(4 * math.sqrt(2) * float(self.error[0]), 1e-3)

    @property
    def is_chaotic(self) -> bool:
        """Whether the largest exponent is above 0 by three standard errors, and has converged."""
        return self.converged and float(self.exponents[0]) > max(3 * float(self.error[0]), 1e-3)

    def summary(self) -> str:
        first = self.exponents[: min(4, len(self.exponents))]
        told = ", ".join(f"{float(e):+.4f}" for e in first) + (
            ", …" if len(first) < len(self.exponents) else ""
        )
        lines = [
            f"{self.place}: Lyapunov exponents {told} nats a step",
            f"    the first ± {number(self.error[0])}, over {self.steps} steps behind {self.transient} that "
            "were left out",
        ]
        if not self.converged:
            lines.append(f"    not converged: the halves differ by {number(self.drift)}; give more steps")
        return "\n".join(lines + ["    stopped before the end"] * (not self.complete))

    def _draw(self, ax: Axes) -> None:
        place = range(1, len(self.exponents) + 1)
        ax.errorbar(place, self.exponents, yerr=self.error, fmt="o-", markersize=3, linewidth=1)
        ax.axhline(0, color="#777777", linewidth=0.8, linestyle=(0, (4, 3)))
        ax.set_xlabel("exponent")
        ax.set_ylabel("nats a step")


def lyapunov(
    model: nn.Module | Recording | Place,
    batch: Any = None,
    losses: Losses | None = None,
    *,
    place: str | None = None,
    count: int | None = None,
    transient: int | None = None,
    progress: Progress | None = None,
) -> Lyapunov:
    """The Lyapunov exponents of one layer and direction along a batch of sequences.

    Args:
        count: how many, the largest; all if not given.
        transient: steps at the beginning to leave out; a tenth if not given.

    Raises:
        InputError: there are too few steps for the question.
    """
    where = place_of(model, batch, losses, place)
    if not bool((where.lengths == where.T).all()):
        raise InputError("Lyapunov exponents are of sequences that are all of one length")
    steps = (J for block in jacobians(where) for J in block)
    return exponents(steps, where.T, count=count, transient=transient, name=where.name, progress=progress)


def exponents(
    factors: Iterable[Tensor],
    T: int,
    *,
    count: int | None = None,
    transient: int | None = None,
    name: str = "given matrices",
    progress: Progress | None = None,
) -> Lyapunov:
    """The Lyapunov exponents of a product of T matrices (S, S), or (B, S, S); the first acts first.

    By triangular factorisation at every step (Benettin et al. 1980, doi:10.1007/BF02128236).

    Raises:
        InputError: there are too few steps, or a matrix is not finite.
    """
    transient = T // 10 if transient is None else transient
    if isinstance(transient, bool) or not isinstance(transient, int) or transient < 0:
        raise InputError(f"transient must be a whole number from 0, got {transient!r}")
    if T - transient < 2 * BLOCKS:
        raise InputError(
            f"{T} steps, of which {transient} are left out, are too few for exponents and their error: "
            f"{2 * BLOCKS} and more must be left"
        )
    Q: Tensor | None = None
    edges = [transient + (T - transient) * k // BLOCKS for k in range(BLOCKS + 1)]
    done, block, sums = 0, -1, torch.zeros(())
    parts: list[Tensor] = []
    complete = True
    try:
        for J in factors:
            J = J[None] if J.ndim == 2 else J
            if Q is None:
                S = J.shape[-1]
                k = S if count is None else min(count, S)
                check_sizes(count=k)
                # Any directions do; the axes themselves may be special.
                start = torch.randn(S, k, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
                Q = triangular(start[None])[0].expand(J.shape[0], S, k)
            Q, U = triangular(J.double() @ Q)
            if not bool(U.isfinite().all()):
                raise InputError(f"the matrix of step {done} is not finite")
            if done == edges[block + 1]:
                if block >= 0:
                    parts.append(sums / (edges[block + 1] - edges[block]))
                block, sums = block + 1, torch.zeros(U.shape[:2], dtype=torch.float64)
            if block >= 0:
                sums = sums + U.diagonal(dim1=1, dim2=2).log()
            done += 1
            if progress:
                progress(done, T)
        if done == edges[-1]:
            parts.append(sums / (edges[-1] - edges[-2]))
    except KeyboardInterrupt:
        complete = False
    if len(parts) < 2:
        raise InputError(f"stopped after {done} steps, which are too few for exponents")
    each = torch.stack(parts)  # (blocks, B, k)
    found, order = each.mean((0, 1)).sort(descending=True)
    flat = each.flatten(0, 1)
    error = flat.std(0) / math.sqrt(len(flat))
    half = len(parts) // 2
    leading = order[0]
    drift = (each[:half, :, leading].mean() - each[half:, :, leading].mean()).abs()
    steps = edges[len(parts)] - transient
    return Lyapunov(name, found, error[order], transient, steps, float(drift.nan_to_num(0.0)), complete)


def place_of(
    model: nn.Module | Recording | Place, batch: Any, losses: Losses | None, name: str | None
) -> Place:
    """One layer and direction: of a recording, or of a model that runs now.

    Raises:
        InputError: there is none of that name.
    """
    if isinstance(model, Place):
        return model
    places = (model if isinstance(model, Recording) else record(model, batch, losses or usual_losses)).places
    if name is None:
        return places[0]
    for place in places:
        if place.name == name:
            return place
    raise InputError(f"no layer {name!r} ran; there are {', '.join(place.name for place in places)}")
