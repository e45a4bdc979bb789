"""What these measurements are given: numbers, and a layer."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from unrolled.errors import InputError
from unrolled.nn.stack import RecurrentStack


def numbers(what: str, value: object) -> Tensor:
    """A tensor of float64.

    Raises:
        InputError: it has no real numbers, or one that is not finite.
    """
    try:
        found = value.detach().cpu() if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"{what} is a {type(value).__name__}, expected numbers") from None
    if found.is_complex():
        raise InputError(f"{what} has complex numbers, expected real ones: a pair of them is a 2 × 2 matrix")
    if not found.isfinite().all():
        raise InputError(f"{what} has a number that is not finite")
    return found.double()


def one_number(what: str, value: object) -> float:
    """
    Raises:
        InputError: it is no finite real number.
    """
    found = numbers(what, value)
    if found.ndim:
        raise InputError(f"{what} has shape {tuple(found.shape)}, expected a number")
    return float(found)


def in_double(layer: object) -> RecurrentStack:
    """A copy of a layer in float64, in evaluation, with time first.

    Raises:
        InputError: it is no recurrent layer.
    """
    if not isinstance(layer, RecurrentStack):
        raise InputError(
            f"expected a recurrent layer such as unrolled.LSTM, got a {type(layer).__name__}; "
            "unrolled.convert.from_torch makes one of torch's"
        )
    layer = copy.deepcopy(layer).double().cpu().eval()
    layer.batch_first = False
    return layer
