"""A part of what a layer was called with gives what that part gives alone."""

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

from unrolled import GRU, Recurrent
from unrolled.flow.replay import given, signed
from unrolled.flow.trace import usual_losses


def calls():
    """Kinds of calls: of a layer, what it is given, and the same of rows 0 and 1 and steps 0 to 3, alone."""
    draw = torch.Generator().manual_seed(0)
    x, h = torch.randn(6, 3, 4, generator=draw), torch.randn(1, 3, 5, generator=draw)
    tokens, lengths = torch.randint(4, (6, 3), generator=draw), [6, 2, 4]
    resets = torch.rand(6, 3, generator=draw) < 0.3
    cut, near = (slice(0, 4), slice(0, 2)), (slice(None), slice(0, 2))
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    sequences = [x[:n, b] for b, n in enumerate(lengths)]
    yield "floats", {}, (x,), {}, x[cut], None, {}
    yield "tokens", {}, (tokens,), {}, tokens[cut], None, {}
    yield "state", {}, (x, h), {}, x[cut], h[near], {}
    yield "by name", {}, (), {"input": x, "hx": h}, x[cut], h[near], {}
    yield "lengths", {}, (x,), {"lengths": lengths}, x[cut], None, {"lengths": [4, 2]}
    given_lengths = {"lengths": torch.tensor(lengths)}
    yield "tensor of lengths", {}, (x,), given_lengths, x[cut], None, {"lengths": [4, 2]}
    yield "resets", {}, (x,), {"resets": resets}, x[cut], None, {"resets": resets[cut]}
    first = {"batch_first": True}
    turned = resets.t()
    yield (
        "batch first",
        first,
        (x.transpose(0, 1), h),
        {"resets": turned},
        x[cut],
        h[near],
        {"resets": resets[cut]},
    )
    yield "packed", {}, (packed, h), {}, pad_sequence(sequences)[cut], h[near], {"lengths": [4, 2]}
    yield "no batch", {}, (x[:, 0], h[:, 0]), {}, x[:4, :1], h[:, :1], {}
    yield "no batch, tokens", {}, (tokens[:, 0],), {}, tokens[:4, :1], None, {}
    yield "half precision", {}, (x.bfloat16(),), {}, x.bfloat16().float()[cut], None, {}


@pytest.mark.parametrize("call", list(calls()), ids=lambda call: call[0])
def test_some_rows_and_steps_of_a_call_are_what_they_are_alone(call):
    _, options, args, kwargs, x, h, alone = call
    layer = GRU(4, 5, **options).eval()
    found = signed(layer, given(layer, (args, kwargs), 2, 4))
    plain = GRU(4, 5).eval()
    plain.load_state_dict(layer.state_dict())
    expected = usual_losses(lambda x: plain(x, h, **alone), x)
    torch.testing.assert_close(found, expected)


def test_a_cell_of_states_by_name():
    layer = Recurrent("lstm", 4, 5).eval()
    x, state = torch.randn(6, 3, 4), {"h": torch.randn(1, 3, 5), "c": torch.randn(1, 3, 5)}
    found = given(layer, ((x,), {"state": state}), 2, 4)
    assert {name: value.shape for name, value in found.state.items()} == {"h": (1, 2, 5), "c": (1, 2, 5)}
    torch.testing.assert_close(signed(layer, found), usual_losses(lambda x: layer(x, state), x)[:4, :2])
