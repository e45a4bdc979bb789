"""Scores of units find what was planted in them, are what pairs and sums say, and do not find luck."""

import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from unrolled.cells import find
from unrolled.errors import DataError, InputError
from unrolled.tasks import units as module
from unrolled.tasks.association import best_threshold, centred_ranks, character_score, shifts_of
from unrolled.tasks.char import CharModel
from unrolled.tasks.char_config import CharConfig
from unrolled.tasks.predicates import Predicate, predicates
from unrolled.tasks.units import (
    CLEAR,
    WEAK,
    States,
    Unit,
    UnitScore,
    score,
)

LENGTH = 6000


def made_text(length: int = LENGTH) -> str:
    """Words in lines of different lengths, some in quotation marks, with blank lines."""
    draw = random.Random(1)
    text = ""
    while len(text) < length:
        words = ["".join(draw.choices("abcde", k=draw.randint(1, 9))) for _ in range(draw.randint(2, 12))]
        if draw.random() < 0.4:
            a, b = sorted(draw.choices(range(len(words)), k=2))
            words[a], words[b] = '"' + words[a], words[b] + '"'
        text += " ".join(words) + "\n" * draw.choice([1, 1, 1, 2])
    return text[:length]


TEXT = made_text()
IDS = torch.tensor([*map(ord, TEXT)])
KNOWN = {p.name: p for p in predicates(TEXT)}


def wandering(count: int, length: int = LENGTH) -> Tensor:
    """Units that know nothing: each keeps 0.9 of its value and adds noise."""
    values = torch.randn(count, length, dtype=torch.float64)
    for t in range(1, length):
        values[:, t] += 0.9 * values[:, t - 1]
    return values


def scored(states: Tensor, known: Sequence[Predicate], keep: int | None = None) -> module.Units:
    units = [Unit(0, "h", k) for k in range(len(states))]
    return score(
        lambda places: states[list(places)], units, known, IDS[: states.shape[1]], keep or len(units)
    )


def halves(values: Tensor) -> tuple[Tensor, Tensor]:
    middle = len(values) // 2
    return values[:middle], values[middle:]


def area(values: Tensor, target: Tensor) -> float:
    """How often a yes is above a no, by counting all pairs."""
    yes, no = values[target == 1][:, None], values[target == 0][None]
    return float((yes > no).double().mean() + (yes == no).double().mean() / 2)


def by_definition(values: Tensor, p: Predicate, target: Tensor) -> float:
    """The score of one unit for a predicate with these values."""
    (v1, v2), (y1, y2) = halves(values), halves(target)
    if p.kind == "number":
        first, second = (float(torch.corrcoef(torch.stack(each))[0, 1]) for each in ((v1, y1), (v2, y2)))
        return max(0.0, second * (1 if first > 0 else -1)) ** 2
    first, second = area(v1, y1), area(v2, y2)
    return max(0.5, second if first > 0.5 else 1 - second)


def test_planted_units_are_found_and_the_others_are_chance():
    states = wandering(20)
    states[5] = KNOWN["position in line"].values / 50 + 0.005 * torch.randn(LENGTH)
    states[7] = -KNOWN["in quotation"].values + 0.1 * torch.randn(LENGTH)
    found = scored(states, [KNOWN["position in line"], KNOWN["in quotation"]])
    for name, place, sign in (("position in line", 5, 1), ("in quotation", 7, -1)):
        best = found.best(name)
        assert (best.unit, best.sign, best.verdict) == (place, sign, "clear")
        assert best.score > 0.99
        assert best.gain > 0.9
        others = [s for s in found.scores if s.predicate == name and s.unit != place]
        assert len(others) == 19
        assert all(s.verdict == "none" and s.score < s.chance + 0.03 for s in others)
    quotation = found.best("in quotation")
    assert quotation.threshold == pytest.approx(-0.5, abs=0.2)
    assert quotation.balanced_accuracy > 0.99
    assert found.best("position in line").threshold is None


def test_scores_and_chance_are_what_their_definitions_say():
    """Chance too, at every place a predicate is moved to; half the values are tied with others."""
    length = 1200
    known = [p for p in predicates(TEXT[:length]) if p.name in ("position in line", "in a word", "word end")]
    states = wandering(4, length)
    states[1] = (states[1] * 2).round()
    states[2] += known[0].values / 20
    states[3] += known[1].values
    found = scored(states, known)
    for p in known:
        each = {s.unit: s for s in found.scores if s.predicate == p.name}
        for k in range(4):
            assert each[k].score == pytest.approx(by_definition(states[k], p, p.values), abs=1e-6)
        luck = [by_definition(v, p, p.values.roll(shift)) for v in states for shift in shifts_of(length)]
        assert each[0].chance == pytest.approx(max(luck), abs=1e-6)
        assert [s.score for s in found.scores if s.predicate == p.name] == sorted(
            (s.score for s in each.values()), reverse=True
        )


