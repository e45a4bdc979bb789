"""Step by step a layer gives what it gives for the whole sequence."""

import copy
import pickle

import pytest
import torch

from cases import SETTINGS, Setting, assert_same, encoded, flat, random
from unrolled import GRU, LSTM, RNN, BackendError, InputError, Recurrent, Streamer
from unrolled.cells import gru_cho, lstm, mut1
from unrolled.compile.loop import loop_of

T, B, D, H = 6, 3, 4, 5
KINDS = {
    "RNN": lambda **k: RNN(D, H, dtype=torch.float64, **k),
    "GRU": lambda **k: GRU(D, H, dtype=torch.float64, **k),
    "LSTM": lambda **k: LSTM(D, H, dtype=torch.float64, **k),
    "gru_cho": lambda **k: Recurrent(gru_cho, D, H, dtype=torch.float64, **k),
    "mut1": lambda **k: Recurrent(mut1, D, H, dtype=torch.float64, **k),
}
each = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


@each
@pytest.mark.parametrize("batch_first", [False, True])
def test_steps_are_the_sequence(make, batch_first: bool) -> None:
    layer = make(num_layers=2, batch_first=batch_first)
    x = random(T, B, D)
    expected, end = layer(x.transpose(0, 1) if batch_first else x)
    expected = expected.transpose(0, 1) if batch_first else expected
    state, outputs = None, []
    for x_t in x:
        y_t, state = layer.step(x_t, state)
        outputs.append(y_t)
    assert type(state) is type(end)
    found, wanted = layer.by_name(state), layer.by_name(end)
    assert_same({"y": torch.stack(outputs), **found}, {"y": expected, **wanted}, 1e-12)
    (d_x,) = torch.autograd.grad(torch.stack(outputs).square().sum(), x)
    (d_expected,) = torch.autograd.grad(expected.square().sum(), x)
    assert_same({"d": d_x}, {"d": d_expected}, 1e-11)


@each
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_steps_without_a_batch(make, batch_first: bool, grad: bool) -> None:
    layer = make(batch_first=batch_first)
    with torch.set_grad_enabled(grad):
        for x in (random(T, D), torch.randint(D, (T,))):
            expected, end = layer(x)
            state, outputs = None, []
            for x_t in x:
                y_t, state = layer.step(x_t, state)
                outputs.append(y_t)
            found, wanted = layer.by_name(state), layer.by_name(end)
            assert_same({"y": torch.stack(outputs), **found}, {"y": expected, **wanted}, 1e-12)


@pytest.mark.parametrize("batch", [1, 3, 9])
@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
@each
def test_a_streamer_gives_the_sequence(make, batch: int, tokens: bool, threads: int, pieces) -> None:
    pieces(small=1, threads=threads)
    layer = make(num_layers=2)
    x = torch.randint(D, (T, batch)) if tokens else random(T, batch, D).detach()
    with torch.no_grad():
        expected, _ = layer(x)
    streamer = Streamer(layer, batch, tokens=tokens)
    for _ in range(2):
        found = torch.stack([streamer(x_t).clone() for x_t in x])
        assert_same({"y": found}, {"y": expected}, 1e-12)
        streamer.reset()


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.id)
def test_every_cell_streams_or_says_why_not(setting: Setting) -> None:
    layer = Recurrent(setting.cell, setting.D, setting.state_sizes, dtype=torch.float64)
    x = random(4, 2, setting.D).detach()
    with torch.no_grad():
        expected, end = layer(x)
    if loop_of(setting.cell.graph_using(layer.parameters_of("l0")), torch.float64).given:
        with pytest.raises(BackendError, match="before the loop"):
            Streamer(layer, 2)
        return
    streamer = Streamer(layer, 2)
    found = torch.stack([streamer(x_t).clone() for x_t in x])
    assert_same({"y": found, **streamer.state}, {"y": expected, **end}, 1e-11)


def stepped(layer, x_t: torch.Tensor, state=None) -> dict[str, torch.Tensor]:
    y, end = layer.step(x_t, state)
    return flat(y, layer.by_name(end) if not isinstance(end, dict) else end)


@each
def test_a_step_without_gradients_is_one_with_them(make) -> None:
    layer = make(num_layers=2)
    x_t, values = random(B, D), {name: random(2, B, H) for name in layer.cell.states}
    state = {LSTM: tuple(values.values()), Recurrent: values}.get(type(layer), values["h"])
    for given in (None, state):
        expected = stepped(layer, x_t, given)
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                found = stepped(layer, x_t, given)
                again = stepped(layer, x_t, given)
            assert_same(found, expected, 1e-12)
            assert_same(again, found)
    copied, loaded = copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))
    with torch.no_grad():
        for other in (copied, loaded, layer.float()):
            kind = next(other.parameters()).dtype
            found = stepped(other, x_t.detach().to(kind))
            assert_same(found, stepped(layer.double(), x_t), 1e-6)


