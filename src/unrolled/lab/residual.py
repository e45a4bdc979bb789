"""Residual networks: what a product of 1 + Z is made of, and whether the gradient persists."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from unrolled.cells import residual, rnn
from unrolled.flow.lag import gradient_by_lag
from unrolled.flow.trace import record
from unrolled.lab.experiment import Number, Result, Verdict, at_least, experiment, near
from unrolled.lab.networks import deep, factors_of, gaussian, listed, off, product_of
from unrolled.report.page import Bars, Lines, Mark, Series

TANH: Final = residual.with_options(activation="tanh")


@dataclass(frozen=True)
class Sizes:
    """Sizes of a deep network.

    depth: layers.
    width: units.
    """

    depth: int = 10
    width: int = 8


def by_order(Z: Tensor) -> Tensor:
    """The sums over all subsets of k layers of the ordered products of their Z, (L + 1, H, H) for k from 0:
    what (1 + Z_L) ... (1 + Z_1) consists of."""
    L, H = len(Z), Z.shape[-1]
    sums = torch.zeros(L + 1, H, H, dtype=Z.dtype)
    sums[0] = torch.eye(H)
    for each in Z:
        sums[1:] = sums[1:] + each @ sums[:-1]
    return sums


def binomial(Z: Tensor, T: int) -> Tensor:
    """The terms of (1 + Z)^T: C(T, k) Z^k, (T + 1, H, H)."""
    return torch.stack([math.comb(T, k) * torch.linalg.matrix_power(Z, k) for k in range(T + 1)])


@experiment(
    title="(Z + 1) to the power of T",
    lectures=("000", "001"),
    claim="The gradient through T residual layers is (Z + 1)^T with Z = f'(W A) W, which is a sum of "
    "binomial terms: Z², 2 Z, 1 for two layers, and so on.",
    statement="The product of the Jacobians of 10 residual layers against Σ C(T, k) Zᵏ: with tied weights "
    "where f' is 1, with tied weights and tanh, and with weights of their own; and against the sum over "
    "all subsets of layers of the ordered products of their Z.",
    verdict=Verdict(
        "holds if",
        "all layers have the same Z; otherwise it is the sum over subsets of layers, in which binomials only "
        "count the terms",
    ),
    setup=Sizes(),
)
def residual_binomial(setup: Sizes) -> Result:
    T, H = setup.depth, setup.width
    positive = torch.rand(H, H, dtype=torch.float64) / H
    tied = factors_of(
        record(deep(residual, T, {"f.h": positive}, tied=True), torch.rand(1, H).double()).places[0]
    )
    same = binomial(positive, T)
    numbers = [
        Number(
            "tied, f' = 1: product against the binomial sum, off by",
            off(product_of(tied), same.sum(0)),
            0.0,
            1e-12,
            role="claim",
        )
    ]
    bent = factors_of(
        record(deep(TANH, T, {"f.h": gaussian(H, H, scale=0.5)}, tied=True), gaussian(1, H)).places[0]
    )
    own = factors_of(record(deep(TANH, T, {"f.h": gaussian(T, H, H, scale=0.3)}), gaussian(1, H)).places[0])
    one = torch.eye(H, dtype=torch.float64)
    for name, factors in (("tied, tanh", bent), ("own weights, tanh", own)):
        Z = factors - one
        whole = product_of(factors)
        numbers.append(
            Number(f"{name}: sum over subsets of layers, off by", off(by_order(Z).sum(0), whole), 0.0, 1e-12)
        )
        mean = off(binomial(Z.mean(0), T).sum(0), whole)
        numbers.append(
            Number(f"{name}: binomial sum of the mean Z, off by", mean, 0.0, 0.01, role="counterexample")
        )
    count = by_order(torch.ones(T, 1, 1, dtype=torch.float64)).flatten()
    off_by = max(abs(float(c) - math.comb(T, k)) for k, c in enumerate(count))
    numbers.append(Number("subsets of k layers against C(T, k), off by", off_by, 0.0))
    orders = by_order(own - one)
    figure = Bars(
        "How much each order contributes",
        "Norms of the sums over all subsets of k layers, with weights of their own: k = 0 is the path "
        "that skips every layer, k = 10 the one that passes through all, which is all a plain network has.",
        "Frobenius norm",
        [f"k = {k}: {math.comb(T, k)} paths" for k in range(T + 1)],
        listed(each.norm() for each in orders),
    )
    words = (
        f"A residual network of {T} layers has {2**T:,} paths from end to end, of all lengths; a plain "
        "one has the longest of them alone."
    )
    return Result(numbers, [figure], words)


@experiment(
    title="Does the gradient persist?",
    lectures=("000", "001"),
    claim="In a residual network the gradient persists through the layers: it does not vanish. It may "
    "explode.",
    statement="The growth of the gradient through 100 layers at rest with normally distributed weights of "
    "size g / √H, over all directions: plain against L ln g, residual against L/2 ln(1 + g²); and "
    "residual layers with W = −0.9.",
    verdict=Verdict(
        "holds if", "no eigenvalue of 1 + Z is much below 1: with W = −0.9 only a tenth is left at each layer"
    ),
    setup=Sizes(100, 128),
    quick=Sizes(60, 96),
)
def residual_gradient(setup: Sizes) -> Result:
    L, H = setup.depth, setup.width
    numbers, curves = [], []
    rest = torch.zeros(1, H, dtype=torch.float64)
    for g in (0.1, 0.5):
        weights = gaussian(L, H, H, scale=g / math.sqrt(H))
        for name, cell, gate in (("plain", rnn, "h"), ("residual", TANH, "f")):
            recording = record(deep(cell, L, {f"{gate}.h": weights}), rest)
            found = gradient_by_lag(recording).profiles[0].norm
            grown = math.log(float(product_of(factors_of(recording.places[0])).norm()) / math.sqrt(H))
            if name == "residual":
                expected = L / 2 * math.log1p(g * g)
                told = f"residual, g = {g:g}: ln of the gradient's growth"
                numbers.append(Number(told, grown, expected, 0.03 + 0.03 * expected))
                numbers.append(
                    at_least(
                        f"residual, g = {g:g}: growth, as persisting has it", math.exp(grown), 0.9, "claim"
                    )
                )
            else:
                numbers.append(
                    near(f"plain, g = {g:g}: ln of the gradient's growth", grown, L * math.log(g), 0.05)
                )
            curves.append(Series(f"{name}, g = {g:g}", range(L, -1, -1), listed(found)))
    turned = deep(TANH, L, {"f.h": -0.9 * torch.eye(H, dtype=torch.float64)}, tied=True)
    lost = gradient_by_lag(record(turned, rest)).profiles[0].norm
    fall = float((lost[-1] / lost[0]).log())
    numbers.append(near("residual, W = −0.9: ln of the gradient's growth", fall, L * math.log(0.1), 1e-9))
    numbers.append(at_least("the same: growth, as persisting has it", math.exp(fall), 0.9, "counterexample"))
    curves.append(Series("residual, W = −0.9", range(L, -1, -1), listed(lost)))
    figure = Lines(
        "The gradient on its way down",
        "A plain network multiplies by g at each layer, a residual one by √(1 + g²): what was an "
        "exponential loss becomes an exponential growth, slow where g is small. Weights that undo the "
        "skip lose the gradient.",
        "layer",
        "‖∂ loss / ∂ Aₜ‖",
        curves,
        log_y=True,
        marks=[Mark("y", float(found[0]), "at the loss")],
    )
    words = (
        "At rest tanh has slope 1, so that Z = W. With g of the order of 1 / √L the growth over all "
        "layers is a factor of about √e, whatever the depth: why residual branches begin small."
    )
    return Result(numbers, [figure], words)
