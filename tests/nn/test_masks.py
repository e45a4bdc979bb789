"""Zoneout, dropout of recurrent values and weights, and masks that go on from chunk to chunk."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from unrolled import GRU, LSTM, RNN, InputError, Recurrent, Streamer, cell, cells
from unrolled.leaves import Leaves, bernoulli, parts
from unrolled.rewrite import expected_zoneout, recurrent_dropout, recurrent_matrices, zoneout
from unrolled.scan import scan

T, B, D, H = 13, 5, 7, 19
DOUBLE = {"dtype": torch.float64}
EVERYTHING = {
    "dropout": 0.3,
    "zoneout": 0.2,
    "recurrent_dropout": 0.25,
    "weight_dropout": 0.4,
    "variational": True,
} | DOUBLE
LAYERS: dict[str, Callable[[], torch.nn.Module]] = {
    "rnn": lambda: RNN(D, H, 2, **EVERYTHING),
    "gru": lambda: GRU(D, H, 2, **EVERYTHING),
    "lstm": lambda: LSTM(D, H, 2, **(EVERYTHING | {"zoneout": {"c": 0.5, "h": 0.05}, "variational": False})),
    "lstm with a projection": lambda: LSTM(D, H, 2, proj_size=4, **EVERYTHING),
    "gru as published": lambda: Recurrent(cells.gru_cho, D, H, 2, **EVERYTHING),
}
layers = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
backends = pytest.mark.parametrize("backend", ["cpu", "reference"])


def seeded(number: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def run(layer, x: Tensor, seed: int = 1, **options) -> tuple[Tensor, ...]:
    output, end, *_ = layer(x, masks=layer.masks(seeded(seed)), **options)
    return output, *(end.values() if isinstance(end, dict) else end if isinstance(end, tuple) else (end,))


def made(make, backend: str = "auto"):
    torch.manual_seed(0)
    layer = make()
    layer.backend = backend
    return layer, torch.randn(T, B, D, **DOUBLE)


# The step


def parameters_of(one, dtype: torch.dtype) -> dict[str, Tensor]:
    sizes = {"D": D} | dict.fromkeys((s for p in one.parameters.values() for s in p.shape if s[0] != "D"), H)
    return {
        name: torch.randn([sizes[s] for s in p.shape], dtype=dtype).mul_(0.3).requires_grad_()
        for name, p in one.parameters.items()
    }


def draws_for(one, probability: float, places: Tensor, sequences: Tensor) -> Leaves:
    names = one.graph.draws
    keys = torch.randint(-(2**63), 2**63 - 1, (len(names),))
    chances = torch.stack((keys, torch.full_like(keys, parts(probability))))
    return Leaves(chances, places, sequences.repeat(T), torch.zeros(0, dtype=torch.bool))


@pytest.mark.parametrize(
    ("base", "dtype"),
    [
        *((base, torch.float64) for base in cells.CELLS.values()),
        *((base, torch.float32) for base in (cells.rnn, cells.lstm, cells.gru_cho, cells.layer_norm_rnn)),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_kernels_draw_what_the_reference_draws(base, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    one = zoneout(recurrent_dropout(base), base.states)
    x = torch.randn(T, B, D, dtype=dtype, requires_grad=True)
    parameters = parameters_of(one, dtype)
    draws = draws_for(one, 0.3, torch.arange(T * B) + 1000, torch.arange(B) + 2**40)
    found = {}
    for backend in ("cpu", "reference"):
        start = {name: torch.full((B, H), 0.1, dtype=dtype) for name in one.states}
        y, end = scan(one, x, start, parameters, leaves=draws, backend=backend)
        loss = (y * torch.linspace(-1, 1, H)).sum() + sum(v.sum() for v in end.values())
        gradients = torch.autograd.grad(loss, [x, *parameters.values()], allow_unused=True)
        found[backend] = [y, *end.values(), *(g for g in gradients if g is not None)]
    for a, b in zip(*found.values(), strict=True):
        tolerance = 1e-12 if dtype == torch.float64 else 2e-5
        assert (a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1)


@backends
def test_zoneout_keeps_the_old_value_where_it_is_drawn(backend: str) -> None:
    """Krueger et al.: every state is masked by itself, and h is computed from the new c."""
    torch.manual_seed(2)
    one = zoneout(cells.lstm, "hc")
    parameters = parameters_of(one, torch.float64)
    x = torch.randn(T, B, D, **DOUBLE)
    draws = draws_for(one, 0.4, torch.arange(T * B), torch.arange(B))
    y, end = scan(one, x, None, parameters, leaves=draws, backend=backend, returning=("h", "c"))
    h = c = torch.zeros(B, H, **DOUBLE)
    for t in range(T):
        places = torch.arange(t * B, (t + 1) * B)
        keep_h, keep_c = (
            bernoulli(*draws.chances[:, one.graph.draws.index(f"zoneout_{name}")], places, H) for name in "hc"
        )
        new_h, new_c = cells.lstm(x[t], h, c, parameters)
        h, c = torch.where(keep_h, h, new_h), torch.where(keep_c, c, new_c)
        assert torch.allclose(y["h"][t], h, atol=1e-12)
        assert torch.allclose(y["c"][t], c, atol=1e-12)
    assert torch.allclose(end["c"], c, atol=1e-12)


@backends
def test_evaluation_takes_the_mean_of_zoneout(backend: str) -> None:
    torch.manual_seed(3)
    layer = LSTM(D, H, zoneout={"h": 0.25, "c": 0.5}, backend=backend, **DOUBLE).eval()
    x = torch.randn(T, B, D, **DOUBLE)
    output, _ = layer(x)
    h = c = torch.zeros(B, H, **DOUBLE)
    for t in range(T):
        new_h, new_c = cells.lstm(x[t], h, c, layer.parameters_of("l0"))
        h, c = 0.25 * h + 0.75 * new_h, 0.5 * c + 0.5 * new_c
        assert torch.allclose(output[t], h, atol=1e-12)


@backends
def test_recurrent_dropout_hides_the_same_units_at_every_step(backend: str) -> None:
    """Gal & Ghahramani: matrices read h ⊙ mask / (1 − p); what adds h itself reads all of it."""
    torch.manual_seed(4)
    one = recurrent_dropout(cells.gru_cho)
    parameters = parameters_of(one, torch.float64)
    x = torch.randn(T, B, D, **DOUBLE)
    draws = draws_for(one, 0.25, torch.arange(T * B), torch.arange(B) + 9)
    y, _ = scan(one, x, None, parameters, leaves=draws, backend=backend)
    mask = (~bernoulli(*draws.chances[:, 0], draws.origins[:B], H)).double() / 0.75
    P, h = parameters, torch.zeros(B, H, **DOUBLE)
    for t in range(T):
        r, z = (
            torch.sigmoid(x[t] @ P[f"{k}.x"].T + (h * mask) @ P[f"{k}.h"].T + P[f"{k}.bias"]) for k in "rz"
        )
        n = torch.tanh(x[t] @ P["n.x"].T + (r * h * mask) @ P["n.h"].T + P["n.bias"])
        h = z * h + (1 - z) * n
        assert torch.allclose(y[t], h, atol=1e-12)


def test_a_projection_is_no_recurrent_matrix() -> None:
    assert recurrent_matrices(cells.lstm.with_options(projection=True).graph) == ("f.h", "i.h", "g.h", "o.h")


def test_derived_cells_can_be_copied_and_read_back() -> None:
    one = expected_zoneout(recurrent_dropout(cells.gru), ["h"])
    again = pickle.loads(pickle.dumps(one))
    assert again.graph.key == one.graph.key
    assert type(one.graph).from_json(one.graph.to_json()) == one.graph
    assert "zoneout" in one.name


# Layers


@layers
def test_chunks_are_masked_as_the_whole(make) -> None:
    layer, x = made(make)
    whole = run(layer, x)
    for sizes in ([T - 5, 5], [1] * T, [4, 1, 8]):
        masks, state, outputs = layer.masks(seeded()), None, []
        for chunk in x.split(sizes):
            y, state = layer(chunk, state, masks=masks)
            outputs.append(y)
        assert torch.allclose(torch.cat(outputs), whole[0], atol=1e-12)
    masks, state = layer.masks(seeded()), None
    for t in range(T):
        y, state = layer.step(x[t], state, masks=masks)
        assert torch.allclose(y, whole[0][t], atol=1e-12)


@layers
def test_both_backends_run_the_same_masks(make) -> None:
    layer, x = made(make)
    x.requires_grad_()
    lengths, resets = torch.tensor([T, 4, 0, 9, 1]), torch.rand(T, B) < 0.15
    for options in ({}, {"lengths": lengths}, {"resets": resets}, {"lengths": lengths, "resets": resets}):
        found = []
        for backend in ("cpu", "reference"):
            layer.backend = backend
            values = run(layer, x, **options)
            loss = sum((v * v).sum() for v in values)
            found.append([*values, *torch.autograd.grad(loss, [x, *layer.parameters()])])
        for a, b in zip(*found, strict=True):
            assert torch.allclose(a, b, atol=1e-10)


@layers
def test_padding_does_not_change_a_mask(make) -> None:
    layer, x = made(make)
    whole = run(layer, x)[0]
    lengths = [T, 4, 0, 9, 1]
    ragged = run(layer, x, lengths=lengths)[0]
    packed = torch.nn.utils.rnn.pack_padded_sequence(x[:, [0, 1, 3, 4]], [T, 4, 9, 1], enforce_sorted=False)
    for b, n in enumerate(lengths):
        assert torch.allclose(ragged[:n, b], whole[:n, b], atol=1e-12)
    few = run(layer, x[:, [0, 1, 3, 4]])[0]
    unpacked, sizes = torch.nn.utils.rnn.pad_packed_sequence(run(layer, packed)[0])
    for b, n in enumerate(sizes):
        assert torch.allclose(unpacked[:n, b], few[:n, b], atol=1e-12)


@layers
def test_a_reset_begins_with_new_masks_in_one_chunk_as_in_several(make) -> None:
    layer, x = made(make)
    resets = torch.zeros(T, B, dtype=torch.bool)
    resets[0, 1] = resets[5, 2] = resets[7, 3] = resets[8, 3] = True
    whole = run(layer, x, resets=resets)[0]
    masks, state, outputs = layer.masks(seeded()), None, []
    for chunk, marked in zip(x.split(4), resets.split(4), strict=True):
        y, state = layer(chunk, state, resets=marked, masks=masks)
        outputs.append(y)
    assert torch.allclose(torch.cat(outputs), whole, atol=1e-12)


def test_a_mask_of_a_sequence_changes_at_a_reset_only() -> None:
    """A cell whose state is what its matrix sees tells the mask."""

    @cell(states="h")
    def seen(x, h, W):
        return W.a(h, bias=False) + W.b(x, bias=False)

    layer = Recurrent(seen, H, H, init={"a.h": "identity", "b.x": 0.0}, recurrent_dropout=0.5)
    resets = torch.zeros(T, B, dtype=torch.bool)
    resets[6, 1] = True
    one = torch.ones(1, B, H)
    outputs, masks, state = [], layer.masks(seeded()), {"h": one}
    for t in range(T):
        y, _ = layer(torch.zeros(1, B, H), state, resets=resets[t : t + 1] & False, masks=masks)
        outputs.append(y[0] > 0)
    assert all(torch.equal(y, outputs[0]) for y in outputs)
    assert 0.3 < outputs[0].double().mean() < 0.7
    assert masks.step is not None
    assert int(masks.step) == T
    before = masks.sequences.clone()
    layer(torch.zeros(T, B, H), state, resets=resets, masks=masks)
    assert (masks.sequences != before).tolist() == [False, True, False, False, False]


@layers
def test_a_generator_repeats_a_run_and_nothing_else_does(make) -> None:
    layer, x = made(make)
    before = torch.get_rng_state()
    first, again, other = run(layer, x, 1)[0], run(layer, x, 1)[0], run(layer, x, 2)[0]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert not torch.allclose(layer(x)[0], layer(x)[0])
    torch.manual_seed(5)
    mine = layer(x)[0]
    torch.manual_seed(5)
    assert torch.equal(layer(x)[0], mine)


@layers
def test_evaluation_draws_nothing(make) -> None:
    layer, x = made(make)
    layer.eval()
    before = torch.get_rng_state()
    assert torch.equal(layer(x)[0], run(layer, x)[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_layers_and_directions_have_masks_of_their_own() -> None:
    layer = RNN(D, H, 2, bidirectional=True, zoneout=0.5)
    assert len({int(key) for key in layer.masks().keys.flatten()}) == 4 * layer.masks().keys.shape[1]


@pytest.mark.parametrize("name", ["zoneout", "recurrent_dropout", "weight_dropout"])
def test_a_probability_of_0_is_none(name: str) -> None:
    torch.manual_seed(6)
    layer = LSTM(D, H, **{name: 0.0})
    x = torch.randn(T, B, D)
    assert not layer.regulariser.draws
    assert torch.equal(layer(x)[0], layer.eval()(x)[0])


def test_zoneout_for_sure_never_moves() -> None:
    layer = GRU(D, H, zoneout=1.0)
    h = torch.randn(1, B, H)
    for mode in (True, False):
        output, end = layer.train(mode)(torch.randn(T, B, D), h)
        assert torch.allclose(end, h, rtol=1e-6)
        assert torch.allclose(output, h.expand(T, -1, -1), rtol=1e-6)


def test_a_probability_may_be_changed() -> None:
    layer, x = RNN(D, H, zoneout=0.5), torch.randn(T, B, D)
    layer.regulariser.rates["zoneout_h"] = 1.0
    assert layer(x)[1].abs().max() == 0
    layer.regulariser.rates["zoneout_h"] = 0.0
    plain = RNN(D, H)
    plain.load_state_dict(layer.state_dict())
    assert torch.allclose(layer(x)[0], plain(x)[0], atol=1e-6)


@backends
def test_dropconnect_drops_recurrent_weights_and_keeps_their_mean(backend: str) -> None:
    """A step from h = e_k sees column k; over many masks its elements are 0 or larger by 1 / (1 − p)."""
    torch.manual_seed(7)
    layer = RNN(D, H, bias=False, nonlinearity="relu", weight_dropout=0.25, backend=backend, **DOUBLE)
    with torch.no_grad():
        layer.weight_hh_l0.copy_(layer.weight_hh_l0.abs() + 0.01)
    x, h = torch.zeros(1, H, D, **DOUBLE), torch.eye(H, **DOUBLE)[None]
    seen = torch.stack([layer(x, h)[0][0].detach().T for _ in range(200)])
    ratio = seen / layer.weight_hh_l0.detach()
    assert torch.all((ratio.abs() < 1e-12) | ((ratio - 4 / 3).abs() < 1e-12))
    assert abs((ratio == 0).double().mean() - 0.25) < 4 * (0.25 * 0.75 / ratio.numel()) ** 0.5
    # within a sequence the mask is one
    y, _ = layer(x.expand(3, -1, -1), h)
    y[0].sum().backward()
    gradient = layer.weight_hh_l0.grad
    assert 0.1 < (gradient == 0).double().mean() < 0.4


def test_variational_dropout_between_layers_is_one_mask_a_sequence() -> None:
    torch.manual_seed(8)
    layer = RNN(D, H, 2, bias=False, dropout=0.5, variational=True, nonlinearity="relu")
    with torch.no_grad():
        layer.weight_ih_l1.copy_(torch.eye(H))
        layer.weight_hh_l1.zero_()
        layer.weight_ih_l0.abs_()
    x = torch.rand(1, B, D).expand(T, -1, -1)
    kept = layer(x)[0] > 0
    assert torch.equal(kept, kept[:1].expand_as(kept))
    assert 0.3 < kept.double().mean() < 0.7
    layer.dropout = 1.0
    assert layer(x)[0].abs().max() == 0


def test_dropout_alone_is_torchs() -> None:
    torch.manual_seed(9)
    layer, peer = LSTM(D, H, 3, dropout=0.5), torch.nn.LSTM(D, H, 3, dropout=0.5)
    peer.load_state_dict(layer.state_dict())
    x = torch.randn(T, B, D)
    torch.manual_seed(10)
    ours = layer(x)[0]
    torch.manual_seed(10)
    assert torch.allclose(ours, peer(x)[0], atol=1e-6)


@layers
def test_second_derivatives_replay_the_masks(make) -> None:
    layer, x = made(make)
    x = x[:3, :2].clone().requires_grad_()
    keys = layer.masks(seeded()).keys

    def of(x: Tensor) -> Tensor:
        masks = layer.masks()
        masks.keys = keys
        return layer(x, masks=masks)[0]

    assert torch.autograd.gradgradcheck(of, (x,), atol=1e-6)


@pytest.fixture
def _compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_compiler")
@pytest.mark.parametrize("make", [LAYERS["lstm"], LAYERS["gru as published"]], ids=["lstm", "gru"])
def test_one_graph_of_torch_compile_serves_all_chunks(make) -> None:
    layer, x = made(make)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    ours, theirs, s, s2 = layer.masks(seeded()), layer.masks(seeded()), None, None
    for chunk in x.split(4):
        a, s = layer(chunk, s, masks=ours)
        b, s2 = compiled(chunk, s2, masks=theirs)
        assert torch.equal(a, b)
        s, s2 = (torch.utils._pytree.tree_map(torch.detach, state) for state in (s, s2))


def test_each_sample_of_a_batch_may_have_masks_of_its_own() -> None:
    layer, x = made(LAYERS["gru"])
    names = dict(layer.named_parameters())

    def loss(parameters, row: Tensor) -> Tensor:
        output, _ = torch.func.functional_call(layer, parameters, (row.unsqueeze(1),))
        return output.sum()

    per_sample = torch.func.vmap(torch.func.grad(loss), (None, 1), randomness="different")
    gradients = per_sample({k: v.detach() for k, v in names.items()}, x)
    assert all(g.shape == (B, *names[k].shape) for k, g in gradients.items())
    same = per_sample({k: v.detach() for k, v in names.items()}, x[:, :1].expand(-1, B, -1))
    assert not torch.allclose(same["weight_ih_l0"][0], same["weight_ih_l0"][1])


@layers
def test_copies_and_streams(make) -> None:
    layer, x = made(make)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(run(twin, x)[0], run(layer, x)[0])
    layer.eval()
    wanted = layer(x)[0]
    streamer = Streamer(layer, B)
    for t in range(T):
        assert torch.allclose(streamer(x[t]), wanted[t], atol=1e-12)
    for name in layer.regulariser.rates:
        layer.regulariser.rates[name] = 0.0
    streamer.reset()
    wanted = layer(x)[0]
    assert torch.allclose(streamer(x[0]), wanted[0], atol=1e-12)


def test_a_step_in_training_draws_without_gradients_too() -> None:
    layer, x = made(LAYERS["lstm"])
    with torch.no_grad():
        y, _ = layer.step(x[0], masks=layer.masks(seeded()))
    assert torch.equal(y, run(layer, x)[0][0])


# What does not fit

MISTAKES: dict[str, tuple[Callable[[], object], str]] = {
    "zoneout of no state": (lambda: GRU(D, H, zoneout={"c": 0.1}), "zoneout names 'c'; the states are h"),
    "zoneout of 1.5": (lambda: GRU(D, H, zoneout=1.5), "zoneout of h must be a number between 0 and 1, got"),
    "recurrent dropout of 1": (lambda: RNN(D, H, recurrent_dropout=1), "between 0 and 1, below 1, got 1"),
    "weight dropout as text": (lambda: RNN(D, H, weight_dropout="a"), "weight_dropout must be a number"),
    "variational as a number": (lambda: RNN(D, H, variational=0.5), "variational must be True or False"),
    "no recurrent matrix": (
        lambda: Recurrent(cells.indrnn, D, H, recurrent_dropout=0.1),
        "recurrent_dropout needs a matrix that reads a state",
    ),
    "masks of another layer": (
        lambda: RNN(D, H, zoneout=0.1)(torch.zeros(T, B, D), masks=RNN(D, H, 2, zoneout=0.1).masks()),
        "the masks are those of another layer",
    ),
    "masks that are none": (
        lambda: RNN(D, H, zoneout=0.1)(torch.zeros(T, B, D), masks=torch.zeros(3)),
        "masks is a Tensor, expected what layer.masks",
    ),
    "no draws": (
        lambda: scan(zoneout(cells.rnn, "h"), torch.zeros(T, B, D), None, {}),
        "reads zoneout_h: give it leaves",
    ),
    "draws for a cell that has none": (
        lambda: scan(cells.rnn, torch.zeros(T, B, D), None, {}, leaves=Leaves(*[torch.zeros(2)] * 4)),
        "draws nothing and has no resets, but was given leaves",
    ),
    "draws of another shape": (
        lambda: scan(
            zoneout(cells.rnn, "h"),
            torch.zeros(T, B, D),
            None,
            {},
            leaves=Leaves(*[torch.zeros(2, 1).long()] * 4),
        ),
        "places of leaves is torch.int64 of shape",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_does_not_fit_is_named(name: str) -> None:
    make, message = MISTAKES[name]
    with pytest.raises(InputError, match=message):
        make()


def test_masks_of_another_batch_are_named() -> None:
    layer = RNN(D, H, zoneout=0.1)
    masks = layer.masks()
    layer(torch.zeros(T, B, D), masks=masks)
    with pytest.raises(InputError, match=f"the masks are those of {B} sequences, but x has 2"):
        layer(torch.zeros(T, 2, D), masks=masks)
