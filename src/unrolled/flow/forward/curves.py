"""Curves of numbers that are given by their logarithms: the axis has powers of ten, so that any size fits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D


def curve(ax: Axes, x: Tensor, logs: Tensor, **style: Any) -> Line2D:
    """A line through those that are finite."""
    shown = logs.isfinite()
    (line,) = ax.plot(x[shown], logs[shown] / math.log(10), **style)
    return line


def name_powers(ax: Axes, what: str) -> None:
    """Name the axis, and its ticks: powers of ten, or numbers where it spans a few."""
    from matplotlib.ticker import FixedLocator, MaxNLocator

    low, high = ax.get_ylim()
    if high - low > 3:
        ax.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10], integer=True))
        ax.yaxis.set_major_formatter(lambda tick, _: f"$10^{{{tick:.0f}}}$")
    else:
        around = range(math.floor(low), math.ceil(high) + 1)
        ax.yaxis.set_major_locator(FixedLocator([k + math.log10(m) for k in around for m in (1, 2, 5)]))
        ax.yaxis.set_major_formatter(lambda tick, _: f"{10**tick:.3g}")
    ax.set_ylabel(what)


def legend(ax: Axes) -> None:
    """A legend that lines may pass behind, in two columns where it is long."""
    many = len(ax.get_legend_handles_labels()[1]) > 5
    ax.legend(fontsize=9, facecolor="white", edgecolor="none", framealpha=0.85, ncols=1 + many)
