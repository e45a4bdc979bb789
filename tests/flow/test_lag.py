"""Gradients by lag, against autograd through the equations."""

import math

import pytest
import torch
from torch import nn

from cases import ON_BACKENDS, id_of
from unrolled import GRU, LSTM, InputError, Recurrent, cell, layer_norm
from unrolled.flow import gradient_by_lag, record
from unrolled.flow.trace import turned
from unrolled.nn.watch import watcher

DOUBLE = torch.float64


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def by_hand(layer, x, loss_of, at):
    """d loss_at / d state by lag, by running the cell step by step. States are passed on as values of their
    own: the c of an LSTM is not its h, although h is computed from it. At lag 0 what a cell hands on, if that
    is no state, is taken as computed from the new states."""
    parameters = {name: p.detach() for name, p in layer.parameters_of("l0").items()}
    graph = layer.cell.graph_using(parameters)
    state = {n: v[0].detach().requires_grad_() for n, v in layer.initial_state(x.shape[1]).items()}
    passed, outputs, made = [state], [], []
    for x_t in x:
        results = graph.run({"x": x_t, **state}, parameters)
        named = dict(zip((*graph.states, *graph.outputs), results, strict=True))
        state = {name: named[name].clone() for name in graph.states}
        passed.append(state)
        outputs.append({**named, **state}[graph.output])
        made.append(named)
    loss = loss_of(torch.stack(outputs))[at].sum()
    t = range(len(x))[at]
    new = made[t] if graph.outputs else passed[t + 1]
    own = dict(zip(graph.states, graph.results, strict=False))
    new = {n: new[n] for n in graph.states if not graph.outputs or graph.nodes[own[n]].kind != "state"}
    states = [passed[t + 1] | new, *reversed(passed[: t + 1])]

    def of(value):
        found = torch.autograd.grad(loss, value, retain_graph=True, allow_unused=True)[0]
        return torch.zeros_like(value) if found is None else found

    return [{name: of(value) for name, value in each.items()} for each in states]


def signed(outputs):
    signs = torch.randint(2, outputs.shape[-1:], generator=torch.Generator().manual_seed(0)) * 2 - 1
    return outputs @ signs.to(outputs)


@pytest.mark.parametrize(("setting", "backend"), ON_BACKENDS, ids=id_of)
@pytest.mark.parametrize("at", [-1, 2])
def test_they_are_those_of_autograd(setting, backend, at):
    torch.manual_seed(0)
    layer = Recurrent(setting.cell, setting.D, setting.state_sizes, backend=backend, dtype=DOUBLE)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.7)
    x = random(5, 2, setting.D)
    truth = by_hand(layer, x, signed, at)
    t = range(5)[at]
    found = gradient_by_lag(layer, x, at=at)["l0"]
    assert found.lags.tolist() == list(range(t + 2))
    whole = [torch.cat([*each.values()], -1) for each in truth]
    expected = torch.stack([each.norm(dim=-1).square().mean().sqrt() for each in whole])
    torch.testing.assert_close(found.norm, expected, rtol=1e-9, atol=1e-12)
    for name, norms in found.states.items():
        own = [each[name].norm(dim=-1).square().mean().sqrt() for each in truth]
        torch.testing.assert_close(norms, torch.stack(own), rtol=1e-9, atol=1e-12)


