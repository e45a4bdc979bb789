"""What networks with delay taps are tried on: latching, automata, a chaotic series, simulated plants."""

import itertools
import math
import re

import numpy as np
import pytest
import torch

from cases import one_line
from unrolled.errors import DivergedError, InputError
from unrolled.nn import NARX, taps
from unrolled.tasks import narx_automata, narx_forecast, narx_identify, narx_latch
from unrolled.tasks.automata import TOMITA, Automaton
from unrolled.tasks.plants import PLANTS

# Latching


def test_strings_tell_their_class_first_and_then_nothing():
    x, target = narx_latch.strings(12, 6, torch.Generator().manual_seed(0))
    assert x.shape == (12, 6, 3)
    assert x[0, :, 0].tolist() == [1, 0] * 3
    assert x[0, :, 1].tolist() == [0, 1] * 3
    assert not x[1:, :, :2].any()
    assert not x[:3, :, 2].any()
    noise = x[3:, :, 2]
    assert 0.1 < float(noise.abs().max()) <= narx_latch.NOISE
    assert float(noise.min()) < 0 < float(noise.max())
    assert target.tolist() == pytest.approx([0.8, -0.8] * 3)


def test_trainings_do_not_see_each_other():
    """A run of many is that of each alone: the units of the cell have weights of their own."""
    cell = narx_latch.latch.with_options(lags="1-2")
    torch.manual_seed(0)
    x, target = narx_latch.strings(6, 4, torch.Generator().manual_seed(1))
    parameters = {"y.x": torch.randn(5, 3), "w_y1": torch.randn(5), "w_y2": torch.randn(5)}
    leaves = {name: value.requires_grad_() for name, value in parameters.items()}

    def loss(of: slice) -> torch.Tensor:
        some = {name: value[of] for name, value in leaves.items()}
        y = narx_latch.scan(cell, x, None, some)[1]["y1"]
        return (y - target[:, None]).square().mean(0).sum() / 2

    whole = torch.autograd.grad(loss(slice(None)), [*leaves.values()])
    alone = torch.autograd.grad(loss(slice(2, 3)), [*leaves.values()])
    for all_of_them, one in zip(whole, alone, strict=True):
        assert torch.allclose(all_of_them[2], one[2], atol=1e-7)


def test_derivatives_reach_further_back_with_taps():
    """Of one tap they are powers of the slope; of D taps they obey the recursion of the linear network."""
    rest = 1.0
    for _ in range(200):
        rest = math.tanh(narx_latch.WEIGHT * rest)
    slope = narx_latch.WEIGHT * (1 - rest * rest)
    assert narx_latch.derivatives(1) == pytest.approx([slope**n for n in range(narx_latch.LAGS)], rel=1e-9)
    for order in (2, 4):
        expected = [0.0] * (order - 1) + [1.0]
        for _ in range(narx_latch.LAGS - 1):
            expected.append(slope / order * sum(expected[-order:]))
        assert narx_latch.derivatives(order) == pytest.approx(expected[order - 1 :], rel=1e-9)


def test_half_is_between_lengths():
    assert narx_latch.half_at([4, 16], [1.0, 0.0]) == pytest.approx(8)
    assert narx_latch.half_at([4, 8, 16, 64], [0.9, 0.4, 0.75, 0.25]) == pytest.approx(4 * 2**0.8)
    assert narx_latch.half_at([4, 8], [0.5, 0.5]) is None
    assert narx_latch.half_at([4, 8], [0.4, 0.3]) is None


def test_taps_keep_a_class_for_longer():
    """Lin et al. 1996: two to three times as long and more. The same seed gives the same shares."""
    config = narx_latch.LatchConfig(orders="1,3", lengths="3,6,12,24", runs=40, updates=300)
    lines = []
    found = narx_latch.latching(config, lines.append)
    one, three = found.orders
    assert len(lines) == 2
    assert found.lengths == [3, 6, 12, 24]
    assert all(a >= b for a, b in zip(three.shares, one.shares, strict=True))
    assert found.ratio(one) == 1
    assert found.ratio(three) > 2
    assert one.left < three.left
    assert narx_latch.share_that_latch(3, 12, config) == three.shares[2]
    other = narx_latch.LatchConfig(runs=40, updates=300, seed=1)
    again = [narx_latch.share_that_latch(1, length, other) for length in found.lengths]
    assert again != one.shares


