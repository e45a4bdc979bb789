r"""Read files out of a package archive, and run or unpack nothing.

A wheel is a zip, a source distribution and an npm package are a tar with gzip, and a Debian package is an
ar archive whose member `data.tar.xz` (or `.gz`, or nothing at the end) is a tar. Which of them a file is, is
told by how it begins and not by its name.

Of an ar archive: `!<arch>\n`, and then for each member a head of 60 bytes (name 16, time 12, owner 6,
group 6, mode 8, size 10, end 2) and its bytes, filled up to an even number.
"""

import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Final

from unrolled.errors import DataError

_AR: Final = b"!<arch>\n"


def read_members(archive: Path, patterns: str | tuple[str, ...]) -> dict[str, bytes]:
    """The files in an archive whose path matches a shell pattern, by path; `*` goes across folders.

    Raises:
        DataError: it is no such archive, it is damaged, or it is packed in a way that Python cannot read.
    """
    wanted = (patterns,) if isinstance(patterns, str) else patterns

    def matches(name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in wanted)

    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as wheel:
                return {name: wheel.read(name) for name in wheel.namelist() if matches(name)}
        with archive.open("rb") as raw:
            file = _debian(archive, raw) if raw.read(len(_AR)) == _AR else _gzip(raw)
            with tarfile.open(fileobj=file, mode="r|") as tar:
                files = ((entry.name, tar.extractfile(entry)) for entry in tar if matches(entry.name))
                return {name: member.read() for name, member in files if member is not None}
    except (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError) as error:
        raise DataError(f"{archive} is no whole archive of a package ({error}): get it again.") from None
    except OSError as error:
        raise DataError(f"{archive} cannot be read ({error.strerror or error}).") from None


def bundle(members: Mapping[str, bytes]) -> bytes:
    """A zip of files as they are, which is the same for the same files on every machine."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_STORED) as file:
        for name in sorted(members):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            file.writestr(entry, members[name])
    return data.getvalue()


def _gzip(raw: IO[bytes]) -> IO[bytes]:
    raw.seek(0)
    return gzip.GzipFile(fileobj=raw)  # type: ignore[return-value]


def _debian(archive: Path, raw: IO[bytes]) -> IO[bytes]:
    """The tar of a Debian package's files; `raw` stands behind the mark of an ar archive."""
    for name, size in _ar_heads(raw):
        if name.startswith("data.tar"):
            break
        raw.seek(size + size % 2, io.SEEK_CUR)
    else:
        raise DataError(f"{archive} is no whole Debian package: it has no data.tar.")
    match name.removeprefix("data.tar"):
        case ".xz":
            return lzma.LZMAFile(raw)
        case ".gz":
            return gzip.GzipFile(fileobj=raw)  # type: ignore[return-value]
        case "":
            return raw
        case other:
            raise DataError(f"{archive} is packed as data.tar{other}, which this library cannot read.")


def _ar_heads(raw: IO[bytes]) -> Iterator[tuple[str, int]]:
    while len(head := raw.read(60)) == 60 and head.endswith(b"`\n") and head[48:58].strip().isdigit():
        yield head[:16].decode("ascii", "replace").rstrip().rstrip("/"), int(head[48:58])