class Tagger(nn.Module):
    """Two layers, of which the lower is read by the head too."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = LSTM(3, 4, dtype=DOUBLE), GRU(4, 5, dtype=DOUBLE)
        self.head = nn.Linear(9, 2, dtype=DOUBLE)

    def forward(self, x):
        y, _ = self.low(x)
        z, _ = self.high(y)
        return self.head(torch.cat([y, z], -1))


def test_a_model_and_its_loss():
    torch.manual_seed(0)
    model, x = Tagger(), random(6, 3, 3)
    targets = torch.randint(2, (6, 3))
    found = gradient_by_lag(model, (x, targets))
    assert [profile.place for profile in found.profiles] == ["low.l0", "high.l0"]
    # By finite differences of the state that the lower layer begins with.
    recording = record(model, (x, targets))
    picked = torch.zeros(6, 3, dtype=DOUBLE)
    picked[-1] = 1
    before = recording.gradients(picked)[0].before
    direction = {name: random(3, 4, seed=k) for k, name in enumerate("hc")}

    class From(nn.Module):
        def __init__(self, size):
            super().__init__()
            self.size = size

        def losses(self):
            start = tuple((self.size * direction[name])[None] for name in "hc")
            y, _ = model.low(x, start)
            z, _ = model.high(y)
            out = model.head(torch.cat([y, z], -1))
            return nn.functional.cross_entropy(out[-1], targets[-1], reduction="sum")

    with torch.no_grad():
        slope = (From(1e-5).losses() - From(-1e-5).losses()) / 2e-5
    inner = sum((before[name][0] * direction[name]).sum() for name in "hc")
    torch.testing.assert_close(inner, slope, rtol=1e-7, atol=1e-10)


def test_lengths_and_layers_that_read_backwards():
    """A padded sequence has the profile that it has alone, in either direction."""
    torch.manual_seed(0)
    layer = LSTM(3, 4, num_layers=2, bidirectional=True, dtype=DOUBLE)
    x, lengths = random(7, 3, 3), [7, 4, 5]

    def losses(model, batch):
        x, lengths = batch
        y, _ = model(x, lengths=lengths)
        return signed(y)

    found = record(layer, (x, lengths), losses)
    weights = torch.zeros(7, 3, dtype=DOUBLE)
    weights[3] = 1
    together = found.gradients(weights)
    alone = record(layer, (x[:4, 1:2], [4]), losses)
    weights = torch.zeros(4, 1, dtype=DOUBLE)
    weights[3] = 1
    for one, many in zip(alone.gradients(weights), together, strict=True):
        assert one.place.name == many.place.name
        for name in "hc":
            torch.testing.assert_close(many.before[name][:4, 1:2], one.before[name], rtol=1e-10, atol=1e-12)
            torch.testing.assert_close(many.after()[name][:4, 1:2], one.after()[name], rtol=1e-10, atol=1e-12)
            torch.testing.assert_close(many.place.states[name][:4, 1:2], one.place.states[name])
    profiles = gradient_by_lag(layer, (x, lengths), losses)
    assert [p.place for p in profiles.profiles] == ["l0", "l0_reverse", "l1", "l1_reverse"]
    # At the last lag only the longest sequence counts.
    assert [len(p.lags) for p in profiles.profiles] == [8] * 4
    assert bool(profiles["l1_reverse"].norm[-1] > 0)


def test_turning_twice_changes_nothing():
    value, lengths = random(5, 3, 2), torch.tensor([5, 0, 3])
    assert torch.equal(turned(turned(value, lengths), lengths), value)
    assert torch.equal(turned(value, lengths)[:3, 2], value[:3, 2].flip(0))


def test_masks_and_resets_are_those_of_the_run():
    torch.manual_seed(0)
    layer = LSTM(3, 4, zoneout=0.3, recurrent_dropout=0.4, dtype=DOUBLE)
    x, resets = random(6, 2, 3), torch.zeros(6, 2, dtype=torch.bool)
    resets[3, 0] = True

    def losses(model, batch):
        y, _ = model(batch, resets=resets, masks=model.masks(torch.Generator().manual_seed(1)))
        return signed(y)

    found = record(layer, x, losses)
    weights = torch.zeros(6, 2, dtype=DOUBLE)
    weights[-1] = 1
    (gradients,) = found.gradients(weights)
    assert not gradients.before["c"][:4, 0].any()
    assert bool(gradients.before["c"][:4, 1].any())
    place = gradients.place
    again = place.graph.run(place.reads(), place.parameters)
    torch.testing.assert_close(again[0].view(6, 2, 4), place.states["h"])
    torch.testing.assert_close(again[1].view(6, 2, 4), place.states["c"])


@pytest.mark.parametrize("tokens", [False, True])
def test_gradients_of_matrices_split_by_lag(tokens):
    torch.manual_seed(0)
    T, B = 5, 3
    layer = Recurrent("gru_cho", 4, 3, dtype=DOUBLE)
    x = torch.randint(4, (T, B)) if tokens else random(T, B, 4)
    found = gradient_by_lag(layer, x, weights=True)["l0"]
    parameters = {name: p.detach() for name, p in layer.parameters_of("l0").items()}
    graph = layer.cell.graph_using(parameters)
    copies = [{name: p.clone().requires_grad_() for name, p in parameters.items()} for _ in range(T)]
    state = {"h": torch.zeros(B, 3, dtype=DOUBLE)}
    for t in range(T):
        (h,) = graph.run({"x": x[t], **state}, copies[t])
        state = {"h": h}
    loss = signed(h).sum()
    for name in (n for n in parameters if not n.endswith("bias")):
        parts = torch.autograd.grad(loss, [c[name] for c in copies], retain_graph=True, allow_unused=True)
        norms = [0.0 if p is None else float(p.norm()) for p in parts][::-1]
        torch.testing.assert_close(
            found.weights[name], torch.tensor(norms, dtype=DOUBLE), rtol=1e-9, atol=1e-12
        )
    assert set(found.weights) == {n for n in parameters if not n.endswith("bias")}


@cell(states="h")
def linear(x, h, W):
    return W.a(x, h, bias=False)


def linear_layer(W: torch.Tensor, D: int = 2) -> Recurrent:
    layer = Recurrent(linear, D, len(W), dtype=DOUBLE)
    with torch.no_grad():
        layer.parameters_of("l0")["a.h"].copy_(W)
    return layer


@pytest.mark.parametrize("w", [0.5, 0.9, 1.1])
def test_a_scalar_recursion(w):
    """w^k, its half-life, and its horizons."""
    T = 40
    found = gradient_by_lag(linear_layer(torch.tensor([[w]], dtype=DOUBLE)), random(T, 2, 2))["l0"]
    torch.testing.assert_close(found.norm, w ** torch.arange(T + 1, dtype=DOUBLE), rtol=1e-10, atol=0)
    assert found.half_life == pytest.approx(-math.log(2) / math.log(w), rel=1e-6)
    for left in (0.5, 0.01):
        first = next((k for k in range(T + 1) if w**k <= left * (1 + 1e-12)), None)
        assert found.horizon(left) == first


def test_a_matrix_recursion_and_its_inputs():
    W = random(3, 3) * 0.5
    layer = linear_layer(W)
    found = gradient_by_lag(layer, random(12, 2, 2))["l0"]
    signs = signed(torch.eye(3, dtype=DOUBLE))
    U = layer.parameters_of("l0")["a.x"].detach()
    for lag in range(12):
        d = torch.linalg.matrix_power(W.T, lag) @ signs
        torch.testing.assert_close(found.norm[lag], d.norm(), rtol=1e-9, atol=0)
        torch.testing.assert_close(found.x[lag], (U.T @ d).norm(), rtol=1e-9, atol=0)


def test_random_signs_give_the_mean_over_all_steps():
    """Of a linear recursion all t have the same gradient, so the mean is that of any."""
    W = torch.tensor([[0.8, 0.3], [-0.2, 0.7]], dtype=DOUBLE)
    layer, x = linear_layer(W), random(40, 64, 2)
    found = gradient_by_lag(layer, x, signs=4, generator=torch.Generator().manual_seed(0))["l0"]
    truth = gradient_by_lag(layer, x)["l0"].norm
    told = found.norm.isfinite()
    assert bool(told[:6].all())
    assert not bool(told.all())  # far lags drown in the noise of near ones, and say so
    apart = (found.norm - truth)[told].abs() / found.error[told]
    assert float(apart.max()) < 5
    assert float(apart.mean()) < 1.6
    assert float((found.error / truth)[0]) < 0.05


def test_another_step_in_each_sequence():
    W = torch.tensor([[0.8, 0.3], [-0.2, 0.7]], dtype=DOUBLE)
    layer, x = linear_layer(W), random(40, 8, 2)
    found = gradient_by_lag(layer, x, at="random", generator=torch.Generator().manual_seed(0))["l0"]
    truth = gradient_by_lag(layer, x)["l0"].norm
    torch.testing.assert_close(found.norm, truth[: len(found.norm)], rtol=1e-9, atol=0)
    assert len(found.norm) > 21


def test_one_loss_a_sequence():
    torch.manual_seed(0)
    layer = LSTM(2, 3, bidirectional=True, dtype=DOUBLE)

    def losses(model, batch):
        _, (h, _) = model(batch)
        return h.square().sum((0, 2))

    found = gradient_by_lag(layer, random(9, 4, 2), losses)
    assert [len(p.lags) for p in found.profiles] == [10, 10]
    assert all(bool((p.norm > 0).all()) for p in found.profiles)


def test_what_cannot_be_told_is_said():
    layer, x = LSTM(2, 3), torch.randn(5, 2, 2)

    def packed(model, batch):
        return model(nn.utils.rnn.pack_padded_sequence(batch, [5, 4]))[0].data.sum()

    for model, batch, options, message in (
        (nn.Linear(2, 2), x, {}, "no recurrent layer"),
        (nn.LSTM(2, 3), x, {}, "from_torch"),
        (layer, x, {"losses": lambda m, b: m(b)[0].detach().sum(-1)}, "constant"),
        (layer, x, {"losses": lambda m, b: (m(b)[0] * math.nan).sum(-1)}, "nan"),
        (layer, x, {"losses": lambda m, b: m(b)[0].sum(0)}, "expected"),
        (layer, x, {"losses": lambda m, b: torch.zeros(5, 2)}, "no recurrent layer of LSTM ran"),
        (layer, x, {"losses": packed}, "no PackedSequence"),
        (layer, x, {"at": 5}, "from 0 to 4"),
        (layer, x, {"at": True}, "from 0 to 4"),
        (layer, x, {"signs": 1}, "at least 2"),
        (layer, x[:, :1], {"signs": 2}, "at least 2 sequences"),
        (layer, (x, torch.zeros(4, 2)), {}, "say with losses="),
    ):
        with pytest.raises(InputError, match=message) as caught:
            gradient_by_lag(model, batch, **options)
        assert len(str(caught.value).splitlines()) == 1
    assert watcher() is None


def test_gradients_of_parameters_are_left_alone():
    layer, x = LSTM(2, 3), torch.randn(5, 2, 2)
    gradient_by_lag(layer, x)
    assert all(p.grad is None for p in layer.parameters())
    normal = Recurrent("layer_norm_lstm", 2, 3)
    gradient_by_lag(normal, x)
    assert layer_norm is not None


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")
@pytest.mark.filterwarnings("ignore::FutureWarning:torch.*")
@pytest.mark.filterwarnings("ignore::UserWarning:torch.*")
def test_a_compiled_model_is_looked_at_as_well():
    torch.manual_seed(0)
    layer, x = LSTM(2, 3), torch.randn(5, 2, 2)
    plain = gradient_by_lag(layer, x)["l0"].norm

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer
            self.run = torch.compile(layer, backend="eager")

        def forward(self, x):
            return self.run(x)

    model = Wrapped()
    model(x)
    torch.testing.assert_close(gradient_by_lag(model, x).profiles[0].norm, plain)
