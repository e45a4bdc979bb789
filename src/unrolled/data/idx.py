"""IDX files, in which MNIST and its successors come: arrays of numbers behind a short head.

    0  0  kind  axes | size of each axis, 4 bytes each, the highest first | the numbers, row by row

They may be compressed with gzip, which is told by how the file begins and not by its name. Nothing is read
beyond what the head announces, and no more than that is held in memory.
"""

from __future__ import annotations

import gzip
import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from unrolled.errors import DataError

KINDS: Final = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
"""What numbers are, by the third byte."""

MOST: Final = 1 << 33
"""Bytes that a file may announce: 8 GiB."""

_GZIP: Final = b"\x1f\x8b"


def read_idx(path: Path | zipfile.Path, axes: int | None = None) -> NDArray[np.generic]:
    """The array in an IDX file.

    Args:
        path: of the file, which may be in a zip.
        axes: how many it must have; None for any number.

    Raises:
        DataError: the file is missing, none, cut short, longer than it says, or of other axes.
    """
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == _GZIP
            raw.seek(0)
            if not packed:
                return _read(path, raw, axes)
            with gzip.GzipFile(fileobj=raw) as file:
                return _read(path, file, axes)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is no whole gzip file ({error}): get it again.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from None


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def _read(path: Path | zipfile.Path, file: _Readable, axes: int | None) -> NDArray[np.generic]:
    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in KINDS or not head[3]:
        raise DataError(
            f"{path} is no IDX file: it begins with {head.hex(' ') or 'nothing'}, and should with 00 00, "
            "a kind (08 for bytes) and the number of axes."
        )
    kind, count = np.dtype(KINDS[head[2]]), head[3]
    if axes is not None and count != axes:
        raise DataError(f"{path} has {count} axes, expected {axes}: {_EXPECTED.get(axes, 'another file')}.")
    sizes = file.read(4 * count)
    if len(sizes) < 4 * count:
        raise DataError(f"{path} is cut short in its head.")
    shape = tuple(int(size) for size in np.frombuffer(sizes, ">u4"))
    told = f"{path} announces {' x '.join(map(str, shape))} numbers of {kind.itemsize} bytes"
    wanted = math.prod(shape) * kind.itemsize
    if wanted > MOST:
        raise DataError(f"{told}, which is more than {MOST >> 30} GiB: is it damaged?")
    data = b"".join(_pieces(file, wanted))
    if len(data) < wanted:
        raise DataError(f"{told}, and has {len(data):,} bytes of {wanted:,}: it is cut short.")
    if file.read(1):
        raise DataError(f"{told}, and goes on behind them: it is damaged, or no IDX file.")
    return np.frombuffer(data, kind).reshape(shape)


def _pieces(file: _Readable, size: int) -> Iterator[bytes]:
    """So many bytes, as far as they are there; memory is taken for those alone."""
    while size and (piece := file.read(min(size, _PIECE))):
        size -= len(piece)
        yield piece


_PIECE: Final = 1 << 24

_EXPECTED: Final = {
    3: "pictures are (number, height, width); labels are another file",
    1: "labels are (number,); pictures are another file",
}
