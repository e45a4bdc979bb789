"""Translation with and without attention, and beside what one writes in PyTorch.

`unrolled train translate german-english` trains the same network with the same settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import torch
from torch import nn

from benchmarks.family import Family, Record, Settings
from benchmarks.paired import TOLERANCE, Comparison, interleave
from benchmarks.trainings import longest, mean, minutes_of, seeds
from benchmarks.translation_peer import Peer, peer_of
from unrolled.data.pairs import Pair, named_pairs
from unrolled.errors import DataError
from unrolled.tasks.symbols import symbol_pairs
from unrolled.tasks.translate import TranslateTask
from unrolled.tasks.translate_config import TranslateConfig
from unrolled.tasks.translate_data import Batch

DATA: Final = "german-english"
PAIRS: Final = 20_000

MORE: Final = 3.0
"""BLEU that attention is to add."""
MINUTES: Final = 20.0
"""Of training, at most."""
EXACT: Final = 0.99
"""Of sequences of 20 to 40 symbols, asked to be without a mistake."""
AFTER, INSIDE = 2.0, 1.4
"""Asked of training, in tokens per second, against PyTorch."""

TRANSLATOR: Final = TranslateConfig()
"""The defaults of the command."""

SYMBOLS: Final = TranslateConfig(
    hidden=128, embedding=64, dropout=0.0, label_smoothing=0.0, steps=2000, batch=64, rate=4e-3
)
"""For sequences that are copied or reversed."""


class Trained(NamedTuple):
    """What came of a training."""

    minutes: float
    bleu: float
    exact: float


def train(label: str, pairs: Sequence[Pair], config: TranslateConfig) -> Trained:
    """All steps of a training, and what a beam writes of the held-out sentences then."""
    task = TranslateTask(label, pairs, config)
    minutes = minutes_of(task)
    found, _ = task.final_scores()
    return Trained(minutes, found.bleu.score, found.exact)


def trainings(
    label: str, pairs: Sequence[Pair], config: TranslateConfig, settings: Settings
) -> dict[str, list[Trained]]:
    """With attention and without, from several seeds."""
    none = replace(config, attention="none", score=None, lexical=False)
    return {
        name: [train(label, pairs, replace(each, seed=seed)) for seed in seeds(settings)]
        for name, each in (("with attention", config), ("without attention", none))
    }


def measure(settings: Settings) -> Iterator[Record]:
    """BLEU with attention and without, from the same seeds."""
    try:
        pairs = named_pairs(DATA)[:PAIRS]
    except DataError as error:
        yield Record(DATA, note=str(error), refused=True)
        return
    config = TRANSLATOR
    if settings.quick:
        pairs = pairs[:1500]
        config = replace(config, steps=30, holdout=100, hidden=64, embedding=64, vocabulary_size=1000)
    found = trainings(DATA, pairs, config, settings)
    yield from bleu_records(found, asked=not settings.quick)


def bleu_records(found: dict[str, list[Trained]], asked: bool) -> Iterator[Record]:
    """The mean of what attention adds, of which something is asked; both scores, and minutes, beside it."""
    with_it, without = found["with attention"], found["without attention"]
    gains = [a.bleu - b.bleu for a, b in zip(with_it, without, strict=True)]
    yield mean("what attention adds", gains, MORE if asked else None)
    for name, each in found.items():
        yield mean(name, [one.bleu for one in each], note=_minutes(each))
    yield longest("training", [one.minutes for one in with_it], MINUTES if asked else None)


def _minutes(found: Sequence[Trained]) -> str:
    return "minutes of training: " + ", ".join(f"{one.minutes:.1f}" for one in found)


def measure_symbols(settings: Settings) -> Iterator[Record]:
    """Sequences of 20 to 40 symbols, copied and reversed."""
    config, options = SYMBOLS, ""
    if settings.quick:
        config, options = replace(config, steps=30, holdout=50), "(pairs=500)"
    for name in ("reverse", "copy"):
        pairs = symbol_pairs(f"{name}{options}")
        for how, each in trainings(name, pairs, config, settings).items():
            bar = EXACT if how == "with attention" and not settings.quick else None
            yield mean(f"{name}, {how}", [one.exact for one in each], bar, _minutes(each))


class Ours:
    """Some steps of training with our network, of batches that are put together already."""

    def __init__(self, task: TranslateTask, batches: Sequence[Batch]) -> None:
        self.trainer, self.count = task.trainer(), len(batches)
        task.batch = batches.__getitem__  # type: ignore[assignment, method-assign]

    def __call__(self) -> None:
        for step in range(self.count):
            self.trainer.step = step
            self.trainer.advance()


class Theirs:
    """The same steps with torch's."""

    def __init__(self, peer: Peer, batches: Sequence[Batch], config: TranslateConfig) -> None:
        self.peer, self.batches, self.config = peer, batches, config
        self.optimiser = torch.optim.Adam(peer.parameters(), lr=config.rate)

    def __call__(self) -> None:
        for batch in self.batches:
            self.optimiser.zero_grad()
            self.peer.loss(batch, self.config.label_smoothing).backward()
            nn.utils.clip_grad_norm_(self.peer.parameters(), self.config.clip_norm or torch.inf)
            self.optimiser.step()


