"""Bootstrap: a figure of many samples drawn from what was measured tells how uncertain it is.

Source: Efron 1979, doi:10.1214/aos/1176344552; percentiles as in Efron & Tibshirani 1993, chapter 13.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

ROUNDS: Final = 1000
"""Samples that are drawn."""

AT_ONCE: Final = 100
"""Of them, so many are held in memory."""


def resampled(
    rows: Array, counts: NDArray[np.int64], figures: Callable[[Array], Array], seed: int = 0
) -> tuple[Array, Array]:
    """Ends of the 95% intervals of figures that depend on sums over what was measured.

    Args:
        rows: (G, K), what each adds to the sums.
        counts: (G,), how often there was such a one; as many are drawn again.
        figures: from sums (R, K) of R samples to figures (R, J); NaN where a sample has none.
        seed: of the draws.

    Returns:
        low and high, each (J,).
    """
    random, total = np.random.default_rng(seed), int(counts.sum())
    shares = counts / total
    found = []
    for begin in range(0, ROUNDS, AT_ONCE):
        drawn = random.multinomial(total, shares, size=min(AT_ONCE, ROUNDS - begin))
        found.append(figures(drawn.astype(np.float64) @ rows))
    low, high = np.nanpercentile(np.concatenate(found), (2.5, 97.5), axis=0)
    return low, high
