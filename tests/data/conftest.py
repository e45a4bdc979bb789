"""A package index in a folder, with one made-up data set, so that no test but one needs a network."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from archives import TEXT, make_sdist, make_wheel

from unrolled.data.cache import sha256_of
from unrolled.data.extract import texts
from unrolled.data.sources import SOURCES, Release, Source


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, the default one during a test."""
    monkeypatch.setenv("UNROLLED_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all pip knows of."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def publish(index: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Source]:
    """Publish the package `parrot` as a file of this name and register it as the data set `parrot`.

    If the setup.py of the sdist ran, it would write the file `ran` in the index.
    """

    def publish(filename: str) -> Source:
        if filename.endswith(".whl"):
            metadata = {
                "METADATA": "Metadata-Version: 2.1\nName: parrot\nVersion: 1.0\n",
                "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
                "RECORD": "",
            }
            files = {f"parrot-1.0.dist-info/{name}": text for name, text in metadata.items()}
            make_wheel(index / filename, files | {"parrot/text.txt": TEXT})
        else:
            setup = f"open({str(index / 'ran')!r}, 'w').close()"
            make_sdist(index / filename, {"parrot-1.0/setup.py": setup, "parrot-1.0/text.txt": TEXT})
        source = Source(
            name="parrot",
            title="A parrot",
            kind="text",
            contents=f"{len(TEXT)} characters",
            licence="public domain",
            release=Release("PyPI", "parrot", "1.0", filename, sha256_of(index / filename), 1000),
            members="parrot*/*.txt",
            extract=texts.in_utf8(texts.as_printed),
            kept="texts/parrot.txt",
            sha256=hashlib.sha256(TEXT.encode()).hexdigest(),
        )
        monkeypatch.setitem(SOURCES, "parrot", source)
        return source

    return publish


@pytest.fixture
def parrot(publish: Callable[[str], Source]) -> Source:
    return publish("parrot-1.0.tar.gz")
