"""Small archives of the kinds that a package index serves."""

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

TEXT = "It is an ex-parrot.\n\nThis is no more.\n"


def make_sdist(path: Path, files: Mapping[str, str]) -> None:
    with tarfile.open(path, "w:gz") as sdist:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            sdist.addfile(entry, io.BytesIO(text.encode()))


def make_wheel(path: Path, files: Mapping[str, str]) -> None:
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
