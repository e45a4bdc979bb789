"""What an experiment is: a claim, what is tested of it, and numbers that decide.

The verdict on a claim is known beforehand, from theory. A run finds it anew, from its numbers alone, and an
experiment passes when both agree: also one whose claim is false, if its counterexample is found again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import torch

from unrolled.errors import InputError
from unrolled.report.blocks import Item

Kind: TypeAlias = Literal["holds", "holds if", "fails"]

Role: TypeAlias = Literal["theory", "claim", "counterexample"]
"""What a number is held against: what is right; the claim, where it should be right; or the claim, where it
should be wrong."""

LECTURES: Final = {
    "000": "Gradients of deep networks (slides)",
    "001": "Gradients of deep networks (text)",
    "002": "Recurrent networks and their applications",
    "003": "Stability and LSTM",
    "004": "Gradient flow, LSTM and GRU",
}


@dataclass(frozen=True)
class Verdict:
    """What is known of a claim.

    Args:
        kind: "holds", "holds if" or "fails".
        words: the condition, or the counterexample; for a claim that holds, how far, or nothing.
    """

    kind: Kind
    words: str = ""

    def __str__(self) -> str:
        return {"holds": "holds", "holds if": f"holds if {self.words}", "fails": f"fails: {self.words}"}[
            self.kind
        ] + (f", {self.words}" if self.kind == "holds" and self.words else "")


@dataclass(frozen=True)
class Number:
    """A number beside what it should be.

    Args:
        name: what was measured.
        measured: the number; one that is not a number agrees with nothing.
        expected: its closed form, a bound, or what the claim has it to be.
        tolerance: how far it may be from that, or beyond it.
        relation: "=", "≤" or "≥".
        role: see `Role`.
    """

    name: str
    measured: float
    expected: float
    tolerance: float = 0.0
    relation: Literal["=", "≤", "≥"] = "="
    role: Role = "theory"

    @property
    def agrees(self) -> bool:
        """Whether it is what it is held against."""
        measured, expected, tolerance = self.measured, self.expected, self.tolerance
        if self.relation == "≤":
            return measured <= expected + tolerance
        if self.relation == "≥":
            return measured >= expected - tolerance
        return measured == expected or abs(measured - expected) <= tolerance

    @property
    def as_known(self) -> bool:
        """Whether it agrees where it should, and does not where it should not."""
        return not math.isnan(self.measured) and self.agrees == (self.role != "counterexample")


def near(name: str, measured: float, expected: float, relative: float, role: Role = "theory") -> Number:
    """A number that may be off by a part of what is expected."""
    return Number(name, float(measured), float(expected), relative * abs(expected), "=", role)


def at_most(name: str, measured: float, bound: float, role: Role = "theory") -> Number:
    """A number that may not be above a bound."""
    return Number(name, float(measured), float(bound), 0.0, "≤", role)


def at_least(name: str, measured: float, bound: float, role: Role = "theory") -> Number:
    """A number that may not be below a bound."""
    return Number(name, float(measured), float(bound), 0.0, "≥", role)


@dataclass(frozen=True)
class Result:
    """What came out of a run.

    Args:
        numbers: what decides.
        figures: blocks of a page (`unrolled.report.page`).
        words: one or two sentences on what is seen.
    """

    numbers: Sequence[Number]
    figures: Sequence[Item]
    words: str

    @property
    def kind(self) -> Kind | None:
        """The verdict by the numbers: the claim holds where nothing contradicts it, holds on a condition
        where it is right in some cases and wrong in others, and fails where it is wrong in all; None where a
        number is not as it is known to be."""
        if not all(number.as_known for number in self.numbers):
            return None
        roles = {number.role for number in self.numbers}
        if "counterexample" not in roles:
            return "holds"
        return "holds if" if "claim" in roles else "fails"


Measure: TypeAlias = Callable[[Any], Result]
"""`measure(setup)`: random numbers are torch's own, which have been seeded."""


