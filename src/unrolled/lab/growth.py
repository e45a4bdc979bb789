"""Growth of gradients: singular values say what one step can do, eigenvalues what many equal ones do."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, tanh

from unrolled.cell import cell
from unrolled.flow.forward import linear_recursion
from unrolled.flow.spectra import LagSpectrum, lag_spectrum, lyapunov, step_spectra
from unrolled.lab.experiment import Number, Result, Verdict, at_least, at_most, experiment, near
from unrolled.lab.networks import gaussian, layer_of, listed, plain, scaled, walk
from unrolled.report.page import Lines, Mark, Series

LN10 = math.log(10)


@cell(states="h")
def steep(x: Any, h: Any, W: Any) -> Any:
    """A tanh whose slope is 1.14 at 0 (LeCun, Bottou, Orr & Müller 1998)."""
    return 1.7159 * tanh(2 / 3 * W.h(x, h))


@dataclass(frozen=True)
class Sizes:
    """Sizes of a network.

    T: steps.
    hidden: units.
    """

    T: int = 100
    hidden: int = 16


def _orthogonal(H: int) -> Tensor:
    Q: Tensor = torch.linalg.qr(gaussian(H, H)).Q
    return Q


def _largest(name: str, found: LagSpectrum) -> Series:
    return Series(name, listed(found.lags), listed(found.logs[:, 0, 0] / LN10))


@experiment(
    title="Small singular values",
    lectures=("002", "004"),
    claim="Where the largest singular value of W is below 1 the gradient vanishes.",
    statement="With σₘₐₓ = 0.9 the largest singular value of the product of k Jacobians is at most 0.9ᵏ, "
    "for tanh, ReLU, sigmoid and softplus, at rest and driven. A tanh that is steeper than 1 at 0 "
    "explodes with 0.95.",
    verdict=Verdict("holds if", "no slope of the activation is above 1"),
    setup=Sizes(),
    quick=Sizes(T=40, hidden=8),
)
def small_singular_values(setup: Sizes) -> Result:
    T, H = setup.T, setup.hidden
    numbers, curves = [], []
    W = gaussian(H, H)
    W = 0.9 * W / torch.linalg.matrix_norm(W, 2)
    x = gaussian(T, 1, 1)
    for name in ("tanh", "relu", "sigmoid", "softplus"):
        found = lag_spectrum(walk(plain(W, name, u=gaussian(H)), T, x=x))
        worst = float((found.logs[:, 0, 0] - found.lags * math.log(0.9)).max())
        numbers.append(
            at_most(f"{name}: ln of the product over the bound 0.9ᵏ, at most", worst, 1e-9, "claim")
        )
        curves.append(_largest(f"{name}, driven", found))
    rest = lag_spectrum(walk(plain(0.9 * _orthogonal(H)), T, torch.zeros(1, H)))
    last = float(rest.logs[-1, 0, 0])
    numbers.append(
        near(f"0.9 × orthogonal at rest: ln after {T} steps", last, T * math.log(0.9), 1e-9, "claim")
    )
    curves.append(_largest("0.9 × orthogonal, at rest", rest))
    layer = layer_of(steep, 1, H, {"h.h": 0.95 * _orthogonal(H), "h.x": 0.0, "h.bias": 0.0})
    grown = lag_spectrum(walk(layer, T, torch.zeros(1, H)))
    last = float(grown.logs[-1, 0, 0])
    slope = 1.7159 * 2 / 3
    numbers.append(
        near(
            f"slope {slope:.3f}, 0.95 × orthogonal: ln after {T} steps",
            last,
            T * math.log(0.95 * slope),
            1e-9,
        )
    )
    numbers.append(at_most("the same, as the claim has it", last, 0.0, "counterexample"))
    curves.append(_largest("a steeper tanh, σₘₐₓ = 0.95", grown))
    figure = Lines(
        "Products of k Jacobians",
        "Everything with slopes of at most 1 stays below the bound 0.9ᵏ, which is met at rest by a "
        "multiple of an orthogonal matrix. The steeper tanh grows.",
        "lag k",
        "log₁₀ of the largest singular value",
        curves,
        marks=[Mark("y", 0.0, "kept")],
    )
    return Result(
        numbers,
        [figure],
        "‖J‖ ≤ max |f'| ‖W‖ for each step, and norms of products are at most products of norms.",
    )


def _nonnormal(a: float, b: float) -> Tensor:
    return torch.tensor([[a, b], [0.0, a]], dtype=torch.float64)


def _largest_of(W: Tensor) -> float:
    """The largest singular value of a 2 × 2 matrix, from the sum of the squares of both and their product."""
    squares, product = float(W.square().sum()), float(W.det())
    return math.sqrt((squares + math.sqrt(squares**2 - 4 * product**2)) / 2)


@experiment(
    title="Large singular values",
    lectures=("002", "004"),
    claim="Where the largest singular value of W is above 1 the gradient explodes.",
    statement="A 2 × 2 matrix with σₘₐₓ above 4 and eigenvalues 0.5, at rest, against the closed form of "
    "its powers; and a tanh network with σₘₐₓ above 2 and eigenvalues above 1 that noise drives.",
    verdict=Verdict(
        "fails",
        "[[0.5, 4], [0, 0.5]] has σₘₐₓ = 4.06, and its gradient vanishes; a value above 1 is necessary "
        "for an explosion, and not sufficient",
    ),
    setup=Sizes(T=60, hidden=24),
    quick=Sizes(T=40, hidden=8),
)
def large_singular_values(setup: Sizes) -> Result:
    T, H = setup.T, setup.hidden
    a, b = 0.5, 4.0
    W = _nonnormal(a, b)
    place = walk(plain(W), T, torch.zeros(1, 2))
    one, many = step_spectra(place), lag_spectrum(place, lags=range(1, T + 1))
    power = torch.tensor([[1.0, T * b / a], [0.0, 1.0]], dtype=torch.float64)  # over a^T
    numbers = [
        near("σₘₐₓ of one step", float(one.largest[0, 0]), _largest_of(W), 1e-12),
        near("spectral radius", float(one.radius[0, 0]), a, 1e-6),
        near(
            f"ln of {T} steps",
            float(many.logs[-1, 0, 0]),
            T * math.log(a) + math.log(_largest_of(power)),
            1e-9,
        ),
        at_least("the same, as the claim has it", float(many.logs[-1, 0, 0]), 0.0, "counterexample"),
    ]
    V = scaled(gaussian(H, H), 1.2)
    driven = walk(plain(V, u=gaussian(H, scale=2.0)), 20 * T, x=gaussian(20 * T, 1, 1))
    along = float(lyapunov(driven, count=1).exponents[0])
    numbers += [
        at_least("tanh network: σₘₐₓ of W", float(torch.linalg.matrix_norm(V, 2)), 1.5),
        at_most("tanh network: ln of the gradient, a step", along, 0.0),
        at_least("the same, as the claim has it", along, 0.0, "counterexample"),
    ]
    normal = lag_spectrum(walk(plain(1.1 * _orthogonal(H)), T, torch.zeros(1, H)))
    numbers.append(
        near(
            f"1.1 × orthogonal at rest: ln of {T} steps",
            float(normal.logs[-1, 0, 0]),
            T * math.log(1.1),
            1e-9,
        )
    )
    k = listed(many.lags)
    figure = Lines(
        "One step and many",
        "The bound of one step, to the power of k, says nothing of what is to come where directions are "
        "not kept: the product rises for two steps, and then eigenvalues decide.",
        "lag k",
        "log₁₀ of the largest singular value",
        [
            Series("[[0.5, 4], [0, 0.5]]", k, listed(many.logs[:, 0, 0] / LN10)),
            Series("its radius to the power of k", k, [lag * math.log10(a) for lag in k]),
            Series("its σₘₐₓ to the power of k", k[:6], [lag * math.log10(_largest_of(W)) for lag in k[:6]]),
            _largest("1.1 × orthogonal", normal),
            _largest("tanh network, driven", lag_spectrum(driven, lags=range(1, T + 1))),
        ],
        marks=[Mark("y", 0.0, "kept")],
    )
    words = (
        "A product of k steps grows in the end as its Lyapunov exponent says: for equal steps the largest "
        "eigenvalue. Where W is normal that is its largest singular value, and only there the claim is right."
    )
    return Result(numbers, [figure], words)


@experiment(
    title="Directions that grow and shrink",
    lectures=("003",),
    claim="W expands the gradient along directions with singular values above 1 and shrinks it along the "
    "others; repeated, that makes it explode or vanish.",
    statement="All singular values of a Jacobian at rest are those of W. A matrix that doubles a "
    "direction and turns it to where it is lost; an orthogonal matrix, over many steps.",
    verdict=Verdict("holds if", "it is one multiplication, or W keeps its directions and has none of size 1"),
    setup=Sizes(),
    quick=Sizes(T=40, hidden=6),
)
def directions(setup: Sizes) -> Result:
    T, H = setup.T, setup.hidden
    W = gaussian(H, H, scale=H**-0.5)
    one = step_spectra(walk(plain(W), 1, torch.zeros(1, H)), all_values=True)
    assert one.values is not None
    off = float((one.values[0, 0] - torch.linalg.svdvals(W)).abs().max())
    turning = torch.tensor([[0.0, 2.0], [0.0, 0.0]])
    both = lag_spectrum(walk(plain(turning), 2, torch.zeros(1, 2)), lags=[1, 2]).logs[:, 0, 0].exp()
    U = _orthogonal(H)
    kept = lag_spectrum(walk(plain(U), T, torch.zeros(1, H)), lags=[T])
    stretched = torch.linspace(0.8, 1.2, H, dtype=torch.float64)
    symmetric = lag_spectrum(walk(plain(U @ stretched.diag() @ U.T), T, torch.zeros(1, H)))
    ends = symmetric.logs[-1, 0]
    numbers = [
        Number("one step: singular values, off by", off, 0.0, 1e-12, role="claim"),
        near(
            f"symmetric W, 0.8 to 1.2: ln of the largest after {T} steps",
            float(ends[0]),
            T * math.log(1.2),
            1e-8,
            "claim",
        ),
        near("and of the smallest", float(ends[-1]), T * math.log(0.8), 1e-8, "claim"),
        near("[[0, 2], [0, 0]]: largest after one step", float(both[0]), 2.0, 1e-12),
        at_least("after two steps, as the claim has it", float(both[1]), 4.0, "counterexample"),
        Number("[[0, 2], [0, 0]]: largest after two steps", float(both[1]), 0.0, 1e-12),
        Number(
            f"orthogonal W: ln of all values after {T} steps, at most",
            float(kept.logs.abs().max()),
            0.0,
            1e-9,
        ),
    ]
    ranks = sorted({round(q * (H - 1)) for q in (0, 0.2, 0.4, 0.6, 0.8, 1)})
    figure = Lines(
        "Singular values of products of a symmetric W",
        "Each line is one direction: those above 1 grow for ever, those below shrink, and none changes "
        "places.",
        "lag k",
        "log₁₀ singular value",
        [
            Series(
                f"σ = {float(stretched.flip(0)[r]):.2f}",
                listed(symmetric.lags),
                listed(symmetric.logs[:, 0, r] / LN10),
            )
            for r in ranks
        ],
        marks=[Mark("y", 0.0, "kept")],
    )
    words = (
        "What is doubled by one step may be what the next one loses. An orthogonal matrix keeps every "
        "gradient for ever, and so repetition alone decides nothing."
    )
    return Result(numbers, [figure], words)


@experiment(
    title="Growth before vanishing",
    lectures=("003",),
    claim="Where the largest eigenvalue of W is below 1, the state contracts and shrinks to 0 rapidly.",
    statement="hₜ = W hₜ₋₁ for [[0.9, 10], [0, 0.8]], whose powers have a closed form, beside a symmetric "
    "matrix with the same eigenvalues; and a random triangular matrix.",
    verdict=Verdict("holds if", "W is normal; otherwise it vanishes in the end, and may grow a lot before"),
    setup=Sizes(T=120, hidden=12),
)
def transient_growth(setup: Sizes) -> Result:
    T, H = setup.T, setup.hidden
    W = torch.tensor([[0.9, 10.0], [0.0, 0.8]], dtype=torch.float64)
    found = linear_recursion(W, T, h0=(0.0, 1.0))
    t = torch.arange(T + 1, dtype=torch.float64)
    size = torch.stack([100 * (0.9**t - 0.8**t), 0.8**t]).norm(dim=0)  # Wᵗ e_2, by eigenvalues
    turn = torch.linalg.qr(gaussian(2, 2)).Q
    even = linear_recursion(turn @ torch.diag(torch.tensor([0.9, 0.8], dtype=torch.float64)) @ turn.T, T)
    drawn = torch.triu(gaussian(H, H), 1) + 0.7 * torch.eye(H, dtype=torch.float64)
    random = linear_recursion(drawn, 4 * T)
    numbers = [
        Number(
            "‖h‖ by the closed form, ln off by", float((found.log_norm - size.log()).abs().max()), 0.0, 1e-9
        ),
        Number("step at which ‖h‖ is largest", found.peak, int(size.argmax())),
        near("how much larger it is there", math.exp(found.growth), float(size.max()), 1e-9),
        at_most("growth, as the claim has it", math.exp(found.growth), 1.0, "counterexample"),
        near(
            "and in the end, ln a step", float(found.log_norm[-1] - found.log_norm[-2]), math.log(0.9), 1e-3
        ),
        at_most("symmetric W, the same eigenvalues: growth", math.exp(even.growth), 1.0, "claim"),
        at_least(f"triangular W of {H} units, eigenvalues 0.7: growth", math.exp(random.growth), 10.0),
        at_most("and ln ‖h‖ at the end", float(random.log_norm[-1]), 0.0),
    ]
    figure = Lines(
        "Two matrices with eigenvalues 0.9 and 0.8, and one with 0.7",
        "All end as straight lines, with the slope of the largest eigenvalue. Where W is not normal the "
        "way there leads up first.",
        "step t",
        "‖hₜ‖",
        [
            Series("[[0.9, 10], [0, 0.8]]", listed(t), listed(found.log_norm.exp())),
            Series("symmetric", listed(t), listed(even.log_norm.exp())),
            Series(f"triangular, {H} units", listed(t), listed(random.log_norm[: T + 1].exp())),
        ],
        log_y=True,
        marks=[Mark("y", 1.0, "h₀")],
    )
    words = (
        "From h₀ = (0, 1) the first grows to "
        f"{math.exp(found.growth):.1f} times its size, at step {found.peak}. Eigenvalues tell the end, and "
        "the angle between eigenvectors what comes before."
    )
    return Result(numbers, [figure], words)
