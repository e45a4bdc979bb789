"""Series of numbers, as texts of one number a line."""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unrolled.data.library import resolve_text
from unrolled.errors import DataError


def read_series(name_or_path: str | Path, cache: Path | None = None) -> tuple[str, NDArray[np.float64]]:
    """A label and the numbers of a series.

    Args:
        name_or_path: the name of a data set of numbers, such as "laser", or a text file of one number a line.

    Raises:
        DataError: there is no such data set or file, it was not fetched, a line is no number, or the series
            has a gap; the message names the line.
    """
    label, text = resolve_text(name_or_path, cache)
    values = []
    for place, line in enumerate(text.rstrip().split("\n"), 1):
        try:
            value = float(line) if line.strip() else math.nan
        except ValueError:
            raise DataError(
                f"line {place} of {label} is {line.strip()[:40]!r}: a series is a text of one number a line."
            ) from None
        if not math.isfinite(value):
            raise DataError(
                f"line {place} of {label} is {line.strip() or 'empty'}: a series has no gaps. Fill them in, "
                "or cut it there."
            )
        values.append(value)
    return label, np.array(values)
