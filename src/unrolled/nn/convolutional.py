"""Convolutional residual and dense blocks, in plain torch.

They are here for pictures, and to stand beside the blocks of this library that run through depth: the sum
A + F(A) and the concatenation [A, F(A)] are the same, the maps are convolutions. Nothing here is compiled.

He et al. 2015, arXiv:1512.03385 (basic blocks); He et al. 2016, arXiv:1603.05027 (pre-activation); Huang et
al. 2017, arXiv:1608.06993 (dense blocks). Networks begin with a 3x3 convolution that keeps the size, as
theirs for small pictures do.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from unrolled.errors import InputError, check_sizes


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, F, beside a shortcut.

        basic          relu(A + norm(W_2 relu(norm(W_1 A))))
        preactivation  A + W_2 relu(norm(W_1 relu(norm(A))))

    Args:
        channels: of what comes in.
        out_channels: of what goes out; `channels` if not given.
        stride: of the first convolution; 2 halves height and width.
        form: "basic" or "preactivation".
        projection: a 1x1 convolution in the shortcut, which a change of channels or size needs.

    Shapes: A (B, channels, H, W); the output (B, out_channels, ceil(H / stride), ceil(W / stride)).

    Raises:
        InputError: channels or size change and there is no projection; or an argument or input does not fit.

    Source: He et al. 2015, arXiv:1512.03385, figure 5; He et al. 2016, arXiv:1603.05027, figure 1.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        stride: int = 1,
        form: str = "basic",
        projection: bool = False,
    ) -> None:
        super().__init__()
        out = channels if out_channels is None else out_channels
        check_sizes(channels=channels, out_channels=out, stride=stride)
        if form not in ("basic", "preactivation"):
            raise InputError(f"no form {form!r} of a residual block; there are basic, preactivation")
        if (out, stride) != (channels, 1) and not projection:
            changed = f"{channels} channels to {out}" if out != channels else f"the size by stride {stride}"
            raise InputError(
                f"a residual block adds its input, which cannot be where it takes {changed}: "
                "give projection=True, or keep channels and stride 1"
            )
        self.channels, self.form = channels, form
        self.norm1 = nn.BatchNorm2d(out if form == "basic" else channels)
        self.norm2 = nn.BatchNorm2d(out)
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(channels, out, 1, stride, bias=False) if projection else nn.Identity()

    def forward(self, A: Tensor) -> Tensor:
        check_picture(A, self.channels)
        if self.form == "basic":
            branch = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(A)))))
            added: Tensor = self.shortcut(A) + branch
            return added.relu()
        # A projection reads what is normalised and activated, as in the paper's own network.
        ready = torch.relu(self.norm1(A))
        branch = self.conv2(torch.relu(self.norm2(self.conv1(ready))))
        kept: Tensor = A if isinstance(self.shortcut, nn.Identity) else self.shortcut(ready)
        total: Tensor = kept + branch
        return total


class DenseBlock(nn.Module):
    """Layers that each read the input and all layers before them, and add `growth` channels.

        A ← [A, W relu(norm(A))],  W a 3x3 convolution

    Args:
        channels: of what comes in.
        layers: how many.
        growth: channels that each adds.
        bottleneck: before the 3x3 convolution a 1x1 one to 4 · growth channels, with norm and relu.

    Shapes: A (B, channels, H, W); the output (B, channels + layers · growth, H, W), the input first.

    Raises:
        InputError: an argument or input does not fit.

    Source: Huang et al. 2017, arXiv:1608.06993.
    """

    def __init__(self, channels: int, layers: int, growth: int, *, bottleneck: bool = False) -> None:
        super().__init__()
        check_sizes(channels=channels, layers=layers, growth=growth)
        self.channels = channels
        self.out_channels = channels + layers * growth
        self.layers = nn.ModuleList(
            _dense_layer(channels + layer * growth, growth, bottleneck) for layer in range(layers)
        )

    def forward(self, A: Tensor) -> Tensor:
        check_picture(A, self.channels)
        for layer in self.layers:
            A = torch.cat([A, layer(A)], 1)
        return A


class Transition(nn.Module):
    """Between two dense blocks: fewer channels by a 1x1 convolution, and means over 2x2 squares.

    Args:
        channels: of what comes in.
        out_channels: of what goes out; if not given, `compression` times as many.
        compression: from above 0 to 1.

    Shapes: A (B, channels, H, W); the output (B, out_channels, H // 2, W // 2).

    Raises:
        InputError: an argument does not fit, or the picture is less than 2 high or wide.

    Source: Huang et al. 2017, arXiv:1608.06993.
    """

    def __init__(self, channels: int, out_channels: int | None = None, *, compression: float = 0.5) -> None:
        super().__init__()
        check_sizes(channels=channels)
        if not 0 < compression <= 1:
            raise InputError(f"compression is above 0 and at most 1, got {compression}")
        out = max(1, int(channels * compression)) if out_channels is None else out_channels
        check_sizes(out_channels=out)
        self.channels, self.out_channels = channels, out
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, out, 1, bias=False)
        self.pool = nn.AvgPool2d(2)

    def forward(self, A: Tensor) -> Tensor:
        check_picture(A, self.channels, least=2)
        found: Tensor = self.pool(self.conv(torch.relu(self.norm(A))))
        return found


def residual_network(
    channels: int,
    classes: int,
    *,
    widths: Sequence[int] = (16, 32),
    blocks: int = 3,
    form: str = "preactivation",
) -> nn.Sequential:
    """A residual network for small pictures, from a picture to the scores of classes.

    Args:
        channels: of a picture, 1 for grey ones.
        classes: how many.
        widths: channels of each stage; every stage but the first begins by halving the size.
        blocks: in each stage.
        form: of the blocks.

    Shapes: pictures (B, channels, H, W); scores (B, classes).

    Raises:
        InputError: an argument does not fit.
    """
    check_sizes(channels=channels, classes=classes, stages=len(widths), blocks=blocks)
    parts: list[nn.Module] = [nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)]
    if form == "basic":
        parts += [nn.BatchNorm2d(widths[0]), nn.ReLU()]
    for stage, (before, width) in enumerate(pairwise((widths[0], *widths))):
        halves = stage > 0
        parts.append(ResidualBlock(before, width, stride=1 + halves, form=form, projection=halves))
        parts += [ResidualBlock(width, form=form) for _ in range(blocks - 1)]
    if form != "basic":
        parts += [nn.BatchNorm2d(widths[-1]), nn.ReLU()]
    return _with_head(parts, widths[-1], classes)


def dense_network(
    channels: int,
    classes: int,
    *,
    layers: Sequence[int] = (4, 4),
    growth: int = 8,
    compression: float = 0.5,
    bottleneck: bool = False,
) -> nn.Sequential:
    """A dense network for small pictures, from a picture to the scores of classes.

    Args:
        channels: of a picture, 1 for grey ones.
        classes: how many.
        layers: of each dense block; between two blocks there is a transition.
        growth: channels that each layer adds; the first convolution gives twice as many.
        compression: of the transitions.
        bottleneck: see `DenseBlock`.

    Shapes: pictures (B, channels, H, W), at least 2 ** (len(layers) - 1) high and wide; scores (B, classes).

    Raises:
        InputError: an argument does not fit.
    """
    check_sizes(channels=channels, classes=classes, blocks=len(layers), growth=growth)
    width = 2 * growth
    parts: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1, bias=False)]
    for place, count in enumerate(layers):
        if place:
            transition = Transition(width, compression=compression)
            parts.append(transition)
            width = transition.out_channels
        block = DenseBlock(width, count, growth, bottleneck=bottleneck)
        parts.append(block)
        width = block.out_channels
    return _with_head([*parts, nn.BatchNorm2d(width), nn.ReLU()], width, classes)


def check_picture(A: Tensor, channels: int, least: int = 1) -> None:
    """
    Raises:
        InputError: A is no batch of pictures of so many channels that are `least` high and wide.
    """
    if A.ndim != 4 or A.shape[1] != channels:
        raise InputError(f"A has shape {tuple(A.shape)}, expected (B, {channels}, H, W)")
    if min(A.shape[2:]) < least:
        raise InputError(
            f"a picture of {A.shape[2]} x {A.shape[3]} cannot be halved again: take fewer stages or blocks"
        )


def _dense_layer(channels: int, growth: int, bottleneck: bool) -> nn.Sequential:
    parts: list[nn.Module] = [nn.BatchNorm2d(channels), nn.ReLU()]
    if bottleneck:
        inner = 4 * growth
        parts += [nn.Conv2d(channels, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU()]
        channels = inner
    return nn.Sequential(*parts, nn.Conv2d(channels, growth, 3, padding=1, bias=False))


def _with_head(parts: Sequence[nn.Module], width: int, classes: int) -> nn.Sequential:
    """The parts, a mean over the picture, and a linear map; convolutions begin as in He et al. 2015,
    arXiv:1502.01852."""
    network = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network
