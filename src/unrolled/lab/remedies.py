"""Remedies for gradients that explode through depth: what each of them does to the growth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from unrolled.cells import residual, rnn
from unrolled.flow.lag import gradient_by_lag
from unrolled.flow.trace import record
from unrolled.lab.experiment import Number, Result, Verdict, at_least, at_most, experiment, near
from unrolled.lab.networks import deep, factors_of, gaussian, listed, product_of
from unrolled.nn.deep import Deep
from unrolled.nn.weight_norm import normalise_weights
from unrolled.report.page import Lines, Mark, Series

TANH: Final = residual.with_options(activation="tanh")
RELU: Final = rnn.with_options(activation="relu")

YANG: Final = math.pi / (math.pi - 1)
"""By what batch normalisation makes the squared gradient grow at each layer of a plain ReLU network, in the
limit of large batches (Yang et al. 2019, arXiv:1902.08129)."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of the networks.

    depth: layers.
    width: units.
    rows: of the batch.
    size: of the weights: their standard deviation times √width.
    """

    depth: int = 100
    width: int = 64
    rows: int = 64
    size: float = 1.5


def _at_rest(weights: Tensor, network: Deep) -> float:
    """ln of the growth of the gradient over all directions, of a network at rest."""
    H = weights.shape[-1]
    place = record(network, torch.zeros(1, H, dtype=torch.float64)).places[0]
    return math.log(float(product_of(factors_of(place)).norm()) / math.sqrt(H))


def _through(network: Deep, A: Tensor) -> Tensor:
    """The gradient by layer, from the last to the first; batch statistics are those of the same rows."""
    if network.norm == "batch":
        with torch.no_grad():
            for _ in range(100):
                network(A)
        network.eval()
    found = gradient_by_lag(record(network, A)).profiles[0].norm
    return found / found[0]


def _decayed(network: Deep, updates: int, rate: float, decay: float) -> None:
    """So many updates in which the loss says nothing."""
    weights = [*network.parameters()]
    optimiser = torch.optim.SGD(weights, rate, weight_decay=decay)
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    for _ in range(updates):
        optimiser.step()


@experiment(
    title="Remedies for an explosion",
    lectures=("000", "001"),
    claim="Where gradients explode in residual and highway networks, weight decay, weight normalisation, "
    "layer normalisation or batch normalisation helps.",
    statement="The growth of the gradient through 100 residual layers of tanh at rest, behind weight "
    "decay and with weight and spectral normalisation, against closed forms; through 100 layers of ReLU "
    "with layer and batch normalisation; and through plain ReLU layers with batch normalisation against "
    "(π / (π − 1))^(L/2).",
    verdict=Verdict(
        "holds if",
        "there are skips: in a plain ReLU network batch normalisation itself makes the gradient grow 1.21 "
        "times a layer",
    ),
    setup=Sizes(),
    quick=Sizes(depth=60, width=48, rows=48),
)
def remedies(setup: Sizes) -> Result:
    L, H, g = setup.depth, setup.width, 0.5
    wide = 2 * H  # the closed forms are of infinite width
    weights = gaussian(L, wide, wide, scale=g / math.sqrt(wide))
    numbers = [
        near(
            "tanh: ln of the growth without a remedy",
            _at_rest(weights, deep(TANH, L, {"f.h": weights})),
            L / 2 * math.log1p(g * g),
            0.05,
        )
    ]
    rate, decay, updates = 0.1, 0.1, 200
    tamed = deep(TANH, L, {"f.h": weights})
    _decayed(tamed, updates, rate, decay)
    left = g * (1 - rate * decay) ** updates
    grown = _at_rest(weights, tamed)
    numbers.append(
        Number(f"weight decay, {updates} updates: the same", grown, L / 2 * math.log1p(left * left), 0.06)
    )
    numbers.append(at_most("weight decay: growth", math.exp(grown), math.e, "claim"))
    lengths = deep(TANH, L, {"f.h": weights})
    normalise_weights(lengths, "weight")
    with torch.no_grad():
        for name, value in lengths.named_parameters():
            if name.endswith("original0"):
                value.fill_(1 / math.sqrt(L))
    grown = _at_rest(weights, lengths)
    numbers.append(Number("weight norm, lengths 1 / √L: the same", grown, L / 2 * math.log1p(1 / L), 0.06))
    numbers.append(at_most("weight norm: growth", math.exp(grown), math.e, "claim"))
    bounded = deep(TANH, L, {"f.h": weights})
    normalise_weights(bounded, f"spectral:{1 / L}")
    numbers.append(
        at_most("spectral norm, limit 1 / L: growth", math.exp(_at_rest(weights, bounded)), math.e, "claim")
    )
    A = gaussian(setup.rows, H)
    by_norm: dict[str, dict[str, Tensor]] = {"residual": {}, "plain": {}}
    for kind, cell in (("residual", residual), ("plain", RELU)):
        for norm in (None, "layer", "batch"):
            init = {"*.h": f"normal:{setup.size / math.sqrt(H)}"}
            network = Deep(cell, H, L, norm=norm, init=init, dtype=torch.float64)
            by_norm[kind][norm or "no norm"] = _through(network, A)
    ends = {
        kind: {name: float(found[-1]) for name, found in every.items()} for kind, every in by_norm.items()
    }
    numbers.append(at_least("residual ReLU: growth without a norm", ends["residual"]["no norm"], 1e8))
    for norm in ("layer", "batch"):
        numbers.append(at_most(f"residual ReLU, {norm} norm: growth", ends["residual"][norm], 5 * L, "claim"))
    found = math.log(ends["plain"]["batch"])
    numbers.append(near("plain ReLU, batch norm: ln of the growth", found, L / 2 * math.log(YANG), 0.12))
    numbers.append(at_most("plain ReLU, batch norm: growth", ends["plain"]["batch"], 5 * L, "counterexample"))
    figures = [_figure(kind, every, L) for kind, every in by_norm.items()]
    words = (
        "A norm divides what a layer adds by how much there is already, so that the growth is that of a "
        "power of the depth and no exponential. In a plain network batch norm makes up, layer by layer, "
        "for what the ReLU has taken from the values, and that multiplies the gradient."
    )
    return Result(numbers, figures, words)


def _figure(kind: str, every: dict[str, Tensor], L: int) -> Lines:
    layers: Sequence[int] = range(L, -1, -1)
    series = [Series(name, layers, listed(found)) for name, found in every.items()]
    how = {
        "residual": "Without a norm the gradient of a residual ReLU network with large weights explodes; "
        "with either norm it grows slowly.",
        "plain": "In a plain one it is batch norm that makes it explode, along the dashed line of theory.",
    }[kind]
    if kind == "plain":
        series.append(Series("theory of batch norm", layers, [YANG ** (k / 2) for k in range(L + 1)]))
    return Lines(
        f"The gradient on its way down: {kind}", how, "layer", "‖∂ loss / ∂ Aₜ‖, at the loss 1", series,
        log_y=True, marks=[Mark("y", 1.0, "1")],
    )  # fmt: skip
