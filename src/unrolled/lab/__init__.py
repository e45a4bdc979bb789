"""The theory, measured: each claim of the lectures as a small experiment with a number beside its closed
form, a figure, and a verdict.

    from unrolled.lab import find

    outcome = find("lstm-vanishes").run(seed=0)
    outcome.result.numbers, outcome.reproduced

Nothing is measured here by code of its own: experiments build small networks and ask `unrolled.flow` and
`unrolled.unroll`. A new experiment is a function with `@experiment` and an entry in `EXPERIMENTS`.
"""

from __future__ import annotations

import difflib
from typing import Final

from unrolled.errors import InputError
from unrolled.lab.braces import curly_brace
from unrolled.lab.chain import chain_rule, power_of_a_factor, sigmoid_example
from unrolled.lab.clipping import clipping_at_a_cliff, norm_without_root
from unrolled.lab.depths import trainability
from unrolled.lab.experiment import LECTURES, Experiment, Number, Outcome, Result, Verdict
from unrolled.lab.gates import cell_path, lstm_vanishes, skips
from unrolled.lab.growth import directions, large_singular_values, small_singular_values, transient_growth
from unrolled.lab.highways import highway_carry, highway_derivative
from unrolled.lab.identity import zero_weights
from unrolled.lab.kept import activations_kept
from unrolled.lab.memory import activation_slopes, bounded_output, infinite_past, tanh_memory
from unrolled.lab.peepholes import peephole_gradients
from unrolled.lab.recursions import scalar_recursion, vector_recursion
from unrolled.lab.remedies import remedies
from unrolled.lab.residual import residual_binomial, residual_gradient
from unrolled.lab.saturated import relu_blows_up, sigmoid_saturates, tanh_saturates

EXPERIMENTS: Final[dict[str, Experiment]] = {
    each.name: each
    for each in (
        chain_rule, sigmoid_example, power_of_a_factor, activation_slopes,
        small_singular_values, large_singular_values, directions, transient_growth,
        residual_binomial, residual_gradient, highway_derivative, highway_carry, remedies, zero_weights,
        trainability,
        scalar_recursion, vector_recursion, bounded_output, sigmoid_saturates, tanh_saturates, relu_blows_up,
        tanh_memory, infinite_past, skips, cell_path, lstm_vanishes, peephole_gradients, curly_brace,
        clipping_at_a_cliff, norm_without_root, activations_kept,
    )
}  # fmt: skip
"""By name, in the order to read them."""


def find(name: str) -> Experiment:
    """The experiment of a name.

    Raises:
        InputError: there is none; the message has near names.
    """
    if name in EXPERIMENTS:
        return EXPERIMENTS[name]
    close = difflib.get_close_matches(name, EXPERIMENTS, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else "`unrolled lab` lists them"
    raise InputError(f"no experiment {name!r}: {hint}")


__all__ = ["EXPERIMENTS", "LECTURES", "Experiment", "Number", "Outcome", "Result", "Verdict", "find"]