CHECKED: Final = 5
"""Steps after which both sides are to have the same loss still."""


def apart(task: TranslateTask, peer: Peer, batches: Sequence[Batch]) -> float:
    """How far the losses of both differ at most, relatively, over a few steps of gradient descent without
    dropout: if they agree, gradients do too."""
    smoothing, models = task.config.label_smoothing, (task.model, peer)
    worst = 0.0
    for model in models:
        model.eval()
    for batch in batches[:CHECKED]:
        features = task.model(batch.source, batch.read, batch.lengths).features
        ours = task.model.loss(features, batch.said, batch.there, smoothing) / batch.there.sum()
        losses = ours, peer.loss(batch, smoothing)
        worst = max(worst, abs(losses[0].item() - losses[1].item()) / losses[1].item())
        for model, loss in zip(models, losses, strict=True):
            model.zero_grad()
            loss.backward()
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if "bias_hh" not in name:  # torch's second bias, which would make its steps twice as long
                        assert parameter.grad is not None, name
                        parameter -= 0.3 * parameter.grad
    for model in models:
        model.train()
        model.zero_grad()
    return worst


def measure_speed(settings: Settings) -> Iterator[Record]:
    """Steps of training with attention after the recurrence, and with attention inside the step."""
    try:
        pairs = named_pairs(DATA)[:PAIRS]
    except DataError as error:
        yield Record(DATA, note=str(error), refused=True)
        return
    count = 3 if settings.quick else 20
    for place, bar in (("after", AFTER), ("inside", INSIDE)):
        config = replace(TRANSLATOR, attention=place, score=None)
        name = f"attention {place} the {'recurrence' if place == 'after' else 'step'}"
        task = TranslateTask(DATA, pairs, config)
        batches = [task.batch(step) for step in range(count)]
        if (worst := apart(task, peer_of(task.model, config), batches)) > TOLERANCE:
            yield Record(name, bar=bar, note=f"the losses differ by {worst:.1e}", refused=True)
            continue
        theirs = Theirs(peer_of(task.model, config), batches, config)
        times = interleave(Ours(task, batches), theirs, rounds=settings.rounds)
        words = sum(int(batch.there.sum()) for batch in batches)
        best = [f"{words / min(side):,.0f}" for side in times]
        note = f"{best[0]} tokens/s against {best[1]}"
        yield Comparison(*times).record(name, None, bar, note)


FAMILIES = (
    Family(
        "translation",
        "What attention adds to German-English translation",
        measure,
        unit="BLEU",
        least=True,
        caption="19,856 sentence pairs, 1,000 held out; the defaults of `unrolled train translate "
        "german-english`, with `--attention none` beside it. BLEU of a beam of 5 on all held-out sentences, "
        f"by sacrebleu; at least {MORE:g} more is asked, in the mean of three seeds.",
    ),
    Family(
        "symbols",
        "Sequences of 20 to 40 symbols, copied and reversed",
        measure_symbols,
        unit="without a mistake",
        least=True,
        caption="20,000 sequences of a 20-symbol alphabet, 1,000 held out, 2,000 steps of 64; an LSTM of 128 "
        "units. The share of held-out sequences that a beam of 5 writes without any mistake, in the mean of "
        "three seeds.",
    ),
    Family(
        "translation-speed",
        "Training a translator against PyTorch",
        measure_speed,
        caption="The network and the batches of the family above, forward, backward, clipping and Adam. The "
        "peer is a packed, bidirectional `nn.LSTM`, then `nn.LSTMCell` and attention in a loop over the "
        "target's words, one product for the logits of all, `F.cross_entropy` and `torch.optim.Adam`. That "
        "both have the same losses over five steps is checked first.",
    ),
)
