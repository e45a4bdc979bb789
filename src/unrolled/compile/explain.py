"""What compiled code does at each step of a cell, and what that costs. Nothing is compiled to say so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from unrolled.cell import Cell
from unrolled.compile.derive import derive
from unrolled.compile.engine import host_cannot
from unrolled.compile.loop import SCALARS, Loop
from unrolled.compile.names import Names, counterparts, delta, product, symbol
from unrolled.compile.schedule import Stage, reduces, schedule
from unrolled.compile.step import Builder, Expression, Node, Step
from unrolled.errors import InputError
from unrolled.explanation import BACKWARD, FORWARD, Count, Explanation, Pass, Traffic, Work, total
from unrolled.formula import NOW
from unrolled.graph import OPERATIONS, PER_ROW


def explain(
    cell: Cell,
    input_size: int | None = None,
    hidden_size: int | Mapping[str, int] | None = None,
    batch: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Explanation:
    """See `Cell.explain`."""
    _check("input_size", input_size)
    _check("batch", batch)
    known = _state_sizes(cell, hidden_size)
    square = input_size is not None and known.get(cell.states[0]) == input_size
    graph = cell.square if square else cell.graph
    sizes = {graph.widths.get(name, name): size for name, size in known.items()}
    if input_size is not None:
        sizes |= {graph.widths[name]: input_size for name in cell.inputs[:1]}
    if batch is not None:
        sizes["B"] = batch
    return _Explainer(cell, Loop(graph, dtype if dtype in SCALARS else torch.float32), dtype, sizes).explain()


def _check(what: str, size: int | None) -> None:
    if size is not None and (not isinstance(size, int) or size < 1):
        raise InputError(f"{what} must be a whole number from 1, got {size!r}")


def _state_sizes(cell: Cell, hidden_size: int | Mapping[str, int] | None) -> dict[str, int]:
    """The width of each state, and by its symbol each width that is a map's own, as far as they are known."""
    if hidden_size is None:
        return {}
    symbols = {name: cell.graph.widths[name] for name in cell.states} | {s: s for s in cell.graph.own_widths}
    if not isinstance(hidden_size, Mapping):
        _check("hidden_size", hidden_size)
        return dict.fromkeys(symbols, hidden_size)
    if unknown := hidden_size.keys() - symbols.keys():
        raise InputError(f"hidden_size names {min(unknown)!r}; the states are {', '.join(symbols)}")
    of_width: dict[str, int] = {}
    for name, size in hidden_size.items():
        _check(f"hidden_size of {name}", size)
        if of_width.setdefault(symbols[name], size) != size:
            raise InputError(
                f"the states of cell {cell.name!r} must be of one width, got {dict(hidden_size)}"
            )
    return {name: of_width[symbol] for name, symbol in symbols.items() if symbol in of_width}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _numbers(*nodes: Node) -> Count:
    """How many numbers these values have for a row."""
    return total(Count.of(*(() if node.width == PER_ROW else (node.width,))) for node in nodes)


def _work(step: Step, stages: Iterable[Stage]) -> Work:
    """The operations of a step, each value computed once. A sum of products is the products' own work."""
    nodes = step.nodes
    products = [Count.of(n.width, nodes[n.args[0]].width) * 2 for n in nodes if n.kind == "product"]
    pointwise = [_numbers(nodes[n.args[0]] if reduces(n.kind) else n) for n in nodes if n.kind in OPERATIONS]
    joined = [_numbers(nodes[d.node]) * (1 - len(d.terms)) for s in stages for d in s.destinations]
    return Work(total(products), total(pointwise + joined))


