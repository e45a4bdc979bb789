"""Every experiment reproduces its verdict; training ones in a quick form here."""

import math
import re
from dataclasses import is_dataclass

import pytest

from unrolled import InputError
from unrolled.lab import EXPERIMENTS, LECTURES, find
from unrolled.lab.pages import lab_page
from unrolled.report.blocks import Finding, Table


@pytest.fixture(scope="module")
def outcomes():
    """What came out of each, kept between tests."""
    known = {}

    def run(name):
        if name not in known:
            each = EXPERIMENTS[name]
            known[name] = each.run(0, each.quick)
        return known[name]

    return run


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_it_reproduces_its_verdict(outcomes, name):
    found = outcomes(name)
    assert found.reproduced, found.complaint


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_it_says_what_it_tests(name):
    each = EXPERIMENTS[name]
    assert each.name == name
    assert re.fullmatch("[a-z]+(-[a-z]+)*", name)
    assert each.lectures
    assert {*each.lectures} <= LECTURES.keys()
    for text in (each.claim, each.statement):
        assert text.endswith(".")
    assert each.verdict.kind == "holds" or each.verdict.words
    assert not each.verdict.words.endswith(".")
    assert each.setup is None or is_dataclass(each.setup)
    assert each.quick is None or type(each.quick) is type(each.setup)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_it_has_a_figure_and_a_number_beside_a_closed_form(outcomes, name):
    result = outcomes(name).result
    assert result.figures
    assert result.words.endswith(".")
    names = [number.name for number in result.numbers]
    assert all(names)
    assert len({(n.name, n.role) for n in result.numbers}) == len(names) or "the same" in " ".join(names)
    assert (
        any(n.relation == "=" and n.role != "counterexample" for n in result.numbers) or name == "curly-brace"
    )
    for each in result.numbers:
        assert not math.isnan(each.expected)
        assert each.tolerance >= 0
    kinds = {n.role for n in result.numbers}
    kind = EXPERIMENTS[name].verdict.kind
    assert ("counterexample" in kinds) == (kind != "holds")
    assert "claim" in kinds or kind != "holds if"


def test_one_that_goes_wrong_is_seen(monkeypatch):
    """With a sign turned in the slopes that a closed form takes, the chain rule is not reproduced."""
    from unrolled.lab import chain

    monkeypatch.setitem(chain.SLOPES, "tanh", lambda a: 1 - 0.999 * a.square())
    found = find("chain-rule").run()
    assert not found.reproduced
    assert "tanh" in found.complaint


def test_a_page_of_all_has_every_verdict_and_every_figure(outcomes):
    found = [outcomes(name) for name in EXPERIMENTS]
    html = lab_page(found, "1.2.3")
    assert "version 1.2.3" in html
    for each in found:
        assert each.experiment.title in html
    shown = sum(
        isinstance(figure, Table) or not isinstance(figure, Finding)
        for o in found
        for figure in o.result.figures
    )
    assert html.count("<figure") == shown + len(found)
    assert not re.search(r'(?:src|href)="(?!#|data:)', html)


def test_near_names_are_offered():
    with pytest.raises(InputError, match="did you mean chain-rule"):
        find("chainrule")
    with pytest.raises(InputError, match="`unrolled lab` lists them"):
        find("§")
