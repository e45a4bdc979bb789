"""What several tests share: cells that only the tests define, and random cases in float64."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, exp, maximum, sigmoid, tanh
from torch.nn.functional import softplus

from unrolled.cell import Cell, EquationCell, cell
from unrolled.cells import CELLS, VARIANTS, find
from unrolled.scan import scan


@cell(states="c n m", outputs="y", initial={"m": -math.inf})
def slstm(x, c, n, m, W):
    """Exponential gates kept finite by a running maximum; the output is no state (arXiv:2405.04517)."""
    i = W.i(x, c)
    log_f = -softplus(-W.f(x, c))
    top = maximum(log_f + m, i)
    i = exp(i - top)
    f = exp(log_f + m - top)
    c = f * c + i * tanh(W.z(x, c))
    n = f * n + i
    y = sigmoid(W.o(x, c=c)) * c / maximum(abs(n), exp(-top))
    return c, n, top, y


@cell(states="y z")
def oscillator(x, y, z, W, *, dt: float = 0.25, damping: float = 0.5):
    """Coupled damped oscillators (arXiv:2010.00951)."""
    z = z + dt * (tanh(W.z(x, y, z)) - y - damping * z)
    y = y + dt * z
    return y, z


@cell(states="a b c")
def delays(x, a, b, c, W):
    """A line of delays: two of the three states are another's old value."""
    return tanh(W.a(x, a, b, c)), a, b


@cell(states="h")
def two_products(x, h, W):
    """A product of a product, and a map applied twice in one step."""
    inner = sigmoid(W.inner(x, h))
    middle = tanh(W.n(v=inner))
    return W.n(v=middle) + W.p * h


@cell(states="h c")
def projected(x, h, c, W):
    """States of two widths."""
    c = tanh(W.c(x, h)) + W.decay * c
    return W.h(c=c, bias=False), c


@cell(states="h")
def by_sign(x, h, W):
    """Another slope on each side of zero."""
    pre = W.n(x, h, bias=0.125)
    return torch.where(pre > 0, pre, W.slope * torch.expm1(pre)) / (1 + abs(pre))


@cell(states="h", outputs="y")
def direct(x, h, W):
    """x enters an equation itself, and a second value is handed on."""
    h = tanh(W.n(h, v=W.gain * x))
    return h, W.y(h=h, x=x) - 2


@cell(states="h c")
def row_numbers(x, h, c, W):
    """Numbers of a row: of inputs, states and a learned vector, alone, of each other, and meeting vectors."""
    a = W.a(x, h)
    mean = a.mean(-1, keepdim=True)
    variance = torch.mean((a - mean) ** 2, -1, keepdim=True)
    largest = maximum(x.mean(-1, keepdim=True), torch.sum(mean, -1, keepdim=True) + 0.25)
    level = sigmoid(c.sum(-1, keepdim=True) - torch.mean(W.q, -1, keepdim=True))
    h = torch.where(variance > largest, W.gain * mean, tanh(a / torch.sqrt(variance + 0.5))) + h * level
    return h, W.q * largest - W.r(v=level * x)


@cell(states="h")
def attending(x, h, W):
    """A softmax over the units."""
    e = W.e(x, h)
    e = exp(e - e.amax(-1, keepdim=True))
    return e / e.sum(-1, keepdim=True) * tanh(W.v(x, h)) + W.keep * h


@cell(states="h", outputs="y z")
def two_outputs(x, h, W):
    """The second of two outputs is handed on by nobody, and has a matrix that nothing else needs."""
    h = tanh(W.n(x, h))
    return h, W.y(h=h), sigmoid(W.z(h=h))


@cell(states="h")
def encoded(x, h, W):
    """A map of a map of x: it depends on no state."""
    return tanh(W.n(h, v=tanh(W.b(x))))


@cell(states="h")
def keyed(x, h, W):
    """A map of a learned vector."""
    return tanh(W.n(x, h, v=W.key) + W.m(v=tanh(W.key)))


@cell(states="h")
def stepped(x, h, W):
    """Conditions in arithmetic."""
    a = W.a(x, h)
    return tanh(a) * (a > 0) + 0.5 * h * (a > h) - (a <= W.low) * 0.25


@cell(states="h c")
def namesakes(x, h, c, W):
    """Learned vectors with the names of the states, of the other's width; a map with that of the input."""
    h = tanh(W.x(x, h)) * W.c
    return h, tanh(W.m(h=h) + c) * W.h


@cell(states="h c e", outputs="y")
def exchanged(x, h, c, e, W):
    """States change places; the output is the only work."""
    return c, e, h, tanh(W.a(x, h, c, e)) - e


