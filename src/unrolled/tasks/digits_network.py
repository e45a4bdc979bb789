"""Classifiers of grey pictures: the same head on a stack of layers of any kind."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn

from unrolled.cell import EquationCell
from unrolled.cells import find
from unrolled.errors import InputError
from unrolled.nn.convolutional import dense_network, residual_network
from unrolled.nn.deep import Deep
from unrolled.nn.dense import Dense, started
from unrolled.options import read_call
from unrolled.tasks.digits_config import DigitsConfig
from unrolled.tasks.settings import pattern_of
from unrolled.unroll import Checkpointed

CELL_OF: Final = {"plain": "rnn"}
"""Where a network is not called like its cell."""


def cell_through_depth(config: DigitsConfig) -> EquationCell:
    """The cell of a network that runs one through depth.

    Where nothing else is said, a highway carry begins so far open that each of L layers lets in 1/L.

    Raises:
        CellError: there is no such cell, or it has no such option.
        InputError: it has no `activation`, and one was asked for.
    """
    name, options = read_call(config.network)
    cell = find(CELL_OF.get(name, name))
    there = cell.option_help
    given: dict[str, object] = dict(options)
    if "activation" in there:
        given.setdefault("activation", config.activation)
    elif config.activation != "relu":
        raise InputError(f"cell {name!r} has no activation to choose; leave out --activation")
    if name == "highway" and config.depth > 1:
        given.setdefault("carry_bias", round(math.log(config.depth - 1), 3))
    return cell.with_options(**given) if given else cell


class Classifier(nn.Module):
    """From pictures (B, H, W) to scores of classes (B, classes).

    Pixels are shifted and scaled to mean 0 and variance 1, by those to train on. A network that is not
    convolutional reads them through a linear map to its width, and is read through another.

    Args:
        size: height and width.
        pixels: those to train on, (N, H, W).
    """

    def __init__(self, config: DigitsConfig, size: tuple[int, int], classes: int, pixels: Tensor) -> None:
        super().__init__()
        dtype = getattr(torch, config.dtype)
        self.register_buffer("mean", pixels.mean().to(dtype))
        self.register_buffer("spread", pixels.std().clamp_min(1e-6).to(dtype))
        self.mean: Tensor
        self.spread: Tensor
        self.policy = Checkpointed(memory=config.memory) if config.memory else None
        self.kind = config.network
        self.convolutional = config.network.startswith("conv-")
        self.body: nn.Sequential | Dense | Deep
        if self.convolutional:
            self.body = _convolutional(config, classes).to(dtype)
            return
        init = dict(pattern_of("init", text, "INITIALISER", "'f.h=orthogonal'") for text in config.init)
        self.read = nn.Linear(size[0] * size[1], config.width, dtype=dtype)
        if config.network == "dense":
            self.body = Dense(
                config.width, config.depth, config.growth, config.activation,
                norm=config.norm, init=init, dtype=dtype,
            )  # fmt: skip
            width = self.body.form.total
        else:
            cell = cell_through_depth(config)
            self.kind = cell.name.replace("rnn", "plain", 1) if config.network == "plain" else cell.name
            self.body = Deep(
                cell,
                config.width,
                config.depth,
                norm=config.norm,
                weight_norm=config.weight_norm,
                init=_starts(cell, config) | init,
                dtype=dtype,
            )
            width = config.width
        self.head = nn.Linear(width, classes, dtype=dtype)

    def forward(self, pixels: Tensor) -> Tensor:
        A = (pixels.to(self.mean.dtype) - self.mean) / self.spread
        if self.convolutional:
            scores: Tensor = self.body(A.unsqueeze(1))
            return scores
        A = self.read(A.flatten(1))
        through = self.body(A) if self.policy is None else self.body(A, bptt=self.policy)
        found: Tensor = self.head(through)
        return found

    def norms_by_layer(self, loss: Tensor) -> list[float]:
        """The L2 norm of the loss's gradient for the parameters of each layer, from the first to the last."""
        if isinstance(self.body, Deep):
            found = torch.autograd.grad(loss, [*self.body.parameters()])  # each of all layers
            squares = torch.stack([d.flatten(1).double().square().sum(1) for d in found]).sum(0)
        else:
            layers = [[*child.parameters()] for child in self.body.children()]
            layers = [layer for layer in layers if layer]
            each = iter(torch.autograd.grad(loss, [p for layer in layers for p in layer]))
            of_layers = [[next(each).double().square().sum() for _ in layer] for layer in layers]
            squares = torch.stack([torch.stack(squared).sum() for squared in of_layers])
        norms: list[float] = squares.sqrt().tolist()
        return norms


def _starts(cell: EquationCell, config: DigitsConfig) -> dict[str, str]:
    """How the matrices of a network through depth begin, where nothing else is said.

    So that a layer's values are as large as what it reads. Those that end a residual branch are 1/depth as
    large, or what is added up would grow exponentially.
    """
    how = started(config.activation)
    if cell.base_name == "residual":
        last = "g.f" if cell.options["products"] == "two" else "f*.h"
        return {"*.h": how, last: f"{how}:{1 / config.depth}"}
    return {"h*.h": how} if cell.base_name == "rnn" else {}


def _convolutional(config: DigitsConfig, classes: int) -> nn.Sequential:
    if config.network == "conv-residual":
        widths = (config.width, 2 * config.width)
        return residual_network(1, classes, widths=widths, blocks=config.depth)
    return dense_network(1, classes, layers=(config.depth, config.depth), growth=config.growth)
