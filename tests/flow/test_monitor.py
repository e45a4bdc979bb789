"""A monitor sees what is there, and changes nothing."""

import copy
import io
import itertools
import math
import pickle

import pytest
import torch
from torch import nn

from unrolled import GRU, LSTM, InputError
from unrolled.flow import Measurement, Monitor, gate_statistics, gradient_by_lag, record
from unrolled.flow import monitor as module
from unrolled.flow.replay import Remember

V, T, B = 7, 12, 6
ALWAYS = {"every": 1, "share": math.inf}


class Tagger(nn.Module):
    """An embedding, layers that drop and normalise, and a head."""

    def __init__(self, **options) -> None:
        super().__init__()
        self.embed = nn.Embedding(V, 5)
        self.layer = LSTM(5, 8, num_layers=2, dropout=0.3, zoneout=0.1, batch_norm=True, **options)
        self.norm = nn.BatchNorm1d(self.layer.output_size)
        self.head = nn.Linear(self.layer.output_size, V)

    def forward(self, tokens):
        y, _ = self.layer(self.embed(tokens))
        y = nn.functional.dropout(y, 0.2, self.training)
        return self.head(self.norm(y.flatten(0, 1)).unflatten(0, y.shape[:2]))


def batches(count):
    generator = torch.Generator().manual_seed(3)
    for _ in range(count):
        tokens = torch.randint(V, (T + 1, B), generator=generator)
        yield tokens[:-1], tokens[1:]


def train(model, steps, monitor=None, *, limit=None, own=False, autocast=False):
    """Losses of a training; all that it leaves behind is in the model and torch's generator."""
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    losses = []
    for tokens, targets in batches(steps):
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits = model(tokens)
            loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
        loss.backward()
        if limit:
            nn.utils.clip_grad_norm_(model.parameters(), limit)
        if monitor is not None:
            monitor(loss, batch=(tokens[:, :3], targets[:, :3]) if own else None)
        optimiser.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("own", [False, True], ids=["outputs", "loss"])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True}], ids=["one way", "both ways"])
@pytest.mark.parametrize("autocast", [False, True])
def test_training_is_the_same_to_the_last_bit(own, options, autocast):
    found = []
    for watched in (False, True):
        torch.manual_seed(0)
        model = Tagger(**options)
        model.norm.eval()  # and stays so
        if watched:
            with Monitor(model, **ALWAYS) as monitor:
                losses = train(model, 4, monitor, own=own, autocast=autocast)
            assert len(monitor.history) == 4
            assert not any(each.notes for each in monitor.history)
            assert monitor.history[0].of == ("loss" if own else "outputs")
        else:
            losses = train(model, 4, autocast=autocast)
        modes = [each.training for each in model.modules()]
        gradients = [p.grad for p in model.parameters()]
        found.append((losses, modes, *model.state_dict().values(), *gradients, torch.get_rng_state()))
    assert found[0][:2] == found[1][:2]
    assert all(torch.equal(one, two) for one, two in zip(found[0][2:], found[1][2:], strict=True))


def test_what_a_loss_draws_at_random_is_drawn_for_nobody_else():
    def losses(model, batch):
        y, _ = model(batch + torch.randn_like(batch))
        return y.sum(-1)

    layer = LSTM(3, 4)
    before = torch.get_rng_state()
    with Monitor(layer, losses=losses, batch=torch.zeros(5, 2, 3), **ALWAYS) as monitor:
        monitor(1.0)
    assert monitor.history[0].places
    assert torch.equal(torch.get_rng_state(), before)


def one_step(model, monitor, **told):
    """A measurement of a forward and a backward pass, and what the model read."""
    tokens, targets = next(batches(1))
    loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
    loss.backward()
    return monitor(loss, **told), tokens, targets, loss


