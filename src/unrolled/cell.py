"""From a Python function to a cell.

    @cell(states="h c")
    def lstm(x, h, c, W):
        i = sigmoid(W.i(x, h))
        ...
        return h, c

The notation, complete:

- `W.i(x, h)` is an affine map: a matrix `i.x`, a matrix `i.h` and a bias `i.bias`. An argument computed
  in the step is named by keyword: `W.n(x, h=r * h)`. `bias=1.0` is where the bias starts, `bias=False` leaves
  it out; `init={"h": "identity"}` asks for an initialiser; `width="N"` gives the map a width of its own.
- `W.p * c`: a name that is not called is a learned vector; `W.p(init=1.0)` says where it starts.
- `W["i"]` is `W.i`, for names made in a loop.
- `fit(W.x, x, like=h)` is x where it already has h's width, or else its projection `W.x(x, bias=False)`.
- `v.mean(-1, keepdim=True)`, or the same with `torch.mean`, `sum` or `amax`, is one number a row, taken over
  the units of v; it meets values of every width. `layer_norm(v, W.gain_v, W.bias_v)` and `rms_norm` are
  written with it.
- Everything else is an operator or a torch function from `unrolled.graph.OPERATIONS`.
- Parameters of the function: the inputs, the states in order, `W`; keyword-only ones are the cell's options.
- It returns the new states in order, then the values declared as `outputs`.

The function runs once on symbols when it is defined. That finds mistakes and yields the graph, from which the
parameters, shapes, formulas and drawings are derived. Values that meet in an operation have one width; the
input's is D, the states' is H (H_h and H_c where two states differ, as in an LSTM with a projection). What
meets neither has the states' width where they have only one, or one of its own: `W.n(x, h, width="N")`.
"""

from __future__ import annotations

import inspect
import linecache
import sys
import types
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unrolled.errors import CellError, InputError
from unrolled.explanation import Explanation
from unrolled.graph import OPERATIONS, PER_ROW, Graph, Parameter, affine, parameter_in
from unrolled.options import options_of
from unrolled.trace import Operand, Symbol, Trace, TracedWeight
from unrolled.tracing import constant