@pytest.mark.parametrize("name", ["position in line", "in quotation", "in a word", "word end"])
def test_the_score_of_the_last_character_is_that_of_a_unit_with_its_mean(name):
    known = KNOWN[name]
    (before, _), (first, _) = halves(IDS), halves(known.values)
    mean = {c: float(first[before == c].mean()) for c in before.unique().tolist()}
    unit = torch.tensor([mean[c] for c in IDS.tolist()], dtype=torch.float64)
    assert character_score(known, IDS) == pytest.approx(by_definition(unit, known, known.values), abs=1e-6)


def test_a_character_that_the_first_half_lacks_stands_for_the_mean():
    values = torch.tensor([0, 1, 1, 1, 0, 1, 1, 1], dtype=torch.float64)
    ids = torch.tensor([0, 0, 1, 1, 0, 2, 1, 1])  # means 0.5, 1, and 0.75 for the new one
    assert character_score(Predicate("p", "yes/no", "", values), ids) == 1


def test_what_needs_a_memory_is_above_chance_and_the_last_character():
    def beyond(score: float, chance: float, character: float) -> float:
        return UnitScore(0, "h", 0, "p", "number", score, chance, character, 1).beyond

    assert beyond(0.9, 0.5, 0.8) == pytest.approx(0.5)
    assert beyond(0.9, 0.8, 0.5) == pytest.approx(0.5)
    assert beyond(0.9, 0.5, 1.0) == 0
    known = UnitScore(0, "h", 0, "p", "number", 0.9, 0.5, 0.9, 1)
    assert (known.verdict, known.memory) == ("clear", "none")


@pytest.mark.parametrize(
    "values",
    [
        [3.0],
        [0.0, -0.0, -1e-40, 1e-40, -2, -3, 1, -3],
        [1, 1, 1],
        [2, 1, 2, 3],
        [1, -1, 0, -1, 1, 1, 5],
        [*range(9)],
    ],
)
def test_ranks_are_shared_by_equal_values(values):
    rows = torch.tensor([values, values[::-1]], dtype=torch.float32)
    below = (rows[:, None, :] < rows[:, :, None]).sum(2)
    equal = (rows[:, None, :] == rows[:, :, None]).sum(2) - 1
    assert torch.equal(centred_ranks(rows), below + equal / 2 - (len(values) - 1) / 2)


def test_an_area_counts_pairs():
    for seed in range(50):
        generator = torch.Generator().manual_seed(seed)
        values = torch.randint(-2, 3, (1, 30), generator=generator) * torch.tensor([-0.7])
        target = (torch.rand(30, generator=generator) < 0.4).double()
        target[:2] = torch.tensor([0.0, 1.0])
        pairs = target.sum() * (1 - target).sum()
        assert float(centred_ranks(values)[0].double() @ target / pairs + 0.5) == pytest.approx(
            area(values[0], target)
        )


@pytest.mark.parametrize(("held", "block"), [(1, 1), (4 * LENGTH, LENGTH), (5 * LENGTH, 3 * LENGTH)])
def test_blocks_change_nothing(monkeypatch, held, block):
    states = wandering(11).float()
    at_once = scored(states, list(KNOWN.values()))
    monkeypatch.setattr(module, "HELD", held)
    monkeypatch.setattr(module, "BLOCK", block)
    in_blocks = scored(states, list(KNOWN.values()))
    assert in_blocks.untold == at_once.untold
    ordered = [sorted(each.scores, key=lambda s: (s.predicate, s.unit)) for each in (at_once, in_blocks)]
    assert len(ordered[0]) == 11 * len(at_once.predicates)
    for one, other in zip(*ordered, strict=True):
        for name, value in one.to_dict().items():
            expected = other.to_dict()[name]
            assert value == (
                pytest.approx(expected, rel=1e-6, abs=1e-6) if isinstance(value, float) else expected
            )


@pytest.mark.parametrize("name", ["position in line", "in a word"])
def test_what_is_known_in_the_first_half_only_is_chance(name):
    states = wandering(12)
    known, middle = KNOWN[name], LENGTH // 2
    states[3, :middle] = known.values[:middle]
    states[4] = known.values
    states[4, middle:] *= -1
    each = {s.unit: s for s in scored(states, [known]).scores}
    assert each[3].verdict == "none"
    assert each[3].score < each[3].chance + 0.03
    assert each[4].score == (0 if known.kind == "number" else 0.5)


def test_units_that_know_nothing_are_told_from_none_that_do():
    for seed in range(5):
        torch.manual_seed(seed)
        found = scored(wandering(40), list(KNOWN.values()), keep=1)
        assert {s.verdict for s in found.scores} == {"none"}