def assert_is(place, profile, statistics):
    """A place's numbers are those of the microscope."""
    assert place.lags[:4] == (0, 1, 2, 3)
    assert place.gradient == pytest.approx([float(profile.norm[k]) for k in place.lags], rel=1e-4)
    assert place.half_life == pytest.approx(profile.half_life, rel=1e-4)
    assert (place.half, place.percent) == (profile.horizon(0.5), profile.horizon(0.01))
    for gate in statistics.gates:
        told = {"mean": gate.mean, "low": gate.low, "high": gate.high, "dead": int(gate.dead.sum())}
        assert place.gates[gate.name] == pytest.approx(told, rel=1e-4)
    for carry in statistics.carries:
        told = place.carries[f"{carry.state} by {carry.gate}"]
        assert told["median"] == pytest.approx(float(carry.time.median()), rel=0.2)
        assert told["longest"] == pytest.approx(float(carry.time.max()), rel=1e-4)
    for name, norms in statistics.state_norms.items():
        assert place.states[name]["norm"] == pytest.approx(float(norms.square().mean().sqrt()), rel=1e-4)
        assert place.states[name]["growth"] == pytest.approx(statistics.growth(name), rel=1e-4)


def test_of_a_loss_it_is_what_the_microscope_measures():
    model = Tagger()
    with Monitor(model, **ALWAYS) as monitor:
        tokens, targets = next(batches(1))
        batch = tokens[:, :3], targets[:, :3]
        found, _, _, loss = one_step(model, monitor, batch=lambda: batch)
    recording = record(model.eval(), batch)
    profiles, statistics = gradient_by_lag(recording, None), gate_statistics(recording)
    assert (found.step, found.of, found.notes) == (1, "loss", ())
    assert found.loss == pytest.approx(loss.item(), rel=1e-5)
    assert [place.place for place in found.places] == ["layer.l0", "layer.l1"]
    for place, each in zip(found.places, statistics, strict=True):
        assert (place.steps, place.rows) == (T, 3)
        assert_is(place, profiles[place.place], each)
    assert set(found.parameters) == {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        assert found.parameters[name] == pytest.approx(parameter.norm().item(), rel=1e-4)
        if parameter.grad is not None:
            assert found.gradients[name] == pytest.approx(parameter.grad.norm().item(), rel=1e-4, abs=1e-12)
    whole = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm()
    assert found.gradient_norm == pytest.approx(whole.item(), rel=1e-4)


def test_without_a_batch_it_is_of_what_the_layers_read():
    model = Tagger()
    with Monitor(model, rows=2, **ALWAYS) as monitor:
        found, tokens, _, _ = one_step(model, monitor)
        assert not monitor._remember.calls  # nothing is held longer than it has to
    recording = record(model.layer.eval(), model.embed(tokens[:, :2]).detach())
    statistics = gate_statistics(recording)
    profiles = gradient_by_lag(recording, None)
    assert (found.of, found.notes) == ("outputs", ())
    for place, profile, each in zip(found.places, profiles.profiles, statistics, strict=True):
        assert place.place == f"layer.{profile.place}"
        assert_is(place, profile, each)


def test_the_model_may_be_a_layer():
    layer = GRU(3, 4)
    with Monitor(layer, **ALWAYS) as monitor:
        y, _ = layer(torch.randn(5, 2, 3))
        y.sum().backward()
        monitor(1.0)
    assert [place.place for place in monitor.history[0].places] == ["l0"]


def test_only_what_runs_in_training_is_seen():
    model = Tagger()
    tokens, _ = next(batches(1))
    with Monitor(model, **ALWAYS) as monitor:
        with torch.no_grad():
            model(tokens)
        model.eval()
        model(tokens)
        model.train()
        monitor(1.0)
    (found,) = monitor.history
    assert not found.places
    assert "no recurrent layer was seen in training" in found.notes[0]


def test_it_lets_go_of_the_model():
    model = Tagger()
    monitor = Monitor(model)
    with monitor:
        assert model.layer._forward_pre_hooks
        assert monitor.runs
    assert not model.layer._forward_pre_hooks
    assert not monitor.runs
    with pytest.raises(InputError, match="inside `with"):
        monitor(1.0)
    with monitor, monitor:  # and may be taken up again
        assert len(model.layer._forward_pre_hooks) == 1
    monitor.__exit__(None, None, None)


def test_copies_of_the_model_are_left_alone():
    model = LSTM(3, 4)
    with Monitor(model, **ALWAYS) as monitor:
        saved = io.BytesIO()
        torch.save(model, saved)
        saved.seek(0)
        whole = copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(saved, weights_only=False)
        for other in (*whole, copy.copy(model)):
            other(torch.randn(5, 2, 3))
            assert not monitor._remember.calls
        for other in whole:
            assert not any(isinstance(hook, Remember) for hook in other._forward_pre_hooks.values())


def test_a_compiled_model_is_measured_on_a_batch():
    model = LSTM(3, 4)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    x = torch.randn(5, 2, 3)
    with Monitor(model, **ALWAYS) as monitor:
        compiled(x)[0].sum().backward()
        monitor(1.0)
        monitor(1.0, batch=x)
    assert "under torch.compile" in monitor.history[0].notes[0]
    assert [each.place for each in monitor.history[1].places] == ["l0"]


def steps_of(monitor):
    return [each.step for each in monitor.history]


def test_the_first_step_and_every_so_many():
    with Monitor(LSTM(3, 4), 4, share=math.inf) as monitor:
        for _ in range(9):
            monitor(1.0)
    assert steps_of(monitor) == [1, 4, 8]
    with Monitor(LSTM(3, 4), 4, share=math.inf) as monitor:
        for step in (10, 11, 13, 19, 20, 22, 23):  # as told: some are left out
            monitor(1.0, step)
    assert steps_of(monitor) == [10, 13, 19, 20]


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


def test_it_takes_no_more_than_its_share(monkeypatch):
    """Whatever a step and a measurement take: by the end of any measurement but the first."""
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module, "measure", lambda *_: ([], setattr(clock, "now", clock.now + costs)))
    monkeypatch.setattr(Monitor, "_compile", lambda self: None)
    for costs, step in itertools.product((0.1, 3.0, 20.0), (0.1, 1.0)):
        monitor = Monitor(LSTM(3, 4), 10, batch=torch.zeros(2, 1, 3))
        with monitor:
            for _ in range(5000):
                clock.now += step
                if monitor(1.0) is not None and len(monitor.history) > 1:
                    assert monitor.overhead <= 0.04 + 1e-9
            assert len(monitor.history) + monitor.skipped == 501
            expected = min(501, 0.04 * 5000 * step / costs)
            assert len(monitor.history) >= 0.9 * expected - 1
        assert monitor.overhead == pytest.approx(len(monitor.history) * costs / monitor.elapsed)


