"""What an experiment is: numbers decide, and a verdict is found anew or not reproduced."""

import json
import math

import pytest
import torch

from unrolled import InputError
from unrolled.lab.experiment import Number, Result, Verdict, at_least, at_most, experiment, near


def number(measured, role="theory", expected=1.0, tolerance=1e-3, relation="="):
    return Number("x", measured, expected, tolerance, relation, role)


GOOD, OFF = 1.0, 1.01


def result(*numbers):
    return Result(numbers, [], "Words.")


def made(kind, *numbers, measure=None):
    return experiment(
        title="Title",
        lectures=("003",),
        claim="A claim.",
        statement="A test.",
        verdict=Verdict(kind, "words"),
    )(measure or (lambda _: result(*numbers)))


@pytest.mark.parametrize(
    ("measured", "relation", "agrees"),
    [
        (1.0009, "=", True), (0.9991, "=", True), (1.0011, "=", False),
        (1.0009, "≤", True), (1.0011, "≤", False), (-5.0, "≤", True),
        (0.9991, "≥", True), (0.9989, "≥", False), (5.0, "≥", True),
        (math.nan, "=", False), (math.nan, "≤", False), (math.nan, "≥", False),
        (math.inf, "≥", True), (math.inf, "=", False),
    ],
)  # fmt: skip
def test_a_number_agrees_within_its_tolerance(measured, relation, agrees):
    assert number(measured, relation=relation).agrees == agrees


def test_what_is_infinite_may_be_so():
    assert Number("x", math.inf, math.inf).agrees


@pytest.mark.parametrize("role", ["theory", "claim", "counterexample"])
def test_what_is_not_a_number_is_never_as_known(role):
    assert not number(math.nan, role).as_known


def test_helpers_say_what_they_are_called():
    assert near("x", 2.001, 2.0, 1e-3).agrees
    assert not near("x", 2.003, 2.0, 1e-3).agrees
    assert near("x", -2.001, -2.0, 1e-3).agrees
    assert at_most("x", 1.0, 1.0).agrees
    assert not at_most("x", 1.001, 1.0).agrees
    assert at_least("x", 1.0, 1.0).agrees
    assert not at_least("x", 0.999, 1.0).agrees


def test_numbers_alone_decide():
    theory, claim = number(GOOD), number(GOOD, "claim")
    contradicts = number(OFF, "counterexample")
    assert result(theory).kind == "holds"
    assert result(theory, claim).kind == "holds"
    assert result(theory, claim, contradicts).kind == "holds if"
    assert result(theory, contradicts).kind == "fails"


@pytest.mark.parametrize("wrong", [number(OFF), number(OFF, "claim"), number(GOOD, "counterexample")])
def test_one_number_that_is_not_as_known_leaves_no_verdict(wrong):
    assert result(number(GOOD), number(GOOD, "claim"), number(OFF, "counterexample"), wrong).kind is None


def test_an_experiment_passes_when_it_finds_what_is_known():
    """Also one whose claim is false; and not one whose claim turns out right."""
    false = number(OFF, "counterexample")
    assert made("fails", false).run().reproduced
    assert made("holds", number(GOOD)).run().reproduced
    assert made("holds if", number(GOOD, "claim"), false).run().reproduced
    assert not made("holds", false).run().reproduced
    assert not made("fails", number(GOOD)).run().reproduced
    assert not made("fails", false, number(OFF)).run().reproduced


def test_what_is_off_is_named_in_one_line():
    told = made("fails", number(OFF, "counterexample"), number(OFF)).run(3).complaint
    assert "seed 3" in told
    assert "x is 1.01, expected = 1 within 0.001" in told
    assert "\n" not in told
    assert "does not contradict the claim" in made("fails", number(GOOD, "counterexample")).run().complaint
    assert "the claim holds" in made("fails", number(GOOD)).run().complaint
    assert made("holds", number(GOOD)).run().complaint == ""


def test_the_name_is_that_of_the_function():
    def some_long_name(_):
        return result()

    assert made("holds", measure=some_long_name).name == "some-long-name"


def test_a_seed_decides_all_random_numbers_and_touches_no_others():
    drawn = made("holds", measure=lambda _: result(Number("x", float(torch.rand(())), 0.5, 1.0)))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    values = [drawn.run(seed).result.numbers[0].measured for seed in (0, 0, 1)]
    assert values[0] == values[1] != values[2]
    assert torch.equal(before, torch.get_rng_state())


def test_threads_are_given_back():
    seen = []

    def measure(_):
        seen.append(torch.get_num_threads())
        raise ZeroDivisionError

    torch.set_num_threads(2)
    try:
        with pytest.raises(ZeroDivisionError):
            made("holds", measure=measure).run()
        assert (seen, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(1)


def test_other_sizes_may_be_given():
    sized = experiment(
        title="", lectures=("001",), claim="", statement="", verdict=Verdict("holds"), setup=3, quick=2
    )(lambda setup: result(Number("x", setup, 3)))
    assert sized.run().reproduced
    assert not sized.run(0, sized.quick).reproduced


@pytest.mark.parametrize("seed", [-1, 1.5, True, "a", 2**63])
def test_a_seed_that_is_none_is_refused(seed):
    with pytest.raises(InputError, match="a seed is a whole number"):
        made("holds").run(seed)


def test_its_record_is_plain_data():
    body = made("fails", number(OFF, "counterexample"), number(math.nan)).run(2).to_dict()
    text = json.loads(json.dumps(body))
    assert text["found"] is None
    assert text["reproduced"] is False
    assert text["verdict"] == {"kind": "fails", "words": "words"}
    assert text["numbers"][0]["measured"] == OFF
    assert text["numbers"][0]["agrees"] is False


def test_a_verdict_in_words():
    assert str(Verdict("holds")) == "holds"
    assert str(Verdict("holds", "as a mean")) == "holds, as a mean"
    assert str(Verdict("holds if", "w < 1")) == "holds if w < 1"
    assert str(Verdict("fails", "w = 2")) == "fails: w = 2"
