"""Strict JSON, and files that are either whole or not there.

`write_atomically` gives a small file its new content in one step: a reader, and a machine that
loses power, sees the old bytes or the new ones. JSON is strict: a float that is not finite is written as
null, and a value that JSON cannot hold is refused by name.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from unrolled.errors import CheckpointError, InputError

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"
"""What JSON can hold. Reading it back gives lists and dictionaries."""


def encode_json(value: JSON, name: str, indent: int | None = None) -> bytes:
    """Encode `value` as one ASCII JSON text that ends in a newline; keys keep their order.

    Args:
        value: what to encode; floats that are not finite become null.
        name: what an error calls the value, such as "config".
        indent: spaces a level, or None for a single line.

    Raises:
        InputError: something in `value` is not JSON; the message says where.
    """
    return (json.dumps(_strict(value, name), indent=indent, allow_nan=False) + "\n").encode("ascii")


def _strict(value: object, name: str) -> JSON:
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            if strange := [key for key in value if not isinstance(key, str)]:
                raise InputError(f"{name} has the key {strange[0]!r}, and JSON keys are strings")
            return {key: _strict(entry, f"{name}.{key}") for key, entry in value.items()}
        case list() | tuple():
            return [_strict(entry, f"{name}.{index}") for index, entry in enumerate(value)]
    raise InputError(
        f"{name} is a {type(value).__name__}, which JSON cannot hold; "
        "give numbers, strings, lists or dictionaries"
    )


def seal(body: Mapping[str, JSON], name: str) -> bytes:
    """Encode `body` with a last key "sha256", the checksum of all before it. Raises InputError."""
    digest = hashlib.sha256(encode_json(body, name)).hexdigest()
    return encode_json({**body, "sha256": digest}, name, indent=2)


def unseal(raw: bytes, name: str) -> dict[str, Any]:
    """Return the body that `seal` encoded, provided that not one byte has changed.

    Raises:
        CheckpointError: `raw` is not JSON, or not exactly what `seal` writes.
    """
    try:
        body = json.loads(raw)
        if isinstance(body, dict):
            body.pop("sha256", None)
            if seal(body, name) == raw:
                return body
    except (ValueError, RecursionError):
        raise CheckpointError(f"{name} is unreadable or cut short") from None
    raise CheckpointError(f"{name} does not match its own checksum: it was changed after writing")


def reason(error: OSError) -> str:
    """Why the system refused, in its own words: "No space left on device"."""
    return error.strerror or str(error)


def read_bytes(path: Path) -> bytes:
    """Read a file whole. Raises CheckpointError, which names the file without its folder."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path.name} is missing") from None
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read: {reason(error)}") from error


def write_durably(path: Path, data: bytes) -> None:
    """Write a file and wait until the disk holds it. Raises OSError."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the disk holds the names in `folder`. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace the content of `path` in one step. One process at a time may write to a path.

    Raises:
        CheckpointError: the disk is full, read-only or not there; `path` is as it was.
    """
    temporary = path.with_name(f".writing-{path.name}")
    try:
        write_durably(temporary, data)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {reason(error)}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
