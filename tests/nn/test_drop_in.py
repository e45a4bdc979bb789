"""What programs that run on `torch.nn.RNN`, `GRU` and `LSTM` do with them, each by name, and both dtypes."""

import copy
import io
import pickle
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

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


class Twice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def with_bias_twice(layer: nn.Module, x: Tensor) -> object:
    parametrize.register_parametrization(layer, "bias_ih_l0", Twice())
    first = layer(x)
    parametrize.remove_parametrizations(layer, "bias_ih_l0")
    return first, layer(x)


def pruned(layer: nn.Module, x: Tensor) -> object:
    prune.l1_unstructured(layer, "weight_hh_l0", amount=0.5)
    first = layer(x)
    prune.remove(layer, "weight_hh_l0")
    return first, layer(x)


def initialised(layer: nn.Module, x: Tensor) -> object:
    for name, parameter in layer.named_parameters():
        nn.init.eye_(parameter) if "weight" in name else nn.init.constant_(parameter, 0.1)
    return layer(x)


def from_a_vector(layer: nn.Module, x: Tensor) -> object:
    vector = nn.utils.parameters_to_vector(layer.parameters())
    nn.utils.vector_to_parameters(vector.detach() / 2, layer.parameters())
    return vector.detach(), layer(x)


def assigned(layer: nn.Module, x: Tensor) -> object:
    with torch.device("meta"):
        again = type(layer)(D, H, dtype=x.dtype)
    assert again(x.detach().to("meta"))[0].device.type == "meta"
    again.load_state_dict(layer.state_dict(), assign=True)
    return again(x)


def on_disk(layer: nn.Module, x: Tensor) -> object:
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)(x)


def functional(layer: nn.Module, x: Tensor) -> object:
    parameters = {name: 2 * value for name, value in layer.named_parameters()}
    return torch.func.functional_call(layer, parameters, (x, state(layer, x)))


def detached(layer: nn.Module, x: Tensor) -> object:
    """Truncated backpropagation as it is often written."""
    first, hx = layer(x[:3])
    for value in hx if isinstance(hx, tuple) else (hx,):
        value.detach_()
    return first, layer(x[3:], hx)


def averaged(layer: nn.Module, x: Tensor) -> object:
    mean = AveragedModel(layer)
    mean.update_parameters(layer)
    stepped(layer, x)
    mean.update_parameters(layer)
    return mean(x)


def clipped(layer: nn.Module, x: Tensor) -> object:
    layer(x)[0].sum().backward(retain_graph=True)
    norm = nn.utils.clip_grad_norm_(layer.parameters(), 0.1)
    return norm, [p.grad.clone() for p in layer.parameters()]


def derived(layer: nn.Module, x: Tensor) -> object:
    class Doubled(type(layer)):
        def forward(self, x: Tensor, hx: object = None) -> object:
            return super().forward(2 * x, hx)

    layer.__class__ = Doubled
    return layer(x)


def with_keywords(layer: nn.Module, x: Tensor) -> object:
    layer.register_forward_pre_hook(lambda _, a, k: (a, k | {"hx": state(layer, x)}), with_kwargs=True)
    return layer(x)


def exchanged(layer: nn.Module, x: Tensor) -> object:
    layer.weight_hh_l0 = nn.Parameter(2 * layer.weight_hh_l0.detach())
    return layer(x)


def unsaved(layer: nn.Module, x: Tensor) -> object:
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
        return layer(x)


