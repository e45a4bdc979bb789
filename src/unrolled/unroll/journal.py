"""How far a gradient is, noted in a file, so that a process that is killed is not the end of it."""

from __future__ import annotations

import os
import time
import warnings
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from unrolled.errors import InputError

SECONDS: Final = 60.0
"""Between notes, at least; one takes about as long as writing what is stored in memory to a file."""


class Journal:
    """Notes of one gradient.

    Args:
        path: of their file, which is there while there is something to go on from.
        tensors, facts: what the gradient depends on. Notes of another one are of no use.
    """

    def __init__(self, path: str, tensors: Iterable[Tensor], *facts: object) -> None:
        self.path = Path(path)
        self._key = zlib.crc32(repr(facts).encode())
        for tensor in tensors:
            numbers = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
            self._key = zlib.crc32(numbers.data, self._key)
        self._noted = time.monotonic()

    def read(self) -> dict[str, Any] | None:
        """What was noted last, if that is of this gradient.

        Raises:
            InputError: the file is something else.
        """
        if not self.path.exists():
            return None
        try:
            found = torch.load(self.path, weights_only=True)
            key, notes = found["key"], found["notes"]
        except Exception as error:
            raise InputError(
                f"{self.path} is no journal of a gradient; give the name of another file"
            ) from error
        if key == self._key:
            return dict(notes)
        warnings.warn(
            f"{self.path} is of other parameters, another state or another sequence: this one begins anew",
            stacklevel=2,
        )
        return None

    @property
    def due(self) -> bool:
        """Whether it is time for a note."""
        return time.monotonic() - self._noted >= SECONDS

    def write(self, notes: dict[str, Any]) -> None:
        """Note something in place of what was noted before."""
        new = self.path.with_name(self.path.name + ".new")
        try:
            with new.open("wb") as file:
                torch.save({"key": self._key, "notes": notes}, file)
            os.replace(new, self.path)
        except OSError as error:
            warnings.warn(f"the journal {self.path} could not be written: {error.strerror}", stacklevel=2)
        self._noted = time.monotonic()

    def end(self) -> None:
        """There is nothing left to go on with."""
        self.path.unlink(missing_ok=True)
