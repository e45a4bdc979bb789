"""Spectra and exponents whose values are known."""

import math

import pytest
import torch
from torch import tanh

from cases import ON_BACKENDS, id_of
from unrolled import LSTM, InputError, Recurrent, cell
from unrolled.cells import lstm
from unrolled.flow import exponents, lag_spectrum, lyapunov, record, step_spectra
from unrolled.flow.jacobian import jacobian_parts, jacobians, jacobians_of
from unrolled.flow.values import triangular

DOUBLE = torch.float64


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


@cell(states="h")
def linear(x, h, W):
    return W.a(x, h, bias=False)


@cell(states="h")
def squash(x, h, W):
    return tanh(W.a(x, h, bias=False))


@cell(states="h")
def highway(x, h, W):
    """A highway layer through time; x adds nothing where its matrices are 0."""
    B = torch.sigmoid(W.B(x, h))
    f = tanh(W.f(x, h))
    return B * f + (1 - B) * h


@cell(states="h")
def residual(x, h, W):
    return h + W.f(x, h, bias=False)


def layer_of(cell_, H: int, D: int = 2, **matrices: torch.Tensor) -> Recurrent:
    layer = Recurrent(cell_, D, H, dtype=DOUBLE)
    with torch.no_grad():
        for name, value in matrices.items():
            layer.parameters_of("l0")[name.replace("_", ".")].copy_(value)
    return layer


@pytest.mark.parametrize(("setting", "backend"), ON_BACKENDS, ids=id_of)
def test_jacobians_are_those_of_autograd(setting, backend):
    """For every cell of the zoo and of the tests, of the full state."""
    torch.manual_seed(0)
    T, B = 3, 2
    layer = Recurrent(setting.cell, setting.D, setting.state_sizes, backend=backend, dtype=DOUBLE)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.7)
    x = random(T, B, setting.D)
    place = record(layer, x).places[0]
    found = torch.cat([*jacobians(place)])
    parts = jacobian_parts(place, 1)
    torch.testing.assert_close(sum(parts.values()), found[1], rtol=1e-10, atol=1e-10)
    graph, parameters = place.graph, place.parameters
    before = place.before
    for t in range(T):
        for b in range(B):
            state = {name: before[name][t, b] for name in graph.states}

            def step(*values, t=t, b=b):
                read = {"x": place.x[t, b][None]}
                read |= {name: v[None] for name, v in zip(graph.states, values, strict=True)}
                return tuple(r[0] for r in graph.run(read, parameters)[: len(graph.states)])

            blocks = torch.autograd.functional.jacobian(step, tuple(state.values()))
            whole = torch.cat([torch.cat(row, 1) for row in blocks])
            infinite = torch.cat([v.isinf() for v in state.values()])
            whole = torch.where(infinite, 0.0, whole)
            torch.testing.assert_close(found[t, b], whole, rtol=1e-9, atol=1e-10)


def test_step_spectra_are_those_of_the_matrix():
    W = random(5, 5)
    found = step_spectra(layer_of(linear, 5, a_h=W), random(4, 3, 2), radii=2, all_values=True)
    values = torch.linalg.svdvals(W)
    torch.testing.assert_close(found.largest, values[0].expand(4, 3))
    torch.testing.assert_close(found.smallest, values[-1].expand(4, 3))
    torch.testing.assert_close(
        found.radius, torch.linalg.eigvals(W).abs().max().expand(4, 2), rtol=1e-4, atol=0
    )
    torch.testing.assert_close(found.values, values.expand(4, 3, 5))
    torch.testing.assert_close(found.condition, (values[0] / values[-1]).expand(4, 3))


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.3])
def test_orthogonal_matrices(scale):
    """All singular values are 1, or the scale, at every lag; exponents are 0, or its logarithm."""
    Q = triangular(random(1, 4, 4))[0][0] * scale
    layer, x = layer_of(linear, 4, a_h=Q), random(200, 2, 2)
    spectrum = lag_spectrum(layer, x, lags=[1, 10, 200])
    expected = spectrum.lags.double()[:, None, None] * math.log(scale)
    torch.testing.assert_close(spectrum.logs, expected.expand(3, 2, 4), rtol=1e-10, atol=1e-10)
    found = lyapunov(layer, x)
    torch.testing.assert_close(
        found.exponents, torch.full((4,), math.log(scale), dtype=DOUBLE), rtol=1e-9, atol=1e-10
    )
    assert found.converged


