"""A decoder: words one after the other, each from those before it and from a memory.

    attention=None       s_t = cell(y_{t−1}, s_{t−1}),                  f_t = h_t
    attention="after"    the same, z_t = attention(h_t),                f_t = tanh(W_f [h_t, z_t])
    attention="inside"   z_t = attention(h_{t−1}), s_t = cell(y_{t−1}, z_t, s_{t−1}),
                                                                        f_t = tanh(W_f [h_t, z_t])
    fed (inside)         a_t = tanh(W [z_{t+1}, h_t]) enters step t + 1,  f_t = a_t

and p(y_t) = softmax(V f_t + b). Attention after the recurrence is done for all steps at once; inside, it goes
with the first layer, and further layers run over what that hands on (Wu et al. 2016, arXiv:1609.08144).

A memory of one place is read whole: inside, it enters every step; after, it stands beside the recurrence, as
the multimodal layer of Mao et al. 2015, arXiv:1412.6632.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unrolled.attend import Memory
from unrolled.cell import Cell
from unrolled.errors import InputError, check_sizes
from unrolled.nn.attention import Attention
from unrolled.nn.attentive import Attentive
from unrolled.nn.recurrent import Recurrent

PLACES: Final = (None, "after", "inside")


@dataclass(frozen=True, eq=False)
class Spoken:
    """Where a decoder is: what it carries from word to word, for B rows.

    Shapes: states by name (layers, B, H); memory (B, S, ·), None without attention; last (B, S), the weights
        of the step before, None at the first.
    """

    states: Mapping[str, Tensor]
    memory: Memory | None = None
    last: Tensor | None = None

    def select(self, rows: Tensor, within: bool = False) -> Spoken:
        """That of these rows; with `within` each is of the same sequence as the one it replaces, so that the
        memory stays."""
        states = {name: value.index_select(1, rows) for name, value in self.states.items()}
        memory = self.memory if within or self.memory is None else self.memory.select(rows)
        return Spoken(states, memory, None if self.last is None else self.last[rows])


@dataclass(frozen=True, eq=False)
class Decoded:
    """What a decoder made of words that it was given.

    Shapes: features (T, B, F); weights (T, B, S), None without attention; chosen (T, B) where places are
        drawn, with `drawn` the weights they were drawn by; hidden (T, B, H), of the layer that asks.
    """

    features: Tensor
    end: Spoken
    weights: Tensor | None = None
    chosen: Tensor | None = None
    hidden: Tensor | None = None


class Decoder(nn.Module):
    """A decoder of any cell, with or without attention.

    Args:
        cell: a cell, or a name of the zoo.
        words: V, the size of the vocabulary.
        embedding: E, the width of a word.
        hidden: H, the width of every state.
        layers: layers of the cell.
        attention: None, "after" or "inside" the step.
        memory: M, the width of what there is to look at; needed for attention.
        score: see `unrolled.nn.attention.Attention`.
        width: A, of additive scores.
        enters: how the context enters the step, where attention is inside: "plain", "gated" or "fed".
        hard: one place is looked at, inside the step: one that is drawn, if `forward` is given numbers, and
            otherwise the likeliest.
        dropout: of embeddings, between layers and of features, in training.
        tied: the words of input and output have the same vectors, of width E: features are E wide then.
        norm, backend: as of `Recurrent`.

    Raises:
        InputError, CellError: something does not fit.

    Source: Bahdanau, Cho & Bengio 2015, arXiv:1409.0473; Luong, Pham & Manning 2015, arXiv:1508.04025; Xu et
    al. 2015, arXiv:1502.03044; Press & Wolf 2017, arXiv:1608.05859 for tied vectors.
    """

    def __init__(
        self,
        cell: Cell | str,
        words: int,
        embedding: int,
        hidden: int,
        layers: int = 1,
        *,
        attention: str | None = None,
        memory: int | None = None,
        score: str = "additive",
        width: int | None = None,
        enters: str = "plain",
        hard: bool = False,
        dropout: float = 0.0,
        tied: bool = False,
        norm: str | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_sizes(words=words, embedding=embedding, hidden=hidden, layers=layers)
        if attention not in PLACES:
            raise InputError(f"attention is None, 'after' or 'inside', got {attention!r}")
        if not 0 <= dropout < 1:
            raise InputError(f"dropout must be from 0 and below 1, got {dropout}")
        if attention is None and memory is not None:
            raise InputError(
                "a memory is looked at with attention='after' or 'inside': give one, or no memory"
            )
        if attention != "inside" and (enters != "plain" or hard):
            raise InputError(f"{'hard=True' if hard else f'enters={enters!r}'} is for attention='inside'")
        if hard and enters == "fed":
            raise InputError("hard attention enters the step itself: take enters='plain' or 'gated'")
        if attention == "after" and score == "location":
            raise InputError("location-aware attention goes step by step: take attention='inside'")
        self.words, self.hidden, self.layers = words, hidden, layers
        self.place, self.enters, self.hard, self.tied = attention, enters, hard, tied
        self.embed = nn.Embedding(words, embedding)
        nn.init.normal_(self.embed.weight, std=embedding**-0.5)
        self.drop = nn.Dropout(dropout)
        self.attention: Attention | None = None
        self.first: Attentive | None = None
        self.upper: Recurrent | None = None
        below, left = embedding, layers
        if attention is not None:
            if memory is None:
                raise InputError("attention needs memory=, the width of what there is to look at")
            looks = Attention(hidden, memory, score, width)
            if attention == "inside":
                self.first = Attentive(
                    cell, embedding, hidden, looks, enters=enters, norm=norm, backend=backend
                )
                below, left = (hidden if enters == "fed" else hidden + memory), layers - 1
            else:
                self.attention = looks
        if left:
            between = dropout if left > 1 else 0.0
            self.upper = Recurrent(cell, below, hidden, left, dropout=between, norm=norm, backend=backend)
        joined = hidden + (memory or 0)
        features = embedding if tied else hidden
        self.join: nn.Linear | None = None
        if attention is not None and not self._fed:
            self.join = nn.Linear(joined, features, bias=False)
        elif tied and embedding != hidden:
            self.join = nn.Linear(hidden, features, bias=False)
        self.head = nn.Linear(features, words)
        if tied:
            self.head.weight = self.embed.weight
        nn.init.zeros_(self.head.bias)

    @property
    def _fed(self) -> bool:
        return self.enters == "fed"

    @property
    def looks(self) -> Attention | None:
        """The attention, wherever it is."""
        return self.attention if self.first is None else self.first.attention

    @property
    def state_names(self) -> tuple[str, ...]:
        """The cell's states."""
        layer = self.first or self.upper
        assert layer is not None
        return layer.cell.states

    def begin(
        self,
        batch: int,
        states: Mapping[str, Tensor] | None = None,
        values: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Spoken:
        """What a decoder begins with.

        Args:
            batch: B, the number of sequences.
            states: the first states by name, each (layers, B, H); the cell's own if not given.
            values: (B, S, M), what there is to look at; needed with attention.
            mask: (B, S), true where there is something.

        Raises:
            InputError: something does not fit.
        """
        looks = self.looks
        if (values is None) != (looks is None):
            raise InputError("a decoder with attention needs values to look at, and one without takes none")
        like = self.embed.weight
        if states is None:
            parts = []
            if self.first is not None:
                parts.append({name: v[None] for name, v in self.first.initial_state(batch).items()})
            if self.upper is not None:
                parts.append(self.upper.initial_state(batch, like))
            states = {name: torch.cat([part[name] for part in parts]) for name in self.state_names}
        for name in self.state_names:
            expected = self.layers, batch, self.hidden
            if name not in states or states[name].shape != expected:
                got = tuple(states[name].shape) if name in states else "missing"
                raise InputError(f"the first state {name!r} is {got}, expected {expected}")
        memory = None if looks is None or values is None else looks.memory(values, mask)
        if memory is not None and len(memory.mask) != batch:
            raise InputError(f"there are values for {len(memory.mask)} sequences, expected {batch}")
        return Spoken(states, memory)

    def forward(self, words: Tensor, state: Spoken, uniform: Tensor | None = None) -> Decoded:
        """Features of every step, where word t is read at step t.

        Args:
            words: (T, B), or their vectors (T, B, E), such as a picture in place of a word.
            uniform: (T, B), numbers from 0 to 1 by which places are drawn, if attention is hard.

        Raises:
            InputError: something does not fit.
        """
        x = self.drop(self.embed(words) if words.ndim == 2 else words)
        if uniform is not None and not self.hard:
            raise InputError("places are drawn by a decoder with hard=True")
        if self.first is None:
            return self._after(x, state)
        if self.hard and uniform is None:
            uniform = x.new_full(x.shape[:2], -1.0)
        return self._inside(x, state, uniform)

    def _after(self, x: Tensor, state: Spoken) -> Decoded:
        assert self.upper is not None
        h, end = self.upper(x, state.states)
        weights = None
        features = h
        if state.memory is not None:
            weights = state.memory.weights(h)
            features = torch.cat([h, state.memory.mean(weights)], -1)
        if self.join is not None:
            features = torch.tanh(self.join(features)) if self.place else self.join(features)
        return Decoded(self.drop(features), Spoken(end, state.memory), weights, hidden=h)

    def _inside(self, x: Tensor, state: Spoken, uniform: Tensor | None) -> Decoded:
        assert self.first is not None
        assert state.memory is not None
        T = len(x)
        own = {name: value[0] for name, value in state.states.items()}
        found = self.first(x, state.memory, own, last=state.last, uniform=uniform)
        h, contexts, weights = found.outputs[self.state_names[0]], found.contexts, found.weights
        if self._fed:
            # What follows step t is fed to step t + 1: the last needs one look more.
            last, after, _ = state.memory.look(h[-1], last=weights[-1])
            ahead = torch.cat([contexts[1:], last[None]])
            features = self.first.fed(ahead, h)
            weights = torch.cat([weights[1:], after[None]])
        else:
            features = torch.cat([h, contexts], -1)
        ends = {name: value[None] for name, value in found.state.items()}
        if self.upper is not None:
            rest = {name: value[1:] for name, value in state.states.items()}
            top, upper = self.upper(self.drop(features), rest)
            ends = {name: torch.cat([ends[name], upper[name]]) for name in ends}
            features = top if self._fed else torch.cat([top, contexts], -1)
        if self.join is not None:
            features = torch.tanh(self.join(features))
        end = replace(state, states=ends, last=found.weights[T - 1])
        return Decoded(self.drop(features), end, weights, found.chosen, h)

    def logits(self, features: Tensor) -> Tensor:
        """Of every word, (..., V)."""
        found: Tensor = self.head(features)
        return found

    def loss(self, features: Tensor, targets: Tensor, there: Tensor, smoothing: float = 0.0) -> Tensor:
        """The cross-entropy in nats of the words that are there, summed.

        Args:
            features: (T, B, F).
            targets: (T, B).
            there: (T, B), true where there is a word.
            smoothing: ε of label smoothing (Szegedy et al. 2016, arXiv:1512.00567).
        """
        logits = self.logits(features[there])
        return F.cross_entropy(logits, targets[there], reduction="sum", label_smoothing=smoothing)

    def log_likelihood(self, features: Tensor, targets: Tensor, there: Tensor) -> Tensor:
        """log p of each sequence (B,)."""
        nats = -F.cross_entropy(self.logits(features).movedim(-1, 1), targets, reduction="none")
        return (nats * there).sum(0)

    def step(self, words: Tensor, state: Spoken) -> tuple[Tensor, Spoken, Tensor | None]:
        """One word on, as decoding asks for it.

        Args:
            words: (B,), the last words.

        Returns:
            logits (B, V), the state after these words, and where was looked (B, S).
        """
        found = self(words[None], state)
        weights = None if found.weights is None else found.weights[0]
        return self.logits(found.features[0]), found.end, weights

    def extra_repr(self) -> str:
        return f"words={self.words}, attention={self.place!r}"
