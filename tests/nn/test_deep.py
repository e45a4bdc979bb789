"""Cells through depth."""

import math

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad

from unrolled import Checkpointed, Recurrent, Truncated, cell, cells, flow
from unrolled.errors import InputError, UnrolledError
from unrolled.flow.jacobian import jacobians_of
from unrolled.nn import Deep
from unrolled.parameters import Untied
from unrolled.rewrite import without_input
from unrolled.scan import scan

DOUBLE = torch.float64

THROUGH_DEPTH = (
    "rnn", "rnn(activation=maxout)", "indrnn", "residual", "residual(activation=softplus, products=two)",
    "highway", "highway(coupled=false, activation=relu, carry_bias=2)", "rhn", "lstm", "lstm_peephole",
    "lstm_fgr", "gru", "gru_cho", "mgu", "mut3", "layer_norm_rnn",
)  # fmt: skip


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def deep(spec: str, width: int, depth: int, **options) -> Deep:
    torch.manual_seed(1)
    return Deep(spec, width, depth, dtype=DOUBLE, **options)


@pytest.mark.parametrize("width", [5, 20, 130])
@pytest.mark.parametrize("spec", THROUGH_DEPTH)
def test_kernels_compute_what_the_equations_say_layer_by_layer(spec, width):
    """Outputs of all layers, and every gradient, for one thread and for several."""
    layer = deep(spec, width, 7)
    A = random(9, width).requires_grad_()
    others = {name: random(9, width, seed=2) for name in layer.cell.states[1:]}
    found = []
    for layer.backend in ("reference", "cpu"):
        last, states = layer(A, others, return_states=True)
        weights = {name: random(*value.shape, seed=3) for name, value in states.items()}
        loss = (last * random(9, width, seed=4)).sum()
        loss = loss + sum((weights[name] * value).sum() for name, value in states.items())
        found.append([last, *states.values(), *torch.autograd.grad(loss, [A, *layer.parameters()])])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("spec", [*THROUGH_DEPTH, "highway(coupled=false)"])
def test_wide_layers_by_products_of_torch_compute_the_same(spec, bias, monkeypatch):
    monkeypatch.setattr("unrolled.nn.deep.WIDE", 1)
    layer = deep(spec, 5, 6, bias=bias)
    A = random(7, 5).requires_grad_()
    for every in (True, False):
        found = []
        for layer.backend in ("reference", "auto"):
            last = layer(A, return_states=every)
            if every:
                last, states = last
            loss = last.square().sum()
            loss = loss + sum((random(6, 7, 5) * value).sum() for value in (states if every else {}).values())
            found.append(torch.autograd.grad(loss, [A, *layer.parameters()]))
        for one, two in zip(*found, strict=True):
            torch.testing.assert_close(two, one, rtol=1e-11, atol=1e-13)


def test_wide_layers_are_differentiated_twice(monkeypatch):
    monkeypatch.setattr("unrolled.nn.deep.WIDE", 1)
    layer = deep("highway", 3, 3)
    A = random(2, 3).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda a, *_: layer(a), (A, *layer.parameters()))


def test_layers_are_the_cell_one_after_the_other():
    layer = deep("highway", 4, 3)
    h = A = random(2, 4)
    for k in range(3):
        own = {name: value[k] for name, value in layer.stacked().items()}
        n, b = (h @ own[f"{gate}.h"].T + own[f"{gate}.bias"] for gate in "nb")
        h = torch.tanh(n) * torch.sigmoid(b) + h * (1 - torch.sigmoid(b))
    torch.testing.assert_close(layer(A), h, rtol=1e-12, atol=1e-14)