class Cell:
    """One step of a recurrence, from its graph.

    Attributes:
        name: what it is called, with the options that differ from their defaults.
        graph: the step as data, for an input of its own width D.
        square: the step where the input is as wide as the state; it differs only where `fit` is used.
    """

    def __init__(self, name: str, graph: Graph, square: Graph | None = None) -> None:
        self.name = name
        self.graph = graph
        self._square = square

    @property
    def square(self) -> Graph:
        return self._square or self.graph

    @constant
    def settle(self) -> None:
        """Compute now what is computed when it is first asked for, which torch.compile cannot trace."""
        for graph in (self.graph, self.square):
            _ = self._needed, graph.key, graph.parameters_tell, graph.uses_directly("")
            _ = graph.draws, graph.is_random, graph.resets

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.graph.inputs

    @property
    def states(self) -> tuple[str, ...]:
        return self.graph.states

    @property
    def outputs(self) -> tuple[str, ...]:
        return self.graph.outputs

    @property
    def parameters(self) -> dict[str, Parameter]:
        """The learned tensors by name, shapes in the symbols D and H."""
        return self.graph.parameters

    def graph_for(self, input_width: int, state_width: int) -> Graph:
        """The step for these widths."""
        return self.square if input_width == state_width else self.graph

    def graph_using(self, parameters: Mapping[str, Tensor]) -> Graph:
        """The step that these parameters belong to."""
        return self.graph if all(name in parameters for name in self._needed) else self.square

    @cached_property
    def _needed(self) -> tuple[str, ...]:
        return tuple(name for name in self.graph.parameters if not name.endswith(".bias"))

    def __call__(self, *values: Any) -> Any:
        """Run one step on tensors: `cell(x, h, c, W)`.

        Args:
            values: the inputs (B, D) or token numbers (B,), the states (B, H), and W, a mapping from
                parameter names to tensors.

        Returns:
            the new states, then the outputs; one alone is not wrapped in a tuple.
        """
        names = (*self.inputs, *self.states)
        if len(values) != len(names) + 1:
            raise InputError(
                f"cell {self.name!r} takes ({', '.join(names)}, W), but got {len(values)} values"
            )
        results = self.run(dict(zip(names, values[:-1], strict=True)), values[-1])
        return results[0] if len(results) == 1 else results

    def run(self, values: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Run one step by names; returns the new states, then the outputs."""
        return self.graph_using(parameters).run(values, parameters)

    def explain(
        self,
        input_size: int | None = None,
        hidden_size: int | Mapping[str, int] | None = None,
        batch: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Explanation:
        """What compiled code does at each step, what it saves, and what that costs: `print(lstm.explain())`.

        How many products run together depends on the registers of this processor.

        Args:
            input_size: D, the width of the input; what is left out stays a symbol.
            hidden_size: H, the width of the states; a mapping by state name where they differ.
            batch: B, the rows that go through the loop together.
            dtype: what is computed in.

        Raises:
            InputError: a size is not a whole number from 1, or is of no state.
        """
        # What explains a cell stands on cells; when this is called, everything has been imported.
        from unrolled.compile.explain import explain

        return explain(self, input_size, hidden_size, batch, dtype)

    def __repr__(self) -> str:
        results = ", ".join((*self.states, *self.outputs))
        return f"<cell {self.name}: ({', '.join((*self.inputs, *self.states))}) -> ({results})>"

    def __deepcopy__(self, memo: Any) -> Cell:
        return self

    def __reduce__(self) -> Any:
        return Cell, (self.name, self.graph, self.square)


class EquationCell(Cell):
    """A cell defined by a function; made by `cell`.

    Attributes:
        options: the value of each option by name.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        states: tuple[str, ...],
        outputs: tuple[str, ...] = (),
        initial: Mapping[str, float] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.function = function
        self.base_name = function.__name__
        self.__doc__ = inspect.getdoc(function)
        self._declared = (states, outputs, initial or {})
        self._known = options_of(function)
        for name in options or {}:
            if name not in self._known:
                has = f"its options: {', '.join(self._known)}" if self._known else "it has none"
                raise CellError(f"cell {self.base_name!r} has no option {name!r}; {has}")
        given = {k: self._known[k].read(v, self.base_name) for k, v in (options or {}).items()}
        self.options = {name: given.get(name, known.default) for name, known in self._known.items()}
        self._changed = {k: v for k, v in self.options.items() if v != self._known[k].default}
        changed = ", ".join(f"{k}={str(v).lower()}" for k, v in self._changed.items())
        super().__init__(
            f"{self.base_name}({changed})" if changed else self.base_name, self._trace(square=False)
        )
        self._sources = {n.name: n.sources for n in self.graph.nodes if n.kind == "affine"}

    @cached_property
    def square(self) -> Graph:
        return self._trace(square=True)

    @property
    def option_help(self) -> dict[str, str]:
        """What each option takes, in words, by name."""
        return {name: known.takes for name, known in self._known.items()}

    def with_options(self, **options: Any) -> EquationCell:
        """The same cell with other options.

        Raises:
            CellError: no such option, or a value it does not take; the message lists what it takes.
        """
        return EquationCell(self.function, *self._declared, self._changed | options)

    def run(self, values: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        if self._drops:  # the function asks for weights that no result needs, so they are not there
            return super().run(values, parameters)
        W = Weights(lambda name: BoundWeight(parameters, self._sources, name))
        arguments = [values[name] for name in (*self.inputs, *self.states)]
        results = self.function(*arguments, W, **self.options)
        return results if isinstance(results, tuple) else (results,)

    def __reduce__(self) -> Any:
        home = sys.modules.get(self.function.__module__)
        found = getattr(home, self.base_name, None)
        if isinstance(found, EquationCell) and found.function is self.function:
            return find_again, (self.function.__module__, self.base_name, self._changed)
        return super().__reduce__()

    def _trace(self, square: bool) -> Graph:
        states, outputs, initial = self._declared
        trace = Trace(_inputs_of(self.function, states), states, square)
        W = Weights(lambda name: TracedWeight(trace, name))
        returned, local = _run_on_symbols(
            self.function, (*trace.inputs.values(), *trace.states.values(), W), self.options
        )
        values = returned if isinstance(returned, tuple) else (returned,)
        wanted = (*states, *outputs)
        where = f"cell {self.base_name!r}"
        if len(values) != len(wanted):
            raise CellError(
                f"{where} returns {len(values)} values where {len(wanted)} are declared: {', '.join(wanted)}"
            )
        results = tuple(trace.operand(value) for value in values)
        for name, result in zip(wanted, results, strict=True):
            if not result.width:
                raise CellError(f"{where} returns a number for {name}: it must be a vector")
            if result.width == PER_ROW:
                raise CellError(f"{where} returns one number a row for {name}: it must be a vector")
            if not trace.varies(result.index):
                raise CellError(
                    f"{where} returns learned vectors for {name}: it must use an input or a state"
                )
            if name in states:
                trace.unify((result.index, trace.states[name].index), f"{where}: the new {name}")
        if unknown := initial.keys() - set(states):
            raise CellError(
                f"{where} gives an initial value to {min(unknown)!r}, which is not one of its states"
            )
        taken = {*trace.inputs, *states, *outputs}
        names = {v.index: k for k, v in reversed(local.items()) if isinstance(v, Symbol) and k not in taken}
        graph = trace.finish(results, outputs, names, initial)
        asked, kept = (
            {(n.kind, n.name) for n in nodes if n.kind in ("vector", "affine")}
            for nodes in (trace.nodes, graph.nodes)
        )
        self._drops = asked != kept
        return graph


class Weights:
    """The `W` of a cell's equations."""

    def __init__(self, weight: Callable[[str], Any]) -> None:
        self.__weight = weight

    def __getattr__(self, name: str) -> Any:
        if not isinstance(name, str) or not name.isidentifier() or name.startswith("_"):
            raise CellError(f"W.{name}: the name of a weight is a plain word")
        return self.__weight(name)

    __getitem__ = __getattr__


class BoundWeight(Operand):
    """`W.name` on tensors: the learned vector itself, or the affine map when called with values."""

    def __init__(
        self, parameters: Mapping[str, Tensor], sources: Mapping[str, tuple[str, ...]], name: str
    ) -> None:
        self._parameters = parameters
        self._sources = sources
        self._name = name

    def __call__(
        self, *values: Tensor, bias: Any = None, init: Any = None, width: Any = None, **named: Tensor
    ) -> Tensor:
        if self._name not in self._sources:
            return parameter_in(self._parameters, self._name)
        positional = dict(zip(self._sources[self._name], values, strict=False))
        return affine(self._parameters, self._name, {k: _tensor(v) for k, v in (positional | named).items()})

    def apply(self, name: str, operands: tuple[Any, ...]) -> Any:
        return OPERATIONS[name].run(*map(_tensor, operands))

    def is_map(self) -> bool:
        """Whether the parameters have a matrix for every argument of the map."""
        return all(f"{self._name}.{source}" in self._parameters for source in self._sources[self._name])


def _tensor(value: Any) -> Any:
    return parameter_in(value._parameters, value._name) if isinstance(value, BoundWeight) else value


def cell(
    *, states: str, outputs: str = "", initial: Mapping[str, float] | None = None
) -> Callable[[Callable[..., Any]], EquationCell]:
    """Make a cell of a function; the module's first lines give the notation.

    Args:
        states: the names of the states, separated by blanks, in the order of the function's arguments.
        outputs: names of values returned after the states; a layer hands on the first of them, or else the
            first state.
        initial: what a state starts from where that is not 0, as in `{"m": -math.inf}`.

    Raises:
        CellError: the function is not a cell; the message names the line and what to write instead.
    """
    return lambda function: EquationCell(function, tuple(states.split()), tuple(outputs.split()), initial)


def fit(weight: Any, x: Any, like: Any) -> Any:
    """x itself where it is as wide as `like`, and its projection `weight(x, bias=False)` where it is not.

    For equations that add an input to a hidden vector, such as MUT1's.
    """
    if isinstance(x, Symbol):
        return x if x.width == like.width else weight(x, bias=False)
    if weight.is_map():
        return weight(x, bias=False)
    return x if x.is_floating_point() else F.one_hot(x.long(), like.shape[-1]).to(like.dtype)


def layer_norm(v: Any, gain: Any = None, bias: Any = None, *, eps: float = 1e-5) -> Any:
    """v with mean 0 and variance 1 over the units of each row, times the gain, plus the bias.

        (v − μ) / √(σ² + eps) ⊙ gain + bias,  μ = mean(v),  σ² = mean((v − μ)²)

    For equations, as in `layer_norm(W.a(x, h), W.gain_a, W.bias_a)`, and for tensors. A learned gain starts
    at 1 and a learned bias at 0; `W.gain_a(init=0.1)` starts elsewhere.

    Source: Ba, Kiros & Hinton 2016, arXiv:1607.06450.
    """
    return _normal("layer_norm", v, gain, bias, eps)


def rms_norm(v: Any, gain: Any = None, bias: Any = None, *, eps: float = 1e-5) -> Any:
    """v with a mean square of 1 over the units of each row, times the gain, plus the bias.

        v / √(mean(v²) + eps) ⊙ gain + bias

    As `layer_norm` otherwise.

    Source: Zhang & Sennrich 2019, arXiv:1910.07467.
    """
    return _normal("rms_norm", v, gain, bias, eps)


def _normal(row: str, v: Any, gain: Any, bias: Any, eps: float) -> Any:
    normal = v.apply(row, (v, eps)) if isinstance(v, Operand) else OPERATIONS[row].run(v, eps)
    if gain is not None:
        normal = normal * _starting(gain, 1.0)
    return normal if bias is None else normal + _starting(bias, 0.0)


def _starting(weight: Any, value: float) -> Any:
    """The learned vector, starting from a value where it is not said otherwise."""
    return weight(init=value) if isinstance(weight, TracedWeight | BoundWeight) else weight


def find_again(module: str, name: str, options: dict[str, Any]) -> EquationCell:
    found: EquationCell = getattr(sys.modules.get(module) or __import__(module, fromlist=[name]), name)
    return found.with_options(**options) if options else found


def _inputs_of(function: Callable[..., Any], states: tuple[str, ...]) -> tuple[str, ...]:
    parameters = inspect.signature(function).parameters.values()
    names = tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)
    if taken := {"bias", "init", "width"} & {*names}:
        raise CellError(
            f"cell {function.__name__!r} has a value called {min(taken)!r}, an option of W.name(): rename it"
        )
    inputs = names[: len(names) - len(states) - 1]
    if not states or names != (*inputs, *states, "W"):
        wanted = ", ".join(("x", *states, "W"))
        raise CellError(
            f"cell {function.__name__!r} takes ({', '.join(names)}), but declares the states "
            f"{' '.join(states)!r}: write def {function.__name__}({wanted})"
        )
    return inputs


def _run_on_symbols(
    function: Callable[..., Any], arguments: tuple[Any, ...], options: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """What the function returns, and its local variables as it returned: the author's names for values."""
    local: dict[str, Any] = {}
    code = inspect.unwrap(function).__code__

    def see(frame: types.FrameType, event: str, _: Any) -> None:
        if event == "return" and frame.f_code is code:
            local.update(frame.f_locals)

    before = sys.getprofile()
    sys.setprofile(see)
    try:
        return function(*arguments, **options), local
    except Exception as error:
        raise CellError(_locate(function, error)) from error
    finally:
        sys.setprofile(before)


def _locate(function: Callable[..., Any], error: Exception) -> str:
    """The message of an error in a cell's function, with the line where it happened."""
    message = str(error) if isinstance(error, CellError) else f"{type(error).__name__}: {error}"
    message = message.splitlines()[0]
    line, traceback = 0, error.__traceback__
    code = inspect.unwrap(function).__code__
    while traceback:
        if traceback.tb_frame.f_code is code:
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    file = code.co_filename
    text = linecache.getline(file, line).strip()
    return f"cell {function.__name__!r}, {file}:{line}: {message}" + (f" (in `{text}`)" if text else "")