# Automata

PATTERNS = {
    1: r"1*",
    2: r"(10)*",
    4: r"(?!.*000).*",
    7: r"0*1*0*1*",
}


def accepts(number: int, string: str) -> bool:
    if number == 3:
        return not re.search(r"(?<!1)1(11)*0(00)*(?!0)", string)
    if number == 5:
        return string.count("0") % 2 == 0 and string.count("1") % 2 == 0
    if number == 6:
        return (string.count("0") - string.count("1")) % 3 == 0
    return re.fullmatch(PATTERNS[number], string) is not None


@pytest.mark.parametrize("number", range(1, 8))
def test_automata_accept_what_their_grammar_says(number):
    for length in range(1, 11):
        every = [*itertools.product((0, 1), repeat=length)]
        found = TOMITA[number - 1].classes(torch.tensor(every).t())[-1].tolist()
        assert found == [accepts(number, "".join(map(str, string))) for string in every]


@pytest.mark.parametrize("automaton", TOMITA, ids=lambda a: a.name)
def test_strings_are_drawn_from_all_accepted_ones(automaton: Automaton):
    generator = torch.Generator().manual_seed(0)
    drawn = automaton.accepted(6, 4000, generator)
    every = torch.tensor([*itertools.product((0, 1), repeat=6)]).t()
    there = every[:, automaton.classes(every)[-1]]
    codes = torch.tensor([2**k for k in range(6)])
    counts = (codes @ drawn).bincount(minlength=64)[codes @ there]
    assert int(counts.sum()) == 4000  # none that is not accepted
    expected = 4000 / there.shape[1]
    assert (
        float(((counts - expected) ** 2 / expected).sum()) < there.shape[1] + 6 * (2 * there.shape[1]) ** 0.5
    )
    mixed = automaton.strings(6, 50, generator)
    assert automaton.classes(mixed)[-1, ::2].all()


def test_where_no_string_is_accepted_there_is_none():
    assert TOMITA[1].accepted(5, 3, torch.Generator()) is None
    assert TOMITA[1].strings(5, 3, torch.Generator()).shape == (5, 3)


def test_both_networks_are_of_one_size():
    sizes = {
        task: [sum(p.numel() for p in made().parameters()) for made in kinds.values()]
        for task, kinds in narx_automata.NETWORKS.items()
    }
    assert sizes == {"grammar": [78, 85], "symbol": [55, 55]}


def test_automata_are_inferred_and_symbols_known():
    config = narx_automata.AutomataConfig(grammars="1", lengths="4", runs=2, updates=120, symbol_updates=200)
    found = narx_automata.automata(config)
    (grammar,) = found.grammars
    assert grammar.commonest == pytest.approx(0.5, abs=0.01)
    for kind in narx_automata.KINDS:
        assert grammar.mean(kind) > 0.95
        assert found.held[kind][0] >= 0.5
    assert found.grammars == narx_automata.automata(config).grammars
    lucky = narx_automata.Inferred(1, "", 0.5, {"Elman": [1.0, 0.989, 0.991]})
    assert lucky.inferred("Elman") == 2
    assert lucky.mean("Elman") == pytest.approx(0.99333, abs=1e-5)


# Forecasts


def logistic(steps: int = 260) -> np.ndarray:
    values = [0.4]
    for _ in range(steps - 1):
        values.append(3.7 * values[-1] * (1 - values[-1]))
    return 100 + 50 * np.array(values)


SMALL = {"train": 200, "steps": 10, "lags": 2, "hidden": 6, "networks": 2, "updates": 40}


def test_a_chaotic_series_is_forecast_better_than_by_a_linear_network():
    config = narx_forecast.ForecastConfig(**SMALL, begin=20)
    found = narx_forecast.forecast("mine", logistic(), config)
    assert found.truth == pytest.approx(logistic()[220:230].tolist())
    assert found.before[-1] == pytest.approx(logistic()[219])
    name = next(iter(found.errors_of))
    assert found.errors_of[name] < 0.01
    assert found.one_step < 1e-3
    assert found.errors_of["linear network"] > 0.3
    truth = torch.tensor(found.truth, dtype=torch.float64)[:, None]
    for each, values in found.forecasts.items():
        told = narx_forecast.normalised_error(torch.tensor(values, dtype=torch.float64)[:, None], truth)
        assert told == pytest.approx(found.errors_of[each], rel=1e-6)
    averaged = np.mean(found.single, 0)
    assert found.forecasts[name] == pytest.approx(averaged.tolist())
    assert found.typical == pytest.approx(np.median(found.errors))


