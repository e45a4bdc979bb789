"""Data sets for tests: small files in the place of fetched ones, and what the user has fetched."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from unrolled.data.cache import sha256
from unrolled.data.sources import SOURCES
from unrolled.errors import DataError
from unrolled.folders import cache_folder

USERS = cache_folder()
"""The cache folder of whoever runs the tests, which is another while they run."""

_Loaded = TypeVar("_Loaded")


def fetched(load: Callable[..., _Loaded], *arguments: object, **options: object) -> _Loaded:
    """What a loader finds among the data sets that the user has fetched; the test is skipped without it."""
    try:
        return load(*arguments, **options, cache=USERS)
    except DataError as error:
        if "not here yet" not in str(error):
            raise
        pytest.skip(str(error))


def keep(cache: Path, monkeypatch: pytest.MonkeyPatch, name: str, data: bytes) -> None:
    """`data` is from now on what the data set `name` consists of, and is in this cache folder."""
    source = dataclasses.replace(SOURCES[name], sha256=sha256(data))
    path = cache / source.kept
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    monkeypatch.setitem(SOURCES, name, source)
