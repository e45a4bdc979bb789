"""Small models that write, and what decoding them gives by definition, one sequence and prefix at a time."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from unrolled.train.decoding import Carried, Special

SPECIAL = Special(pad=0, start=1, end=2, unknown=3)


class RandomWriter:
    """An Elman network in float64 that looks at a memory (N, S, H); it counts the rows it is run for."""

    def __init__(self, V: int, H: int = 6, seed: int = 0, sharp: float = 1.5, looks: bool = True) -> None:
        generator = torch.Generator().manual_seed(seed)
        shapes = ((V, H), (H, H), (H, H), (H, V))
        self.E, self.W, self.A, self.O = (
            torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes
        )
        self.V, self.H, self.sharp, self.looks = V, H, sharp, looks
        self.rows: list[int] = []

    def __call__(self, words: Tensor, state: Carried) -> tuple[Tensor, Carried, Tensor | None]:
        self.rows.append(len(words))
        memory, mask = state.memory["memory"], state.memory["mask"]
        scores = (memory @ (2 * state.states[0] @ self.A)[:, :, None])[:, :, 0]
        weights = scores.masked_fill(~mask, -torch.inf).softmax(1)
        context = (weights[:, None] @ memory)[:, 0]
        h = (self.E[words] + state.states[0] @ self.W + context).tanh()
        return self.sharp * h @ self.O, state.after(h[None]), weights if self.looks else None

    def begin(self, B: int, S: int = 4, seed: int = 1) -> Carried:
        """Random sources of 1 to S places."""
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randint(1, S + 1, (B,), generator=generator)
        return Carried(
            torch.randn(1, B, self.H, generator=generator, dtype=torch.float64),
            {
                "memory": torch.randn(B, S, self.H, generator=generator, dtype=torch.float64),
                "mask": torch.arange(S) < lengths[:, None],
            },
        )


class Prefixes:
    """log p of the next word and where the model looks, for every prefix of one sequence."""

    def __init__(self, model, state: Carried, banned=(SPECIAL.pad, SPECIAL.start, SPECIAL.unknown)) -> None:
        self.model, self.banned = model, banned
        self._known = {(): self._run(SPECIAL.start, state)}

    def _run(self, word: int, state):
        logits, after, weights = self.model(torch.tensor([word]), state)
        return logits[0].log_softmax(0).tolist(), None if weights is None else weights[0], after

    def __call__(self, prefix: tuple[int, ...]):
        if prefix not in self._known:
            self(prefix[:-1])
            self._known[prefix] = self._run(prefix[-1], self._known[prefix[:-1]][2])
        return self._known[prefix]

    def score(self, words) -> float:
        """log P of these words, END among them where it is given."""
        return sum(self(tuple(words[:t]))[0][word] for t, word in enumerate(words))

    def looks(self, words) -> Tensor:
        """(len(words), S)"""
        return torch.stack([self(tuple(words[:t]))[1] for t in range(len(words))])

    def normalised(self, words, alpha: float, beta: float, mask: Tensor | None = None) -> float:
        """Wu et al. 2016, equation 14."""
        value = self.score(words) / ((5 + len(words)) / 6) ** alpha
        if beta and words:
            sums = self.looks(words).sum(0).tolist()
            real = [True] * len(sums) if mask is None else mask.tolist()
            value += beta * sum(
                math.log(min(max(p, 1e-10), 1.0)) for p, is_there in zip(sums, real, strict=True) if is_there
            )
        return value

    def allowed(self, t: int, min_length: int = 0) -> list[int]:
        """Words that may come as word number t."""
        never = {*self.banned, SPECIAL.end} if t < min_length else {*self.banned}
        return [word for word in range(self.model.V) if word not in never]

    def everything(self, limit: int) -> list[tuple[int, ...]]:
        """Every sequence of at most so many words, END at its end."""
        words = [word for word in self.allowed(0) if word != SPECIAL.end]
        return [
            (*said, SPECIAL.end)
            for length in range(limit + 1)
            for said in itertools.product(words, repeat=length)
        ]

    def beam(
        self, limit: int, size: int, best: int, alpha=0.0, beta=0.0, mask=None, min_length=0
    ) -> list[tuple[list[int], float, float, bool]]:  # fmt: skip
        """A beam as it is defined: without a bound that ends it, until no hypothesis is left."""
        live, finished, cut = [()], [], []
        for t in range(limit + 1):
            continued = [(*said, word) for said in live for word in self.allowed(t, min_length)]
            continued.sort(key=self.score, reverse=True)
            continued = continued[: size - len(finished)]
            ended = [words for words in continued if words[-1] == SPECIAL.end]
            finished += ended
            if t == limit:
                cut = [said for said in live if (*said, SPECIAL.end) not in ended]
            live = [words for words in continued if words[-1] != SPECIAL.end]

        def told(words, is_finished):
            value = self.normalised(words, alpha, beta, mask)
            return [word for word in words if word != SPECIAL.end], self.score(words), value, is_finished

        found = [[told(words, which) for words in some] for some, which in ((finished, True), (cut, False))]
        for some in found:
            some.sort(key=lambda one: one[2], reverse=True)
        return (found[0] + found[1])[:best]


def each(state: Carried, B: int) -> list[Carried]:
    """The states of the sequences of a batch."""
    return [state.select(torch.tensor([b]), False) for b in range(B)]