def test_a_unit_that_stays_as_it_is_tells_nothing():
    states = torch.full((3, LENGTH), 0.1)
    states[1] = torch.linspace(0, 1, LENGTH).round()  # the same throughout each half
    for s in scored(states, [KNOWN["position in line"], KNOWN["in a word"]]).scores:
        assert (s.score, s.verdict, s.sign) == (0 if s.kind == "number" else 0.5, "none", 0)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_threshold_is_the_best_of_the_first_half(sign):
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        values = torch.randint(7, (60,), generator=generator).double()
        target = (torch.rand(60, generator=generator) < 0.3).double()
        target[:2] = target[30:32] = torch.tensor([0.0, 1.0])
        (v1, v2), (y1, y2) = halves(values), halves(target)

        def balanced(values: Tensor, target: Tensor, threshold: float) -> float:
            said = (sign * values > sign * threshold).double()
            return float((said[target == 1].mean() + 1 - said[target == 0].mean()) / 2)

        threshold, accuracy = best_threshold(values, target, sign)
        assert balanced(v1, y1, threshold) == pytest.approx(
            max(balanced(v1, y1, k + 0.5) for k in range(6) if v1.min() <= k < v1.max())
        )
        assert accuracy == pytest.approx(balanced(v2, y2, threshold))


def test_what_cannot_be_told_has_a_reason_and_no_number():
    def yes(name: str, *places: slice) -> Predicate:
        values = torch.zeros(LENGTH, dtype=torch.float64)
        for place in places:
            values[place] = 1
        return Predicate(name, "yes/no", "", values)

    half = LENGTH // 2
    level = Predicate("level", "number", "", torch.full((LENGTH,), 2.5, dtype=torch.float64))
    known = [
        yes("never"), yes("ever", slice(None)), yes("late", slice(half + 5, half + 9)),
        yes("early", slice(5, 9)), yes("rare", slice(half - 1, half + 1)), level,
        KNOWN["digit"], KNOWN["in a word"],
    ]  # fmt: skip
    found = scored(wandering(3), known)
    assert found.untold == {
        "never": "it is so nowhere in this text",
        "ever": "it is so everywhere in this text",
        "late": "it is the same throughout the first half of this text",
        "early": "it is the same throughout the second half of this text",
        "rare": "it changes too rarely in this text to be told from chance",
        "level": "it is 2.5 everywhere in this text",
        "digit": "it is so nowhere in this text",
    }
    assert found.predicates == ["in a word"]
    with pytest.raises(InputError, match="no unit was scored for 'digit': it is so nowhere in this text"):
        found.best("digit")
    with pytest.raises(InputError, match="no unit was scored for 'other': it was not measured"):
        found.best("other")
    assert scored(wandering(3), known[:3]).scores == ()


def test_a_text_too_short_says_how_much_is_needed():
    with pytest.raises(DataError, match=r"the text has 999 characters, and .* in 1,000 at least"):
        scored(torch.zeros(2, 999), predicates(TEXT[:999]))
    with pytest.raises(InputError, match="units must be a whole number of at least 1, got 0"):
        score(lambda _: torch.zeros(0, LENGTH), [], list(KNOWN.values()), IDS)


def test_the_verdict_is_how_far_a_score_is_from_chance():
    def verdict(score: float, chance: float) -> str:
        return UnitScore(0, "h", 0, "p", "number", score, chance, 0.9, 1).verdict

    assert verdict(0.6 + 0.4 * CLEAR + 1e-9, 0.6) == "clear"
    assert verdict(0.6 + 0.4 * CLEAR - 1e-9, 0.6) == "weak"
    assert verdict(0.6 + 0.4 * WEAK + 1e-9, 0.6) == "weak"
    assert verdict(0.6 + 0.4 * WEAK - 1e-9, 0.6) == "none"
    assert verdict(0.2, 0.6) == verdict(1.0, 1.0) == "none"


def test_records_name_the_unit_and_the_best_come_first():
    states = wandering(6)
    states[2] = KNOWN["in a word"].values
    found = scored(states, list(KNOWN.values()), keep=2)
    record = found.to_dict()
    beyond = [each["beyond"] for each in record["best"]]
    assert beyond == sorted(beyond, reverse=True)
    assert len(record["scores"]) == 2 * len(record["best"])
    (word,) = (each for each in record["best"] if each["predicate"] == "in a word")
    assert word["name"] == "l0.h[2]"
    assert (word["layer"], word["state"], word["unit"], word["balanced_accuracy"]) == (0, "h", 2, 1.0)
    assert record["units"] == 6
    assert record["characters"] == LENGTH


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_states_are_those_of_one_stream_at_once(monkeypatch, cell):
    """However many steps the network makes at a time, and whichever units are asked for."""
    monkeypatch.setattr(module, "CHUNK", 7)
    model = CharModel(find(cell), 5, CharConfig(cell=cell, hidden=3, layers=2, dropout=0.5, dtype="float64"))
    model.train()
    ids = torch.randint(5, (40,))
    states = States(model, ids)
    states([0])
    assert model.training
    model.eval()
    _, _, steps = model.layer(ids[:, None], return_states=True)
    names = list(model.layer.cell.states)
    assert states.units == [Unit(k, name, u) for k in (0, 1) for name in names for u in range(3)]
    for places in (range(len(states.units)), [4], [5, 0, 2]):
        found = states(places)
        for row, place in zip(found, places, strict=True):
            layer, name, unit = states.units[place]
            torch.testing.assert_close(row, steps[name][layer, :, 0, unit], rtol=1e-12, atol=1e-12)