def test_powers_of_a_matrix():
    W = random(3, 3) * 0.4
    found = lag_spectrum(layer_of(linear, 3, a_h=W), random(30, 1, 2), lags=[1, 2, 7])
    for lag, logs in zip(found.lags.tolist(), found.logs[:, 0], strict=True):
        expected = torch.linalg.svdvals(torch.linalg.matrix_power(W, lag)).log()
        torch.testing.assert_close(logs, expected, rtol=1e-9, atol=1e-9)


def test_a_lag_spectrum_is_that_of_the_product_of_jacobians():
    torch.manual_seed(0)
    layer = LSTM(3, 4, dtype=DOUBLE)
    recording = record(layer, random(9, 2, 3))
    J = torch.cat([*jacobians(recording.places[0])])
    found = lag_spectrum(recording, lags=[3, 9])
    for lag, logs in zip((3, 9), found.logs, strict=True):
        product = torch.eye(8, dtype=DOUBLE)
        for t in range(9 - lag, 9):
            product = J[t] @ product
        truth = torch.linalg.svdvals(product)
        told = truth > 1e-9
        torch.testing.assert_close(logs.exp()[told], truth[told], rtol=1e-6, atol=0)


def test_residual_layers_multiply_one_plus_their_branch():
    Z = random(4, 4) * 0.1
    found = lag_spectrum(layer_of(residual, 4, f_h=Z), random(20, 1, 2), lags=[20])
    expected = torch.linalg.svdvals(torch.linalg.matrix_power(Z + torch.eye(4, dtype=DOUBLE), 20)).log()
    torch.testing.assert_close(found.logs[0, 0], expected, rtol=1e-9, atol=1e-10)


def test_a_saturated_lstm_carries_its_cell_by_the_forget_gate():
    """Where the gates do not move, dc_t / dc_s is the product of f."""
    layer = LSTM(2, 3, dtype=DOUBLE)
    f = torch.tensor([0.5, 0.9, 0.99], dtype=DOUBLE)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        H = 3
        layer.bias_ih_l0[H : 2 * H] = torch.log(f / (1 - f))
    recording = record(layer, random(12, 2, 2))
    J = torch.cat([*jacobians(recording.places[0])])
    torch.testing.assert_close(J[5, 0, 3:, 3:], torch.diag(f))
    logs = lag_spectrum(recording, lags=[12]).logs[0, 0, :3]
    # dh/dc = o tanh'(c) = 1/2 where c is 0, at the last step alone.
    expected = (12 * f.log() + 0.5 * math.log(1.25)).sort(descending=True).values
    torch.testing.assert_close(logs, expected, rtol=1e-9, atol=1e-9)


def test_an_lstm_jacobian_is_the_forget_gate_and_the_rest():
    """dc_t / dc_{t-1}: directly f; with peepholes on c the rest is what goes through i, f and g."""
    torch.manual_seed(1)
    layer = Recurrent(lstm.with_options(peepholes="vector"), 2, 3, dtype=DOUBLE)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))
    x = random(4, 1, 2)
    recording = record(layer, x)
    place = recording.places[0]
    _, _, steps = layer(x, return_states=True, return_gates=True)
    parts = jacobian_parts(place, 2)
    f, i, g = (steps[name][0, 2, 0] for name in "fig")
    c = steps["c"][0, 1, 0]
    direct = parts["direct"][0, 3:, 3:]
    p_i, p_f = (place.parameters[name] for name in ("p_i", "p_f"))
    # As corrected: i' p_i g + f' p_f c besides f; o looks at the new c and is not in dc / dc.
    told = f + i * (1 - i) * p_i * g + f * (1 - f) * p_f * c
    torch.testing.assert_close(torch.diag(told), direct, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("peepholes", ["none", "vector", "matrix"])
def test_an_lstm_jacobian_by_gates(peepholes):
    """By the chain rule: i, f and g move c, and h with it; o, which looks at the new c, moves h alone, and
    what c does to it goes through the gates that moved c."""
    torch.manual_seed(3)
    layer = Recurrent(lstm.with_options(peepholes=peepholes), 2, 3, dtype=DOUBLE)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))
    x = random(4, 1, 2)
    place = record(layer, x).places[0]
    _, _, steps = layer(x, return_states=True, return_gates=True)
    t = 2
    i, f, o, g, c = (steps[name][0, t, 0] for name in "ifogc")
    old = steps["c"][0, t - 1, 0]
    W = {name: place.parameters[f"{name}.h"] for name in "ifog"}
    peep = {name: torch.zeros(3, 3, dtype=DOUBLE) for name in "ifo"}
    if peepholes != "none":
        known = {n: v for n, v in place.parameters.items() if n.startswith("p_") or n.endswith(".c")}
        for name, value in known.items():
            gate = name.removeprefix("p_").removesuffix(".c")
            peep[gate] = torch.diag(value) if value.ndim == 1 else value

    def rows(v, matrix):
        return v[:, None] * matrix

    d_c = torch.diag(f) + rows(i * (1 - i) * g, peep["i"]) + rows(f * (1 - f) * old, peep["f"])
    d_h = rows(i * (1 - i) * g, W["i"]) + rows(f * (1 - f) * old, W["f"]) + rows(i * (1 - g * g), W["g"])
    tanh_c, o1 = torch.tanh(c), o * (1 - o)
    into_h = torch.diag(o * (1 - tanh_c**2)) + rows(o1 * tanh_c, peep["o"])
    truth = torch.cat(
        [
            torch.cat([into_h @ d_h + rows(o1 * tanh_c, W["o"]), into_h @ d_c], 1),
            torch.cat([d_h, d_c], 1),
        ]
    )
    J = jacobians_of(place, slice(t, t + 1))
    torch.testing.assert_close(J[0, 0], truth, rtol=1e-10, atol=1e-12)
    parts = jacobian_parts(place, t)
    torch.testing.assert_close(parts["g"][0, 3:, :3], rows(i * (1 - g * g), W["g"]), rtol=1e-10, atol=1e-12)


