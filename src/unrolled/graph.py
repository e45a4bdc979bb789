"""The graph of a cell: what one step computes, as data.

A `Graph` is a list of `Node`s in the order in which the equations were written. Everything else about a
cell is read off it: parameters and their shapes, the formulas, the drawing, the saved form in a checkpoint.
A graph also runs on tensors by itself, so a cell can be restored without its source code.

`OPERATIONS` is the one table of operations: pointwise ones, and reductions over the units of a row. Adding an
operation is adding a row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from unrolled.errors import CellError, InputError
from unrolled.tracing import constant

PER_ROW: Final = "1"
"""The width of one number for each row of the batch, such as a mean over units; it fits every width."""


@dataclass(frozen=True)
class Operation:
    """One row of the table.

    `run` computes it on tensors; `also` lists other torch functions that mean the same; `text` is how it is
    written in a formula, with {0}, {1} for its operands; `binding` is how tightly that text holds together
    (1 sum, 2 product, 3 sign, 4 power, 5 call). `adjoint(d, y, *operands)` gives the gradient of each operand
    from that of the result y, written with rows of this table and `operand.units`, how many units it has;
    None where the result is a condition. A gradient is summed or repeated over units where the widths ask
    for it, so no row says so.

    `reduces`: the result is one number for each row, from all units of the operand. `composed`: `run` is
    written with other rows of this table, and the compiler works on those; it needs no adjoint of its own.
    """

    name: str
    run: Callable[..., Any]
    text: str
    binding: int = 5
    adjoint: Callable[..., tuple[Any, ...]] | None = None
    also: tuple[Callable[..., Any], ...] = ()
    reduces: bool = False
    composed: bool = False

    @property
    def pointwise(self) -> bool:
        """Whether a unit of the result depends on that unit of the operands alone."""
        return not (self.reduces or self.composed)

    @property
    def arity(self) -> int:
        return sum(f"{{{k}}}" in self.text for k in range(3))


def _divide(a: Any, b: Any) -> Any:
    """a / b as Python's operator has it, which takes the reciprocal of a tensor below a number."""
    return a / b


def _pow_adjoint(d: Any, y: Any, a: Any, b: Any) -> tuple[Any, Any]:
    return d * b * a ** (b - 1), d * y * torch.log(a)


def _abs_adjoint(d: Any, y: Any, a: Any) -> tuple[Any]:
    return (torch.where(a > 0, d, torch.where(a < 0, -d, 0.0)),)


def _split(d: Any, a: Any, b: Any) -> tuple[Any, Any]:
    """The gradient goes to the larger of a and b; to each one half where they are equal, as in torch."""
    return (
        torch.where(a > b, d, torch.where(a < b, 0.0, d / 2)),
        torch.where(b > a, d, torch.where(b < a, 0.0, d / 2)),
    )


def _where_adjoint(d: Any, y: Any, condition: Any, a: Any, b: Any) -> tuple[Any, Any, Any]:
    return None, torch.where(condition, d, 0.0), torch.where(condition, 0.0, d)


def _sum(a: Any) -> Any:
    return torch.sum(a, -1, keepdim=True)


def _mean(a: Any) -> Any:
    return torch.mean(a, -1, keepdim=True)


def _amax(a: Any) -> Any:
    return torch.amax(a, -1, keepdim=True)


def _amax_adjoint(d: Any, y: Any, a: Any) -> tuple[Any]:
    """The gradient goes to the largest unit; in equal parts where several are, as in torch."""
    count = _sum(torch.where(a >= y, 1.0, 0.0))
    return (torch.where(a >= y, d / count, 0.0),)


def _layer_norm(a: Any, eps: Any) -> Any:
    centred = a - _mean(a)
    return centred / torch.sqrt(_mean(centred * centred) + eps)


def _rms_norm(a: Any, eps: Any) -> Any:
    return a / torch.sqrt(_mean(a * a) + eps)


