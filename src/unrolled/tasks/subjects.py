"""What `unrolled flow` looks at in a run of each task: its model, a batch, and the losses of that.

A task is added by a function that reads these out of its runs, and its name in `SUBJECTS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch.nn.functional as F
from torch import Tensor, nn

from unrolled.data import open_text
from unrolled.errors import CheckpointError, InputError, check_sizes
from unrolled.flow.trace import Losses
from unrolled.nn.deep import Deep
from unrolled.tasks import (
    caption_runs,
    char_runs,
    digits_runs,
    labels_runs,
    sessions,
    translate_runs,
    vqa_runs,
)
from unrolled.tasks.caption import losses_of as caption_losses
from unrolled.tasks.char_plan import first_chunk
from unrolled.tasks.char_time import losses_of, read_bptt
from unrolled.tasks.labels_model import losses_of as label_losses
from unrolled.tasks.settings import as_settings
from unrolled.tasks.translate import losses_of as translation_losses
from unrolled.train.loop import restore_model
from unrolled.train.runs import Run
from unrolled.unroll import Truncated

Warn = Callable[[str], None]


@dataclass(frozen=True)
class Subject:
    """What gradient flow is measured of; see `unrolled.flow.report`.

    Attributes:
        says: the subtitle of the page: what was trained, and what it is measured on.
        bptt: how many steps its gradient went back in training; None for all of a sequence.
    """

    model: nn.Module
    batch: Any
    losses: Losses
    says: str
    bptt: int | None = None


def subject_of(run: Run, text: str | None, steps: int, batch: int, warn: Warn) -> Subject:
    """The subject of a run.

    Args:
        text: of a character model, another text than its own.
        steps: of a sequence, at most.
        batch: sequences.
        warn: told of a damaged checkpoint that was passed over.

    Raises:
        UnrolledError: it cannot be read, its data are gone, or it has no recurrent layer or network through
            depth.
    """
    check_sizes(steps=steps, batch=batch)
    task = run.config.get("task")
    if task not in SUBJECTS:
        raise CheckpointError(
            f"{run.path} is not a run that gradient flow is measured of: see its config.json"
        )
    if text is not None and task != "char":
        raise InputError(
            f"{run.path} holds no character model, and is measured on its own data: give no text"
        )
    return SUBJECTS[task](run, text, steps, batch, warn)


def _char(run: Run, text: str | None, steps: int, batch: int, warn: Warn) -> Subject:
    model, vocabulary, saved = char_runs.open_model(run.path, warn)
    config = run.config["config"]
    label, characters = open_text(text or run.config["text"]["from"])
    chunk_steps, policy = read_bptt(config["bptt"])
    return Subject(
        model,
        first_chunk(characters.encode(vocabulary), batch, steps),
        losses_of,
        f"{config['cell']} after {saved.step:,} steps, on {batch} sequences of {steps} characters of {label}",
        policy.k2 if isinstance(policy, Truncated) else chunk_steps,
    )


def _digits(run: Run, text: str | None, steps: int, batch: int, warn: Warn) -> Subject:
    saved = sessions.newest(digits_runs.KIND, run, warn)
    task = digits_runs.again(digits_runs.Files(), run.config["pictures"], as_settings(saved.facts["config"]))
    restore_model(task.model, saved)
    if not any(isinstance(module, Deep) for module in task.model.modules()):
        raise InputError(
            f"{run.path} trained a {task.config.network} network, whose layers are no cells: gradient flow "
            "through depth is that of plain, residual, highway and other cells"
        )
    pixels, labels = task.test.pixels[:batch], task.test.labels[:batch]
    return Subject(
        task.model.eval(),
        (pixels, labels),
        _classified,
        f"{task.title}, after {saved.step:,} steps, on {len(labels)} test pictures of "
        f"{task.source['label']}; a step is a layer",
    )


def _classified(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The cross-entropy of every picture."""
    pixels, labels = batch
    return F.cross_entropy(model(pixels), labels, reduction="none")


def _labels(run: Run, text: str | None, steps: int, batch: int, warn: Warn) -> Subject:
    opened = labels_runs.open_model(run.path, warn)
    data = labels_runs.open_data(run.config["data"]["from"], opened.config)
    found = data.test.few(batch, steps)
    what = {"frames": "frames", "series": "numbers"}.get(data.unit, "words")
    return Subject(
        opened.model,
        found,
        label_losses,
        f"{opened.config.cell} after {opened.saved.step:,} steps, on {len(found.lengths)} held-out sequences "
        f"of {int(found.lengths.max())} {what} of {data.source['label']}",
    )


def _translate(run: Run, text: str | None, steps: int, batch: int, warn: Warn) -> Subject:
    opened = translate_runs.open_model(run.path, warn)
    found = translate_runs.some_held_out(opened, batch).part(batch, steps)
    S, B = found.source.shape
    return Subject(
        opened.model,
        found,
        translation_losses,
        f"{opened.config.cell} after {opened.saved.step:,} steps, on {B} held-out sentences of {S} tokens of "
        f"{run.config['data']['label']}",
    )


def _vqa(run: Run, text: str | None, steps: int, batch: int, warn: Warn) -> Subject:
    task, saved = vqa_runs.as_it_was(run, warn)
    found = task.few(0, batch, steps)
    return Subject(
        task.model.eval(),
        found,
        task.flow_losses,
        f"{task.config.cell} after {saved.step:,} steps, on {len(found[0].texts.lengths)} questions about "
        f"{len(found[1].pictures)} pictures of {task.source['label']}",
    )


def _caption(run: Run, text: str | None, steps: int, batch: int, warn: Warn) -> Subject:
    opened = caption_runs.open_model(run.path, warn)
    task = caption_runs.again(run, opened)
    found = task.data.held_out(batch).part(batch, steps)
    T, B = found.read.shape
    return Subject(
        opened.model,
        found,
        caption_losses,
        f"{task.title}, after {opened.saved.step:,} steps, on {B} held-out captions of up to {T} words of "
        f"{run.config['data']['label']}",
    )


SUBJECTS: Final[dict[str, Callable[[Run, str | None, int, int, Warn], Subject]]] = {
    "char": _char,
    "digits": _digits,
    **dict.fromkeys(labels_runs.KINDS, _labels),
    translate_runs.KIND.name: _translate,
    caption_runs.KIND.name: _caption,
    vqa_runs.KIND.name: _vqa,
}
"""By the name of the task."""