@cell(states="a b c")
def tower(x, a, b, c, W):
    """Three states of three widths, each fed by the one below as it now is: three products in a row."""
    a = tanh(W.a(x, a))
    b = tanh(W.b(b, a=a))
    return a, b, 0.5 * c + 0.5 * tanh(W.c(c, b=b))


@cell(states="h")
def many_gates(x, h, W):
    """More products of one level than a register tile holds, some in one sum."""
    total = W.zero(x, h) + W.shared(h=h) + W.other(h=h)
    for k in range(5):
        total = total + sigmoid(W[f"gate_{k}"](x, h)) * tanh(W[f"value_{k}"](h=h))
    return tanh(total)


@cell(states="h")
def leaky(x, h, W):
    """Linear throughout; the only product is of x."""
    return W.decay * h + W.a(x, bias=False)


@cell(states="h", outputs="error")
def predictive(x, h, W):
    """What comes in is predicted, and the state is moved by the error: a value as wide as the input."""
    error = x - W.down(h=h)
    return h + 0.25 * tanh(W.up(e=error) - W.leak * h), error


@cell(states="h")
def chained(x, h, W):
    """A map of a map with nothing between, so that a product's operand is a product in both directions."""
    return sigmoid(W.c(v=W.b(v=W.a(x, h, bias=False), bias=False))) - 0.5


@cell(states="h c")
def carried(x, h, c, W):
    """A state that only pointwise work moves, and that a map reads; a sum that a map enters as it is."""
    return tanh(W.a(x, h, c)), 0.5 * c + W.b(h=h) + 0.25 * W.low


@cell(states="h c")
def driven(x, h, c, W):
    """A state that x alone moves, ahead of the product that reads it."""
    return tanh(W.a(h, c)), 0.5 * c + W.b(x)


@cell(states="h")
def siamese(x, h, W):
    """One map of the input and of a value as wide as the input."""
    return tanh(W.a(v=x) + W.a(v=tanh(W.b(h))) + 0.5 * h)


@cell(states="h")
def spherical(x, h, W):
    """A state of length one, and gates by how it is turned."""
    new = h + W.n(x, h)
    new = new / torch.sqrt(torch.sum(new * new, -1, keepdim=True) + 0.25)
    same = torch.sum(new * h, -1, keepdim=True)
    return new * sigmoid(W.gain * same) + W.rest * (1 - same)


@cell(states="h m", initial={"m": -math.inf})
def log_sum(x, h, m, W):
    """A running logarithm of a sum of exponentials, and a power of it."""
    a = W.a(x, h)
    top = maximum(m, a)
    m = top + torch.log(exp(m - top) + exp(a - top))
    return tanh(W.h(x, h)) * (abs(m) + 0.5) ** torch.sin(W.p * h), m


@cell(states="h")
def liquid(x, h, W, *, dt: float = 0.25):
    """A time constant that the input moves (arXiv:2006.04439)."""
    f = sigmoid(W.f(x, h))
    return (h + dt * f * W.top) / (1 + dt * (softplus(W.rate) + f))


OWN = (
    *(slstm, oscillator, delays, two_products, projected, by_sign, direct, row_numbers, attending),
    *(two_outputs, encoded, keyed, stepped, namesakes, exchanged, tower, many_gates, leaky, predictive),
    *(chained, carried, driven, siamese, spherical, log_sum, liquid),
)

SPELLED = (
    *CELLS,
    *VARIANTS,
    "rnn(activation=sigmoid)",
    "rnn(activation=softplus)",
    "rnn(activation=maxout)",
    "indrnn(activation=tanh)",
    "lstm(peepholes=matrix, forget_bias=1.5)",
    "lstm(coupled=true)",
    "lstm(projection=true, peepholes=vector)",
    "residual(products=two, activation=tanh)",
    "highway(activation=maxout, carry_bias=1)",
    "highway(activation=softplus, coupled=false)",
    "rhn(layers=2, coupled=false)",
    "layer_norm_lstm(forget_bias=1, eps=0.01)",
    "narx(lags=1,3, activation=relu, output=tanh)",
    "delayed_rnn(lags=2-3)",
)


@dataclass(frozen=True)
class Setting:
    """A cell and the sizes it is tried with; states of several widths get H, H + 1, ..."""

    cell: EquationCell
    D: int = 3
    H: int = 2

    @property
    def id(self) -> str:
        return self.cell.name + (" (D = H)" if self.D == self.H else "")

    def sized(self, D: int, H: int) -> Setting:
        return Setting(self.cell, D, H)

    @property
    def state_sizes(self) -> dict[str, int]:
        symbols = dict.fromkeys(self.cell.graph.widths[name] for name in self.cell.states)
        width = {symbol: self.H + k for k, symbol in enumerate(symbols)}
        return {name: width[self.cell.graph.widths[name]] for name in self.cell.states}

    @property
    def own_sizes(self) -> dict[str, int]:
        """The widths that are those of maps alone."""
        return dict.fromkeys(self.cell.graph.own_widths, self.H + 3)

    def case(self, T: int = 3, B: int = 2) -> Case:
        """Random inputs, states and parameters, biases and vectors among them."""
        graph = self.cell.graph_for(self.D, self.H)
        sizes = {graph.widths[name]: size for name, size in self.state_sizes.items()}
        sizes |= {graph.widths["x"]: self.D, **self.own_sizes}
        return Case(
            self.cell,
            random(T, B, self.D),
            {name: random(B, size) for name, size in self.state_sizes.items()},
            {name: random(*(sizes[s] for s in p.shape)) for name, p in graph.parameters.items()},
        )


