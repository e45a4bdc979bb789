"""What programs that run on `torch.nn.RNN`, `GRU` and `LSTM` do with them, each by name, and both dtypes."""

import copy
import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence

import unrolled

T, B, D, H = 6, 4, 3, 5

kinds = pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
dtypes = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)], ids=["float64", "float32"]
)

Call = Callable[[nn.Module, Tensor], object]
"""What is done with a layer and an input; everything that comes out is compared."""


def state(layer: nn.Module, x: Tensor, *batch: int, scale: float = 0.5) -> object:
    """An initial state, the same for both sides."""
    generator = torch.Generator().manual_seed(3)
    rows = layer.num_layers * (1 + layer.bidirectional)

    def of(size: int) -> Tensor:
        value = torch.randn(rows, *(batch or (B,)), size, generator=generator, dtype=torch.float64)
        return (scale * value).to(x.dtype)

    if "LSTM" in layer.mode:
        return of(layer.proj_size or layer.hidden_size), of(layer.hidden_size)
    return of(layer.hidden_size)


def packed(x: Tensor, lengths: list[int], **options: bool) -> PackedSequence:
    return pack_padded_sequence(x, lengths, **options)


def frozen(layer: nn.Module, x: Tensor) -> object:
    for name, parameter in layer.named_parameters():
        parameter.requires_grad_("hh" in name)
    return layer(x)


def hooked(layer: nn.Module, x: Tensor) -> object:
    seen: list[object] = []
    layer.register_forward_pre_hook(lambda _, args: (args[0] * 2,))
    layer.register_forward_hook(lambda _, args, output: seen.append(output[0]))
    layer.register_full_backward_hook(lambda _, d_in, d_out: seen.append(d_out[0]))
    output = layer(x)
    output[0].sum().backward(retain_graph=True)
    layer.zero_grad()
    return [*seen, output]


def saved(layer: nn.Module, x: Tensor) -> object:
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    again = copy.deepcopy(layer)
    again.reset_parameters()
    again.load_state_dict(torch.load(file))
    return again(x)


def stepped(layer: nn.Module, x: Tensor) -> object:
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        layer(x)[0].square().sum().backward()
        optimiser.step()
    return list(layer.parameters())


def in_parts(layer: nn.Module, x: Tensor) -> object:
    first, end = layer(x[:2])
    return first, layer(x[2:], end)


def evaluated(layer: nn.Module, x: Tensor) -> object:
    layer.eval()
    with torch.no_grad():
        return layer(x)


CALLS: dict[str, tuple[dict, Call]] = {
    "a batch": ({}, lambda m, x: m(x)),
    "by keyword": ({}, lambda m, x: m(input=x, hx=state(m, x))),
    "without a batch": ({}, lambda m, x: m(x[:, 0])),
    "without a batch, with a state": ({}, lambda m, x: m(x[:, 0], squeezed(state(m, x, 1)))),
    "batch first": ({"batch_first": True}, lambda m, x: m(x.transpose(0, 1), state(m, x))),
    "batch first, without a batch": ({"batch_first": True}, lambda m, x: m(x[:, 0])),
    "without biases": ({"bias": False}, lambda m, x: m(x)),
    "both directions": ({"bidirectional": True}, lambda m, x: m(x, state(m, x))),
    "three layers": ({"num_layers": 3}, lambda m, x: m(x, state(m, x))),
    "layers in both directions": ({"num_layers": 2, "bidirectional": True}, lambda m, x: m(x, state(m, x))),
    "dropout in training": ({"num_layers": 3, "dropout": 0.4}, lambda m, x: seeded(m, x)),
    "dropout of everything": ({"num_layers": 2, "dropout": 1.0}, lambda m, x: m(x)),
    "no dropout in evaluation": ({"num_layers": 2, "dropout": 0.4}, evaluated),
    "a packed sequence, sorted": ({}, lambda m, x: m(packed(x, [6, 4, 4, 1]))),
    "a packed sequence, not sorted": (
        {"num_layers": 2, "bidirectional": True},
        lambda m, x: m(packed(x, [1, 6, 3, 4], enforce_sorted=False), state(m, x)),
    ),
    "a packed sequence, batch first": (
        {"batch_first": True},
        lambda m, x: m(packed(x.transpose(0, 1), [1, 6, 3, 4], batch_first=True, enforce_sorted=False)),
    ),
    "a list of sequences": (
        {},
        lambda m, x: m(pack_sequence([x[:2, 0], x[:, 1], x[:3, 2]], enforce_sorted=False)),
    ),
    "an empty batch": ({"num_layers": 2, "bidirectional": True}, lambda m, x: m(x[:, :0])),
    "a batch of one step": ({}, lambda m, x: m(x[:1])),
    "an input that is not contiguous": ({}, lambda m, x: m(x.transpose(0, 1))),
    "an expanded input": ({}, lambda m, x: m(x[:1, :1].expand(T, B, D))),
    "a state that is not contiguous": ({"num_layers": 2}, lambda m, x: m(x, turned(state(m, x)))),
    "a state passed on": ({}, in_parts),
    "frozen weights": ({}, frozen),
    "hooks": ({}, hooked),
    "a state dict on disk": ({}, saved),
    "steps of SGD": ({"num_layers": 2, "bidirectional": True}, stepped),
    "a deep copy": ({}, lambda m, x: copy.deepcopy(m)(x)),
    "to and fro": ({}, lambda m, x: m.float().to(x.dtype).double().to(x)(x)),
    "flattened": ({}, lambda m, x: (m.flatten_parameters(), m(x))[1]),
    "all weights": ({"num_layers": 2}, lambda m, x: m.all_weights),
    "what it is": ({}, lambda m, x: torch.tensor([m.input_size, m.hidden_size, m.num_layers, m.dropout])),
}


