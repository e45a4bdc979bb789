"""What a benchmark is made of: sizes, settings, records, and families of peers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

MINUTE: Final = "min"
"""The unit of what is to be short."""


class Size(NamedTuple):
    """Steps, rows, input width, state width."""

    T: int
    B: int
    D: int
    H: int

    def __str__(self) -> str:
        return f"T={self.T} B={self.B} D={self.D} H={self.H}"


GRID = (
    Size(25, 1, 64, 100),
    Size(50, 20, 65, 100),
    Size(64, 32, 128, 128),
    Size(128, 64, 256, 256),
    Size(128, 64, 512, 512),
    Size(100, 16, 1024, 1024),
    Size(1000, 1, 256, 256),
)


@dataclass(frozen=True)
class Settings:
    """How to measure.

    rounds: the timed turns of each case, at least.
    quick: only a look: the two smallest sizes of the grid, and small cases where there is no grid.
    """

    rounds: int = 10
    threads: int = 2
    quick: bool = False

    @property
    def sizes(self) -> tuple[Size, ...]:
        return GRID[:2] if self.quick else GRID


@dataclass(frozen=True)
class Record:
    """One measurement.

    Attributes:
        subject: what of ours, or whose.
        figure: what is compared with the bar, or None if there is none; `note` says why.
        low, high: its quartiles over the turns.
        size: the point of the grid, if it is one.
        bar: what is asked of the figure, if anything.
        ours, peer: the least and the median of the seconds of each side.
        turns: how often each side was timed.
        refused: whether the two sides differ, so that nothing was timed.
        unit: what the figure is counted in, where that is not the family's.
        curve: pairs of minutes and a figure, on the way there.
    """

    subject: str
    figure: float | None = None
    low: float | None = None
    high: float | None = None
    size: Size | None = None
    bar: float | None = None
    ours: tuple[float, float] | None = None
    peer: tuple[float, float] | None = None
    turns: int = 0
    note: str = ""
    refused: bool = False
    unit: str = ""
    curve: tuple[tuple[float, float], ...] = ()

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Record:
        pairs = {key: tuple(data[key]) for key in ("ours", "peer") if data[key]}
        curve = tuple((minutes, figure) for minutes, figure in data.get("curve", ()))
        size = Size(*data["size"]) if data["size"] else None
        return cls(**{**data, **pairs, "size": size, "curve": curve})


class Mean(NamedTuple):
    """A geometric mean over the points of a subject, what is asked of it, and how many points were measured
    of how many."""

    figure: float
    bar: float | None
    measured: int
    points: int


@dataclass(frozen=True)
class Family:
    """Measurements that belong together.

    Attributes:
        name: on the command line.
        title: in one line.
        measure: makes them.
        mean: asked of a subject's geometric mean.
        unit: "" where figures are ratios, peer's time / our time, and bars are lower limits; else what they
            are counted in, and bars are upper limits, if not said otherwise.
        least: whether bars are lower limits although figures have a unit; minutes have upper ones all the
            same.
        caption: what exactly is measured.
    """

    name: str
    title: str
    measure: Callable[[Settings], Iterator[Record]]
    mean: float | None = None
    unit: str = ""
    caption: str = ""
    least: bool = False

    def more_is_better(self, unit: str = "") -> bool:
        """Whether bars are lower limits, of figures with this unit of their own."""
        return unit != MINUTE and (self.least or not self.unit)

    def verdict(self, figure: float | None, bar: float | None, unit: str = "") -> str:
        """ "ok", or on which side of the bar the figure is; nothing where nothing is asked."""
        if figure is None or bar is None:
            return ""
        if self.more_is_better(unit):
            return "ok" if figure >= bar else "below"
        return "ok" if figure <= bar else "above"

    def means(self, records: Iterable[Record]) -> dict[str, Mean]:
        """The mean of every subject that has points on the grid, in a family that asks for one."""
        by_subject: dict[str, list[Record]] = {}
        for record in records:
            if record.size is not None and self.mean is not None:
                by_subject.setdefault(record.subject, []).append(record)
        found = {}
        for subject, points in by_subject.items():
            if measured := [point.figure for point in points if point.figure is not None]:
                mean = math.exp(sum(map(math.log, measured)) / len(measured))
                bar = self.mean if any(point.bar for point in points) else None
                found[subject] = Mean(mean, bar, len(measured), len(points))
        return found