def test_a_plain_network_is_that_of_torch():
    layer = deep("rnn(activation=relu)", 6, 4)
    plain = nn.Sequential(*[m for _ in range(4) for m in (nn.Linear(6, 6, dtype=DOUBLE), nn.ReLU())])
    with torch.no_grad():
        for k, linear in enumerate(plain[::2]):
            linear.weight.copy_(layer.layers.h.h[k])
            linear.bias.copy_(layer.layers.h.bias[k])
    A = random(5, 6)
    ours, theirs = layer(A), plain(A)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    ours.square().sum().backward()
    theirs.square().sum().backward()
    for k, linear in enumerate(plain[::2]):
        torch.testing.assert_close(layer.layers.h.h.grad[k], linear.weight.grad, rtol=1e-11, atol=1e-14)
        torch.testing.assert_close(layer.layers.h.bias.grad[k], linear.bias.grad, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("spec", ["rnn", "residual", "highway", "lstm", "gru", "mgu"])
def test_tied_layers_are_the_steps_of_a_recurrence_without_input(spec):
    """The same weights give the same states as through time on zeros, and the same gradient as with weights
    of their own, summed over layers."""
    layer = deep(spec, 5, 6, tied=True)
    A = random(3, 5)
    in_time = Recurrent(spec, 2, 5, dtype=DOUBLE)
    own = in_time.parameters_of("l0")
    with torch.no_grad():
        for name, value in layer.stacked().items():
            own[name].copy_(value)
    state = {name: torch.zeros(1, 3, 5, dtype=DOUBLE) for name in layer.cell.states} | {"h": A[None]}
    _, _, steps = in_time(torch.zeros(6, 3, 2, dtype=DOUBLE), state, return_states=True)
    last, states = layer(A, return_states=True)
    for name, value in states.items():
        torch.testing.assert_close(value, steps[name][0], rtol=1e-12, atol=1e-14)
    last.square().sum().backward()
    untied = deep(spec, 5, 6)
    with torch.no_grad():
        for name, value in untied.stacked().items():
            value.copy_(layer.stacked()[name])
    untied(A).square().sum().backward()
    for name, value in untied.stacked().items():
        torch.testing.assert_close(value.grad.sum(0), layer.stacked()[name].grad, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("policy", [Checkpointed(every=3), Checkpointed(memory="1MB")], ids=str)
def test_layers_that_run_again_give_the_same_gradients(policy):
    layer = deep("lstm", 24, 40)
    A = random(8, 24).requires_grad_()
    found = []
    for bptt in (None, policy):
        last, states = layer(A, bptt=bptt, return_states=True)
        loss = last.square().sum() + (states["c"] * random(40, 8, 24, seed=5)).sum()
        found.append(torch.autograd.grad(loss, [A, *layer.parameters()]))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-11, atol=1e-14)


def test_gradients_that_go_back_two_layers():
    layer = deep("rnn", 4, 6)
    A = random(3, 4).requires_grad_()
    layer(A, bptt=Truncated(2, 2)).sum().backward()
    assert A.grad is None or not A.grad.any()
    reached = layer.layers.h.h.grad.flatten(1).any(1)
    assert reached.tolist() == [False] * 4 + [True] * 2


def test_second_derivatives_per_sample_gradients_and_forward_mode():
    layer = deep("residual(activation=tanh)", 3, 4)
    A = random(2, 3).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda a, *_: layer(a), (A, *layer.parameters()))
    parameters = dict(layer.named_parameters())

    def loss(parameters, a):
        return functional_call(layer, parameters, (a[None],)).square().sum()

    each = torch.func.vmap(grad(loss), (None, 0))(parameters, A.detach())
    layer(A).square().sum().backward()
    for name, value in each.items():
        torch.testing.assert_close(value.sum(0), parameters[name].grad, rtol=1e-11, atol=1e-14)


def test_compiled_by_torch_it_is_one_operator():
    layer = Deep("highway", 8, 30)
    A = torch.randn(4, 8)
    layer(A).sum().backward()
    expected = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    torch.compile(layer, fullgraph=True, backend="aot_eager")(A).sum().backward()
    for p, d in zip(layer.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, d, rtol=0, atol=0)


def test_a_row_alone_is_a_batch_of_one():
    layer = deep("lstm", 5, 3)
    A = random(4, 5)
    whole, states = layer(A, return_states=True)
    for b in range(4):
        last, own = layer(A[b], return_states=True)
        torch.testing.assert_close(last, whole[b], rtol=1e-13, atol=1e-15)
        torch.testing.assert_close(own["c"], states["c"][:, b], rtol=1e-13, atol=1e-15)


