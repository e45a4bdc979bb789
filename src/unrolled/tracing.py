"""What torch.compile is told of this library."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def constant(function: Callable[P, R]) -> Callable[P, R]:
    """Have torch.compile call a function while it traces, and keep what it returns.

    As `torch.compiler.assume_constant_result`, which would import all of the compiler: a second.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
