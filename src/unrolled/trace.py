"""Symbolic values: running a cell's function on them builds its graph.

A `Symbol` stands for a value of the step, a `TracedWeight` for `W.name`. Operators and torch functions on
them look up their row in `OPERATIONS` and add a node. Widths start as unknowns (`?…`), as D for inputs and as
H for states, and are unified when two values meet in an operation; D and H stay distinct unless the caller
says they are equal. One number a row, from a reduction, fits every width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from torch import Tensor, nn

from unrolled.errors import CellError
from unrolled.graph import OPERATION_OF, OPERATIONS, PER_ROW, Graph, Node

INSTEAD: Final = dict.fromkeys(
    ("matmul", "rmatmul", "mm", "linear", "bmm", "einsum"), "a matrix is written W.name(h)"
) | {name: f"write unrolled's {name}(v, W.gain_v, W.bias_v)" for name in ("layer_norm", "rms_norm")}
"""What to write instead of a function of torch, where it is more than a look at the table."""

METHODS: Final = [name for name in OPERATIONS if hasattr(Tensor, name) and name != "where"]
"""What may be written as a method of a value; a tensor's `where` has its operands in another order."""


class Operand:
    """Operators and torch functions for a value that is not a tensor; each becomes `apply(row, operands)`."""

    def apply(self, name: str, operands: tuple[Any, ...]) -> Any:
        raise NotImplementedError

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = OPERATION_OF.get(function)
        if name is None:
            called = _called(function)
            known = INSTEAD.get(called, f"known: {', '.join(OPERATIONS)}")
            raise CellError(f"a cell cannot use torch's {called!r}; {known}")
        operands = _operands(name, function, args, kwargs or {})
        return next(arg for arg in operands if isinstance(arg, Operand)).apply(name, operands)

    def __add__(self, other: Any) -> Any:
        return self.apply("add", (self, other))

    def __radd__(self, other: Any) -> Any:
        return self.apply("add", (other, self))

    def __sub__(self, other: Any) -> Any:
        return self.apply("sub", (self, other))

    def __rsub__(self, other: Any) -> Any:
        return self.apply("sub", (other, self))

    def __mul__(self, other: Any) -> Any:
        return self.apply("mul", (self, other))

    def __rmul__(self, other: Any) -> Any:
        return self.apply("mul", (other, self))

    def __truediv__(self, other: Any) -> Any:
        return self.apply("div", (self, other))

    def __rtruediv__(self, other: Any) -> Any:
        return self.apply("div", (other, self))

    def __pow__(self, other: Any) -> Any:
        return self.apply("pow", (self, other))

    def __rpow__(self, other: Any) -> Any:
        return self.apply("pow", (other, self))

    def __neg__(self) -> Any:
        return self.apply("neg", (self,))

    def __abs__(self) -> Any:
        return self.apply("abs", (self,))

    def __gt__(self, other: Any) -> Any:
        return self.apply("gt", (self, other))

    def __ge__(self, other: Any) -> Any:
        return self.apply("ge", (self, other))

    def __lt__(self, other: Any) -> Any:
        return self.apply("lt", (self, other))

    def __le__(self, other: Any) -> Any:
        return self.apply("le", (self, other))

    def __matmul__(self, other: Any) -> Any:
        raise CellError("a matrix is written W.name(h), not with @")

    __rmatmul__ = __matmul__

    def __bool__(self) -> bool:
        raise CellError(
            "a cell cannot branch on a value (if, and, max): write torch.where(a > b, this, that)"
        )

    def __eq__(self, other: object) -> bool:
        raise CellError("a cell cannot ask whether values are equal: write torch.where(a > b, this, that)")

    __hash__ = None  # type: ignore[assignment]


class Symbol(Operand):
    """A value of the step while the graph is being built."""

    def __init__(self, trace: Trace, index: int) -> None:
        self.trace = trace
        self.index = index

    @property
    def node(self) -> Node:
        return self.trace.nodes[self.index]

    @property
    def width(self) -> str:
        return self.trace.width(self.index)

    def apply(self, name: str, operands: tuple[Any, ...]) -> Symbol:
        return self.trace.operation(name, operands)

    def __getattr__(self, name: str) -> Any:
        if name in METHODS:
            return lambda *args, **options: self.apply(name, _operands(name, name, (self, *args), options))
        raise CellError(f"a value inside a cell has no {name!r}; known: {', '.join(METHODS)}")

    def __getitem__(self, key: Any = None) -> Any:
        raise CellError("a value inside a cell cannot be sliced: give each part a map of its own")

    __iter__ = __getitem__