def test_a_map_of_the_input_alone_is_its_bias():
    plain = without_input(cells.gru)
    assert list(plain.parameters) == ["r.h", "r.bias", "z.h", "z.bias", "n.bias", "m.h", "m.bias"]
    layer = deep("gru", 4, 2, init={"n.bias": 0.5, "m.bias": 0.0})
    assert bool((layer.layers.n.bias == 0.5).all())


def test_initialisers_are_for_one_layer_at_a_time():
    layer = deep("highway(carry_bias=2)", 6, 5, init={"n.h": "orthogonal:1.5"})
    for matrix in layer.layers.n.h:
        torch.testing.assert_close(matrix @ matrix.T, 2.25 * torch.eye(6, dtype=DOUBLE))
    assert not torch.equal(layer.layers.n.h[0], layer.layers.n.h[1])
    assert bool((layer.layers.b.bias == -2).all())
    assert float(layer.layers.b.h.detach().abs().max()) <= 1 / math.sqrt(6)


def test_layers_without_biases():
    layer = deep("lstm", 4, 3, bias=False)
    assert not any(name.endswith("bias") for name in layer.names)
    A = random(2, 4)
    reference = deep("lstm", 4, 3, bias=False, backend="reference")
    torch.testing.assert_close(layer(A), reference(A), rtol=1e-12, atol=1e-14)


# Normalisation


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_a_normalised_layer_does_not_feel_the_size_of_what_it_reads(norm):
    layer = deep("rnn", 12, 1, norm=norm, init={"*.gain": 0.7})
    A = random(3, 12)
    torch.testing.assert_close(layer(A), layer(1000 * A), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("tied", [False, True])
def test_batch_norm_is_that_of_torch(tied):
    """In training and after it: states, gradients, and running statistics of every layer."""
    layer = deep("highway", 5, 3, norm="batch", tied=tied, init={"*.gain": "normal:1"})
    norms = {name: [nn.BatchNorm1d(5, dtype=DOUBLE) for _ in range(3)] for name in "nb"}
    own = layer.stacked()

    def of(name: str, k: int) -> torch.Tensor:
        return own[name] if tied else own[name][k]

    def through(h: torch.Tensor) -> torch.Tensor:
        for k in range(3):
            values = {}
            for name, norm in norms.items():
                norm[k].train(layer.training)
                with torch.no_grad():
                    norm[k].weight.fill_(1)
                normal = nn.functional.batch_norm(
                    h @ of(f"{name}.h", k).T, norm[k].running_mean, norm[k].running_var,
                    of(f"{name}.gain", k), of(f"{name}.bias", k), layer.training,
                )  # fmt: skip
                values[name] = normal
            b = torch.sigmoid(values["b"])
            h = torch.tanh(values["n"]) * b + h * (1 - b)
        return h

    for seed in range(3):
        A = random(7, 5, seed=seed)
        ours, theirs = layer(A), through(A)
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)
        weights = random(7, 5, seed=9)
        pairs = zip(
            torch.autograd.grad((ours * weights).sum(), [*own.values()]),
            torch.autograd.grad((theirs * weights).sum(), [*own.values()]),
            strict=True,
        )
        for one, two in pairs:
            torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-11)
    layer.eval()
    torch.testing.assert_close(layer(A), through(A), rtol=1e-11, atol=1e-13)
    kernel, layer.backend = layer(A), "reference"
    torch.testing.assert_close(layer(A), kernel, rtol=1e-11, atol=1e-13)


def test_batch_norm_needs_a_batch_and_all_layers_at_once():
    layer = deep("rnn", 4, 3, norm="batch")
    with pytest.raises(InputError, match="at least 2 rows"):
        layer(random(1, 4))
    with pytest.raises(InputError, match="leave out bptt"):
        layer(random(3, 4), bptt=Checkpointed(every=1))
    layer.eval()
    assert layer(random(1, 4)).shape == (1, 4)


# The microscope