class _Explainer:
    """A loop, its passes, and the same for what is computed before the loop."""

    def __init__(self, cell: Cell, loop: Loop, dtype: torch.dtype, sizes: Mapping[str, int]) -> None:
        self.cell = cell
        self.loop = loop
        self.dtype = dtype
        self.sizes = sizes
        self.names = Names(loop)
        self.values = [k for k in loop.saved if loop.step.nodes[k].kind != "read"]
        self.forward = schedule(loop.step, self.values)
        self.backward = schedule(loop.adjoint.step)
        builder = Builder()
        builder.nodes = list(loop.whole.nodes)
        computed = {f"before {k}": Expression(builder, k) for k in (*loop.projected, *loop.given)}
        self.before = builder.finish(computed)
        self.behind = derive(self.before)
        origin = counterparts(loop.whole, self.before, lambda k: [])
        self.before_names = {there: self.names.whole[k] for k, there in origin.items()}
        read = not loop.reads.isdisjoint(f"before {k}" for k in loop.projected)
        self.saved_projections = loop.projected if read else ()  # side by side, so all or none
        self.saved_states = [
            s
            for s in loop.graph.states
            if s not in loop.handed_on and not loop.reads.isdisjoint({s, f"new {s}"})
        ]

    def explain(self) -> Explanation:
        loop, names = self.loop, self.names
        saved = self._saved()
        widths: dict[str, list[str]] = {}
        for name, width in loop.graph.widths.items():
            widths.setdefault(width, []).append(name)
        return Explanation(
            cell=self.cell.name,
            dtype=_name(self.dtype),
            reason=self._reason(),
            widths={symbol: tuple(found) for symbol, found in widths.items()} | loop.graph.own_widths,
            sizes=self.sizes,
            before=tuple(map(self._projection, sorted(loop.projected))),
            given=tuple(names.whole[k] for k in loop.given),
            forward=tuple(map(self._forward_pass, range(len(self.forward)))),
            backward=tuple(map(self._backward_pass, self.backward)),
            added=tuple(symbol(name) for name in self._ordered(loop.adjoint.vectors)),
            summed=self._summed(),
            input_gradient=self._input_gradient(),
            saved=tuple((name, self._bytes(count)) for name, count in saved),
            present=self._present(),
            again=self._again(),
            work={name: self._sized(work) for name, work in self._work().items()},
            traffic=self._traffic(total(count for _, count in saved)),
        )

    def _projection(self, k: int) -> str:
        """The product of an input, with its name if it has one of its own."""
        names, node = self.names, self.loop.whole.nodes[k]
        text = product(node.name, names.whole[node.args[0]])
        return f"{names.whole[k]} = {text}" if k in names.told else text

    def _reason(self) -> str | None:
        """Why this is not compiled."""
        if len(self.cell.inputs) != 1:
            return f"a sequence feeds a cell one input, and this one takes {len(self.cell.inputs)}"
        if self.dtype not in SCALARS:
            return f"kernels compute in {' or '.join(map(_name, SCALARS))}, not {_name(self.dtype)}"
        return host_cannot()

    def _ordered(self, parameters: Iterable[str]) -> list[str]:
        return sorted(parameters, key=list(self.loop.graph.parameters).index)

    def _sized(self, work: Work) -> Work:
        return Work(work.products.at(self.sizes), work.pointwise.at(self.sizes))

    def _bytes(self, numbers: Count) -> Count:
        return (numbers * self.dtype.itemsize).at(self.sizes)

    # Passes

    def _forward_pass(self, number: int) -> Pass:
        """A pass with all that its author named and all that is kept for later."""
        stage, names, nodes = self.forward[number], self.names, self.loop.step.nodes
        earlier = {k for s in self.forward[:number] for k in self._computed(s)}
        kept = {*stage.wanted, *stage.reductions}
        shown = [k for k in self._computed(stage) - earlier if k in kept or names.origin[k] in names.told]
        then = [
            name
            for k in sorted(shown, key=lambda k: names.origin[k])
            for name in ([names.step[k]] if nodes[k].args else self._moved_on(k))
        ]
        return Pass(self._products(stage, adjoint=False), tuple(then))

    def _moved_on(self, k: int) -> list[str]:
        """The results that are what was read as node k."""
        return [f"{name}{NOW}" for name, result in self.loop.step.results.items() if result == k]

    def _computed(self, stage: Stage) -> set[int]:
        """The nodes of the step that a pass may compute: what it stores, and all below."""
        found: set[int] = set()
        left = [*stage.wanted, *stage.reductions]
        while left:
            k = left.pop()
            if k not in found:
                found.add(k)
                left += self.loop.step.nodes[k].args
        return found

    def _backward_pass(self, stage: Stage) -> Pass:
        then = sorted((*stage.wanted, *stage.reductions), key=self.names.rank)
        return Pass(self._products(stage, adjoint=True), tuple(self.names.adjoint[k] for k in then))

    def _products(self, stage: Stage, adjoint: bool) -> tuple[str, ...]:
        order = list(self.loop.graph.parameters)
        sums = [sorted(d.terms, key=lambda t: order.index(t.matrix)) for d in stage.destinations]
        sums.sort(key=lambda terms: order.index(terms[0].matrix))
        return tuple(" + ".join(self.names.product(t, adjoint) for t in terms) for terms in sums)

    # After the loop

    def _summed(self) -> dict[str, tuple[str, ...]]:
        found: dict[str, dict[str, None]] = {}
        for adjoint, called in ((self.behind, self.before_names), (self.loop.adjoint, self.names.step)):
            for matrix in self._ordered(adjoint.matrices):
                for _, operand in adjoint.matrices[matrix]:
                    found.setdefault(called[operand], {})[symbol(matrix)] = None
        return {operand: tuple(matrices) for operand, matrices in found.items()}

    def _input_gradient(self) -> tuple[str, ...]:
        """The summands of the gradient of the input."""
        loop, results = self.loop, self.loop.adjoint.step.results
        matrices = self._ordered(loop.whole.nodes[k].name for k in loop.projected)
        parts = [product(matrix, delta(matrix), transposed=True) for matrix in matrices]
        parts += ["what the loop gives" for k in loop.direct if f"d_before {k}" in results]
        return tuple(parts + [f"what comes through {self.names.whole[k]}" for k in loop.given])

    # What is kept

    def _saved(self) -> list[tuple[str, Count]]:
        """The values that are saved, and how many numbers they have for a row."""
        loop, names = self.loop, self.names
        widths = loop.graph.widths
        found = [(k, names.whole[k], _numbers(loop.whole.nodes[k])) for k in self.saved_projections]
        found += [(names.origin[k], names.step[k], _numbers(loop.step.nodes[k])) for k in self.values]
        found += [(len(loop.whole.nodes), s + NOW, Count.of(widths[s])) for s in self.saved_states]
        return [(name, count) for _, name, count in sorted(found, key=lambda item: item[0])]

    def _present(self) -> tuple[str, ...]:
        loop = self.loop
        found = [self.names.whole[k] for k in (*loop.direct, *loop.given) if f"before {k}" in loop.reads]
        found += [f"{name}{NOW}" for name in loop.graph.inputs] if loop.projected else []
        found += [name + NOW for name in loop.handed_on if not loop.reads.isdisjoint((name, f"new {name}"))]
        return tuple(dict.fromkeys(found))

    def _again(self) -> tuple[str, ...]:
        """What the backward pass computes again: what its author named, and what gradients need."""
        loop, names = self.loop, self.names
        nodes = loop.adjoint.step.nodes
        back = {there: k for k, there in names.again.items()}
        used = {arg for k, node in enumerate(nodes) if k not in back for arg in node.args}
        used |= {loop.adjoint.step.results[name] for name in loop.operands}
        found = {
            names.origin[k]: names.step[k]
            for there, k in back.items()
            if nodes[there].args and (there in used or names.origin[k] in names.told)
        }
        return tuple(dict.fromkeys(name for _, name in sorted(found.items())))

    # Costs

    def _work(self) -> dict[str, Work]:
        loop = self.loop
        outer, added = Count(), Count()
        for adjoint in (self.behind, loop.adjoint):
            for matrix, pairs in adjoint.matrices.items():
                outer += Count.of(*loop.graph.parameters[matrix].shape) * (2 * len(pairs))
            for vector, gradients in adjoint.vectors.items():
                added += Count.of(*loop.graph.parameters[vector].shape) * len(gradients)
        return {
            "before the loop": _work(self.before, schedule(self.before)),
            FORWARD: _work(loop.step, self.forward),
            BACKWARD: _work(loop.adjoint.step, self.backward),
            "gradients of parameters": Work(outer, added),
            "gradient of the input": _work(self.behind.step, schedule(self.behind.step)),
        }

    def _traffic(self, saved: Count) -> dict[str, Traffic]:
        loop, back = self.loop, self.loop.adjoint.step
        step, results = loop.step, loop.step.results
        read = [n for n in step.nodes if n.kind == "read"]
        new = {k for name, k in results.items() if name not in self.saved_states} - {*self.values}
        places = {f"value {k}" for k in self.values} | {f"before {k}" for k in self.saved_projections}
        places |= {place for s in self.saved_states for place in (s, f"new {s}")}
        known = [n for n in back.nodes if n.kind == "read" and n.name in places]
        others = [n for n in back.nodes if n.kind == "read" and n.name not in places]
        written = {back.results[d] for d in (*loop.columns, *loop.operands) if d in back.results}
        written |= {k for name, k in back.results.items() if name.startswith("d_")}
        return {
            FORWARD: self._moved(step, saved, read + [step.nodes[k] for k in new]),
            BACKWARD: self._moved(back, _numbers(*known), others + [back.nodes[k] for k in written]),
        }

    def _moved(self, step: Step, saved: Count, others: list[Node]) -> Traffic:
        weights = [Count.of(n.width, step.nodes[n.args[0]].width) for n in step.nodes if n.kind == "product"]
        weights += [_numbers(n) for n in step.nodes if n.kind == "vector"]
        return Traffic(self._bytes(total(weights)), self._bytes(saved), self._bytes(_numbers(*others)))
