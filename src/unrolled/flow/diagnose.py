"""What is wrong with a network: rules over its gradients, gates, inputs and training, with their evidence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from torch import nn

from unrolled.errors import check_sizes
from unrolled.flow import rules, rules_training, rules_units
from unrolled.flow.findings import LEVELS, Finding, Rule, Seen, Unknown, Untold, known
from unrolled.flow.lag import GradientByLag
from unrolled.flow.records import Record
from unrolled.flow.trace import Losses, Recording, record
from unrolled.flow.truncated import Truncation
from unrolled.unroll.truncation import ALL, Loss

if TYPE_CHECKING:
    from matplotlib.axes import Axes


REMEDIES: Final = {
    "parameter": "Go back to a checkpoint before it, or draw the parameter anew; and lower the rate.",
    "x": "Look at what the batch holds there; missing values may be 0, with an input that says so.",
    "initial state": "Look at where the state comes from.",
    "operation": "Keep its operands in range: an eps, a clamp, a running maximum. If they grew step by step, "
    "the recurrence explodes.",
    "loss": "Look at the head and the loss: logarithms of 0, divisions by a count of 0.",
    "gradient of an operation": "Keep its operands from where it has no derivative, as sqrt has none at 0.",
    "gradient of a parameter": "Keep what the parameter enters from where it has no derivative.",
    "gradient of the loss": "Look at the head and the loss: sqrt and log have no derivative at 0.",
}
"""Of what is not finite, by its kind."""


def not_finite(seen: Seen) -> Iterator[Finding | Unknown]:
    """Something is not finite."""
    if (found := seen.source) is not None:
        evidence = {"kind": found.kind, "step": found.step, "sequence": found.sequence, "name": found.name}
        yield Finding(
            "nan",
            "serious",
            found.place,
            f"{found.words}.",
            known({**evidence, "value": found.value}),
            "finite values and gradients",
            REMEDIES[found.kind],
        )


RULES: Final[Mapping[str, Rule]] = {
    "nan": not_finite,
    "degenerate-input": rules_units.degenerate_input,
    "learning-rate-high": rules_training.learning_rate,
    "initial-scale": rules_units.initial_scale,
    "closed-forget-gate": rules_units.closed_forget_gate,
    "memory-too-long": rules_units.memory_too_long,
    "saturated-gates": rules_units.saturated_gates,
    "dead-units": rules_units.dead_units,
    "clipping-always-on": rules_training.clipping_always_on,
    "truncation-too-short": rules.truncated,
    "chaotic-dynamics": rules.chaotic,
    "exploding": rules.exploding,
    "vanishing-through-depth": rules.vanishing_through_depth,
    "vanishing-through-time": rules.vanishing_through_time,
}
"""By name; causes before what they bring about, and so they are listed."""

_FLOW: Final = (
    "saturated-gates", "dead-units", "chaotic-dynamics", "exploding", "vanishing-through-depth",
    "vanishing-through-time",
)  # fmt: skip

EFFECTS: Final[Mapping[str, Sequence[str]]] = {
    "nan": ("exploding",),
    "degenerate-input": _FLOW,
    "learning-rate-high": ("initial-scale-large", *_FLOW),
    "initial-scale-small": _FLOW,
    "initial-scale-large": _FLOW,
    "closed-forget-gate": ("vanishing-through-time",),
    "saturated-gates": ("vanishing-through-depth", "vanishing-through-time"),
    "dead-units": ("vanishing-through-depth", "vanishing-through-time"),
    "chaotic-dynamics": ("exploding",),
}
"""What may bring about what."""


@dataclass(frozen=True, repr=False)
class Diagnosis(Record):
    """What is wrong with a network.

    Attributes:
        findings: the worst first, and causes before what they bring about.
        checked: the rules that could be told.
        unknown: what could not be told, of which rule and place, and why.
        profiles: gradients by lag, on which several rules stand; None where there are none.
    """

    findings: tuple[Finding, ...]
    checked: tuple[str, ...]
    unknown: tuple[Unknown, ...]
    profiles: GradientByLag | None

    @property
    def healthy(self) -> bool:
        """Whether nothing worse than a note was found."""
        return all(finding.level == "note" for finding in self.findings)

    def __getitem__(self, name: str) -> tuple[Finding, ...]:
        """The findings of this name."""
        return tuple(finding for finding in self.findings if finding.name == name)

    def __contains__(self, name: object) -> bool:
        """Whether this was found, and worse than a note."""
        return any(finding.name == name and finding.level != "note" for finding in self.findings)

    def summary(self) -> str:
        alarms = sum(finding.level != "note" for finding in self.findings)
        notes = len(self.findings) - alarms
        wrong = f"{alarms} {'thing is' if alarms == 1 else 'things are'} wrong"
        verdict = "healthy" if self.healthy else wrong
        verdict += f", {notes} to note" * bool(notes)
        told = [f"{verdict} ({len(self.checked)} of {len(RULES)} rules could be told)"]
        told += [finding.summary() for finding in self.findings]
        told += [each.summary() for each in self.unknown]
        return "\n".join(told)

    def _draw(self, ax: Axes) -> None:
        if self.profiles is None:
            ax.axis("off")
            ax.text(0, 1, self.summary(), verticalalignment="top", wrap=True)
            return
        marked = {finding.place for finding in self.findings if finding.level != "note"}
        for profile in self.profiles.profiles:
            there = profile.norm > 0
            first = profile.norm[min(1, len(profile.norm) - 1)]
            found = ", ".join(f.name for f in self.findings if f.place == profile.place and f.level != "note")
            label = f"{profile.place}: {found}" if profile.place in marked else profile.place
            ax.plot(profile.lags[there], (profile.norm / first)[there], label=label)
        ax.axhline(rules.LEFT, color="#777777", linewidth=0.8, linestyle=(0, (4, 3)))
        ax.set_yscale("log")
        ax.set_xlabel("lag k, steps back from the loss")
        ax.set_ylabel("gradient, in what it is at lag 1")
        ax.legend(frameon=False)


def _as_serious(cause: Finding, findings: Sequence[Finding]) -> Finding:
    """A cause, as serious as what it brings about at the same place."""
    effects = EFFECTS.get(cause.name, ())
    same = [f.level for f in findings if f.name in effects and cause.place in ("", f.place)]
    level = min((cause.level, *same), key=LEVELS.index)
    return replace(cause, level=level) if cause.level != "note" else cause


def diagnose(
    model: nn.Module | Recording,
    batch: Any = None,
    losses: Losses | None = None,
    *,
    history: Iterable[Any] | None = None,
    clip: float | None = None,
    bptt: int | None = None,
    needed: int | None = None,
    truncation: Truncation | Sequence[Loss] | None = None,
) -> Diagnosis:
    """What is wrong with a network, why, and what to do about it.

    Args:
        model, batch, losses: see `unrolled.flow.record`; or a recording. A batch of 4 to 16 whole sequences
            is enough; they should be as long as what the task remembers.
        history: records of its training, see `unrolled.flow.rules_training.read_history`; those of a run's
            metrics.jsonl do.
        clip: the limit on the gradient's norm in training; that in the history, if not given.
        bptt: the steps that gradients go back in training (k2), if they are truncated.
        needed: the steps that the task needs to reach back. Without it a quarter of the sequence is taken,
            where it has 20 steps or more.
        truncation: what `unrolled.flow.truncation` measured; then its cosines say whether `bptt` is enough.

    Cost: a forward pass, three backward passes, and some passes over the values of all gates; where the
        gradient grows, the Jacobians of four sequences.

    Raises:
        InputError: see `unrolled.flow.record`; or a record of the history is none.
    """
    for name, value in (("bptt", bptt), ("needed", needed)):
        if value is not None:
            check_sizes(**{name: value})
    recording = model if isinstance(model, Recording) else record(model, batch, losses)
    cut = truncation.losses if isinstance(truncation, Truncation) else truncation or ()
    seen = Seen(
        recording,
        None if isinstance(model, Recording) else model,
        history=None if history is None else rules_training.read_history(history, clip),
        needed=needed,
        bptt=bptt,
        cosines={each.k2: each.cosine for each in cut if each.parameter == ALL},
    )
    findings: list[Finding] = []
    unknown: list[Unknown] = []
    checked: list[str] = []
    for name, rule in RULES.items():
        try:
            found = list(rule(seen))
        except Untold as why:
            unknown.append(Unknown(name, "", str(why)))
            continue
        findings += [each for each in found if isinstance(each, Finding)]
        cannot = [each for each in found if isinstance(each, Unknown)]
        unknown += cannot
        if len(cannot) < len(found) or len({each.place for each in cannot}) < len(seen.everywhere):
            checked.append(name)
    findings = [_as_serious(each, findings) for each in findings]
    # What overflows because it grows is no source of its own.
    grown = any(each.name == "exploding" for each in findings)
    findings.sort(key=lambda each: (LEVELS.index(each.level), grown and each.name == "nan"))
    try:
        profiles = seen.gradients
    except Untold:
        profiles = None
    return Diagnosis(tuple(findings), tuple(checked), tuple(unknown), profiles)
