"""Gradient by lag: how much of what a network did k steps ago its loss still feels.

The gradient of a summed loss with respect to a state is a sum over all later losses, in which those near by
hide that the far ones are gone. So it is always the gradient of single losses that is looked at: of the last
step, of another one in each sequence, or, with random signs (Hutchinson 1990), of all steps on average.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from unrolled.errors import InputError, check_sizes
from unrolled.flow.records import Record, number
from unrolled.flow.trace import Gradients, Losses, Place, Recording, record, turned

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HALF, PERCENT = 0.5, 0.01


@dataclass(frozen=True, repr=False)
class LagProfile(Record):
    """The gradient of one step's loss at one layer and direction, by how many steps lie between.

    Attributes:
        place: the layer and direction.
        lags: from 0, the state behind the step of the loss, to T, the state before the first step.
        norm: (lags,), the L2 norm of d loss_t / d state_{t-k}, all states together; the root of the mean of
            its square over sequences. NaN where it cannot be told from noise.
        error: the standard error of that.
        states: the same for each state alone.
        x: (lags - 1,), the norm of d loss_t / d x_{t-k}; None for tokens.
        weights: (lags - 1,) for each matrix, the norm of the part of d loss_t / d W that comes from its use k
            steps ago; empty if not asked for.
        estimated: whether random signs were used.
    """

    place: str
    lags: Tensor
    norm: Tensor
    error: Tensor
    states: Mapping[str, Tensor]
    x: Tensor | None
    weights: Mapping[str, Tensor]
    estimated: bool

    def horizon(self, left: float) -> int | None:
        """The first lag at which no more than this part of the gradient at lag 0 is left; None if there is
        none up to T, or it cannot be told."""
        usable = self.norm.isfinite()
        if not usable[0] or not self.norm[0] > 0:
            return None
        below = torch.nonzero(usable & (self.norm <= left * self.norm[0])).flatten()
        return int(self.lags[below[0]]) if len(below) else None

    @property
    def half_life(self) -> float | None:
        """The steps in which the gradient halves, by a line through its logarithm from where it is largest;
        negative where it doubles. None if there are too few lags."""
        usable = self.norm.isfinite() & (self.norm > 1e-30 * self.norm.nan_to_num(0).max())
        if not usable.any():
            return None
        first = int(torch.where(usable, self.norm, -math.inf).argmax())
        if first > len(self.lags) // 2:
            first = 0  # it grows
        lags, logs = self.lags[first:][usable[first:]].double(), self.norm[first:][usable[first:]].log2()
        if len(lags) < 3:
            return None
        lags = lags - lags.mean()
        slope = float((lags @ logs.double()) / (lags @ lags))
        return -1 / slope if slope else math.inf

    def summary(self) -> str:
        half, percent = self.horizon(HALF), self.horizon(PERCENT)
        last = int(self.lags[-1])
        told = [f"{self.place}: gradient {number(self.norm[0])} at lag 0, {_at_end(self)} at lag {last}"]
        told.append(
            f"    half is left at lag {half if half is not None else f'> {last}'}, "
            f"1% at lag {percent if percent is not None else f'> {last}'}"
        )
        if (life := self.half_life) is not None and math.isfinite(life):
            told.append(f"    it {'halves' if life > 0 else 'doubles'} every {number(abs(life))} steps")
        if self.estimated and not bool(self.norm.isfinite().all()):
            told.append("    (estimated with random signs: lags where noise is larger are left out)")
        return "\n".join(told)

    def _draw(self, ax: Axes) -> None:
        positive = self.norm > 0
        ax.plot(self.lags[positive], self.norm[positive], label=self.place)
        low, high = self.norm - self.error, self.norm + self.error
        ok = positive & (low > 0)
        ax.fill_between(self.lags[ok], low[ok], high[ok], alpha=0.2)
        ax.set_yscale("log")
        ax.set_xlabel("lag k, steps back from the loss")
        ax.set_ylabel("‖∂ loss_t / ∂ state_{t−k}‖")


def _at_end(profile: LagProfile) -> str:
    last = float(profile.norm[-1])
    if math.isnan(last):
        return "not to be told from noise"
    return number(last) if last else "less than a number can be"


@dataclass(frozen=True, repr=False)
class GradientByLag(Record):
    """Gradients by lag at every layer and direction; see `LagProfile`."""

    profiles: tuple[LagProfile, ...]

    def __getitem__(self, place: str) -> LagProfile:
        return next(profile for profile in self.profiles if profile.place == place)

    def summary(self) -> str:
        return "\n".join(profile.summary() for profile in self.profiles)

    def _draw(self, ax: Axes) -> None:
        for profile in self.profiles:
            profile._draw(ax)
        ax.legend(frameon=False)


def gradient_by_lag(
    model: nn.Module | Recording,
    batch: Any = None,
    losses: Losses | None = None,
    *,
    at: int | str = -1,
    signs: int = 0,
    weights: bool = False,
    generator: torch.Generator | None = None,
) -> GradientByLag:
    """Norms of d loss_t / d state_{t-k} and d loss_t / d x_{t-k} by lag k.

    One backward pass of the compiled kernels gives all lags, for one t in each sequence. Layers that read
    backwards have a second one, of the loss at the mirrored step.

    Args:
        model, batch, losses: see `unrolled.flow.record`; or a recording.
        at: t, from 0, or from the end as -1 is; or "random": another one in each sequence of the second half
            of its steps, so that lags up to half of them are averaged over t. Where there is one loss a
            sequence it is at the last step.
        signs: or the average over all t, estimated from so many backward passes with random signs, at least
            2: what the estimate errs by is in `error`, and where that is more than half of it, it is NaN.
        weights: also split d loss_t / d W by lag.
        generator: of random steps and signs.

    Raises:
        InputError: t is no step, or see `unrolled.flow.record`.
    """
    recording = model if isinstance(model, Recording) else record(model, batch, losses)
    if signs:
        check_sizes(signs=signs)
        if signs < 2:
            raise InputError("an estimate with random signs takes at least 2 of them: signs=2")
        if recording.losses.ndim != 2:
            raise InputError("random signs are for losses of every step, but there is one loss a sequence")
        if recording.losses.shape[1] < 2:
            raise InputError("random signs take at least 2 sequences, whose spread is the error: use at=")
        if weights:
            raise InputError("weights are split by lag for one step's loss: leave out signs")
        return GradientByLag(_with_signs(recording, signs, generator))
    found: dict[int, LagProfile] = {}
    directions = sorted({place.reverse for place in recording.places})
    for reverse in directions:
        steps = _steps(recording, at, reverse, generator)
        gradients = recording.gradients(_picked(recording, steps, reverse))
        for k, place in enumerate(recording.places):
            if place.reverse == reverse:
                own = place.lengths - 1 if place.depth or recording.losses.ndim < 2 else steps
                found[k] = _profile(gradients[k], own, weights)
    return GradientByLag(tuple(found[k] for k in range(len(recording.places))))


def _steps(recording: Recording, at: int | str, reverse: bool, generator: torch.Generator | None) -> Tensor:
    """t of each sequence, counted as the layer goes; -1 for one of no steps."""
    lengths = recording.places[0].lengths
    if recording.losses.ndim < 2:
        return lengths - 1
    if at == "random":
        half = lengths // 2
        drawn = torch.rand(len(lengths), generator=generator)
        return (half + (drawn * (lengths - half))).long().clamp(max=lengths - 1)
    T = int(lengths.max())
    if isinstance(at, bool) or not isinstance(at, int) or not -T <= at < T:
        raise InputError(f"at is a step from 0 to {T - 1}, or from the end as -1 is, or 'random', not {at!r}")
    steps = lengths + at if at < 0 else torch.where(lengths > at, at, -1)
    return steps.clamp(min=-1)


def _picked(recording: Recording, steps: Tensor, reverse: bool) -> Tensor:
    """Weights that pick one loss of each sequence."""
    losses, lengths = recording.losses, recording.places[0].lengths
    if losses.ndim < 2:
        return torch.ones_like(losses)
    picked = torch.zeros_like(losses)
    there = steps >= 0
    t = lengths - 1 - steps if reverse else steps
    picked[t[there], torch.arange(len(steps))[there]] = 1
    return picked


def _by_lag(value: Tensor, steps: Tensor) -> Tensor:
    """Values of steps (T, ...) by how many lie between them and t, (T, ...); 0 where there is none."""
    index = steps - torch.arange(value.shape[0])[:, None]
    there = (index >= 0).view(*index.shape, *[1] * (value.ndim - 2))
    return value[index.clamp(min=0), torch.arange(value.shape[1])] * there


def _profile(found: Gradients, steps: Tensor, weights: bool) -> LagProfile:
    place = found.place
    after = found.after()
    # At t the state behind the step, then those before it.
    each = {
        name: torch.cat([_by_lag(after[name], steps)[:1], _by_lag(found.before[name], steps)])
        for name in place.states
    }
    norms = {name: value.double().norm(dim=-1) for name, value in each.items()}
    count = torch.arange(place.T + 1)[:, None] <= steps + 1
    count &= steps >= 0
    total = torch.stack([*norms.values()]).norm(dim=0)
    norm, error = _mean(total, count)
    keep = count.any(1)
    x = None if found.x is None else _mean(_by_lag(found.x, steps).double().norm(dim=-1), count[1:])[0]
    return LagProfile(
        place.name,
        torch.arange(place.T + 1)[keep],
        norm[keep],
        error[keep],
        {name: _mean(value, count)[0][keep] for name, value in norms.items()} if len(norms) > 1 else {},
        None if x is None else x[keep[1:]],
        {name: value[keep[1:]] for name, value in _weights(found, steps).items()} if weights else {},
        estimated=False,
    )


def _mean(norms: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """The root of the mean square over those sequences that have a lag, and its standard error."""
    n = count.sum(1)
    squares = norms.square() * count
    mean = squares.sum(1) / n
    variance = ((squares - mean[:, None]).square() * count).sum(1) / (n - 1).clamp(min=1) / n
    root = mean.sqrt()
    return root, torch.where(root > 0, variance.sqrt() / (2 * root), 0.0)


def _weights(found: Gradients, steps: Tensor) -> dict[str, Tensor]:
    """The norm of each step's part of the gradients of the matrices, by lag.

    A step's part is a sum over sequences of outer products δ ⊗ v, whose squared norm is the sum over pairs of
    sequences of (δ·δ')(v·v').
    """
    place, graph = found.place, found.place.graph
    names = [k for k, node in enumerate(graph.nodes) if node.kind == "affine"]
    parts: dict[str, Tensor] = {}
    some = [_at_maps(found, steps, names) for steps in place.together(place.T)]
    done = {k: torch.cat([values[k] for values, _ in some]) for k in some[0][0]}
    for k in names:
        node = graph.nodes[k]
        if k not in some[0][1]:
            continue
        delta = torch.cat([deltas[k] for _, deltas in some])
        delta = _by_lag(delta.view(place.T, place.B, -1), steps).double()
        gram = delta @ delta.mT
        for source, argument in zip(node.sources, node.args, strict=True):
            value = done[argument]
            if value.is_floating_point():
                value = _by_lag(value.view(place.T, place.B, -1), steps).double()
                pairs = value @ value.mT
            else:
                tokens = _by_lag(value.view(place.T, place.B), steps)
                pairs = (tokens[:, :, None] == tokens[:, None]).double()
            name = f"{node.name}.{source}"
            square = (gram * pairs).sum((1, 2)).clamp(min=0)
            parts[name] = parts[name] + square if name in parts else square
    return {name: square.sqrt() for name, square in parts.items()}


def _at_maps(
    found: Gradients, steps: slice, names: Sequence[int]
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Of some steps row by row: what maps read, and the gradients of their values, by node."""
    place, graph = found.place, found.place.graph
    results = dict(zip((*graph.states, *graph.outputs), graph.results, strict=True))
    with torch.enable_grad():
        learned = {n: value.clone().requires_grad_() for n, value in place.parameters_at(steps.start).items()}
        done = graph.values(place.reads(steps), learned)
        ends = [(done[results[name]], d[steps].flatten(0, 1)) for name, d in found.arriving.items()]
        ends = [(value, d) for value, d in ends if value.requires_grad]
        deltas = torch.autograd.grad(
            [value for value, _ in ends], [done[k] for k in names], [d for _, d in ends], allow_unused=True
        )
    rows = len(ends[0][1])
    read = {a: done[a].detach() for k in names for a in graph.nodes[k].args}
    read = {a: v.expand(rows, -1) if v.ndim == 1 and v.is_floating_point() else v for a, v in read.items()}
    return read, {k: d for k, d in zip(names, deltas, strict=True) if d is not None}


