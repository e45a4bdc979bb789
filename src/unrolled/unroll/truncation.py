"""What truncation loses: how the truncated gradient differs from the exact one as it reaches further back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unrolled.errors import InputError, check_sizes
from unrolled.unroll.policies import Full, Policy, Truncated

ALL = "all"
"""The name of all parameters together."""


@dataclass(frozen=True)
class Loss:
    """The truncated gradient of one parameter, beside the exact one.

    k1, k2: how it was truncated. parameter: its name, or `ALL`. cosine: of the angle between the two, 1 where
    truncation only makes it shorter; norm_ratio: its norm over that of the exact one. Both are NaN where the
    exact gradient is 0.
    """

    k1: int
    k2: int
    parameter: str
    cosine: float
    norm_ratio: float


def reaches_up_to(steps: int) -> list[int]:
    """1, 2, 5, 10, 20, 50 and so on, and all steps."""
    found = [base * 10**power for power in range(len(str(steps))) for base in (1, 2, 5)]
    return [k2 for k2 in found if k2 < steps] + [steps]


def truncation(
    loss: Callable[[Policy], Tensor],
    parameters: Iterable[tuple[str, Tensor]],
    steps: int,
    *,
    k1: int | None = None,
    reaches: Sequence[int] | None = None,
    exact: Policy | None = None,
) -> list[Loss]:
    """Compare the truncated gradients of a loss with its exact one.

        found = truncation(lambda bptt: head(layer(x, bptt=bptt)[0]).square().sum(),
                           model.named_parameters(), steps=len(x))

    Args:
        loss: the loss of a batch, through time as it is told; what it draws is the same each time.
        parameters: by name, as of `model.named_parameters()`.
        steps: T, of the sequence.
        k1: steps after which a gradient is taken; as many as it reaches back, if not given.
        reaches: the steps that gradients reach back (k2); if not given 1, 2, 5, 10 and so on up to T.
        exact: how the exact gradient is had; `Full()`, or Checkpointed.

    Raises:
        InputError: a number is not between 1 and T, or no parameter has a gradient.
    """
    reaches = reaches_up_to(steps) if reaches is None else reaches
    for k2 in reaches:
        check_sizes(k2=k2)
    check_sizes(steps=steps, k1=1 if k1 is None else k1)
    if (most := max((k1 or 1, *reaches))) > steps:
        raise InputError(f"gradients reach at most the {steps} steps that there are, not {most}")
    names, tensors = zip(*((n, p) for n, p in parameters if p.requires_grad), strict=True)
    random = torch.get_rng_state()

    def gradients(policy: Policy) -> list[Tensor]:
        torch.set_rng_state(random)
        found = torch.autograd.grad(loss(policy), tensors, allow_unused=True)
        each = [torch.zeros_like(p) if d is None else d for p, d in zip(tensors, found, strict=True)]
        return [*(d.double().flatten() for d in each), torch.cat([d.double().flatten() for d in each])]

    truth = gradients(exact or Full())
    if not truth[-1].any():
        raise InputError("the exact gradient of the loss is 0: there is nothing to compare with")
    return [
        Loss(k1 or k2, k2, name, _cosine(part, whole), _ratio(part, whole))
        for k2 in reaches
        for name, part, whole in zip((*names, ALL), gradients(Truncated(k1 or k2, k2)), truth, strict=True)
    ]


def _cosine(part: Tensor, whole: Tensor) -> float:
    norms = part.norm() * whole.norm()
    return float(part @ whole / norms) if norms else math.nan


def _ratio(part: Tensor, whole: Tensor) -> float:
    norm = whole.norm()
    return float(part.norm() / norm) if norm else math.nan
