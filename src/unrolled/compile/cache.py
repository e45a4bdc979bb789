"""Compiled kernels on disk: one file a kernel, named by its key, in `kernels` in the library's cache folder.

    MAGIC | key | length of the facts | facts, as JSON | object file | SHA-256 of all before

An object file is code that will run, and LLVM ends the process over a damaged one. So an entry counts only
where it is whole, was stored under its own key, and nobody but this user can have written it. Whatever else
is the matter, with an entry or with the disk, there is just no entry: kernels are then compiled as ever, and
what is found wrong is written anew. `UNROLLED_KERNEL_CACHE=0` turns the cache off.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path
from stat import S_ISDIR, S_IWGRP, S_IWOTH
from typing import Any, Final

import llvmlite
import llvmlite.binding as llvm

from unrolled.compile.machine import machine
from unrolled.errors import DataError
from unrolled.folders import cache_folder

MAGIC: Final = b"unrolled kernel 1\n"
ENTRY: Final = ".kernel"
PART: Final = ".part"
"""The end of the name of an entry, and of one that is being written."""

LIMIT: Final = 64 << 20
"""Bytes that the folder may hold; beyond, what was not used for longest goes first."""


def source_hash(package: Path) -> str:
    """What the compiler's source is, in 64 digits, or "" where there is none, as in a frozen program."""
    total = hashlib.sha256()
    try:
        others = (package / f"{name}.py" for name in ("leaves", "graph", "trace"))
        for path in (*sorted((package / "compile").glob("*.py")), *others):
            total.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    except OSError:
        return ""
    return total.hexdigest()


# Taken at import: a file that changes later must not lend its name to kernels of the older code.
SOURCE: Final = source_hash(Path(__file__).parent.parent)


def key_of(*parts: str) -> str:
    """The key of what this compiler makes of `parts`, with this LLVM, for this processor: 64 digits."""
    version = ".".join(map(str, llvm.llvm_version_info))
    here = (SOURCE, version, llvmlite.__version__, llvm.get_default_triple(), *astuple(machine()))
    return hashlib.sha256(json.dumps([*here, *parts]).encode()).hexdigest()


def load(key: str) -> tuple[bytes, dict[str, Any]] | None:
    """The object file and the facts stored under a key, or None where there is no sound entry."""
    folder = _folder()
    if folder is None:
        return None
    path = folder / f"{key}{ENTRY}"
    try:
        entry = _unpack(key, _read(path)) if _trusted(folder) else None
    except OSError:
        return None
    if entry is not None:
        with suppress(OSError):
            os.utime(path)
    return entry


def store(key: str, code: bytes, facts: Mapping[str, Any]) -> None:
    """Keep an object file and facts about it, which JSON can hold; where that cannot be, nothing happens."""
    folder = _folder()
    if folder is None:
        return
    with suppress(OSError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        if _trusted(folder):
            _write(folder / f"{key}{ENTRY}", _pack(key, code, facts))
            _trim(folder)


def _pack(key: str, code: bytes, facts: Mapping[str, Any]) -> bytes:
    told = json.dumps(dict(facts)).encode()
    body = b"".join((MAGIC, key.encode(), len(told).to_bytes(8, "little"), told, code))
    return body + hashlib.sha256(body).digest()


def _unpack(key: str, data: bytes) -> tuple[bytes, dict[str, Any]] | None:
    """What `_pack` made a file of, or None if it is not exactly that."""
    body, checksum = data[:-32], data[-32:]
    head = MAGIC + key.encode()
    if not body.startswith(head) or hashlib.sha256(body).digest() != checksum:
        return None
    facts = len(head) + 8
    code = facts + int.from_bytes(body[len(head) : facts], "little")
    return body[code:], json.loads(body[facts:code])


def _folder() -> Path | None:
    """The folder of kernels, which need not exist; None where there shall be no cache, or can be none."""
    if os.environ.get("UNROLLED_KERNEL_CACHE") == "0" or not SOURCE:
        return None
    with suppress(DataError):
        return cache_folder() / "kernels"
    return None


def _trusted(folder: Path) -> bool:
    """Whether a folder is one, and only this user can have put files into it. Raises OSError."""
    status = os.lstat(folder)
    return S_ISDIR(status.st_mode) and _ours(status)


def _ours(status: os.stat_result) -> bool:
    """Whether a file belongs to this user, and nobody else may write to it; Windows does not say."""
    if not hasattr(os, "geteuid"):
        return True
    return status.st_uid == os.geteuid() and not status.st_mode & (S_IWGRP | S_IWOTH)


def _read(path: Path) -> bytes:
    """The content of a file of this user's, of any other nothing. Raises OSError."""
    with open(path, "rb", opener=_open) as file:
        return file.read() if _ours(os.fstat(file.fileno())) else b""


def _write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all. Raises OSError."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}{PART}")
    try:
        with open(temporary, "xb", opener=_open) as file:
            file.write(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _open(path: str, flags: int) -> int:
    """Open a file for this user alone, and no link."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)


def _trim(folder: Path) -> None:
    """Remove files of the cache, those not used for longest first, down to the limit. Raises OSError."""
    found: list[tuple[int, int, str]] = []
    with os.scandir(folder) as files:
        for file in files:
            if file.name.endswith((ENTRY, PART)):
                with suppress(FileNotFoundError):  # another process was faster
                    status = file.stat(follow_symlinks=False)
                    found.append((status.st_mtime_ns, status.st_size, file.path))
    over = sum(size for _, size, _ in found) - LIMIT
    for _, size, path in sorted(found):
        if over <= 0:
            break
        with suppress(FileNotFoundError):
            os.unlink(path)
        over -= size
