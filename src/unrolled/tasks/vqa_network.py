"""A network that answers questions about pictures.

    f_s = convolutions of the picture, at places s        the small encoder, or features from elsewhere
    v_s = W_v f_s + b_v
    q   = the question's states, pooled
    z_g = attention_g(q + z_1 + … + z_(g−1)) over v       glimpses, g = 1 to G
    m   = (W_q q + b_q) ⊙ (W_z z + b_z)                   product, z = Σ z_g
    m   = relu(W_q q + W_z z + b)                         concatenation
    u   = relu(W_u m + b_u)

and from u an answer: softmax(V u + b) over K answers; softmax(c_k · u) over those given with the question,
where c_k is a map of an answer, read as questions are; or words, from a decoder with u beside its recurrence,
normalised, since a large u would saturate the decoder's tanh.
Without pictures m = W_q q + b_q: what questions alone tell.

Source: Agrawal et al. 2015, arXiv:1505.00468, and Kim et al. 2017, arXiv:1610.04325 (product); Yang et al.
2016, arXiv:1511.02274 (glimpses); Zhu et al. 2016, arXiv:1511.03416 (choice).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unrolled.cell import Cell
from unrolled.nn.attention import Attention
from unrolled.nn.decoder import Decoder, Spoken
from unrolled.nn.pooling import Pooling
from unrolled.nn.recurrent import Recurrent
from unrolled.tasks.vqa_answers import Choices, Classes, Ways
from unrolled.tasks.vqa_config import VqaConfig
from unrolled.tasks.vqa_questions import Texts


@dataclass(frozen=True, eq=False)
class Batch:
    """Questions, picture by picture, and answers to choose among.

    Shapes: pictures (P, 3, S, S) of bytes, or features (P, C, h, w); texts U, of questions, then of answers;
        places (Q, P) of each question among the texts, −1 where a picture has fewer questions than others;
        choices (N, C), those of each answer, −1 where there are fewer. N questions are there, in that order.
    """

    pictures: Tensor
    texts: Texts
    places: Tensor
    choices: Tensor | None = None

    @property
    def there(self) -> Tensor:
        """(Q, P), true where there is a question."""
        return self.places >= 0


@dataclass(frozen=True, eq=False)
class Seen:
    """What a network makes of questions.

    Shapes: fused (N, F); weights (G, N, S) of glimpses, None without pictures; texts (U, W), as they were
        read.
    """

    fused: Tensor
    weights: Tensor | None
    texts: Tensor


class Encoder(nn.Sequential):
    """From bytes (P, 3, S, S) to features: 3x3 convolutions of stride 2 with batch normalisation and ReLU,
    and one more of stride 1, by which every place sees what is around it.

    A stride of 2 moves what a place sees by half a pixel of its input, to the left with zeros on the left.
    The last one has them on the right, which undoes what those before it did: so maps lie over pictures as
    they should.
    """

    def __init__(self, widths: tuple[int, ...], mean: Tensor, spread: Tensor) -> None:
        parts: list[nn.Module] = []
        for place, (before, width) in enumerate(pairwise((3, *widths, widths[-1]))):
            last = place == len(widths) - 1
            stride, padding = (2 if place < len(widths) else 1), (0 if last else 1)
            parts += [nn.ZeroPad2d((0, 1, 0, 1))] if last else []
            parts += [
                nn.Conv2d(before, width, 3, stride, padding, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
        super().__init__(*parts)
        self.register_buffer("mean", mean[:, None, None])
        self.register_buffer("spread", spread[:, None, None])
        self.mean: Tensor
        self.spread: Tensor

    def forward(self, pictures: Tensor) -> Tensor:
        pixels = (pictures.to(self.mean.dtype) / 255 - self.mean) / self.spread
        found = pixels.contiguous(memory_format=torch.channels_last)
        for part in self.children():
            found = part(found)
        return found


class Answerer(nn.Module):
    """The network.

    Args:
        cell: that reads questions, and writes answers.
        words: that questions are made of.
        ways: how questions are answered.
        encoder: of pictures; None if features are given.
        features: C, channels of what the encoder gives, or of the features; None for a network without
            pictures.
    """

    def __init__(
        self,
        config: VqaConfig,
        cell: Cell,
        words: int,
        ways: Ways,
        encoder: Encoder | None,
        features: int | None,
    ) -> None:
        super().__init__()
        H = config.hidden * (1 + config.bidirectional)
        self.embed = nn.Embedding(words, config.embedding)
        self.drop = nn.Dropout(config.dropout)
        self.read = Recurrent(
            cell, config.embedding, config.hidden, config.layers, bidirectional=config.bidirectional,
            dropout=config.dropout if config.layers > 1 else 0.0,
        )  # fmt: skip
        self.pool = Pooling(config.pooling, H, bidirectional=config.bidirectional)
        self.encoder = encoder
        self.seen: nn.Linear | None = None
        self.product = config.fusion == "product"
        self.from_question = nn.Linear(H, config.fused)
        self.together = nn.Linear(config.fused, config.fused)
        if features is not None:
            self.seen = nn.Linear(features, H)
            width = config.width if config.score == "additive" else None
            self.attention = nn.ModuleList(
                Attention(H, H, config.score, width) for _ in range(config.glimpses)
            )
            self.from_picture = nn.Linear(H, config.fused, bias=self.product)
        self.head: nn.Linear | None = None
        self.writer: Decoder | None = None
        self.ways = ways
        if isinstance(ways, Classes):
            self.head = nn.Linear(config.fused, len(ways.known))
        elif isinstance(ways, Choices):
            self.head = nn.Linear(H, config.fused, bias=False)
        else:
            self.writer = Decoder(
                cell, len(ways.vocabulary), config.embedding, config.hidden, attention="after",
                memory=config.fused, score="general", dropout=config.dropout,
            )  # fmt: skip
        self.to(getattr(torch, config.dtype))

    def forward(self, batch: Batch) -> Seen:
        """Read the questions, look at the pictures, and put both together."""
        texts = batch.texts
        states, _ = self.read(self.drop(self.embed(texts.numbers)), lengths=texts.lengths)
        read = self.pool(states, lengths=texts.lengths)
        there = batch.there
        asked = read[batch.places[there]]
        mixed, weights = self.from_question(asked), None
        if self.seen is not None:
            found, weights = self._look(read[batch.places.clamp_min(0)], batch.pictures)
            picture = self.from_picture(found[there])
            weights = weights[:, there]
            mixed = mixed * picture if self.product else torch.relu(mixed + picture)
        fused = torch.relu(self.together(mixed))
        return Seen(self.drop(fused), weights, read)

    def _look(self, asked: Tensor, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """What questions (Q, P, H) see in pictures, and where they look, (G, Q, P, S)."""
        assert self.seen is not None
        features = pictures.to(self.seen.weight.dtype) if self.encoder is None else self.encoder(pictures)
        values = self.seen(features.flatten(2).transpose(1, 2))
        found, looks = torch.zeros_like(asked), []
        for attention in self.attention:
            assert isinstance(attention, Attention)
            seen, weights = attention(asked + found, attention.memory(values))
            found = found + seen
            looks.append(weights)
        return found, torch.stack(looks)

    def scores(self, seen: Seen, batch: Batch) -> Tensor:
        """Logits of answers: (N, K) of classes, or (N, C) of those given with each question."""
        assert self.head is not None
        if batch.choices is None:
            found: Tensor = self.head(seen.fused)
            return found
        chosen = self.head(seen.texts)[batch.choices.clamp_min(0)]
        products = torch.einsum("nf,ncf->nc", seen.fused, chosen)
        return products.masked_fill(batch.choices < 0, -torch.inf)

    def begin(self, seen: Seen) -> Spoken:
        """What a decoder of answers begins with."""
        assert self.writer is not None
        fused = F.layer_norm(seen.fused, seen.fused.shape[-1:])
        return self.writer.begin(len(fused), values=fused[:, None])
