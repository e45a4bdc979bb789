"""The chain rule, layer by layer: what one factor is, and what many of them make.

A layer is Aₜ = f(Wₜ Aₜ₋₁); its factor is the Jacobian dAₜ/dAₜ₋₁.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from unrolled.cells import rnn
from unrolled.flow.jacobian import jacobians_of
from unrolled.flow.lag import gradient_by_lag
from unrolled.flow.spectra import lag_spectrum, lyapunov, step_spectra
from unrolled.flow.trace import record
from unrolled.lab.experiment import Number, Result, Role, Verdict, at_least, at_most, experiment, near
from unrolled.lab.networks import (
    deep,
    factors_of,
    gaussian,
    listed,
    off,
    plain,
    product_of,
    run,
    scaled,
    walk,
)
from unrolled.report.page import Lines, Mark, Series
from unrolled.report.scales import number

SLOPES: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "sigmoid": lambda a: a * (1 - a),
    "tanh": lambda a: 1 - a.square(),
    "relu": lambda a: (a > 0).double(),
    "softplus": lambda a: -torch.expm1(-a),
}
"""f'(z) as a function of a = f(z)."""

ROUNDING: Final = 1e-12


@dataclass(frozen=True)
class Layers:
    """Sizes of a deep network.

    width: units of a layer.
    depth: layers.
    """

    width: int = 16
    depth: int = 20


@experiment(
    title="The chain rule, layer by layer",
    lectures=("000", "001"),
    claim="The derivative of a layer's output by its input is f'(W A) W, and the gradient of an early "
    "weight is the product of these factors over all layers behind it.",
    statement="dAₜ/dAₜ₋₁ = diag(f'(Wₜ Aₜ₋₁)) Wₜ for sigmoid, tanh, ReLU and softplus, against central "
    "differences. Their product in the order of the layers, times dA₁/dW₁, is what automatic "
    "differentiation gives for W₁; in another order it is not.",
    verdict=Verdict("holds", "as an ordered product whose last factor is dA₁/dW₁"),
    setup=Layers(),
)
def chain_rule(setup: Layers) -> Result:
    H, L = setup.width, setup.depth
    numbers, curves = [], []
    for name, slope in SLOPES.items():
        weights = gaussian(L, H, H, scale=H**-0.5)
        network = deep(rnn.with_options(activation=name), L, {"h.h": weights})
        A, target = gaussian(1, H), gaussian(H)
        place = record(network, A).places[0]
        factors, values = factors_of(place), place.states["h"][:, 0]
        right = slope(values)[..., None] * weights
        numbers.append(Number(f"{name}: factors, off by", off(factors, right), 0.0, ROUNDING))
        back = values[-1] - target
        sizes = [float(back.norm())]
        for J in factors[1:].flip(0):
            back = back @ J
            sizes.append(float(back.norm()))
        curves.append(Series(name, range(L, 0, -1), sizes))
        (learned,) = torch.autograd.grad(
            (network(A)[0] - target).square().sum() / 2, [network.stacked()["h.h"]]
        )
        first = torch.outer(back * slope(values[0]), A[0])
        numbers.append(Number(f"{name}: dC/dW₁ as a product, off by", off(first, learned[0]), 0.0, 1e-10))
        if name == "tanh":
            step = 1e-6 * torch.eye(H, dtype=torch.float64)
            up, down = (record(network, A + s * step).places[0].states["h"][0] for s in (1, -1))
            numbers.append(
                Number("tanh: central differences, off by", off((up - down).T / 2e-6, factors[0]), 0.0, 1e-7)
            )
            turned = off(product_of(factors.flip(0)), product_of(factors))
            numbers.append(at_least("tanh: product in reverse order, off by", turned, 0.1))
    figure = Lines(
        "The gradient on its way down",
        "What is left of the gradient of the loss at each layer, by the product of the factors above it. "
        "Sigmoid loses most: its slope is a quarter at best.",
        "layer t",
        "‖∂C/∂Aₜ‖",
        curves,
        log_y=True,
    )
    words = (
        f"{L} layers of {H} units with weights of their own. The printed sum of derivatives for W₁ lacks "
        "its last factor, dA₁/dW₁; with it the product is the gradient to the last digits."
    )
    return Result(numbers, [figure], words)


