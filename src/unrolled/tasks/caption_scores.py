"""How good captions are: figures of all, and of each, to find the best and the worst."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unrolled.data.images import fit
from unrolled.measures.accuracy import Accuracy
from unrolled.measures.captions import caption_bleu, words
from unrolled.measures.cider import cider_d
from unrolled.measures.nouns import noun_match


@dataclass(frozen=True)
class Scores:
    """Figures of captions.

    Attributes:
        bleu: BLEU-1 to BLEU-4, from 0 to 100.
        cider: CIDEr-D, from 0 to 10.
        right, count: how many captions have the noun that people wrote, of how many.
        signature: of sacrebleu.
    """

    bleu: tuple[float, ...]
    cider: float
    right: int
    count: int
    signature: str

    @classmethod
    def of(cls, found: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
        """Of captions and what people wrote of the same pictures.

        Raises:
            InputError: numbers differ, there are none, or sacrebleu is not installed.
        """
        bleu, noun = caption_bleu(found, references), noun_match(found, references)
        cider = cider_d(found, references).score if len(found) > 1 else 0.0
        return cls(bleu.scores, cider, noun.right, noun.count, bleu.signature)

    @classmethod
    def from_json(cls, **value: Any) -> Scores:
        return cls(**{**value, "bleu": tuple(value["bleu"])})

    @property
    def noun(self) -> Accuracy:
        """Of the noun."""
        return Accuracy(self.right, self.count)

    def __str__(self) -> str:
        bleu = " ".join(f"{score:.1f}" for score in self.bleu)
        return f"BLEU-1 to 4 {bleu}, CIDEr-D {self.cider:.2f}, noun {self.noun.share:.1%}"

    def record(self) -> dict[str, float]:
        """For the log of a run."""
        low, high = self.noun.interval
        figures = {f"bleu_{n}": score for n, score in enumerate(self.bleu, 1)}
        return {**figures, "cider_d": self.cider, "noun": self.noun.share, "low": low, "high": high}


@dataclass(frozen=True, eq=False)
class Written:
    """A caption that was written of a picture.

    Attributes:
        place: of the picture, among all.
        caption: in words.
        pieces: its tokens, with a blank before those that begin a word.
        log_probability: of the caption.
        weights: (T, S), where was looked for each; None where the picture enters as a whole.
        cider: CIDEr-D, beside what people wrote.
    """

    place: int
    caption: str
    pieces: tuple[str, ...]
    log_probability: float
    weights: Tensor | None
    cider: float = 0.0

    def by_word(self) -> tuple[list[str], Tensor | None]:
        """Words, each with the signs behind it, and where was looked for each (W, S): the mean over the
        tokens that it is spelled with. Signs alone are no words."""
        said: list[list[int]] = []
        for k, piece in enumerate(self.pieces):
            if piece.startswith(" ") or not said:
                said.append([])
            said[-1].append(k)
        spelled = [[k for k in own if words(self.pieces[k])] for own in said]
        kept = [k for k, own in enumerate(spelled) if own]
        texts = ["".join(self.pieces[k] for k in said[word]).strip() for word in kept]
        if self.weights is None:
            return texts, None
        if not kept:
            return texts, self.weights[:0]
        return texts, torch.stack([self.weights[spelled[word]].mean(0) for word in kept])

    def scored(self, cider: float) -> Written:
        """The same with its CIDEr-D."""
        return replace(self, cider=cider)

    def to_json(self) -> dict[str, Any]:
        told = {k: v for k, v in vars(self).items() if k != "weights"}
        return {
            **told,
            "pieces": list(self.pieces),
            "weights": None if self.weights is None else self.weights.tolist(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Written:
        """What `to_json` gave.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        weights = None if value["weights"] is None else torch.tensor(value["weights"], dtype=torch.float32)
        return cls(
            int(value["place"]), str(value["caption"]), tuple(map(str, value["pieces"])),
            float(value["log_probability"]), weights, float(value["cider"]),
        )  # fmt: skip


def each_cider(found: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D of each caption; words are weighed by how few of these pictures they are written of."""
    return cider_d(found, references).each if len(found) > 1 else [0.0] * len(found)


@dataclass(frozen=True)
class Focus:
    """How much of the weights lies on the object: how many times as much as of equal weights.

    Attributes:
        weights: of the weights, their mean over words and pictures.
        same: of the mean of all weights, one map for every picture: what is had by looking at the middle.
        share: of pictures that the object covers, on average.
    """

    weights: float
    same: float
    share: float

    def __str__(self) -> str:
        return (
            f"{self.weights:.2f} times as much weight on the object as equal weights have "
            f"({self.same:.2f} by one map for all pictures; objects cover {self.share:.0%})"
        )


def focus(written: Sequence[Written], masks: Sequence[Tensor], side: tuple[int, int]) -> Focus | None:
    """Where was looked, beside where the object is.

    Args:
        masks: of each picture, how opaque it is (H, W), from 0 to 255.
        side: height and width of the map of places.

    Returns:
        None where no words were written, or no places are told apart.
    """
    looked, covered = [], []
    for each, mask in zip(written, masks, strict=True):
        _, weights = each.by_word()
        if weights is None or not len(weights):
            continue
        square = fit(mask[None], 32 * max(side), fill=0).float() / 255
        covered.append(F.adaptive_avg_pool2d(square, side).flatten())
        looked.append(weights.mean(0))
    if not looked:
        return None
    maps, opaque = torch.stack(looked), torch.stack(covered)
    share = float(opaque.mean())
    own, same = (maps * opaque).sum(1).mean(), (maps.mean(0) * opaque).sum(1).mean()
    return Focus(float(own) / share, float(same) / share, share)
