"""Small archives of the kinds that a package index serves."""

import io
import lzma
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


def make_deb(path: Path, files: Mapping[str, str], kind: str = ".xz") -> None:
    """A Debian package; its first member is of odd length, so that a byte follows that belongs to none."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w:gz" if kind == ".gz" else "w") as data:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.size = len(text.encode())
            data.addfile(entry, io.BytesIO(text.encode()))
    packed = lzma.compress(tar.getvalue()) if kind == ".xz" else tar.getvalue()
    with path.open("wb") as file:
        file.write(b"!<arch>\n")
        for name, content in (
            ("debian-binary", b"2.0"),
            ("control.tar.xz", b"none"),
            (f"data.tar{kind}", packed),
        ):
            file.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content)
            file.write(b"\n" * (len(content) % 2))
