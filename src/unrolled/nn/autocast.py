"""Layers where torch's autocast is on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

P = ParamSpec("P")
R = TypeVar("R")

CAST: Final = (torch.float16, torch.bfloat16, torch.float32)
"""What autocast converts."""


class HasDtype(Protocol):
    @property
    def dtype(self) -> torch.dtype: ...


L = TypeVar("L", bound=HasDtype)


def in_own_dtype(
    method: Callable[Concatenate[L, Any, Any, P], R],
) -> Callable[Concatenate[L, Any, Any, P], R]:
    """A layer's method of an input and a state: where autocast is on, both are converted to the dtype of the
    layer, which then computes in it, as it is compiled for, and returns it."""

    @wraps(method)
    def run(layer: L, x: Any, state: Any, /, *args: P.args, **options: P.kwargs) -> R:
        if not torch._C._is_any_autocast_enabled():  # to ask a tensor for its device costs more than this
            return method(layer, x, state, *args, **options)
        data = x.data if isinstance(x, PackedSequence) else x
        device = data.device.type if isinstance(data, Tensor) else "cpu"
        if device == "meta" or not torch.is_autocast_enabled(device):
            return method(layer, x, state, *args, **options)
        dtype = layer.dtype
        with torch.autocast(device, enabled=False):
            return method(layer, _converted(x, dtype), _converted(state, dtype), *args, **options)

    return run


def _converted(value: Any, dtype: torch.dtype) -> Any:
    """Tensors of a dtype that autocast converts in this one; what is none of its affair as it is."""
    if isinstance(value, PackedSequence):
        return value._replace(data=_converted(value.data, dtype))
    if isinstance(value, Mapping):
        return {name: _converted(each, dtype) for name, each in value.items()}
    return value.to(dtype) if isinstance(value, Tensor) and value.dtype in CAST else value