CALLS: dict[str, tuple[dict, Call]] = {
    "a parametrised bias": ({}, with_bias_twice),
    "weight_norm": ({}, lambda m, x: parametrizations.weight_norm(m, "weight_hh_l0")(x)),
    "spectral_norm": ({}, lambda m, x: parametrizations.spectral_norm(m, "weight_hh_l0").eval()(x)),
    "orthogonal": ({}, lambda m, x: parametrizations.orthogonal(m, "weight_hh_l0")(x)),
    "pruned": ({}, pruned),
    "initialised in place": ({"num_layers": 2, "bidirectional": True}, initialised),
    "as a vector": ({"num_layers": 2}, from_a_vector),
    "made on meta, and assigned": ({}, assigned),
    "a layer on disk": ({}, on_disk),
    "pickled": ({"num_layers": 2}, lambda m, x: pickle.loads(pickle.dumps(m))(x)),
    "a functional call": ({}, functional),
    "states detached in place": ({}, detached),
    "averaged weights": ({}, averaged),
    "clipped gradients": ({"num_layers": 2}, clipped),
    "a subclass": ({}, derived),
    "a hook with keywords": ({}, with_keywords),
    "a parameter exchanged": ({}, exchanged),
    "saved tensors with hooks": ({}, unsaved),
    "checkpointed": ({}, lambda m, x: checkpoint(m, x, use_reentrant=False)),
    "shared memory": ({}, lambda m, x: m.share_memory()(x)),
    "nothing to learn": ({}, lambda m, x: m.requires_grad_(False)(x)),
    "a state of one batch, expanded": ({}, lambda m, x: m(x, mapped(state(m, x, 1), expanded))),
    "a state as a list": ({}, lambda m, x: m(x, mapped(state(m, x), lambda v: v, list))),
    "in a list of modules": ({}, lambda m, x: nn.Sequential(m)(x)),
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


def mapped(value: object, f: Callable, kind: type = tuple) -> object:
    return kind(map(f, value)) if isinstance(value, tuple) else f(value)


def expanded(value: Tensor) -> Tensor:
    return value.expand(-1, B, -1)


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


STACKS = (
    {},
    {"num_layers": 2, "bias": False, "batch_first": True, "dropout": 0.25, "bidirectional": True},
    {"num_layers": 3, "dtype": torch.float64},
    {"num_layers": 2, "proj_size": 2, "bidirectional": True},
)


@kinds
@pytest.mark.parametrize("stack", STACKS)
def test_it_is_printed_listed_and_kept_as_torchs_is(kind: str, stack: dict) -> None:
    if "proj_size" in stack and kind != "LSTM":
        pytest.skip("only an LSTM has projections")
    ours, theirs = (getattr(home, kind)(D, H, **stack) for home in (unrolled, nn))
    assert repr(ours) == repr(theirs)
    assert [(n, p.shape, p.dtype) for n, p in ours.named_parameters()] == [
        (n, p.shape, p.dtype) for n, p in theirs.named_parameters()
    ]
    assert [len(each) for each in ours.all_weights] == [len(each) for each in theirs.all_weights]
    for one, other in ((ours, theirs), (theirs, ours)):
        one.reset_parameters()
        other.load_state_dict(one.state_dict())
        assert all(map(torch.equal, one.parameters(), other.parameters()))
    for each in (ours, theirs):
        with pytest.raises(RuntimeError, match="Missing key"):
            each.load_state_dict({})
        found = each.load_state_dict({"other": torch.zeros(())}, strict=False)
        assert found.unexpected_keys == ["other"]
        assert found.missing_keys == list(each.state_dict())


@kinds
def test_dropout_with_one_layer_is_warned_of(kind: str) -> None:
    for home in (unrolled, nn):
        with pytest.warns(UserWarning, match="dropout"):
            getattr(home, kind)(D, H, dropout=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        getattr(unrolled, kind)(D, H, 2, dropout=0.5)


@kinds
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_torchs(kind: str, dtype: torch.dtype) -> None:
    x = torch.randn(T, B, D)
    layer, peer = (getattr(home, kind)(D, H) for home in (unrolled, nn))
    peer.load_state_dict(layer.state_dict())
    layer, peer = layer.to(dtype), peer.to(dtype)
    ours, theirs = layer(x.to(dtype))[0], peer(x.to(dtype))[0]
    assert ours.dtype == theirs.dtype == dtype
    assert (ours - theirs).abs().max() < 0.02
    layer.backend = "cpu"
    with pytest.raises(unrolled.BackendError, match="float32 or float64, not torch"):
        layer(x.to(dtype))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@kinds
def test_torch_jit_traces_it(kind: str) -> None:
    layer, x = getattr(unrolled, kind)(D, H), torch.randn(T, B, D)
    traced = torch.jit.trace(layer, (x,))
    x = torch.randn(T, B, D)
    assert torch.allclose(traced(x)[0], layer(x)[0], atol=1e-6)


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
