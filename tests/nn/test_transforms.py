"""Transforms of torch.func and second derivatives of layers are autograd's, also with lengths and resets."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.nn.utils.rnn import pack_padded_sequence

from cases import assert_same
from unrolled import GRU, LSTM, RNN, InputError, Recurrent, cells

# torch's own, when it loads its rules of forward mode
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")

T, B, D, H = 4, 3, 2, 3
DOUBLE = {"dtype": torch.float64}
LAYERS = {
    "RNN": lambda **k: RNN(D, H, **DOUBLE, **k),
    "GRU": lambda **k: GRU(D, H, 2, **DOUBLE, **k),
    "LSTM": lambda **k: LSTM(D, H, bidirectional=True, **DOUBLE, **k),
    "normalised": lambda **k: LSTM(D, H, norm="layer", **DOUBLE, **k),
    "any cell": lambda **k: Recurrent(cells.gru_cho, D, H, **DOUBLE, **k),
}
RESETS = torch.zeros(T, B, dtype=torch.bool)
RESETS[2, 1] = RESETS[0, 0] = True
GIVEN = {
    "all steps": {},
    "lengths": {"lengths": torch.tensor([2, 4, 0])},
    "resets": {"resets": RESETS},
}
layers = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
given = pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
backends = pytest.mark.parametrize("backend", ["cpu", "reference"])


def same(found: Tensor, expected: Tensor) -> None:
    assert_same({"": found.detach()}, {"": expected.detach()}, 1e-12)


@given
@layers
def test_transforms_are_autograds(make: Callable, given: dict) -> None:
    layer = make()
    x, v = (torch.randn(T, B, D, **DOUBLE) for _ in range(2))

    def outputs(x: Tensor) -> Tensor:
        return layer(x, **given)[0]

    def total(x: Tensor) -> Tensor:
        return outputs(x).sin().sum()

    jacobian = torch.autograd.functional.jacobian(outputs, x)
    same(jacrev(outputs)(x), jacobian)
    same(jacfwd(outputs)(x), jacobian)
    same(torch.autograd.functional.jacobian(outputs, x, vectorize=True), jacobian)
    along = torch.einsum("tbhsid,sid->tbh", jacobian, v)
    same(jvp(outputs, (x,), (v,))[1], along)
    with forward_ad.dual_level():
        same(forward_ad.unpack_dual(outputs(forward_ad.make_dual(x, v))).tangent, along)
    y, back = vjp(outputs, x)
    same(back(y)[0], torch.einsum("tbhsid,tbh->sid", jacobian, y))
    same(grad(total)(x), torch.autograd.functional.jacobian(total, x))
    same(hessian(total)(x), torch.autograd.functional.hessian(total, x))
    same(vmap(outputs)(torch.stack([x, v])), torch.stack([outputs(x), outputs(v)]))


@given
@layers
def test_gradients_of_each_sample_and_of_an_ensemble(make: Callable, given: dict) -> None:
    layer = make()
    parameters = {name: value.detach() for name, value in layer.named_parameters()}
    samples = torch.randn(4, T, B, D, **DOUBLE)

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        y, end = functional_call(layer, parameters, (x,), given)
        ends = end.values() if isinstance(end, dict) else end if isinstance(end, tuple) else (end,)
        return y.sin().sum() + sum(value.square().sum() for value in ends)

    found = vmap(grad(loss), (None, 0))(parameters, samples)
    for k, x in enumerate(samples):
        alone = torch.autograd.grad(loss(dict(layer.named_parameters()), x), list(layer.parameters()))
        assert_same({n: d[k] for n, d in found.items()}, dict(zip(parameters, alone, strict=True)), 1e-12)
    ensemble = {name: torch.stack([value, -value]) for name, value in parameters.items()}
    each = [loss({name: value[k] for name, value in ensemble.items()}, samples[0]) for k in range(2)]
    same(vmap(loss, (0, None))(ensemble, samples[0]), torch.stack(each))


@layers
def test_resets_are_mapped_and_lengths_are_not(make: Callable) -> None:
    layer, x = make(), torch.randn(T, B, D, **DOUBLE)
    lengths, resets = torch.randint(T + 1, (2, B)), torch.rand(2, T, B) < 0.3
    if layer.batch_first:
        x, resets = x.transpose(0, 1), resets.transpose(1, 2)
    same(vmap(lambda v: layer(x, resets=v)[0])(resets), torch.stack([layer(x, resets=v)[0] for v in resets]))
    for f in (
        vmap(lambda v: layer(x, lengths=v)[0]),
        vmap(lambda v: grad(lambda x, v: layer(x, lengths=v)[0].sum())(x, v)),
    ):
        with pytest.raises(InputError, match="vmap does not map lengths"):
            f(lengths)


@pytest.mark.parametrize("bad", [-1, T + 1])
def test_a_length_that_is_none_is_reported_in_a_transform(bad: int) -> None:
    layer = GRU(D, H)
    with pytest.raises(InputError, match=f"lengths go from 0 to {T}, .* but one is {bad}"):
        grad(lambda x: layer(x, lengths=[bad, 1, 1])[0].sum())(torch.randn(T, B, D))


@backends
@pytest.mark.parametrize("given", [*GIVEN, "packed"])
@layers
def test_second_derivatives_are_differences_of_first_ones(make: Callable, given: str, backend: str) -> None:
    layer: nn.Module = make(backend=backend)

    def run(x: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
        if given == "packed":
            packed, end = layer(pack_padded_sequence(x, [2, 4, 1], enforce_sorted=False))
            y = packed.data
        else:
            y, end = layer(x, **GIVEN[given])
        return y, *(end.values() if isinstance(end, dict) else end if isinstance(end, tuple) else (end,))

    x = torch.randn(T, B, D, **DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(run, (x, *layer.parameters()), fast_mode=True)
    assert torch.autograd.gradgradcheck(run, (x, *layer.parameters()), fast_mode=True)


@backends
@layers
def test_sequences_without_any_step_have_gradients_that_are_0(make: Callable, backend: str) -> None:
    layer = make(backend=backend)
    x = torch.randn(T, B, D, **DOUBLE, requires_grad=True)
    y, _ = layer(x, lengths=[0] * B)
    for d in torch.autograd.grad(y.sum(), [x, *layer.parameters()]):
        assert not d.any()
