"""Runs of translators: start one, go on with one, read the model out of one.

Besides what every run has, the folder of such a run holds `vocabulary.json`: what the tokens are, sealed with
a checksum. Each checkpoint has the same; where the two differ, nothing is translated.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from unrolled.cells import find
from unrolled.data.pairs import split_pairs
from unrolled.errors import CellError, CheckpointError, DataError, InputError
from unrolled.nn.seq2seq import Seq2Seq
from unrolled.tasks import sessions, watched
from unrolled.tasks.sessions import Kind, cell_from_json, run_name
from unrolled.tasks.settings import as_settings
from unrolled.tasks.translate import TranslateTask, build
from unrolled.tasks.translate_config import MAY_CHANGE, TranslateConfig
from unrolled.tasks.translate_data import Batch, Encoded, Origin, Sides, checksum
from unrolled.tasks.translate_scores import Scores
from unrolled.train import runs
from unrolled.train.checkpoint import Checkpoint
from unrolled.train.files import JSON, encode_json, read_bytes, seal, unseal, write_atomically
from unrolled.train.loop import restore_model
from unrolled.train.runs import Run

_SCORES: Final = {field.name for field in fields(Scores)}

KIND: Final = Kind(
    "translate",
    "a translator",
    changeable=MAY_CHANGE,
    is_baseline=lambda value: isinstance(value, dict) and set(value) == _SCORES,
)

VOCABULARY: Final = "vocabulary.json"
WRITTEN: Final = "translations.jsonl"


class Session(watched.Session[TranslateTask]):
    """A run that is about to train, beside what is reached without a network."""

    def finish(self) -> None:
        """Translate all held-out sentences with a beam; they are kept beside the right translations."""
        task = self.task
        found, texts = task.final_scores()
        told: JSON = {"bleu": asdict(found.bleu), "chrf": asdict(found.chrf), "exact": found.exact}
        looks: list[JSON] = [
            {
                "source": each.source_words,
                "target": each.target_words,
                "weights": each.weights,
                "right": right,
            }
            for each, right in task.looks()
        ]
        self.run.log({"step": self.trainer.step, "at_the_end": told, "looks": looks})
        lines = [
            encode_json({"source": pair.source, "translation": text, "right": pair.target}, "translation")
            for pair, text in zip(task.held_out, texts, strict=True)
        ]
        write_atomically(self.run.path / WRITTEN, b"".join(lines))


def make(origin: Origin, config: TranslateConfig, sides: Sides | None = None) -> TranslateTask:
    """The task of these pairs.

    Raises:
        UnrolledError: whatever is wrong with the pairs or the settings.
    """
    find(config.cell)  # a misspelt cell is told before much is read
    return TranslateTask(origin.label, origin.read(), config, sides)


def start(origin: Origin, config: TranslateConfig, root: Path, name: str | None = None) -> Session:
    """A new run in a folder of its own.

    Args:
        root: the folder of all runs.
        name: of the run's folder; a number is added where it is taken.

    Raises:
        UnrolledError: whatever is wrong with the pairs, the settings or the folder.
    """
    task = make(origin, config)
    what = origin.data.partition("(")[0] if origin.data else "files"
    name = name or f"translate-{run_name(what, config.cell.rpartition(':')[2])}"
    session = Session(**vars(sessions.begin(KIND, task, root, name, origin.to_json())))
    write_atomically(session.run.path / VOCABULARY, seal(task.sides.to_json(), VOCABULARY))
    return session


def resume(path: Path, changes: Mapping[str, Any], origin: Origin, warn: Callable[[str], None]) -> Session:
    """A run that goes on after its newest checkpoint.

    Args:
        changes: settings that are to be different, of those that may change.
        origin: where the pairs are now, if they have moved.
        warn: told of a damaged checkpoint that was passed over.

    Raises:
        UnrolledError: no such run, no usable checkpoint, other pairs, another vocabulary, or a setting that
            cannot change.
    """
    sessions.check_changes(KIND, changes)
    run = runs.open_run(path)
    sides = vocabularies_of(run, sessions.newest(KIND, run, warn))
    given = origin.to_json()

    def again(recorded: dict[str, Any], settings: dict[str, Any]) -> TranslateTask:
        try:
            return make(Origin.from_json(given or recorded["from"]), TranslateConfig(**settings), sides)
        except DataError as error:
            raise DataError(
                f"{error} If the files have moved, say where with --source and --target."
            ) from None

    found = sessions.go_on(KIND, path, changes, lambda _: None, again, Scores)
    write_atomically(run.path / VOCABULARY, seal(sides.to_json(), VOCABULARY))
    return Session(**vars(found))


def vocabularies_of(run: Run, saved: Checkpoint) -> Sides:
    """The vocabularies of a checkpoint, which must be those of its run folder, if that has some.

    Raises:
        CheckpointError: they differ, or are damaged.
    """
    try:
        sides = Sides.from_json(saved.facts.get("vocabularies"))
    except DataError as error:
        raise CheckpointError(f"{saved.path} has no usable vocabulary: {error}") from None
    file = run.path / VOCABULARY
    if not file.exists():
        return sides
    remedy = f"delete {file} to take that of the checkpoint"
    try:
        beside = Sides.from_json(unseal(read_bytes(file), VOCABULARY))
    except (CheckpointError, DataError) as error:
        raise CheckpointError(f"{file} is damaged ({error}): {remedy}") from None
    if beside.sha256 != sides.sha256:
        raise CheckpointError(
            f"the vocabulary in {file} ({len(beside.source):,} and {len(beside.target):,} tokens) is not "
            f"that of {saved.path} ({len(sides.source):,} and {len(sides.target):,}): {remedy}, or put the "
            "right one there"
        )
    return sides


@dataclass(frozen=True)
class Opened:
    """A translator read out of a run, ready to be run."""

    run: Run
    model: Seq2Seq
    sides: Sides
    config: TranslateConfig
    saved: Checkpoint


def open_model(path: Path, warn: Callable[[str], None]) -> Opened:
    """The model of a run's newest usable checkpoint. The cell comes from its stored graph, so no code is run.

    Raises:
        CheckpointError: there is none; the message says why.
    """
    run = runs.open_run(path)
    saved = sessions.newest(KIND, run, warn)
    sides = vocabularies_of(run, saved)
    try:
        config = TranslateConfig(**as_settings(saved.facts["config"]))
        model = build(cell_from_json(saved.facts["cell"]), sides, config)
    except (KeyError, TypeError, CellError, InputError) as error:
        raise CheckpointError(f"{saved.path} is not a checkpoint of {KIND.what}: {error}") from error
    restore_model(model, saved)
    return Opened(run, model.eval(), sides, config, saved)


def some_held_out(opened: Opened, count: int) -> Batch:
    """Held-out sentences whose sources are of one length: the greatest that so many have, or else the most.

    Raises:
        DataError: the pairs are not there any more.
    """
    recorded = opened.run.config["data"]
    pairs = Origin.from_json(recorded["from"]).read()
    sessions.check_same(KIND, {"sha256": checksum(pairs)}, recorded)
    _, held_out = split_pairs(pairs, opened.config.holdout, opened.config.split)
    encoded = Encoded(held_out, opened.sides)
    by_length: dict[int, list[int]] = {}
    for place, source in enumerate(encoded.sources):
        by_length.setdefault(len(source), []).append(place)
    best = max(by_length, key=lambda length: (min(len(by_length[length]), count), length))
    return encoded.batch(by_length[best][:count])


def translations_of(run: Run) -> list[dict[str, str]]:
    """What was written at the end of a run: source, translation and right translation of all that was held
    out; nothing where it did not end yet.

    Raises:
        CheckpointError: the file is damaged.
    """
    file = run.path / WRITTEN
    if not file.exists():
        return []
    try:
        found = [json.loads(line) for line in read_bytes(file).splitlines()]
        return [{key: str(each[key]) for key in ("source", "translation", "right")} for each in found]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} is damaged: {error}") from None
