"""Captions: a network looks at a picture and says what is on it, word by word.

Every step reads a batch of captions with their pictures, drawn anew for every pass through them. Of pictures
that are held out captions are written and compared with those that people wrote: by BLEU-1 to 4, CIDEr-D, and
how often the noun is the same. Beside these figures stand those of the caption of the picture with the most
similar features, and of the commonest caption.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property, partial
from textwrap import shorten
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unrolled.cell import Cell
from unrolled.cells import find
from unrolled.data.subwords import END, PAD, START, UNKNOWN, Subwords
from unrolled.flow.trace import Losses
from unrolled.nn.attention import doubly_stochastic
from unrolled.nn.decoder import Decoded
from unrolled.nn.reinforce import LearnedBaseline, MovingAverage, reinforce
from unrolled.tasks.caption_config import CaptionConfig
from unrolled.tasks.caption_data import Batch, CaptionData, Shown
from unrolled.tasks.caption_network import Captioner, encoder_of
from unrolled.tasks.caption_scores import Focus, Scores, Written, each_cider, focus
from unrolled.tasks.char import evaluating
from unrolled.tasks.sessions import Stateless, cell_to_json, trainer_of
from unrolled.train.decoding import Decoding, Special, decode
from unrolled.train.files import JSON
from unrolled.train.loop import Trainer

SPECIAL: Final = Special(pad=PAD, start=START, end=END, unknown=UNKNOWN)

ROWS: Final = 64
"""Pictures that are captioned at once."""

SHOWN: Final = 5
"""Captions that are shown while it trains."""

GREEDY: Final = Decoding(max_length=40)

ALONE: Final = Decoding(beam=5, length_penalty=3.0, max_length=40)
"""How a network writes alone, where its best is asked for: with less it prefers captions of a word or two."""

WITH_NEIGHBOURS: Final = Decoding(beam=5, length_penalty=0.0, max_length=40)
"""How it does with its neighbours: the likeliest caption of all."""


def best(config: CaptionConfig) -> Decoding:
    """How captions are written at the end of a run, and by `unrolled caption`, if nothing else is said."""
    return WITH_NEIGHBOURS if config.neighbours else ALONE


class CaptionTask(Stateless):
    """Captioned pictures, and a network that captions.

    Args:
        cell: the cell, if it is not to be looked up by the configuration's name.

    Raises:
        InputError, CellError: a setting does not fit.
    """

    def __init__(self, data: CaptionData, config: CaptionConfig, cell: Cell | None = None) -> None:
        self.data, self.config, self.source = data, config, data.source
        self.cell = cell or find(config.cell)
        torch.manual_seed(config.seed)
        encoder, channels = encoder_of(config, data.weights)
        if encoder is None:
            channels = data.channels
        near = data.neighbours(config.neighbours)
        self.model = Captioner(config, self.cell, len(data.vocabulary), channels, encoder, near)

    @property
    def title(self) -> str:
        """What the network is, in a line."""
        c = self.config
        ways = {
            "soft": "soft attention",
            "hard": "hard attention",
            "first": "the picture before the first word",
            "every": "the picture at every step",
            "beside": "the picture beside the recurrence",
        }
        layers = f"{c.layers} layers of " if c.layers > 1 else ""
        return f"{self.cell.name}, {layers}{c.hidden} units, {ways[c.image]}"

    @cached_property
    def baselines(self) -> dict[str, Scores]:
        """What is reached without a network that writes."""
        places = self.data.test.tolist()
        references = self.data.references(places)
        nearest = [self.data.references([self.data.nearest[place]])[0][0] for place in places]
        return {
            "commonest caption": Scores.of([self.data.commonest] * len(places), references),
            "nearest neighbour": Scores.of(nearest, references),
        }

    def trainer(self) -> Trainer:
        """A trainer at step 0."""
        return trainer_of(self, self.config)

    def gradients(self, step: int) -> tuple[float, dict[str, float]]:
        batch = self.data.batch(step)
        hard = self.config.image == "hard"
        found = self.model(batch.read, batch.pictures, batch.uniform if hard else None)
        count = int(batch.there.sum())
        nats = self.model.decoder.loss(found.features, batch.said, batch.there, self.config.smoothing) / count
        loss = nats
        if self.config.evenness:
            assert found.weights is not None
            loss = loss + self.config.evenness * doubly_stochastic(found.weights, steps=batch.there)
        measured = {"pictures": float(len(batch.pictures)), "words": float(count)}
        if hard:
            added, told = self._reward(found, batch)
            loss, measured = loss + added, measured | told
        loss.backward()  # type: ignore[no-untyped-call]
        return nats.item(), measured

    def _reward(self, found: Decoded, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """What hard attention learns by: how likely it made the words that people wrote."""
        assert found.weights is not None
        assert found.chosen is not None
        with torch.no_grad():
            logits = self.model.decoder.logits(found.features).movedim(-1, 1)
            reward = -F.cross_entropy(logits, batch.said, reduction="none")
        baseline, of = self.model.baseline, torch.zeros(())
        if isinstance(baseline, LearnedBaseline):
            assert found.hidden is not None
            before = torch.cat([torch.zeros_like(found.hidden[:1]), found.hidden[:-1]])
            expected = baseline(before)
            of = baseline.loss(expected, reward, batch.there)
        else:
            assert isinstance(baseline, MovingAverage)
            expected = baseline(reward[batch.there])[:1].expand_as(reward)
        moved = reinforce(found.weights, found.chosen, reward, expected, batch.there, self.config.entropy)
        seen = expected.detach()[batch.there]
        told = {"reward": float(reward[batch.there].mean()), "baseline": float(seen.mean())}
        return self.config.reinforce * moved + of, told

    def caption(self, places: Sequence[int], options: Decoding = GREEDY, alone: bool = True) -> list[Written]:
        """Captions of pictures at these places, by the network alone or with its neighbours."""
        return captions(self.model, self.data.vocabulary, self.data.pictures, places, options, alone=alone)

    def written(
        self, options: Decoding = GREEDY, most: int | None = None, alone: bool = True
    ) -> list[Written]:
        """Captions of the pictures that are held out, or of so many, each with its CIDEr-D."""
        places = self.data.test.tolist()[:most]
        found = self.caption(places, options, alone)
        ciders = each_cider([each.caption for each in found], self.data.references(places))
        return [each.scored(cider) for each, cider in zip(found, ciders, strict=True)]

    def scores(self, written: Sequence[Written]) -> Scores:
        """Of captions, beside what people wrote."""
        references = self.data.references([each.place for each in written])
        return Scores.of([each.caption for each in written], references)

    def focus(self, written: Sequence[Written]) -> Focus | None:
        """Where was looked, beside where objects are, if that is known and places are told apart."""
        masks = self.data.whole.masks
        if masks is None or not self.config.places:
            return None
        return focus(written, [masks[each.place] for each in written], self.data.side)

    def evaluate(self) -> dict[str, float]:
        written = self.written(most=self.config.evaluate_pictures)
        looked = self.focus(written)
        told = {} if looked is None else {"on_object": looked.weights, "on_object_same_map": looked.same}
        return {**self.scores(written).record(), **told}

    def show(self, step: int) -> str:
        places = self.data.test.tolist()
        chosen = places[:: max(1, len(places) // SHOWN)][:SHOWN]
        told = zip(self.caption(chosen), self.data.references(chosen), strict=True)
        cut = partial(shorten, width=50, placeholder=" …")
        return "\n".join(f"{cut(each.caption)}    [people: {cut(people[0])}]" for each, people in told)

    @property
    def flow_losses(self) -> Losses:
        return losses_of

    def few(self, step: int, rows: int, steps: int) -> Batch:
        return self.data.batch(step).part(rows, steps)

    def facts(self) -> dict[str, JSON]:
        return {
            "task": "caption",
            "config": asdict(self.config),
            "data": self.source,
            "vocabulary": self.data.vocabulary.to_json(),
            "cell": cell_to_json(self.cell),
            "channels": self.model.seen.in_features,
            "size": self.data.size,
            "side": list(self.data.side),
        }


@torch.no_grad()
def captions(
    model: Captioner,
    vocabulary: Subwords,
    pictures: Shown,
    places: Sequence[int],
    options: Decoding = GREEDY,
    generator: torch.Generator | None = None,
    alone: bool = False,
) -> list[Written]:
    """Captions of pictures.

    Args:
        generator: what words are drawn with, if they are.
        alone: by the network, without its neighbours.
    """
    found = []
    with evaluating(model):
        for begin in range(0, len(places), ROWS):
            part = places[begin : begin + ROWS]
            rows = torch.tensor(part)
            alike = None if alone or model.neighbours is None else pictures.roots(rows)
            step, state = model.writer(pictures.at(rows), alike)
            written = decode(step, state, len(part), SPECIAL, options, generator=generator)
            for place, each in zip(part, written, strict=True):
                looked = None if each.attention is None or not model.config.places else each.attention
                pieces, said = tuple(vocabulary.pieces(each.tokens)), vocabulary.decode(each.tokens)
                found.append(Written(place, said, pieces, each.score, looked))
    return found


def losses_of(model: nn.Module, batch: Batch) -> Tensor:
    """The cross-entropy in nats of every word (T, B), 0 where there is none, to measure gradient flow."""
    assert isinstance(model, Captioner)
    uniform = batch.uniform if model.config.image == "hard" else None
    logits = model.decoder.logits(model(batch.read, batch.pictures, uniform).features).movedim(-1, 1)
    nats = F.cross_entropy(logits, batch.said, reduction="none") * batch.there
    if model.config.image == "first":  # the recurrence makes a step more, at which nothing is said
        return torch.cat([torch.zeros_like(nats[:1]), nats])
    return nats
