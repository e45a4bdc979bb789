"""One sequence to another: an encoder, a bridge of final states, and a decoder with or without attention.

source words -> encoder, of any cell, in one direction or both, in layers -> values (S, B, M), final states
final states -> bridge -> the decoder's first states, by name, layer by layer
target words -> decoder, which may look at the values -> logits of the next word
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn

from unrolled.cell import Cell
from unrolled.errors import InputError, check_sizes
from unrolled.nn.decoder import Decoded, Decoder, Spoken
from unrolled.nn.dropout import Dropout
from unrolled.nn.recurrent import Recurrent
from unrolled.nn.word_loss import word_loss

BRIDGES: Final = ("pass", "map")


class Bridge(nn.Module):
    """An encoder's final states, made the first states of a decoder with as many layers.

        pass   s_0 = [h→, h←], both directions of a layer joined
        map    s_0 = tanh(W [h→, h←] + b), of each state and layer its own

    Args:
        names: the cell's states.
        layers: layers of either side.
        given: the width of both directions together.
        taken: H, the width of the decoder's states.
        kind: "pass" where the widths are equal, or "map".

    Shapes: states by name (layers · directions, B, ·) to (layers, B, H).

    Raises:
        InputError: no such kind, or states cannot be passed as they are.
    """

    def __init__(self, names: tuple[str, ...], layers: int, given: int, taken: int, kind: str) -> None:
        super().__init__()
        if kind not in BRIDGES:
            raise InputError(f"a bridge is {' or '.join(BRIDGES)}, not {kind!r}")
        if kind == "pass" and given != taken:
            raise InputError(
                f"final states of {given} cannot be passed to a decoder of {taken}: take bridge='map', or "
                "an encoder whose directions together are as wide as the decoder"
            )
        self.layers, self.kind = layers, kind
        mapped = names if kind == "map" else ()
        self.maps = nn.ModuleDict(
            {f"{name}{layer}": nn.Linear(given, taken) for name in mapped for layer in range(layers)}
        )

    def forward(self, states: Mapping[str, Tensor]) -> dict[str, Tensor]:
        joined = {
            name: torch.cat(value.reshape(self.layers, -1, *value.shape[1:]).unbind(1), -1)
            for name, value in states.items()
        }
        if self.kind == "pass":
            return joined
        return {
            name: torch.stack([torch.tanh(self.maps[f"{name}{k}"](v)) for k, v in enumerate(value)])
            for name, value in joined.items()
        }

    def extra_repr(self) -> str:
        return self.kind


class Seq2Seq(nn.Module):
    """A sequence of words from another.

    Args:
        cell: of both sides, a cell or a name of the zoo.
        source_words, target_words: the sizes of the vocabularies.
        embedding: E, the width of a word.
        hidden: H, the width of the decoder's states.
        layers: of either side.
        encoder_hidden: the width of the encoder's states, of each direction; H, or half of it where there are
            two directions.
        bidirectional: the encoder reads from both ends.
        bridge: "pass" or "map", see `Bridge`; passed on where widths allow it.
        attention, score, width, enters: see `unrolled.nn.decoder.Decoder`.
        dropout: of embeddings, between layers and of features, in training.
        tied: words of the decoder's input and output have the same vectors.
        shared: source and target are of one vocabulary, and words have the same vectors on both sides.
        lexical: beside the encoder's states the vectors of its words are looked at, so that what a word means
            need not go through the recurrence (in the manner of Nguyen & Chiang 2018, arXiv:1710.01329).
        norm, backend: as of `Recurrent`.

    Shapes: source (S, B), target (T, B), lengths (B,).

    Raises:
        InputError, CellError: something does not fit.

    Source: Sutskever, Vinyals & Le 2014, arXiv:1409.3215; Cho et al. 2014, arXiv:1406.1078; Bahdanau, Cho &
    Bengio 2015, arXiv:1409.0473; Luong, Pham & Manning 2015, arXiv:1508.04025.
    """

    def __init__(
        self,
        cell: Cell | str,
        source_words: int,
        target_words: int,
        embedding: int,
        hidden: int,
        layers: int = 1,
        *,
        encoder_hidden: int | None = None,
        bidirectional: bool = False,
        bridge: str | None = None,
        attention: str | None = None,
        score: str = "additive",
        width: int | None = None,
        enters: str = "plain",
        dropout: float = 0.0,
        tied: bool = False,
        shared: bool = False,
        lexical: bool = False,
        norm: str | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_sizes(source_words=source_words, hidden=hidden)
        if shared and source_words != target_words:
            raise InputError(
                f"shared vectors are of one vocabulary, but there are {source_words} words of the source and "
                f"{target_words} of the target"
            )
        if lexical and attention is None:
            raise InputError("lexical=True is of attention: what is looked at has the words' vectors too")
        directions = 1 + bidirectional
        own = encoder_hidden or max(1, hidden // directions)
        self.decoder = Decoder(
            cell,
            target_words,
            embedding,
            hidden,
            layers,
            attention=attention,
            memory=None if attention is None else directions * own + embedding * lexical,
            score=score,
            width=width,
            enters=enters,
            dropout=dropout,
            tied=tied,
            norm=norm,
            backend=backend,
        )
        self.embed = self.decoder.embed if shared else nn.Embedding(source_words, embedding)
        if not shared:
            nn.init.normal_(self.embed.weight, std=embedding**-0.5)
        self.drop = self.decoder.drop = Dropout(dropout)
        self.lexical = lexical
        self.encoder = Recurrent(
            cell,
            embedding,
            own,
            layers,
            bidirectional=bidirectional,
            dropout=dropout if layers > 1 else 0.0,
            norm=norm,
            backend=backend,
        )
        kind = bridge or ("pass" if directions * own == hidden else "map")
        self.bridge = Bridge(self.decoder.state_names, layers, directions * own, hidden, kind)

    def encode(self, source: Tensor, lengths: Tensor | None = None) -> Spoken:
        """What the decoder begins with.

        Args:
            source: (S, B), word numbers; padded with any behind `lengths`.
            lengths: (B,), words of each; all S if not given. Of a sentence of none the encoder's first states
                are passed on, and there is nothing to look at.
        """
        S, B = source.shape
        x = self.drop(self.embed(source))
        values, states = self.encoder(x, lengths=lengths)
        first = self.bridge(states)
        if self.decoder.looks is None:
            return self.decoder.begin(B, first)
        if self.lexical:
            values = torch.cat([values, x], -1)
        mask = None
        if lengths is not None:
            mask = torch.arange(S, device=source.device) < lengths.to(source.device)[:, None]
        return self.decoder.begin(B, first, values.transpose(0, 1), mask)

    def forward(self, source: Tensor, target: Tensor, lengths: Tensor | None = None) -> Decoded:
        """Features of every step of the target, of which word t is read at step t; see `Decoder.forward`."""
        found: Decoded = self.decoder(target, self.encode(source, lengths))
        return found

    def loss(self, features: Tensor, targets: Tensor, there: Tensor, smoothing: float = 0.0) -> Tensor:
        """What `Decoder.loss` gives, in less time and memory: see `unrolled.nn.word_loss`."""
        if bool(there.all()):
            return word_loss(features.flatten(0, 1), self.decoder.head, targets.flatten(), smoothing)
        return word_loss(features[there], self.decoder.head, targets[there], smoothing)

    def step(self, words: Tensor, state: Spoken) -> tuple[Tensor, Spoken, Tensor | None]:
        """One word on; see `Decoder.step`."""
        return self.decoder.step(words, state)
