"""How far back gradients go, and in how much memory."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from unrolled.errors import InputError

UNITS: Final = {"": 1, "B": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def bytes_of(text: str | int) -> int:
    """A size such as "200MB", "1.5 GB", "64KiB" or a number of bytes.

    Raises:
        InputError: it is none, or not above 0.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", str(text), re.IGNORECASE)
    if isinstance(text, bool) or found is None:
        raise InputError(f"{text!r} is no amount of memory; write it as in 200MB, 1.5GB or 64KiB")
    number, unit, binary = found.groups()
    factor = UNITS[unit.upper()]
    size = int(float(number) * (1024 ** (len(str(factor)) // 3) if binary else factor))
    if size < 1:
        raise InputError(f"memory must be more than nothing, got {text!r}")
    return size


def _count(what: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{what} must be a whole number of at least 1, got {value!r}")


@dataclass(frozen=True)
class Full:
    """Every segment's tape is kept: the exact gradient, in as much memory as it takes."""


@dataclass(frozen=True)
class Truncated:
    """After every k1 segments the gradient of their losses, reaching at most k2 segments back from there.

    Raises:
        InputError: one of them is not a whole number of at least 1.
    """

    k1: int
    k2: int

    def __post_init__(self) -> None:
        _count("k1", self.k1)
        _count("k2", self.k2)


@dataclass(frozen=True)
class Checkpointed:
    """The exact gradient from stored states, between which segments are run again.

    Args:
        memory: what stored states and tapes may take, as in "200MB" or a number of bytes; they are laid out
            so that as little as can be is run again.
        every: or a state is stored before every so many segments.

    Raises:
        InputError: not one of the two is given, or it is none.
    """

    memory: str | int | None = None
    every: int | None = None

    def __post_init__(self) -> None:
        if (self.memory is None) == (self.every is None):
            raise InputError("Checkpointed takes memory, as in '200MB', or every, a number of segments")
        if self.memory is not None:
            bytes_of(self.memory)
        if self.every is not None:
            _count("every", self.every)


Policy = Full | Truncated | Checkpointed