def _with_signs(
    recording: Recording, signs: int, generator: torch.Generator | None
) -> tuple[LagProfile, ...]:
    """The mean over t of the squared norm, from pairs of sign vectors.

    With random signs s_t the gradient g_τ of Σ s_t loss_t is in the mean over signs that of loss_t, times
    s_t; and s_t g_τ · s'_t g'_τ of two independent draws is without bias the squared norm that is wanted.
    """
    losses = recording.losses
    drawn: list[tuple[Tensor, list[Gradients]]] = []
    for _ in range(signs):
        s = torch.randint(2, losses.shape, generator=generator).to(losses) * 2 - 1
        drawn.append((s, recording.gradients(s)))
    return tuple(_estimated(place, k, drawn) for k, place in enumerate(recording.places))


def _estimated(place: Place, k: int, drawn: Sequence[tuple[Tensor, list[Gradients]]]) -> LagProfile:
    T, B = place.T, place.B
    sides = []
    for s, gradients in drawn:
        before, after = gradients[k].before, gradients[k].after()
        rows = torch.cat([torch.cat([before[name][:1], after[name]]) for name in place.states], -1)
        sides.append(((turned(s, place.lengths) if place.reverse else s).double(), rows.double()))
    there = place.there.double()
    means = torch.zeros(T + 1, B, dtype=torch.float64)  # sequences are independent of each other
    pairs = [(a, b) for a in range(len(sides)) for b in range(a)]
    for a, b in pairs:
        signs = sides[a][0] * sides[b][0] * there
        inner = (sides[a][1] * sides[b][1]).sum(-1)  # (T + 1, B), of states from before the first step on
        for lag in range(T + 1):
            t = slice(max(lag - 1, 0), T)  # the state k steps before t stands at t + 1 - k
            products = signs[t] * inner[t.start + 1 - lag : T + 1 - lag]
            means[lag] += products.sum(0) / there[t].sum(0).clamp(min=1) / len(pairs)
    has = place.lengths + 1 > torch.arange(T + 1)[:, None]
    count = has.sum(1)
    mean = (means * has).sum(1) / count.clamp(min=1)
    spread = ((means - mean[:, None]).square() * has).sum(1) / (count - 1).clamp(min=1)
    error = (spread / count.clamp(min=1)).sqrt()
    told = (mean > 2 * error) & (count > 1)
    norm = torch.where(told, mean.clamp(min=0).sqrt(), math.nan)
    error = torch.where(told, error / (2 * norm), math.nan)
    return LagProfile(place.name, torch.arange(T + 1), norm, error, {}, None, {}, estimated=True)
