"""Synthetic pairs: sequences of symbols, and what is to be said of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from unrolled.data.pairs import Pair
from unrolled.errors import InputError, check_sizes
from unrolled.options import read_call

LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"

TASKS: Final = {"copy": 1, "reverse": -1}
"""The step with which a sequence is read."""

SIZES: Final = {"symbols": 20, "shortest": 20, "longest": 40, "pairs": 20_000}
"""What may be said in brackets, and what is so if it is not."""


def symbol_pairs(text: str, seed: int = 0) -> list[Pair]:
    """Pairs that copy or reverse: "reverse", or "copy(symbols=10, shortest=1, longest=30, pairs=5000)".

    Lengths are drawn evenly from the shortest to the longest, and each symbol evenly.

    Raises:
        InputError: no such task or size.
    """
    name, options = read_call(text)
    if name not in TASKS:
        raise InputError(f"no synthetic pairs {name!r}; there are {', '.join(TASKS)}")
    sizes = {**SIZES, **_sizes(name, options)}
    symbols, shortest, longest, pairs = (sizes[key] for key in SIZES)
    if not 2 <= symbols <= len(LETTERS):
        raise InputError(f"{name} has from 2 to {len(LETTERS)} symbols, got {symbols}")
    if shortest > longest:
        raise InputError(f"{name} has shortest={shortest}, above longest={longest}")
    random = np.random.PCG64(seed)  # whose numbers are promised to stay
    lengths = shortest + random.random_raw(pairs) % np.uint64(longest + 1 - shortest)
    found = []
    for length in lengths.tolist():
        drawn = [LETTERS[k] for k in random.random_raw(length) % np.uint64(symbols)]
        found.append(Pair(" ".join(drawn), " ".join(drawn[:: TASKS[name]])))
    return found


def _sizes(name: str, options: Mapping[str, str]) -> dict[str, int]:
    found = {}
    for key, value in options.items():
        if key not in SIZES:
            raise InputError(f"{name} has no option {key!r}; it has {', '.join(SIZES)}")
        if not value.isdecimal():
            raise InputError(f"option {key} of {name} is a whole number, got {value!r}")
        found[key] = int(value)
        check_sizes(**{f"option {key} of {name}": found[key]})
    return found
