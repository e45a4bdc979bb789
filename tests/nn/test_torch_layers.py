"""`RNN`, `LSTM` and `GRU` against `torch.nn`, weights exchanged both ways."""

import copy
import itertools
import pickle

import pytest
import torch
from torch import nn

import unrolled
from cases import assert_same, gradients, one_line, random
from unrolled import InputError

ROUNDING = 1e-12

KINDS = {
    "RNN": {},
    "RNN relu": {"nonlinearity": "relu"},
    "GRU": {},
    "LSTM": {},
    "LSTM proj": {"proj_size": 2},
}
STACKS = [
    {"num_layers": layers, "bidirectional": both, "batch_first": first, "bias": bias}
    for layers, both, first, bias in itertools.product([1, 2], [False, True], [False, True], [True, False])
]

each_kind = pytest.mark.parametrize("kind", KINDS)
each_stack = pytest.mark.parametrize(
    "stack",
    STACKS,
    ids=lambda s: f"{s['num_layers']} layers" + "".join(f" {k}" for k, v in s.items() if v is True),
)


def pair(kind: str, D: int = 3, H: int = 4, **options):
    """The same layer of this library and of torch, in float64."""
    name, options = kind.split()[0], KINDS[kind] | options
    ours = getattr(unrolled, name)(D, H, dtype=torch.float64, **options)
    theirs = getattr(nn, name)(D, H, dtype=torch.float64, **options)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(0, 0.6)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def start_of(layer: nn.Module, *batch: int) -> dict[str, torch.Tensor]:
    rows = layer.num_layers * (1 + layer.bidirectional)
    sizes = {"h": layer.proj_size or layer.hidden_size, "c": layer.hidden_size}
    if not isinstance(layer, nn.LSTM):
        del sizes["c"]
    return {name: random(rows, *batch, size) for name, size in sizes.items()}


def results_of(layer: nn.Module, x: torch.Tensor, state: dict[str, torch.Tensor] | None = None):
    """Outputs, final states and every gradient by name."""
    given = () if state is None else (tuple(state.values()) if len(state) == 2 else state["h"],)
    output, end = layer(x, *given)
    found = {"output": output} | dict(zip("hc", end if isinstance(end, tuple) else (end,), strict=False))
    leaves = {"x": x, **(state or {}), **dict(layer.named_parameters())}
    return found | gradients(found, leaves)


@each_kind
@each_stack
def test_outputs_states_and_gradients_equal_torch(kind, stack):
    ours, theirs = pair(kind, **stack)
    x = random(3, 6, 3)
    state = start_of(theirs, 3 if stack["batch_first"] else 6)
    assert_same(results_of(ours, x, state), results_of(theirs, x, state), ROUNDING)
    assert_same(results_of(ours, x), results_of(theirs, x), ROUNDING)


@each_kind
@pytest.mark.parametrize("batch_first", [False, True])
def test_without_a_batch_equals_torch(kind, batch_first):
    ours, theirs = pair(kind, num_layers=2, bidirectional=True, batch_first=batch_first)
    x, state = random(5, 3), start_of(theirs)
    assert_same(results_of(ours, x, state), results_of(theirs, x, state), ROUNDING)
    assert_same(results_of(ours, x), results_of(theirs, x), ROUNDING)


@each_kind
@pytest.mark.parametrize(("T", "B", "D", "H"), [(1, 1, 1, 3), (7, 1, 13, 3), (1, 5, 4, 5)])
def test_sizes_of_one_and_odd_sizes_equal_torch(kind, T, B, D, H):
    ours, theirs = pair(kind, D, H)
    x = random(T, B, D)
    assert_same(results_of(ours, x), results_of(theirs, x), ROUNDING)


@each_kind
@each_stack
def test_a_state_dict_goes_either_way(kind, stack):
    ours, theirs = pair(kind, **stack)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_()
    theirs.load_state_dict(ours.state_dict())
    x = random(4, 4, 3)
    assert_same(results_of(ours, x), results_of(theirs, x), ROUNDING)


@each_kind
@each_stack
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_initial_values_equal_torch_bit_for_bit(kind, stack, dtype):
    name, options = kind.split()[0], KINDS[kind] | stack
    torch.manual_seed(5)
    ours = getattr(unrolled, name)(3, 4, dtype=dtype, **options)
    torch.manual_seed(5)
    theirs = getattr(nn, name)(3, 4, dtype=dtype, **options)
    assert_same(ours.state_dict(), theirs.state_dict())
    torch.manual_seed(5)
    ours.reset_parameters()
    assert_same(ours.state_dict(), theirs.state_dict())


@each_kind
def test_arguments_by_position_are_torchs(kind):
    given = (
        (3, 4, 2, "relu", False, True, 0.25, True) if "RNN" in kind else (3, 4, 2, False, True, 0.25, True)
    )
    given = (*given, 2) if "proj" in kind else given
    name = kind.split()[0]
    ours, theirs = getattr(unrolled, name)(*given), getattr(nn, name)(*given)
    for attribute in ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout",
                      "bidirectional", "proj_size"):  # fmt: skip
        assert getattr(ours, attribute) == getattr(theirs, attribute), attribute
    assert list(ours.state_dict()) == list(theirs.state_dict())


