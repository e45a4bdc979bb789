"""What a diagnosis says, what it does not say, and that neither depends on scales."""

import json
import math
from ast import literal_eval
from dataclasses import dataclass, field

import pytest
import torch
from healthy import Embedded
from networks import B, adding, echo, make, opened, parameters, train
from planted import linear, set_bias, set_recurrent, with_log, with_sqrt
from torch import nn

from unrolled import GRU, LSTM, InputError, Recurrent, cell
from unrolled.flow.diagnose import RULES, Diagnosis, diagnose
from unrolled.flow.findings import Seen
from unrolled.flow.lag import LagProfile
from unrolled.flow.nan import nan_source
from unrolled.flow.rules import growth
from unrolled.flow.rules_training import read_history
from unrolled.flow.trace import record
from unrolled.flow.truncated import Truncation
from unrolled.unroll.truncation import Loss


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def why(found: Diagnosis, rule: str) -> str:
    return "; ".join(each.why for each in found.unknown if each.rule == rule)


def test_a_place_a_measurement_a_cause_and_a_remedy():
    found = diagnose(LSTM(3, 32, num_layers=2), random(100, 8, 3))
    (finding,) = found.findings
    assert (finding.name, finding.level, finding.place) == ("vanishing-through-time", "warning", "l0")
    assert "layer 1, cell lstm: the gradient halves every " in finding.title
    assert "forget gates average 0.5" in finding.title
    assert "(bias " in finding.title
    assert finding.remedy == "Start them open: forget_bias=2 or 3, or unrolled.nn.chrono_(layer, 100)."
    assert finding.evidence["lag"] == 25
    assert finding.evidence["part left"] < 0.01
    assert not found.healthy
    assert "vanishing-through-time" in found
    assert found["vanishing-through-time"] == (finding,)
    assert "exploding" not in found
    assert str(found).startswith("1 thing is wrong (")
    assert "\n    asked: at least 0.01 of what there is at lag 1 at lag 25, a quarter of" in str(found)


def test_what_is_needed_decides():
    layer, x = LSTM(3, 32), random(100, 8, 3)
    assert diagnose(layer, x, needed=2).healthy
    (finding,) = diagnose(layer, x, needed=60).findings
    assert finding.level == "serious"
    assert finding.threshold.endswith("at lag 60, which the task needs")
    assert diagnose(opened(Recurrent("lstm", 3, 32), 100), x).healthy
    set_bias(layer, "f", -30.0)
    found = diagnose(layer, x, needed=99)
    assert found.findings[0].name == "closed-forget-gate"
    assert "nothing that a float holds is left 99 steps back" in found.findings[1].title


def test_the_remedy_works():
    """A start that the remedy names is found to be one."""
    x = random(80, 8, 3)
    for name in ("lstm", "gru", "gru_chung", "mgu", "gated"):
        (finding,) = diagnose(Recurrent(name, 3, 32), x).findings
        cure = {"f.bias": float(finding.remedy.partition(" or ")[2][0])} if name == "lstm" else None
        cure = cure or literal_eval(finding.remedy.partition("init=")[2].partition("}")[0] + "}")
        assert diagnose(Recurrent(name, 3, 32, init=cure), x).healthy, name


def test_records_are_plain_data_and_drawn():
    found = diagnose(LSTM(3, 8, num_layers=2), random(60, 4, 3))
    data = json.loads(json.dumps(found.to_dict()))
    assert data["findings"][0]["name"] == "vanishing-through-time"
    assert data["unknown"][0]["why"]
    assert len(found.plot().lines) == 3
    assert len(found.findings[0].plot().texts) == 1
    broken = Recurrent("gru", 3, 4)
    set_bias(broken, "z", math.nan)
    assert len(diagnose(broken, random(30, 2, 3)).plot().texts) == 1


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_the_scale_of_the_loss_changes_nothing(factor):
    task = adding(60)
    model = make(task, "gru", 16, 2)
    set_bias(model, "r", -10.0)
    batch = task.draw(B)
    one = diagnose(model, batch, task.losses)
    two = diagnose(model, batch, lambda m, b: task.losses(m, b) * factor)
    assert [f.title for f in one.findings] == [f.title for f in two.findings]


