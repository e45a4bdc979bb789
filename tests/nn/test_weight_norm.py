"""Matrices that are normalised where they are used."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from cases import assert_same, flat, gradients, one_line, random
from unrolled import (
    GRU,
    LSTM,
    RNN,
    Checkpointed,
    InputError,
    Recurrent,
    Streamer,
    cell,
    convert,
    flow,
    through_time,
)
from unrolled.nn import SpectralNorm, WeightNorm, decay_groups, normalise_weights
from unrolled.nn.deep import Deep
from unrolled.nn.direct import DirectStack
from unrolled.nn.weight_norm import most_stretched

T, B, D, H = 6, 3, 4, 5
DOUBLE = {"dtype": torch.float64}
kinds = pytest.mark.parametrize("kind", ["weight", "spectral:0.9"])


def largest(matrix: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(matrix.detach(), 2)


def exact(kind: str, matrix: Tensor) -> Tensor:
    """What a matrix becomes, by its definition: lengths apart change nothing."""
    return matrix if kind == "weight" else 0.9 * matrix / torch.linalg.matrix_norm(matrix, 2)


LAYERS: dict[str, Callable[..., Any]] = {
    "RNN": lambda **k: RNN(D, H, **k),
    "GRU": lambda **k: GRU(D, H, 2, **k),
    "LSTM both ways": lambda **k: LSTM(D, H, 2, bidirectional=True, **k),
    "projected": lambda **k: LSTM(D, H, 2, proj_size=2, **k),
    "LSTM": lambda **k: Recurrent("lstm(peepholes=matrix)", D, H, 2, **k),
    "GRU of the paper": lambda **k: Recurrent("gru_cho", D, H, **k),
    "normalised": lambda **k: Recurrent("gru", D, H, norm="layer", **k),
}
layers = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)


def recurrent(layer: Any) -> dict[str, Tensor]:
    """Every matrix that reads a state, gate by gate."""
    found = {}
    for suffix in layer.suffixes:
        if isinstance(layer, Recurrent):
            own = layer.parameters_of(suffix)
            found |= {f"{suffix}.{n}": own[n] for n in own if n.endswith((".h", ".c"))}
        else:
            gates = getattr(layer, f"weight_hh_{suffix}").chunk(len(layer.h_gates))
            found |= {f"{suffix}.{n}": w for n, w in zip(layer.h_gates, gates, strict=True)}
    return found


# What they are


@kinds
@layers
def test_the_matrices_that_read_a_state_are_normalised_gate_by_gate(make, kind: str) -> None:
    torch.manual_seed(0)
    plain = make(**DOUBLE)
    torch.manual_seed(0)
    layer = make(weight_norm=kind, **DOUBLE)
    before = recurrent(plain)
    assert_same(recurrent(layer), {n: exact(kind, w) for n, w in before.items()}, 1e-12)
    untouched = {n: p for n, p in plain.named_parameters() if "hh" not in n and not n.endswith((".h", ".c"))}
    assert untouched
    assert_same({n: layer.get_parameter(n) for n in untouched}, untouched)


@kinds
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_layer_computes_with_normalised_matrices(kind: str, backend: str) -> None:
    """Outputs, and the gradients of what learns, as by autograd through the definition."""
    plain = LSTM(D, H, backend=backend, **DOUBLE)
    layer = copy.deepcopy(plain)
    layer.weight_norm = kind
    layer._normalise_weights()
    x = random(T, B, D)
    original = plain.weight_hh_l0.detach().clone().requires_grad_()
    if kind == "weight":
        lengths = original.norm(dim=1, keepdim=True).detach().requires_grad_()
        whole = lengths * original / original.norm(dim=1, keepdim=True)
        learn = {"original0": lengths, "original1": original}
    else:
        whole = torch.cat([exact(kind, gate) for gate in original.chunk(4)])
        learn = {"original": original}
    expected, end = torch.func.functional_call(plain, {"weight_hh_l0": whole}, (x,))
    found, found_end = layer(x)
    results = [flat(y, dict(zip("hc", e, strict=True))) for y, e in ((found, found_end), (expected, end))]
    assert_same(*results, 1e-12)
    own = layer.parametrizations.weight_hh_l0
    leaves = {"x": x, **{name: own.get_parameter(name) for name in learn}}
    assert_same(gradients(results[0], leaves), gradients(results[1], {"x": x, **learn}), 1e-10)


@kinds
def test_layers_as_torch_has_them_agree_with_those_by_gate(kind: str) -> None:
    layer = LSTM(D, H, 2, **DOUBLE)
    named = convert.from_torch(convert.to_torch(layer), layer.cell)
    for each in (layer, named):
        each.weight_norm = kind
        each._normalise_weights()
    x = random(T, B, D)
    found, expected = (
        flat(y, dict(e)) for y, e in (named(x), (layer(x)[0], dict(zip("hc", layer(x)[1], strict=True))))
    )
    assert_same(found, expected, 1e-12)


def test_leading_axes_count_matrices_each_normalised_by_itself() -> None:
    stacked, single = (nn.ParameterDict() for _ in range(2))
    values = torch.randn(7, 4, 3, **DOUBLE)
    stacked["a"] = nn.Parameter(values.clone())
    for k, value in enumerate(values):
        single[f"a{k}"] = nn.Parameter(value.clone())
    for kind in ("weight", "spectral:2"):
        both = copy.deepcopy(stacked), copy.deepcopy(single)
        for each in both:
            normalise_weights(each, kind)
        whole = both[0].a
        apart = torch.stack([getattr(both[1], f"a{k}") for k in range(7)])
        assert_same({"w": whole}, {"w": apart}, 1e-13)
        weight = torch.randn_like(values)
        for w in (whole, apart):
            (w * weight).sum().backward()
        grads = [[p.grad.flatten() for _, p in sorted(each.named_parameters())] for each in both]
        assert torch.allclose(
            torch.cat(grads[0]).sort().values, torch.cat(grads[1]).sort().values, rtol=1e-10
        )


# Laws


def test_the_gradient_of_a_direction_is_orthogonal_to_it() -> None:
    """Salimans & Kingma 2016, section 2.1: so steps of gradient descent only make directions longer."""
    layer = Recurrent("gru", D, H, weight_norm={"*": "weight"}, **DOUBLE)
    layer(random(T, B, D))[0].square().sum().backward()
    found = [p for n, p in layer.named_parameters() if n.endswith("original1")]
    assert len(found) == 6
    for v in found:
        assert float(v.grad.norm()) > 1e-4
        assert float((v.grad * v.detach()).sum(-1).abs().max()) < 1e-14
        assert bool(((v - v.grad).norm(dim=-1) >= v.norm(dim=-1)).all())


@pytest.mark.parametrize("limit", [0.5, 0.9, 1.1])
def test_spectral_norm_bounds_the_jacobian_of_every_step_of_a_tanh_network(limit: float) -> None:
    """|tanh'| ≤ 1, so the largest singular value of diag(tanh') W is at most that of W; they are equal where
    the state is 0."""
    layer = RNN(D, 20, weight_norm=f"spectral:{limit}", bias=False, **DOUBLE)
    spectra = flow.step_spectra(layer, torch.randn(30, B, D, **DOUBLE))
    assert limit / 2 < float(spectra.largest.min())
    assert float(spectra.largest.max()) <= limit * (1 + 1e-10)
    still = flow.step_spectra(layer, torch.zeros(5, B, D, **DOUBLE))
    torch.testing.assert_close(still.largest, torch.full_like(still.largest, limit), rtol=1e-10, atol=0)


@pytest.mark.parametrize("norm", [None, "layer"])
def test_every_layer_of_a_deep_network_is_bounded_by_itself(norm: str | None) -> None:
    """The matrices of all layers are one tensor; biases and gains are left alone."""
    network = Deep("rnn", 8, 12, norm=norm, **DOUBLE)
    normalise_weights(network, "spectral:0.9")
    assert [n for n, m in network.named_modules() if isinstance(m, SpectralNorm)] == [
        "layers.h.parametrizations.h.0"
    ]
    expected = torch.full((12,), 0.9, **DOUBLE)
    torch.testing.assert_close(largest(network.stacked()["h.h"]), expected, rtol=1e-12, atol=0)
    A = random(B, 8)
    results = []
    for backend in ("cpu", "reference"):
        network.backend = backend
        results.append({"A": network(A)})
    assert_same(*results, 1e-12)
    if norm is None:
        spectra = flow.step_spectra(network, A, lambda m, a: m(a).square().sum(-1))
        assert 0.5 < float(spectra.largest.max()) <= 0.9 * (1 + 1e-10)


def test_what_normalises_an_input_map_does_not_see_its_scale() -> None:
    """Ba, Kiros & Hinton 2016, section 5.1, on whole sequences of states: what is left is eps."""
    layer = Recurrent("layer_norm_lstm(eps=1e-12)", D, H, **DOUBLE)
    x = random(T, B, D)
    before = flat(*layer(x))
    with torch.no_grad():
        for gate in "fiog":
            layer.parameters_of("l0")[f"{gate}.x"].mul_(1000)
    assert_same(flat(*layer(x)), before, 1e-9)
    (d_x,) = torch.autograd.grad(layer(x)[0].sum(), x)
    (d_scaled,) = torch.autograd.grad(layer(10 * x)[0].sum(), x)
    assert_same({"d": d_scaled}, {"d": d_x}, 1e-9)


def test_an_orthogonal_start_keeps_all_singular_values_of_a_linear_network_at_one() -> None:
    @cell(states="h")
    def linear(x, h, W):
        return W.h(x, h)

    for how in ("orthogonal", "identity"):
        layer = Recurrent(linear, D, 12, init={"*.h": how}, **DOUBLE)
        spectrum = flow.lag_spectrum(layer, torch.randn(100, 2, D, **DOUBLE))
        assert float(spectrum.logs.abs().max()) < 1e-11


# How spectral norm keeps up


@pytest.mark.parametrize(
    "shape", [(20, 20), (7, 30), (30, 7), (1, 5), (5, 1), (3, 16, 12), (150, 150)], ids=str
)
def test_the_largest_singular_value_is_exact_from_the_beginning(shape: tuple[int, ...]) -> None:
    weight = torch.rand(shape, **DOUBLE) - 0.5
    count = min(16, *shape[-2:])
    directions = most_stretched(weight, count)
    assert directions.shape == (*shape[:-2], shape[-1], count)
    found = (weight @ directions)[..., 0].norm(dim=-1)
    torch.testing.assert_close(found, largest(weight), rtol=1e-12, atol=0)
    assert torch.equal(directions, most_stretched(weight, count))
    before = torch.get_rng_state()
    normal = SpectralNorm(weight, 0.9)
    normal.right_inverse(weight)
    assert torch.equal(torch.get_rng_state(), before)
    assert float((largest(normal(weight)) - 0.9).abs().max()) < 1e-12


@pytest.mark.parametrize("matrix", [torch.eye(9), torch.ones(9, 9), torch.eye(9)[:, :4], -3 * torch.eye(20)])
def test_singular_values_may_be_equal_or_zero(matrix: Tensor) -> None:
    normal = SpectralNorm(matrix)
    normal.right_inverse(matrix)
    assert float(largest(normal(matrix)) - 1) < 1e-6


def test_it_keeps_up_with_training() -> None:
    """Adam, at a rate that turns everything over: within 1e-4 but for the first steps."""
    layer = Recurrent("lstm", D, 24, weight_norm="spectral:0.9")
    optimiser = torch.optim.Adam(layer.parameters(), 1e-2)
    x, target = torch.randn(30, 8, D), torch.randn(30, 8, 24)
    worst = []
    for _ in range(60):
        optimiser.zero_grad()
        (layer(x)[0] - target).square().mean().backward()
        optimiser.step()
        worst.append(max(float(largest(w)) for w in recurrent(layer).values()) / 0.9 - 1)
    assert max(worst) < 0.01
    assert max(worst[20:]) < 1e-4
    moved = layer.get_parameter("l0.i.parametrizations.h.original")
    assert abs(float(largest(moved)) - 0.9) > 0.1


def test_fixed_weights_stay_fixed_and_evaluation_changes_nothing() -> None:
    layer = LSTM(D, H, weight_norm="spectral", **DOUBLE)
    with torch.no_grad():
        layer.parametrizations.weight_hh_l0.original.add_(torch.randn(4 * H, H, **DOUBLE))
    before = copy.deepcopy(layer.state_dict())
    layer.eval()
    stale = layer.weight_hh_l0
    assert_same(layer.state_dict(), before)
    layer.train()
    followed = layer.weight_hh_l0
    assert not torch.equal(stale, followed)
    after = copy.deepcopy(layer.state_dict())
    for _ in range(3):
        assert torch.equal(layer.weight_hh_l0, followed)
    assert_same(layer.state_dict(), after)


def test_it_keeps_up_in_few_bits() -> None:
    layer = LSTM(D, H, weight_norm="spectral", dtype=torch.bfloat16, backend="reference")
    optimiser = torch.optim.SGD(layer.parameters(), 1.0)
    for _ in range(3):
        layer(torch.randn(T, B, D, dtype=torch.bfloat16))[0].sum().backward()
        optimiser.step()
    assert all(0.95 < float(largest(gate.float())) < 1.05 for gate in layer.weight_hh_l0.chunk(4))


def test_weights_that_are_not_finite_stay_so() -> None:
    layer = LSTM(D, H, weight_norm="spectral")
    for bad in (float("nan"), float("inf")):
        with torch.no_grad():
            layer.parametrizations.weight_hh_l0.original[0, 0] = bad
        assert layer(torch.randn(T, B, D))[0].isnan().any()


# What else layers do


@kinds
def test_gradients_of_gradients(kind: str) -> None:
    layer = Recurrent("rnn", 2, 3, weight_norm=kind, **DOUBLE).eval()
    learn = [p.detach().clone().requires_grad_() for p in layer.parameters()]

    def outputs(x: Tensor, *parameters: Tensor) -> Tensor:
        named = dict(zip(dict(layer.named_parameters()), parameters, strict=True))
        return torch.func.functional_call(layer, named, (x,))[0]

    given = (random(2, 1, 2), *learn)
    assert torch.autograd.gradcheck(outputs, given)
    assert torch.autograd.gradgradcheck(outputs, given)


@kinds
def test_second_derivatives_in_training_are_there(kind: str) -> None:
    """In training too there are second derivatives, of W with its direction d as it is."""
    layer = LSTM(D, H, weight_norm=kind, **DOUBLE)
    x = random(T, B, D)
    (d_x,) = torch.autograd.grad(layer(x)[0].square().sum(), x, create_graph=True)
    d_x.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
    assert torch.func.grad(lambda x: layer(x)[0].sum())(x).isfinite().all()


@kinds
@layers
def test_copies_and_states_give_the_same_outputs(make, kind: str) -> None:
    layer = make(weight_norm=kind)
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(0.3 * torch.randn_like(p))
    x = torch.randn(T, B, D)
    expected = layer(x)[0]
    again, other = copy.deepcopy(layer), make(weight_norm=kind)
    other.load_state_dict(layer.state_dict())
    for each in (again, other):
        assert torch.equal(each(x)[0], expected)
        assert torch.equal(each.eval()(x)[0], expected)
    with torch.no_grad():
        next(again.parameters()).zero_()
    assert torch.equal(layer(x)[0], expected)


@kinds
def test_a_copy_of_a_layer_that_streams(kind: str) -> None:
    layer = LSTM(D, H, weight_norm=kind).eval()
    x = torch.randn(B, D)
    with torch.no_grad():
        expected = layer.step(x)[0]
        assert torch.equal(copy.deepcopy(layer).step(x)[0], expected)


@kinds
def test_steps_notice_training(kind: str) -> None:
    """A stream reads the matrices as they now are, however often weights and directions change."""
    layer = LSTM(D, H, weight_norm=kind, **DOUBLE)
    x = torch.randn(B, D, **DOUBLE)
    streamer = Streamer(layer, B)
    for _ in range(3):
        layer.train()
        layer(x[None])[0].sum().backward()
        with torch.no_grad():
            for p in layer.parameters():
                p.sub_(p.grad)
        layer.eval()
        streamer.reset()
        assert torch.allclose(streamer(x), layer(x[None])[0][0], rtol=1e-14)
        layer.train()
        layer(x[None])  # follows, and changes no parameter
        layer.eval()
        streamer.reset()
        assert torch.allclose(streamer(x), layer(x[None])[0][0], rtol=1e-14)


@kinds
@pytest.mark.parametrize("whole", [False, True])
def test_chunks_that_run_again_see_the_same_matrices(kind: str, whole: bool) -> None:
    """Gradients under a policy are those without, right after a change of the weights."""
    found = []
    for policy in (None, Checkpointed(every=2)):
        torch.manual_seed(0)
        layer = GRU(D, H, weight_norm=kind, **DOUBLE)
        x = torch.randn(8, B, D, **DOUBLE)
        for _ in range(2):
            layer.zero_grad()
            if policy is None or not whole:
                layer(x, bptt=policy)[0].square().sum().backward()
            else:

                def step(chunk: Tensor, state: Any, layer: Any = layer) -> tuple[Tensor, Any]:
                    y, state = layer(chunk, state)
                    return y.square().sum(), state

                start = layer.initial_state(B)["h"]
                through_time(step, x.split(2), start, bptt=Checkpointed(every=1))[0].backward()
            with torch.no_grad():
                for p in layer.parameters():
                    p.sub_(0.1 * p.grad)
        found.append({name: p.grad for name, p in layer.named_parameters()})
    assert_same(found[1], found[0], 1e-12)


@kinds
def test_layers_are_compiled_and_exported(kind: str) -> None:
    layer = LSTM(D, H, weight_norm=kind)
    x = torch.randn(T, B, D)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        expected = copy.deepcopy(layer)(x)[0]
        torch.testing.assert_close(compiled(x)[0], expected)
        with torch.no_grad():
            layer.parametrizations.weight_hh_l0.get_parameter(
                "original1" if kind == "weight" else "original"
            ).add_(torch.randn(4 * H, H))
    layer.eval()
    exported = torch.export.export(layer, (x,)).module()
    torch.testing.assert_close(exported(x)[0], layer(x)[0])


@kinds
def test_a_monitor_changes_nothing_and_the_microscope_sees_them(kind: str) -> None:
    found = []
    for every in (None, 1):
        torch.manual_seed(0)
        layer = Recurrent("lstm", D, H, weight_norm=kind)
        optimiser = torch.optim.Adam(layer.parameters(), 0.05)
        x = torch.randn(T, B, D)
        with flow.Monitor(layer, every=every or 100, share=1e9) as monitor:
            for _ in range(4):
                optimiser.zero_grad()
                loss = layer(x)[0].square().mean()
                loss.backward()
                if every:
                    monitor(loss)
                optimiser.step()
        found.append(layer.state_dict())
    assert_same(*found)
    recording = flow.record(layer, x)
    assert_same(dict(recording.places[0].parameters), dict(layer.parameters_of("l0")))
    assert len(monitor.history) == 4
    assert flow.diagnose(layer, x).summary()


@kinds
@layers
def test_initial_values_are_drawn_anew(make, kind: str) -> None:
    layer = make(weight_norm=kind, **DOUBLE)
    plain = make(**DOUBLE)
    before = {name: p.detach().clone() for name, p in layer.named_parameters()}
    for each in (layer, plain):
        torch.manual_seed(5)
        each.reset_parameters()
    assert_same(recurrent(layer), {n: exact(kind, w) for n, w in recurrent(plain).items()}, 1e-12)
    assert not any(torch.equal(p, before[n]) for n, p in layer.named_parameters() if "original" in n)
    for p in layer.parameters():
        assert p.is_leaf


def test_initialisers_by_pattern_reach_normalised_matrices() -> None:
    options = {"init": {"f.h": "orthogonal:3", "i.h": "identity:0.25"}}
    layer = Recurrent("lstm", D, H, weight_norm="weight", **options, **DOUBLE)
    for _ in range(2):
        own = layer.parameters_of("l0")
        torch.testing.assert_close(own["f.h"] @ own["f.h"].T, 9 * torch.eye(H, **DOUBLE))
        torch.testing.assert_close(own["i.h"], torch.eye(H, **DOUBLE) / 4)
        layer.reset_parameters()
    with layer.written() as tensors:
        tensors["l0"]["f.h"].fill_(2.0)
        tensors["l0"]["f.x"].fill_(3.0)
    assert set(layer.parameters_of("l0")["f.h"].flatten().tolist()) == {2.0}
    assert set(layer.parameters_of("l0")["f.x"].flatten().tolist()) == {3.0}


def test_patterns_choose_matrices_and_later_ones_win() -> None:
    layer = Recurrent("lstm", D, H, 2, weight_norm={"*.x": "weight", "*.h": "spectral", "f": "spectral:0.5"})
    found = {
        name.removesuffix(".0"): type(m).__name__ + getattr(m, "extra_repr", str)()
        for name, m in layer.named_modules()
        if isinstance(m, WeightNorm | SpectralNorm)
    }
    expected = {}
    for suffix in ("l0", "l1"):
        for gate in "ifgo":
            limit = "SpectralNormlimit=0.5" if gate == "f" else "SpectralNormlimit=1"
            expected[f"{suffix}.{gate}.parametrizations.h"] = limit
            expected[f"{suffix}.{gate}.parametrizations.x"] = limit if gate == "f" else "WeightNorm"
    assert found == expected
    layer = LSTM(D, H, proj_size=2, weight_norm={"weight_ih": "weight", "weight_hr": "spectral:2"})
    assert {*layer.parametrizations} == {"weight_ih_l0", "weight_hr_l0"}
    assert float(largest(layer.weight_hr_l0)) == pytest.approx(2, rel=1e-5)
    assert "weight_norm={'weight_ih'" in repr(layer)


def test_lengths_of_weights_are_gains_and_do_not_decay() -> None:
    for kind in ("weight", "spectral"):
        layer = Recurrent("gru", D, H, weight_norm=kind)
        decays, rest = decay_groups(layer, 0.1)
        assert {p.shape for p in decays["params"]} == {(H, D), (H, H)}
        assert sum(p.shape == (H, 1) for p in rest["params"]) == (3 if kind == "weight" else 0)
    linear = parametrizations.weight_norm(nn.Linear(3, 2))
    assert [p.shape for p in decay_groups(linear, 0.1)[0]["params"]] == [(2, 3)]


def test_lengths_are_torchs_and_state_dicts_go_both_ways() -> None:
    ours, theirs = LSTM(D, H, weight_norm="weight"), nn.LSTM(D, H)
    parametrizations.weight_norm(theirs, "weight_hh_l0")
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(T, B, D)
    torch.testing.assert_close(theirs(x)[0], ours(x)[0])
    torch.testing.assert_close(convert.to_torch(ours)(x)[0], ours(x)[0])


def test_no_direct_run_where_matrices_are_computed() -> None:
    assert DirectStack.why_not(LSTM(D, H, weight_norm="weight")) == "its matrices are computed from others"


def test_a_row_of_zeros_is_no_division_by_zero() -> None:
    layer = RNN(D, H, **DOUBLE)
    with torch.no_grad():
        layer.weight_hh_l0[1].zero_()
    normalise_weights(layer, {"weight_hh_l0": "weight"})
    layer(random(T, B, D))[0].sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_layers_on_no_device_are_filled_later() -> None:
    layer = LSTM(D, H, weight_norm="spectral", device="meta")
    other = LSTM(D, H, weight_norm="spectral")
    layer.to_empty(device="cpu").load_state_dict(other.state_dict())
    x = torch.randn(T, B, D)
    assert torch.equal(layer(x)[0], other(x)[0])


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "unknown": (lambda: LSTM(D, H, weight_norm="batch"), "no weight_norm 'batch'; there are weight and spec"),
    "a number": (lambda: LSTM(D, H, weight_norm={"weight_hh": 3}), "no weight_norm 3; there are weight"),
    "weight:1": (lambda: LSTM(D, H, weight_norm="weight:1"), "no weight_norm 'weight:1'"),
    "limit 0": (
        lambda: LSTM(D, H, weight_norm="spectral:0"),
        "'spectral:0': the limit must be a number above",
    ),
    "limit nan": (lambda: LSTM(D, H, weight_norm="spectral:nan"), "the limit must be a number above 0"),
    "limit words": (lambda: LSTM(D, H, weight_norm="spectral:"), "the limit must be a number above 0"),
    "pattern": (
        lambda: Recurrent("gru", D, H, weight_norm={"q.*": "weight"}),
        r"pattern 'q\.\*' matches no matrix; there are r\.x, r\.h, ",
    ),
    "bias": (
        lambda: Recurrent("gru", D, H, weight_norm={"*.bias": "weight"}),
        r"pattern '\*\.bias' matches no matrix",
    ),
    "no recurrent one": (
        lambda: Recurrent("indrnn", D, H, weight_norm="weight"),
        "needs a matrix that reads a state, and cell 'indrnn' has none",
    ),
    "zeros": (
        lambda: Recurrent("rnn", D, H, init={"h.h": 0}, weight_norm="spectral"),
        "a matrix of zeros has no spectral norm",
    ),
    "nothing": (lambda: normalise_weights(nn.LayerNorm(3), "weight"), "LayerNorm has no matrix"),
    "twice": (
        lambda: normalise_weights(LSTM(D, H, weight_norm={"*": "weight"}), "weight"),
        "has no matrix that could be normalised",
    ),
    "shared": (lambda: normalise_weights(tied(), "weight"), "0.weight is used in two places"),
}


def tied() -> nn.Module:
    two = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    two[1].weight = two[0].weight
    return two


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_named(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(InputError, match=message) as caught:
        make()
    assert one_line(caught.value)


def test_a_module_of_ones_own_is_normalised_but_for_its_biases() -> None:
    model = nn.ModuleDict(
        {"head": nn.Linear(4, 3), "layer": LSTM(D, H, learn_initial=True), "norm": nn.LayerNorm(3)}
    )
    normalise_weights(model, "spectral")
    changed = {name for name, m in model.named_modules() if isinstance(m, SpectralNorm)}
    assert changed == {
        "head.parametrizations.weight.0",
        "layer.parametrizations.weight_ih_l0.0",
        "layer.parametrizations.weight_hh_l0.0",
    }
    assert float(largest(model["head"].weight)) == pytest.approx(1, rel=1e-6)
    for gate in model["layer"].weight_ih_l0.chunk(4):
        assert float(largest(gate)) == pytest.approx(1, rel=1e-6)