OPERATIONS: Final[dict[str, Operation]] = {
    row.name: row
    for row in (
        Operation("add", torch.add, "{0} + {1}", 1, lambda d, y, a, b: (d, d)),
        Operation("sub", torch.sub, "{0} − {1}", 1, lambda d, y, a, b: (d, -d), (torch.subtract,)),
        Operation("mul", torch.mul, "{0} ⊙ {1}", 2, lambda d, y, a, b: (d * b, d * a), (torch.multiply,)),
        Operation(
            "div",
            _divide,
            "{0} / {1}",
            2,
            lambda d, y, a, b: (d / b, -d * y / b),
            (torch.div, torch.divide, torch.true_divide),
        ),
        Operation("neg", torch.neg, "−{0}", 3, lambda d, y, a: (-d,), (torch.negative,)),
        Operation("pow", torch.pow, "{0}^{1}", 4, _pow_adjoint),
        Operation(
            "sigmoid",
            torch.sigmoid,
            "σ({0})",
            5,
            lambda d, y, a: (d * (1 - y) * y,),
            (torch.special.expit, F.sigmoid),
        ),
        Operation("tanh", torch.tanh, "tanh({0})", 5, lambda d, y, a: (d * (1 - y * y),), (F.tanh,)),
        Operation(
            "relu", torch.relu, "relu({0})", 5, lambda d, y, a: (torch.where(y > 0, d, 0.0),), (F.relu,)
        ),
        # torch's softplus is linear above 20
        Operation(
            "softplus",
            F.softplus,
            "softplus({0})",
            5,
            lambda d, y, a: (torch.where(a > 20, d, d * torch.sigmoid(a)),),
        ),
        Operation("exp", torch.exp, "exp({0})", 5, lambda d, y, a: (d * y,)),
        Operation(
            "expm1", torch.expm1, "expm1({0})", 5, lambda d, y, a: (d * torch.exp(a),), (torch.special.expm1,)
        ),
        Operation("log", torch.log, "log({0})", 5, lambda d, y, a: (d / a,)),
        Operation(
            "log1p", torch.log1p, "log1p({0})", 5, lambda d, y, a: (d / (a + 1),), (torch.special.log1p,)
        ),
        Operation("sqrt", torch.sqrt, "sqrt({0})", 5, lambda d, y, a: (d / (2 * y),)),
        Operation("abs", torch.abs, "|{0}|", 5, _abs_adjoint, (torch.absolute,)),
        Operation("sin", torch.sin, "sin({0})", 5, lambda d, y, a: (d * torch.cos(a),)),
        Operation("cos", torch.cos, "cos({0})", 5, lambda d, y, a: (-d * torch.sin(a),)),
        Operation("maximum", torch.maximum, "max({0}, {1})", 5, lambda d, y, a, b: _split(d, a, b)),
        Operation("minimum", torch.minimum, "min({0}, {1})", 5, lambda d, y, a, b: _split(d, b, a)),
        Operation("gt", torch.gt, "[{0} > {1}]", 5, None, (torch.greater,)),
        Operation("ge", torch.ge, "[{0} ≥ {1}]", 5, None, (torch.greater_equal,)),
        Operation("lt", torch.lt, "[{0} < {1}]", 5, None, (torch.less,)),
        Operation("le", torch.le, "[{0} ≤ {1}]", 5, None, (torch.less_equal,)),
        Operation("where", torch.where, "where({0}, {1}, {2})", 5, _where_adjoint),
        Operation("sum", _sum, "sum({0})", 5, lambda d, y, a: (d,), (torch.sum,), reduces=True),
        Operation("mean", _mean, "mean({0})", 5, lambda d, y, a: (d / a.units,), (torch.mean,), reduces=True),
        Operation("amax", _amax, "max({0})", 5, _amax_adjoint, (torch.amax,), reduces=True),
        Operation("layer_norm", _layer_norm, "LN({0}, {1})", 5, composed=True),
        Operation("rms_norm", _rms_norm, "RMS({0}, {1})", 5, composed=True),
    )
}