def test_errors_are_of_the_variance():
    truth = torch.tensor([[1.0, 0.0], [3.0, 10.0], [5.0, 20.0]])
    assert narx_forecast.normalised_error(truth.mean(0).expand(3, 2), truth) == pytest.approx(1.0)
    assert narx_forecast.normalised_error(truth + 1, truth) == pytest.approx((3 / 8 + 3 / 200) / 2)


def test_the_nearest_past_goes_on_as_it_did():
    known = torch.tensor([0.0, 5, 1, 2, 3, 7, 8, 9, 1, 2, 3.1])[:, None]
    assert narx_forecast.nearest(known, 3, 2).flatten().tolist() == [7, 8]
    with pytest.raises(InputError, match="train=11 steps leave no window of 3 lags with 9 steps after it"):
        narx_forecast.nearest(known, 3, 9)


@pytest.mark.parametrize(
    ("values", "settings", "message"),
    [
        (logistic(100), {}, "mine has 100 steps, but 0 to leave out, 200 to learn from and 10 to forecast"),
        (np.ones(300), {}, "mine is the same at all 200 steps to learn from: there is nothing to forecast"),
        (logistic(), {"train": 30, "lags": 30}, "train=30 steps are too few for 30 lags"),
        (logistic(), {"networks": 0}, "networks must be a whole number of at least 1, got 0"),
        (logistic(), {"begin": -1}, "begin must not be below 0, got -1"),
        (logistic(), {"decay": -1.0}, "decay must not be below 0, got -1.0"),
    ],
)
def test_series_and_settings_that_do_not_fit_are_refused(values, settings, message):
    with pytest.raises(InputError) as caught:
        narx_forecast.forecast("mine", values, narx_forecast.ForecastConfig(**SMALL | settings))
    assert one_line(caught.value).startswith(message)


def test_networks_that_diverge_are_named_and_left_out(monkeypatch):
    """Of those that do not there is an average; where all do the command says so."""
    real, calls = taps.WithTaps.forward, []

    def forward(self, *arguments, **options):
        if isinstance(self, NARX):
            calls.append(1)
            if len(calls) in (1, 3, 4):
                raise DivergedError("the free run diverged: y[0] is 1e+07 at step 3")
        return real(self, *arguments, **options)

    monkeypatch.setattr(taps.WithTaps, "forward", forward)
    lines = []
    config = narx_forecast.ForecastConfig(**SMALL | {"updates": 2})
    found = narx_forecast.forecast("mine", logistic(), config, lines.append)
    assert found.single[0] is None
    assert found.errors[0] is None
    assert next(iter(found.forecasts.values())) == pytest.approx(found.single[1])
    assert "network 1: the free run diverged: y[0] is 1e+07 at step 3" in lines
    with pytest.raises(DivergedError, match="the free runs of all 2 networks diverged"):
        narx_forecast.forecast("mine", logistic(), config)


# Plants


@pytest.mark.parametrize("plant", PLANTS, ids=lambda p: p.number)
def test_plants_are_the_equations_of_the_paper(plant):
    """Once more in NumPy, with zeros before the beginning."""
    torch.manual_seed(plant.number)
    u = plant.excitation(30, torch.Generator().manual_seed(1))
    assert float(u.abs().max()) <= plant.amplitude
    v = np.concatenate([np.zeros((3, plant.inputs)), u.numpy()])
    y = np.zeros((33, plant.outputs))
    for t in range(4, 33):
        k = t - 1
        if plant.number == 1:
            f = sum(a * np.sin(n * np.pi * v[k]) for a, n in ((0.6, 1), (0.3, 3), (0.1, 5)))
            y[t] = 0.3 * y[k] + 0.6 * y[k - 1] + f
        elif plant.number == 2:
            y[t] = y[k] * y[k - 1] * (y[k] + 2.5) / (1 + y[k] ** 2 + y[k - 1] ** 2) + v[k]
        elif plant.number == 3:
            y[t] = y[k] / (1 + y[k] ** 2) + v[k] ** 3
        elif plant.number == 4:
            top = y[k] * y[k - 1] * y[k - 2] * v[k - 1] * (y[k - 2] - 1) + v[k]
            y[t] = top / (1 + y[k - 2] ** 2 + y[k - 1] ** 2)
        else:
            below = 1 + y[k, 1] ** 2
            y[t] = y[k, 0] / below + v[k, 0], y[k, 0] * y[k, 1] / below + v[k, 1]
    np.testing.assert_allclose(plant.run(u).numpy(), y[3:], atol=1e-12)


