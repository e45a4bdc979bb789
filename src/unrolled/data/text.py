"""A text file in, in blocks or whole; two texts out: one to train on and one held out."""

import codecs
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, Protocol, Self, TypeVar

from unrolled.errors import DataError, InputError

BLOCK: Final = 1 << 18
"""Bytes read at a time: what is made of them stays in the processor's cache."""

_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


class Sliceable(Protocol):
    """A text, as characters or as ids."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> Self: ...


_Text = TypeVar("_Text", bound=Sliceable)


def read_blocks(path: str | os.PathLike[str]) -> Iterator[str]:
    """Read a UTF-8 text file piece by piece; where the pieces end is of no meaning.

    Line ends become a single newline where they were carriage return and newline; a byte order mark is
    dropped; nothing else is changed.

    Raises:
        DataError: the file is missing, a folder, unreadable, empty or not UTF-8, or has fewer than two
            distinct characters, so that there is nothing to predict.
    """
    yield from _varied(_characters(Path(path)), Path(path))


def read_lines(path: str | os.PathLike[str]) -> list[str]:
    """The lines of a UTF-8 text file, without their ends; an empty file has none.

    Raises:
        DataError: the file is missing, a folder, unreadable or not UTF-8.
    """
    text = "".join(_characters(Path(path)))
    return text.removesuffix("\n").split("\n") if text else []


def _characters(path: Path) -> Iterator[str]:
    if path.is_dir():
        raise DataError(f"{path} is a folder: give one text file, such as all its files joined by `cat`.")
    try:
        with path.open("rb") as file:
            yield from _lines_joined(_decoded(file, path))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist: check the path to the text file.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): check the path and its rights.") from None


def _decoded(file: BinaryIO, path: Path) -> Iterator[str]:
    """The characters of a file, without a byte order mark; what is no UTF-8 is told by its place."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    begins, offset, line = b"", 0, 1
    while True:
        data = file.read(BLOCK)
        begins = (begins + data[:2])[:2]
        waiting = len(decoder.getstate()[0])  # bytes of a character that the block before cut
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            at = offset - waiting + error.start
            line += error.object.count(b"\n", 0, error.start)
            likely = "utf-16" if begins in _UTF16_MARKS else "latin1"
            raise DataError(
                f"{path} is not UTF-8: byte 0x{error.object[error.start]:02x} at offset {at} (line {line}). "
                f"Convert it, for example with `iconv -f {likely} -t utf-8`."
            ) from None
        if not data:
            return
        if offset == waiting and text:
            text = text.removeprefix("\ufeff")
        offset += len(data)
        line += data.count(b"\n")
        yield text


def _lines_joined(blocks: Iterable[str]) -> Iterator[str]:
    """Carriage return and newline become newline, also where one block ends and the next begins."""
    held = ""
    for block in blocks:
        text = held + block
        held = "\r" if text.endswith("\r") else ""
        text = text.removesuffix("\r")
        yield text.replace("\r\n", "\n") if "\r" in text else text  # the search alone is 60 times as fast
    yield held


def _varied(blocks: Iterable[str], path: Path) -> Iterator[str]:
    """The blocks that are not empty; there must be two distinct characters in them."""
    first, varied = "", False
    for block in filter(None, blocks):
        first = first or block[0]
        varied = varied or block.count(first) < len(block)
        yield block
    if not first:
        raise DataError(f"{path} is empty: give a text of at least a few thousand characters.")
    if not varied:
        raise DataError(
            f"{path} has no character but {first!r}, so there is nothing to learn: give a real text."
        )


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a UTF-8 text file whole; see `read_blocks` for what is changed, and for errors."""
    return "".join(read_blocks(path))


def split(text: _Text, holdout: float) -> tuple[_Text, _Text]:
    """Cut a text into the part to train on and the held-out tail.

    The tail is contiguous, so that no held-out sentence has its neighbours in the training text.

    Args:
        text: N characters, or the ids of so many.
        holdout: the fraction held out, above 0 and below 1; round(N * holdout) characters.

    Returns:
        The first part and the tail; joined they are `text`.

    Raises:
        InputError: `holdout` is not between 0 and 1.
        DataError: a part would have fewer than two characters, so nothing could be predicted in it.
    """
    if not 0 < holdout < 1:
        raise InputError(f"holdout={holdout!r} must be above 0 and below 1: 0.1 holds out the last tenth.")
    cut = len(text) - round(len(text) * holdout)
    if min(cut, len(text) - cut) < 2:
        raise DataError(
            f"a text of {len(text)} characters split at holdout={holdout!r} leaves {cut} to train on and "
            f"{len(text) - cut} held out, and each part needs two: give a longer text."
        )
    return text[:cut], text[cut:]