class TracedWeight(Operand):
    """`W.name` while the graph is being built: a learned vector, or an affine map when called."""

    def __init__(self, trace: Trace, name: str) -> None:
        self.trace = trace
        self.name = name

    def apply(self, name: str, operands: tuple[Any, ...]) -> Symbol:
        return self.trace.operation(name, operands)

    def __call__(
        self,
        *values: Any,
        bias: float | bool = 0.0,
        init: Mapping[str, float | str] | float | str | None = None,
        width: str | None = None,
        **named: Any,
    ) -> Symbol:
        if isinstance(init, int | float | str):
            if values or named:
                raise CellError(f"init of W.{self.name} names its matrices, as in init={{'h': {init!r}}}")
            return self.trace.vector(self.name, init)
        arguments: dict[str, Symbol] = {}
        for position, value in enumerate(values, 1):
            if not isinstance(value, Symbol) or value.node.kind not in ("input", "state"):
                raise CellError(
                    f"argument {position} of W.{self.name} is not an input or an old state: "
                    f"name it, as in W.{self.name}(…, h=…)"
                )
            arguments[value.node.name] = value
        if repeated := arguments.keys() & named.keys():
            raise CellError(f"W.{self.name} has two arguments called {min(repeated)!r}")
        arguments |= {key: self.trace.operand(value) for key, value in named.items()}
        start = None if bias is False else 0.0 if bias is True else float(bias)
        return self.trace.affine(self.name, arguments, start, init or {}, width)


def _called(function: object) -> str:
    return str(getattr(function, "__name__", function)).strip("_")


def _operands(
    name: str, function: object, args: tuple[Any, ...], options: Mapping[str, Any]
) -> tuple[Any, ...]:
    """What a call of a torch function computes from.

    Raises:
        CellError: the number of values or the options are not those that a cell may write.
    """
    options = {k: v for k, v in options.items() if v is not False and v is not None}
    row = OPERATIONS[name]
    if row.reduces:
        given = dict(zip(("input", "dim", "keepdim"), args, strict=False)) | options
        value = given.pop("input", None)
        if len(args) > 3 or value is None or given != {"dim": -1, "keepdim": True}:
            called = _called(function)
            raise CellError(
                f"inside a cell {called} goes over the units of each row: write {called}(v, -1, keepdim=True)"
            )
        return (value,)
    if options or len(args) != row.arity:
        raise CellError(f"inside a cell {_called(function)} takes {row.arity} values and no options")
    return args


_MODULE = nn.Module()


