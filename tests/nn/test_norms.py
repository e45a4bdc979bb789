"""Layers whose cells normalise the summed inputs of their maps."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cases import DIVERSE, SETTINGS, Setting, assert_same, flat, gradients, id_of, random
from unrolled import GRU, LSTM, RNN, BackendError, CellError, InputError, Recurrent, Streamer, cell, cells
from unrolled.cells import find
from unrolled.graph import Node
from unrolled.rewrite import normalise, recurrent_matrices

T, B, D, H = 6, 3, 4, 5
DOUBLE = {"dtype": torch.float64}
norms = pytest.mark.parametrize("norm", ["layer", "rms"])
backends = pytest.mark.parametrize("backend", ["cpu", "reference"])


def of_torch(norm: str, v: Tensor, gain: Tensor) -> Tensor:
    """Torch's norm with our eps."""
    return (F.layer_norm if norm == "layer" else F.rms_norm)(v, v.shape[-1:], gain, eps=1e-5)


@norms
@backends
def test_an_lstm_normalises_the_summed_input_of_each_gate(norm: str, backend: str) -> None:
    """Ba, Kiros & Hinton 2016, equation 4: gain and bias come after."""
    layer = LSTM(D, H, norm=norm, backend=backend, **DOUBLE)
    with torch.no_grad():
        layer.gain_l0.copy_(torch.rand(4 * H) + 0.5)
    x = random(T, B, D).detach()
    h = c = torch.zeros(B, H, **DOUBLE)
    outputs = []
    for x_t in x:
        summed = x_t @ layer.weight_ih_l0.T + h @ layer.weight_hh_l0.T
        bias = layer.bias_ih_l0 + layer.bias_hh_l0
        parts = zip(*(v.chunk(4, -1) for v in (summed, layer.gain_l0, bias)), strict=True)
        i, f, g, o = (of_torch(norm, v, gain) + b for v, gain, b in parts)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        outputs.append(h)
    output, (h_n, c_n) = layer(x)
    assert_same({"y": output, "h": h_n[0], "c": c_n[0]}, {"y": torch.stack(outputs), "h": h, "c": c}, 1e-12)


@norms
@backends
def test_a_gru_normalises_both_halves_of_its_new_value(norm: str, backend: str) -> None:
    layer = GRU(D, H, norm=norm, backend=backend, **DOUBLE)
    with torch.no_grad():
        layer.gain_l0.copy_(torch.rand(4 * H) + 0.5)
    gains = dict(zip("rznm", layer.gain_l0.chunk(4), strict=True))
    x, h = random(T, B, D).detach(), torch.zeros(B, H, **DOUBLE)
    output, _ = layer(x)
    for t in range(T):
        a, b = (x[t] @ layer.weight_ih_l0.T).chunk(3, -1), (h @ layer.weight_hh_l0.T).chunk(3, -1)
        p, q = layer.bias_ih_l0.chunk(3), layer.bias_hh_l0.chunk(3)
        r, z = (torch.sigmoid(of_torch(norm, a[k] + b[k], gains["rz"[k]]) + p[k] + q[k]) for k in range(2))
        n = torch.tanh(
            of_torch(norm, a[2], gains["n"]) + p[2] + r * (of_torch(norm, b[2], gains["m"]) + q[2])
        )
        h = (1 - z) * n + z * h
        assert_same({"y": output[t]}, {"y": h}, 1e-12)