def test_precision_changes_no_finding():
    layer, x = Recurrent("lstm", 3, 16), random(100, 8, 3)
    one, two = diagnose(layer, x), diagnose(layer.double(), x.double())
    assert [(f.name, f.place) for f in one.findings] == [(f.name, f.place) for f in two.findings]


def test_a_recording_does_as_well():
    layer, x = LSTM(3, 8), random(60, 4, 3)
    assert str(diagnose(record(layer, x))) == str(diagnose(layer, x))


def test_what_cannot_be_told_is_said():
    layer = Recurrent("rnn", 3, 8)
    found = diagnose(layer, random(12, 4, 3))
    assert found.healthy
    assert why(found, "vanishing-through-time").startswith("12 steps are too few")
    assert why(found, "closed-forget-gate") == "no gate carries a state in these cells"
    assert why(found, "learning-rate-high") == "no training history: give history="
    assert why(found, "clipping-always-on") == "no training history: give history="
    assert why(found, "truncation-too-short").endswith("give bptt=")
    assert why(found, "vanishing-through-depth") == "there is one layer only"
    assert set(found.checked) == RULES.keys() - {each.rule for each in found.unknown}
    assert "needs 50 steps, but the batch has only 12" in str(diagnose(layer, random(12, 4, 3), needed=50))
    short = diagnose(Recurrent("lstm", 3, 8), random(5, 4, 3))
    assert why(short, "memory-too-long").startswith("5 steps are too few")
    history = [{"step": k, "loss": 1.0} for k in range(5)]
    found = diagnose(layer, random(12, 4, 3), history=history)
    assert why(found, "learning-rate-high").startswith("the history has 5 losses")
    assert "0 losses" in why(diagnose(layer, random(12, 4, 3), history=[]), "learning-rate-high")
    for name in ("needed", "bptt"):
        with pytest.raises(InputError, match=name):
            diagnose(layer, random(12, 4, 3), **{name: 0})


def test_a_loss_that_depends_on_nothing():
    layer, x = Recurrent("lstm", 3, 8), random(30, 4, 3)
    found = diagnose(layer, x, lambda m, b: m(b)[0].sum(-1).detach())
    assert "the loss is constant" in why(found, "vanishing-through-time")
    assert "the loss is constant" in why(found, "exploding")
    masked = diagnose(layer, x, lambda m, b: m(b)[0].sum(-1) * 0.0)
    assert "the loss does not depend on this layer" in why(masked, "vanishing-through-time")
    assert "at lag 1" in why(masked, "exploding")
    assert "at lag 1" in why(masked, "chaotic-dynamics")
    deep = diagnose(Recurrent("lstm", 3, 8, 2), x, lambda m, b: m(b)[0].sum(-1) * 0.0)
    assert "no finite gradient arrives" in why(deep, "vanishing-through-depth")


def test_the_last_step_that_has_a_loss_is_looked_at():
    layer, x = opened(Recurrent("lstm", 3, 16), 80), random(80, 4, 3)
    asked = torch.zeros(80, 1)
    asked[30:40] = 1
    found = diagnose(layer, x, lambda m, b: m(b)[0].sum(-1) * asked)
    assert found.healthy
    assert len(found.profiles["l0"].lags) == 41
    far = diagnose(layer, x, lambda m, b: m(b)[0].sum(-1) * asked, needed=60)
    assert "the last loss is at step 39" in why(far, "vanishing-through-time")


def test_states_that_begin_anew():
    layer, x, resets = Recurrent("lstm", 3, 16), random(80, 4, 3), torch.zeros(80, 4, dtype=torch.bool)
    resets[75] = True
    found = diagnose(layer, x, lambda m, b: m(b, resets=resets)[0].sum(-1))
    assert "begin anew within 20 steps" in why(found, "vanishing-through-time")
    assert "vanishing-through-time" not in found


def test_another_layer_brings_the_gradient_there():
    layer, x = Recurrent("lstm", 3, 24, 2), random(100, 8, 3)
    set_bias(layer, "f", 4.0)
    set_bias(layer, "f", -4.0, top=True)
    found = diagnose(layer, x)
    assert [f.level for f in found["vanishing-through-time"]] == ["note"]
    assert [f.place for f in found["closed-forget-gate"]] == ["l1"]
    set_bias(layer, "f", 0.0)
    (finding,) = diagnose(layer, x).findings
    assert "(1 other layer brings it no further)" in finding.title


