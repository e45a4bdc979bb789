"""Planted illnesses are named, and healthy networks are left alone."""

from collections import Counter

from healthy import healthy
from planted import ILLNESSES, ill

SEED = 0


def test_planted_illnesses_are_named():
    """In 95 of 100 cases at least, and none of them is often missed."""
    missed, first, of = [], 0, Counter()
    for case in ill(SEED):
        found = case.diagnosis()
        of[case.expected] += 1
        alarms = [finding for finding in found.findings if finding.level != "note"]
        if not any(case.word in finding.title for finding in alarms if finding.name == case.expected):
            missed.append(f"{case.label}\n{found}")
        else:
            first += alarms[0].name == case.expected
    cases = of.total()
    assert cases >= 60
    assert set(of) == set(ILLNESSES)
    assert len(missed) <= 0.05 * cases, "\n\n".join(missed)
    assert first >= 0.9 * cases


def test_healthy_networks_raise_no_alarm():
    """In 98 of 100 cases at least, as they start and in training."""
    alarms, cases = [], 0
    for case in healthy(SEED):
        found = case.diagnosis()
        cases += 1
        if not found.healthy:
            alarms.append(f"{case.label}\n{found}")
    assert cases >= 100
    assert len(alarms) <= 0.02 * cases, "\n\n".join(alarms)
