"""A text file in, two texts out: one to train on and one held out."""

import os
from pathlib import Path

from unrolled.errors import DataError, InputError

_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a UTF-8 text file.

    Line ends become a single newline where they were carriage return and newline; a byte order mark is
    dropped; nothing else is changed.

    Raises:
        DataError: the file is missing, a folder, unreadable, empty or not UTF-8, or has fewer than two
            distinct characters, so that there is nothing to predict.
    """
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path} is a folder: give one text file, such as all its files joined by `cat`.")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} does not exist: check the path to the text file.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): check the path and its rights.") from None
    text = _decode(data, path).replace("\r\n", "\n")
    if not text:
        raise DataError(f"{path} is empty: give a text of at least a few thousand characters.")
    if len(set(text)) == 1:
        raise DataError(
            f"{path} has no character but {text[0]!r}, so there is nothing to learn: give a real text."
        )
    return text


def _decode(data: bytes, path: Path) -> str:
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        likely = "utf-16" if data.startswith(_UTF16_MARKS) else "latin1"
        raise DataError(
            f"{path} is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start} (line {line}). "
            f"Convert it, for example with `iconv -f {likely} -t utf-8`."
        ) from None


def split(text: str, holdout: float) -> tuple[str, str]:
    """Cut a text into the part to train on and the held-out tail.

    The tail is contiguous, so that no held-out sentence has its neighbours in the training text.

    Args:
        text: N characters.
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
