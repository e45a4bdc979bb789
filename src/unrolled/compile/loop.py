"""The kernels of a cell: forward, forward without saving, and backward, compiled once for all sizes.

What depends on inputs alone is cut off and left to torch (`before`): one large product for all steps, and the
gradients of its weights likewise. The rest is a step that reads old states and those products; it is
scheduled, derived, printed and compiled for a cell and a precision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from unrolled.compile.derive import Adjoint, derive
from unrolled.compile.engine import LOCK, Program, lanes_of
from unrolled.compile.kernel import Kernel, print_kernel
from unrolled.compile.schedule import Stage, schedule
from unrolled.compile.step import Builder, Expression, Node, Step, lower
from unrolled.graph import Graph

ATTRIBUTES = 'nounwind "prefer-vector-width"="512" "min-legal-vector-width"="512"'
SCALARS = {torch.float32: "float", torch.float64: "double"}


def cut(step: Step, states: Sequence[str]) -> tuple[Step, tuple[int, ...]]:
    """The part of a step that must run in the loop, and the nodes of the whole that it reads as `before K`.

    Those are the products and inputs that depend on no state; pointwise work on them stays in the loop.
    """
    moves = [False] * len(step.nodes)
    from_input = [False] * len(step.nodes)
    for k, node in enumerate(step.nodes):
        moves[k] = any(moves[a] for a in node.args) or (node.kind == "read" and node.name in states)
        from_input[k] = not moves[k] and (node.kind == "read" or any(from_input[a] for a in node.args))
    builder = Builder()
    made: dict[int, Expression] = {}
    before: dict[int, None] = {}

    def build(k: int) -> Expression:
        node = step.nodes[k]
        if k in made:
            return made[k]
        if from_input[k] and node.kind in ("read", "product"):
            before[k] = None
            made[k] = builder.make(Node("read", name=f"before {k}", width=node.width))
        elif node.args:
            args = tuple(build(a) for a in node.args)
            if node.kind == "product":
                made[k] = builder.product(node.name, args[0], node.width)
            else:
                made[k] = builder.operation(node.kind, args)
        else:
            made[k] = builder.make(node)
        return made[k]

    loop = builder.finish({name: build(k) for name, k in step.results.items()})
    needed = {node.name for node in loop.nodes if node.kind == "read"}
    return loop, tuple(k for k in before if f"before {k}" in needed)


@dataclass(frozen=True)
class Compiled:
    """A printed kernel, its program, and its stages."""

    kernel: Kernel
    program: Program
    stages: tuple[Stage, ...]
    step: Step


class Loop:
    """The compiled recurrence of one graph in one precision."""

    def __init__(self, graph: Graph, dtype: torch.dtype) -> None:
        self.graph = graph
        self.dtype = dtype
        self.scalar = SCALARS[dtype]
        self.lanes = lanes_of(self.scalar)
        self.whole = lower(graph)
        self.step, self.before = cut(self.whole, graph.states)
        self.handed_on = graph.outputs[0] if graph.outputs else graph.states[0]
        self.matrices = sorted({n.name for n in self.step.nodes if n.kind == "product"})
        self.vectors = sorted({n.name for n in self.step.nodes if n.kind == "vector"})
        self.parameters = (*self.matrices, *self.vectors)
        self.width_of = {n.name: n.width for n in self.step.nodes if n.args or n.name}

    def padded(self, size: int) -> int:
        """A width in whole vectors."""
        return -(-size // self.lanes) * self.lanes

    # What the backward pass reads

    @cached_property
    def _derived(self) -> tuple[Adjoint, tuple[int, ...]]:
        """The adjoint, and what of the forward pass is saved for it: what lets it compute the rest."""
        step = self.step
        kept = {k: node.name for k, node in enumerate(step.nodes) if node.kind == "read"}
        kept |= {k: f"new {name}" for name, k in step.results.items() if step.nodes[k].kind != "read"}
        arriving = {name: self._arriving(name) for name in step.results}
        everything = {k: f"value {k}" for k, n in enumerate(step.nodes) if n.args} | kept
        asked = {n.name for n in derive(step, everything, arriving).step.nodes if n.kind == "read"}
        saved = {k for k in everything if k not in kept and everything[k] in asked}

        def has(k: int, known: set[int]) -> bool:
            node = step.nodes[k]
            if k in known or node.kind in ("constant", "vector"):
                return True
            return bool(node.args) and node.kind != "product" and all(has(a, known) for a in node.args)

        for k in sorted(saved, reverse=True):
            if has(k, (saved - {k}) | kept.keys()):
                saved.remove(k)
        known = kept | {k: f"value {k}" for k in saved}
        states = {name: self.graph.widths[name] for name in self.graph.states}
        return derive(step, known, arriving, states), tuple(sorted(saved))

    def _arriving(self, name: str) -> tuple[str, ...]:
        carried = (f"carry {name}",) if name in self.graph.states else ()
        return (*carried, *((f"upstream {name}",) if name == self.handed_on else ()))

    @property
    def adjoint(self) -> Adjoint:
        """The adjoint of the step in the loop."""
        return self._derived[0]

    @property
    def saved(self) -> tuple[int, ...]:
        """The nodes of the step that the forward pass saves for the adjoint."""
        return self._derived[1]

    @cached_property
    def kept(self) -> tuple[int, ...]:
        """What the forward pass leaves for the backward pass: saved values, and operands of matrices."""
        operands = {k for pairs in self.adjoint.matrices.values() for _, k in pairs}
        return tuple(sorted({*self.saved, *operands}))

    @cached_property
    def idle(self) -> bool:
        """Whether a value cut off has no gradient."""
        return any(f"d_before {k}" not in self.adjoint.step.results for k in self.before)

    @cached_property
    def gradients(self) -> tuple[str, ...]:
        """What the backward pass stores at every step: the gradient of each value cut off, and those that
        matrices need and that are none of these."""
        adjoint = self.adjoint
        results = adjoint.step.results
        stored = [f"d_before {k}" for k in self.before if f"d_before {k}" in results]
        there = {results[d] for d in stored}
        for pairs in adjoint.matrices.values():
            for d, _ in pairs:
                if results[d] not in there:
                    there.add(results[d])
                    stored.append(d)
        return tuple(stored)

    # Kernels

    def _print(
        self,
        step: Step,
        saved: Sequence[int],
        written: Mapping[str, int],
        sums: Mapping[str, list[int]],
        own: str,
    ) -> Compiled:
        """Schedule, print and compile; nodes that go nowhere else live under `own K`."""
        stages = schedule(step, saved)
        names: dict[int, str] = {}
        more: list[tuple[str, int]] = []
        for place, k in written.items():
            if k in names or step.nodes[k].kind == "read":
                more.append((place, k))
            else:
                names[k] = place
        for stage in stages:
            for k in stage.wanted:
                if step.nodes[k].kind != "read":
                    names.setdefault(k, f"{own} {k}")
        kernel = print_kernel(step, stages, names, more, sums, self.scalar, self.lanes, ATTRIBUTES)
        return Compiled(kernel, Program(kernel.text), stages, step)

    @cached_property
    def forward(self) -> Compiled:
        """The forward kernel that saves."""
        return self._print(self.step, self.saved, self._new, {}, "value")

    @cached_property
    def inference(self) -> Compiled:
        """The forward kernel that does not."""
        return self._print(self.step, [], self._new, {}, "value")

    @property
    def _new(self) -> dict[str, int]:
        return {f"new {name}": k for name, k in self.step.results.items()}

    def place_of(self, k: int) -> str:
        """Where the forward pass keeps a node."""
        node = self.step.nodes[k]
        if node.kind == "read":
            return node.name
        return next((place for place, n in self._new.items() if n == k), f"value {k}")

    @cached_property
    def backward(self) -> Compiled:
        """The adjoint's kernel."""
        adjoint = self.adjoint
        step = adjoint.step
        written = {f"next {s}": step.results[f"d_{s}"] for s in self.graph.states}
        written |= {d: step.results[d] for d in self.gradients}
        sums = {name: [step.results[d] for d in found] for name, found in adjoint.vectors.items()}
        return self._print(step, [], written, sums, "own")


_loops: dict[tuple[str, torch.dtype], Loop] = {}


def loop_of(graph: Graph, dtype: torch.dtype) -> Loop:
    """The kernels of a graph; cells with the same equations share them."""
    with LOCK:
        return _loops.get((graph.key, dtype)) or _loops.setdefault((graph.key, dtype), Loop(graph, dtype))
