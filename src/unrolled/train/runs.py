"""A run folder: what was asked for, what was measured, and the checkpoints.

    runs/lstm-2/
      config.json      the configuration, written once
      metrics.jsonl    one JSON object a line; a line counts once its newline is written
      checkpoints/     see `unrolled.train.checkpoint`

A run is never overwritten, and two processes never share a new one. One process at a time may write to it.
"""

import itertools
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from unrolled.errors import CheckpointError, InputError
from unrolled.train.files import JSON, encode_json, read_bytes, reason, sync_folder, write_atomically

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LISTED = 10
"""How many runs an error lists."""

RUNS = Path("runs")
"""Where a bare name is looked up."""


@dataclass(frozen=True)
class Run:
    """One run folder."""

    path: Path
    """The folder."""

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints; it may not exist yet."""
        return self.path / "checkpoints"

    @property
    def config(self) -> dict[str, Any]:
        """The configuration, read from config.json.

        Raises:
            CheckpointError: the file is missing or damaged.
        """
        return self._decode(self._read("config.json"), "config.json")

    def write_config(self, config: Mapping[str, JSON]) -> None:
        """Replace config.json in one step; floats that are not finite become null.

        Raises:
            CheckpointError: it cannot be written; the message says why.
            InputError: `config` holds something that is not JSON.
        """
        write_atomically(self.path / "config.json", encode_json(config, "config", indent=2))

    def log(self, record: Mapping[str, JSON]) -> None:
        """Append `record` to metrics.jsonl; floats that are not finite become null.

        A line that was cut short by a kill is dropped first.

        Raises:
            CheckpointError: it cannot be written; the message says why.
            InputError: `record` holds something that is not JSON.
        """
        line = encode_json(record, "record")
        path = self.path / "metrics.jsonl"
        try:
            with open(path, "a+b") as file:
                _drop_cut_line(file)
                file.write(line)
        except OSError as error:
            raise CheckpointError(f"cannot write {path}: {reason(error)}") from error

    def metrics(self) -> list[dict[str, Any]]:
        """Return the records logged so far, without a last line that was cut short.

        Raises:
            CheckpointError: another line is damaged; the message says which.
        """
        if not (self.path / "metrics.jsonl").exists():
            return []
        *lines, _cut = self._read("metrics.jsonl").split(b"\n")
        return [self._decode(line, f"metrics.jsonl line {number}") for number, line in enumerate(lines, 1)]

    def truncate_metrics(self, step: int) -> None:
        """Drop the records after `step`, in one step: training resumes there and logs them again.

        Records without a number under "step" stay.

        Raises:
            CheckpointError: metrics.jsonl is damaged or cannot be written; it is as it was.
        """
        if records := self.metrics():
            kept = [record for record in records if not _is_after(record.get("step"), step)]
            lines = [encode_json(record, "record") for record in kept]
            write_atomically(self.path / "metrics.jsonl", b"".join(lines))

    def _read(self, name: str) -> bytes:
        try:
            return read_bytes(self.path / name)
        except CheckpointError as error:
            raise CheckpointError(f"run {self.path}: {error}") from error.__cause__

    def _decode(self, raw: bytes, what: str) -> dict[str, Any]:
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"run {self.path}: {what} is damaged: {error}") from None
        if not isinstance(value, dict):
            raise CheckpointError(f"run {self.path}: {what} is damaged: it is not a JSON object")
        return value


def create(root: Path, name: str) -> Run:
    """Make the folder `root/name`, or `root/name-2`, `root/name-3` and so on where that is taken.

    Args:
        root: the folder of runs; made if missing, in a folder that exists.
        name: letters, digits and `._-`, starting with a letter or a digit.

    Raises:
        CheckpointError: the folder cannot be made; the message says why.
        InputError: the name holds something else.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"run name {name!r} will not do: use letters, digits and ._- and start with a letter or a digit"
        )
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    try:
        root.mkdir(exist_ok=True)
        path = next(root / free for free in itertools.chain([name], numbered) if _make(root / free))
        sync_folder(root)
    except OSError as error:
        raise CheckpointError(f"cannot make a folder for run {name!r} in {root}: {reason(error)}") from error
    return Run(path)


def open_run(path: Path) -> Run:
    """Open a run that exists. A bare name is also looked up under `runs/`.

    Raises:
        CheckpointError: there is no config.json; the message lists the runs found nearby.
    """
    bare = len(path.parts) == 1
    for candidate in [path, RUNS / path] if bare else [path]:
        if (candidate / "config.json").is_file():
            return Run(candidate)
    places = [path, path.parent, RUNS] if bare else [path, path.parent]
    found = list(dict.fromkeys(str(run) for place in places for run in _runs_in(place)))
    listed = ", ".join(found[:_LISTED]) + (
        f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    )
    raise CheckpointError(
        f"no run at {path}: a run is a folder that holds config.json. "
        + (f"Runs found: {listed}" if found else "No run was found near it")
    )


def _make(folder: Path) -> bool:
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


def _runs_in(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if (entry / "config.json").is_file())
    except OSError:  # a folder that cannot be listed offers nothing
        return []


def _drop_cut_line(file: BinaryIO) -> None:
    if not (size := file.seek(0, os.SEEK_END)):
        return
    file.seek(size - 1)
    if file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


def _is_after(value: object, step: int) -> bool:
    return isinstance(value, int | float) and value > step
