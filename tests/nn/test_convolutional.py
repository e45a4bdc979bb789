"""Convolutional residual and dense blocks compute their papers' equations."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unrolled.errors import InputError
from unrolled.nn.convolutional import (
    DenseBlock,
    ResidualBlock,
    Transition,
    dense_network,
    residual_network,
)


def normal(A: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """Over the batch and all places, then gain and bias."""
    mean, var = A.mean((0, 2, 3), keepdim=True), A.var((0, 2, 3), keepdim=True, correction=0)
    return (A - mean) / (var + 1e-5).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]


def shaken(module: nn.Module) -> nn.Module:
    """With gains and biases that are not 1 and 0."""
    for each in module.modules():
        if isinstance(each, nn.BatchNorm2d):
            nn.init.uniform_(each.weight, 0.5, 1.5)
            nn.init.normal_(each.bias)
    return module.double()


@pytest.mark.parametrize("form", ["basic", "preactivation"])
@pytest.mark.parametrize(("out", "stride"), [(4, 1), (6, 1), (6, 2), (4, 2)])
def test_a_residual_block_adds_its_branch_to_its_shortcut(form, out, stride):
    projection = (out, stride) != (4, 1)
    block = shaken(ResidualBlock(4, out, stride=stride, form=form, projection=projection))
    A = torch.randn(5, 4, 7, 6, dtype=torch.float64)

    def conv(module: nn.Conv2d, A: Tensor) -> Tensor:
        return F.conv2d(A, module.weight, stride=module.stride, padding=module.padding)

    if form == "basic":
        F_A = normal(conv(block.conv2, normal(conv(block.conv1, A), block.norm1).relu()), block.norm2)
        expected = ((conv(block.shortcut, A) if projection else A) + F_A).relu()
    else:
        ready = normal(A, block.norm1).relu()
        F_A = conv(block.conv2, normal(conv(block.conv1, ready), block.norm2).relu())
        expected = (conv(block.shortcut, ready) if projection else A) + F_A
    found = block(A)
    torch.testing.assert_close(found, expected)
    assert found.shape == (5, out, -(-7 // stride), -(-6 // stride))


@pytest.mark.parametrize("form", ["basic", "preactivation"])
def test_without_a_branch_a_residual_block_is_the_identity(form):
    block = ResidualBlock(3, form=form)
    nn.init.zeros_(block.norm2.weight if form == "basic" else block.conv2.weight)
    A = torch.rand(2, 3, 5, 5)
    torch.testing.assert_close(block(A), A)


@pytest.mark.parametrize("bottleneck", [False, True])
def test_every_layer_of_a_dense_block_reads_all_before_it(bottleneck):
    block = shaken(DenseBlock(3, 3, 2, bottleneck=bottleneck))
    A = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    values = [A]
    for layer in block.layers:
        norm, _, conv, *rest = layer
        read = normal(torch.cat(values, 1), norm).relu()
        values.append(F.conv2d(read, conv.weight, padding=conv.padding))
        if bottleneck:
            norm, _, conv = rest
            values[-1] = F.conv2d(normal(values[-1], norm).relu(), conv.weight, padding=1)
            assert conv.in_channels == 4 * 2
    found = block(A)
    torch.testing.assert_close(found, torch.cat(values, 1))
    assert found.shape[1] == block.out_channels == 9
    torch.testing.assert_close(found[:, :3], A)


def test_a_transition_has_fewer_channels_and_the_means_of_squares():
    transition = shaken(Transition(6, compression=0.5))
    A = torch.randn(3, 6, 5, 4, dtype=torch.float64)
    mixed = torch.einsum(
        "oc,bchw->bohw", transition.conv.weight[:, :, 0, 0], normal(A, transition.norm).relu()
    )
    squares = mixed[:, :, :4].unflatten(3, (2, 2)).unflatten(2, (2, 2)).mean((3, 5))
    torch.testing.assert_close(transition(A), squares)
    assert transition.out_channels == 3
    assert Transition(1, compression=0.5).out_channels == 1
    assert Transition(6, 5).out_channels == 5


def test_gradients_are_those_of_finite_differences():
    A = torch.randn(2, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    for module in (ResidualBlock(2, 3, stride=2, projection=True), DenseBlock(2, 2, 2), Transition(2)):
        assert torch.autograd.gradcheck(shaken(module), (A,))


@pytest.mark.parametrize(
    "make",
    [
        lambda: residual_network(1, 10, widths=(4, 8), blocks=2),
        lambda: residual_network(1, 10, widths=(8, 8), blocks=1, form="basic"),
        lambda: dense_network(1, 10, layers=(2, 3), growth=4),
        lambda: dense_network(1, 10, layers=(2,), growth=4, bottleneck=True),
    ],
    ids=["preactivation", "basic", "dense", "bottleneck"],
)
def test_networks_learn_a_handful_of_pictures(make):
    network = make()
    pictures, classes = torch.randn(20, 1, 8, 8), torch.arange(20) % 10
    assert network(pictures).shape == (20, 10)
    optimiser = torch.optim.Adam(network.parameters(), 0.02)
    for _ in range(60):
        optimiser.zero_grad()
        loss = F.cross_entropy(network(pictures), classes)
        loss.backward()
        optimiser.step()
    assert loss < 0.1


def test_stages_halve_the_size_and_have_the_blocks_that_were_asked_for():
    network = residual_network(3, 5, widths=(4, 6, 8), blocks=2)
    blocks = [part for part in network if isinstance(part, ResidualBlock)]
    sizes, A = [], network[0](torch.randn(2, 3, 12, 8))
    for block in blocks:
        A = block(A)
        sizes.append(tuple(A.shape[1:]))
    assert sizes == [(4, 12, 8), (4, 12, 8), (6, 6, 4), (6, 6, 4), (8, 3, 2), (8, 3, 2)]
    parts = [type(part).__name__ for part in dense_network(3, 5, layers=(2, 2, 2), growth=4)]
    assert parts.count("DenseBlock") == 3
    assert parts.count("Transition") == 2


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ResidualBlock(4, 8), "takes 4 channels to 8: give projection=True"),
        (lambda: ResidualBlock(4, stride=2), "takes the size by stride 2: give projection=True"),
        (lambda: ResidualBlock(4, form="wide"), "there are basic, preactivation"),
        (lambda: ResidualBlock(0), "channels must be a whole number of at least 1"),
        (lambda: DenseBlock(4, 2, 0), "growth must be a whole number of at least 1"),
        (lambda: Transition(4, compression=1.5), "compression is above 0 and at most 1, got 1.5"),
        (lambda: residual_network(1, 10, widths=()), "stages must be a whole number of at least 1"),
        (lambda: dense_network(1, 0), "classes must be a whole number of at least 1"),
        (lambda: ResidualBlock(4)(torch.zeros(1, 3, 8, 8)), r"A has shape \(1, 3, 8, 8\), expected \(B, 4"),
        (lambda: DenseBlock(4, 1, 1)(torch.zeros(4, 8, 8)), r"expected \(B, 4, H, W\)"),
        (lambda: Transition(4)(torch.zeros(1, 4, 1, 8)), "a picture of 1 x 8 cannot be halved again"),
        (lambda: dense_network(1, 3, layers=(1,) * 5)(torch.zeros(2, 1, 8, 8)), "cannot be halved again"),
    ],
)
def test_what_does_not_fit_is_named(make, said):
    with pytest.raises(InputError, match=said):
        make()
