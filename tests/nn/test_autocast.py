"""Where autocast is on, a layer converts what it is given and computes in its own dtype."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from cases import assert_same
from unrolled import GRU, LSTM, RNN, InputError, Recurrent, cells

T, B, D, H = 5, 3, 4, 6
LAYERS = {
    "RNN": lambda **k: RNN(D, H, **k),
    "GRU": lambda **k: GRU(D, H, 2, **k),
    "LSTM": lambda **k: LSTM(D, H, bidirectional=True, **k),
    "normalised": lambda **k: LSTM(D, H, norm="layer", **k),
    "any cell": lambda **k: Recurrent(cells.mut1, D, H, **k),
}
layers = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
backends = pytest.mark.parametrize("backend", ["cpu", "reference"])
LENGTHS = torch.tensor([5, 0, 2])


def state_of(layer: nn.Module, dtype: torch.dtype) -> object:
    found = {name: torch.randn(value.shape).to(dtype) for name, value in layer.initial_state(B).items()}
    return found if isinstance(layer, Recurrent) else tuple(found.values()) if "c" in found else found["h"]


def results(layer: nn.Module, x: Tensor, state: object, **options: object) -> list[Tensor]:
    y, end = layer(x, state, **options)
    return [y, *(end.values() if isinstance(end, dict) else end if isinstance(end, tuple) else (end,))]


def learned(layer: nn.Module, found: list[Tensor], x: Tensor) -> dict[str, Tensor]:
    leaves = dict(layer.named_parameters()) | {"x": x}
    gradients = torch.autograd.grad(sum(v.float().sin().sum() for v in found), list(leaves.values()))
    named = zip(leaves, gradients, strict=True)
    return {str(k): v for k, v in enumerate(found)} | {f"d {name}": d for name, d in named}


@pytest.mark.parametrize("inside", [False, True], ids=["backward outside", "backward inside"])
@pytest.mark.parametrize("given", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@backends
@layers
def test_it_computes_in_its_own_dtype(make: Callable, backend: str, given: torch.dtype, inside: bool) -> None:
    layer = make(backend=backend)
    x, state = torch.randn(T, B, D).to(given).requires_grad_(), state_of(layer, given)
    wide = {k: v.float() for k, v in state.items()} if isinstance(state, dict) else (
        tuple(v.float() for v in state) if isinstance(state, tuple) else state.float()
    )  # fmt: skip
    for options in ({}, {"lengths": LENGTHS}):
        expected = learned(layer, results(layer, x.float(), wide, **options), x)
        with torch.autocast("cpu", torch.bfloat16):
            found = results(layer, x, state, **options)
            gradients = learned(layer, found, x) if inside else None
        assert {v.dtype for v in found} == {torch.float32}
        gradients = gradients or learned(layer, found, x)
        assert gradients["d x"].dtype == given
        # Torch advises against a backward pass inside, which computes its own derivatives in bfloat16.
        assert_same(gradients, expected, 0.03 if inside and backend == "reference" else 0)


@layers
def test_steps_packed_sequences_and_tokens_are_converted_too(make: Callable) -> None:
    layer, x = make(), torch.randn(T, B, D).bfloat16()
    packed = [pack_padded_sequence(each, [5, 3, 1]) for each in (x, x.float())]
    tokens = torch.randint(D, (T, B))
    expected = [layer(packed[1])[0].data, layer(tokens)[0]]
    steps = None if layer.bidirectional else layer.step(x[0].float())[0]
    with torch.autocast("cpu", torch.bfloat16):
        found = [layer(packed[0])[0].data, layer(tokens)[0]]
        assert all(map(torch.equal, found, expected))
        for mode in (torch.enable_grad, torch.no_grad):
            with mode():
                assert steps is None or torch.allclose(layer.step(x[0])[0], steps, atol=1e-6)


def test_between_other_layers_it_trains_as_in_float32() -> None:
    torch.manual_seed(3)
    first, layer, last = nn.Linear(2, D), LSTM(D, H), nn.Linear(H, 1)
    x = torch.randn(T, B, 2)
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = layer(first(x))
        loss = last(y).float().square().mean()
    loss.backward()
    assert y.dtype == torch.float32
    exact = last(layer(first(x))[0]).square().mean()
    for p, d in zip(first.parameters(), torch.autograd.grad(exact, [*first.parameters()]), strict=True):
        assert p.grad.dtype == torch.float32
        assert (p.grad - d).norm() < 0.05 * d.norm()


def test_autocast_leaves_float64_alone_and_without_it_dtypes_must_fit() -> None:
    layer = GRU(D, H)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(InputError, match=r"x is torch\.float64"):
        layer(torch.randn(T, B, D).double())
    with pytest.raises(InputError, match=r"x is torch\.bfloat16, but the layer is torch\.float32"):
        layer(torch.randn(T, B, D).bfloat16())
    with pytest.raises(InputError, match=r"state 'h' is torch\.bfloat16"):
        layer(torch.randn(T, B, D), torch.zeros(1, B, H).bfloat16())


@layers
def test_second_derivatives_are_those_without_autocast(make: Callable) -> None:
    layer, x = make(), torch.randn(T, B, D, requires_grad=True)
    found = []
    for on in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=on):
            y = layer(x, lengths=LENGTHS)[0]
        (d,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(d.square().sum(), x)[0])
    assert torch.equal(*found)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")
@layers
def test_a_graph_converts_as_the_layer_does(make: Callable) -> None:
    layer, x = make(), torch.randn(T, B, D).bfloat16()
    torch._dynamo.reset()
    run = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for on in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=on):
            each = x if on else x.float()
            found, expected = run(each, lengths=LENGTHS)[0], layer(each, lengths=LENGTHS)[0]
        assert torch.equal(found, expected)
