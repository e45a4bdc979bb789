"""What the context of a kernel holds: an array of integers that says where everything is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from unrolled.compile.emit import Emitter
from unrolled.compile.jobs import FIRST, HEADER
from unrolled.compile.schedule import Stage
from unrolled.compile.step import Step


@dataclass(frozen=True)
class Address:
    """How a kernel finds a value at a step.

    time: "whole" in a place of all steps, "behind" and "ahead" in one but of the step before or after, in the
        order of the loop; "chunk" in a place of a chunk's steps; "now" and "last" in one of two places in
        turn, that of this step or that of the last.
    start: whether the value is somewhere else for rows that have no such step.
    padded: whether rows are whole vectors.
    own: whether each worker has a place of its own.
    """

    time: str = "whole"
    start: bool = False
    padded: bool = True
    own: bool = False

    @property
    def words(self) -> tuple[str, ...]:
        """What the context holds of it."""
        turn = ("turn",) if self.time in ("now", "last") else ()
        own = ("worker",) if self.own else ()
        return ("pointer", "row", *turn, *own, *(("start", "start row") if self.start else ()))


@dataclass(frozen=True)
class Kernel:
    """The words of a kernel's context by name, and how it finds what it reads and writes.

    The words are those of each address, as in `h pointer`, and `width W` for each width symbol,
    `vector NAME`, `panel S` for stage S and `sum NAME`, each with how far those of steps are apart, as in
    `panel 0 apart`, and what `Leaves.tensors` has.
    """

    words: Mapping[str, int]
    addresses: Mapping[str, Address]


@dataclass
class Draft:
    """A kernel that is being printed: the arguments of `print_kernel`, and the words it was found to need."""

    step: Step
    stages: tuple[Stage, ...]
    names: Mapping[int, str]
    written: list[tuple[str, int]]
    addresses: Mapping[str, Address]
    sums: Mapping[str, list[int]]
    draws: tuple[str, ...]
    scalar: str
    lanes: int
    words: dict[str, int] = field(default_factory=dict)
    used: dict[str, Address] = field(default_factory=dict)

    def word(self, e: Emitter, name: str, kind: str = "i64") -> str:
        """A word of the context."""
        place = HEADER.get(name) or self.words.setdefault(name, FIRST + len(self.words))
        return e.load(e.at("%context", str(place), "i64"), kind)

    def address(self, name: str) -> Address:
        """How to find a place; one that is the kernel's own is two rows in turn."""
        found = self.addresses.get(name)
        if found is None:
            what, _, _ = name.partition(" ")
            found = Address("now", padded=what != "row", own=what in ("row", "partial"))
        return self.used.setdefault(name, found)

    def vectors(self, e: Emitter, width: str) -> str:
        """How many vectors hold a width."""
        size = self.word(e, f"width {width}")
        return e.integer_of("udiv", e.integer_of("add", size, self.lanes - 1), self.lanes)

    def by_units(self, e: Emitter) -> str:
        """Whether workers share the units, and not the rows."""
        return e.emit(f"icmp ne i64 {self.word(e, 'by units')}, 0")