@norms
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.id)
def test_every_cell_can_be_normalised(setting: Setting, norm: str) -> None:
    """It computes its own equations, with torch's norm behind each map but those that are results."""
    layer = Recurrent(setting.cell, setting.D, setting.state_sizes, norm=norm, backend="reference", **DOUBLE)
    parameters = dict(layer.parameters_of("l0"))
    for name, value in parameters.items():
        nn.init.uniform_(value, 0.5, 1.5) if name.endswith(".gain") else nn.init.normal_(value, 0, 0.7)

    def behind(node: Node, value: Tensor) -> Tensor:
        gain = parameters.get(f"{node.name}.gain")
        value = value if gain is None else of_torch(norm, value, gain)
        return value + parameters.get(f"{node.name}.bias", 0.0)

    graph = layer.cell.graph_using(parameters)
    plain = {name: value for name, value in parameters.items() if not name.endswith(".bias")}
    own = setting.cell.graph_using(plain)
    maps = {node.name for k, node in enumerate(own.nodes) if node.kind == "affine" and k not in own.results}
    assert {name for name in graph.parameters if name.endswith(".gain")} == {f"{name}.gain" for name in maps}
    x, outputs = random(T, B, setting.D), []
    state = {name: value[0] for name, value in layer.initial_state(B).items()}
    for x_t in x:
        values = own.values({"x": x_t, **state}, plain, behind)
        results = [values[k] for k in own.results]
        state = dict(zip(own.states, results, strict=False))
        outputs.append(results[len(state)] if own.outputs else results[0])
    found, expected = flat(*layer(x)), flat(torch.stack(outputs), {n: v[None] for n, v in state.items()})
    assert_same(found, expected, 1e-12)
    leaves = {"x": x, **parameters}
    assert_same(gradients(found, leaves), gradients(expected, leaves), 1e-11)


@pytest.mark.parametrize(
    ("setting", "norm"),
    [*((setting, "layer") for setting in DIVERSE), *((setting, "rms") for setting in DIVERSE[:4])],
    ids=id_of,
)
def test_kernels_normalise_as_the_reference_does(setting: Setting, norm: str) -> None:
    found = []
    for backend in ("cpu", "reference"):
        torch.manual_seed(0)
        layer = Recurrent(setting.cell, setting.D, setting.state_sizes, norm=norm, **DOUBLE)
        layer.backend = backend if setting.cell.graph.parameters else "reference"
        x = random(T, B, setting.D)
        results = flat(*layer(x))
        leaves = {"x": x, **dict(layer.named_parameters())}
        found.append((results, gradients(results, leaves)))
    for ours, theirs in zip(*found, strict=True):
        assert_same(ours, theirs, 1e-9)


def test_gains_have_their_own_names_and_begin_at_one() -> None:
    layer = Recurrent(find("lstm(forget_bias=2)"), D, H, norm="layer")
    names = {name for name, _ in layer.named_parameters()}
    assert names == {f"l0.{gate}.{what}" for gate in "ifgo" for what in ("x", "h", "gain", "bias")}
    assert torch.all(layer.l0.f.gain == 1)
    assert torch.all(layer.l0.f.bias == 2)
    assert torch.all(layer.l0.i.bias == 0)
    assert not {
        n for n, _ in Recurrent(cells.lstm, D, H, norm="rms", bias=False).named_parameters() if "bias" in n
    }
    for kind, count in ((RNN, 1), (GRU, 4), (LSTM, 4)):
        layer = kind(D, H, 2, norm="layer")
        assert layer.gain_l1.shape == (count * H,)
        assert torch.all(layer.gain_l1 == 1)
        other = kind(D, H, 2, norm="layer")
        other.load_state_dict(layer.state_dict())
        x = torch.randn(T, B, D)
        assert torch.equal(layer(x)[0], other(x)[0])


def test_a_projection_is_not_normalised() -> None:
    projected = normalise(cells.lstm.with_options(projection=True), "layer")
    assert {n for n in projected.parameters if n.endswith("gain")} == {f"{gate}.gain" for gate in "ifgo"}
    assert "r.h" in projected.parameters
    layer = LSTM(D, H, proj_size=2, norm="layer", **DOUBLE)
    assert torch.autograd.gradcheck(lambda x: layer(x)[0], (random(3, 2, D),))


@norms
def test_the_scale_of_the_weights_does_not_matter(norm: str) -> None:
    layer = GRU(D, H, norm=norm, **DOUBLE)
    x = random(T, B, D)
    before = layer(x)[0]
    with torch.no_grad():
        layer.weight_ih_l0.mul_(1000)
        layer.weight_hh_l0.mul_(1000)
    assert (layer(x)[0] - before).abs().max() < 1e-2
    assert not torch.equal(layer(x)[0], before)


