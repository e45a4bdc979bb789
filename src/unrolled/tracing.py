"""What torch.compile is told of this library, and who else looks on while tensors are computed with."""

from collections.abc import Callable, Iterable
from typing import Final, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

PLAIN: Final = {Tensor, nn.Parameter}
"""Tensors that are memory and nothing more."""

P = ParamSpec("P")
R = TypeVar("R")


def constant(function: Callable[P, R]) -> Callable[P, R]:
    """Have torch.compile call a function while it traces, and keep what it returns.

    As `torch.compiler.assume_constant_result`, which would import all of the compiler: a second.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def watched(tensors: Iterable[object]) -> bool:
    """Whether somebody looks on, or stands in for tensors: a tracer, a counter, tensors without numbers."""
    return _modes() > 0 or not PLAIN.issuperset(map(type, tensors))


def _modes() -> int:
    """Who looks on, but for those who take tensors as they are."""
    count: int = torch._C._len_torch_dispatch_stack()
    if not count:
        return 0
    stack = map(torch._C._get_dispatch_stack_at, range(count))
    return count - sum(bool(getattr(mode, "takes_tensors_as_they_are", False)) for mode in stack)


@constant
def transforms() -> bool:
    """Whether a transform of torch.func is at work; a compiled graph belongs to one answer."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def more_than_numbers(*tensors: object) -> bool:
    """Whether a graph is made of what is done with these tensors, or derivatives go along with it."""
    there = [t for t in tensors if t is not None]
    return torch.compiler.is_compiling() or watched(there) or transforms() or forward_ad._current_level >= 0