OPERATION_OF: Final[dict[Callable[..., Any], str]] = {
    function: row.name
    for row in OPERATIONS.values()
    for function in (row.run, *row.also, getattr(Tensor, row.name, row.run))
} | {Tensor.__pow__: "pow"}

LEAVES: Final = ("input", "state", "constant", "vector", "bernoulli", "rate", "reset")


@dataclass(frozen=True)
class Node:
    """One value of the step.

    kind: `input`, `state` (the old value), `constant`, `vector` (a learned vector), `bernoulli` (true at
        random, see `unrolled.leaves`), `rate` (how likely that is), `reset` (whether the state begins anew
        before this step), `affine`, or a row of the table of operations.
    args: indices of the operands in the graph.
    name: of the input, state, vector, affine map, or of what is drawn.
    sources: for an affine map, the name of each argument; its matrices are `name.source`. For what is drawn
        once a sequence instead of once a step, ("sequence",).
    bias: for an affine map, the initial value of its bias, or None for no bias.
    value: of a constant.
    width: a symbol such as "D" or "H"; `PER_ROW` for one number a row, "" for a number, which both fit every
        width.
    """

    kind: str
    args: tuple[int, ...] = ()
    name: str = ""
    sources: tuple[str, ...] = ()
    bias: float | None = None
    value: float = 0.0
    width: str = ""

    @property
    def leaf(self) -> str:
        """What the value of a random leaf is passed under."""
        return f"{self.kind} {self.name}"


@dataclass(frozen=True)
class Parameter:
    """A learned tensor: its name (`gate.source`, `gate.bias` or a vector's own), its shape in width symbols,
    and what the cell says of its initial value (a number, an initialiser's name, or None for the default)."""

    name: str
    shape: tuple[str, ...]
    init: float | str | None = None

    @property
    def symbol(self) -> str:
        """How formulas write it: W_ix, b_i, γ_i, p_i."""
        gate, _, source = self.name.partition(".")
        vectors = {"": gate, "bias": f"b_{gate}", "gain": f"γ_{gate}"}
        return vectors.get(source, f"W_{gate}{source}")