@norms
def test_norms_stream_and_drop(norm: str) -> None:
    """A normalised cell is a cell: it has recurrent matrices, zoneout and lengths."""
    layer = LSTM(D, H, 2, norm=norm, zoneout=0.2, recurrent_dropout=0.3, **DOUBLE)
    assert recurrent_matrices(layer.cell.graph) == ("f.h", "i.h", "g.h", "o.h")
    x = random(T, B, D)
    results = []
    for backend in ("cpu", "reference"):
        layer.backend = backend
        torch.manual_seed(1)
        results.append(layer(x, lengths=[6, 2, 4])[0])
    assert_same({"y": results[0]}, {"y": results[1]}, 1e-11)
    layer.eval().backend = "auto"
    with torch.no_grad():
        assert torch.allclose(layer.step(x[0])[0], layer(x)[0][0])


def test_what_does_not_fit_is_named() -> None:
    @cell(states="h")
    def gained(x, h, W):
        return torch.tanh(W.a(x, gain=h))

    with pytest.raises(InputError, match="no norm 'batch'; there are layer, rms"):
        LSTM(D, H, norm="batch")
    with pytest.raises(CellError, match=r"an argument of W\.a has the gain's name"):
        normalise(gained, "layer")


# Batch norm between layers


def seen(layer, x: Tensor, **options) -> list[Tensor]:
    """What the norms read."""
    found: list[Tensor] = []
    hooks = [
        n.register_forward_pre_hook(lambda _, args: found.append(args[0])) for n in layer.batch_norm.values()
    ]
    layer(x, **options)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("kind", [RNN, GRU, LSTM])
def test_batch_norm_is_torchs_between_layers(kind) -> None:
    layer = kind(D, H, 2, bidirectional=True, batch_norm=True, **DOUBLE)
    lower, upper = kind(D, H, bidirectional=True, **DOUBLE), kind(2 * H, H, bidirectional=True, **DOUBLE)
    own = layer.state_dict()
    lower.load_state_dict({k: v for k, v in own.items() if "_l0" in k})
    upper.load_state_dict({k.replace("_l1", "_l0"): v for k, v in own.items() if "_l1" in k})
    norm = torch.nn.BatchNorm1d(2 * H, **DOUBLE)
    x = random(T, B, D)
    for training in (True, False):
        for module in (layer, norm):
            module.train(training)
        between = lower(x)[0]
        wanted = upper(norm(between.flatten(0, 1)).view_as(between))[0]
        found = layer(x)[0]
        assert_same({"y": found}, {"y": wanted}, 1e-12)
        (d_x,), (d_wanted,) = (torch.autograd.grad(y.square().sum(), x) for y in (found, wanted))
        assert_same({"d": d_x}, {"d": d_wanted}, 1e-11)
    assert_same({"v": layer.batch_norm["l1"].running_var}, {"v": norm.running_var}, 1e-12)


def test_batch_norm_sees_real_steps_only() -> None:
    layer = GRU(D, H, 2, batch_norm=True, **DOUBLE)
    x = random(T, B, D)
    (rows,) = seen(layer, x, lengths=[6, 0, 2])
    assert rows.shape == (8, H)
    before = layer(x, lengths=[6, 0, 2])[0]
    with torch.no_grad():
        padded = x.clone()
        padded[:, 1] = 1e6
        padded[2:, 2] = 1e6
    assert_same({"y": layer(padded, lengths=[6, 0, 2])[0]}, {"y": before}, 1e-12)


def test_a_layer_with_batch_norm_starts_anew_and_steps() -> None:
    layer = LSTM(D, H, 2, batch_norm=True, **DOUBLE)
    x = random(T, B, D).detach()
    layer(x)
    layer.eval()
    wanted, state = layer(x)[0], None
    with torch.no_grad():
        for t in range(T):
            y, state = layer.step(x[t], state)
            assert torch.allclose(y, wanted[t])
    with pytest.raises(BackendError, match="no stream of a layer with batch_norm"):
        Streamer(layer)
    layer.reset_parameters()
    assert torch.all(layer.batch_norm["l1"].running_mean == 0)
    assert {n for n, _ in layer.named_parameters() if "batch" in n} == {
        "batch_norm.l1.weight",
        "batch_norm.l1.bias",
    }
    with pytest.raises(InputError, match="batch_norm must be True or False"):
        LSTM(D, H, batch_norm=0.5)