def squeezed(value: object) -> object:
    return tuple(v.squeeze(1) for v in value) if isinstance(value, tuple) else value.squeeze(1)


def turned(value: object) -> object:
    """The same numbers in another order in memory."""
    if isinstance(value, tuple):
        return tuple(map(turned, value))
    return value.transpose(0, 2).contiguous().transpose(0, 2)


def seeded(layer: nn.Module, x: Tensor) -> object:
    torch.manual_seed(5)
    return layer(x)


def tensors_of(value: object) -> list[Tensor]:
    """All tensors in what came out, in order."""
    if isinstance(value, PackedSequence):
        return [value.data, *pad_packed_sequence(value)]
    if isinstance(value, list | tuple):
        return [found for each in value for found in tensors_of(each)]
    return [value]


@dtypes
@kinds
@pytest.mark.parametrize("name", CALLS)
def test_it_does_what_torchs_does(name: str, kind: str, dtype: torch.dtype, tolerance: float) -> None:
    options, call = CALLS[name]
    found = []
    for home in (unrolled, nn):
        torch.manual_seed(1)
        layer = getattr(home, kind)(D, H, dtype=dtype, **options)
        x = torch.randn(T, B, D, dtype=torch.float64).to(dtype).requires_grad_()
        results = tensors_of(call(layer, x))
        total = sum(r.double().square().sum() for r in results if r.requires_grad)
        if isinstance(total, Tensor):
            leaves = [x, *(p for p in layer.parameters() if p.requires_grad)]
            results = [*results, *torch.autograd.grad(total, leaves, allow_unused=True)]
        found.append(results)
    assert len(found[0]) == len(found[1])
    for ours, theirs in zip(*([v if v is None else v.detach() for v in each] for each in found), strict=True):
        if theirs is None or ours is None:
            assert (theirs if ours is None else ours) in (None, 0) or not torch.any(
                theirs if ours is None else ours
            )
            continue
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        error = (ours - theirs).abs().max() if ours.numel() else torch.zeros(())
        assert error <= tolerance * max(1.0, float(theirs.abs().max()) if theirs.numel() else 0.0)


@kinds
def test_names_of_the_kind_are_torchs(kind: str) -> None:
    assert getattr(unrolled, kind)(D, H).mode == getattr(nn, kind)(D, H).mode
    assert unrolled.RNN(D, H, nonlinearity="relu").mode == nn.RNN(D, H, nonlinearity="relu").mode


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
@dtypes
@pytest.mark.parametrize("stack", [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True}])
def test_projections_are_torchs(stack: dict, dtype: torch.dtype, tolerance: float) -> None:
    found = []
    for home in (unrolled, nn):
        torch.manual_seed(1)
        layer = home.LSTM(D, H, proj_size=2, dtype=dtype, **stack)
        x = torch.randn(T, T, D, dtype=torch.float64).to(dtype)
        output, (h, c) = layer(x, state(layer, x, T))
        output.square().sum().backward()
        found.append([output, h, c, *(p.grad for p in layer.parameters())])
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance)


MISTAKES: dict[str, Callable[[type], object]] = {
    "no hidden units": lambda kind: kind(3, 0),
    "hidden units that are no whole number": lambda kind: kind(3, 2.5),
    "no input": lambda kind: kind(0, 4),
    "no layers": lambda kind: kind(3, 4, 0),
    "dropout above 1": lambda kind: kind(3, 4, 2, dropout=2.0),
    "dropout as a bool": lambda kind: kind(3, 4, 2, dropout=True),
    "dropout as text": lambda kind: kind(3, 4, 2, dropout="a"),
    "batch_first as text": lambda kind: kind(3, 4, batch_first="yes"),
    "a negative projection": lambda kind: kind(3, 4, proj_size=-1),
    "an input of one axis": lambda kind: kind(D, H)(torch.randn(3)),
    "an input of four axes": lambda kind: kind(D, H)(torch.randn(1, 2, 3, 3)),
    "another width": lambda kind: kind(D, H)(torch.randn(T, B, 4)),
    "no steps": lambda kind: kind(D, H)(torch.randn(0, B, D)),
    "another dtype": lambda kind: kind(D, H)(torch.randn(T, B, D).double()),
    "a packed sequence of another width": lambda kind: kind(D, H)(packed(torch.randn(T, B, 4), [6, 5, 2, 1])),
    "a state of another batch": lambda kind: kind(D, H)(torch.randn(T, B, D), of(kind, 1, 3, H)),
    "a state of another width": lambda kind: kind(D, H)(torch.randn(T, B, D), of(kind, 1, B, 4)),
    "a state without a batch": lambda kind: kind(D, H)(torch.randn(T, B, D), of(kind, 1, H)),
}


def of(kind: type, *shape: int) -> object:
    return (torch.zeros(shape),) * 2 if kind.__name__ == "LSTM" else torch.zeros(shape)


@kinds
@pytest.mark.parametrize("name", MISTAKES)
def test_whoever_catches_the_error_of_torchs_catches_ours(name: str, kind: str) -> None:
    with pytest.raises((ValueError, TypeError, RuntimeError)) as theirs:
        MISTAKES[name](getattr(nn, kind))
    with pytest.raises(unrolled.InputError) as ours:
        MISTAKES[name](getattr(unrolled, kind))
    assert isinstance(ours.value, theirs.type)
