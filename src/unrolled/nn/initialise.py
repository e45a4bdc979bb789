"""Initial values of learned tensors, by name."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

import torch
from torch import Tensor, nn

from unrolled.errors import InputError

Initialiser: TypeAlias = float | str | Callable[[Tensor], object]
"""A number, a name such as "orthogonal" or "normal:0.01", or a function that fills a tensor in place."""


def _identity(tensor: Tensor, scale: float = 1.0) -> None:
    if tensor.ndim != 2:
        raise InputError(f"identity needs a matrix, got a vector of {tensor.shape[0]}")
    with torch.no_grad():
        nn.init.eye_(tensor).mul_(scale)


def _uniform(tensor: Tensor, bound: float) -> None:
    nn.init.uniform_(tensor, -bound, bound)


INITIALISERS: Final[dict[str, Callable[..., object]]] = {
    "zeros": nn.init.zeros_,
    "ones": nn.init.ones_,
    "constant": nn.init.constant_,
    "normal": lambda tensor, std: nn.init.normal_(tensor, 0.0, std),
    "uniform": _uniform,
    "identity": _identity,
    "orthogonal": nn.init.orthogonal_,
    "xavier": nn.init.xavier_uniform_,
    "kaiming": lambda tensor: nn.init.kaiming_uniform_(tensor, a=math.sqrt(5)),
}
"""By name; `normal:STD`, `uniform:BOUND` and `constant:VALUE` need a number, `identity` and `orthogonal` may
have a scale."""


def initialise(tensor: Tensor, how: Initialiser) -> None:
    """Fill a tensor in place.

    Raises:
        InputError: no such initialiser, or it does not fit the tensor's shape.
    """
    if callable(how):
        with torch.no_grad():
            how(tensor)
    elif isinstance(how, str) and not _is_number(how):
        name, _, number = how.partition(":")
        if name not in INITIALISERS:
            raise InputError(
                f"no initialiser {how!r}; there are {', '.join(INITIALISERS)}, as in normal:0.01"
            )
        try:
            INITIALISERS[name](tensor, *([float(number)] if number else []))
        except InputError:
            raise
        except (TypeError, ValueError, RuntimeError) as error:
            shape = tuple(tensor.shape)
            raise InputError(
                f"initialiser {how!r} does not fit a tensor of shape {shape}: {error}"
            ) from error
    elif isinstance(how, str | int | float):
        nn.init.constant_(tensor, float(how))
    else:
        raise InputError(f"an initialiser is a number, a name or a function, not {how!r}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def initialise_matching(tensors: Sequence[tuple[str, Tensor]], patterns: Mapping[str, Initialiser]) -> None:
    """Fill the tensors whose name matches a pattern such as "f.bias", "*.h" or "f"; later patterns win.

    A pattern that is a gate's name stands for all its tensors.

    Raises:
        InputError: a pattern matches nothing.
    """
    for pattern, how in patterns.items():
        chosen = [t for name, t in tensors if _matches(name, pattern)]
        if not chosen:
            raise InputError(
                f"init pattern {pattern!r} matches no parameter; there are {', '.join(dict(tensors))}"
            )
        for tensor in chosen:
            initialise(tensor, how)


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or name.partition(".")[0] == pattern