def test_a_highway_layer_is_its_four_terms():
    torch.manual_seed(0)
    W1, W2 = random(3, 3), random(3, 3, seed=1)
    zero = torch.zeros(3, 2, dtype=DOUBLE)
    layer = layer_of(highway, 3, f_h=W1, B_h=W2, f_x=zero, B_x=zero)
    h = random(1, 1, 3, seed=2)
    place = record(Started(layer, h=h), random(2, 1, 2)).places[0]
    A = h[0, 0]
    bias_f, bias_B = (layer.parameters_of("l0")[f"{n}.bias"].detach() for n in "fB")
    B, f = torch.sigmoid(W2 @ A + bias_B), torch.tanh(W1 @ A + bias_f)
    parts = jacobian_parts(place, 0)
    B1, f1 = B * (1 - B), 1 - f * f
    torch.testing.assert_close(parts["direct"][0], torch.diag(1 - B))
    torch.testing.assert_close(parts["f"][0], (B * f1)[:, None] * W1)
    torch.testing.assert_close(parts["B"][0], (f * B1)[:, None] * W2 - (A * B1)[:, None] * W2)
    assert set(parts) == {"direct", "f", "B"}


def test_products_of_gaussian_matrices():
    """ln σ² / 2 + (ln 2 + ψ((N - i + 1) / 2)) / 2 for the i-th exponent (Newman 1986)."""
    N, T, sigma = 4, 20_000, 0.7
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(T, N, N, dtype=DOUBLE, generator=generator) * sigma
    found = exponents(factors, T, transient=100)
    i = torch.arange(1, N + 1, dtype=DOUBLE)
    truth = (math.log(2 * sigma**2) + torch.digamma((N - i + 1) / 2)) / 2
    assert bool(((found.exponents - truth).abs() < 4.5 * found.error + 1e-6).all())
    assert float(found.error.max()) < 0.012
    assert found.converged


def henon(T: int):
    x, y = 0.1, 0.3
    for _ in range(T):
        yield torch.tensor([[-2.8 * x, 1.0], [0.3, 0.0]], dtype=DOUBLE)
        x, y = 1 - 1.4 * x * x + y, 0.3 * x


def test_the_henon_map():
    """0.4192 and -1.6232 (their sum is ln 0.3), as published."""
    found = exponents(henon(30_000), 30_000, transient=500)
    assert abs(float(found.exponents[0]) - 0.4192) < 0.004
    assert abs(float(found.exponents.sum()) - math.log(0.3)) < 1e-9
    assert found.is_chaotic


