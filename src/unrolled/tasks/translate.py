"""Translation: a sequence of words from another, by an encoder and a decoder with or without attention.

Every step reads sentences of about the same length (`unrolled.data.buckets`), in an order drawn anew for
each pass. What is measured on held-out sentences is the cross-entropy of their right translations, and BLEU
and chrF of what the decoder writes by itself. Beside these stand the source said again and the translation of
the most similar sentence.

With scheduled sampling the decoder reads, in a share of places that rises over the training, a word that it
drew itself in place of the right one (Bengio et al. 2015, arXiv:1506.03099). As no gradient flows through
what is drawn, the words are drawn first, step by step, and read then, all steps at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unrolled.cell import Cell
from unrolled.cells import find
from unrolled.data.pairs import Pair, split_pairs
from unrolled.errors import DataError
from unrolled.flow.trace import Losses
from unrolled.nn.seq2seq import Seq2Seq
from unrolled.tasks.char import evaluating
from unrolled.tasks.sessions import Stateless, cell_to_json, trainer_of
from unrolled.tasks.translate_config import TranslateConfig
from unrolled.tasks.translate_data import Batch, Encoded, Sides, checksum
from unrolled.tasks.translate_scores import Scores, Signed, baselines, scores, signed
from unrolled.tasks.translate_write import GREEDY, Translation, translations, write
from unrolled.train.decoding import Decoding
from unrolled.train.files import JSON
from unrolled.train.loop import Trainer

SHOWN: Final = 4
"""Sentences that are shown while training."""

BEAM: Final = Decoding(beam=5)
"""How sentences are written at the end."""


def build(cell: Cell, sides: Sides, config: TranslateConfig) -> Seq2Seq:
    """The network of these settings.

    Raises:
        InputError, CellError: they do not fit each other.
    """
    none = config.attention == "none"
    model = Seq2Seq(
        cell,
        len(sides.source),
        len(sides.target),
        config.embedding,
        config.hidden,
        config.layers,
        encoder_hidden=config.width,
        bidirectional=config.bidirectional,
        bridge=config.bridge,
        attention=None if none else config.attention,
        score="additive" if none else config.score,
        width=config.score_width,
        enters=config.enters,
        dropout=config.dropout,
        tied=config.tied,
        shared=sides.joint,
        lexical=config.lexical,
        norm=config.norm,
    )
    return model.to(getattr(torch, config.dtype))


class TranslateTask(Stateless):
    """Sentence pairs, and a network that translates.

    Args:
        label: what the pairs are called.
        pairs: all of them; some are held out.
        sides: the vocabularies, if they are not to be learned.
        cell: the cell, if it is not to be looked up by the configuration's name.

    Raises:
        DataError, InputError, CellError: too few pairs, or a setting that does not fit.
    """

    def __init__(
        self,
        label: str,
        pairs: Sequence[Pair],
        config: TranslateConfig,
        sides: Sides | None = None,
        cell: Cell | None = None,
    ) -> None:
        self.config = config
        self.cell = cell or find(config.cell)
        self.train_pairs, self.held_out = split_pairs(pairs, config.holdout, config.split)
        self.sides = sides or Sides.of(self.train_pairs, config)
        every = Encoded(self.train_pairs, self.sides)
        kept = every.kept(config.longest)
        if not kept:
            raise DataError(
                f"every sentence to train on has more than {config.longest} tokens: raise --longest"
            )
        self.train, self.test = every.chosen(kept), Encoded(self.held_out, self.sides)
        self.source: dict[str, JSON] = {
            "label": label,
            "sha256": checksum(pairs),
            "pairs_to_train_on": len(kept),
            "pairs_held_out": len(self.held_out),
            "left_out_as_too_long": len(every) - len(kept),
        }
        torch.manual_seed(config.seed)
        self.model = build(self.cell, self.sides, config)
        self._buckets = self.train.buckets(config)

    @property
    def title(self) -> str:
        """What the network is, in a line."""
        c = self.config
        looks = {
            "none": "without attention",
            "after": f"{c.score} attention after the recurrence",
            "inside": f"{c.score} attention inside the step{', ' + c.enters if c.enters != 'plain' else ''}",
        }
        layers = f"{c.layers} layers of " if c.layers > 1 else ""
        return f"{self.cell.name}, {layers}{c.hidden} units, {looks[c.attention]}"

    @cached_property
    def baselines(self) -> dict[str, Scores]:
        """What is reached on the same split without a network."""
        return baselines(self.train_pairs, self.held_out, self.config.lowercase)

    @property
    def passes(self) -> float:
        """How often the whole training reads every sentence."""
        return self.config.steps / len(self._buckets)

    def trainer(self) -> Trainer:
        """A trainer at step 0."""
        return trainer_of(self, self.config)

    def batch(self, step: int) -> Batch:
        """What is read after `step` steps are done."""
        return self.train.batch(self._buckets[step].tolist())

    def share_of_own(self, step: int) -> float:
        """The share of words that the decoder reads of its own."""
        c = self.config
        done = min(1.0, step / max(1, c.steps))
        # All go from 0 to 1: the exponential one fast at first, the sigmoid late and fast.
        steep = 8.0
        rise = {
            "linear": done,
            "exponential": (1 - math.exp(-steep / 2 * done)) / (1 - math.exp(-steep / 2)),
            "sigmoid": (_sigmoid(steep * (2 * done - 1)) - _sigmoid(-steep)) / (1 - 2 * _sigmoid(-steep)),
        }
        return c.scheduled_sampling * rise[c.sampling_schedule]

    def gradients(self, step: int) -> tuple[float, dict[str, float]]:
        batch, share = self.batch(step), self.share_of_own(step)
        if share:
            batch = mixed(self.model, batch, share)
        words = int(batch.there.sum())
        found = self.model(batch.source, batch.read, batch.lengths)
        loss = self.model.loss(found.features, batch.said, batch.there, self.config.label_smoothing)
        loss = loss / words
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item(), {"words": words}

    @torch.no_grad()
    def nats(self) -> float:
        """The cross-entropy of right translations of held-out sentences, in nats per token."""
        total = words = 0.0
        with evaluating(self.model):
            for batch in self.test.batches():
                found = self.model(batch.source, batch.read, batch.lengths)
                total += self.model.loss(found.features, batch.said, batch.there).item()
                words += int(batch.there.sum())
        return total / words

    def written(self, count: int | None = None, options: Decoding = GREEDY) -> list[str]:
        """Translations of the first held-out sentences, or of all."""
        sources = self.test.sources[: count or None]
        return [self.sides.target.decode(each.tokens) for each in write(self.model, sources, options)]

    def scores(self, count: int | None = None) -> Scores:
        """Of the likeliest word each time, on the first held-out sentences or all."""
        found = self.written(count)
        return scores(found, self._expected(count), self.config.lowercase)

    def final_scores(self) -> tuple[Signed, list[str]]:
        """Of a beam on all held-out sentences, with intervals and signatures; and the translations."""
        found = self.written(options=BEAM)
        return signed(found, self._expected(), self.config.lowercase, resamples=500), found

    def _expected(self, count: int | None = None) -> list[str]:
        return [pair.target for pair in self.held_out[: count or None]]

    def evaluate(self) -> dict[str, float]:
        found = self.scores(self.config.translated)
        return {"held_out_nats_per_token": self.nats(), **asdict(found)}

    def shown_pairs(self) -> list[int]:
        """The places of held-out sentences that are shown: those of middling length that come first."""
        lengths = sorted(map(len, self.test.sources))
        low, high = lengths[len(lengths) // 3], lengths[-1 - len(lengths) // 6]
        middling = [k for k, each in enumerate(self.test.sources) if low <= len(each) <= high]
        return middling[:SHOWN]

    def show(self, step: int) -> str:
        places = self.shown_pairs()
        found = write(self.model, [self.test.sources[k] for k in places])
        said = [self.sides.target.decode(each.tokens) for each in found]
        return "\n".join(
            f"{self.held_out[k].source}\n    → {text}\n    = {self.held_out[k].target}"
            for k, text in zip(places, said, strict=True)
        )

    def looks(self) -> list[tuple[Translation, str]]:
        """Translations of what is shown, with where was looked for each word, and the right ones; none
        without attention."""
        if self.config.attention == "none":
            return []
        pairs = [self.held_out[k] for k in self.shown_pairs()]
        found = translations(self.model, self.sides, [pair.source for pair in pairs])
        return [(each, pair.target) for each, pair in zip(found, pairs, strict=True)]

    @property
    def flow_losses(self) -> Losses:
        return losses_of

    def few(self, step: int, rows: int, steps: int) -> Batch:
        return self.batch(step).part(rows, steps)

    def facts(self) -> dict[str, JSON]:
        return {
            "task": "translate",
            "config": asdict(self.config),
            "data": self.source,
            "vocabularies": self.sides.to_json(),
            "cell": cell_to_json(self.cell),
        }


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@torch.no_grad()
def mixed(model: Seq2Seq, batch: Batch, share: float) -> Batch:
    """The batch where the decoder reads words that it drew in this share of places, but not at the first."""
    state, words = model.encode(batch.source, batch.lengths), batch.read[0]
    read = [words]
    for right in batch.read[1:]:
        logits, state, _ = model.step(words, state)
        own = torch.multinomial(logits.softmax(-1), 1)[:, 0]
        words = torch.where(torch.rand(right.shape) < share, own, right)
        read.append(words)
    return Batch(batch.source, batch.lengths, torch.stack(read), batch.said, batch.there)


def losses_of(model: nn.Module, batch: Batch) -> Tensor:
    """The cross-entropy in nats of the last word of every sentence (B,): of one loss it is asked how far its
    gradient reaches, back through the decoder, and from the end of the source."""
    assert isinstance(model, Seq2Seq)
    found = model(batch.source, batch.read, batch.lengths)
    last, rows = batch.there.sum(0) - 1, torch.arange(batch.there.shape[1])
    logits = model.decoder.logits(found.features[last, rows])
    return F.cross_entropy(logits, batch.said[last, rows], reduction="none")
