"""Texts longer than memory: gone through in blocks, and encoded into a file that is read as it is used.

The ids of a long text lie in a file of the cache folder that has no name: nobody else can change it, and it
is gone with the last reference to it, or with the process, however that ends. Ids are read by position with
ordinary reads. Mapped into memory, every page ever used would count as memory of the process.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from unrolled.data.cache import cannot_write
from unrolled.data.text import read_blocks, read_text
from unrolled.data.vocabulary import Vocabulary, code_points
from unrolled.errors import DataError, InputError
from unrolled.folders import cache_folder

IN_MEMORY: Final = 8 << 20
"""Bytes of the longest file that is kept in memory, where training takes some 20 bytes a character."""


class Text:
    """A text to train on: `Text.of(characters)`, or `Text.open(path)`, which leaves a long one in its file.

    Attributes:
        sha256: the checksum of its characters in UTF-8.
        vocabulary: its distinct characters.

    Time: one pass over the text, and one more in `encode`. Memory: a block of a long one.
    """

    def __init__(self, source: str | Path) -> None:
        self._source = source
        self._length = 0
        digest, symbols = hashlib.sha256(), set[str]()
        for block in self._blocks():
            digest.update(block.encode())
            symbols.update(Vocabulary.of(block).symbols)
            self._length += len(block)
        self.sha256 = digest.hexdigest()
        self.vocabulary = Vocabulary("".join(sorted(symbols)))

    @classmethod
    def of(cls, characters: str) -> Text:
        """A text in memory. Raises InputError where it is empty."""
        return cls(characters)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Text:
        """The text of a file. Raises DataError as `read_blocks` does."""
        path = Path(path)
        return cls(path if path.is_file() and path.stat().st_size > IN_MEMORY else read_text(path))

    def _blocks(self) -> Iterable[str]:
        return [self._source] if isinstance(self._source, str) else read_blocks(self._source)

    def __len__(self) -> int:
        """Characters, N."""
        return self._length

    def encode(self, vocabulary: Vocabulary | None = None) -> Tensor | EncodedText:
        """The ids (N,) of its characters: int64 in memory, or in a file where the text is in one.

        Args:
            vocabulary: whose ids they are; its own by default.

        Raises:
            DataError: a character is not in the vocabulary, the file changed since it was opened, or the ids
                cannot be written.
        """
        vocabulary = vocabulary or self.vocabulary
        if isinstance(self._source, str):
            return vocabulary.encode(self._source)
        vocabulary.encode(self.vocabulary.symbols)  # tells all that is unknown, before anything is written
        dtype = next(np.dtype(d) for d in ("u1", "u2", "i4") if len(vocabulary) <= np.iinfo(d).max + 1)
        table = vocabulary.table.astype(dtype)
        file, digest = _Nameless(), hashlib.sha256()
        for block in self._blocks():
            digest.update(block.encode())
            file.write(np.take(table, code_points(block), mode="clip").tobytes())
        if digest.hexdigest() != self.sha256:
            raise DataError(f"{self._source} changed while it was read: start again once it is complete.")
        return EncodedText(file, dtype, self._length)


@dataclass(frozen=True, eq=False)
class EncodedText:
    """The ids of a text in a file, (N,), or (L, B) at B places side by side. `read` reads them."""

    _file: _Nameless
    _dtype: np.dtype[Any]
    _length: int
    _start: int = 0
    _batch: int | None = None
    _apart: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """(N,) or (L, B)."""
        return (self._length,) if self._batch is None else (self._length, self._batch)

    @property
    def ndim(self) -> int:
        """1, or 2 for several places side by side."""
        return len(self.shape)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, part: slice) -> EncodedText:
        """A piece along the first axis. Raises InputError where that is not contiguous."""
        if not isinstance(part, slice) or part.step not in (None, 1):
            raise InputError(f"an encoded text gives pieces such as ids[2:5], got ids[{part!r}]")
        start, stop, _ = part.indices(self._length)
        return replace(self, _start=self._start + start, _length=max(0, stop - start))

    def columns(self, batch: int) -> EncodedText:
        """(L + 1, B) from (N,): column b is ids[b * L : b * L + L + 1], L = (N - 1) // B."""
        apart = (self._length - 1) // batch
        return replace(self, _length=apart + 1, _batch=batch, _apart=apart)

    def read(self) -> Tensor:
        """The ids in memory, int64. Raises DataError where the disk fails."""
        size = self._dtype.itemsize
        starts = [self._start + b * self._apart for b in range(1 if self._batch is None else self._batch)]
        raw = b"".join(self._file.read(start * size, self._length * size) for start in starts)
        ids = np.frombuffer(raw, self._dtype).reshape(self.shape[::-1]).T
        return torch.from_numpy(ids.astype(np.int64, order="C"))


class _Nameless:
    """A file in the cache folder without a name, which is gone with the last reference to it.

    Raises:
        DataError: the folder or the disk refuses.
    """

    def __init__(self) -> None:
        self._folder = cache_folder()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115
        except OSError as error:
            raise cannot_write(self._folder, error) from None
        weakref.finalize(self, self._file.close)

    def write(self, data: bytes) -> None:
        """Append."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise cannot_write(self._folder, error) from None

    def read(self, start: int, size: int) -> bytes:
        """`size` bytes from `start` on."""
        data = b""
        try:  # more than once: the system gives at most 2 GB at a time
            while part := os.pread(self._file.fileno(), size - len(data), start + len(data)):
                data += part
        except OSError as error:
            raise DataError(f"the ids in {self._folder} cannot be read ({error.strerror})") from None
        return data
