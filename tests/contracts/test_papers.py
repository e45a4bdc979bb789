"""The cells of the zoo against the equations of their papers, in NumPy, with biases that are not zero.

`M(gate, x=..., h=...)` is the sum of each argument times the matrix `gate.argument`, plus the gate's bias.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cases import Setting
from unrolled.cells import find
from unrolled.nn import Recurrent


def sigma(a):
    return 1 / (1 + np.exp(-a))


def LN(z, alpha, beta=0.0, eps=1e-5):
    """Ba et al. 2016: (z − μ) / σ ⊙ α + β, by torch, whose σ is √(variance + eps)."""
    return F.layer_norm(torch.from_numpy(z), z.shape[-1:], eps=eps).numpy() * alpha + beta


def rnn(x, M, p, h):
    return {"h": np.tanh(M("h", x=x, h=h))}


def rnn_relu(x, M, p, h):
    a = M("h", x=x, h=h)
    return {"h": a * (a > 0)}


def rnn_sigmoid(x, M, p, h):
    return {"h": sigma(M("h", x=x, h=h))}


def rnn_softplus(x, M, p, h):
    return {"h": np.log(1 + np.exp(M("h", x=x, h=h)))}


def rnn_maxout(x, M, p, h):
    return {"h": np.max([M("h1", x=x, h=h), M("h2", x=x, h=h)], axis=0)}


def indrnn(x, M, p, h):
    a = M("h", x=x) + p("u") * h
    return {"h": a * (a > 0)}


def lstm(x, M, p, h, c):
    i, f, o = (sigma(M(gate, x=x, h=h)) for gate in "ifo")
    c = f * c + i * np.tanh(M("g", x=x, h=h))
    return {"h": o * np.tanh(c), "c": c}


def lstm_projected(x, M, p, h, c):
    after = lstm(x, M, p, h, c)
    return after | {"h": M("r", h=after["h"])}


def lstm_coupled(x, M, p, h, c):
    f, o = (sigma(M(gate, x=x, h=h)) for gate in "fo")
    c = f * c + (1 - f) * np.tanh(M("g", x=x, h=h))
    return {"h": o * np.tanh(c), "c": c}


def lstm_matrix(x, M, p, h, c):
    """Every gate sees the whole cell; the output gate the new one."""
    i, f = (sigma(M(gate, x=x, h=h, c=c)) for gate in "if")
    c = f * c + i * np.tanh(M("g", x=x, h=h))
    return {"h": sigma(M("o", x=x, h=h, c=c)) * np.tanh(c), "c": c}


def greff(without: str = "") -> Callable:
    """Greff et al. 2015, section 3: the vanilla LSTM with one part taken away (appendix A.3)."""

    def step(x, M, p, h, c):
        z_bar = M("g", x=x, h=h)
        z = z_bar if without == "niaf" else np.tanh(z_bar)
        f = 1 if without == "nfg" else sigma(M("f", x=x, h=h) + p("p_f") * c)
        if without == "nig":
            i = 1
        elif without == "cifg":
            i = 1 - f
        else:
            i = sigma(M("i", x=x, h=h) + p("p_i") * c)
        new = z * i + c * f
        o = 1 if without == "nog" else sigma(M("o", x=x, h=h) + p("p_o") * new)
        return {"h": (new if without == "noaf" else np.tanh(new)) * o, "c": new}

    return step


def lstm_fgr(x, M, p, h, c, i, f, o):
    gates = {"i": i, "f": f, "o": o}
    new_i = sigma(M("i", x=x, h=h, **gates) + p("p_i") * c)
    new_f = sigma(M("f", x=x, h=h, **gates) + p("p_f") * c)
    new = np.tanh(M("g", x=x, h=h)) * new_i + c * new_f
    new_o = sigma(M("o", x=x, h=h, **gates) + p("p_o") * new)
    return {"h": np.tanh(new) * new_o, "c": new, "i": new_i, "f": new_f, "o": new_o}


def gru(x, M, p, h):
    """Reset after the product, z keeps the old state (cuDNN)."""
    r, z = (sigma(M(gate, x=x, h=h)) for gate in "rz")
    n = np.tanh(M("n", x=x) + r * M("m", h=h))
    return {"h": (1 - z) * n + z * h}


def gru_cho(x, M, p, h):
    """Equations 5 to 8 of Cho et al.: z keeps the old state."""
    r, z = (sigma(M(gate, x=x, h=h)) for gate in "rz")
    return {"h": z * h + (1 - z) * np.tanh(M("n", x=x, h=r * h))}


def gru_chung(x, M, p, h):
    """Equations 5 to 8 of Chung et al.: z takes the new state."""
    r, z = (sigma(M(gate, x=x, h=h)) for gate in "rz")
    return {"h": (1 - z) * h + z * np.tanh(M("n", x=x, h=r * h))}


def mut1(x, M, p, h):
    v = x if x.shape == h.shape else M("v", x=x)
    z = sigma(M("z", x=x))
    r = sigma(M("r", x=x, h=h))
    return {"h": np.tanh(M("n", h=r * h) + np.tanh(v)) * z + h * (1 - z)}


def mut2(x, M, p, h):
    v = x if x.shape == h.shape else M("v", x=x)
    z = sigma(M("z", x=x, h=h))
    r = sigma(v + M("r", h=h))
    return {"h": np.tanh(M("n", x=x, h=r * h)) * z + h * (1 - z)}


def mut3(x, M, p, h):
    z = sigma(M("z", x=x, h=np.tanh(h)))
    r = sigma(M("r", x=x, h=h))
    return {"h": np.tanh(M("n", x=x, h=r * h)) * z + h * (1 - z)}


def highway(x, M, p, h):
    b = sigma(M("b", x=x, h=h))
    return {"h": np.tanh(M("n", x=x, h=h)) * b + h * (1 - b)}


def highway_uncoupled(x, M, p, h):
    T, C = sigma(M("b", x=x, h=h)), sigma(M("c", x=x, h=h))
    return {"h": np.maximum(M("n", x=x, h=h), 0) * T + h * C}


def residual(x, M, p, h):
    return {"h": np.maximum(M("f", x=x, h=h), 0) + h}


def residual_of_two(x, M, p, h):
    return {"h": M("g", f=np.tanh(M("f", x=x, h=h))) + h}


def rhn(x, M, p, h):
    """Equations 7 to 9 of Zilly et al., three layers deep."""
    s = h
    for layer in "123":
        seen = {"x": x, "h": s} if layer == "1" else {"h": s}
        t = sigma(M(f"b{layer}", **seen))
        s = np.tanh(M(f"n{layer}", **seen)) * t + s * (1 - t)
    return {"h": s}


def mgu(x, M, p, h):
    f = sigma(M("f", x=x, h=h))
    return {"h": (1 - f) * h + f * np.tanh(M("n", x=x, h=f * h))}


def layer_norm_rnn(x, M, p, h):
    """Equation 4 of Ba et al.; the mean and the deviation are those of all units of a."""
    a = M("h", x=x, h=h)
    return {"h": np.tanh(LN(a, p("gain_h"), p("bias_h")))}


def layer_norm_lstm(eps: float = 1e-5) -> Callable:
    """Equations 20 to 22 of Ba et al., gate by gate; our bias is the sum of their β1, β2 and b."""

    def step(x, M, p, h, c):
        def summed(gate):
            beta1 = 0.25 * p(f"bias_{gate}")
            beta2, b = 2 * beta1, beta1
            of_h = LN(M(f"u{gate}", h=h), p(f"gain_{gate}h"), beta1, eps)
            return of_h + LN(M(gate, x=x), p(f"gain_{gate}x"), beta2, eps) + b

        f, i, o, g = map(summed, "fiog")
        c = sigma(f) * c + sigma(i) * np.tanh(g)
        return {"h": sigma(o) * np.tanh(LN(c, p("gain_c"), p("bias_c"), eps)), "c": c}

    return step


def narx(x, M, p, y1, y2):
    """Equation 1 of Lin et al. 1996, with a multilayer perceptron."""
    return {"y1": M("y", h=np.tanh(M("h", x=x, y1=y1, y2=y2))), "y2": y1}


def narx_of_one_and_three(x, M, p, y1, y2, y3):
    h = np.maximum(M("h", x=x, y1=y1, y3=y3), 0)
    return {"y1": np.tanh(M("y", h=h)), "y2": y1, "y3": y2}


def delayed_rnn(x, M, p, h1, h2, h3):
    return {"h1": np.tanh(M("h", x=x, h2=h2, h3=h3)), "h2": h1, "h3": h2}


PAPERS = {
    "rnn": rnn,
    "irnn": rnn_relu,
    "rnn(activation=sigmoid)": rnn_sigmoid,
    "rnn(activation=softplus)": rnn_softplus,
    "rnn(activation=maxout)": rnn_maxout,
    "indrnn": indrnn,
    "lstm": lstm,
    "lstm(projection=true)": lstm_projected,
    "lstm(coupled=true)": lstm_coupled,
    "lstm(peepholes=matrix)": lstm_matrix,
    "lstm_peephole": greff(),
    **{f"lstm_{part}": greff(part) for part in ("cifg", "nig", "nfg", "nog", "niaf", "noaf")},
    "lstm_fgr": lstm_fgr,
    "gru": gru,
    "gru_cho": gru_cho,
    "gru_chung": gru_chung,
    "mut1": mut1,
    "mut2": mut2,
    "mut3": mut3,
    "highway": highway,
    "highway(activation=relu, coupled=false, carry_bias=1.5)": highway_uncoupled,
    "residual": residual,
    "residual(activation=tanh, products=two)": residual_of_two,
    "rhn": rhn,
    "mgu": mgu,
    "narx": narx,
    "narx(lags=1,3, activation=relu, output=tanh)": narx_of_one_and_three,
    "delayed_rnn(lags=2-3)": delayed_rnn,
    "layer_norm_rnn": layer_norm_rnn,
    "layer_norm_lstm": layer_norm_lstm(),
    "layer_norm_lstm(eps=0.125)": layer_norm_lstm(eps=0.125),
}


@pytest.mark.parametrize("D", [5, 4], ids=["D != H", "D = H"])
@pytest.mark.parametrize("name", PAPERS)
def test_a_cell_computes_what_its_paper_prints(name, D):
    case = Setting(find(name), D, 4).case(T=4, B=3)
    weights = {key: value.detach().numpy() for key, value in case.parameters.items()}
    used = set()

    def take(key):
        used.add(key)
        return weights[key]

    def M(gate, **arguments):
        bias = take(f"{gate}.bias") if f"{gate}.bias" in weights else 0
        return sum(value @ take(f"{gate}.{source}").T for source, value in arguments.items()) + bias

    state = {key: value.detach().numpy() for key, value in case.state.items()}
    outputs = []
    for x_t in case.x.detach().numpy():
        state = PAPERS[name](x_t, M, take, **state)
        outputs.append(next(iter(state.values())))
    assert used == weights.keys()

    found, final = case.scan()
    np.testing.assert_allclose(found.detach().numpy(), np.stack(outputs), rtol=0, atol=1e-13)
    for key, value in state.items():
        np.testing.assert_allclose(final[key].detach().numpy(), value, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("name", "projected"), [("mut1", True), ("mut2", True), ("mut3", False)])
def test_only_mut1_and_mut2_project_x_and_only_where_it_must(name, projected):
    cell = find(name)
    assert ("v.x" in cell.graph.parameters) == projected
    assert "v.x" not in cell.square.parameters
    assert "v.bias" not in cell.graph.parameters


def test_gains_start_at_one_and_biases_where_the_cell_says():
    for name in ("layer_norm_rnn", "layer_norm_lstm", "layer_norm_lstm(forget_bias=1.5)"):
        layer = Recurrent(find(name), 3, 4)
        vectors = {n.partition(".")[2]: v for n, v in layer.named_parameters() if v.ndim == 1}
        assert len(vectors) == (2 if name == "layer_norm_rnn" else 14)
        for key, value in vectors.items():
            start = 1.0 if "gain" in key else 1.5 if key == "bias_f" and "1.5" in name else 0.0
            assert torch.equal(value, torch.full((4,), start)), key


BIASES = {
    "rnn": ["h"],
    "rnn(activation=maxout)": ["h1", "h2"],
    "lstm": ["f", "i", "g", "o"],
    "lstm(projection=true)": ["f", "i", "g", "o"],
    "lstm_cifg": ["f", "g", "o"],
    "lstm_nig": ["f", "g", "o"],
    "lstm_nfg": ["i", "g", "o"],
    "lstm_nog": ["f", "i", "g"],
    "gru": ["r", "z", "n", "m"],
    "mgu": ["f", "n"],
}


@pytest.mark.parametrize("name", BIASES)
def test_each_gate_has_one_bias(name):
    found = [key.removesuffix(".bias") for key in find(name).parameters if key.endswith(".bias")]
    assert found == BIASES[name]
