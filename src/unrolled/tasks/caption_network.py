"""A network that says what is on a picture.

    f_s   features of the picture at places s, and their mean f̄
    v_s = W_v f_s + b_v
    h_0 = tanh(W_0 f̄ + b_0)                             every state that the decoder begins with; soft: zero

    soft     z_t = Σ α_ts v_s enters step t             attention over the places, inside the step
    hard     z_t = v_s of a place drawn by α_t          the likeliest place where captions are written
    first    W_v f̄ is read before the first word
    every    W_v f̄ enters every step
    beside   tanh(W_f [h_t, W_v f̄]) before the words    a multimodal layer

Features are divided by the length of their mean, so that a faint picture is seen as well as a bright one.
Where attention is soft the decoder begins with its cell's own states: what a picture shows comes alone from
where it looks, and so it looks more closely.

Source: Vinyals et al. 2015, arXiv:1411.4555 (first); Mao et al. 2015, arXiv:1412.6632 (beside); Xu et al.
2015, arXiv:1502.03044 (soft, hard).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final, Self

import torch
from torch import Tensor, nn

from unrolled.cell import Cell
from unrolled.nn.decoder import Decoded, Decoder, Spoken
from unrolled.nn.efficientnet import FEATURES, EfficientNetLite0, pixels
from unrolled.nn.reinforce import LearnedBaseline, MovingAverage
from unrolled.tasks.caption_config import CaptionConfig
from unrolled.tasks.caption_neighbours import Neighbours
from unrolled.tasks.vqa_network import Encoder

SCALE: Final = 6.0
"""The length of the mean of features, as the network has them."""

WIDTHS: Final = (32, 64, 128, 192)
"""Channels of the small encoder; each stage halves the size."""


class Tuned(nn.Module):
    """EfficientNet-Lite0 from bytes (B, 3, size, size), to be trained on; the means and spreads by which it
    normalises stay as they are.

    Args:
        weights: by name; initial values are drawn if not given.
    """

    def __init__(self, weights: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.network = EfficientNetLite0(weights)
        del self.network.classes
        self.train()

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.network.eval()
        return self

    def forward(self, squares: Tensor) -> Tensor:
        found: Tensor = self.network(
            pixels(squares.movedim(1, -1)).contiguous(memory_format=torch.channels_last)
        )
        return found


def encoder_of(
    config: CaptionConfig, weights: Mapping[str, Tensor] | None = None
) -> tuple[nn.Module | None, int]:
    """What looks at pictures and learns too, if it does, and how many channels its features have.

    Args:
        weights: that EfficientNet-Lite0 begins with.
    """
    if config.encoder == "small":
        return Encoder(WIDTHS, torch.full((3,), 0.5), torch.full((3,), 0.25)), WIDTHS[-1]
    return Tuned(weights) if config.fine_tune else None, FEATURES


class Captioner(nn.Module):
    """The network.

    Args:
        cell: of the decoder.
        words: the size of the vocabulary.
        channels: C, of features.
        encoder: from bytes (B, 3, size, size) to features, if it learns too; without, features are given.
        neighbours: whose captions take part where captions are written, if any.

    Raises:
        InputError, CellError: a setting does not fit.
    """

    def __init__(
        self,
        config: CaptionConfig,
        cell: Cell,
        words: int,
        channels: int,
        encoder: nn.Module | None = None,
        neighbours: Neighbours | None = None,
    ) -> None:
        super().__init__()
        c = self.config = config
        self.encoder, self.neighbours = encoder, neighbours
        attention = "inside" if c.inside else "after" if c.image == "beside" else None
        self.decoder = Decoder(
            cell, words, c.embedding, c.hidden, c.layers, attention=attention,
            memory=c.picture if attention else None, score=c.score,
            width=c.width if attention and c.score == "additive" else None, enters=c.enters,
            hard=c.image == "hard", dropout=c.dropout,
        )  # fmt: skip
        self.drop = nn.Dropout(c.picture_dropout)
        self.seen = nn.Linear(channels, c.picture if attention else c.embedding)
        begun = () if c.image == "soft" else self.decoder.state_names
        self.start = nn.ModuleDict({name: nn.Linear(channels, c.layers * c.hidden) for name in begun})
        self.baseline: MovingAverage | LearnedBaseline | None = None
        if c.image == "hard":
            self.baseline = MovingAverage() if c.baseline == "average" else LearnedBaseline(c.hidden)
        self.to(getattr(torch, c.dtype))

    def features(self, pictures: Tensor) -> Tensor:
        """Features of places (B, S, C), from maps (B, C, h, w), or from bytes where the encoder learns."""
        found = pictures if self.encoder is None else self.encoder(pictures)
        places = found.to(self.seen.weight.dtype).flatten(2).transpose(1, 2)
        length: Tensor = places.mean(1).norm(dim=1).clamp(min=1e-6)
        return places * (SCALE / length)[:, None, None]

    def begin(self, pictures: Tensor) -> Spoken:
        """What the decoder begins with: see `features`."""
        state, first = self._ready(pictures)
        if first is None:
            return state
        read: Decoded = self.decoder(first, state)
        return read.end

    def writer(self, pictures: Tensor, alike: Tensor | None = None) -> tuple[Any, Any]:
        """What writes captions of pictures, see `unrolled.train.decoding`: a step, and a state to begin with.

        Args:
            alike: (B, C), what pictures are alike by; the network writes alone if not given.
        """
        spoken, step = self.begin(pictures), self.decoder.step
        if self.neighbours is None or alike is None:
            return step, spoken
        return partial(self.neighbours.step, step), self.neighbours.begin(spoken, alike)

    def forward(self, words: Tensor, pictures: Tensor, uniform: Tensor | None = None) -> Decoded:
        """What the decoder makes of captions that it is given.

        Args:
            words: (T, B), START first.
            uniform: (T, B), numbers by which places are drawn, for hard attention.
        """
        state, first = self._ready(pictures)
        if first is None:
            found: Decoded = self.decoder(words, state, uniform)
            return found
        found = self.decoder(torch.cat([first, self.decoder.embed(words)]), state)
        return replace(found, features=found.features[1:])

    def _ready(self, pictures: Tensor) -> tuple[Spoken, Tensor | None]:
        """What the decoder begins with, and what it reads before the first word (1, B, E), if anything."""
        features = self.features(pictures)
        B, whole = len(features), self.drop(features.mean(1))
        states = {
            name: torch.tanh(start(whole)).view(B, self.config.layers, -1).transpose(0, 1).contiguous()
            for name, start in self.start.items()
        } or None
        if self.config.image == "first":
            return self.decoder.begin(B, states), self.seen(whole)[None]
        values = self.seen(self.drop(features) if self.config.places else whole[:, None])
        return self.decoder.begin(B, states, values), None
