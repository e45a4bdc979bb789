"""Highway layers: what their derivative consists of, and what the carry does."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from unrolled.cells import highway
from unrolled.flow.jacobian import jacobian_parts
from unrolled.flow.lag import gradient_by_lag
from unrolled.flow.trace import record
from unrolled.lab.experiment import Number, Result, Role, Verdict, at_least, experiment, near
from unrolled.lab.networks import deep, gaussian, listed, off
from unrolled.report.page import Bars, Lines, Series


@dataclass(frozen=True)
class Sizes:
    """Sizes of a deep network.

    depth: layers.
    width: units.
    """

    depth: int = 100
    width: int = 16


@experiment(
    title="The derivative of a highway layer",
    lectures=("001",),
    claim="The derivative of A + B f − B A by A is 1 and two further terms; the 1 is what lets the "
    "gradient persist.",
    statement="The parts of a layer's Jacobian by the map they pass, for weights drawn at random, against "
    "the four terms diag(B f') W, diag(f B') W₂, diag(1 − B) and −diag(A B') W₂ with B' = B (1 − B); and "
    "the direct part against 1.",
    verdict=Verdict(
        "fails", "the direct path is 1 − B, not 1: what the gate takes in of the new it takes from the old"
    ),
    setup=Sizes(depth=6),
)
def highway_derivative(setup: Sizes) -> Result:
    L, H = setup.depth, setup.width
    weights = {"n.h": gaussian(L, H, H, scale=H**-0.5), "b.h": gaussian(L, H, H, scale=H**-0.5)}
    network = deep(highway, L, weights)
    place = record(network, gaussian(1, H)).places[0]
    at = L // 2
    A, W, W2 = place.before["h"][at, 0], weights["n.h"][at], weights["b.h"][at]
    f, B = (W @ A).tanh(), (W2 @ A).sigmoid()
    slope = B * (1 - B)
    terms = {
        "diag(B f') W": (B * (1 - f.square()))[:, None] * W,
        "diag(f B') W₂": (f * slope)[:, None] * W2,
        "diag(1 − B)": (1 - B).diag(),
        "−diag(A B') W₂": -(A * slope)[:, None] * W2,
    }
    parts = {name: part[0] for name, part in jacobian_parts(place, at).items()}
    own = [*terms.values()]
    one = torch.eye(H, dtype=torch.float64)
    numbers = [
        Number("through the new: diag(B f') W, off by", off(parts["n"], own[0]), 0.0, 1e-12),
        Number(
            "through the gate: diag(f B') W₂ − diag(A B') W₂, off by",
            off(parts["b"], own[1] + own[3]),
            0.0,
            1e-12,
        ),
        Number("direct: diag(1 − B), off by", off(parts["direct"], own[2]), 0.0, 1e-12),
        Number("direct: as 1, off by", off(parts["direct"], one), 0.0, 0.01, role="counterexample"),
        Number(
            "all parts together: sum of the four terms, off by",
            off(sum(parts.values(), 0 * one), sum(own, 0 * one)),
            0.0,
            1e-12,
        ),
    ]
    figure = Bars(
        "How large the four terms are",
        "Of one layer in the middle, as Frobenius norms. The two that pass W₂ come from the gate: opening "
        "it lets in the new, and lets go of the old.",
        "Frobenius norm",
        [*terms],
        listed(term.norm() for term in own),
    )
    words = (
        "The 1 of the lecture is there, and so is −B beside it; the sum of both is what the carry "
        "lets through."
    )
    return Result(numbers, [figure], words)


@experiment(
    title="The carry of a highway",
    lectures=("000", "001", "002"),
    claim="Through the carry of a highway the gradient persists over many layers.",
    statement="The gradient through 100 layers whose matrices are 0, against L ln σ(b) for carry biases b "
    "from 0 to 6; and with matrices drawn at random, by carry bias.",
    verdict=Verdict(
        "holds if",
        "the carry is open: with a bias of 0 half is lost at each layer, and of 100 layers nothing is left",
    ),
    setup=Sizes(),
    quick=Sizes(depth=50, width=8),
)
def highway_carry(setup: Sizes) -> Result:
    L, H = setup.depth, setup.width
    numbers, curves = [], []
    A = gaussian(4, H)
    biases = (0.0, 1.0, 2.0, 4.0, 6.0)
    zero = torch.zeros(H, H)
    left = {}
    for b in biases:
        still = deep(highway, L, {"n.h": zero, "b.h": zero, "b.bias": -b})
        found = gradient_by_lag(record(still, A)).profiles[0].norm
        left[b] = float(found[-1] / found[0])
        numbers.append(
            near(
                f"carry bias {b:g}: ln of what is left after {L} layers",
                math.log(left[b]),
                -L * math.log1p(math.exp(-b)),
                1e-9,
            )
        )
        curves.append(Series(f"bias {b:g}", range(L, -1, -1), listed(found)))
    judged: tuple[tuple[float, Role], ...] = ((6.0, "claim"), (0.0, "counterexample"))
    for b, role in judged:
        numbers.append(
            at_least(f"carry bias {b:g}: share that is left, as persisting has it", left[b], 0.5, role)
        )
    drawn = []
    for b in biases:
        weights = {name: gaussian(L, H, H, scale=H**-0.5) for name in ("n.h", "b.h")}
        found = gradient_by_lag(record(deep(highway, L, weights | {"b.bias": -b}), A)).profiles[0].norm
        drawn.append(float(found[-1] / found[0]))
    opened = drawn[-1]
    numbers.append(at_least("random matrices, carry bias 6: share that is left", opened, 0.3, "claim"))
    figures = [
        Lines(
            "The gradient on its way down",
            "With matrices of 0: a straight line whose slope is the logarithm of the carry.",
            "layer",
            "‖∂ loss / ∂ Aₜ‖",
            curves,
            log_y=True,
        ),
        Lines(
            "What is left at the first layer",
            "By how far the carry is open at first; with matrices drawn at random the other terms of the "
            "derivative add to it.",
            "carry bias",
            "share of the gradient",
            [Series("matrices of 0", biases, [*left.values()]), Series("drawn at random", biases, drawn)],
            log_y=True,
        ),
    ]  # fmt: skip
    words = (
        f"σ(b)^{L} is what is left: for a half a bias of ln({L} / ln 2) = {math.log(L / math.log(2)):.1f} "
        "is needed. A bias that grows with the logarithm of the depth keeps the gradient whatever the "
        "depth."
    )
    return Result(numbers, figures, words)
