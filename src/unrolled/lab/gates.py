"""Where the skip sits in gated cells, and what else their Jacobians hold."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from unrolled.cell import EquationCell
from unrolled.cells import gru, gru_cho, gru_chung, highway, lstm, mgu, mut1
from unrolled.flow.jacobian import jacobian_parts, jacobians_of
from unrolled.flow.lag import gradient_by_lag
from unrolled.flow.spectra import lag_spectrum, lyapunov
from unrolled.flow.trace import record
from unrolled.lab.experiment import Number, Result, Role, Verdict, at_least, at_most, experiment
from unrolled.lab.networks import gaussian, layer_of, listed, off
from unrolled.nn.recurrent import Recurrent
from unrolled.report.page import Bars, Lines, Mark, Series

SKIPS: Final[tuple[tuple[EquationCell, str, str, bool], ...]] = (
    (gru, "h", "z", True),
    (gru_cho, "h", "z", True),
    (gru_chung, "h", "z", False),
    (mgu, "h", "f", False),
    (mut1, "h", "z", False),
    (highway, "h", "b", False),
    (lstm, "c", "f", True),
)
"""A cell, the state that is carried, the gate that does so, and whether it keeps where it is 1."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of a network.

    T: steps.
    hidden: units.
    """

    T: int = 60
    hidden: int = 12


def _lively(cell: EquationCell, H: int, scale: float = 1.0) -> Recurrent:
    """A layer whose gates are used: normally distributed weights."""
    own = layer_of(cell, 3, H)
    with torch.no_grad():
        for value in own.parameters():
            value.normal_(0.0, scale)
    return own


def _block(J: Tensor, layer: Recurrent, state: str) -> Tensor:
    """d new state / d old state of one state, of Jacobians (..., S, S)."""
    first = 0
    for name, size in layer.state_sizes.items():
        if name == state:
            return J[..., first : first + size, first : first + size]
        first += size
    raise AssertionError(state)


@experiment(
    title="Where the skip sits",
    lectures=("000", "001", "004"),
    claim="GRU and LSTM have the skip of a highway layer: the old state goes on times a gate, 1 − B, or f.",
    statement="The part of the Jacobian of a step that passes no matrix, for seven cells, is a diagonal "
    "of that gate: z where z keeps (torch's GRU, Cho et al.), 1 − z where it takes in the new (Chung et "
    "al., 004, MUT1), 1 − B, and f for the c of an LSTM. With the parts that pass matrices it adds up to "
    "the Jacobian.",
    verdict=Verdict("holds", "and which of z and 1 − z it is differs between papers"),
    setup=Sizes(),
)
def skips(setup: Sizes) -> Result:
    T, H = setup.T, setup.hidden
    numbers, labels, shares = [], [], []
    for cell, state, gate, keeps in SKIPS:
        layer = _lively(cell, H)
        x = gaussian(T, 1, 3)
        place = record(layer, x).places[0]
        _, _, steps = layer(x, return_gates=True)
        at = T // 2
        open_ = steps[gate][0][at, 0].detach()
        carry = open_ if keeps else 1 - open_
        parts = jacobian_parts(place, at)
        direct = _block(parts["direct"], layer, state)[0]
        what = gate if keeps else f"1 − {gate}"
        numbers.append(
            Number(
                f"{cell.name}: direct part against {what}, off by",
                off(direct, carry.diag()),
                0.0,
                1e-12,
                role="claim",
            )
        )
        whole = _block(jacobians_of(place, slice(at, at + 1))[0], layer, state)[0]
        total = _block(sum(parts.values(), torch.zeros(())), layer, state)[0]
        numbers.append(Number(f"{cell.name}: sum of all parts, off by", off(total, whole), 0.0, 1e-12))
        labels.append(f"{cell.name}: {what}")
        shares.append(float(direct.norm() / (direct.norm() + (whole - direct).norm())))
    figure = Bars(
        "How much of a step's derivative is the skip",
        "The Frobenius norm of the direct part over that and the norm of all that passes matrices, with "
        "normally distributed weights. Of c in an LSTM nothing else reaches it within the step.",
        "share",
        labels,
        shares,
    )
    words = (
        "The skip is one term of the derivative. The others, through the candidate and through the gates "
        "themselves, pass matrices, and may be larger."
    )
    return Result(numbers, [figure], words)


@experiment(
    title="From c to c in an LSTM",
    lectures=("002",),
    claim="Going back from cₜ to cₜ₋₁ is an elementwise multiplication by f, and no multiplication by W.",
    statement="The block d cₜ / d cₜ₋₁ of a step's Jacobian against diag(f); with peepholes; and over 20 "
    "steps the block of the product against the product of f, with recurrent weights and without.",
    verdict=Verdict(
        "holds if", "the direct path is meant: over two steps and more c also acts through h and the gates"
    ),
    setup=Sizes(),
)
def cell_path(setup: Sizes) -> Result:
    T, H = setup.T, setup.hidden
    numbers, curves = [], []
    for name, cell, recurrent in (
        ("LSTM", lstm, True),
        ("no recurrent weights", lstm, False),
        ("peepholes", lstm.with_options(peepholes="vector"), True),
    ):
        layer = _lively(cell, H)
        if not recurrent:
            with torch.no_grad():
                for key, value in layer.parameters_of("l0").items():
                    value.mul_(not key.endswith(".h"))
        x = gaussian(T, 1, 3)
        place = record(layer, x).places[0]
        _, _, steps = layer(x, return_gates=True)
        f = steps["f"][0][:, 0].detach()
        J = jacobians_of(place, slice(0, T))[:, 0]
        one = off(_block(J, layer, "c"), torch.diag_embed(f))
        role: Role = "counterexample" if name == "peepholes" else "claim"
        numbers.append(Number(f"{name}: one step against f, off by", one, 0.0, 1e-12, role=role))
        product, direct, sizes = torch.eye(2 * H, dtype=torch.float64), torch.ones(H, dtype=torch.float64), []
        for k in range(20):
            product, direct = product @ J[T - 1 - k], direct * f[T - 1 - k]
            through = _block(product, layer, "c") - direct.diag()
            sizes.append((float(direct.norm()), float(through.norm())))
        last = off(_block(product, layer, "c"), direct.diag())
        role = "claim" if name == "no recurrent weights" else "counterexample"
        numbers.append(
            Number(f"{name}: 20 steps against the product of f, off by", last, 0.0, 1e-9, role=role)
        )
        if name == "LSTM":
            curves = [Series("direct: the product of f", range(1, 21), [a for a, _ in sizes]),
                      Series("through h and the gates", range(1, 21), [b for _, b in sizes])]  # fmt: skip
    figure = Lines(
        "What reaches c of k steps before",
        "Frobenius norms of the two parts of d cₜ / d cₜ₋ₖ, for normally distributed weights: the direct "
        "one, which passes no matrix, and all the others.",
        "lag k",
        "norm",
        curves,
        log_y=True,
    )
    words = (
        "Within one step c meets f alone, unless there are peepholes. Over several steps c makes h, h "
        "makes gates, and these make the next c: with large weights that is most of the derivative."
    )
    return Result(numbers, [figure], words)


@experiment(
    title="LSTM and the vanishing gradient",
    lectures=("002", "003"),
    claim="An LSTM does not suffer from vanishing gradients, though it does from exploding ones.",
    statement="The gradient of c by lag in LSTMs whose gates see no input, against k ln f, for forget "
    "biases from 0 to 5; with f = 1; and the largest Lyapunov exponent of one with large recurrent "
    "weights.",
    verdict=Verdict(
        "fails", "with f = 0.5, where an LSTM without a forget bias begins, half is lost at every step"
    ),
    setup=Sizes(T=200, hidden=24),
    quick=Sizes(T=100, hidden=16),
)
def lstm_vanishes(setup: Sizes) -> Result:
    T, H = setup.T, setup.hidden
    numbers, curves = [], []
    x = gaussian(T, 1, 3)
    for bias in (0.0, 1.0, 3.0, 5.0, math.inf):
        cell = lstm.with_options(forget_gate=math.isfinite(bias))
        closed = {f"{gate}.h": 0.0 for gate in "ifog" if gate != "f" or math.isfinite(bias)}
        given = {"f.x": 0.0, "f.bias": bias} if math.isfinite(bias) else {}
        found = gradient_by_lag(record(layer_of(cell, 3, H, closed | given), x)).profiles[0]
        f = 1 / (1 + math.exp(-bias))
        c = found.states["c"]
        k = T // 2
        rate = float((c[k] / c[1]).log()) / (k - 1)
        open_ = "no forget gate" if bias == math.inf else f"forget bias {bias:g}"
        told = f"{open_}: ln of c's gradient, a step"
        numbers.append(Number(told, rate, math.log(f), 1e-9))
        if bias == 0:
            numbers.append(Number("the same, as no vanishing has it", rate, 0.0, 0.01, role="counterexample"))
        name = f"f = {f:.3f}" if math.isfinite(bias) else "f = 1"
        curves.append(Series(name, listed(found.lags[1:]), listed(c[1:])))
    drawn = record(Recurrent(lstm, 3, H, dtype=torch.float64), x)
    half = gradient_by_lag(drawn).profiles[0].horizon(0.01)
    numbers.append(
        at_most("as drawn at first: steps after which 1% is left", math.inf if half is None else half, 20)
    )
    place = record(_lively(lstm, 64, 3.0), 0.1 * gaussian(400, 1, 3)).places[0]
    grown = lyapunov(place, count=1)
    numbers.append(at_least("weights of size 3: largest Lyapunov exponent", float(grown.exponents[0]), 0.0))
    spectrum = lag_spectrum(place, lags=[200])
    numbers.append(
        at_least("the same: ln of the product of 200 Jacobians", float(spectrum.logs[-1, 0, 0]), 5.0)
    )
    figure = Lines(
        "The gradient of c, by lag",
        "Straight lines whose slope is ln f. Only where f is 1 does the gradient not vanish; a forget "
        "bias is how one comes near.",
        "lag k",
        "‖∂ lossₜ / ∂ cₜ₋ₖ‖",
        curves,
        log_y=True,
        marks=[Mark("x", T / 2, "measured here")],
    )
    words = (
        "The carousel turns as long as f is 1. Hochreiter and Schmidhuber's cell of 1997 had no forget "
        "gate; it came in 2000, and with it the exponential loss."
    )
    return Result(numbers, [figure], words)