@pytest.mark.parametrize("spec", ["rnn", "residual(products=two, activation=tanh)", "highway", "lstm"])
def test_the_gradient_by_layer_is_that_of_autograd(spec):
    layer = deep(spec, 6, 9)
    A = random(4, 6).requires_grad_()
    (profile,) = flow.gradient_by_lag(layer, A, weights=True).profiles
    found = torch.autograd.grad(flow.trace.usual_losses(layer, A).sum(), [A, *layer.parameters()])
    size = found[0].norm(dim=-1).square().mean().sqrt()
    at_start = profile.states["h"][-1] if profile.states else profile.norm[-1]
    torch.testing.assert_close(at_start, size, rtol=1e-10, atol=0)
    assert profile.norm.shape == (10,)
    for (name, _), d in zip(layer.stacked().items(), found[1:], strict=True):
        if d.ndim == 3:
            by_layer = d.flatten(1).norm(dim=1).flip(0)
            torch.testing.assert_close(profile.weights[name], by_layer, rtol=1e-6, atol=1e-14)


def test_jacobians_are_those_of_each_layer():
    layer = deep("residual(activation=tanh)", 4, 5)
    A = random(2, 4)
    spectra = flow.step_spectra(layer, A, all_values=True)
    products = flow.lag_spectrum(layer, A, lags=[5]).logs[0]
    (place,) = flow.record(layer, A).places
    at_once = jacobians_of(place, slice(1, 5, 2))
    assert torch.equal(at_once, torch.cat([jacobians_of(place, slice(t, t + 1)) for t in (1, 3)]))
    _, states = layer(A, return_states=True)
    for b in range(2):
        whole = torch.eye(4, dtype=DOUBLE)
        before = A[b]
        for k in range(5):
            W, bias = layer.layers.f.h[k].detach(), layer.layers.f.bias[k].detach()
            J = torch.eye(4, dtype=DOUBLE) + (1 - torch.tanh(W @ before + bias) ** 2)[:, None] * W
            torch.testing.assert_close(spectra.values[k, b], torch.linalg.svdvals(J), rtol=1e-9, atol=0)
            whole, before = J @ whole, states["h"][k, b].detach()
        torch.testing.assert_close(products[b].exp(), torch.linalg.svdvals(whole), rtol=1e-9, atol=0)


def test_a_gradient_that_dies_on_its_way_through_layers_is_named():
    x, y = random(16, 6), torch.randint(3, (16,))
    plain = nn.Sequential(deep("rnn", 6, 60), nn.Linear(6, 3, dtype=DOUBLE))
    (finding,) = flow.diagnose(plain, (x, y)).findings
    assert finding.name == "vanishing-through-depth"
    assert finding.level == "serious"
    assert "60 layers of 0, cell rnn" in finding.title
    assert "nn.Deep('residual', ...)" in finding.remedy
    carried = nn.Sequential(deep("highway(carry_bias=3)", 6, 60), nn.Linear(6, 3, dtype=DOUBLE))
    assert flow.diagnose(carried, (x, y)).healthy
    wild = nn.Sequential(deep("rnn", 6, 60, init={"*.h": "orthogonal:4"}), nn.Linear(6, 3, dtype=DOUBLE))
    found = flow.diagnose(wild, (1e-9 * x, y))
    assert {"exploding", "vanishing-through-depth"} & {each.name for each in found.findings}


def test_a_monitor_sees_layers():
    model = nn.Sequential(nn.Linear(8, 6), Deep("highway", 6, 20), nn.Linear(6, 3))
    with flow.Monitor(model, every=1) as monitor:
        loss = model(torch.randn(5, 8)).square().mean()
        loss.backward()
        monitor(loss.detach())
    (measured,) = monitor.history
    assert not measured.notes
    assert measured["1.depth"].lags[-1] == 20


# What does not fit