def test_test_inputs_are_those_of_the_paper():
    first, _, _, fourth, _ = PLANTS
    assert float(first.test_inputs(300)[125, 0]) == pytest.approx(0, abs=1e-12)
    both = fourth.test_inputs(800)[:, 0].tolist()
    assert both[500] == pytest.approx(math.sin(2 * math.pi * 500 / 250))
    slow, fast = math.sin(2 * math.pi * 610 / 250), math.sin(2 * math.pi * 610 / 25)
    assert both[610] == pytest.approx(0.8 * slow + 0.2 * fast)


def test_a_plant_is_identified_better_than_by_a_linear_network():
    config = narx_identify.IdentifyConfig(plants="3,5", train=200, steps=60, hidden=8, updates=40)
    third, fifth = narx_identify.identified(config)
    for each in (third, fifth):
        assert each.free_run["NARX"] < 0.1 * each.free_run["ARX"]
        assert each.one_step["NARX"] < 0.1 * each.one_step["ARX"]
        assert np.shape(each.free["NARX"]) == np.shape(each.truth)
    assert np.shape(fifth.truth) == (60, 2)
    again = narx_identify.identify(PLANTS[2], config)  # the last bits depend on where arrays are in memory
    assert again.truth == third.truth
    assert again.free_run["ARX"] == pytest.approx(third.free_run["ARX"], rel=1e-6)
    free, truth = (torch.tensor(v, dtype=torch.float64) for v in (third.free["ARX"], third.truth))
    assert narx_forecast.normalised_error(free, truth) == pytest.approx(third.free_run["ARX"])


def test_a_model_that_diverges_has_no_free_run(monkeypatch):
    def forward(self, *arguments, **options):
        raise DivergedError("it diverged")

    monkeypatch.setattr(taps.WithTaps, "forward", forward)
    config = narx_identify.IdentifyConfig(plants="3", train=50, steps=20, hidden=2, updates=2)
    (found,) = narx_identify.identified(config)
    assert found.free_run == {"ARX": None, "NARX": None}
    assert found.free == {"ARX": None, "NARX": None}
    assert found.one_step["ARX"] > 0


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (narx_latch.LatchConfig, {"orders": "0,1"}, "orders begin with 1, got 0"),
        (
            narx_latch.LatchConfig,
            {"orders": "some"},
            "cannot read orders 'some'; write them as in 1,2,5 or 1-6",
        ),
        (narx_latch.LatchConfig, {"lengths": "2,5"}, "lengths begin with 3, got 2"),
        (narx_latch.LatchConfig, {"lengths": "9,5"}, "lengths 9, 5 are not in order: write 5, 9"),
        (narx_latch.LatchConfig, {"runs": 0}, "runs must be a whole number of at least 1, got 0"),
        (narx_latch.LatchConfig, {"rate": 0.0}, "rate must be above 0, got 0.0"),
        (
            narx_automata.AutomataConfig,
            {"grammars": "7,8"},
            "there is no grammar 8; they are numbered 1 to 7",
        ),
        (narx_automata.AutomataConfig, {"lengths": "2"}, "lengths begin with 3, got 2"),
        (narx_identify.IdentifyConfig, {"plants": "6"}, "there is no plant 6; they are numbered 1 to 5"),
        (narx_identify.IdentifyConfig, {"updates": 0}, "updates must be a whole number of at least 1, got 0"),
    ],
)
def test_settings_that_are_none_are_refused(config, settings, message):
    with pytest.raises(InputError) as caught:
        config(**settings)
    assert one_line(caught.value).startswith(message)