def test_an_input_gate_that_chrono_closed_is_not_saturated():
    layer, x = opened(Recurrent("lstm", 3, 32), 300), random(60, 8, 3)
    assert diagnose(layer, x).healthy
    set_bias(layer, "i", -10.0)
    assert "gate i (100% low)" in diagnose(layer, x)["saturated-gates"][0].title


def profile(norm: torch.Tensor) -> LagProfile:
    return LagProfile("l0", torch.arange(len(norm)), norm, norm * 0, {}, None, {}, False)


def test_growth_by_its_definition():
    lags = torch.arange(101, dtype=torch.float64)
    for power in (1, 2, 4):
        assert growth(profile(1 + lags**power))[0] == 1
    grown, lag = growth(profile(1.2**lags))
    assert (grown, lag) == (pytest.approx(1.2 ** (lag - 1)), 89)  # the first tenth of the steps is left out
    assert growth(profile(0.9**lags)) == (1.0, 1)
    overflown = torch.where(lags > 50, math.inf, 1.5**lags)
    assert growth(profile(overflown)) == (math.inf, 51)
    assert math.isnan(growth(profile(torch.where(lags > 50, math.nan, 0.9**lags)))[0])
    assert math.isnan(growth(profile(lags * 0))[0])


def test_what_overflows_on_the_way():
    """The cause is named before where the first number breaks."""
    layer = Recurrent("irnn", 3, 16)
    set_recurrent(layer, lambda p: nn.init.eye_(p).mul_(4.0))
    found = diagnose(layer, random(100, 4, 3))
    assert [f.name for f in found.findings] == ["exploding", "nan"]
    assert "until no float holds them" in found.findings[0].title
    assert found.findings[1].evidence["name"] == "W.h(x, h)"
    assert why(found, "saturated-gates") == "gates and states are not finite, see nan"
    # Forwards all is finite, and backwards no float holds what comes of a large loss.
    mild = Recurrent(linear, 3, 8)
    set_recurrent(mild, lambda p: nn.init.orthogonal_(p, 2.0))
    far = diagnose(mild, random(120, 4, 3) * 1e-33, lambda m, b: m(b)[0].sum(-1) * 1e30)
    (finding,) = far["exploding"]
    assert "the gradient grows until no float holds it" in finding.title
    assert [f.name for f in far.findings] == ["degenerate-input", "exploding", "nan"]


def test_exponents_are_refused_where_they_mean_nothing():
    def with_lengths(model, batch):
        return model(batch, lengths=[120, 100, 90, 80])[0].sum(-1)

    layer = Recurrent("rnn", 2, 48, init={"h.h": f"normal:{3 / 48**0.5}"})
    found = diagnose(layer, random(120, 4, 2), with_lengths)
    assert "of one length" in why(found, "chaotic-dynamics")
    assert "exploding" in found
    place = record(Recurrent("rnn", 2, 4), random(21, 2, 2))
    with pytest.raises(Exception, match="21 steps are too few for an exponent"):
        Seen(place).exponent(place.places[0])
    place = record(Recurrent("rnn", 2, 1025), random(30, 1, 2))
    with pytest.raises(Exception, match="1025 units is too wide"):
        Seen(place).exponent(place.places[0])


def test_one_to_many_is_no_degenerate_input():
    """What differs is the state that sequences begin with."""
    layer, x = Recurrent("gru", 3, 8), torch.zeros(15, 4, 3)
    assert "degenerate-input" in diagnose(layer, x)
    assert diagnose(layer, x, lambda m, b: m(b, {"h": random(1, 4, 8)})[0].sum(-1)).healthy
    steps = random(15, 1, 3).expand(15, 4, 3)
    assert "all 4 sequences" in diagnose(layer, steps)["degenerate-input"][0].title
    assert diagnose(layer, steps, lambda m, b: m(b, {"h": random(1, 4, 8)})[0].sum(-1)).healthy


def test_inputs_out_of_scale():
    layer, x = Recurrent("gru", 3, 8), random(15, 4, 3)
    for factor, word in ((1e-3, "is small"), (100.0, "is large")):
        (finding,) = diagnose(layer, x * factor)["degenerate-input"]
        assert word in finding.title
    sparse = torch.nn.functional.one_hot(torch.randint(3, (15, 4)), 3).float()
    assert diagnose(layer, sparse).healthy


