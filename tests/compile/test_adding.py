"""Gradients of parameters may be added to what is there."""

import pytest
import torch

from cases import assert_same
from unrolled import GRU, LSTM, RNN, Recurrent
from unrolled.cells import CELLS
from unrolled.compile.recurrence import adding
from unrolled.nn.stack import RecurrentStack

D, H = 5, 9
LAYERS = {name: lambda name=name: Recurrent(name, D, H, dtype=torch.float64) for name in CELLS}
LAYERS |= {
    "LSTM": lambda: LSTM(D, H, 2, bidirectional=True, dtype=torch.float64),
    "GRU without biases": lambda: GRU(D, H, bias=False, dtype=torch.float64),
    "RNN of a width of its own": lambda: RNN(D, 17, 2, dtype=torch.float64),
}


@pytest.mark.parametrize("kind", ["floats", "tokens", "lengths", "two workers"])
@pytest.mark.parametrize("name", LAYERS)
def test_what_is_added_is_what_would_be_handed_on(name: str, kind: str) -> None:
    torch.manual_seed(0)
    layer: RecurrentStack = LAYERS[name]()
    T, B = 70, 9  # several chunks of rows
    x = torch.randint(D, (T, B)) if kind == "tokens" else torch.randn(T, B, D, dtype=torch.float64)
    lengths = torch.randint(T + 1, (B,)) if kind == "lengths" else None
    threads = torch.get_num_threads()
    torch.set_num_threads(2 if kind == "two workers" else 1)
    try:
        y, end = layer(x, lengths=lengths)
        ends = end.values() if isinstance(end, dict) else end if isinstance(end, tuple) else (end,)
        loss = y.square().sum() + sum(e.sum() for e in ends)
        parameters = dict(layer.named_parameters())
        usual = torch.autograd.grad(loss, parameters.values(), retain_graph=True, allow_unused=True)
        there = {id(p): torch.randn_like(p) for p in parameters.values()}
        before = {key: value.clone() for key, value in there.items()}
        with adding(lambda tensor: there.get(id(tensor))):
            rest = torch.autograd.grad(loss, parameters.values(), allow_unused=True)
    finally:
        torch.set_num_threads(threads)
    added = 0
    for (key, p), d, other in zip(parameters.items(), usual, rest, strict=True):
        here = there[id(p)] - before[id(p)]
        if d is None:
            continue
        added += other is None
        assert_same({key: here if other is None else other}, {key: d}, 1e-11)
        assert other is None or not here.any()
    assert added or name not in ("lstm", "gru", "LSTM", "layer_norm_lstm")
