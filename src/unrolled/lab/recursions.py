"""Linear recursions: what a state keeps of one input, when nothing bends it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from unrolled.flow.forward import linear_recursion
from unrolled.lab.experiment import Number, Result, Role, Verdict, at_least, at_most, experiment, near
from unrolled.lab.networks import gaussian, listed, scaled
from unrolled.report.page import Lines, Mark, Series
from unrolled.report.scales import number


@dataclass(frozen=True)
class Sizes:
    """Sizes of a recursion.

    T: steps.
    hidden: units.
    """

    T: int = 4000
    hidden: int = 16


@experiment(
    title="A scalar recursion",
    lectures=("003",),
    claim="h(t) = w h(t−1) + c x(t) answers an input at 0 with wᵗ c x(0), and blows up where w > 1.",
    statement="ln |h(t)| for weights on both sides of 1 and of −1, against t ln |w| + ln |c x(0)|, over "
    "1,000 steps; and with a constant input against c x / (1 − w).",
    verdict=Verdict("holds if", "the size of w is meant: −1.1 blows up as well"),
)
def scalar_recursion(_: None) -> Result:
    T, first = 1000, 0.3 * 2.0  # c x(0)
    numbers, curves = [], []
    for w in (1.1, 1.01, 0.99, 0.5, -0.99, -1.1):
        found = linear_recursion(w, T, h0=first)
        last = float(found.log_norm[-1])
        role: Role = "claim" if w > 0 else "theory"
        numbers.append(
            near(
                f"w = {number(w)}: ln |h| after {T} steps",
                last,
                T * math.log(abs(w)) + math.log(first),
                1e-9,
                role,
            )
        )
        if w == -1.1:
            numbers.append(at_most("the same, as w > 1 for an explosion has it", last, 0.0, "counterexample"))
        curves.append(Series(f"w = {number(w)}", range(101), listed(found.log_norm[:101].exp())))
    still = linear_recursion(0.9, 400, h0=0.0, x=first)
    numbers.append(
        near(
            "w = 0.9, x always the same: h in the end", math.exp(float(still.log_norm[-1])), first / 0.1, 1e-9
        )
    )
    figure = Lines(
        "What is left of one input",
        "Straight lines: each step multiplies by the size of w. The sign of w decides only whether h "
        "changes sides.",
        "step t",
        "|h(t)|",
        curves,
        log_y=True,
        marks=[Mark("y", first, "c x(0)")],
    )
    return Result(
        numbers,
        [figure],
        "Between −1 and 1 the recursion forgets, beyond it explodes, and only at ±1 it keeps.",
    )


@experiment(
    title="A vector recursion",
    lectures=("003",),
    claim="For any input, the length of h(t) = W h(t−1) + C x(t) grows or shrinks in the end as the t-th "
    "power of the largest eigenvalue of W.",
    statement="The rate of ln ‖h‖ over the second half of 4,000 steps, for random matrices with largest "
    "eigenvalue 0.99 and 1.01, beside the closed form by all eigenvalues; an input without a part along "
    "the largest; and a matrix with too few eigenvectors.",
    verdict=Verdict("holds if", "t is large and the input has a part along that eigenvector"),
    setup=Sizes(),
    quick=Sizes(T=2000, hidden=8),
)
def vector_recursion(setup: Sizes) -> Result:
    T, H = setup.T, setup.hidden
    W = gaussian(H, H)
    numbers, curves = [], []
    for radius in (0.99, 1.01):
        found = linear_recursion(scaled(W, radius), T, h0=gaussian(H))
        rate = float(found.log_norm[-1] - found.log_norm[T // 2]) / (T - T // 2)
        numbers.append(
            Number(f"|λ| = {radius:g}: ln ‖h‖, a step", rate, math.log(radius), 3e-3, role="claim")
        )
        numbers.append(Number(f"|λ| = {radius:g}: closed form, off by", found.deviation, 0.0, 1e-9))
        start = found.log_norm[0]
        curves.append(
            Series(f"|λ| = {radius:g}", range(401), listed((found.log_norm[:401] - start) / math.log(10)))
        )
    values = torch.linspace(0.5, 1.01, H, dtype=torch.float64)
    U = torch.linalg.qr(gaussian(H, H)).Q
    symmetric = U @ values.diag() @ U.T
    short = linear_recursion(symmetric, 60, h0=U[:, 0])
    rate = float(short.log_norm[20] - short.log_norm[0]) / 20
    numbers.append(near("along another eigenvector, λ = 0.5: ln ‖h‖, a step", rate, math.log(0.5), 1e-6))
    numbers.append(
        Number(
            "the same, as the largest eigenvalue has it", rate, math.log(1.01), 3e-3, role="counterexample"
        )
    )
    line = (short.log_norm - short.log_norm[0]) / math.log(10)
    curves.append(Series("|λ| = 1.01, input along λ = 0.5", range(61), listed(line)))
    jordan = torch.eye(3, dtype=torch.float64) + torch.diag(torch.ones(2, dtype=torch.float64), 1)
    grown = linear_recursion(jordan, T, h0=(0.0, 0.0, 1.0))
    size = math.hypot(1.0, T, T * (T - 1) / 2)
    numbers.append(
        near(
            f"three equal eigenvalues 1, one eigenvector: ln ‖h‖ after {T}",
            float(grown.log_norm[-1]),
            math.log(size),
            1e-9,
        )
    )
    numbers.append(
        at_least("so that at |λ| = 1 it may still grow, to", math.exp(float(grown.log_norm[-1])), 1e5)
    )
    figure = Lines(
        "Two random matrices, and an input that misses",
        "Both random inputs go as the largest eigenvalue says, after some steps. An input along another "
        "eigenvector does not, until rounding has put some of the largest into it.",
        "step t",
        "log₁₀ ‖h‖ / ‖h₀‖",
        curves,
    )
    words = "For any input but those of measure 0: a random one has a part along every eigenvector."
    return Result(numbers, [figure], words)
