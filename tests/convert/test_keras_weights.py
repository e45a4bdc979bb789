"""Weights of Keras's layers become ours and go back: the same outputs as Keras itself gives."""

from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
import torch

from cases import one_line
from unrolled import GRU, LSTM, RNN, InputError, Recurrent
from unrolled.cells import find, gru, gru_cho, gru_chung, lstm, rnn
from unrolled.convert import from_keras, to_keras

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

T, B, D, H = 5, 3, 4, 6


@pytest.fixture(scope="module")
def keras(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """Keras, on torch, with its configuration in a folder of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "torch")
        patch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))
        yield pytest.importorskip("keras")


def tolerance(there: str, options: object) -> float:
    """Keras on torch multiplies matrices in float32, whatever they are, where no layer of torch does it."""
    return 2e-6 if "SimpleRNN" in there or options else 1e-12


KINDS = {
    "SimpleRNN": (RNN, {}, {}),
    "SimpleRNN of a cell": (rnn, {}, {}),
    "SimpleRNN relu": (RNN, {"activation": "relu"}, {"nonlinearity": "relu"}),
    "SimpleRNN softplus": (rnn.with_options(activation="softplus"), {"activation": "softplus"}, {}),
    "LSTM": (LSTM, {}, {}),
    "LSTM of a cell": (lstm.with_options(forget_bias=1.0), {}, {}),
    "GRU": (GRU, {}, {}),
    "GRU of a cell": (gru, {}, {}),
    "GRU reset before": (gru_cho, {"reset_after": False}, {}),
}


def keras_layers(keras: ModuleType, name: str, bias: bool, both: bool, count: int = 1, **options) -> list:
    """Layers of Keras with random weights, biases among them, that have been run once."""
    generator = np.random.default_rng(0)
    layers = []
    for k in range(count):
        make = getattr(keras.layers, name.split()[0])
        layer = make(H, return_sequences=True, use_bias=bias, dtype="float64", **options)
        layer = keras.layers.Bidirectional(layer, dtype="float64") if both else layer
        layer(np.zeros((1, 1, D if not k else H * (1 + both))))
        layer.set_weights([generator.normal(0, 0.5, array.shape) for array in layer.get_weights()])
        layers.append(layer)
    return layers


def keras_outputs(layers: list, x: np.ndarray) -> torch.Tensor:
    value = x
    for layer in layers:
        value = layer(value)
    return value.detach()


every_kind = pytest.mark.parametrize("name", KINDS)


@pytest.mark.parametrize(("bias", "both", "count"), [(True, False, 1), (True, True, 2), (False, True, 1)])
@every_kind
def test_weights_of_keras_compute_here_what_they_do_there(keras, name, bias, both, count):
    of, options, settings = KINDS[name]
    theirs = keras_layers(keras, name, bias, both, count, **options)
    weights = [layer.get_weights() for layer in theirs]
    ours = from_keras(weights if count > 1 else weights[0], of, **settings)
    assert (ours.num_layers, ours.bidirectional, ours.bias, ours.batch_first) == (count, both, bias, True)
    x = np.random.default_rng(1).normal(size=(B, T, D))
    expected = keras_outputs(theirs, x)
    error = float((ours(torch.from_numpy(x))[0] - expected).detach().abs().max())
    assert error <= tolerance(name, options)
    for layer, arrays in zip(theirs, to_keras(ours), strict=True):
        before = layer.get_weights()
        layer.set_weights(arrays)
        if isinstance(of, type) or not of.name.startswith("gru") or of is gru_cho:
            assert all(np.array_equal(a, b) for a, b in zip(before, arrays, strict=True))
    assert float((keras_outputs(theirs, x) - expected).abs().max()) <= tolerance(name, options)


@pytest.mark.parametrize(
    ("name", "there", "options"),
    [
        ("rnn", "SimpleRNN", {}),
        ("rnn(activation=sigmoid)", "SimpleRNN", {"activation": "sigmoid"}),
        ("lstm(forget_bias=2)", "LSTM", {}),
        ("lstm(coupled=true)", "LSTM", {}),
        ("gru", "GRU", {}),
        ("gru_cho", "GRU", {"reset_after": False}),
        ("gru_chung", "GRU", {"reset_after": False}),
    ],
)
def test_a_cell_computes_in_keras_what_it_does_here(keras, name, there, options):
    ours = Recurrent(
        find(name),
        D,
        H,
        2,
        bidirectional=True,
        batch_first=True,
        init={"*": "normal:0.5"},
        dtype=torch.float64,
    )
    theirs = keras_layers(keras, there, True, True, 2, **options)
    for layer, arrays in zip(theirs, to_keras(ours), strict=True):
        layer.set_weights(arrays)
    x = torch.randn(B, T, D, dtype=torch.float64)
    error = float((keras_outputs(theirs, x.numpy()) - ours(x)[0]).detach().abs().max())
    assert error <= tolerance(there, options)
    again = from_keras(to_keras(ours), ours.cell)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in ours.state_dict().items())


def arrays_of(cell: object = gru, **options) -> list[np.ndarray]:
    return to_keras(Recurrent(cell, 2, 3, **options))[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: to_keras(Recurrent(find("lstm_peephole"), 2, 3)), "Keras has no layer .*; it has rnn, "),
        (lambda: to_keras(3), "a int is no layer of unrolled"),
        (lambda: from_keras(arrays_of(), "gru"), "not 'gru'"),
        (lambda: from_keras([], gru), "weights are a list of arrays"),
        (lambda: from_keras(arrays_of()[:1], gru), "2 arrays or 3 with a bias, .*; got 1"),
        (lambda: from_keras([arrays_of(), arrays_of()[:2]], gru), "got 3, 2"),
        (lambda: from_keras(arrays_of(), gru_cho), r"a bias of shape \(2, 9\) is not that of 'gru_cho'"),
        (lambda: from_keras(arrays_of(gru_cho), GRU), r"a bias of shape \(9,\) is not that of 'gru'"),
        (
            lambda: from_keras(arrays_of(), lstm),
            r"the x weights of l0 have shape \(9, 2\), .* needs \(12, 2\)",
        ),
        (
            lambda: from_keras([arrays_of(), arrays_of()], gru),
            r"x weights of l1 have shape \(9, 2\), .* \(9, 3\)",
        ),
        (lambda: from_keras([a.astype(int) for a in arrays_of()], gru), "float32 or float64, got int64"),
        (lambda: from_keras([a[0] for a in arrays_of()], gru), "two axes"),
        (
            lambda: from_keras(arrays_of(lstm, init={"*": "normal:1"}), find("lstm(coupled=true)")),
            "the input gate is 1 - f, but here it has weights of its own",
        ),
        (lambda: from_keras(arrays_of(gru_chung), find("mut1")), "Keras has no layer"),
    ],
)
def test_what_keras_has_not_is_told(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert one_line(caught.value)
