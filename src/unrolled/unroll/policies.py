"""How far back gradients go, and in how much memory."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from unrolled.errors import InputError, check_sizes

POWERS: Final = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
"""Of 1000, or of 1024 in KiB and the like."""


def bytes_of(text: str | int) -> int:
    """A size such as "200MB", "1.5 GB", "64KiB" or a number of bytes.

    Raises:
        InputError: it is none, or not above 0.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", str(text), re.IGNORECASE)
    if isinstance(text, bool) or found is None:
        raise InputError(f"{text!r} is no amount of memory; write it as in 200MB, 1.5GB or 64KiB")
    number, unit, binary = found.groups()
    size = int(float(number) * (1024 if binary else 1000) ** POWERS[unit.upper()])
    if size < 1:
        raise InputError(f"memory must be more than nothing, got {text!r}")
    return size


def amount(size: int) -> str:
    """Bytes as a reader would write them, rounded up: "12.4MB"."""
    power = next(power for power in (0, 1, 2, 3, 4) if size < 1000 ** (power + 1) or power == 4)
    return f"{math.ceil(size / 1000**power * 10) / 10:g}{[*POWERS][power]}B"


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
        check_sizes(k1=self.k1, k2=self.k2)


@dataclass(frozen=True)
class Checkpointed:
    """The exact gradient from stored states, between which segments are run again.

    Args:
        memory: what may be taken besides parameters and their gradients, as in "200MB" or a number of bytes.
            What the first segment takes is measured; then as few segments run again as this allows.
        every: or a state is stored before every so many segments.
        disk: stored states may take so much in a file, where fewer segments run again then.
        folder: of that file; if not given the system's for temporary files.
        journal: a file in which `through_time` notes once a minute how far it is. Called again with the same
            segments, state and parameters, after its process was killed, it goes on from there.

    Raises:
        InputError: not one of the first two is given, or it is none.
    """

    memory: str | int | None = None
    every: int | None = None
    disk: str | int | None = None
    folder: str | None = None
    journal: str | None = None

    def __post_init__(self) -> None:
        if (self.memory is None) == (self.every is None):
            raise InputError("Checkpointed takes memory, as in '200MB', or every, a number of segments")
        if self.memory is not None:
            bytes_of(self.memory)
        if self.disk is not None and self.memory is None:
            raise InputError("disk goes with memory: what is in memory besides it")
        if self.disk is not None:
            bytes_of(self.disk)
        if self.folder is not None and (self.disk is None or not Path(self.folder).is_dir()):
            raise InputError(f"folder goes with disk, and must be there: {str(self.folder)!r}")
        if self.journal is not None and (self.memory is None or not Path(self.journal).parent.is_dir()):
            raise InputError(f"journal goes with memory, and its folder must be there: {self.journal!r}")
        if self.every is not None:
            check_sizes(every=self.every)


Policy = Full | Truncated | Checkpointed


def checked_policy(bptt: object) -> Policy:
    """A policy; `Full()` where none is given.

    Raises:
        InputError: it is something else.
    """
    if bptt is None:
        return Full()
    if not isinstance(bptt, Policy):
        raise InputError(f"bptt is a {type(bptt).__name__}, expected Full, Truncated or Checkpointed")
    return bptt
