"""Layers become torch's modules and back: the same outputs and states, and the same weights bit for bit."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from cases import one_line
from unrolled import GRU, InputError, Recurrent
from unrolled.cells import find, gru, gru_cho, lstm
from unrolled.convert import from_torch, to_torch

T, B, D, H = 5, 3, 4, 6

MODULES = [
    (kind, {"num_layers": layers, "bidirectional": both, "bias": bias, "batch_first": layers == 2, **own})
    for kind, own in (
        (nn.RNN, {"nonlinearity": "tanh"}),
        (nn.RNN, {"nonlinearity": "relu"}),
        (nn.GRU, {}),
        (nn.LSTM, {}),
        (nn.LSTM, {"proj_size": 2}),
    )
    for layers, both, bias in itertools.product((1, 2), (False, True), (True, False))
]

every_module = pytest.mark.parametrize(
    ("kind", "options"),
    MODULES,
    ids=lambda v: v.__name__ if isinstance(v, type) else " ".join(map(str, v.values())),
)


def results(layer: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """The outputs and the final states."""
    y, end = layer(x)
    return [y, *(end.values() if isinstance(end, dict) else end if isinstance(end, tuple) else [end])]


def assert_close(found: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float = 1e-12) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert float((one - other).detach().abs().max()) <= tolerance


@every_module
def test_a_module_of_torch_comes_and_goes(kind, options):
    module = kind(D, H, **options, dropout=0.5 * (options["num_layers"] > 1), dtype=torch.float64).eval()
    x = torch.randn(B, T, D, dtype=torch.float64)
    layer = from_torch(module)
    assert_close(results(layer, x), results(module, x))
    again = to_torch(layer)
    assert type(again) is kind
    assert not again.training
    assert str(again) == str(module)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in module.state_dict().items())


CELLS = {
    "rnn": "RNN_TANH", "rnn(activation=relu)": "RNN_RELU", "lstm": "LSTM", "lstm(forget_bias=1)": "LSTM",
    "lstm(projection=true)": "LSTM", "lstm(coupled=true)": "LSTM", "gru": "GRU",
}  # fmt: skip


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", CELLS)
def test_any_cell_that_torch_has_comes_and_goes(name, bias):
    cell = find(name)
    hidden = {"h": 3, "c": H} if "projection" in name else H
    layer = Recurrent(
        cell, D, hidden, 2, bias=bias, bidirectional=True, init={"*": "normal:0.5"}, dtype=torch.float64
    )
    x = torch.randn(T, B, D, dtype=torch.float64)
    module = to_torch(layer)
    assert module.mode == CELLS[name]
    assert_close(results(module, x), results(layer, x))
    if "coupled" in name:
        return  # torch's LSTM is of the other kind now
    again = from_torch(module, cell)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in layer.state_dict().items())


def test_two_biases_of_torch_are_one_of_ours():
    module = nn.LSTM(D, H, dtype=torch.float64)
    layer = from_torch(module, lstm.with_options(forget_bias=1.0))
    assert torch.equal(layer.l0.f.bias, (module.bias_ih_l0 + module.bias_hh_l0)[H : 2 * H])
    x = torch.randn(T, B, D, dtype=torch.float64)
    assert_close(results(layer, x), results(module, x))


def test_parametrised_weights_are_taken_as_they_are():
    x = torch.randn(T, B, D, dtype=torch.float64)
    theirs, ours = (weight_norm(kind(D, H, dtype=torch.float64), "weight_hh_l0") for kind in (nn.GRU, GRU))
    assert_close(results(from_torch(theirs), x), results(theirs, x))
    assert_close(results(to_torch(ours), x), results(ours, x))


def test_dtype_and_mode_are_kept():
    for dtype, training in ((torch.float32, True), (torch.float64, False)):
        layer = from_torch(nn.GRU(D, H, 2, dropout=0.25, dtype=dtype).train(training))
        assert (layer.dtype, layer.training, layer.dropout) == (dtype, training, 0.25)
        assert next(to_torch(layer).parameters()).dtype == dtype


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: from_torch(nn.Linear(2, 2)), r"a Linear is no torch\.nn\.RNN, LSTM or GRU"),
        (
            lambda: from_torch(nn.GRU(2, 2), gru_cho),
            "'gru_cho' does not compute what this GRU .*'gru' does",
        ),
        (
            lambda: from_torch(nn.RNN(2, 2, nonlinearity="relu"), find("rnn")),
            r"'rnn\(activation=relu\)' does",
        ),
        (lambda: from_torch(nn.LSTM(2, 2), gru), "'lstm' does"),
        (lambda: to_torch(Recurrent(gru_cho, 2, 2)), r"torch\.nn has no layer .*'gru_cho'; it has rnn, "),
        (lambda: to_torch(Recurrent(find("lstm_peephole"), 2, 2)), r"torch\.nn has no layer"),
        (lambda: to_torch(Recurrent(find("rnn(activation=sigmoid)"), 2, 2)), r"torch\.nn has no layer"),
        (
            lambda: to_torch(Recurrent(find("lstm(projection=true)"), 2, {"h": 3, "c": 3})),
            "to fewer values than it has units, not 3 to 3",
        ),
        (
            lambda: to_torch(GRU(2, 2, 2, batch_norm=True)),
            r"torch\.nn has no recurrent layer with batch_norm",
        ),
        (
            lambda: to_torch(GRU(2, 2, zoneout=0.5)),
            r"torch\.nn has no layer .*'gru with expected zoneout of h'",
        ),
        (lambda: to_torch(nn.GRU(2, 2)), "a GRU is no layer of unrolled"),
    ],
)
def test_what_torch_has_not_is_told(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert one_line(caught.value)
