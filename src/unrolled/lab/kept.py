"""What is kept in memory for the way back through time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unrolled.cells import rnn
from unrolled.lab.experiment import Number, Result, Verdict, at_most, experiment, near
from unrolled.lab.networks import gaussian, off
from unrolled.nn.recurrent import Recurrent
from unrolled.report.blocks import Item
from unrolled.report.page import Lines, Series, Table
from unrolled.unroll.meter import Meter
from unrolled.unroll.policies import Checkpointed, Full, Policy, amount
from unrolled.unroll.through_time import through_time


@dataclass(frozen=True)
class Sizes:
    """Sizes of a recurrence.

    lengths: steps; the last is that of the claim.
    hidden, batch: units, and sequences side by side.
    """

    lengths: tuple[int, ...] = (100, 1000, 10_000)
    hidden: int = 32
    batch: int = 4


def _taken(layer: Recurrent, x: Tensor, segment: int, bptt: Policy) -> tuple[int, int, Tensor]:
    """The bytes that are there behind the way forwards, and at most, and the gradient."""

    def step(chunk: Tensor, state: object) -> tuple[Tensor, object]:
        y, state = layer(chunk, state)
        return y.square().mean(-1).sum() / len(x), state

    layer.zero_grad()
    with Meter() as meter:
        loss, _ = through_time(step, torch.split(x, segment), None, bptt=bptt)
        kept = meter.now
        loss.backward()  # type: ignore[no-untyped-call]
    return kept, meter.peak, torch.cat([p.grad.flatten() for p in layer.parameters() if p.grad is not None])


@experiment(
    title="Activations kept for 10,000 steps",
    lectures=("000", "001"),
    claim="With T = 10,000 steps 10,000 activations have to be kept in memory.",
    statement="Bytes of all tensors that are there behind the way forwards, and at most on the way back, "
    "in states: with one tape, and with a state stored every √T steps, between which steps run again. The "
    "gradients are compared.",
    verdict=Verdict(
        "holds if",
        "nothing is run a second time; with stored states every √T steps a few times √T are enough",
    ),
    setup=Sizes(),
    quick=Sizes(lengths=(100, 2500)),
)
def activations_kept(setup: Sizes) -> Result:
    layer = Recurrent(rnn, 8, setup.hidden, dtype=torch.float64)
    state = setup.batch * setup.hidden * 8
    rows, numbers = [], []
    last = setup.lengths[-1]
    found: dict[str, list[float]] = {"one tape": [], "a state every √T steps": []}
    for T in setup.lengths:
        x = gaussian(T, setup.batch, 8)
        segment = math.isqrt(T)
        ways: dict[str, Policy] = dict(zip(found, (Full(), Checkpointed(every=1)), strict=True))
        taken = {name: _taken(layer, x, segment, bptt) for name, bptt in ways.items()}
        for name, (kept, peak, _) in taken.items():
            found[name].append(peak / state)
            rows.append((f"{T:,}", name, kept / state, peak / state, amount(peak)))
        (kept, peak, right), (less, least, again) = taken.values()
        if last == T:
            numbers += [
                near(f"T = {T:,}: states kept on one tape", kept / state, T, 0.05, "claim"),
                near("stored every √T steps: states kept", less / state, math.sqrt(T), 0.2),
                near("the same, as the claim has it", least / state, T, 0.05, "counterexample"),
                at_most("stored every √T steps: at most, over √T", least / state / math.sqrt(T), 12.0),
            ]
        numbers.append(Number(f"T = {T:,}: gradient of the latter, off by", off(again, right), 0.0, 1e-12))
    figures: list[Item] = [
        Lines(
            "Memory by length",
            "What there is at most on the way there and back, in states. One tape grows with T, stored "
            "states with its root: half the slope.",
            "steps T",
            "states",
            [Series(name, setup.lengths, values) for name, values in found.items()],
            log_x=True,
            log_y=True,
        ),
        Table(
            "Measured",
            "Tensors that are there, in states, for an Elman network: its tape is its states.",
            ("T", "what is kept", "behind the way forwards", "at most", "in bytes"),
            rows,
        ),
    ]
    words = (
        "The price is a second run of all steps but the last few. `bptt=Checkpointed(memory=...)` finds "
        "the best places for a given amount, and may store states in a file."
    )
    return Result(numbers, figures, words)
