"""What experiments found, as one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from unrolled.lab.experiment import LECTURES, Kind, Number, Outcome
from unrolled.report.page import Finding, Section, Table, page
from unrolled.report.scales import number

LEVELS: Final[dict[Kind, str]] = {"holds": "good", "holds if": "note", "fails": "warning"}
BESIDE: Final[dict[Kind, str]] = {"holds": "How far", "holds if": "If", "fails": "Counterexample"}


def lab_page(outcomes: Sequence[Outcome], version: str) -> str:
    """The page: verdicts first, then each experiment with its numbers and figures.

    Args:
        outcomes: in the order to read them.
        version: of this library.
    """
    findings = [_finding(outcome) for outcome in outcomes]
    sections = [_section(outcome) for outcome in outcomes]
    seeds = sorted({outcome.seed for outcome in outcomes})
    if len(outcomes) == 1:
        title, subtitle = outcomes[0].experiment.title, "One claim of the lectures, measured."
    else:
        title = "The theory, measured"
        subtitle = (
            f"{len(outcomes)} claims about gradients and memory in recurrent and deep networks, each as an "
            "experiment: a number beside its closed form, a figure, and a verdict. Several claims are "
            "false as they are usually stated; their counterexamples are here."
        )
    seconds = sum(outcome.seconds for outcome in outcomes)
    footer = (
        "`unrolled lab`, version "
        f"{version}, seed {', '.join(map(str, seeds))}, {seconds:.0f} seconds. Lectures: "
        + "; ".join(f"{key} {name}" for key, name in LECTURES.items())
        + "."
    )
    return page(title, subtitle, findings, sections, footer, heading="Verdicts")


def _finding(outcome: Outcome) -> Finding:
    known, kind = outcome.experiment, outcome.experiment.verdict.kind
    claim = f"{known.claim} ({', '.join(known.lectures)})"
    if not outcome.reproduced:
        return Finding(
            "serious", known.title, claim, outcome.complaint, "not reproduced", "What is off", known.title
        )
    return Finding(
        LEVELS[kind], known.title, claim, _sentence(known.verdict.words), kind, BESIDE[kind], known.title
    )


def _sentence(words: str) -> str:
    """Words as a sentence; what begins with a symbol such as w begins as it is."""
    first = words.partition(" ")[0]
    return (words[:1].upper() + words[1:] if len(first) > 1 else words) + "." * bool(words)


def _section(outcome: Outcome) -> Section:
    known = outcome.experiment
    intro = f"Claim ({', '.join(known.lectures)}): {known.claim}\n\nTested: {known.statement}"
    verdict = replace(
        _finding(outcome), title=_sentence(known.verdict.words), evidence=outcome.result.words, section=""
    )
    if outcome.reproduced:
        verdict = replace(verdict, title=verdict.title or "As it is claimed.", remedy="")
    rows = [(n.name, n.measured, wanted(n, 4), said(n)) for n in outcome.result.numbers]
    how = (
        "What was measured, beside what theory or the claim has it to be. What contradicts the claim is its "
        "counterexample."
    )
    table = Table("Numbers", how, ("", "measured", "expected", ""), rows, wide=True)
    return Section(known.title, intro, [verdict, *outcome.result.figures, table])


def wanted(each: Number, digits: int) -> str:
    """What a number should be: "= 0.25 ± 0.001"."""
    within = f" ± {number(float(f'{each.tolerance:.2g}'), 2)}" if each.tolerance else ""
    return f"{each.relation} {number(each.expected, digits)}{within}"


SAYS: Final = {
    "theory": ("", "is off"),
    "claim": ("as claimed", "is off"),
    "counterexample": ("is as claimed", "contradicts the claim"),
}
"""By role: what is said of a number that agrees, and of one that does not."""


def said(each: Number) -> str:
    """What a number means for the verdict, in words."""
    agrees, differs = SAYS[each.role]
    return agrees if each.agrees else differs
