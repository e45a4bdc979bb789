"""Characters and their numbers.

A vocabulary is the sorted distinct characters (Unicode code points) of the training text. It has no
symbol for what is unknown: a character the model never saw is an error, and the message names it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from unrolled.errors import DataError, InputError


def code_points(text: str) -> npt.NDArray[np.uint16] | npt.NDArray[np.uint32]:
    """The N characters of `text` as numbers, (N,)."""
    # "surrogatepass": a stray byte of the command line arrives as a lone surrogate, and must reach
    # the message about unknown characters instead of failing here.
    units = text.encode("utf-16-le", "surrogatepass")
    if len(units) == 2 * len(text):  # as nearly always; this takes a tenth of the time
        return np.frombuffer(units, dtype="<u2")
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


@dataclass(frozen=True)
class Vocabulary:
    """The V characters a model knows; the id of a character is its place among them.

    Args:
        symbols: distinct characters in ascending order of code point, at least one.

    Raises:
        InputError: `symbols` is empty, unsorted or has a character twice.
    """

    symbols: str

    def __post_init__(self) -> None:
        if not self.symbols or self.symbols != "".join(sorted(set(self.symbols))):
            raise InputError(
                "the symbols of a vocabulary are distinct characters in ascending order, at least one: "
                "Vocabulary.of(text) makes them from a text."
            )

    @classmethod
    def of(cls, text: str) -> "Vocabulary":
        """The distinct characters of `text`."""
        return cls("".join(map(chr, np.flatnonzero(np.bincount(code_points(text))))))

    def __len__(self) -> int:
        return len(self.symbols)

    def encode(self, text: str) -> torch.Tensor:
        """Ids (N,), int64, of the N characters of `text`.

        Raises:
            DataError: a character is not in the vocabulary.
        """
        ids = np.take(self.table, code_points(text), mode="clip")
        if ids.size and ids.min() < 0:
            unknown = list(dict.fromkeys(text[i] for i in np.flatnonzero(ids < 0)))
            shown = ", ".join(map(repr, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
            raise DataError(
                f"the text has {len(unknown)} distinct character{'s' if len(unknown) > 1 else ''} that the "
                f"model never saw in training: {shown}. Remove or replace what is unknown."
            )
        return torch.from_numpy(ids)

    def decode(self, ids: torch.Tensor | Sequence[int]) -> str:
        """The text of N characters with these ids (N,).

        Raises:
            InputError: an id is not a whole number from 0 to V - 1.
        """
        numbers = torch.as_tensor(ids).cpu().numpy()
        if not numbers.size:
            return ""
        if numbers.dtype.kind not in "iu" or numbers.min() < 0 or numbers.max() >= len(self):
            raise InputError(f"ids must be whole numbers from 0 to {len(self) - 1} for {len(self)} symbols.")
        codes: bytes = code_points(self.symbols)[numbers].astype("<u4").tobytes()
        return codes.decode("utf-32-le", "surrogatepass")

    @cached_property
    def table(self) -> npt.NDArray[np.int64]:
        """Code point -> id, -1 where unknown; the last entry stands for every higher code point."""
        codes = code_points(self.symbols)
        table = np.full(int(codes[-1]) + 2, -1, dtype=np.int64)
        table[codes] = np.arange(len(codes))
        return table
