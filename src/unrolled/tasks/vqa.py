"""Visual questions: a network reads a question, looks at a picture, and answers.

Every step reads a batch of pictures with all questions about them, in an order that is drawn anew for every
pass. Beside the accuracy on held-out pictures stand those of always giving the commonest answer, and of the
same network without the pictures: many questions can be answered without looking (Goyal et al. 2017,
arXiv:1612.00837).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unrolled.cell import Cell
from unrolled.cells import find
from unrolled.data.questions import Question, VisualQuestions
from unrolled.data.subwords import END, PAD, START, UNKNOWN, Subwords
from unrolled.nn.efficientnet import FEATURES
from unrolled.tasks.maps import Maps, Say, efficientnet, see
from unrolled.tasks.sessions import cell_to_json, trainer_of
from unrolled.tasks.vqa_answers import Choices, Classes, Ways, Words, ways_of
from unrolled.tasks.vqa_config import VqaConfig
from unrolled.tasks.vqa_files import split
from unrolled.tasks.vqa_network import Answerer, Batch, Encoder, Seen
from unrolled.tasks.vqa_part import Part, Targets
from unrolled.tasks.vqa_questions import Asked, Squares, digest, said
from unrolled.tasks.vqa_scores import Scores, score
from unrolled.train.decoding import Decoding, Special, n_best
from unrolled.train.files import JSON
from unrolled.train.loop import Trainer

PICTURES: Final = 64
"""That are looked at at once where accuracy is measured."""

SHOWN: Final = 5
"""Questions that are shown while it trains."""

SPECIAL: Final = Special(pad=PAD, start=START, end=END, unknown=UNKNOWN)


@dataclass(frozen=True, eq=False)
class Prepared:
    """Questions that are ready to train with.

    Attributes:
        source: what they are, with their checksums.
        spread: mean and standard deviation of the channels of pictures (3,); none of features.
    """

    train: Part
    test: Part
    vocabulary: Subwords
    ways: Ways
    source: Mapping[str, JSON]
    spread: tuple[Tensor, Tensor] | None


@dataclass(frozen=True, eq=False)
class Found:
    """What was answered to a question.

    Attributes:
        number: of the question, in its part.
        answers: with their probabilities, the likeliest first.
        weights: where the network looked, (G, S); None without pictures.
    """

    number: int
    answers: tuple[tuple[str, float], ...]
    weights: Tensor | None


def prepare(
    asked: VisualQuestions,
    config: VqaConfig,
    test: VisualQuestions | None = None,
    say: Say | None = None,
) -> Prepared:
    """Make questions ready.

    Args:
        test: those to test on; a share of the others is kept if not given.
        say: told how far it is, where that takes long.

    Raises:
        DataError: they are too few, or have no answers.
    """
    source: dict[str, JSON] = {
        "label": asked.name.partition(",")[0],
        "questions": len(asked),
        "sha256": digest(asked),
    }
    if test is not None:
        source |= {"test_questions": len(test), "test_sha256": digest(test)}
    else:
        asked, test = split(asked, config.holdout, config.split)
    ways = ways_of(config.answers, asked.questions, config.most_answers, config.words)
    texts = [said(question.text) for question in asked.questions]
    if isinstance(ways, Choices):
        texts += [said(text) for each in ways.given(asked.questions, config.split) for text in each]
    vocabulary = Subwords.of(texts, "words", config.words, lowercase=True)
    pictures: list[Squares | Maps]
    spread = None
    if config.encoder == "small":
        squares = [Squares(each.images, config.size) for each in (asked, test)]
        pictures, spread = [*squares], squares[0].spread()
    else:
        looker = efficientnet()
        pictures = [see(each.images, looker, say=say) for each in (asked, test)]
    train, held = (
        Part(each, own, vocabulary, ways, learn, config.split)
        for each, own, learn in zip((asked, test), pictures, (True, False), strict=True)
    )
    return Prepared(train, held, vocabulary, ways, source, spread)


def network(
    config: VqaConfig,
    cell: Cell,
    words: int,
    ways: Ways,
    spread: tuple[Tensor, Tensor] | None,
    look: bool = True,
) -> Answerer:
    """A network with initial weights.

    Args:
        cell: that reads questions.
        words: that questions are made of.
        ways: how they are answered.
        spread: mean and standard deviation of the channels of pictures (3,), for the small encoder; none for
            features that were there before.
        look: with pictures.
    """
    torch.manual_seed(config.seed)
    encoder = None if spread is None or not look else Encoder(config.widths, *spread)
    features = FEATURES if spread is None else config.widths[-1]
    return Answerer(config, cell, words, ways, encoder, features if look else None)


class VqaTask:
    """Questions about pictures, and a network that answers them.

    Args:
        prepared: the questions.
        look: with the pictures; without, the network is the question-only baseline.

    Raises:
        InputError, CellError: a setting does not fit.
    """

    def __init__(self, prepared: Prepared, config: VqaConfig, look: bool = True) -> None:
        self.config, self.prepared, self.look = config, prepared, look
        self.train, self.test, self.ways = prepared.train, prepared.test, prepared.ways
        self.source = prepared.source
        self.cell = find(config.cell)
        words = len(prepared.vocabulary)
        self.model = network(config, self.cell, words, self.ways, prepared.spread, look)
        self._order: tuple[int, Tensor] | None = None

    @property
    def title(self) -> str:
        """What the network is, in a line."""
        c = self.config
        answers = {"classes": "answers", "choice": "choice among answers", "words": "answers word by word"}
        many = f"{len(self.ways.known):,} " if isinstance(self.ways, Classes) else ""
        glimpses = f", {c.glimpses} glimpses" if c.glimpses > 1 else ""
        return f"{c.cell}, {c.score} attention{glimpses}, {c.fusion}, {many}{answers[c.answers]}"

    @cached_property
    def baselines(self) -> dict[str, Scores]:
        """What is reached without looking: by the commonest answer, and by the same network from questions
        alone, trained for as many steps."""
        found = {"majority": Scores.of(self.test.questions, self._commonest())}
        if steps := self.config.baseline_steps:
            blind = VqaTask(self.prepared, replace(self.config, steps=steps), look=False)
            trainer = blind.trainer()
            for _ in range(steps):
                trainer.advance()
            _, found["question only"] = blind.answered()
        return found

    def _commonest(self) -> list[str]:
        if not isinstance(self.ways, Choices):
            return [self.ways.known[0]] * len(self.test.questions)
        rank = {answer: place for place, answer in enumerate(self.ways.known)}
        return [min(each, key=lambda choice: rank.get(choice, len(rank))) for each in self.test.choices]

    def trainer(self) -> Trainer:
        """A trainer at step 0."""
        return trainer_of(self, self.config)

    def batch(self, step: int) -> tuple[Batch, Asked]:
        """What is read after `step` steps are done."""
        return self.train.batch(self._rows(step), self.look)

    def _rows(self, step: int) -> Tensor:
        batch = min(self.config.batch, len(self.train))
        epoch, place = divmod(step, len(self.train) // batch)
        if self._order is None or self._order[0] != epoch:
            drawn = np.random.PCG64((self.config.seed, epoch)).random_raw(len(self.train))
            self._order = epoch, torch.from_numpy(np.argsort(drawn, kind="stable"))
        return self._order[1][place * batch : (place + 1) * batch]

    def gradients(self, step: int) -> tuple[float, dict[str, float]]:
        batch, asked = self.batch(step)
        seen = self.model(batch)
        losses, right = self.losses(seen, batch, self.train.targets.at(asked.questions))
        loss = losses.mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item(), {"accuracy": right, "questions": len(losses), "pictures": len(asked.pictures)}

    def losses(self, seen: Seen, batch: Batch, targets: Targets) -> tuple[Tensor, float]:
        """Nats of each question (N,), and how many questions, or words, were answered rightly."""
        if targets.lengths is not None:
            return self._losses_of_words(seen, targets)
        scores = self.model.scores(seen, batch)
        if targets.shares is None:
            right = (scores.detach().argmax(1) == targets.answers).double().mean().item()
            return F.cross_entropy(scores, targets.answers, reduction="none"), right
        nats = -F.log_softmax(scores, 1).gather(1, targets.answers)
        best = scores.detach().argmax(1, keepdim=True)
        right = ((best == targets.answers) & (targets.shares > 0)).any(1).double().mean().item()
        return (nats * targets.shares.to(nats)).sum(1), right

    def _losses_of_words(self, seen: Seen, targets: Targets) -> tuple[Tensor, float]:
        writer, answers = self.model.writer, targets.answers
        assert writer is not None
        assert targets.lengths is not None
        there = torch.arange(len(answers))[:, None] < targets.lengths
        before = torch.cat([torch.full_like(answers[:1], START), answers[:-1]])
        features = writer(before, self.model.begin(seen)).features
        right = (writer.logits(features.detach()).argmax(-1) == answers)[there].double().mean().item()
        return -writer.log_likelihood(features, answers, there), right

    def found(self, part: Part, rows: Tensor, best: int = 1) -> Iterator[Found]:
        """What the network answers to the questions about these pictures of a part; it is run as it is."""
        batch, asked = part.batch(rows, self.look)
        with torch.no_grad():
            seen = self.model(batch)
            numbers = asked.questions.tolist()
            choices = [part.choices[number] for number in numbers] if part.choices else None
            answers = likeliest(self.model, seen, batch, choices, best)
        for place, number in enumerate(numbers):
            weights = None if seen.weights is None else seen.weights[:, place]
            yield Found(number, answers[place], weights)

    def everything(self, best: int = 1) -> list[Found]:
        """What is answered to all questions that are held out, in their order."""
        training = self.model.training
        self.model.eval()
        all_rows = torch.split(torch.arange(len(self.test)), PICTURES)
        found = [each for rows in all_rows for each in self.found(self.test, rows, best)]
        self.model.train(training)
        return sorted(found, key=lambda each: each.number)

    def answered(self) -> tuple[list[Found], Scores]:
        """What is answered to all questions that are held out, and how much of it is right."""
        found = self.everything()
        return found, Scores.of(self.test.questions, (each.answers[0][0] for each in found))

    def evaluate(self) -> dict[str, Any]:
        _, found = self.answered()
        low, high = found.every.interval
        kinds = {kind: each.share for kind, each in found.kinds.items()}
        return {"test_accuracy": found.share, "low": low, "high": high, "kinds": kinds}

    def show(self, step: int) -> str:
        """Some questions that are held out, with what is answered."""
        rows = torch.arange(min(len(self.test), PICTURES))
        training = self.model.training
        self.model.eval()
        kinds: dict[str, list[Found]] = {}
        for each in self.found(self.test, rows):
            kinds.setdefault(self.test.questions[each.number].kind, []).append(each)
        self.model.train(training)
        chosen = [own[k] for k in range(SHOWN) for own in kinds.values() if k < len(own)][:SHOWN]
        return "\n".join(told(self.test.questions[each.number], each) for each in chosen)

    def flow_losses(self, model: nn.Module, batch: tuple[Batch, Asked]) -> Tensor:
        """The loss of each text of a batch (U,), over all questions that it is."""
        read, asked = batch
        each, _ = self.losses(model(read), read, self.train.targets.at(asked.questions))
        zeros = each.new_zeros(read.texts.numbers.shape[1])
        return zeros.index_add(0, read.places[read.there], each)

    def few(self, step: int, rows: int, steps: int) -> tuple[Batch, Asked]:
        """All questions about so many pictures, whole, of those that are read after `step` steps are done."""
        return self.train.batch(self._rows(step)[:rows], self.look)

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self._order = None

    def facts(self) -> dict[str, JSON]:
        return {
            "task": "vqa",
            "config": asdict(self.config),
            "questions": dict(self.source),
            "vocabulary": self.prepared.vocabulary.to_json(),
            "ways": self.ways.to_json(),
            "cell": cell_to_json(self.cell),
        }


def likeliest(
    model: Answerer, seen: Seen, batch: Batch, choices: list[tuple[str, ...]] | None, best: int
) -> list[tuple[tuple[str, float], ...]]:
    """The likeliest answers to N questions, with their probabilities.

    Args:
        choices: the answers that each chooses among, where that is the way.
        best: how many, at most.
    """
    ways = model.ways
    if isinstance(ways, Words):
        N = len(seen.fused)
        longest, options = ways.longest + 2, Decoding(beam=best, length_penalty=0.0)
        assert model.writer is not None
        written = n_best(model.writer.step, model.begin(seen), N, SPECIAL, options, best, max_length=longest)
        return [
            tuple((ways.vocabulary.decode(each.tokens), math.exp(each.score)) for each in row)
            for row in written
        ]
    probabilities = F.softmax(model.scores(seen, batch), 1)
    values, places = probabilities.topk(min(best, probabilities.shape[1]), 1)
    known = [ways.known] * len(values) if choices is None else choices
    return [
        tuple((own[k], p) for k, p in zip(row, chances, strict=True) if k < len(own))
        for own, row, chances in zip(known, places.tolist(), values.tolist(), strict=True)
    ]


def as_maps(weights: Tensor) -> Tensor:
    """Weights (G, S) of the places of a square as maps (G, h, w)."""
    side = round(weights.shape[1] ** 0.5)
    return weights.reshape(len(weights), side, side)


def told(question: Question, found: Found) -> str:
    """A question with its answer, and what it should be if it is another."""
    answer, chance = found.answers[0]
    beside = "" if score(question, answer) == 1 else f"; right: {question.answer}"
    return f"{question.text} {answer} ({chance:.0%}{beside})"
