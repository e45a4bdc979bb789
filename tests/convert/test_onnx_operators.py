"""Weights of ONNX's operators become ours and go back. The operators' formulas are written here once more."""

import numpy as np
import pytest
import torch

from cases import one_line
from unrolled import GRU, LSTM, RNN, InputError, Recurrent
from unrolled.cells import find, gru, gru_cho, gru_chung, lstm, rnn
from unrolled.convert import from_onnx_operator, to_onnx_operator

T, B, D, H = 5, 3, 4, 6


def sigma(a: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-a))


def lstm_step(X, state, W, R, Wb, Rb, P, _):
    """ONNX: Ct = ft (.) Ct-1 + it (.) ct, and Ht = ot (.) tanh(Ct); P is of i, o, f."""
    h, c = state
    i, o, f, g = np.split(X @ W.T + h @ R.T + Wb + Rb, 4, -1)
    p_i, p_o, p_f = np.split(P, 3) if P is not None else (0, 0, 0)
    c_new = sigma(f + p_f * c) * c + sigma(i + p_i * c) * np.tanh(g)
    return sigma(o + p_o * c_new) * np.tanh(c_new), c_new


def gru_step(X, state, W, R, Wb, Rb, P, linear_before_reset):
    """ONNX: Ht = (1 - zt) (.) ht + zt (.) Ht-1."""
    (h,) = state
    (Wz, Wr, Wh), (Rz, Rr, Rh) = np.split(W, 3), np.split(R, 3)
    (bz, br, bh), (cz, cr, ch) = np.split(Wb, 3), np.split(Rb, 3)
    z, r = sigma(X @ Wz.T + h @ Rz.T + bz + cz), sigma(X @ Wr.T + h @ Rr.T + br + cr)
    if linear_before_reset:
        new = np.tanh(X @ Wh.T + r * (h @ Rh.T + ch) + bh)
    else:
        new = np.tanh(X @ Wh.T + (r * h) @ Rh.T + ch + bh)
    return ((1 - z) * new + z * h,)


def rnn_step(X, state, W, R, Wb, Rb, P, _):
    return (np.tanh(X @ W.T + state[0] @ R.T + Wb + Rb),)


def operator(step, x, tensors, linear_before_reset=0):
    """(T, B, D) through one operator: (T, B, H · directions)."""
    outputs = []
    for way in range(len(tensors["W"])):
        W, R = tensors["W"][way], tensors["R"][way]
        Wb, Rb = np.split(tensors["B"][way], 2) if "B" in tensors else (np.zeros(len(W)),) * 2
        P = tensors["P"][way] if "P" in tensors else None
        state = (np.zeros((x.shape[1], R.shape[1])),) * (1 + (step is lstm_step))
        values = []
        for X in x[::-1] if way else x:
            state = step(X, state, W, R, Wb, Rb, P, linear_before_reset)
            values.append(state[0])
        outputs.append(np.stack(values[::-1] if way else values))
    return np.concatenate(outputs, -1)


def random_tensors(gates: int, peepholes: int, bias: bool, ways: int) -> list[dict[str, np.ndarray]]:
    generator = np.random.default_rng(0)

    def of(*shape: int) -> np.ndarray:
        return generator.normal(0, 0.5, shape)

    return [
        {"W": of(ways, gates * H, width), "R": of(ways, gates * H, H)}
        | ({"B": of(ways, 2 * gates * H)} if bias else {})
        | ({"P": of(ways, peepholes * H)} if peepholes else {})
        for width in (D, ways * H)
    ]


KINDS = {
    "RNN": (RNN, rnn_step, 1, 0, 0),
    "rnn": (rnn, rnn_step, 1, 0, 0),
    "LSTM": (LSTM, lstm_step, 4, 0, 0),
    "lstm": (lstm, lstm_step, 4, 0, 0),
    "lstm with peepholes": (lstm.with_options(peepholes="vector"), lstm_step, 4, 3, 0),
    "GRU": (GRU, gru_step, 3, 0, 1),
    "gru": (gru, gru_step, 3, 0, 1),
    "gru_cho": (gru_cho, gru_step, 3, 0, 0),
    "gru_chung": (gru_chung, gru_step, 3, 0, 0),
}


@pytest.mark.parametrize(("bias", "ways"), [(True, 1), (True, 2), (False, 2)])
@pytest.mark.parametrize("name", KINDS)
def test_weights_of_operators_compute_here_what_they_do_there(name, bias, ways):
    of, step, gates, peepholes, reset = KINDS[name]
    tensors = random_tensors(gates, peepholes, bias, ways)
    layer = from_onnx_operator(tensors, of)
    x = np.random.default_rng(1).normal(size=(T, B, D))
    found, expected = layer(torch.from_numpy(x))[0].detach().numpy(), x
    for each in tensors:
        expected = operator(step, expected, each, reset)
    assert np.abs(found - expected).max() <= 1e-12
    again = to_onnx_operator(layer)
    assert [list(each) for each in again] == [list(each) for each in tensors]
    once_more = to_onnx_operator(from_onnx_operator(again, of))
    for first, second, third in zip(tensors, again, once_more, strict=True):
        for key in first:
            assert np.array_equal(second[key], third[key])
            if isinstance(of, type) or key != "B":  # a Recurrent adds up biases
                assert np.array_equal(first[key], second[key])


@pytest.mark.parametrize("name", ["lstm(coupled=true)", "lstm_cifg"])
def test_coupled_gates_are_written_out(name):
    layer = Recurrent(find(name), D, H, bidirectional=True, init={"*": "normal:0.5"}, dtype=torch.float64)
    (tensors,) = to_onnx_operator(layer)
    x = torch.randn(T, B, D, dtype=torch.float64)
    assert np.abs(operator(lstm_step, x.numpy(), tensors) - layer(x)[0].detach().numpy()).max() <= 1e-12
    again = from_onnx_operator(tensors, layer.cell)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in layer.state_dict().items())


def tensors_of(cell: object = lstm, **options) -> dict[str, np.ndarray]:
    return to_onnx_operator(Recurrent(cell, 2, 3, **options))[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: to_onnx_operator(Recurrent(find("mgu"), 2, 3)), "ONNX has no layer .*'mgu'; it has rnn, "),
        (lambda: from_onnx_operator([], lstm), "tensors are W, R, B and P by name"),
        (lambda: from_onnx_operator({"W": tensors_of()["W"]}, lstm), "'R' is missing"),
        (lambda: from_onnx_operator(tensors_of() | {"Q": 1.0}, lstm), "'Q' is no weight of an operator"),
        (lambda: from_onnx_operator(tensors_of(), gru), r"\(12, 2\), but GRU of 'gru' needs \(9, 2\)"),
        (lambda: from_onnx_operator(tensors_of(), find("lstm_peephole")), r"peephole weights .* \(9,\)"),
        (lambda: from_onnx_operator(tensors_of() | {"B": np.zeros((1, 12))}, lstm), r"expected \(1, 24\)"),
        (lambda: from_onnx_operator(tensors_of() | {"W": np.zeros((12, 2))}, lstm), "three axes"),
        (
            lambda: from_onnx_operator([tensors_of(bidirectional=True), tensors_of()], lstm),
            "two directions, and another of one",
        ),
    ],
)
def test_what_onnx_has_not_is_told(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert one_line(caught.value)