@cell(states="h", outputs="y")
def watched(x, h, W):
    h = torch.tanh(W.a(x, h))
    return h, W.y(h=h)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Deep("mut1", 4, 2), "through depth it has none"),
        (lambda: Deep("layer_norm_lstm", 4, 2), "sees nothing, and it has no bias"),
        (lambda: Deep(watched, 4, 2), "hands on 'y', which is no state"),
        (lambda: Deep("rnn", 4, 0), "depth"),
        (lambda: Deep("rnn", -1, 3), "width"),
        (lambda: Deep("rnnn", 4, 2), "did you mean 'rnn'"),
        (lambda: Deep("rnn", 4, 2, norm="group"), "no norm 'group'"),
        (lambda: Deep("rnn", 4, 2, backend="gpu"), "no backend 'gpu'"),
        (lambda: Deep("rnn", 4, 2, init={"f.h": 1.0}), "matches no parameter"),
        (lambda: Deep(3, 4, 2), "expected a cell"),
    ],
)
def test_what_cannot_be_a_deep_network_is_refused(make, says):
    with pytest.raises(UnrolledError, match=says):
        make()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda layer: layer(torch.zeros(3, 5)), r"A has shape \(3, 5\), expected \(B, 4\)"),
        (lambda layer: layer(torch.zeros(2, 3, 4)), "A has shape"),
        (lambda layer: layer([1.0]), "A has type list"),
        (lambda layer: layer(torch.zeros(3, 4, dtype=DOUBLE)), "A is torch.float64"),
        (lambda layer: layer(torch.zeros(3, 4), {"d": torch.zeros(3, 4)}), "no further state 'd'"),
        (lambda layer: layer(torch.zeros(3, 4), {"c": torch.zeros(2, 4)}), "state 'c' has shape"),
    ],
)
def test_what_does_not_fit_is_said(call, says):
    with pytest.raises(InputError, match=says):
        call(Deep("lstm", 4, 2))


def test_parameters_of_steps_are_for_as_many_steps_and_no_input():
    plain = without_input(cells.rnn)
    own = Untied({"h.h": torch.zeros(3, 4, 4), "h.bias": torch.zeros(3, 4)})
    with pytest.raises(InputError, match="that of 3 steps, but there are 5"):
        scan(plain, torch.zeros(5, 2, 1), None, own)
    seeing = Untied({"h.x": torch.randn(3, 4, 1), **own.tensors})
    with pytest.raises(UnrolledError, match="reads an input"):
        scan(cells.rnn, torch.randn(3, 2, 1), None, seeing, backend="cpu")
    x = torch.randn(3, 2, 1)
    y, _ = scan(cells.rnn, x, None, seeing)
    torch.testing.assert_close(y, torch.tanh(torch.einsum("tbd,thd->tbh", x, seeing.tensors["h.x"])))


def test_a_network_remembers_what_it_is():
    layer = Deep("residual(activation=tanh)", 4, 7, tied=True, norm="rms")
    assert repr(layer).splitlines()[1].strip() == (
        "residual(activation=tanh), 4, depth=7, tied=True, norm='rms'"
    )
    again = Deep("residual(activation=tanh)", 4, 7, tied=True, norm="rms")
    again.load_state_dict(layer.state_dict())
    A = torch.randn(2, 4)
    assert torch.equal(again(A), layer(A))


def test_low_precision_outside_is_no_concern():
    layer = Deep("highway", 4, 3)
    A = torch.randn(2, 4)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(A.bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, layer(A.bfloat16().float()))


def test_spectral_norm_is_of_each_layer():
    layer = deep("lstm_peephole", 6, 4, weight_norm="spectral:0.8", init={"*.h": "normal:1"})
    for name, value in layer.stacked().items():
        if name.endswith(".h"):
            largest = torch.linalg.matrix_norm(value, 2)
            torch.testing.assert_close(largest, torch.full_like(largest, 0.8), rtol=1e-6, atol=0)
    before = [value.clone() for value in layer.stacked().values()]
    layer.reset_parameters()
    assert not torch.equal(layer.stacked()["f.h"], before[0])
    A = random(3, 6)
    kernel, layer.backend = layer(A), "reference"
    torch.testing.assert_close(layer(A), kernel, rtol=1e-11, atol=1e-13)
    plain = deep("rnn", 6, 12, weight_norm="spectral:0.9")
    spectra = flow.step_spectra(plain, random(3, 6))
    assert float(spectra.largest.max()) <= 0.9 + 1e-6


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_no_rows_are_no_rows(backend):
    layer = deep("lstm", 4, 3, backend=backend)
    A = torch.zeros(0, 4, dtype=DOUBLE, requires_grad=True)
    last, states = layer(A, return_states=True)
    assert last.shape == (0, 4)
    assert states["c"].shape == (3, 0, 4)
    last.sum().backward()
    assert not any(p.grad.any() for p in layer.parameters())
