"""Character models: a recurrent network that reads a text and predicts its next character.

Training reads B parallel streams of the text in chunks of T steps. The state is carried from chunk to chunk
for ever; gradients go back to the beginning of a chunk (truncated backpropagation through time), or as
`--bptt` says.

Bits per character are the cross-entropy in base 2, averaged over characters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unrolled.cell import Cell
from unrolled.cells import find
from unrolled.data import EncodedText, Streams, Text, Vocabulary, baselines, held_out, split
from unrolled.errors import CellError, CheckpointError, DataError, InputError
from unrolled.flow.trace import Losses
from unrolled.nn import Recurrent
from unrolled.nn.direct import DirectStack
from unrolled.nn.initialise import initialise_matching
from unrolled.tasks.char_config import FORMERLY, CharConfig
from unrolled.tasks.char_step import CharStep
from unrolled.tasks.char_time import Reaching, in_budget, losses_on, step_of
from unrolled.tasks.sessions import cell_from_json, cell_to_json, trainer_of
from unrolled.tasks.settings import as_settings, pattern_of
from unrolled.train.checkpoint import Checkpoint
from unrolled.train.files import JSON
from unrolled.train.loop import Trainer, restore_model
from unrolled.train.sampling import sample
from unrolled.unroll import Checkpointed, Truncated
from unrolled.unroll.tape import detached

EVALUATION_STREAMS = 64

BEFORE = "before."
"""How what a gradient reaches before a chunk is called in a checkpoint."""


class CharModel(nn.Module):
    """A recurrent layer over characters, and a linear head that scores the next one.

    Shapes: tokens (T, B), state as in `Recurrent`; logits (T, B, V).
    """

    def __init__(self, cell: Cell, symbols: int, config: CharConfig) -> None:
        super().__init__()
        dtype = getattr(torch, config.dtype)
        self.layer = Recurrent(
            cell,
            symbols,
            config.hidden,
            config.layers,
            dropout=config.dropout,
            norm=config.norm,
            batch_norm=config.batch_norm,
            weight_norm=config.weight_norms,
            dtype=dtype,
        )
        self.head = nn.Linear(self.layer.output_size, symbols, dtype=dtype)
        patterns = dict(pattern_of("init", text, "INITIALISER", "'f.bias=1'") for text in config.init)
        with self.layer.written() as layers:
            # A one-hot input picks one column, so the columns alone decide how far apart two characters are;
            # the layer's default is meant for dense inputs and is many times too small for that.
            initialise_matching(list(layers["l0"].items()), {"*.x": "normal:0.5"})
            tensors = [pair for each in layers.values() for pair in each.items()]
            tensors += [(f"head.{name}", tensor) for name, tensor in self.head.named_parameters()]
            initialise_matching(tensors, patterns)

    def forward(
        self, tokens: Tensor, state: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        outputs, after = self.layer(tokens, state)
        return self.head(outputs), after


class CharTask:
    """A text, a model of it, and the state carried along the streams.

    Args:
        label: what the text is called.
        text: all of it; the end is held out. A long one may stay in its file.
        cell: the cell, if it is not to be looked up by the configuration's name.

    Raises:
        DataError, InputError, CellError: the text is too short, or a setting does not fit.
    """

    def __init__(self, label: str, text: str | Text, config: CharConfig, cell: Cell | None = None) -> None:
        self.config = config
        if isinstance(text, str):
            text = Text.of(text)
        self.source: dict[str, JSON] = {"label": label, "characters": len(text), "sha256": text.sha256}
        self.vocabulary = text.vocabulary
        self._train, self._held_out = split(text.encode(), config.holdout)
        self.streams = Streams(self._train, config.batch, config.chunk)
        self.cell = cell or find(config.cell)
        torch.manual_seed(config.seed)
        self.model = CharModel(self.cell, len(self.vocabulary), config)
        self.state: dict[str, Tensor] | None = None
        self.direct: CharStep | None = None
        self.reaching: Reaching | None = None
        if isinstance(policy := config.policy, Truncated) and policy.k1 != policy.k2:
            self.reaching = Reaching(self.model.layer, self.model.head, policy.k2)

    @property
    def _measured(self) -> Tensor | EncodedText:
        """What is measured of the held-out text."""
        return self._held_out[: self.config.evaluate_characters or None]

    @property
    def _counted(self) -> Tensor | EncodedText:
        """What n-gram models count of the text to train on."""
        return self._train[-self.config.ngram_characters :]

    @cached_property
    def baselines(self) -> dict[str, float]:
        """Bits per character of models that need no network, on the same split."""
        train, tail = (
            part.read() if isinstance(part, EncodedText) else part for part in (self._counted, self._measured)
        )
        return baselines(train, tail, len(self.vocabulary))

    @property
    def limits(self) -> str | None:
        """How much of a text is measured and counted, where that is not all of it."""
        said = []
        if len(self._measured) < len(self._held_out):
            said.append(
                f"{len(self._measured):,} of {len(self._held_out):,} held-out characters are measured "
                "(--evaluate-characters)"
            )
        if len(self._counted) < len(self._train):
            said.append(
                f"{len(self._counted):,} of {len(self._train):,} training characters are counted by n-gram "
                "models (--ngram-characters)"
            )
        return ", ".join(said) or None

    def trainer(self) -> Trainer:
        """A trainer at step 0."""
        c = self.config
        trainer = trainer_of(self, c)
        self.direct = None
        plain = self.reaching is None and not isinstance(c.policy, Checkpointed)
        if plain and DirectStack.why_not(self.model.layer) is None:
            scale = 1 / c.batch / (c.chunk if c.loss == "mean" else 1)
            self.direct = CharStep(self.model.layer, self.model.head, c.chunk, c.batch, scale)
        return trainer

    def gradients(self, step: int) -> tuple[float, dict[str, float]]:
        chunk = step % len(self.streams)
        again = None
        if chunk == 0:
            self.state = None
        elif self.state and self.config.reset:
            # A network that never starts from zero again may forget how: a sample or a new text then begins
            # in a state it cannot leave.
            generator = torch.Generator().manual_seed((self.config.seed << 32) + step)
            again = torch.rand(self.config.batch, 1, generator=generator) < self.config.reset
            start = self.model.layer.initial_state(self.config.batch)
            self.state = {name: torch.where(again, start[name], old) for name, old in self.state.items()}
            again = again.squeeze(1)
        inputs, targets = self.streams[chunk]
        steps, batch = inputs.shape
        if self.direct is not None:
            summed, self.state = self.direct(inputs, targets, self.state)
            total = summed / batch
        else:
            loss, self.state = self.loss_of(inputs, targets, self.state, again)
            (loss if self.config.loss == "sum" else loss / steps).backward()  # type: ignore[no-untyped-call]
            total = loss.item()
        return (
            total if self.config.loss == "sum" else total / steps,
            {"bits_per_character": total / steps / math.log(2), "characters": inputs.numel()},
        )

    def loss_of(
        self,
        inputs: Tensor,
        targets: Tensor,
        state: Mapping[str, Tensor] | None,
        again: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The cross-entropy in nats of one chunk, summed over steps and averaged over streams, and the state
        after it, from which no gradient flows.

        Args:
            again: (B,), the streams whose state has begun anew.
        """
        if self.reaching is not None:
            return self.reaching(inputs, targets, state, again)
        policy = self.config.policy
        if isinstance(policy, Checkpointed):
            return in_budget(self.model, inputs, targets, state, policy)
        loss, after = step_of(self.model)((inputs, targets), state)
        return loss, detached(after)

    def evaluate(self) -> dict[str, float]:
        return {"held_out_bits_per_character": bits_per_character(self.model, self._measured)}

    def show(self, step: int) -> str:
        prime = default_prime(self.vocabulary)
        generator = torch.Generator().manual_seed(self.config.seed + step)
        with evaluating(self.model):
            return "".join(
                write(
                    self.model,
                    self.vocabulary,
                    prime,
                    self.config.sample_length,
                    temperature=self.config.temperature,
                    generator=generator,
                )
            )

    @property
    def flow_losses(self) -> Losses:
        return losses_on

    def few(self, step: int, rows: int, steps: int) -> tuple[Tensor, Tensor, Mapping[str, Tensor] | None]:
        chunk = step % len(self.streams)
        inputs, targets = (each[:steps, :rows] for each in self.streams[chunk])
        state = self.state if chunk else None
        return inputs, targets, {name: value[:, :rows] for name, value in state.items()} if state else None

    def tensors(self) -> dict[str, Tensor]:
        before = self.reaching.before if self.reaching else {}
        return dict(self.state or {}) | {f"{BEFORE}{name}": value for name, value in before.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        before = {name.removeprefix(BEFORE): v for name, v in tensors.items() if name.startswith(BEFORE)}
        if self.reaching is not None:
            self.reaching.before = before
        self.state = {name: v for name, v in tensors.items() if not name.startswith(BEFORE)} or None

    def facts(self) -> dict[str, JSON]:
        return {
            "task": "char",
            "config": asdict(self.config),
            "text": self.source,
            "vocabulary": self.vocabulary.symbols,
            "cell": cell_to_json(self.cell),
        }


def default_prime(vocabulary: Vocabulary) -> str:
    """What a sample begins with where nothing was asked for: a new line, if the text had any."""
    return "\n" if "\n" in vocabulary.symbols else vocabulary.symbols[0]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout is off inside."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def bits_per_character(model: CharModel, ids: Tensor | EncodedText) -> float:
    """The mean over all characters but the first, each predicted once from what came before it in its stream.

    Args:
        ids: (N,), at least two characters.
    """
    nats, count, state = 0.0, 0, None
    with evaluating(model), torch.no_grad():
        for inputs, targets, fresh in held_out(ids, EVALUATION_STREAMS, 100):
            logits, state = model(inputs, None if fresh else state)
            nats += F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
            count += targets.numel()
    return nats / count / math.log(2)


def write(
    model: CharModel, vocabulary: Vocabulary, prime: str, length: int, *, temperature: float = 1.0,
    top_k: int | None = None, top_p: float | None = None, generator: torch.Generator | None = None,
) -> Iterator[str]:  # fmt: skip
    """Yield `length` characters that continue `prime`; see `unrolled.train.sampling.sample`.

    The model is run as it is: call `model.eval()` first if it has dropout.

    Raises:
        DataError: the prime has a character that the model never saw.
        InputError: an argument is out of range.
    """
    tokens = sample(
        model, vocabulary.encode(prime), length, temperature=temperature, top_k=top_k, top_p=top_p,
        generator=generator,
    )  # fmt: skip
    return (vocabulary.decode([token]) for token in tokens)


def load(saved: Checkpoint) -> tuple[CharModel, Vocabulary, CharConfig]:
    """The character model in a checkpoint. The cell comes from its stored graph, so no code is run.

    Raises:
        CheckpointError: it is not a character model, or cannot be one.
    """
    cell, vocabulary, config = _read_facts(saved)
    model = CharModel(cell, len(vocabulary), config)
    restore_model(model, saved)
    return model.eval(), vocabulary, config


def resume(saved: Checkpoint, text: Text, changes: Mapping[str, Any]) -> tuple[CharTask, Trainer]:
    """The task and trainer of a checkpoint, ready for the step after it.

    Args:
        text: the same text.
        changes: settings to change, such as `steps`.

    Raises:
        CheckpointError: the checkpoint is of something else, or the text is another one.
    """
    cell, _, config = _read_facts(saved)
    source = saved.facts["text"]
    if text.sha256 != source["sha256"]:
        raise CheckpointError(
            f"the text is not the one this run was trained on ({source['label']}, {source['characters']} "
            f"characters, sha256 {source['sha256'][:12]}…); give that text, or start a new run"
        )
    task = CharTask(source["label"], text, CharConfig(**{**asdict(config), **changes}), cell)
    trainer = task.trainer()
    trainer.restore(saved)
    return task, trainer


def _read_facts(saved: Checkpoint) -> tuple[Cell, Vocabulary, CharConfig]:
    try:
        facts = saved.facts
        if facts["task"] != "char":
            raise CheckpointError(f"{saved.path} holds a {facts['task']} model, not a character model")
        return (
            cell_from_json(facts["cell"]),
            Vocabulary(facts["vocabulary"]),
            CharConfig(**as_settings({**FORMERLY, **facts["config"]})),
        )
    except (KeyError, TypeError, CellError, DataError, InputError) as error:
        raise CheckpointError(f"{saved.path} is not a checkpoint of a character model: {error}") from error
