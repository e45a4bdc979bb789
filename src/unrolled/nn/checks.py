"""What a layer is given, checked: every message names the argument, what came and what was expected."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

import torch
from torch import Tensor

from unrolled.errors import InputError
from unrolled.rows import check_steps
from unrolled.tracing import watched


def check_flags(**flags: object) -> None:
    """See that each is True or False."""
    for what, flag in flags.items():
        if not isinstance(flag, bool):
            raise InputError(f"{what} must be True or False, got {flag!r}")


def check_names(layer: str, given: Iterable[str], known: Iterable[str]) -> None:
    """See that a layer has arguments of these names."""
    known = tuple(known)
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = (
                f": did you mean {near[0]!r}?" if near else f"; beyond those named, it has {', '.join(known)}"
            )
            raise InputError(f"{layer} has no argument {name!r}{hint}")


def check_input(x: Tensor, rows: str, size: int, like: Tensor) -> bool:
    """Whether x has a batch.

    Args:
        rows: the axes of x but for the last, in words, "T, B", "B, T" or, of a packed sequence, "N".
        size: the features that x has, unless it has token numbers.
        like: a parameter of the layer.

    Raises:
        InputError: x does not fit.
    """
    tokens = not x.is_floating_point()
    axes = x.ndim + tokens
    layout = rows if tokens else f"{rows}, {size}"
    if x.dtype == torch.bool or x.is_complex():
        raise InputError(f"x is {x.dtype}, expected floats, or integers as token numbers")
    if axes not in ((2, 3) if "," in rows else (2,)):
        raise InputError(f"x has shape {tuple(x.shape)}, expected ({layout})")
    if not tokens and x.shape[-1] != size:
        raise InputError(f"x has {x.shape[-1]} features in its last axis, expected {size}")
    if x.numel() == 0 and x.shape[1 if axes == 3 and rows == "B, T" else 0] == 0:
        raise InputError(f"x has shape {tuple(x.shape)}: a sequence needs at least one step")
    if not tokens and x.dtype != like.dtype:
        raise InputError(f"x is {x.dtype}, but the layer is {like.dtype}; use x.to({like.dtype})")
    if x.device != like.device:
        raise InputError(f"x is on {x.device}, but the layer is on {like.device}; use x.to('{like.device}')")
    return axes == 3


def checked_state(state: object, shapes: Mapping[str, tuple[int, ...]], like: Tensor) -> dict[str, Tensor]:
    """A state by name, in the order of `shapes`.

    Raises:
        InputError: it has other names or shapes, or is not like this parameter of the layer.
    """
    if not isinstance(state, Mapping):
        kind = type(state).__name__
        raise InputError(f"the state is a {kind}, expected a mapping from {', '.join(shapes)} to tensors")
    if state.keys() != shapes.keys():
        raise InputError(f"the state has {', '.join(state)}, expected {', '.join(shapes)}")
    for name, shape in shapes.items():
        value = state[name]
        if not isinstance(value, Tensor):
            raise InputError(f"state {name!r} is a {type(value).__name__}, expected a tensor {shape}")
        if value.dtype != like.dtype:
            raise InputError(f"state {name!r} is {value.dtype}, but the layer is {like.dtype}")
        if value.device != like.device:
            raise InputError(f"state {name!r} is on {value.device}, but the layer is on {like.device}")
        if tuple(value.shape) != shape:
            raise InputError(f"state {name!r} has shape {tuple(value.shape)}, expected {shape}")
    return {name: state[name] for name in shapes}


def checked_lengths(lengths: object, T: int, B: int) -> Tensor:
    """Lengths as a tensor.

    Raises:
        InputError: they are not B whole numbers from 0 to T.
    """
    try:
        found = torch.as_tensor(lengths)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"lengths is a {type(lengths).__name__}, expected {B} whole numbers") from None
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise InputError(f"lengths is {found.dtype}, expected whole numbers")
    if tuple(found.shape) != (B,):
        raise InputError(f"lengths has shape {tuple(found.shape)}, expected ({B},): one for each sequence")
    if not (torch.compiler.is_compiling() or watched((found,))):  # then whoever runs the graph sees to it
        check_steps(found, T)
    return found


def checked_resets(resets: object, shape: tuple[int, int]) -> Tensor:
    """A mask of resets.

    Raises:
        InputError: it is not a tensor of bools of this shape.
    """
    if not isinstance(resets, Tensor):
        raise InputError(f"resets is a {type(resets).__name__}, expected a tensor of bools {shape}")
    if resets.dtype != torch.bool:
        raise InputError(f"resets is {resets.dtype}, expected torch.bool")
    if tuple(resets.shape) != shape:
        raise InputError(f"resets has shape {tuple(resets.shape)}, expected {shape}, as the steps of x")
    return resets
