"""A layer's gradient through time is that of the whole sequence at once, or what truncation says."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from cases import assert_same, one_line
from unrolled import GRU, LSTM, RNN, Checkpointed, Full, InputError, Recurrent, Truncated
from unrolled.nn.stack import RecurrentStack
from unrolled.unroll.policies import Policy

T, B, D, H = 23, 3, 4, 5

LAYERS: dict[str, Callable[..., RecurrentStack]] = {
    "LSTM": lambda **k: LSTM(D, H, 2, dropout=0.3, **k),
    "LSTM, both ways": lambda **k: LSTM(
        D, H, 2, bidirectional=True, dropout=0.3, weight_dropout=0.2, zoneout=0.1, **k
    ),
    "GRU, variational": lambda **k: GRU(
        D, H, 2, zoneout=0.2, dropout=0.4, variational=True, recurrent_dropout=0.2, **k
    ),
    "mut1, learned start": lambda **k: Recurrent("mut1", D, H, norm="rms", learn_initial=True, **k),
    "reference": lambda **k: Recurrent("gru_cho", D, H, weight_dropout=0.3, backend="reference", **k),
    "batch norm": lambda **k: RNN(D, H, 2, batch_norm=True, **k),
}
layers = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)

POLICIES: dict[str, Policy] = {
    "every": Checkpointed(every=1),
    "every five": Checkpointed(every=5),
    "much": Checkpointed(memory="1GB"),
    "little": Checkpointed(memory="60KB"),
    "nothing cut off": Truncated(T, T),
}
policies = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)


def layer_of(make: Callable[..., RecurrentStack], dtype: torch.dtype = torch.float64) -> RecurrentStack:
    torch.manual_seed(1)
    return make(dtype=dtype)


def given(layer: RecurrentStack) -> tuple[Tensor, Any]:
    """An input and a state, both of which learn."""
    torch.manual_seed(2)
    x = torch.randn(T, B, D, dtype=layer.dtype)
    with torch.no_grad():
        state = layer(x[:1])[1]
    learning = torch.utils._pytree.tree_map(lambda t: torch.randn_like(t).requires_grad_(), state)
    return x.requires_grad_(), learning


def taught(layer: RecurrentStack, policy: Policy, **options: Any) -> dict[str, Tensor]:
    """What comes out, and the gradients of everything from everything."""
    x, state = given(layer)
    torch.manual_seed(3)
    y, end, *steps = layer(x, state, bptt=policy, **options)
    ends = torch.utils._pytree.tree_leaves((end, steps))
    parts = [y, *ends]
    loss = sum((t * torch.linspace(-1, 2, t.numel(), dtype=t.dtype).view(t.shape)).sum() for t in parts)
    layer.zero_grad()
    loss.backward()
    found = {f"out {k}": t.detach() for k, t in enumerate(parts)} | {"d x": x.grad}
    found |= {f"d {name}": p.grad for name, p in layer.named_parameters() if p.grad is not None}
    return found | {f"d start {k}": t.grad for k, t in enumerate(torch.utils._pytree.tree_leaves(state))}


@policies
@layers
def test_gradients_are_those_of_the_whole(make: Callable, policy: Policy) -> None:
    expected = taught(layer_of(make), Full())
    after = torch.rand(3)
    assert_same(taught(layer_of(make), policy), expected, 1e-12)
    assert torch.equal(torch.rand(3), after)


@pytest.mark.parametrize("policy", [Checkpointed(every=4), Checkpointed(memory="60KB"), Truncated(T, T)])
@layers
def test_with_lengths_and_resets(make: Callable, policy: Policy) -> None:
    options = {
        "lengths": torch.tensor([9, T, 0]),
        "resets": torch.rand(T, B, generator=torch.Generator().manual_seed(7)) < 0.1,
        "return_states": True,
        "return_gates": True,
    }
    expected = taught(layer_of(make), Full(), **options)
    assert_same(taught(layer_of(make), policy, **options), expected, 1e-12)


@layers
def test_in_single_precision_and_in_evaluation(make: Callable) -> None:
    for training in (True, False):
        expected = taught(layer_of(make, torch.float32).train(training), Full())
        found = taught(layer_of(make, torch.float32).train(training), Checkpointed(every=6))
        assert_same(found, expected, 1e-5)


@pytest.mark.parametrize(("k1", "k2"), [(1, 1), (5, 5), (4, 9), (9, 4), (7, 100), (3, 7), (23, 10)])
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "both ways"])
def test_truncation_by_its_definition(k1: int, k2: int, reverse: bool) -> None:
    """Each output once, from its window's end, through at most k2 steps; in every direction for itself."""
    torch.manual_seed(1)
    layer = Recurrent("gru", D, H, bidirectional=reverse, dtype=torch.float64)
    x, _ = given(layer)
    up = torch.randn(T, B, H * (1 + reverse), dtype=torch.float64)
    y, _ = layer(x, bptt=Truncated(k1, k2))
    y.backward(up)
    found = {name: p.grad for name, p in layer.named_parameters()} | {"x": x.grad}
    expected = {name: torch.zeros_like(p) for name, p in layer.named_parameters()}
    expected["x"] = torch.zeros_like(x)
    for way in range(1 + reverse):
        one = Recurrent("gru", D, H, dtype=torch.float64)
        suffix = ("l0", "l0_reverse")[way]
        one.load_state_dict(
            {
                n.replace(suffix + ".", "l0."): p
                for n, p in layer.state_dict().items()
                if n.startswith(suffix + ".")
            }
        )
        turned = x.detach().flip(0) if way else x.detach()
        seeds = up[..., H:].flip(0) if way else up[..., :H]
        ends = [*range(k1, T, k1), T]
        for number, end in enumerate(ends):
            first = max(end - k2, 0)
            with torch.no_grad():
                state = one(turned[:first])[1] if first else None
            part = turned[first:end].clone().requires_grad_()
            out, _ = one(part, state)
            begin = max(k1 * number, first)
            one.zero_grad()
            (out[begin - first :] * seeds[begin:end]).sum().backward()
            for name, p in one.named_parameters():
                expected[name.replace("l0.", suffix + ".")] += p.grad
            whole = torch.zeros_like(turned)
            whole[first:end] = part.grad
            expected["x"] += whole.flip(0) if way else whole
    assert_same(found, expected, 1e-12)