class Trace:
    """A graph in the making."""

    def __init__(self, inputs: tuple[str, ...], states: tuple[str, ...], square: bool) -> None:
        self.nodes: list[Node] = []
        self._equal: dict[str, str] = {}  # a width -> the width it was found equal to
        self._inits: dict[str, float | str] = {}
        own = [f"D_{name}" if k else "D" for k, name in enumerate(inputs)]
        self.inputs = {
            name: self._add(Node("input", name=name, width=f"H_{states[0]}" if square else width))
            for name, width in zip(inputs, own, strict=True)
        }
        self.states = {name: self._add(Node("state", name=name, width=f"H_{name}")) for name in states}

    def width(self, index: int) -> str:
        """The width of a node as far as it is known; "" for a number."""
        width = self.nodes[index].width
        while width in self._equal:
            width = self._equal[width]
        return width

    def operand(self, value: Any) -> Symbol:
        """A symbol for whatever was written in an equation."""
        if isinstance(value, Symbol):
            return value
        if isinstance(value, TracedWeight):
            return self.vector(value.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            kind = "tensor" if isinstance(value, Tensor) else type(value).__name__
            raise CellError(f"a {kind} cannot enter an equation: use a number or a learned vector W.name")
        return self._add(Node("constant", value=float(value)))

    def vector(self, name: str, init: float | str | None = None) -> Symbol:
        """The learned vector `W.name`, and where it starts if that is said."""
        self._check_use(name, "vector")
        if init is not None:
            self._inits[name] = init
        for index, node in enumerate(self.nodes):
            if node.kind == "vector" and node.name == name:
                return Symbol(self, index)
        return self._add(Node("vector", name=name, width=self._unknown()))

    def operation(self, name: str, operands: tuple[Any, ...]) -> Symbol:
        """A node for one row of the table; a factor of exactly 1 leaves no trace."""
        if name == "mul" and 1 in (numbers := [v for v in operands if isinstance(v, int | float)]):
            return self.operand(next(v for v in operands if v is not numbers[0]))
        args = tuple(self.operand(value).index for value in operands)
        row = OPERATIONS[name]
        given = {"": "a number", PER_ROW: "one number a row"}.get(self.width(args[0]))
        if given and (row.composed or (row.reduces and given == "a number")):
            raise CellError(f"{name} goes over the units of each row, but was given {given}")
        return self._add(Node(name, args, width=PER_ROW if row.reduces else self.unify(args, name)))

    def affine(
        self,
        name: str,
        arguments: dict[str, Symbol],
        bias: float | None,
        init: Mapping[str, float | str],
        width: str | None = None,
    ) -> Symbol:
        """A node for `W.name(...)`."""
        if width is not None and not (width.isidentifier() and width[0].isupper() and width[0] not in "BDHT"):
            raise CellError(
                f"the width of W.{name} is called {width!r}: call it by a capital letter other than B, D, H "
                f"and T, as in W.{name}(…, width='N')"
            )
        self._check_use(name, "affine")
        if not arguments:
            raise CellError(f"W.{name}() is applied to nothing: a learned vector is written W.{name} alone")
        for source, value in arguments.items():
            if not value.width:
                raise CellError(f"argument {source!r} of W.{name} is a number: a matrix needs a vector")
            if value.width == PER_ROW:
                raise CellError(
                    f"argument {source!r} of W.{name} is one number a row: a matrix needs a vector; "
                    f"a learned vector times a number is W.p * {source}"
                )
        node = Node(
            "affine",
            tuple(v.index for v in arguments.values()),
            name,
            tuple(arguments),
            bias,
            0.0,
            width or self._unknown(),
        )
        for other in self.nodes:  # the same map applied again in one step shares its matrices
            if other.kind == "affine" and other.name == name:
                asked = (node.sources, node.bias, width or other.width)
                if (other.sources, other.bias, other.width) != asked:
                    raise CellError(f"W.{name} is used twice with different arguments: name one of them anew")
                for pair in zip(other.args, node.args, strict=True):
                    self.unify(pair, f"W.{name}")
                node = replace(node, width=other.width)
        self._inits.update({f"{name}.{source}": value for source, value in init.items()})
        return self._add(node)

    def varies(self, index: int) -> bool:
        """Whether a node depends on an input or a state, and so has a row for each of the batch."""
        node = self.nodes[index]
        return node.kind in ("input", "state") or any(self.varies(k) for k in node.args)

    def finish(
        self,
        results: tuple[Symbol, ...],
        outputs: tuple[str, ...],
        names: Mapping[int, str],
        initial: Mapping[str, float],
    ) -> Graph:
        """The graph of these results: what they do not need is dropped and every width is settled."""
        needed = {s.index for s in (*self.inputs.values(), *self.states.values(), *results)}
        for index in range(len(self.nodes) - 1, -1, -1):
            if index in needed:
                needed.update(self.nodes[index].args)
        place = {old: new for new, old in enumerate(sorted(needed))}
        of_states = {symbol.width for symbol in self.states.values()}
        nodes = []
        for old in place:
            node, width = self.nodes[old], self.width(old)
            if width[:1] in ("H", "?") and len(of_states) == 1:
                width = "H"
            elif width.startswith("?"):
                raise CellError(
                    f"the width of {names.get(old) or f'W.{node.name}'} is not determined: "
                    "combine it with a state or an input"
                )
            nodes.append(replace(node, args=tuple(place[k] for k in node.args), width=width))
        graph = Graph(
            nodes=tuple(nodes),
            inputs=tuple(self.inputs),
            states=tuple(self.states),
            outputs=outputs,
            results=tuple(place[s.index] for s in results),
            names={place[k]: name for k, name in names.items() if k in place},
            initial={name: float(value) for name, value in initial.items()},
        )
        traced = replace(graph, nodes=tuple(self.nodes)).parameters
        if unknown := self._inits.keys() - traced.keys():
            raise CellError(f"init names {min(unknown)!r}, which is not a parameter of this cell")
        return replace(graph, inits={k: v for k, v in self._inits.items() if k in graph.parameters})

    def _add(self, node: Node) -> Symbol:
        self.nodes.append(node)
        return Symbol(self, len(self.nodes) - 1)

    def _unknown(self) -> str:
        return f"?{len(self.nodes):04}"

    def unify(self, indices: tuple[int, ...], what: str) -> str:
        """Make these nodes' widths one; numbers and numbers a row fit any. `what` begins the message if they
        cannot be."""
        found = dict.fromkeys(self.width(k) for k in indices)
        widths = [w for w in found if w not in ("", PER_ROW)]
        fixed = [w for w in widths if w[0] not in "H?"]
        if len(fixed) > 1 or (fixed and any(w.startswith("H") for w in widths)):
            if own := next((w for w in fixed if not w.startswith("D")), None):
                raise CellError(f"{what} joins a value of width {own} with one of another width")
            raise CellError(
                f"{what} joins an input (width D) with a value of width H: "
                "project the input, as in W.x(x), or write fit(W.x, x, like=h)"
            )
        narrow = PER_ROW if PER_ROW in found else ""
        kept = min(widths, key=lambda w: ("H?".find(w[0]), w), default=narrow)
        self._equal.update({other: kept for other in widths if other != kept})
        return kept

    def _check_use(self, name: str, kind: str) -> None:
        if hasattr(_MODULE, name):
            raise CellError(f"W.{name}: torch modules already have a {name!r}; choose another name")
        if any(n.name == name and {n.kind, kind} == {"vector", "affine"} for n in self.nodes):
            raise CellError(f"W.{name} is both a learned vector and a map: give one of them another name")
