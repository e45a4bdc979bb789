"""The folder where fetched texts lie."""

import hashlib
import os
import secrets
import sys
from pathlib import Path

from unrolled.data.sources import Source
from unrolled.errors import DataError


def cache_folder() -> Path:
    """Where data sets are kept: `$UNROLLED_CACHE`, or `unrolled` in the user's folder for caches.

    That is `$XDG_CACHE_HOME` where it is set, else `~/.cache`, on macOS `~/Library/Caches` and on
    Windows `%LOCALAPPDATA%`. The folder need not exist.

    Raises:
        DataError: none of the variables is set and the user has no home folder.
    """
    try:
        if chosen := os.environ.get("UNROLLED_CACHE"):
            return Path(chosen).expanduser()
        if chosen := os.environ.get("XDG_CACHE_HOME"):
            return Path(chosen) / "unrolled"
        if sys.platform == "win32":
            return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "unrolled"
        return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "unrolled"
    except RuntimeError:
        raise DataError("this user has no home folder: set UNROLLED_CACHE to a folder for data.") from None


def text_path(source: Source, cache: Path | None = None) -> Path:
    """Where the text of `source` is kept; `cache` defaults to `cache_folder()`."""
    return (cache or cache_folder()) / "texts" / f"{source.name}.txt"


def sha256(data: bytes) -> str:
    """The SHA-256 checksum in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


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
        raise DataError(
            f"{path} cannot be written ({error.strerror}): make room or rights there, or set "
            f"UNROLLED_CACHE to another folder."
        ) from None
