"""Lengths, resets and packed sequences: padding changes nothing, and no gradient crosses a reset."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import unrolled
from cases import assert_same, delays, flat, gradients, one_line, projected, random, slstm
from unrolled import GRU, LSTM, RNN, InputError, Recurrent, cell, scan
from unrolled.cells import gru_cho, lstm

T, B, D, H = 7, 5, 3, 4
LENGTHS = [3, 7, 0, 5, 1]

LAYERS = {
    "lstm": lambda **k: Recurrent(lstm, D, H, dtype=torch.float64, **k),
    "gru_cho": lambda **k: Recurrent(gru_cho, D, H, dtype=torch.float64, **k),
    "slstm": lambda **k: Recurrent(slstm, D, H, dtype=torch.float64, **k),
    "delays": lambda **k: Recurrent(delays, D, D, dtype=torch.float64, **k),
    "projected": lambda **k: Recurrent(projected, D, {"h": H, "c": 6}, dtype=torch.float64, **k),
}
OPTIONS = {
    "plain": {},
    "backwards too": {"bidirectional": True},
    "two layers": {"num_layers": 2, "bidirectional": True, "batch_first": True},
}

layers = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
options = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
backends = pytest.mark.parametrize("backend", ["cpu", "reference"])


def state_of(layer: Recurrent, batch: int = B) -> dict[str, Tensor]:
    return {name: random(len(layer.suffixes), batch, size) for name, size in layer.state_sizes.items()}


def turned(layer: Recurrent, value: Tensor) -> Tensor:
    return value.transpose(0, 1) if layer.batch_first else value


def with_gradients(results: dict[str, Tensor], layer: Recurrent, *more: dict[str, Tensor]):
    leaves = dict(layer.named_parameters())
    for each in more:
        leaves |= each
    return results | gradients(results, leaves)


@backends
@options
@layers
def test_each_sequence_gives_what_it_gives_alone(make, options, backend: str) -> None:
    layer = make(backend=backend, **options)
    x, state = random(T, B, D), state_of(layer)
    y, end = layer(turned(layer, x), state, lengths=torch.tensor(LENGTHS))
    outputs, finals = [], []
    for b, length in enumerate(LENGTHS):
        mine = {name: value[:, b : b + 1] for name, value in state.items()}
        alone = torch.zeros(T, 1, layer.output_size, dtype=torch.float64)
        if length:
            part, mine = layer(turned(layer, x[:length, b : b + 1]), mine)
            alone = torch.cat((turned(layer, part), alone[length:]))
        outputs.append(alone)
        finals.append(mine)
    expected = flat(torch.cat(outputs, 1), {name: torch.cat([f[name] for f in finals], 1) for name in state})
    leaves = {"x": x, **{f"state {name}": value for name, value in state.items()}}
    found = with_gradients(flat(turned(layer, y), end), layer, leaves)
    assert_same(found, with_gradients(expected, layer, leaves), 1e-11)


@backends
def test_padding_is_not_read_and_has_no_gradient(backend: str) -> None:
    layer = LAYERS["lstm"](num_layers=2, bidirectional=True, backend=backend)
    x = random(T, B, D)
    padding = torch.arange(T)[:, None] >= torch.tensor(LENGTHS)
    spoilt = x.detach().masked_fill(padding[..., None], torch.nan).requires_grad_()
    found, expected = (flat(*layer(value, lengths=LENGTHS)) for value in (spoilt, x))
    assert_same(found, expected, 0)
    assert (found["outputs"][padding] == 0).all()
    (d_x,) = torch.autograd.grad(sum(v.square().sum() for v in found.values()), spoilt)
    assert (d_x[padding] == 0).all()
    assert d_x.isfinite().all()


def test_tokens_of_different_lengths() -> None:
    layer = Recurrent(gru_cho, 6, H, dtype=torch.float64)
    tokens = torch.randint(6, (T, B))
    hot = torch.nn.functional.one_hot(tokens, 6).double()
    assert_same(flat(*layer(tokens, lengths=LENGTHS)), flat(*layer(hot, lengths=LENGTHS)), 1e-12)


def by_hand(layer: Recurrent, x: Tensor, state: dict[str, Tensor], lengths: list[int], resets: Tensor):
    """One layer, each piece between resets by itself."""
    outputs, finals = [], []
    initial = layer.initial_state(1)
    for way, suffix in enumerate(layer.suffixes):
        columns, ends = [], []
        for b, length in enumerate(lengths):
            cuts = sorted({0, length, *(t for t in range(length) if resets[t, b])})
            pieces = list(pairwise(cuts))[:: -1 if way else 1]
            now = {name: value[way, b : b + 1] for name, value in state.items()}
            parts = [x.new_zeros(T - length, 1, layer.output_size // len(layer.suffixes))]
            for k, (first, last) in enumerate(pieces):
                if k or (not way and resets[0, b]):
                    now = {name: value[way] for name, value in initial.items()}
                part, now = scan(
                    layer.cell, x[first:last, b : b + 1], now, layer.parameters_of(suffix), reverse=bool(way)
                )
                parts.insert(0 if way else len(parts) - 1, part)
            columns.append(torch.cat(parts))
            ends.append(now)
        outputs.append(torch.cat(columns, 1))
        finals.append({name: torch.cat([end[name] for end in ends]) for name in state})
    return flat(torch.cat(outputs, -1), {name: torch.stack([f[name] for f in finals]) for name in state})


@backends
@layers
@pytest.mark.parametrize("given", [False, True], ids=["no state", "a state"])
@pytest.mark.parametrize("options", list(OPTIONS.values())[:2], ids=list(OPTIONS)[:2])
def test_a_reset_begins_anew_before_its_step(make, options, given: bool, backend: str) -> None:
    layer = make(backend=backend, **options)
    x = random(T, B, D)
    state = state_of(layer) if given else layer.initial_state(B)
    resets = torch.zeros(T, B, dtype=torch.bool)
    for t, b in ((2, 0), (0, 1), (4, 1), (1, 3), (2, 3), (6, 3), (6, 4), (6, 0)):
        resets[t, b] = True
    lengths = [7, 7, 0 if given else 2, 5, 7]
    found = flat(*layer(x, state if given else None, lengths=lengths, resets=resets))
    expected = by_hand(layer, x, state, lengths, resets)
    leaves = {"x": x, **({f"state {name}": value for name, value in state.items()} if given else {})}
    assert_same(with_gradients(found, layer, leaves), with_gradients(expected, layer, leaves), 1e-11)


def test_resets_are_in_the_layout_of_the_input() -> None:
    layer, x = LSTM(D, H), torch.randn(T, B, D)
    resets = torch.rand(T, B) < 0.3
    expected, _ = layer(x, resets=resets)
    layer.batch_first = True
    assert torch.equal(layer(x.transpose(0, 1), resets=resets.t())[0], expected.transpose(0, 1))


@backends
def test_no_gradient_crosses_a_reset(backend: str) -> None:
    layer = LAYERS["lstm"](backend=backend)
    x, state = random(T, B, D), state_of(layer)
    resets = torch.zeros(T, B, dtype=torch.bool)
    resets[3, :3] = True
    resets[0, 4] = True
    y, _ = layer(x, state, resets=resets)
    (d_x,) = torch.autograd.grad(y[3:].square().sum(), x, retain_graph=True)
    assert (d_x[:3, :3] == 0).all()
    assert (d_x[:3, 3:].abs().sum((0, 2)) > 0).all()
    (d_h,) = torch.autograd.grad(y.square().sum(), state["h"])
    assert (d_h[0, 4] == 0).all()
    assert (d_h[0, :4].abs().sum(1) > 0).all()


def test_a_cell_begins_anew_with_its_own_initial_values() -> None:
    @cell(states="h n", initial={"n": 1.0})
    def counting(x, h, n, W):
        return torch.tanh(W.a(x, h)) / n, n + 1

    layer = Recurrent(counting, D, H, dtype=torch.float64)
    resets = torch.zeros(T, 1, dtype=torch.bool)
    resets[4] = True
    _, end = layer(random(T, 1, D), resets=resets)
    assert (end["n"] == 1 + T - 4).all()


# torch's own


@pytest.mark.parametrize("is_sorted", [False, True])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM"])
def test_packed_sequences_are_those_of_torch(name: str, given: bool, is_sorted: bool) -> None:
    layer = getattr(unrolled, name)(D, H, 2, bidirectional=True, dtype=torch.float64)
    peer = getattr(torch.nn, name)(D, H, 2, bidirectional=True, dtype=torch.float64)
    peer.load_state_dict(layer.state_dict())
    lengths = [7, 5, 3, 3, 1] if is_sorted else [3, 7, 2, 5, 1]
    x = random(T, B, D)
    hx = random(4, B, H) if name != "LSTM" else (random(4, B, H), random(4, B, H))
    results = []
    for each in (layer, peer):
        packed = pack_padded_sequence(x, lengths, enforce_sorted=is_sorted)
        output, end = each(packed, hx) if given else each(packed)
        assert isinstance(output, PackedSequence)
        padded, found = pad_packed_sequence(output)
        assert found.tolist() == lengths
        ends = {"h": end} if isinstance(end, Tensor) else dict(zip("hc", end, strict=True))
        leaves = dict(each.named_parameters()) | {"x": x}
        if given:
            leaves |= {f"s{k}": v for k, v in enumerate(hx if isinstance(hx, tuple) else (hx,))}
        results.append(flat(padded, ends) | gradients(flat(padded, ends), leaves))
    assert_same(*results, 1e-12)


def test_lengths_are_packed_sequences() -> None:
    layer = LSTM(D, H, dtype=torch.float64)
    x, lengths = random(T, B, D), [3, 7, 2, 5, 1]
    y, (h, c) = layer(x, lengths=lengths)
    packed, (h_, c_) = layer(pack_padded_sequence(x, lengths, enforce_sorted=False))
    assert_same({"y": y, "h": h, "c": c}, {"y": pad_packed_sequence(packed)[0], "h": h_, "c": c_}, 0)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_batch_of_nothing_has_gradients_of_zero(backend: str) -> None:
    layer = LSTM(3, 4, 2, backend=backend)
    x = torch.full((5, 2, 3), torch.nan, requires_grad=True)
    output, (h, _) = layer(x, lengths=[0, 0])
    gradients = torch.autograd.grad(output.sum() + h.sum(), [x, *layer.parameters()])
    assert all(torch.all(value == 0) for value in (output, h, *gradients))


def test_full_lengths_are_no_lengths() -> None:
    layer, x = GRU(D, H), torch.randn(T, B, D)
    assert torch.equal(layer(x, lengths=[T] * B)[0], layer(x)[0])
    assert torch.equal(layer(x, resets=torch.zeros(T, B, dtype=torch.bool))[0], layer(x)[0])


WRONG = {
    "a length too long": ({"lengths": [1, 2, 8, 1, 1]}, "lengths go from 0 to 7, .* but one is 8"),
    "a length below zero": ({"lengths": [1, 2, -1, 1, 1]}, "lengths go from 0 to 7, .* but one is -1"),
    "too few lengths": ({"lengths": [1, 2]}, r"lengths has shape \(2,\), expected \(5,\)"),
    "no numbers": ({"lengths": "abc"}, "lengths is a str, expected 5 whole numbers"),
    "floats": ({"lengths": torch.ones(5)}, r"lengths is torch\.float32, expected whole numbers"),
    "bools": ({"lengths": torch.ones(5, dtype=torch.bool)}, r"lengths is torch\.bool"),
    "resets as numbers": ({"resets": torch.ones(7, 5)}, r"resets is torch\.float32, expected torch\.bool"),
    "resets turned": ({"resets": torch.ones(5, 7).bool()}, r"resets has shape \(5, 7\), expected \(7, 5\)"),
    "resets as a list": ({"resets": [True]}, "resets is a list, expected a tensor of bools"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_named(name: str) -> None:
    given, message = WRONG[name]
    with pytest.raises(InputError, match=message) as caught:
        RNN(D, H)(torch.randn(T, B, D), **given)
    assert one_line(caught.value)


def test_what_packed_and_single_sequences_cannot_take() -> None:
    layer = RNN(D, H)
    packed = pack_padded_sequence(torch.randn(T, B, D), [7, 5, 3, 3, 1])
    with pytest.raises(InputError, match="PackedSequence has its own lengths"):
        layer(packed, lengths=[1] * 5)
    with pytest.raises(InputError, match="takes no resets"):
        layer(packed, resets=torch.zeros(T, B).bool())
    with pytest.raises(InputError, match="those of a batch"):
        layer(torch.randn(T, D), lengths=[3])
    with pytest.raises(InputError, match=r"x has 2 features .* expected 3"):
        layer(pack_padded_sequence(torch.randn(T, B, 2), [7, 5, 3, 3, 1]))
    with pytest.raises(InputError, match=r"state 'h' has shape \(1, 2, 4\), expected \(1, 5, 4\)"):
        layer(packed, torch.zeros(1, 2, H))
