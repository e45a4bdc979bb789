"""ONNX nodes in the making, and how each row of `OPERATIONS` is written in them.

Values are names. `onnx` is imported when the first node is made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from unrolled.convert.gates import as_array

OPSET: Final = 18
"""The version of ONNX's operators: from here on all reductions take their axes alike."""


class Nodes:
    """The nodes of a graph, or of the body of a `Scan` in one.

    Attributes:
        made: the nodes in order.
        tensors: the constants by name; a body shares those of the graph around it.
    """

    def __init__(self, dtype: torch.dtype, around: Nodes | None = None) -> None:
        self.dtype = dtype
        self.made: list[Any] = []
        self.tensors: dict[str, np.ndarray[Any, Any]] = around.tensors if around else {}
        self._count: list[int] = around._count if around else [0]

    @property
    def type(self) -> int:
        """ONNX's number for the dtype."""
        from onnx import TensorProto

        return int(TensorProto.DOUBLE if self.dtype == torch.float64 else TensorProto.FLOAT)

    def name(self, what: str) -> str:
        """A name that nothing else has; no state can be called so."""
        self._count[0] += 1
        return f"{what}/{self._count[0]}"

    def call(self, op: str, *inputs: str, **attributes: Any) -> str:
        """The value of an operator with one result."""
        return self.calls(op, inputs, 1, **attributes)[0]

    def calls(self, op: str, inputs: tuple[str, ...], results: int, **attributes: Any) -> list[str]:
        """The values of an operator; an input that is left out is ""."""
        from onnx import helper

        names = [self.name(op) for _ in range(results)]
        self.made.append(helper.make_node(op, inputs, names, **attributes))
        return names

    def rename(self, value: str, name: str) -> None:
        """Hand a value out under a name."""
        from onnx import helper

        self.made.append(helper.make_node("Identity", [value], [name]))

    def tensor(self, name: str, value: Tensor) -> str:
        """A constant with a name of its own."""
        self.tensors.setdefault(name, as_array(value))
        return name

    def number(self, value: float) -> str:
        """A constant of the graph's dtype."""
        return self.tensor(f"number/{value!r}", torch.tensor(value, dtype=self.dtype))

    def integers(self, *values: int) -> str:
        """A constant list of integers."""
        return self.tensor(f"integers/{values}", torch.tensor(values))

    def declare(self, name: str, shape: list[str | int] | None = None, kind: int | None = None) -> Any:
        """What a value that enters or leaves the graph is; sizes that vary have names."""
        from onnx import helper

        return helper.make_tensor_value_info(name, self.type if kind is None else kind, shape)


Row = Callable[..., str]


def _is(op: str) -> Row:
    """A row that is one operator."""
    return lambda nodes, *operands: nodes.call(op, *operands)


def _over_units(op: str) -> Row:
    return lambda nodes, a: nodes.call(op, a, nodes.integers(-1), keepdims=1)


def _softplus(nodes: Nodes, a: str) -> str:
    """As torch has it: linear above 20."""
    return nodes.call("Where", nodes.call("Greater", a, nodes.number(20.0)), a, nodes.call("Softplus", a))


def _expm1(nodes: Nodes, a: str) -> str:
    """tanh(a / 2) (exp(a) + 1), which loses nothing near 0."""
    half = nodes.call("Tanh", nodes.call("Mul", a, nodes.number(0.5)))
    return nodes.call("Mul", half, nodes.call("Add", nodes.call("Exp", a), nodes.number(1.0)))


def _log1p(nodes: Nodes, a: str) -> str:
    """log(u) a / (u − 1) with u = 1 + a as rounded: it loses nothing near 0 (Kahan). log(u) for large a."""
    one = nodes.number(1.0)
    u = nodes.call("Add", a, one)
    log, beyond = nodes.call("Log", u), nodes.call("Sub", u, one)
    near = nodes.call("Mul", log, nodes.call("Div", a, beyond))
    exact = nodes.call("Where", nodes.call("Equal", u, one), a, near)
    return nodes.call("Where", nodes.call("Greater", a, one), log, exact)


ROWS: Final[dict[str, Row]] = {
    "add": _is("Add"),
    "sub": _is("Sub"),
    "mul": _is("Mul"),
    "div": _is("Div"),
    "neg": _is("Neg"),
    "pow": _is("Pow"),
    "sigmoid": _is("Sigmoid"),
    "tanh": _is("Tanh"),
    "relu": _is("Relu"),
    "softplus": _softplus,
    "exp": _is("Exp"),
    "expm1": _expm1,
    "log": _is("Log"),
    "log1p": _log1p,
    "sqrt": _is("Sqrt"),
    "abs": _is("Abs"),
    "sin": _is("Sin"),
    "cos": _is("Cos"),
    "maximum": _is("Max"),
    "minimum": _is("Min"),
    "gt": _is("Greater"),
    "ge": _is("GreaterOrEqual"),
    "lt": _is("Less"),
    "le": _is("LessOrEqual"),
    "where": _is("Where"),
    "sum": _over_units("ReduceSum"),
    "mean": _over_units("ReduceMean"),
    "amax": _over_units("ReduceMax"),
}
"""Every row of `unrolled.graph.OPERATIONS` but those that are composed of others."""
