"""Measurements as JSON lines: one a line, which counts once its newline is written."""

from __future__ import annotations

import json
import os
from pathlib import Path

from unrolled.errors import InputError
from unrolled.flow.measurement import Measurement


def append(path: Path, measurement: Measurement | None) -> None:
    """Write a measurement behind those that are there, or with None nothing; a line that was cut short by a
    kill is dropped first.

    Raises:
        OSError: it cannot be written.
    """
    line = b"" if measurement is None else json.dumps(measurement.to_dict(), allow_nan=False).encode() + b"\n"
    with open(path, "a+b") as file:
        if size := file.seek(0, os.SEEK_END):
            file.seek(size - 1)
            if file.read(1) != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        file.write(line)


def read(path: str | os.PathLike[str]) -> list[Measurement]:
    """The measurements in a file, without a last line that was cut short.

    Raises:
        InputError: it cannot be read, or a line is damaged; the message says which.
    """
    path = Path(path)
    return [_measurement(path, number, line) for number, line in enumerate(_lines(path), 1)]


def drop_after(path: Path, step: int) -> None:
    """Drop the measurements of later steps, in one go: training goes on after `step` and makes them again.

    Raises:
        InputError: it cannot be read, or a line is damaged; it is as it was.
        OSError: it cannot be written; it is as it was.
    """
    if not path.exists():
        return
    lines = _lines(path)
    kept = [line for number, line in enumerate(lines, 1) if _measurement(path, number, line).step <= step]
    if len(kept) < len(lines):
        temporary = path.with_name(f".writing-{path.name}")
        try:
            temporary.write_bytes(b"".join(line + b"\n" for line in kept))
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _lines(path: Path) -> list[bytes]:
    try:
        *lines, _cut = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    return lines


def _measurement(path: Path, number: int, line: bytes) -> Measurement:
    try:
        return Measurement.from_dict(json.loads(line))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} line {number} is damaged: {error}") from None
    except (KeyError, TypeError, AttributeError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else error
        raise InputError(f"{path} line {number} is no measurement: {what}") from None