@dataclass(frozen=True)
class Case:
    """A cell with an input sequence (T, B, D), states (B, H) and parameters, all requiring gradients."""

    cell: Cell
    x: Tensor
    state: Mapping[str, Tensor]
    parameters: Mapping[str, Tensor]

    @property
    def leaves(self) -> dict[str, Tensor]:
        states = {f"state {name}": value for name, value in self.state.items()}
        return {"x": self.x} | states | dict(self.parameters)

    def scan(self, x: Tensor | None = None, state: Mapping[str, Tensor] | None = None, **options):
        options.setdefault("backend", "reference")
        return scan(self.cell, self.x if x is None else x, state or self.state, self.parameters, **options)

    def step(self, x: Tensor, state: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """What a layer hands on and the new states, by calling the cell."""
        results = self.cell(x, *state.values(), self.parameters)
        results = results if isinstance(results, tuple) else (results,)
        handed_on = results[len(self.cell.states)] if self.cell.outputs else results[0]
        return handed_on, dict(zip(self.cell.states, results, strict=False))

    def unrolled(self) -> tuple[Tensor, dict[str, Tensor]]:
        """`scan`, step by step."""
        outputs, state = [], dict(self.state)
        for x_t in self.x:
            output, state = self.step(x_t, state)
            outputs.append(output)
        return torch.stack(outputs), state


SETTINGS = (
    *(Setting(c, H=5 if c.graph.reduces else 2) for c in dict.fromkeys((*map(find, SPELLED), *OWN))),
    Setting(CELLS["mut1"], 3, 3),
    Setting(CELLS["mut2"], 3, 3),
)

DIVERSE = tuple(
    {setting.id: setting for setting in SETTINGS}[name]
    for name in (
        *("rnn", "lstm(peepholes=vector)", "gru_cho", "mut1", "mut1 (D = H)", "layer_norm_lstm", "indrnn"),
        *("rhn", "slstm", "delays", "two_products", "projected", "row_numbers", "attending", "two_outputs"),
        *("tower", "keyed", "encoded", "oscillator", "direct", "leaky"),
    )
)
"""One of each structure, for laws about what is done with equations, whichever they are: one product a step
and two, none of the state, of a product, of x alone; states of several widths, starts and speeds; outputs
that are no states; work on rows; maps and vectors that depend on nothing or on x alone; D = H."""

ON_BACKENDS = (*((each, "reference") for each in SETTINGS), *((each, "cpu") for each in DIVERSE))
"""Every cell by its equations, and of each structure one compiled: for laws of what is made of a cell."""


def id_of(value: object) -> str | None:
    """What a setting is called in a test's name."""
    return value.id if isinstance(value, Setting) else None


def random(*shape: int) -> Tensor:
    """Numbers of either sign that require a gradient."""
    return torch.randn(shape, dtype=torch.float64).mul_(0.7).requires_grad_()


def flat(outputs: Tensor, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {"outputs": outputs} | {f"final {name}": value for name, value in state.items()}


def gradients(results: Mapping[str, Tensor], leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The gradient of a fixed random sum of all results with respect to every leaf, by name."""
    generator = torch.Generator().manual_seed(1)
    total = torch.zeros((), dtype=torch.float64)
    for value in results.values():
        weight = torch.randn(value.shape, dtype=torch.float64, generator=generator)
        total = total + (value * weight).sum()
    found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True, retain_graph=True)
    return {
        f"d {name}": torch.zeros_like(leaf) if grad is None else grad
        for (name, leaf), grad in zip(leaves.items(), found, strict=True)
    }


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float = 0.0) -> None:
    """Every tensor by name: equal bit for bit, or within `tolerance` of the largest expected value."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        if not tolerance:
            assert torch.equal(found[name], value), name
        else:
            error, size = (found[name] - value).detach().abs().max(), value.detach().abs().max()
            assert float(error) <= tolerance * max(1.0, float(size)), name


def one_line(error: BaseException) -> str:
    """The message of an error, which is one line."""
    (line,) = str(error).splitlines()
    return line