def lorenz(T: int, dt: float):
    """Jacobians of steps of fourth order along the Lorenz flow."""
    s, r, b = 10.0, 28.0, 8 / 3

    def flow(v):
        x, y, z = v
        return torch.stack([s * (y - x), x * (r - z) - y, x * y - b * z])

    def tangent(v):
        x, y, z = v.tolist()
        return torch.tensor([[-s, s, 0.0], [r - z, -1.0, -x], [y, x, -b]], dtype=DOUBLE)

    v = torch.tensor([1.0, 1.0, 20.0], dtype=DOUBLE)
    eye = torch.eye(3, dtype=DOUBLE)
    for _ in range(T):
        k1 = flow(v)
        k2 = flow(v + dt / 2 * k1)
        k3 = flow(v + dt / 2 * k2)
        k4 = flow(v + dt * k3)
        j1 = tangent(v)
        j2 = tangent(v + dt / 2 * k1) @ (eye + dt / 2 * j1)
        j3 = tangent(v + dt / 2 * k2) @ (eye + dt / 2 * j2)
        j4 = tangent(v + dt * k3) @ (eye + dt * j3)
        yield eye + dt / 6 * (j1 + 2 * j2 + 2 * j3 + j4)
        v = v + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def test_the_lorenz_flow():
    """0.9056, 0 and -14.572 a unit of time, as published; their sum is -(σ + 1 + β)."""
    dt, T = 0.01, 15_000
    found = exponents(lorenz(T, dt), T, transient=1000)
    rates = found.exponents / dt
    assert abs(float(rates[0]) - 0.9056) < 0.04
    assert abs(float(rates[1])) < 0.03
    assert abs(float(rates.sum()) + 10 + 1 + 8 / 3) < 1e-2


class Started(torch.nn.Module):
    """A layer that begins in a state of its own."""

    def __init__(self, layer: Recurrent, **state: torch.Tensor) -> None:
        super().__init__()
        self.layer, self.state = layer, state

    def forward(self, x):
        return self.layer(x, self.state)


@pytest.mark.parametrize(
    ("g", "expected"), [(1.5, 0.0652), (2.0, 0.1547), (3.0, 0.3102), (5.0, 0.5324), (10.0, 0.8564)]
)
def test_random_tanh_networks(g, expected):
    """The largest exponent of mean-field theory, for N = 1000, within 0.02."""
    N, T = 1000, 300
    layer = layer_of(squash, N, 1, a_h=random(N, N) * g / math.sqrt(N), a_x=torch.zeros(N, 1, dtype=DOUBLE))
    model = Started(layer, h=random(1, 1, N, seed=5))
    found = lyapunov(model, torch.zeros(T, 1, 1, dtype=DOUBLE), count=1, transient=100)
    assert abs(float(found.exponents[0]) - expected) < 0.02


def test_ten_thousand_steps_neither_over_nor_underflow():
    """W^T of a diagonal matrix, whose logarithms are known."""
    W, T = torch.tensor([1.5, 0.5, 1e-3], dtype=DOUBLE), 10_000
    found = lag_spectrum(layer_of(linear, 3, a_h=torch.diag(W)), torch.zeros(T, 1, 2, dtype=DOUBLE), lags=[T])
    torch.testing.assert_close(found.logs[0, 0], T * W.log(), rtol=1e-11, atol=0)


def test_a_product_grows_as_its_exponents_say():
    torch.manual_seed(0)
    layer, x = LSTM(1, 2, dtype=DOUBLE), random(10_000, 1, 1)
    found = lag_spectrum(layer, x, lags=[10_000])
    assert float(found.logs.max()) < -1000
    along = lyapunov(layer, x)
    torch.testing.assert_close(found.logs[0, 0] / 10_000, along.exponents, rtol=0.01, atol=1e-3)


def test_what_cannot_be_told_is_said():
    layer = layer_of(linear, 3)
    with pytest.raises(InputError, match="too few"):
        lyapunov(layer, random(10, 1, 2))
    with pytest.raises(InputError, match="no layer 'l7'"):
        step_spectra(layer, random(5, 1, 2), place="l7")
    with pytest.raises(InputError, match="lags go from 1 to the 5"):
        lag_spectrum(layer, random(5, 1, 2), lags=[6])
    with pytest.raises(InputError, match="not finite"):
        exponents([torch.full((2, 2), math.nan)] * 40, 40)
    rising = (torch.eye(1, dtype=DOUBLE) * (1.1 if t < 150 else 3.0) for t in range(300))
    found = exponents(rising, 300, transient=0)
    assert not found.converged
    assert "not converged" in repr(found)


def test_somebody_may_stop_it_and_keep_what_is_done(monkeypatch):
    def stop(done, of):
        if done == 30:
            raise KeyboardInterrupt

    layer, x = layer_of(linear, 3, a_h=random(3, 3)), random(60, 2, 2)
    monkeypatch.setattr("unrolled.flow.jacobian.ELEMENTS", 18)
    found = step_spectra(layer, x, progress=stop)
    assert not found.complete
    assert int(found.largest[:, 0].isfinite().sum()) == 30
    spectrum = lag_spectrum(layer, x, progress=stop)
    assert not spectrum.complete
    assert int(spectrum.lags[-1]) <= 30
    along = lyapunov(layer, x, progress=stop)
    assert not along.complete
    assert along.steps <= 30
    assert "stopped" in repr(along)
