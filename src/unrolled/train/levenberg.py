"""Levenberg-Marquardt: least squares for networks with taps that are small enough.

The squares of one step's errors on a measured series are made small by steps

    Δ = −(JᵀJ + D + λ I)⁻¹ (Jᵀ r + D p)

with the errors r, their Jacobian J in the parameters p, and D the weight decay. λ falls where a step helps
and rises where it would not. For P parameters a step takes P³ operations: up to some thousand it is by far
the fastest way to a small error.

Source: Marquardt 1963, doi:10.1137/0111030; for networks Hagan & Menhaj 1994, doi:10.1109/72.329697.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor
from torch.func import jacrev, vmap

from unrolled.errors import DivergedError, InputError, check_sizes
from unrolled.nn.taps import WithTaps

BEGIN: Final = 1e-2
LEAST: Final = 1e-12
EASIER: Final = 1 / 5
"""What λ is multiplied by after a step that helps."""
HARDER: Final = 4.0
TRIES: Final = 12
"""Values of λ that are tried for one step, before it counts as arrived."""


def levenberg_marquardt(
    model: WithTaps, u: Tensor | None, y: Tensor, steps: int = 100, decay: float = 0.0
) -> float:
    """Fit a network in open loop.

    Args:
        model: a NARX or ARX network, best in float64.
        u: (T, B, I), or None where there are no inputs.
        y: (T, B, O), the outputs as measured.
        steps: at most so many.
        decay: this times the sum of the squares of all weights but biases is added to the mean square.

    Returns:
        the mean square error that is left, with the decay.

    Raises:
        InputError: see `WithTaps.open_loop`; or `decay` is below 0.
        DivergedError: the error is not finite at the beginning.
    """
    check_sizes(steps=steps)
    if not decay >= 0:
        raise InputError(f"decay must not be below 0, got {decay}")
    values, targets = model.rows(u, y)
    cell, own = model.layer.cell, model.layer.parameters_of("l0")
    names, shapes = [*own], [value.shape for value in own.values()]
    sizes = [value.numel() for value in own.values()]
    counted = [
        torch.full((n,), float(not name.endswith(".bias"))) for name, n in zip(names, sizes, strict=True)
    ]
    D = decay * targets.numel() * torch.cat(counted).to(targets)

    def by_name(p: Tensor) -> dict[str, Tensor]:
        parts = torch.split(p, sizes)
        return {name: v.view(shape) for name, v, shape in zip(names, parts, shapes, strict=True)}

    def outputs(p: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        return cell.run(values, by_name(p))[0]

    def of_row(p: Tensor, row: Mapping[str, Tensor]) -> Tensor:
        return outputs(p, {name: value[None] for name, value in row.items()})[0]

    jacobian = vmap(jacrev(of_row), in_dims=(None, 0))

    with torch.no_grad():
        p = torch.cat([value.detach().reshape(-1) for value in own.values()])

        def state_at(p: Tensor) -> tuple[Tensor, float]:
            r = (outputs(p, values) - targets).flatten()
            return r, float(r.square().sum() + (D * p.square()).sum())

        r, error = state_at(p)
        if not error < float("inf"):
            raise DivergedError(f"the error to begin with is {error}: scale the series, or start anew")
        damping = BEGIN
        for _ in range(steps):
            J = jacobian(p, values).flatten(0, 1)
            A, gradient = J.t() @ J + torch.diag(D), J.t() @ r + D * p
            for _ in range(TRIES):
                step = torch.linalg.solve(A + damping * torch.eye(len(p)).to(A), -gradient)
                there = state_at(p + step)
                if there[1] < error:
                    break
                damping *= HARDER
            else:
                break
            p, (r, error), damping = p + step, there, max(damping * EASIER, LEAST)
        for name, value in by_name(p).items():
            own[name].copy_(value)
    return error / targets.numel()
