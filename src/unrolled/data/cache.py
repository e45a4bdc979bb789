"""The folder where fetched data sets lie, and for a while the ids of long texts."""

import hashlib
import os
import secrets
from pathlib import Path

from unrolled.data.sources import Source
from unrolled.errors import DataError
from unrolled.folders import cache_folder


def kept_path(source: Source, cache: Path | None = None) -> Path:
    """Where the file of `source` is kept; `cache` defaults to `cache_folder()`."""
    return (cache or cache_folder()) / source.kept


def sha256(data: bytes) -> str:
    """The SHA-256 checksum in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_of(path: Path) -> str:
    """The same of a file, which may be large. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, and make its folder.

    Raises:
        DataError: the folder cannot be written, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from None


def cannot_write(path: Path, error: OSError) -> DataError:
    """What to raise where something in the cache cannot be written."""
    return DataError(
        f"{path} cannot be written ({error.strerror}): make room or rights there, or set "
        f"UNROLLED_CACHE to another folder."
    )
