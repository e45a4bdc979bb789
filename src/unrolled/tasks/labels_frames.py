"""Digits that move, change and hide: sequences of frames in which one frame alone does not tell its label.

A digit, a picture of h x w pixels, moves over a square canvas in a straight line, at a speed drawn from -2 to
2 pixels a frame in each direction, and bounces off the edges; places are rounded to whole pixels. In each
frame it is in sight or hidden:

    in sight -> hidden     with probability `hide`
    hidden   -> in sight   with probability `reappear`
    in sight -> in sight   else; then, with probability `change`, another picture takes its place

The first frame is in sight. So whatever is hidden was seen before, and is the last that was: the label of
every frame is the class of that picture. Normal noise is added to every pixel of every frame; where the digit
is hidden there is nothing else. In the long run the share of hidden frames is hide / (hide + reappear); of
these a frame alone says nothing, and at best the commonest class is guessed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unrolled.data.pictures import Pictures
from unrolled.errors import InputError
from unrolled.tasks.labels_config import FramesConfig
from unrolled.tasks.labels_examples import Batch

SPEED = 2.0
"""Pixels a frame in each direction, at most."""

HELD_OUT = 512
"""Sequences to test on."""


@dataclass(frozen=True, eq=False)
class MovingDigits:
    """Sequences that are made up as they are read, always the same for the same step.

    Args:
        pictures: what moves.
        config: how; see above.
        seed: of all that is drawn.
        held_out: whether to test on; other sequences are drawn then.
    """

    pictures: Pictures
    config: FramesConfig
    seed: int
    held_out: bool = False

    def __post_init__(self) -> None:
        if self.canvas < max(self.pictures.size):
            sizes = " x ".join(map(str, self.pictures.size))
            raise InputError(f"--canvas {self.canvas} has no room for pictures of {sizes}")

    @property
    def canvas(self) -> int:
        return self.config.canvas or 2 * max(self.pictures.size)

    def batch(self, step: int) -> Batch:
        return self.drawn(self.config.batch, step)[0]

    def batches(self) -> Iterator[Batch]:
        for begin in range(0, HELD_OUT, 128):
            yield self.drawn(128, begin)[0]

    def few(self, count: int, steps: int) -> Batch:
        return self.drawn(count, 0)[0].part(count, steps)

    @property
    def sha256(self) -> str:
        c = self.config
        how = (self.canvas, c.frames, c.noise, c.change, c.hide, c.reappear)
        return hashlib.sha256(f"{self.pictures.sha256} {how}".encode()).hexdigest()

    def drawn(self, count: int, number: int) -> tuple[Batch, Tensor]:
        """So many sequences, and where the digit is in sight: bools (T, B)."""
        c, T, B = self.config, self.config.frames, count
        mixed = np.random.SeedSequence((self.seed, self.held_out, number)).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(mixed[0]) >> 1)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator)

        chances, drawn = uniform(T, B), torch.randint(len(self.pictures), (T, B), generator=generator)
        changes = uniform(T, B) < c.change
        sight = torch.ones(T, B, dtype=torch.bool)
        shown = drawn.clone()
        for t in range(1, T):
            sight[t] = torch.where(sight[t - 1], chances[t] >= c.hide, chances[t] < c.reappear)
            another = sight[t] & sight[t - 1] & changes[t]
            shown[t] = torch.where(another, drawn[t], shown[t - 1])
        frames = c.noise * torch.randn(T, B, self.canvas, self.canvas, generator=generator)
        places = [self._bounced(uniform(B), uniform(B), side) for side in self.pictures.size]
        pixels = self.pictures.pixels[shown] * sight[..., None, None]
        h, w = self.pictures.size
        rows = places[0][..., None, None] + torch.arange(h)[:, None]
        columns = places[1][..., None, None] + torch.arange(w)
        at = (rows * self.canvas + columns).flatten(2)
        frames.flatten(2).scatter_add_(2, at, pixels.flatten(2))
        labels = self.pictures.labels[shown]
        return Batch(frames.to(getattr(torch, c.dtype)), torch.full((B,), T), labels), sight

    def _bounced(self, begin: Tensor, speed: Tensor, side: int) -> Tensor:
        """Places (T, B) of something of this side that begins somewhere and goes to and fro."""
        room = self.canvas - side
        if not room:
            return torch.zeros(self.config.frames, len(begin), dtype=torch.long)
        steps = torch.arange(self.config.frames)[:, None]
        way = (2 * room * begin + (2 * speed - 1) * SPEED * steps) % (2 * room)
        return torch.where(way > room, 2 * room - way, way).round().long()
