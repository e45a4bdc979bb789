"""The gradients of an LSTM with peepholes, as a lecture prints them and as they are."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from unrolled.cells import lstm
from unrolled.flow.trace import record
from unrolled.lab.experiment import Number, Result, Verdict, at_least, experiment
from unrolled.lab.networks import gaussian, layer_of, off
from unrolled.report.page import Bars

T, B, D, H = 30, 4, 3, 10


@experiment(
    title="The gradients of an LSTM with peepholes",
    lectures=("003",),
    claim="∇Cₜ and ∇hₜ are given by ∇Cₜ₊₁ and ∇hₜ₊₁ in one line each; in that of ∇C the path through the "
    "input gate ends in a tanh, in that of ∇h the path through the candidate is o tanh' W_hi.",
    statement="Both lines, with full matrices as peepholes, at every step against one backward pass: as "
    "printed, and with the tanh left out and i tanh' W_hC in the place of o tanh' W_hi.",
    verdict=Verdict(
        "fails", "with both misprints corrected the lines hold to the last digit, as printed they are far off"
    ),
)
def peephole_gradients(_: None) -> Result:
    layer = layer_of(lstm.with_options(peepholes="matrix"), D, H)
    with torch.no_grad():
        for value in layer.parameters():
            value.normal_(0.0, 0.5)
    x = gaussian(T, B, D)
    recording = record(layer, x)
    place = recording.places[0]
    _, _, steps = layer(x, return_gates=True)
    gates = {name: steps[name][0].detach() for name in "ifgo"}
    weights = torch.zeros_like(recording.losses)
    weights[-1] = 1.0  # of the last step's loss
    after = recording.gradients(weights)[0].after()
    W, c = layer.parameters_of("l0"), place.states["c"]
    squashed = c.tanh()
    of_output = after["h"] * squashed * gates["o"] * (1 - gates["o"])
    # What is called ∇C counts the way from c to h within a step; `after` has states as values of their own.
    total = after["c"] + after["h"] * gates["o"] * (1 - squashed.square()) + of_output @ W["o.c"]
    right, printed = (
        _back(W, gates, c[:-1], total[1:], of_output[1:], as_printed) for as_printed in (False, True)
    )
    numbers, labels, bars = [], [], []
    for name, what in (("c", "∇C"), ("h", "∇h")):
        truth = after[name][:-1]
        numbers.append(Number(f"{what}: corrected, off by", off(right[name].detach(), truth), 0.0, 1e-12))
        far = off(printed[name].detach(), truth)
        numbers.append(Number(f"{what}: as printed, off by", far, 0.0, 1e-12, role="counterexample"))
        numbers.append(at_least(f"{what}: as printed, off by more than rounding", far, 0.01))
        labels += [f"{what}, corrected", f"{what}, as printed"]
        bars += [off(right[name].detach(), truth), far]
    figure = Bars(
        "How far the lines are from one backward pass",
        "The largest difference over all steps and units, as a part of the largest gradient. What is "
        "corrected is off by rounding.",
        "off by",
        labels,
        bars,
    )
    return Result(numbers, [figure], "The loss is that of the last step, so that ∇z is 0 at all others.")


def _back(
    W: Mapping[str, Tensor],
    gates: Mapping[str, Tensor],
    c: Tensor,
    d_c: Tensor,
    of_output: Tensor,
    as_printed: bool,
) -> dict[str, Tensor]:
    """∇Cₜ, but for the way through hₜ, and ∇hₜ, from what is known at t + 1.

    Args:
        W, gates: by name; gates are those of all steps.
        c: Cₜ.
        d_c: ∇Cₜ₊₁.
        of_output: ∇ of what the output gate at t + 1 sees.
    """
    i, f, g, o = (gates[name][1:] for name in "ifgo")
    of_forget, of_input = d_c * c * f * (1 - f), d_c * g * i * (1 - i)
    through_h = (
        (d_c * o * (1 - g.square())) @ W["i.h"] if as_printed else (d_c * i * (1 - g.square())) @ W["g.h"]
    )
    last = of_input @ W["i.c"]
    return {
        "c": d_c * f + of_forget @ W["f.c"] + (last * g if as_printed else last),
        "h": of_forget @ W["f.h"] + of_input @ W["i.h"] + through_h + of_output @ W["o.h"],
    }