# Trainings --------------------------------------------------------------------------------------------------


@dataclass
class Measured:
    """As what a monitor measures."""

    step: int
    loss: float | None
    gradient_norm: float
    clipped: bool | None = None
    parameters: dict = field(default_factory=dict)


def test_histories_in_every_form():
    mappings = [{"step": k, "loss": 1.0, "gradient_norm": 2.0, "rate": 0.1, "clip": 0.5} for k in range(12)]
    mappings.insert(3, {"step": 3, "held_out": 1.0})
    found = read_history(mappings)
    assert (len(found.losses), found.clip, found.clipped) == (12, 0.5, None)
    assert read_history(mappings, clip=3.0).clip == 3.0
    objects = [
        Measured(k, None if k == 2 else 1.0, 2.0, k % 2 == 0, {"w": 1.5, "v": None}) for k in range(12)
    ]
    found = read_history(objects)
    assert (len(found.losses), found.clip) == (11, None)
    assert found.clipped == 5 / 11
    assert found.parameters["w"].tolist() == [1.5] * 11
    assert bool(found.parameters["v"].isnan().all())
    parts = {"a": {"norm": torch.tensor(1.0), "gradient": 3.0}, "b": {"norm": 2.0, "gradient": 4.0}}
    found = read_history([{"loss": torch.tensor(2.0), "parameters": parts}])
    assert found.norms.tolist() == [5.0]
    assert found.parameters["a"].tolist() == [1.0]
    assert bool(found.steps.isnan().all())
    with pytest.raises(InputError, match="a mapping with step and loss, not int"):
        read_history([3])


X = random(12, 4, 3)


def network() -> Recurrent:
    return Recurrent("rnn", 3, 8)


def of_losses(*losses: float, **more: float) -> Diagnosis:
    history = [{"step": k, "loss": loss, **more} for k, loss in enumerate(losses)]
    return diagnose(network(), X, history=history)


def test_losses_tell_a_rate_that_is_too_high():
    falls = [2.0 * 0.97**k for k in range(60)]
    healthy = of_losses(*falls)
    assert healthy.healthy
    assert "losses do not diverge" in why(healthy, "learning-rate-high")
    (finding,) = of_losses(*[2.0 * 1.02**k for k in range(60)], rate=0.1).findings
    assert "The learning rate of 0.1 is too high: the loss ends 2.75 times" in finding.title
    assert finding.remedy.startswith("Lower the rate to 0.01")
    assert "is not finite in the end" in of_losses(*falls, math.nan).findings[0].title
    spiked = of_losses(*falls[:30], 40.0, *falls[30:]).findings[0]
    assert "a loss is 20.6 times that of the first" in spiked.title
    back = of_losses(*falls[:30], *falls[:30])
    assert "the loss is back where it was" in back.findings[0].title


def test_a_healthy_training_has_a_healthy_rate():
    task = echo(20, 1)
    model = make(task, "gru", 16)
    history = train(model, task, 40)
    found = diagnose(model, task.draw(B), history=history, clip=1e3, needed=1)
    assert found.healthy
    assert {"learning-rate-high", "clipping-always-on"} <= set(found.checked)
    found = diagnose(model, task.draw(B), history=history[::2], clip=1e3, needed=1)
    assert "learning-rate-high" not in found.checked  # not every step was noted


def test_clipping():
    history = [{"step": k, "loss": 1.0, "gradient_norm": 5.0} for k in range(20)]
    assert why(diagnose(network(), X, history=history), "clipping-always-on").endswith("give clip=")
    (finding,) = diagnose(network(), X, history=history, clip=1.0).findings
    assert finding.evidence["norm left"] == pytest.approx(0.2)
    assert "about 10," in finding.remedy
    assert diagnose(network(), X, history=history, clip=4.0).healthy  # by little
    some = [{**each, "gradient_norm": 5.0 if k % 4 else 0.5} for k, each in enumerate(history)]
    assert diagnose(network(), X, history=some, clip=1.0).healthy
    nothing = [{"step": k, "loss": 1.0} for k in range(20)]
    assert "too few norms" in why(diagnose(network(), X, history=nothing, clip=1.0), "clipping-always-on")
    noted = [{**each, "clipped": k % 2 == 0} for k, each in enumerate(history)]
    assert "clipping-always-on" in diagnose(network(), X, history=noted).checked