def test_a_state_is_taken_up_and_given_back() -> None:
    layer = Recurrent(lstm, D, H, 2, dtype=torch.float64)
    x, state = random(T, B, D).detach(), {name: random(2, B, H).detach() for name in "hc"}
    before = {name: value.clone() for name, value in state.items()}
    streamer = Streamer(layer, B)
    streamer.reset(state)
    for x_t in x:
        streamer(x_t)
    with torch.no_grad():
        _, end = layer(x, state)
    assert_same(streamer.state, end, 1e-12)
    assert_same(state, before)


def test_a_change_of_the_parameters_is_noticed() -> None:
    layer, other = (LSTM(D, H, dtype=torch.float64) for _ in range(2))
    x = random(B, D).detach()
    streamer = Streamer(layer, B)
    first = streamer(x).clone()
    optimiser = torch.optim.SGD(layer.parameters(), lr=1.0)
    layer(x[None])[0].sum().backward()
    optimiser.step()
    streamer.reset()
    second = streamer(x).clone()
    assert torch.equal(second, layer(x[None])[0][0])
    assert not torch.equal(first, second)
    layer.load_state_dict(other.state_dict())
    streamer.reset()
    assert torch.equal(streamer(x), other(x[None])[0][0])
    with torch.no_grad():
        before, _ = layer.step(x)
        layer.weight_ih_l0 = torch.nn.Parameter(torch.ones_like(layer.weight_ih_l0))  # another in its place
        streamer.reset()
        assert torch.equal(streamer(x), layer(x[None])[0][0])
        assert torch.equal(layer.step(x)[0], layer(x[None])[0][0])
        assert not torch.equal(layer.step(x)[0], before)
        torch.nn.utils.parametrizations.weight_norm(layer, "weight_hh_l0")
        layer.parametrizations.weight_hh_l0.original0.mul_(2)
        state = {name: torch.ones(1, B, H, dtype=torch.float64) for name in "hc"}
        expected, _ = layer(x[None], tuple(state.values()))
        streamer.reset(state)
        assert torch.equal(streamer(x), expected[0])
        assert torch.equal(layer.step(x, tuple(state.values()))[0], expected[0])
        streamer.reset(tuple(state.values()))
        assert torch.equal(streamer(x), expected[0])


@pytest.mark.parametrize("grad", [True, False])
def test_a_step_takes_and_refuses_what_a_sequence_does(grad: bool) -> None:
    layer = LSTM(D, H)
    with torch.set_grad_enabled(grad):
        y, end = layer.step(torch.randn(D))
        assert y.shape == (H,)
        assert [value.shape for value in end] == [(1, H)] * 2
        assert layer.step(torch.randn(0, D))[0].shape == (0, H)
        for wrong in (torch.ones(B).bool(), torch.ones(B, dtype=torch.complex64), torch.randn(B, D + 1)):
            with pytest.raises(InputError):
                layer.step(wrong)
    streamer = Streamer(layer, B, tokens=True)
    for wrong in (torch.ones(B).bool(), torch.ones(B, dtype=torch.complex64)):
        with pytest.raises(InputError, match=r"expected torch\.int64 of \(3,\)"):
            streamer(wrong)


def test_what_cannot_stream_says_why() -> None:
    with pytest.raises(InputError, match="also reads backwards"):
        Streamer(LSTM(D, H, bidirectional=True))
    with pytest.raises(InputError, match="also reads backwards"):
        LSTM(D, H, bidirectional=True).step(torch.randn(1, D))
    with pytest.raises(InputError, match="batch must be a whole number of at least 1, got 0"):
        Streamer(LSTM(D, H), 0)
    with pytest.raises(BackendError, match="float32 or float64"):
        Streamer(LSTM(D, H).bfloat16())
    with pytest.raises(BackendError, match="computes a part of it before the loop"):
        Streamer(Recurrent(encoded, D, H))
    streamer = Streamer(LSTM(D, H), 2)
    for wrong in (torch.randn(3, D), torch.randn(2, D).double(), torch.zeros(2, dtype=torch.long)):
        with pytest.raises(InputError, match=r"x_t is .* expected torch\.float32 of \(2, 4\)"):
            streamer(wrong)
    with pytest.raises(InputError, match="state 'h' has shape"):
        streamer.reset({"h": torch.zeros(1, 1, H), "c": torch.zeros(1, 1, H)})