@dataclass(frozen=True)
class Graph:
    """One step of a cell.

    inputs, states, outputs: their names; `outputs` are results that are not states.
    results: the node of each new state, then of each output.
    names: what the cell's author called a node.
    initial: the value a state starts from, where it is not 0.
    inits: the initialiser a parameter asks for, where it is not the default.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    states: tuple[str, ...]
    outputs: tuple[str, ...]
    results: tuple[int, ...]
    names: Mapping[int, str] = field(default_factory=dict)
    initial: Mapping[str, float] = field(default_factory=dict)
    inits: Mapping[str, float | str] = field(default_factory=dict)

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        """Every learned tensor by name, in the order of its first use."""
        found: dict[str, Parameter] = {}

        def add(name: str, shape: tuple[str, ...], init: float | None = None) -> None:
            found.setdefault(name, Parameter(name, shape, self.inits.get(name, init)))

        for node in self.nodes:
            if node.kind == "vector":
                add(node.name, (node.width,))
            elif node.kind == "affine":
                for source, arg in zip(node.sources, node.args, strict=True):
                    add(f"{node.name}.{source}", (node.width, self.nodes[arg].width))
                if node.bias is not None:
                    add(f"{node.name}.bias", (node.width,), node.bias)
        return found

    @cached_property
    def draws(self) -> tuple[str, ...]:
        """The names of what is drawn at random, or whose probability enters."""
        return tuple(dict.fromkeys(n.name for n in self.nodes if n.kind in ("bernoulli", "rate")))

    @cached_property
    def is_random(self) -> bool:
        """Whether anything is drawn, and not only the probability of it enters."""
        return any(node.kind == "bernoulli" for node in self.nodes)

    @cached_property
    def resets(self) -> bool:
        """Whether the state may begin anew at any step."""
        return any(node.kind == "reset" for node in self.nodes)

    @cached_property
    def parameters_tell(self) -> bool:
        """Whether learned tensors say how wide every state is."""
        told = {symbol for parameter in self.parameters.values() for symbol in parameter.shape}
        return told.issuperset(self.widths[name] for name in self.states)

    def start(self, batch: int, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The states before the first step, each (batch, H), for these learned tensors."""
        sizes = self.sizes(parameters)
        like = next(iter(parameters.values()))
        return {
            name: like.new_full((batch, sizes[self.widths[name]]), self.initial.get(name, 0.0))
            for name in self.states
        }

    def sizes_with(self, state: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> dict[str, int]:
        """What each width symbol is for these states and learned tensors."""
        return self.sizes(parameters) | {self.widths[name]: state[name].shape[-1] for name in self.states}

    def output_sizes(self, state: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> dict[str, int]:
        """The widths of states and outputs by name, for these tensors."""
        sizes = self.sizes_with(state, parameters)
        results = zip((*self.states, *self.outputs), self.results, strict=True)
        return {name: sizes[self.nodes[k].width] for name, k in results}

    @cached_property
    def starts(self) -> tuple[float, ...]:
        """What the states start from."""
        return tuple(self.initial.get(name, 0.0) for name in self.states)

    @cached_property
    def key(self) -> str:
        """Text that is the same for graphs that compute the same."""
        told = {k: v for k, v in self.to_json().items() if k not in ("names", "inits", "initial")}
        return json.dumps(told, sort_keys=True)

    @property
    def widths(self) -> dict[str, str]:
        """The width symbol of every input and state by name."""
        return {node.name: node.width for node in self.nodes if node.kind in ("input", "state")}

    @cached_property
    def own_widths(self) -> dict[str, tuple[str, ...]]:
        """The width symbols that are those of maps alone, and of which maps."""
        known, found = {*self.widths.values()}, dict[str, tuple[str, ...]]()
        for node in self.nodes:
            if node.kind == "affine" and node.width not in known:
                found[node.width] = tuple(dict.fromkeys((*found.get(node.width, ()), node.name)))
        return found

    @property
    def output(self) -> str:
        """What a layer hands on: the first output, or else the first state."""
        return (self.outputs or self.states)[0]

    @property
    def output_width(self) -> str:
        """The width of what a layer hands on."""
        return self.nodes[self.results[len(self.states) if self.outputs else 0]].width

    @cached_property
    def gates(self) -> dict[str, int]:
        """The vectors of a step that its author named, and outputs, by name: their nodes."""
        varies: list[bool] = []
        for node in self.nodes:
            varies.append(node.kind in ("input", "state") or any(varies[k] for k in node.args))
        vectors = (k for k in self.names if varies[k] and self.nodes[k].width not in ("", PER_ROW))
        named = {self.names[k]: k for k in sorted(vectors)}
        return named | dict(zip(self.outputs, self.results[len(self.states) :], strict=True))

    @cached_property
    def _returning(self) -> dict[tuple[str, ...], Graph]:
        return {}

    @constant
    def returning(self, names: tuple[str, ...]) -> Graph:
        """The same step with these states and gates as outputs, as far as they are no states.

        Raises:
            InputError: there is no such state or gate.
        """
        if names in self._returning:
            return self._returning[names]
        if unknown := [name for name in names if name not in self.states and name not in self.gates]:
            known = ", ".join((*self.states, *self.gates))
            raise InputError(f"there is no state or gate {unknown[0]!r}; there are {known}")
        gates = tuple(name for name in names if name not in self.states)
        results = (*self.results[: len(self.states)], *(self.gates[name] for name in gates))
        return self._returning.setdefault(names, replace(self, outputs=gates, results=results))

    @constant
    def key_returning(self, names: tuple[str, ...]) -> str:
        """The key of that; torch.compile can hold text where it cannot hold a graph."""
        return self.returning(names).key if names else self.key

    def sizes(self, parameters: Mapping[str, Tensor]) -> dict[str, int]:
        """What each width symbol is for these learned tensors.

        Raises:
            InputError: a tensor is missing, or its shape does not fit.
        """
        found: dict[str, int] = {}
        for name, parameter in self.parameters.items():
            if name.endswith(".bias") and name not in parameters:
                continue  # a layer may leave out every bias
            shape = tuple(parameter_in(parameters, name).shape)
            expected = tuple(found.get(s, s) for s in parameter.shape)
            if len(shape) != len(expected) or any(
                isinstance(e, int) and e != n for e, n in zip(expected, shape, strict=True)
            ):
                wanted = ", ".join(map(str, expected)) + "," * (len(expected) == 1)
                raise InputError(f"parameter {name!r} has shape {shape}, expected ({wanted})")
            found.update(zip(parameter.shape, shape, strict=True))
        return found

    def reads(self, name: str) -> bool:
        """Whether anything depends on an input."""
        return any(self.nodes[arg].name == name for node in self.nodes for arg in node.args
                   if self.nodes[arg].kind == "input")  # fmt: skip

    def uses_directly(self, name: str) -> bool:
        """Whether an input is a result or enters a pointwise operation itself, not only through a matrix."""
        return name in self._used_directly

    @cached_property
    def _used_directly(self) -> frozenset[str]:
        used = {arg for node in self.nodes if node.kind != "affine" for arg in node.args}
        used.update(self.results)
        return frozenset(self.nodes[k].name for k in used if self.nodes[k].kind == "input")

    @cached_property
    def reduces(self) -> bool:
        """Whether some value depends on all units of a row in another way than through a matrix."""
        return any(node.kind in OPERATIONS and not OPERATIONS[node.kind].pointwise for node in self.nodes)

    def without_biases(self) -> Graph:
        """The same step with every bias 0: affine maps are linear."""

        def without(node: Node) -> Node:
            if node.kind == "vector" and node.name.endswith(".bias"):
                return Node("constant")
            return replace(node, bias=None)

        return replace(self, nodes=tuple(map(without, self.nodes)))

    def run(self, values: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Compute the step on tensors.

        Args:
            values: inputs (B, D) or token numbers (B,), states (B, H), and what is drawn, by name.
            parameters: by name.

        Returns:
            the new states, then the outputs.
        """
        done = self.values(values, parameters)
        return tuple(done[k] for k in self.results)

    def values(
        self,
        values: Mapping[str, Tensor],
        parameters: Mapping[str, Tensor],
        behind: Callable[[Node, Tensor], Tensor] | None = None,
    ) -> list[Any]:
        """The value of every node on tensors; see `run`.

        Args:
            behind: `behind(node, value)`, what takes the place of the value of an affine map.
        """
        done: list[Any] = []
        for node in self.nodes:
            args = [done[k] for k in node.args]
            if node.kind in ("input", "state"):
                done.append(values[node.name])
            elif node.kind == "constant":
                done.append(node.value)
            elif node.kind in ("bernoulli", "rate", "reset"):
                done.append(values[node.leaf])
            elif node.kind == "vector":
                absent = node.name.endswith(".bias") and node.name not in parameters  # as a layer may have it
                done.append(0.0 if absent else parameter_in(parameters, node.name))
            elif node.kind == "affine":
                sources = dict(zip(node.sources, args, strict=True))
                value = affine(parameters, node.name, sources, node.bias is not None)
                done.append(value if behind is None else behind(node, value))
            else:
                done.append(OPERATIONS[node.kind].run(*args))
        return done

    def to_json(self) -> dict[str, Any]:
        """The graph as plain data; `from_json` reads it back."""
        return {
            # Numbers of a formula are written as text: JSON has no infinity.
            "nodes": [
                {k: repr(v) if k == "value" else v for k, v in vars(node).items() if v != getattr(_EMPTY, k)}
                for node in self.nodes
            ],
            "inputs": self.inputs,
            "states": self.states,
            "outputs": self.outputs,
            "results": self.results,
            "names": {str(k): v for k, v in self.names.items()},
            "initial": {k: repr(v) for k, v in self.initial.items()},
            "inits": dict(self.inits),
        }

    @staticmethod
    def from_key(key: str) -> Graph:
        """A graph that computes the same as the one with this key."""
        return Graph.from_json(json.loads(key) | {"names": {}, "inits": {}, "initial": {}})

    @staticmethod
    def from_json(data: Any) -> Graph:
        """Read a graph written by `to_json`.

        Raises:
            CellError: the data is not a graph, or uses an operation this version does not know.
        """
        try:
            nodes = tuple(_read_node(node) for node in data["nodes"])
            graph = Graph(
                nodes,
                tuple(data["inputs"]),
                tuple(data["states"]),
                tuple(data["outputs"]),
                tuple(data["results"]),
                {int(k): str(v) for k, v in data["names"].items()},
                {k: float(v) for k, v in data["initial"].items()},
                dict(data["inits"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CellError(f"this is not the graph of a cell: {error}") from error
        for index, node in enumerate(nodes):
            if node.kind not in (*LEAVES, "affine", *OPERATIONS):
                raise CellError(f"the graph uses {node.kind!r}, which this version of unrolled does not know")
            operands = len(node.sources) if node.kind == "affine" else 0
            wanted = OPERATIONS[node.kind].arity if node.kind in OPERATIONS else operands
            if len(node.args) != wanted or any(arg not in range(index) for arg in node.args):
                raise CellError(f"this is not the graph of a cell: node {index} has the wrong operands")
        if len(graph.results) != len(graph.states) + len(graph.outputs):
            raise CellError("this is not the graph of a cell: it has another number of results")
        if any(k not in range(len(nodes)) for k in graph.results):
            raise CellError("this is not the graph of a cell: a result does not exist")
        if graph.widths.keys() != {*graph.inputs, *graph.states}:
            raise CellError("this is not the graph of a cell: its inputs and states are not its nodes'")
        return graph


_EMPTY: Final = Node("")


def _read_node(data: Mapping[str, Any]) -> Node:
    fields: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}
    fields["value"] = float(data.get("value", 0.0))
    return Node(**fields)


def parameter_in(parameters: Mapping[str, Tensor], name: str) -> Tensor:
    """One of the parameters.

    Raises:
        InputError: it is missing.
    """
    if name not in parameters:
        raise InputError(f"the parameter {name!r} is missing; there are {', '.join(parameters)}")
    return parameters[name]


def affine(
    parameters: Mapping[str, Tensor], name: str, values: Mapping[str, Tensor], bias: bool = True
) -> Tensor:
    """The sum of each argument times its own matrix, plus the bias if there is one.

    An argument of integers is a batch of one-hot vectors: its product is a column of the matrix, taken
    without building the vector.
    """
    total = parameters.get(f"{name}.bias") if bias else None
    for source, value in values.items():
        matrix = parameter_in(parameters, f"{name}.{source}")
        if not value.is_floating_point():
            term = F.embedding(value.long(), matrix.t())
        elif value.shape[-1] != matrix.shape[1]:
            raise InputError(
                f"W.{name} multiplies {source!r} of width {matrix.shape[1]}, but got width {value.shape[-1]}"
            )
        elif value.ndim == 2 and total is not None:
            total = torch.addmm(total, value, matrix.t())
            continue
        else:
            term = F.linear(value, matrix)
        total = term if total is None else total + term
    if total is None:
        raise CellError(f"W.{name}() is applied to nothing; give it an argument, such as W.{name}(x)")
    return total