def test_truncation():
    layer, x = opened(Recurrent("lstm", 3, 16), 80), random(80, 4, 3)
    (finding,) = diagnose(layer, x, bptt=10).findings
    assert "% of the gradient is left 10 steps back" in finding.title
    assert diagnose(layer, x, bptt=10, needed=9).healthy
    assert "needs 30" in diagnose(layer, x, bptt=10, needed=30).findings[0].title
    assert "sequences twice as long" in why(diagnose(layer, x, bptt=50), "truncation-too-short")
    for cosine, healthy in ((0.5, False), (0.95, True), (math.nan, True)):
        losses = [
            Loss(10, 10, "all", cosine, 1.0),
            Loss(10, 10, "f.x", 0.0, 1.0),
            Loss(80, 80, "all", 1.0, 1.0),
        ]
        found = diagnose(layer, x, bptt=10, truncation=losses)
        assert found.healthy == healthy
        assert str(diagnose(layer, x, bptt=10, truncation=Truncation(tuple(losses)))) == str(found)
        if math.isnan(cosine):
            assert why(found, "truncation-too-short") == "the exact gradient is 0"
    forgets = Recurrent("lstm", 3, 16)
    assert "truncation-too-short" not in diagnose(forgets, x, bptt=20)
    masked = diagnose(layer, x, lambda m, b: m(b)[0].sum(-1) * 0.0, bptt=10)
    assert why(masked, "truncation-too-short") == "the loss does not depend on this layer"


# What is not finite -----------------------------------------------------------------------------------------


@cell(states="h", outputs="y")
def dividing(x, h, W):
    """Its output is no state, and may be 1 / 0."""
    h = torch.tanh(W.a(x, h))
    return h, W.b(h=h) / abs(x).sum(-1, keepdim=True)


@cell(states="h m", initial={"m": -math.inf})
def largest(x, h, m, W):
    """A running maximum that starts at −∞ is nothing to complain of."""
    m = torch.maximum(m, W.m(x))
    return torch.tanh(W.a(x, h) + m), m


def test_nothing_is_found_where_all_is_finite():
    for layer in (
        LSTM(3, 4, num_layers=2, bidirectional=True),
        Recurrent(largest, 3, 4),
        Recurrent(dividing, 3, 4),
    ):
        assert nan_source(layer, random(9, 2, 3)) is None
    assert nan_source(Recurrent("gru", 3, 4), random(9, 2, 3), lambda m, b: m(b)[0].sum(-1).detach()) is None


def test_the_first_of_all_layers_steps_and_operations():
    x = random(9, 2, 3)
    layer = GRU(3, 4, num_layers=2)
    with torch.no_grad():
        parameters_of_l1 = dict(layer.named_parameters())
        parameters_of_l1["weight_ih_l1"][0, 0] = math.inf
    found = nan_source(layer, x)
    assert (found.kind, found.place, found.name, found.value) == ("parameter", "l1", "r.x", "inf")
    bad = x.clone()
    bad[4, 1, 2] = math.nan
    found = nan_source(LSTM(3, 4, num_layers=2), bad)
    assert (found.kind, found.place, found.step, found.sequence) == ("x", "l0", 4, 1)
    start = {"h": torch.full((1, 2, 4), math.nan)}
    found = nan_source(Recurrent("gru", 3, 4), x, lambda m, b: m(b, start)[0].sum(-1))
    assert (found.kind, found.name, found.step) == ("initial state", "h", 0)
    zero = x.clone()
    zero[5, 1] = 0
    found = nan_source(Recurrent(dividing, 3, 4), zero)
    assert (found.kind, found.step, found.sequence) == ("operation", 5, 1)
    assert found.name == "quotient(b, sum(abs(x)))"
    assert found.words.endswith(" and 0")
    wide = Recurrent(linear, 3, 4)
    set_recurrent(wide, lambda p: p.fill_(1e38))
    found = nan_source(wide, x)
    assert found.name == "W.a(x, h)"
    assert "whose arguments go up to" in found.words
    assert repr(found) == found.words