@dataclass(frozen=True)
class Experiment:
    """A claim of the lectures, to be measured.

    Args:
        name: as the command line has it.
        title: a few words, as a heading.
        lectures: where the claim is from; keys of `LECTURES`.
        claim: as the lecture has it.
        statement: exactly what is tested.
        verdict: what is known of the claim.
        measure: measures it, with the given sizes.
        setup: the sizes, a frozen dataclass; None for an experiment that has none.
        quick: smaller ones, with which it gives the same verdict in a second or two; None if `setup` does.
        threads: at most; matrices of a few units gain nothing from more than one.
    """

    name: str
    title: str
    lectures: tuple[str, ...]
    claim: str
    statement: str
    verdict: Verdict
    measure: Measure
    setup: Any = None
    quick: Any = None
    threads: int = 1

    def run(self, seed: int = 0, setup: Any = None) -> Outcome:
        """Measure it; random numbers elsewhere go on as if nothing had happened.

        Args:
            seed: of all random numbers.
            setup: other sizes than the experiment's own.

        Raises:
            InputError: the seed is no whole number from 0.
        """
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise InputError(f"a seed is a whole number from 0 to 2^63 - 1, not {seed!r}")
        began, threads = time.perf_counter(), torch.get_num_threads()
        torch.set_num_threads(min(threads, self.threads))
        try:
            with torch.random.fork_rng(devices=()):
                torch.manual_seed(seed)
                result = self.measure(self.setup if setup is None else setup)
        finally:
            torch.set_num_threads(threads)
        return Outcome(self, seed, result, time.perf_counter() - began)


def experiment(
    *,
    title: str,
    lectures: tuple[str, ...],
    claim: str,
    statement: str,
    verdict: Verdict,
    setup: Any = None,
    quick: Any = None,
    threads: int = 1,
) -> Callable[[Measure], Experiment]:
    """Make an experiment of the function that measures it, which gives it its name."""

    def made(measure: Measure) -> Experiment:
        name = measure.__name__.replace("_", "-")
        return Experiment(name, title, lectures, claim, statement, verdict, measure, setup, quick, threads)

    return made


@dataclass(frozen=True)
class Outcome:
    """An experiment that was run.

    Attributes:
        experiment, seed: what was run.
        result: what came out.
        seconds: how long it took.
    """

    experiment: Experiment
    seed: int
    result: Result
    seconds: float

    @property
    def reproduced(self) -> bool:
        """Whether the numbers give the verdict that is known."""
        return self.result.kind == self.experiment.verdict.kind

    @property
    def complaint(self) -> str:
        """Why the verdict was not reproduced, in one line; empty if it was."""
        if self.reproduced:
            return ""
        off = [number for number in self.result.numbers if not number.as_known]
        told = "; ".join(f"{n.name} is {n.measured:.6g}, {_wanted(n)}" for n in off)
        told = told or f"the numbers say that the claim {self.result.kind}"
        return f"{self.experiment.name} does not reproduce its verdict with seed {self.seed}: {told}"

    def to_dict(self) -> dict[str, Any]:
        """Everything but the figures as plain data."""
        known = self.experiment
        return {
            "name": known.name,
            "title": known.title,
            "lectures": [*known.lectures],
            "claim": known.claim,
            "statement": known.statement,
            "verdict": {"kind": known.verdict.kind, "words": known.verdict.words},
            "found": self.result.kind,
            "reproduced": self.reproduced,
            "seed": self.seed,
            "seconds": round(self.seconds, 3),
            "words": self.result.words,
            "numbers": [
                {
                    "name": n.name,
                    "measured": n.measured,
                    "relation": n.relation,
                    "expected": n.expected,
                    "tolerance": n.tolerance,
                    "role": n.role,
                    "agrees": n.agrees,
                }
                for n in self.result.numbers
            ],
        }


def _wanted(number: Number) -> str:
    bound = f"{number.relation} {number.expected:.6g}"
    if number.role == "counterexample":
        return f"which does not contradict the claim ({bound})"
    return f"expected {bound}" + (f" within {number.tolerance:.2g}" if number.tolerance else "")
