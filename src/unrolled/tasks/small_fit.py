"""Small networks fitted to a short series, all of it at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from unrolled.errors import DivergedError


def fit(model: nn.Module, error: Callable[[], Tensor], updates: int, decay: float = 0.0) -> float:
    """Make an error as small as so many steps of L-BFGS can.

    Args:
        error: of the model as it is now, one number.
        decay: this times the sum of all squared weights is added; biases are not counted.

    Returns:
        what is left, with the weights.

    Raises:
        DivergedError: it is not finite.
    """
    weights = [value for value in model.parameters() if value.ndim > 1]
    optimiser = torch.optim.LBFGS(
        model.parameters(),
        max_iter=updates,
        history_size=30,
        tolerance_change=0.0,
        tolerance_grad=0.0,
        line_search_fn="strong_wolfe",
    )

    def whole() -> Tensor:
        optimiser.zero_grad()
        total = error()
        if decay:
            total = total + decay * torch.stack([value.square().sum() for value in weights]).sum()
        torch.autograd.backward(total)
        return total.detach()

    optimiser.step(whole)  # type: ignore[no-untyped-call]
    left = float(whole())
    if not left < float("inf"):
        raise DivergedError(f"the error after {updates} steps of L-BFGS is {left}: make the network smaller")
    return left