def test_steps_are_counted_as_the_sequence_goes():
    """In layers that read backwards, and of sequences of different lengths."""

    def losses(model, batch):
        return model(batch, lengths=[9, 6])[0].sum(-1)

    x = random(9, 2, 3)
    layer = Recurrent(with_log, 3, 4, bidirectional=True, backend="reference")
    with torch.no_grad():
        for name, p in parameters(layer):
            if name == "s.x":
                p.fill_(0.1 if layer.parameters_of("l0_reverse")["s.x"] is p else 0.0)
    x[4, 1] = -9.0
    found = nan_source(layer, x, losses)
    assert (found.place, found.step, found.sequence) == ("l0_reverse", 4, 1)
    assert found.name == "scale = log(add(s, 2.5))"


class Rooted(nn.Module):
    """A root, or a logarithm, behind a layer; and a parameter whose own root is taken."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.layer, self.mode, self.size = Recurrent("rnn", 3, 4), mode, nn.Parameter(torch.zeros(1))

    def forward(self, x):
        y = self.layer(x)[0]
        if self.mode == "root":
            return (y - y.detach()).abs().sqrt()
        if self.mode == "log":
            return (y - 2).log()
        return y + self.size.sqrt() * 0


def test_what_follows_the_layers_and_what_goes_back():
    x = random(9, 2, 3)
    losses = [lambda m, b: m(b).sum(-1), lambda m, b: m(b)[-1].sum(-1)]
    found = nan_source(Rooted("log"), x, losses[0])
    assert (found.kind, found.step, found.sequence) == ("loss", 0, 0)
    assert nan_source(Rooted("log"), x, losses[1]).step is None
    found = nan_source(Rooted("root"), x, losses[0])
    assert (found.kind, found.place, found.step) == ("gradient of the loss", "layer.l0", 8)
    found = nan_source(Rooted("size"), x, losses[0])
    assert (found.kind, found.name) == ("gradient of a parameter", "size")
    assert nan_source(record(Rooted("size"), x, losses[0])) is None  # whose parameters nobody knows
    found = nan_source(Recurrent(with_sqrt, 3, 4, backend="reference"), x)
    assert (found.kind, found.step) == ("gradient of an operation", 0)
    assert found.name == "sqrt(abs(h))"


def test_an_embedding_and_a_head():
    """Where layers are a part of a model."""
    model = Embedded(11, Recurrent("gru", 12, 16))
    tokens = torch.randint(11, (40, 4))
    found = diagnose(model, (tokens, tokens))
    assert found.findings[0].place == "reader.layer.l0"
    assert "layer 1 of reader.layer, cell gru" in found.findings[0].title
    same = diagnose(model, (torch.full((40, 4), 3), tokens))
    assert "the input is the same at every step" in same.findings[0].title
    with torch.no_grad():
        model.embedding.weight[2] = math.nan
    found = diagnose(model, (tokens, tokens))
    step = int((tokens == 2).any(1).long().argmax())
    assert found.findings[0].evidence["kind"] == "x"
    assert found.findings[0].evidence["step"] == step
    assert "reader.layer.l0" in found.findings[0].title


@cell(states="h")
def without_matrix(x, h, W):
    return torch.tanh(W.u * h + x.mean(-1, keepdim=True))


def test_cells_that_lack_something():
    x = random(60, 4, 3)
    (finding,) = diagnose(Recurrent("lstm", 3, 8, bias=False), x)["vanishing-through-time"]
    assert finding.remedy == "Give f a bias, and start it open."
    (finding,) = diagnose(Recurrent("indrnn(activation=tanh)", 3, 8), x)["vanishing-through-time"]
    assert finding.remedy == "Start each unit's own weight at 1: init={'u': 1.0}."
    bare = Recurrent(without_matrix, 3, 4, init={"u": 1.0})
    assert "no matrix and no gain" in why(diagnose(bare, x), "initial-scale")


def test_a_closed_gate_where_little_is_needed():
    layer = Recurrent("lstm", 3, 8)
    set_bias(layer, "f", -3.0)
    assert "12 steps are too few" in why(diagnose(layer, random(12, 4, 3)), "closed-forget-gate")
    assert "closed-forget-gate" not in diagnose(layer, random(12, 4, 3), needed=1)
    assert "closed-forget-gate" in diagnose(layer, random(12, 4, 3), needed=3)
