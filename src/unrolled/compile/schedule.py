"""From a step to stages: which products run together, and what is computed behind them.

A product whose operand is itself behind products must wait for them: its level is one more. Products of one
level that add up to one value share an accumulator, a `Destination`. A `Stage` computes up to four
destinations at once for a tile of rows and units, and then, on the registers, every pointwise value that is
wanted and can be had (its `wanted` nodes are stored).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from unrolled.compile.step import Step

GROUP = 4
"""Destinations of one register tile."""


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

    destinations: the products of the pass, at most four; none in a pass of pointwise work alone.
    wanted: the nodes that are stored behind them.
    level: values behind this many products, or fewer, can be had.
    """

    width: str
    destinations: tuple[Destination, ...]
    wanted: tuple[int, ...]
    level: int

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
    destinations = _destinations(step, level, set(saved) | set(step.results.values()))
    operands = {t.operand for d in destinations for t in d.terms}
    summed = {k for d in destinations for k in d.inside}
    pending = {*step.results.values(), *saved, *operands}
    pending |= {  # what waits behind one product for the next
        arg
        for k, node in enumerate(step.nodes)
        if k not in summed and node.kind != "product"
        for arg in node.args
        if 0 < level[arg] < level[k]
    }
    pending |= {arg for d in destinations for arg in d.others if level[arg]}
    handed_on = set(step.results.values())
    pending = {
        k for k in pending if k in handed_on or step.nodes[k].kind not in ("read", "vector", "constant")
    }
    early = pending & operands
    stages: list[Stage] = []

    def add(width: str, groups: list[tuple[Destination, ...]], at: int) -> None:
        for group in groups[:-1]:
            stages.append(Stage(width, group, tuple(d.node for d in group), at))
        ready = {k for k in pending if level[k] <= at and step.nodes[k].width == width}
        stages.append(Stage(width, groups[-1], tuple(sorted(ready)), at))
        pending.difference_update(ready)

    for width in dict.fromkeys(step.nodes[k].width for k in sorted(early) if level[k] == 0):
        add(width, [()], 0)
    for at in range(1, max(level, default=0) + 1):
        here = [d for d in destinations if level[d.node] == at]
        for width in dict.fromkeys(step.nodes[d.node].width for d in here):
            same = [d for d in here if step.nodes[d.node].width == width]
            add(width, [tuple(same[k : k + GROUP]) for k in range(0, len(same), GROUP)], at)
    for width in dict.fromkeys(step.nodes[k].width for k in sorted(pending)):
        add(width, [()], max(level))
    return tuple(stages)


def levels(step: Step) -> list[int]:
    """How many products each node is behind."""
    found: list[int] = []
    for node in step.nodes:
        behind = max((found[k] for k in node.args), default=0)
        found.append(behind + (node.kind == "product"))
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
        elif node.kind == "add" and level[k]:
            taken = [
                a for a in node.args if a in found and level[a] == level[k] and uses[a] == 1 and a not in kept
            ]
            rest = [a for a in node.args if a not in taken]
            if taken and all(level[a] < level[k] for a in rest):
                parts = [found.pop(a) for a in taken]
                found[k] = Destination(
                    k,
                    tuple(t for part in parts for t in part.terms),
                    (*rest, *(a for part in parts for a in part.others)),
                    (*taken, *(a for part in parts for a in part.inside)),
                )
    return tuple(found[k] for k in sorted(found))
