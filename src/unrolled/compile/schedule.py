"""From a step to stages: which products run together, and what is computed behind them.

A product whose operand is itself behind products must wait for them: its level is one more. So it is with a
reduction over the units of a row, which is taken in the pass that has its operand and is there after it.
Products of one level that add up to one value share an accumulator, a `Destination`. A `Stage` computes a few
destinations at once for a tile of rows and units, and then, on the registers, every pointwise value that
is wanted and can be had (its `wanted` nodes are stored).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from unrolled.compile.machine import machine
from unrolled.compile.step import Step
from unrolled.graph import OPERATIONS, PER_ROW


@dataclass(frozen=True)
class Term:
    """One matrix times one operand."""

    matrix: str
    transposed: bool
    operand: int


@dataclass(frozen=True)
class Destination:
    """A sum of products: the node it stands for, its products, the other summands, and the nodes that only
    the sum needs."""

    node: int
    terms: tuple[Term, ...]
    others: tuple[int, ...] = ()
    inside: tuple[int, ...] = ()


@dataclass(frozen=True)
class Stage:
    """A pass over all units of one width.

    destinations: the products of the pass, as many as a register tile holds; none in a pass of pointwise work
        alone.
    wanted: the nodes that are stored behind them.
    level: values behind this many products, or fewer, can be had.
    reductions: the nodes that are reductions over the units of this pass.
    """

    width: str
    destinations: tuple[Destination, ...]
    wanted: tuple[int, ...]
    level: int
    reductions: tuple[int, ...] = ()

    @property
    def operands(self) -> tuple[int, ...]:
        """What the products read, in the order of the weights' panels."""
        return tuple(dict.fromkeys(t.operand for d in self.destinations for t in d.terms))


def schedule(step: Step, saved: Iterable[int] = ()) -> tuple[Stage, ...]:
    """The stages of a step, in order.

    Args:
        saved: nodes that must be stored besides the results and what products read.
    """
    level = levels(step)
    group = machine().group
    destinations = _destinations(step, level, set(saved) | set(step.results.values()))
    operands = {t.operand for d in destinations for t in d.terms}
    summed = {k for d in destinations for k in d.inside}
    reductions = {k for k, node in enumerate(step.nodes) if reduces(node.kind)}
    pending: set[int] = {*step.results.values(), *saved, *operands}
    pending |= {  # what waits behind one product for the next
        arg
        for k, node in enumerate(step.nodes)
        if k not in summed and node.kind != "product" and k not in reductions
        for arg in node.args
        if 0 < level[arg] < level[k] and arg not in summed
    }
    pending |= {arg for d in destinations for arg in d.others if level[arg]}
    pending |= {  # one number a row is computed once a row
        arg for node in step.nodes if node.width != PER_ROW for arg in node.args if is_row(step, arg)
    }
    handed_on = set(step.results.values())
    reads = {k for k, node in enumerate(step.nodes) if node.kind == "read"}
    while masks := {k for k in pending if is_mask(step.nodes[k].kind)}:  # computed again where they are used
        pending = pending - masks | {arg for k in masks for arg in step.nodes[k].args}
    pending = {
        k
        for k in pending
        if k in handed_on | (operands - reads) or step.nodes[k].kind not in ("read", *LEAVES)
    } - reductions
    early = pending & operands
    stages: list[Stage] = []

    def add(width: str, groups: list[tuple[Destination, ...]], at: int) -> None:
        for group in groups[:-1]:
            stages.append(Stage(width, group, tuple(d.node for d in group), at))
        ready = {k for k in pending if level[k] <= at and step.nodes[k].width == width}
        taken = {k for k in reductions if level[k] <= at + 1 and operand_width(k) == width}
        stages.append(Stage(width, groups[-1], tuple(sorted(ready)), at, tuple(sorted(taken))))
        pending.difference_update(ready)
        reductions.difference_update(taken)

    def operand_width(k: int) -> str:
        return step.nodes[step.nodes[k].args[0]].width

    for at in range(max(level, default=0) + 1):
        if any(level[k] <= at for k in pending if is_row(step, k)):
            add(PER_ROW, [()], at)
        here = [d for d in destinations if level[d.node] == at]
        for width in dict.fromkeys(step.nodes[d.node].width for d in here):
            same = [d for d in here if step.nodes[d.node].width == width]
            add(width, [tuple(same[k : k + group]) for k in range(0, len(same), group)], at)
        waited = [operand_width(k) for k in sorted(reductions) if level[k] == at + 1]
        waited += [step.nodes[k].width for k in sorted(early & pending) if level[k] == at]
        for width in dict.fromkeys(waited):
            add(width, [()], at)
    for width in dict.fromkeys(step.nodes[k].width for k in sorted(pending)):
        add(width, [()], max(level))
    return tuple(stages)


LEAVES: Final = ("constant", "vector", "bernoulli", "rate", "reset", "size")
"""What is there wherever it is needed."""


def reduces(kind: str) -> bool:
    """Whether a node is one number for all units of a row."""
    return kind in OPERATIONS and OPERATIONS[kind].reduces


def is_mask(kind: str) -> bool:
    """Whether a node is true or false at each unit."""
    return kind in OPERATIONS and OPERATIONS[kind].pointwise and OPERATIONS[kind].adjoint is None


def is_row(step: Step, k: int) -> bool:
    """Whether a node is one number for each row."""
    return step.nodes[k].width == PER_ROW


def levels(step: Step) -> list[int]:
    """How many products and reductions each node is behind."""
    found: list[int] = []
    for node in step.nodes:
        behind = max((found[k] for k in node.args), default=0)
        found.append(behind + (node.kind == "product" or reduces(node.kind)))
    return found


def _destinations(step: Step, level: list[int], kept: set[int]) -> tuple[Destination, ...]:
    """The sums of products. A sum takes in its summands that nothing else needs; the others of its summands
    are behind fewer products, so they are there when its accumulator is."""
    uses = [0] * len(step.nodes)
    for node in step.nodes:
        for arg in node.args:
            uses[arg] += 1
    found: dict[int, Destination] = {}
    for k, node in enumerate(step.nodes):
        if node.kind == "product":
            found[k] = Destination(k, (Term(node.name, node.transposed, node.args[0]),), ())
        elif node.kind == "add" and level[k] and node.width != PER_ROW:
            taken = [a for a in node.args if a in found and uses[a] == 1 and a not in kept]
            rest = [a for a in node.args if a not in taken]
            if any(level[a] == level[k] for a in taken) and all(level[a] < level[k] for a in rest):
                parts = [found.pop(a) for a in taken]
                found[k] = Destination(
                    k,
                    tuple(t for part in parts for t in part.terms),
                    (*rest, *(a for part in parts for a in part.others)),
                    (*taken, *(a for part in parts for a in part.inside)),
                )
    return tuple(found[k] for k in sorted(found))