def test_masks_go_on_after_a_policy() -> None:
    """Chunks that a policy makes, and chunks that come one by one, are masked alike."""
    layer = layer_of(LAYERS["GRU, variational"])
    x, _ = given(layer)
    whole, _ = layer(x, masks=layer.masks(torch.Generator().manual_seed(1)))
    masks, state, found = layer.masks(torch.Generator().manual_seed(1)), None, []
    for part in x.split(8):
        y, state = layer(part, state, masks=masks, bptt=Checkpointed(every=3))
        found.append(y)
    assert_same({"y": torch.cat(found)}, {"y": whole}, 1e-12)


def test_tokens_and_sequences_without_a_batch() -> None:
    torch.manual_seed(0)
    layer = LSTM(D, H, batch_first=True, dtype=torch.float64)
    for x in (torch.randint(D, (B, T)), torch.randint(D, (T,)), torch.randn(B, T, D, dtype=torch.float64)):
        results = []
        for policy in (None, Checkpointed(every=4), Truncated(T, T)):
            y, (h, _) = layer(x, bptt=policy)
            layer.zero_grad()
            (y.square().sum() + h.sum()).backward()
            results.append({n: p.grad.clone() for n, p in layer.named_parameters()} | {"y": y.detach()})
        assert_same(results[1], results[0], 1e-12)
        assert_same(results[2], results[0], 1e-12)


def test_parameters_that_are_computed() -> None:
    """As by weight_norm, and by what comes before the layer."""
    torch.manual_seed(0)
    layer = LSTM(D, H, dtype=torch.float64)
    torch.nn.utils.parametrizations.weight_norm(layer, "weight_hh_l0")
    assert_same(taught(layer, Checkpointed(every=4)), taught(layer, Full()), 1e-12)
    before = torch.nn.Linear(D, D, dtype=torch.float64)
    x = torch.randn(T, B, D, dtype=torch.float64)
    gradients = []
    for policy in (Full(), Checkpointed(every=4)):
        before.zero_grad()
        layer(before(x), bptt=policy)[0].square().sum().backward()
        gradients.append({"w": before.weight.grad.clone()})
    assert_same(gradients[1], gradients[0], 1e-12)


REFUSED: dict[str, tuple[Callable, str]] = {
    "no policy": (lambda layer, x: layer(x, bptt=3), "bptt is a int, expected Full, Truncated or"),
    "k1 beyond": (lambda layer, x: layer(x, bptt=Truncated(T + 1, T)), "k1 is 24, but there are 23"),
    "too little": (
        lambda layer, x: layer(x, bptt=Checkpointed(memory="1KB")),
        "a budget of 1KB is too small: it takes",
    ),
    "packed": (
        lambda layer, x: layer(
            torch.nn.utils.rnn.pack_padded_sequence(x, [T, 5, 2]), bptt=Checkpointed(every=3)
        ),
        "bptt goes through padded x: give that and lengths",
    ),
    "both ways in too little": (
        lambda layer, x: LSTM(D, H, 2, bidirectional=True)(x, bptt=Checkpointed(memory="5KB")),
        "a layer that reads backwards needs all of it",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_named(name: str) -> None:
    wrong, message = REFUSED[name]
    with pytest.raises(InputError) as caught:
        wrong(LSTM(D, H), torch.randn(T, B, D))
    assert message in one_line(caught.value)


def test_without_gradients_nothing_runs_again() -> None:
    layer = LSTM(D, H)
    x = torch.randn(T, B, D)
    with torch.no_grad():
        y, _ = layer(x, bptt=Checkpointed(memory=1))
        assert torch.equal(y, layer(x)[0])