def test_what_is_not_finite_is_found_at_once():
    model = Tagger()
    optimiser = torch.optim.SGD(model.parameters(), 0.01)
    with Monitor(model, 100, share=1e-9) as monitor:
        for step, (tokens, targets) in enumerate(batches(8), 1):
            if step == 4:
                with torch.no_grad():
                    model.layer.weight_hh_l1[3, 0] = math.nan
            loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
            optimiser.zero_grad()
            loss.backward()
            monitor(loss)
    assert steps_of(monitor) == [1, 4]  # and only once
    found = monitor.history[1]
    assert found.loss is None
    assert found.notes[0] == "the loss is nan"
    assert any("layer.l1" in note and "nan" in note for note in found.notes), found.notes
    assert not any("layer.l0" in note for note in found.notes)
    assert "the layer.weight_hh_l1 is not finite" in found.notes
    assert found["layer.l1"].states["h"]["norm"] is None
    assert found["layer.l0"].states["h"]["norm"] > 0
    assert "step 4: the loss is nan" in monitor.summary()


def test_what_goes_wrong_is_noted_and_training_goes_on():
    model = Tagger()

    def fails(model, batch):
        assert not model.training
        raise ZeroDivisionError("of my own\nand more")

    with Monitor(model, losses=fails, **ALWAYS) as monitor:
        for batch in (next(batches(1)), lambda: 1 / 0, None):
            one_step(model, monitor, batch=batch)
            assert model.training
        model.layer.forward = None
    notes = [each.notes for each in monitor.history]
    assert notes[0] == ("ZeroDivisionError: of my own",)
    assert notes[1] == ("ZeroDivisionError: division by zero",)
    assert notes[2] == ("losses= needs a batch: give one to the monitor, or with each call",)
    assert all(each.parameters for each in monitor.history)
    constant = Monitor(model, losses=lambda m, b: m.layer(b)[0].detach().sum(-1), batch=torch.zeros(3, 2, 5))
    del model.layer.forward
    with constant:
        constant(1.0)
    (found,) = constant.history
    assert found.notes == ("the loss is constant: it does not depend on what the recurrent layers do",)
    assert [place.lags for place in found.places] == [(), ()]
    assert found.places[0].gates["f"]["mean"] == pytest.approx(0.5, abs=0.1)
    assert "no gradient by lag" in constant.summary()


