"""The kernels of a cell: forward, forward without saving, and backward, compiled once for all sizes.

What depends on inputs alone is cut off and left to torch (`before`): one large product for all steps, and the
gradients of its weights likewise. The rest is a step that reads old states and those products; it is
scheduled, derived, printed and compiled for a cell and a precision.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from typing import Any

import torch

from unrolled.compile.cache import key_of, load, store
from unrolled.compile.context import Address, Kernel
from unrolled.compile.derive import Adjoint, derive
from unrolled.compile.engine import LOCK, Program
from unrolled.compile.kernel import print_kernel
from unrolled.compile.machine import machine
from unrolled.compile.schedule import LEAVES, Stage, is_mask, is_row, reduces, schedule
from unrolled.compile.step import Builder, Expression, Node, Step, lower
from unrolled.compile.team import Team, team_of
from unrolled.graph import Graph

SCALARS = {torch.float32: "float", torch.float64: "double"}


def cut(step: Step, states: Sequence[str], wanted: Collection[str]) -> tuple[Step, tuple[int, ...]]:
    """The part of a step that must run in the loop, and the nodes of the whole that it reads as `before K`.

    Those are the products and inputs that depend on no state; pointwise work on them stays in the loop.
    """
    moves = [False] * len(step.nodes)
    from_input = [False] * len(step.nodes)
    for k, node in enumerate(step.nodes):
        moves[k] = any(moves[a] for a in node.args) or (node.kind == "read" and node.name in states)
        moves[k] = moves[k] or node.kind in ("bernoulli", "rate", "reset")
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

    loop = builder.finish({name: build(k) for name, k in step.results.items() if name in wanted})
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
    """The compiled recurrence of one graph in one precision.

    Attributes:
        whole: the step with all its products; step: the part of it in the loop.
        projected, direct, given: the nodes of `whole` that the loop reads as `before K`, by what they are:
            products of the first input, that input itself, and what torch computes from it or is told, the
            other inputs.
        parameters, elsewhere: the names of those that kernels read, and of those that only torch does.
        handed_on: the states and outputs that are wanted at every step.
    """

    def __init__(self, graph: Graph, dtype: torch.dtype, handed_on: Sequence[str] = ()) -> None:
        self.graph = graph
        self.dtype = dtype
        self.scalar = SCALARS[dtype]
        self.lanes = machine().lanes(self.scalar)
        self.group = machine().group
        self.whole = lower(graph)
        self.handed_on = tuple(handed_on) or (graph.output,)
        self.step, before = cut(self.whole, graph.states, {*graph.states, *self.handed_on})
        nodes = self.whole.nodes
        x = [k for k, n in enumerate(nodes) if n.kind == "read" and n.name == graph.inputs[0]]
        self.direct = tuple(k for k in before if k in x)
        self.projected = tuple(k for k in before if nodes[k].kind == "product" and nodes[k].args[0] in x)
        self.given = tuple(k for k in before if k not in self.direct + self.projected)
        used = {n.name for n in self.step.nodes if n.kind in ("product", "vector")}
        self.parameters = tuple(
            name
            for name in graph.parameters
            if name in used or name in {nodes[k].name for k in self.projected}
        )
        rest = (name for name in graph.parameters if name not in self.parameters)
        self.elsewhere = tuple(rest) if self.given else ()
        self.width_of = {n.name: n.width for n in self.whole.nodes if n.kind in ("vector", "product")}
        self.prepared: dict[Any, Any] = {}  # what `recurrence` keeps for each set of sizes

    def vectors(self, size: int) -> int:
        """How many vectors hold a width."""
        return -(-size // self.lanes)

    def padded(self, size: int) -> int:
        """A width in whole vectors."""
        return self.vectors(size) * self.lanes

    @cached_property
    def team(self) -> Team:
        """What carries out the jobs of a plan."""
        with LOCK:  # of two teams made at once, kernels would call the one that is dropped
            return team_of(self.scalar)

    # What the backward pass reads

    @cached_property
    def _derived(self) -> tuple[Adjoint, tuple[int, ...]]:
        """The adjoint, and what of the forward pass is saved for it: what lets it compute the rest."""
        step = self.step
        projections = {f"before {k}" for k in self.projected}
        kept = {k: n.name for k, n in enumerate(step.nodes) if n.kind == "read" and n.name not in projections}
        kept |= {k: f"new {name}" for name, k in step.results.items() if step.nodes[k].kind != "read"}
        arriving = {name: self._arriving(name) for name in step.results}
        everything = {k: f"value {k}" for k, n in enumerate(step.nodes) if n.args and not is_mask(n.kind)}
        everything |= {k: n.name for k, n in enumerate(step.nodes) if n.name in projections} | kept
        asked = {n.name for n in derive(step, everything, arriving).step.nodes if n.kind == "read"}
        saved = {k for k in everything if k not in kept and everything[k] in asked}

        def has(k: int, known: Collection[int]) -> bool:
            node = step.nodes[k]
            if k in known or node.kind in LEAVES:
                return True
            if node.kind == "product" or reduces(node.kind):
                return False
            return bool(node.args) and all(has(a, known) for a in node.args)

        for k in sorted(saved, reverse=True):
            if has(k, (saved - {k}) | kept.keys()):
                saved.remove(k)
        known = kept | {k: everything[k] for k in saved}
        states = {name: self.graph.widths[name] for name in self.graph.states}
        operands = {n.args[0] for n in step.nodes if n.kind == "product"}
        again = {k for k in operands if not has(k, known.keys())}
        known |= {k: f"value {k}" for k in again}
        saved |= again
        return derive(step, known, arriving, states, operands - known.keys()), tuple(sorted(saved))

    def _arriving(self, name: str) -> tuple[str, ...]:
        carried = (f"carry {name}",) if name in self.graph.states else ()
        return (*carried, *((f"upstream {name}",) if name in self.handed_on else ()))

    @property
    def adjoint(self) -> Adjoint:
        """The adjoint of the step in the loop."""
        return self._derived[0]

    @property
    def saved(self) -> tuple[int, ...]:
        """The nodes of the step that the forward pass saves for the adjoint."""
        return self._derived[1]

    @cached_property
    def reads(self) -> frozenset[str]:
        """What the backward pass reads of the forward pass: by the adjoint, or as an operand of a matrix."""
        named = {n.name for n in self.adjoint.step.nodes if n.kind == "read"}
        return frozenset(
            named | {self.operand(k) for pairs in self.adjoint.matrices.values() for _, k in pairs}
        )

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The gradients that stand side by side for each row of a chunk: first those of the projections, then
        those that only matrices in the loop need."""
        adjoint = self.adjoint
        results = adjoint.step.results
        stored = [f"d_before {k}" for k in self.projected]
        there = {results[d] for d in stored if d in results}
        for pairs in adjoint.matrices.values():
            for d, _ in pairs:
                if results[d] not in there:
                    there.add(results[d])
                    stored.append(d)
        return tuple(stored)

    def column_of(self, d: str) -> str:
        """The column that holds a result of the adjoint."""
        results = self.adjoint.step.results
        return next(c for c in self.columns if results.get(c) == results[d])

    def operand(self, k: int) -> str:
        """Where the backward pass finds an operand of a matrix: in memory, or computed again."""
        again = f"operand {k}"
        return again if again in self.adjoint.step.results else self.place_of(k)

    @cached_property
    def operands(self) -> tuple[str, ...]:
        """The operands that are computed again, side by side for each row of a chunk."""
        return tuple(name for name in self.adjoint.step.results if name.startswith("operand "))

    # Kernels

    def _print(
        self,
        step: Step,
        saved: Sequence[int],
        written: Mapping[str, int],
        addresses: Mapping[str, Address],
        sums: Mapping[str, list[int]],
        own: str,
    ) -> Compiled:
        """Schedule, print and compile; nodes that go nowhere else live under `own K`."""
        stages = schedule(step, saved)
        kind = f"{own} {' '.join(map(str, saved))}"
        key = key_of(self.graph.key, self.scalar, kind, *(f"{n} {a}" for n, a in sorted(addresses.items())))
        _ = self.team  # a kernel calls its routines, so they are there first
        if (found := load(key)) is not None:
            code, facts = found
            kernel = Kernel(facts["words"], {name: Address(*a) for name, a in facts["addresses"].items()})
            return Compiled(kernel, Program(code), stages, step)
        needed = {k for node in step.nodes for k in node.args} | {*saved, *written.values()}
        summed = {k for nodes in sums.values() for k in nodes} - needed  # in registers, and nowhere else
        stored = {
            k for s in stages for k in (*s.wanted, *s.reductions) if step.nodes[k].kind != "read"
        } - summed
        names = {k: f"row {k}" for k in stored if is_row(step, k)}
        more = [(f"{own} {k}", k) for k in saved if k in names]
        for place, k in written.items():
            if k in names or step.nodes[k].kind == "read":
                more.append((place, k))
            else:
                names[k] = place
        for k in stored:
            names.setdefault(k, f"{own} {k}")
        text, kernel = print_kernel(
            step, stages, names, more, addresses, sums, self.graph.draws, self.scalar, self.lanes
        )
        program = Program(text)
        places = {name: astuple(address) for name, address in kernel.addresses.items()}
        store(key, program.code, {"words": kernel.words, "addresses": places})
        return Compiled(kernel, program, stages, step)

    @cached_property
    def forward(self) -> Compiled:
        """The forward kernel that saves."""
        kept = {name for name in self.reads if not name.startswith("carry ")}
        return self._forward(kept, self.saved)

    @cached_property
    def inference(self) -> Compiled:
        """The forward kernel that does not."""
        return self._forward(set(), ())

    def _forward(self, kept: set[str], saved: Sequence[int]) -> Compiled:
        """The forward kernel that leaves these names behind."""
        step = self.step
        addresses = self._before(Address("chunk"), kept)
        addresses |= {f"value {k}": self._saved_at(k) for k in saved}
        for name in self.graph.states:
            whole = name in self.handed_on or not {name, f"new {name}"}.isdisjoint(kept)
            padded = name not in self.handed_on
            addresses[name] = Address("behind" if whole else "last", True, padded)
            addresses[f"new {name}"] = Address("whole" if whole else "now", False, padded)
        addresses |= {f"new {name}": Address(padded=False) for name in self.handed_on}
        read = [k for k in saved if step.nodes[k].kind != "read"]
        return self._print(step, read, self._new, addresses, {}, "value")

    def _saved_at(self, k: int) -> Address:
        return Address(padded=not is_row(self.step, k))

    def _before(self, projected: Address, kept: set[str]) -> dict[str, Address]:
        places = {f"before {k}": Address(padded=False) for k in (*self.direct, *self.given)}
        whole = any(f"before {k}" in kept for k in self.projected)
        return places | {f"before {k}": Address() if whole else projected for k in self.projected}

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
        results = step.results
        addresses = self._before(Address(), set())
        addresses |= {f"value {k}": self._saved_at(k) for k in self.saved}
        written = {f"next {s}": results[f"d_{s}"] for s in self.graph.states}
        for name in self.graph.states:
            padded = name not in self.handed_on
            addresses[name] = Address("ahead", True, padded)
            addresses[f"new {name}"] = Address(padded=padded)
            addresses[f"carry {name}"] = Address("last", True)
            addresses[f"next {name}"] = Address("now")
        for name in self.handed_on:
            addresses |= {f"{place} {name}": Address(padded=False) for place in ("new", "upstream")}
        for k in (*self.direct, *self.given):
            if f"d_before {k}" in results:
                addresses[f"d_before {k}"] = Address(padded=False)
                written[f"d_before {k}"] = results[f"d_before {k}"]
        for d in (*self.columns, *self.operands):
            if d in results:
                addresses[d] = Address("chunk")
                written[d] = results[d]
        sums = {name: [results[d] for d in found] for name, found in adjoint.vectors.items()}
        return self._print(step, [], written, addresses, sums, "own")


_loops: dict[tuple[str, torch.dtype, tuple[str, ...]], Loop] = {}


def loop_of(graph: Graph, dtype: torch.dtype, handed_on: tuple[str, ...] = ()) -> Loop:
    """The kernels of a graph; cells with the same equations share them."""
    key = graph.key, dtype, handed_on
    with LOCK:
        return _loops.get(key) or _loops.setdefault(key, Loop(graph, dtype, handed_on))