@experiment(
    title="The example with a sigmoid",
    lectures=("001",),
    claim="For Aₜ = σ(W Aₜ₋₁) the derivative dAₜ/dAₜ₋₁ is Aₜ (1 − Aₜ).",
    statement="The derivative of one unit for weights from −4 to 4, beside A (1 − A) and beside w A (1 − A).",
    verdict=Verdict("fails", "the factor W is missing; at w = −2 even the sign is another"),
)
def sigmoid_example(_: None) -> Result:
    weights = torch.linspace(-4, 4, 33, dtype=torch.float64)
    start = torch.rand(1, 1, dtype=torch.float64)
    found, values = [], []
    for w in weights:
        place = walk(plain(float(w), "sigmoid"), 1, start)
        found.append(jacobians_of(place, slice(0, 1)).flatten()[0])
        values.append(place.states["h"].flatten()[0])
    slopes, A = torch.stack(found), torch.stack(values)
    printed = A * (1 - A)
    at = {w: int((weights - w).abs().argmin()) for w in (-2.0, 0.5, 3.0)}
    numbers = [Number("w A (1 − A), off by at most", off(weights * printed, slopes), 0.0, ROUNDING)]
    for w, k in at.items():
        role: Role = "counterexample"
        numbers.append(near(f"derivative at w = {number(w)}", float(slopes[k]), float(printed[k]), 0.1, role))
    figure = Lines(
        "The derivative of σ(w a), measured and as printed",
        "What is measured and w A (1 − A) are one line. The printed form is right at w = 1 and nowhere else.",
        "w",
        "dAₜ/dAₜ₋₁",
        [
            Series("measured", listed(weights), listed(slopes)),
            Series("w A (1 − A)", listed(weights), listed(weights * printed)),
            Series("A (1 − A), as printed", listed(weights), listed(printed)),
        ],
        marks=[Mark("x", 1.0, "w = 1")],
    )
    return Result(numbers, [figure], f"One unit that reads a = {float(start):.3f}.")


@dataclass(frozen=True)
class Powers:
    """Sizes of a recurrence.

    T: steps.
    hidden: units of the network with a matrix.
    """

    T: int = 400
    hidden: int = 24


@experiment(
    title="A factor to the power of T",
    lectures=("000", "001"),
    claim="The gradient holds (f'(W A) W)^T: it explodes where f'(W A) W is above 1 and vanishes where it "
    "is below.",
    statement="One unit at rest, whose factor is w at every step, against w^T. One unit that its input "
    "takes to and fro between the middle and the end of tanh, whose factors are above 1 on average, "
    "against the mean of their logarithms. A network, whose factors are matrices, against its largest "
    "Lyapunov exponent.",
    verdict=Verdict(
        "holds if",
        "the factor is a number and always the same; otherwise the mean of its logarithm decides, which "
        "may be below 0 where the mean factor is above 1",
    ),
    setup=Powers(),
    quick=Powers(T=200, hidden=8),
)
def power_of_a_factor(setup: Powers) -> Result:
    T = setup.T
    numbers, curves = [], []
    for w in (0.9, 1.0, 1.1):
        found = gradient_by_lag(run(plain(w), T, torch.zeros(1, 1))).profiles[0]
        numbers.append(
            near(f"w = {number(w)} at rest: ln of the gradient {T} steps back", float(found.norm[-1].log()),
                 T * math.log(w), 1e-9, "claim")
        )  # fmt: skip
        curves.append(Series(f"at rest, w = {number(w)}", listed(found.lags), listed(found.norm)))
    w, z = 2.2, 3.0 * torch.randint(2, (10 * T,)).double()
    x = (z - w * torch.cat([z.new_zeros(1), z[:-1]]).tanh())[:, None, None]  # so that these z come about
    layer = plain(w, u=1.0)
    driven = run(layer, 10 * T, x=x)
    steps = step_spectra(driven).largest
    rate = float(lyapunov(driven, transient=0).exponents[0])
    flat = float((z > 0).double().mean())
    numbers.append(at_least(f"driven, w = {number(w)}: mean factor", float(steps.mean()), 1.0))
    numbers.append(
        near(
            "driven: ln of the gradient, a step", rate, math.log(w) - 2 * flat * math.log(math.cosh(3)), 1e-9
        )
    )
    numbers.append(at_least("driven: the same, as a mean factor above 1 has it", rate, 0.0, "counterexample"))
    part = gradient_by_lag(run(layer, T, x=x[:T])).profiles[0]
    curves.append(Series(f"driven, w = {number(w)}", listed(part.lags), listed(part.norm)))
    H = setup.hidden
    place = walk(plain(scaled(gaussian(H, H), 1.4), u=gaussian(H)), T, x=gaussian(T, 1, 1))
    along = lyapunov(place, count=1, transient=0)
    spectrum = lag_spectrum(place, lags=[T])
    late = float(spectrum.rates[-1, 0])
    numbers.append(
        Number(
            "network: ln of the product's largest singular value, a step",
            late,
            float(along.exponents[0]),
            0.02,
        )
    )
    numbers.append(at_most("network: the same, though W has eigenvalues of size 1.4", late, 0.0))
    figure = Lines(
        "Gradients by lag",
        "At rest one unit multiplies the gradient by w at each step: straight lines. Driven to and fro "
        "it vanishes, though the mean of its factors is above 1.",
        "lag k",
        "‖∂ lossₜ / ∂ Aₜ₋ₖ‖",
        curves,
        log_y=True,
    )
    words = (
        "The driven unit's factors are "
        f"{float(steps.mean()):.2f} on average, and their logarithm {rate:.2f}: it is the logarithm that "
        "adds up. T counts steps; it is no transpose."
    )
    return Result(numbers, [figure], words)
