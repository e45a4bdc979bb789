"""How long states remember, how large they become, and what one activation does to a gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch

from unrolled.cells import gru, lstm
from unrolled.flow.forward import bounded, impulse_response, memory_of_tanh
from unrolled.flow.lag import gradient_by_lag
from unrolled.flow.spectra import step_spectra
from unrolled.lab.experiment import Number, Result, Verdict, at_least, at_most, experiment, near
from unrolled.lab.networks import gaussian, layer_of, listed, plain, run, scaled, walk
from unrolled.report.page import Lines, Mark, Series
from unrolled.report.scales import number

LN10: Final = math.log(10)


@dataclass(frozen=True)
class Memory:
    """Sizes of a network.

    T: steps.
    hidden: units.
    """

    T: int = 1000
    hidden: int = 32


@experiment(
    title="The memory of tanh",
    lectures=("003",),
    claim="A tanh layer stores memory best, though still for a short time, and how long depends on the "
    "eigenvalues of W. Sigmoids saturate and keep nothing new; ReLUs blow up or vanish.",
    statement="The half-life of a small impulse in tanh networks with a multiple of an orthogonal W "
    "against ln 2 / −ln ρ; that of sigmoid and ReLU networks with the same W; and with inputs besides. "
    "What is left of an input after 1,000 steps with W = 1, in tanh and in ReLU.",
    verdict=Verdict("holds if", "W is drawn at random; a ReLU with W = 1 keeps an input for ever"),
    setup=Memory(),
    quick=Memory(T=1000, hidden=16),
)
def tanh_memory(setup: Memory) -> Result:
    T, H = setup.T, setup.hidden
    radii = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
    found = memory_of_tanh(radii, hidden=H, T=T, kind="orthogonal")
    noisy = memory_of_tanh(radii, hidden=H, T=T, kind="orthogonal", noise=1.0)
    numbers = [
        near(f"ρ = {rho:g}: half-life of a small impulse", float(measured), float(expected), 0.02, "claim")
        for rho, measured, expected in zip(radii, found.linear, found.expected, strict=True)
        if rho >= 0.8
    ]
    W, u = 0.95 * torch.linalg.qr(gaussian(H, H)).Q, gaussian(H, scale=H**-0.5)
    curves, lives = [], {}
    for name in ("tanh", "relu", "sigmoid"):
        kept = impulse_response(plain(W, name, u=u), 120, size=1.0, unit=0)["l0", "h"]
        lives[name] = kept.one_percent or math.inf
        curves.append(Series(name, listed(kept.lags), listed(kept.measured / LN10)))
    for name in ("sigmoid", "relu"):
        numbers.append(
            at_most(f"ρ = 0.95: steps to 1% in {name}, against tanh's", lives[name], lives["tanh"], "claim")
        )
    left = {}
    for name in ("tanh", "relu"):
        kept = impulse_response(plain(1.0, name, u=1.0), T, size=1.0, unit=0)["l0", "h"]
        left[name] = math.exp(float(kept.measured[-1]))
    numbers.append(Number("ReLU, W = 1: share of an input after all steps", left["relu"], 1.0, 1e-12))
    numbers.append(near("tanh, W = 1: the same, against √(3 / 2T)", left["tanh"], math.sqrt(1.5 / T), 0.01))
    numbers.append(
        at_most("ReLU's share, as tanh being best has it", left["relu"], left["tanh"], "counterexample")
    )
    numbers.append(
        at_most(
            "ρ = 0.99 among other inputs: half-life, against that at rest",
            float(noisy.linear[-1]),
            float(found.linear[-1]) / 2,
        )
    )
    figures = [
        Lines(
            "How long tanh networks remember",
            "A small impulse fades as the largest eigenvalue says. Among other inputs units are at "
            "flatter places, and forget sooner.",
            "spectral radius ρ",
            "half-life in steps",
            [
                Series("ln 2 / −ln ρ", radii, listed(found.expected)),
                Series("small impulse", radii, listed(found.linear)),
                Series("small impulse, other inputs besides", radii, listed(noisy.linear)),
            ],
            log_y=True,
        ),
        Lines(
            "One W, three activations",
            "What is left of an impulse with ρ = 0.95, as far as it can be told from rounding. A "
            "sigmoid's slope is a quarter at best, and a ReLU has none below 0.",
            "steps after the impulse",
            "log₁₀ of what is left",
            curves,
        ),
    ]
    words = (
        f"To a hundredth it takes {lives['tanh']:.0f} steps in tanh, {lives['relu']:.0f} in ReLU and "
        f"{lives['sigmoid']:.0f} in sigmoid. Memory is short by any measure: ρ = 0.99 halves it in 69 steps."
    )
    return Result(numbers, figures, words)


@experiment(
    title="The infinite past",
    lectures=("003",),
    claim="In principle a recurrent network retains information from the infinite past; in practice it "
    "blows up or forgets.",
    statement="The derivative of a unit's state by its input 10,000 steps before, in logarithms, against "
    "9,999 ln w: it is never 0. Among other inputs, the steps after which two runs in float64 differ by "
    "no more than rounding.",
    verdict=Verdict("holds"),
)
def infinite_past(_: None) -> Result:
    T = 10_000
    numbers, curves = [], []
    for name, w in (("tanh", 0.9), ("tanh", 0.99), ("relu", 1.01)):
        x = torch.full((T, 1), float(name == "relu"), dtype=torch.float64)  # at 0 a ReLU has a kink
        kept = impulse_response(plain(w, name, u=1.0), T, size=1.0, unit=0, x=x)["l0", "h"].linear
        told = f"{name}, w = {number(w)}: ln of what is left after {T} steps"
        numbers.append(near(told, float(kept[-1]), (T - 1) * math.log(w), 1e-9, "claim"))
        curves.append(Series(f"{name}, w = {number(w)}", range(2001), listed(kept[:2001] / LN10)))
    x = gaussian(T, 1, 1)
    for w in (0.9, 0.99):
        pair = impulse_response(plain(w, u=1.0), T, size=1.0, unit=0, x=x)["l0", "h"]
        seen = int(pair.measured.isfinite().sum())
        numbers.append(
            at_most(
                f"tanh, w = {number(w)}, other inputs: steps for which it can be seen", seen, 200, "claim"
            )
        )
    curves.append(
        Series("tanh, w = 0.99, other inputs besides", range(2001), listed(pair.linear[:2001] / LN10))
    )
    figure = Lines(
        "What is left of one input, in powers of ten",
        "A straight line never reaches 0; in float64 a difference of less than 10⁻¹⁶ of a state cannot "
        "be told from rounding. Above w = 1 a ReLU blows up.",
        "steps after the input",
        "log₁₀ of the derivative",
        curves,
    )
    return Result(numbers, [figure], "What cannot be told from rounding is there in principle only.")


@experiment(
    title="Bounded in, bounded out",
    lectures=("003",),
    claim="Outputs stay bounded for bounded inputs if the activations of hidden and output units are "
    "bounded.",
    statement="The largest state for inputs between −1 and 1, constant, alternating and random, over "
    "1,000 steps: tanh, sigmoid, GRU, LSTM, and the cell of an LSTM whose gates are open. For ReLU the "
    "bound 1 / (1 − w).",
    verdict=Verdict(
        "holds if",
        "every state is what a bounded activation gives, or a mean of such: the cell c of an LSTM is a "
        "sum, and grows by up to 1 a step; what it shows, h, stays bounded",
    ),
)
def bounded_output(_: None) -> Result:
    T, H = 1000, 16
    numbers, curves = [], []
    t = list(range(1, T + 1))

    def watched(name: str, found_largest: torch.Tensor) -> float:
        curves.append(Series(name, t, listed(found_largest)))
        return float(found_largest[-1])

    for name in ("tanh", "sigmoid"):
        found = bounded(plain(scaled(gaussian(H, H), 3.0), name, u=gaussian(H)), T)
        numbers.append(
            at_most(f"{name}, ρ = 3: largest state", watched(name, found.largest[0]), 1.0, "claim")
        )
    found = bounded(layer_of(gru, 1, H, {"n.x": 5.0}), T)
    numbers.append(at_most("GRU: largest state", watched("GRU", found.largest[0]), 1.0, "claim"))
    wide = {
        "f.x": 0.0,
        "f.h": 0.0,
        "f.bias": 40.0,
        "i.x": 0.0,
        "i.h": 0.0,
        "i.bias": 40.0,
        "g.x": 20.0,
        "g.h": 0.0,
        "g.bias": 0.0,
    }
    found = bounded(layer_of(lstm, 1, 1, wide), T)
    h, c = found.largest
    numbers.append(at_most("LSTM with open gates: largest h", watched("LSTM, h", h), 1.0, "claim"))
    numbers.append(
        near("LSTM with open gates: largest c, against a step each", watched("LSTM, c", c), T, 1e-9)
    )
    numbers.append(at_most("its c, as bounded activations have it", float(c[-1]), 1.0, "counterexample"))
    half = bounded("relu", T, w=0.5)
    numbers.append(Number("ReLU, w = 0.5: largest state", float(half.largest[0, -1]), half.bounds[0], 1e-9))
    numbers.append(Number("ReLU, w = 0.5: the bound known of it", half.bounds[0], 2.0, 1e-12))
    numbers.append(
        at_least("ReLU, w = 1.1: largest state", float(bounded("relu", T, w=1.1).largest[0, -1]), 1e30)
    )
    figure = Lines(
        "The largest state so far",
        "Everything that an activation bounds stays below 1. The cell of the LSTM counts.",
        "step t",
        "largest |unit|",
        curves,
        log_y=True,
        marks=[Mark("y", 1.0, "1")],
    )
    words = (
        "The claim leaves out that an LSTM has a state without an activation, by design: it is what carries "
        "memory."
    )
    return Result(numbers, [figure], words)


@experiment(
    title="Slopes of activations",
    lectures=("003",),
    claim="Sigmoid, tanh and ReLU have derivatives that are always less than 1, so that each "
    "multiplication by their Jacobian shrinks, and after a few layers the gradient is forgotten.",
    statement="The Jacobian of one unit with weight 1 over states from −8 to 8: largest slopes against "
    "1/4, 1, 1 and 1; and the gradient 100 steps back in a ReLU network with W = 1.",
    verdict=Verdict(
        "fails",
        "at most 1: tanh has slope 1 at 0, ReLU everywhere above, and a ReLU network "
        "with W = 1 forgets nothing",
    ),
)
def activation_slopes(_: None) -> Result:
    states = torch.linspace(-8, 8, 1601, dtype=torch.float64)[:, None]
    numbers, curves = [], []
    for name, most in (("sigmoid", 0.25), ("tanh", 1.0), ("relu", 1.0), ("softplus", 1.0)):
        slopes = step_spectra(walk(plain(1.0, name), 1, states)).largest[0]
        off = 4e-4 if name == "softplus" else 1e-9
        numbers.append(Number(f"{name}: largest slope", float(slopes.max()), most, off))
        curves.append(Series(name, listed(states[:, 0]), listed(slopes)))
        if name in ("tanh", "relu"):
            below = math.nextafter(1.0, 0.0)
            numbers.append(
                at_most(
                    f"{name}: the same, as less than 1 has it", float(slopes.max()), below, "counterexample"
                )
            )
    H, T = 16, 100
    layer = layer_of(
        plain(torch.eye(H, dtype=torch.float64), "relu").cell, 1, H, {"h.h": torch.eye(H), "h.bias": 0.0}
    )
    kept = gradient_by_lag(run(layer, T, torch.rand(1, H) + 0.5)).profiles[0].norm
    numbers.append(
        Number(
            f"ReLU, W = 1: gradient {T} steps back over that at lag 0", float(kept[-1] / kept[0]), 1.0, 1e-12
        )
    )
    numbers.append(
        at_most(
            "the same, as forgetting within a few layers has it",
            float(kept[-1] / kept[0]),
            0.5,
            "counterexample",
        )
    )
    figure = Lines(
        "Slopes",
        "A sigmoid passes a quarter at best. The others pass everything at their best: tanh at 0, ReLU "
        "above 0, softplus far above 0.",
        "z",
        "f'(z)",
        curves,
    )
    words = (
        "A Jacobian of slopes enlarges nothing; it does not always shrink. What is forgotten is decided by W "
        "and the slopes together."
    )
    return Result(numbers, [figure], words)
