"""Captions of similar pictures, as a second opinion on every word.

A network that learned from few pictures mixes up what fits many of them a little; the captions of those that
look most alike are whole. So a caption c of a picture is written by a mixture of both,

    p(c) = (1 − λ) p_network(c) + λ Σ_i w_i [c = c_i],    w = softmax(β u · u_i),

with the pictures i that were learned from, their captions c_i, and u what pictures are alike by (the roots of
mean features, see `unrolled.tasks.maps.roots`), divided by its length. Word by word that is, with the words
that were written before,

    p(word | before) ∝ (1 − λ) p_network(before, word) + λ Σ_i w_i [c_i begins with before, word].

Source: Devlin et al. 2015, arXiv:1505.04467, on captions of nearest neighbours; Khandelwal et al. 2020,
arXiv:1911.00172, mix words of a network and of neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unrolled.data.subwords import END, PAD
from unrolled.nn.decoder import Spoken

SHARPNESS: Final = 40.0
"""β: of two pictures the one whose cosine is larger by 0.1 has about 50 times the weight."""

MOST: Final = 2000
"""Pictures that are kept, at most."""

Step = Callable[[Tensor, Spoken], tuple[Tensor, Spoken, Tensor | None]]


@dataclass(frozen=True, eq=False)
class Mixed:
    """What is carried from word to word.

    Shapes: weights (B, C), w_i of the captions that begin as what was written, else 0; network (B,), the
        logarithm of the network's probability of that; next_words (B, V), those of words at the last step.
    """

    spoken: Spoken
    weights: Tensor
    network: Tensor
    next_words: Tensor | None = None
    written: int = 0

    def select(self, rows: Tensor, within: bool) -> Mixed:
        """That of other rows."""
        return replace(
            self,
            spoken=self.spoken.select(rows, within),
            weights=self.weights[rows],
            network=self.network[rows],
            next_words=None if self.next_words is None else self.next_words[rows],
        )


class Neighbours(nn.Module):
    """The pictures that were learned from, and their captions; nothing of it is trained.

    Args:
        share: λ, from 0 to 1.
        features: (N, D), what pictures are alike by.
        places: (C,), the picture of each caption.
        captions: (C, L), the words of each, END, and PAD.
    """

    features: Tensor
    places: Tensor
    captions: Tensor

    def __init__(self, share: float, features: Tensor, places: Tensor, captions: Tensor) -> None:
        super().__init__()
        self.share = share
        self.register_buffer("features", features)
        self.register_buffer("places", places)
        self.register_buffer("captions", captions)

    @classmethod
    def of(cls, share: float, features: Tensor, said: Sequence[Sequence[Sequence[int]]]) -> Neighbours:
        """Those of N pictures, or of as many among them as are kept.

        Args:
            features: (N, D).
            said: the captions of each, as numbers of words.
        """
        kept = range(0, len(said), -(-len(said) // MOST))
        pairs = [(k, each) for k, place in enumerate(kept) for each in said[place]]
        captions = torch.full((len(pairs), max(len(each) for _, each in pairs) + 1), PAD)
        for row, (_, each) in zip(captions, pairs, strict=True):
            row[: len(each) + 1] = torch.tensor([*each, END])
        return cls(share, features[[*kept]], torch.tensor([k for k, _ in pairs]), captions)

    @classmethod
    def like(cls, share: float, tensors: Mapping[str, Tensor], prefix: str) -> Neighbours:
        """Room for those of a checkpoint.

        Raises:
            KeyError: it has none.
        """
        names = ("features", "places", "captions")
        return cls(share, *(torch.zeros_like(tensors[f"{prefix}{name}"]) for name in names))

    def begin(self, spoken: Spoken, features: Tensor) -> Mixed:
        """Before the first word, of pictures with these features (B, D)."""
        unit = [F.normalize(each.to(self.features), dim=1) for each in (features, self.features)]
        likeness = unit[0] @ unit[1].t()
        each = self.places.bincount(minlength=len(self.features))  # captions of a picture share its weight
        weights = ((SHARPNESS * likeness).softmax(1) / each)[:, self.places]
        return Mixed(spoken, weights, weights.new_zeros(len(weights)))

    def step(self, network: Step, words: Tensor, state: Mixed) -> tuple[Tensor, Mixed, Tensor | None]:
        """One word on: the logarithm of p(before, word) for every word (B, V), the state after, and where the
        network looked."""
        weights, before, t = state.weights, state.network, state.written
        if state.next_words is not None:
            weights = weights * (self._words(t - 1) == words[:, None])
            before = before + state.next_words.gather(1, words[:, None])[:, 0]
        logits, spoken, looked = network(words, state.spoken)
        next_words = F.log_softmax(logits, -1)
        said = self._words(t).expand(len(words), -1)
        of_neighbours = torch.zeros_like(next_words).scatter_add_(1, said, weights.to(next_words))
        of_network = (before[:, None] + next_words).exp()
        both = (1 - self.share) * of_network + self.share * of_neighbours
        least = torch.finfo(both.dtype).tiny
        return both.clamp(min=least).log(), Mixed(spoken, weights, before, next_words, t + 1), looked

    def _words(self, t: int) -> Tensor:
        """Word t of every caption (1, C)."""
        if t < self.captions.shape[1]:
            return self.captions[None, :, t]
        return torch.full_like(self.captions[None, :, 0], PAD)
