"""A stack without autograd computes what it computes with it."""

import pytest
import torch

from unrolled import LSTM, InputError, Recurrent, cells
from unrolled.nn.direct import DirectStack
from unrolled.train.flat import flatten

CELLS = (cells.rnn, cells.lstm, cells.gru_cho, cells.indrnn, cells.layer_norm_rnn)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_outputs_states_and_gradients_are_those_of_autograd(cell, layers: int, bias: bool) -> None:
    stack = Recurrent(cell, 9, 21, layers, bias=bias, dtype=torch.float64)
    whole = flatten(stack)
    direct = DirectStack(stack, 6, 4)
    state = {name: torch.randn_like(value) for name, value in stack.initial_state(4).items()}
    for given in (None, state, state):
        tokens, d_y = torch.randint(9, (6, 4)), torch.randn(6, 4, 21, dtype=torch.float64)
        whole.grad.zero_()
        y, after = stack(tokens, given)
        y.backward(d_y)
        expected = whole.grad.clone()
        whole.grad.zero_()
        direct.x.copy_(tokens)
        found = direct.forward(given)
        assert torch.equal(direct.y, y)
        assert all(torch.equal(found[name], value) for name, value in after.items())
        direct.d_y.copy_(d_y)
        direct.backward()
        assert torch.equal(whole.grad, expected)


def test_the_state_handed_out_is_not_touched_by_the_next_pass() -> None:
    stack = Recurrent(cells.lstm, 5, 7)
    flatten(stack)
    direct = DirectStack(stack, 3, 2)
    first = direct.forward(None)
    kept = {name: value.clone() for name, value in first.items()}
    direct.forward(first)
    assert all(torch.equal(first[name], value) for name, value in kept.items())


def test_a_token_that_is_none_is_refused_and_the_next_pass_is_right() -> None:
    stack = Recurrent(cells.rnn, 5, 7)
    flatten(stack)
    direct = DirectStack(stack, 3, 2)
    direct.x.fill_(5)
    with pytest.raises(InputError, match="token numbers go from 0 to 4"):
        direct.forward(None)
    direct.x.fill_(4)
    direct.forward(None)
    assert torch.equal(direct.y, stack(torch.full((3, 2), 4))[0])


def test_what_cannot_be_run_this_way_is_said() -> None:
    assert DirectStack.why_not(Recurrent(cells.lstm, 5, 7, 2, dropout=0.5)) == "it drops values at random"
    assert DirectStack.why_not(Recurrent(cells.lstm, 5, 7, dropout=0.5)) is None
    assert DirectStack.why_not(LSTM(5, 7, bidirectional=True)) == "it reads in both directions"
    assert DirectStack.why_not(LSTM(5, 7, backend="reference")) == "it runs the reference"
    assert DirectStack.why_not(Recurrent(cells.lstm, 5, 7, dtype=torch.bfloat16)).startswith("it computes in")
    assert DirectStack.why_not(Recurrent(cells.mut1, 7, 7)) == "it needs the one-hot vectors themselves"


def test_flat_parameters_are_the_same_objects_and_values() -> None:
    stack = Recurrent(cells.lstm, 5, 7)
    before = {name: (p, p.detach().clone()) for name, p in stack.named_parameters()}
    whole = flatten(stack)
    assert whole.numel() == sum(p.numel() for p, _ in before.values())
    with torch.no_grad():
        whole += 1
        whole.grad += 2
    for name, p in stack.named_parameters():
        assert p is before[name][0]
        assert torch.equal(p.detach(), before[name][1] + 1)
        assert torch.equal(p.grad, torch.full_like(p, 2))