def test_interruptions_are_not_kept_from_anybody():
    def interrupted(model, batch):
        raise KeyboardInterrupt

    model = Tagger()
    with Monitor(model, losses=interrupted, batch=0, **ALWAYS) as monitor, pytest.raises(KeyboardInterrupt):
        monitor(1.0)
    assert model.training
    assert all(each.training for each in model.modules())


def test_clipping_is_seen_before_and_after():
    clipped = []
    for when in ("before", "after", "noted", "told"):
        torch.manual_seed(0)
        model = Tagger()
        with Monitor(model, clip=0.01, **ALWAYS) as monitor:
            for tokens, targets in batches(2):
                loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
                model.zero_grad()
                loss.backward()
                if when == "before":
                    monitor(loss)
                if when == "noted":
                    monitor.gradients()
                norm = nn.utils.clip_grad_norm_(model.parameters(), 0.01)
                if when == "noted":
                    model.zero_grad()
                if when != "before":
                    monitor(loss, gradient_norm=norm if when == "told" else None)
        clipped += [each.clipped for each in monitor.history]
        whole = 0.01 if when == "after" else norm.item()
        assert monitor.history[-1].gradient_norm == pytest.approx(whole, rel=1e-3)
        assert "clipped at 2 of 2 measurements" in monitor.summary()
    assert clipped == [True] * 8
    with Monitor(Tagger(), **ALWAYS) as monitor:  # what was noted is of one step
        one_step(monitor.model, monitor)
        monitor.gradients()
        monitor(1.0)
        monitor.model.zero_grad()
        assert monitor(1.0).gradients == {}
    with Monitor(Tagger(), clip=1e6, **ALWAYS) as monitor:
        one_step(monitor.model, monitor)
    assert monitor.history[0].clipped is False


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every must be"),
        ({"rows": 1.5}, "rows must be"),
        ({"steps": 0}, "steps must be"),
        ({"share": 0}, "share is a part"),
        ({"share": math.nan}, "share is a part"),
        ({"clip": 0}, "clip is a limit"),
    ],
)
def test_arguments_that_do_not_fit(options, message):
    with pytest.raises(InputError, match=message):
        Monitor(LSTM(3, 4), **options)


def test_calls_that_do_not_fit():
    with pytest.raises(InputError, match="no recurrent layer of unrolled's"):
        Monitor(nn.LSTM(3, 4))
    with (
        Monitor(LSTM(3, 4)) as monitor,
        pytest.raises(InputError, match=r"shape \(3,\), expected one number"),
    ):
        monitor(torch.zeros(3))


def test_the_summary_has_the_first_and_the_last():
    model = Tagger()
    monitor = Monitor(model, 2, share=math.inf, clip=0.5)
    assert "nothing measured" in monitor.summary()
    with monitor:
        losses = train(model, 4, monitor)
    told = repr(monitor)
    assert "3 measurements, from step 1 to 4, of the layers' outputs with random signs" in told
    assert f"loss {losses[0]:.3g} at first, {losses[3]:.3g} at the end" in told
    assert "layer.l1 at step 4: half of the gradient is left at lag" in told
    assert "    at step 1: half of the gradient is left at lag" in told
    assert "c by f: units remember" in told
    assert "of the time" in told
    last = monitor.history[-1]
    assert isinstance(last, Measurement)
    assert "step 4" in repr(last)
    pytest.importorskip("matplotlib")
    assert last.plot().get_yscale() == "log"
    assert "half" in last["layer.l0"]._repr_html_()


def test_parameters_of_every_kind():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(5, 3, sparse=True)
            self.layer = LSTM(3, 4)
            self.short = nn.Parameter(torch.full((4,), 6e4, dtype=torch.float16))
            self.whole = nn.Parameter(torch.arange(3), requires_grad=False)

    model = Odd()
    with Monitor(model, **ALWAYS) as monitor:
        y, _ = model.layer(model.embed(torch.tensor([[1], [1], [2]])))
        y.sum().backward()
        found = monitor(1.0)
    assert found.gradients["embed.weight"] == pytest.approx(
        model.embed.weight.grad.to_dense().norm().item(), rel=1e-4
    )
    assert found.parameters["short"] == pytest.approx(12e4, rel=1e-3)
    assert "whole" not in found.parameters