@each_kind
def test_tokens_are_one_hot_vectors(kind):
    ours, theirs = pair(kind, 5, num_layers=2, bidirectional=True)
    tokens = torch.tensor([[0, 4], [1, 1], [2, 0]])
    x = nn.functional.one_hot(tokens, 5).double()
    found, end = ours(tokens)
    expected, expected_end = theirs(x)
    assert_same({"output": found}, {"output": expected}, ROUNDING)
    leaves = dict(ours.named_parameters())
    torchs = dict(theirs.named_parameters())
    assert_same(gradients({"y": found}, leaves), gradients({"y": expected}, torchs), ROUNDING)
    for a, b in zip(end, expected_end, strict=True):
        assert_same({"end": a}, {"end": b}, ROUNDING)
    alone, _ = ours(tokens[:, 0])
    assert_same({"output": alone}, {"output": expected[:, 0]}, ROUNDING)


@each_kind
def test_dropout_between_layers_is_torchs_and_only_in_training(kind):
    ours, theirs = pair(kind, num_layers=3, bidirectional=True, dropout=0.5)
    still, _ = pair(kind, num_layers=3, bidirectional=True)
    still.load_state_dict(ours.state_dict())
    x = random(4, 2, 3)
    results = []
    for layer in (ours, theirs):
        torch.manual_seed(3)
        results.append(results_of(layer.train(), x))
    assert_same(*results, ROUNDING)
    assert not torch.equal(results[0]["output"], still(x)[0])
    assert_same(results_of(ours.eval(), x), results_of(still, x))


@each_kind
def test_pickling_and_copying_keep_a_layer(kind):
    layer, _ = pair(kind, num_layers=2, bidirectional=True)
    x = random(4, 2, 3)
    expected = results_of(layer, x)
    for kept in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert repr(kept) == repr(layer)
        assert_same(results_of(kept, x), expected)


@each_kind
def test_the_state_passed_on_joins_parts(kind):
    layer, _ = pair(kind, num_layers=2, batch_first=True)
    x = random(2, 7, 3)
    whole, end = layer(x)
    first, state = layer(x[:, :3])
    second, last = layer(x[:, 3:], state)
    assert_same({"output": torch.cat([first, second], 1)}, {"output": whole}, ROUNDING)
    for a, b in zip(last, end, strict=True):
        assert_same({"state": a}, {"state": b}, ROUNDING)


def test_a_layer_prints_its_arguments():
    assert repr(unrolled.GRU(3, 4)) == "GRU(3, 4)"
    assert repr(unrolled.RNN(3, 4, bias=False)) == "RNN(3, 4, bias=False)"
    layer = unrolled.LSTM(3, 4, 2, batch_first=True, dropout=0.5, bidirectional=True, proj_size=2)
    assert repr(layer) == (
        "LSTM(3, 4, proj_size=2, num_layers=2, batch_first=True, dropout=0.5, bidirectional=True)"
    )


WRONG_ARGUMENTS = {
    "nonlinearity": (
        lambda: unrolled.RNN(3, 4, nonlinearity="sin"),
        ["nonlinearity", "tanh", "relu", "'sin'"],
    ),
    "too wide a projection": (lambda: unrolled.LSTM(3, 4, proj_size=4), ["proj_size", "0", "got 4"]),
    "negative projection": (lambda: unrolled.LSTM(3, 4, proj_size=-1), ["proj_size", "got -1"]),
    "projection of an RNN": (lambda: unrolled.RNN(3, 4, proj_size=2), ["proj_size", "LSTM"]),
    "projection of a GRU": (lambda: unrolled.GRU(3, 4, proj_size=2), ["proj_size", "LSTM"]),
    "no hidden size": (lambda: unrolled.GRU(3, 0), ["hidden_size", "at least 1", "got 0"]),
    "no hidden size of an LSTM": (lambda: unrolled.LSTM(3, 0), ["hidden_size", "at least 1", "got 0"]),
    "no layers": (lambda: unrolled.GRU(3, 4, 0), ["num_layers", "at least 1", "got 0"]),
    "input size": (lambda: unrolled.GRU(3.0, 4), ["input_size", "whole number", "got 3.0"]),
    "dropout": (lambda: unrolled.LSTM(3, 4, 2, dropout=1.5), ["dropout", "between 0 and 1", "got 1.5"]),
    "not a pair": (lambda: unrolled.LSTM(3, 4)(torch.ones(2, 1, 3), torch.ones(1, 1, 4)), ["pair (h, c)"]),
    "a mapping": (
        lambda: unrolled.LSTM(3, 4)(
            torch.ones(2, 1, 3), {"h": torch.ones(1, 1, 4), "c": torch.ones(1, 1, 4)}
        ),
        ["pair (h, c)"],
    ),
    "three states": (
        lambda: unrolled.LSTM(3, 4)(torch.ones(2, 1, 3), (torch.ones(1, 1, 4),) * 3),
        ["pair (h, c)"],
    ),
    "c of another width": (
        lambda: unrolled.LSTM(3, 4)(torch.ones(2, 1, 3), (torch.ones(1, 1, 4), torch.ones(1, 1, 5))),
        ["'c'", "(1, 1, 5)", "(1, 1, 4)"],
    ),
    "the pair of an LSTM": (
        lambda: unrolled.GRU(3, 4)(torch.ones(2, 1, 3), (torch.ones(1, 1, 4),) * 2),
        ["'h'", "tuple", "tensor"],
    ),
}


@pytest.mark.parametrize("name", WRONG_ARGUMENTS)
def test_a_wrong_argument_is_named(name):
    call, expected = WRONG_ARGUMENTS[name]
    with pytest.raises(InputError) as caught:
        call()
    for part in expected:
        assert part in one_line(caught.value)
