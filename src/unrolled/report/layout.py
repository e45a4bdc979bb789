"""Placing a small directed graph in columns, from left to right.

- The column of a node is its longest distance from an entry; one without arguments goes before its first use.
- A line over several columns keeps a place in each. All lines from one node share these places, so a value
  that is used in many places is one line that forks.
- `unrolled.report.layers` orders the columns and sets the heights.
- Lines are level inside a column and bend only between columns, so none runs through a box or a name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from typing import Final, Literal

from unrolled.report.layers import Extent, Segment, Vertex, heights_of, ordered

LABEL_HEIGHT: Final = 22.0
LINE: Final = Extent(0.0, 2.0, 2.0)


@dataclass(frozen=True)
class Shape:
    """What is to be placed.

    width, height: of the box as drawn.
    label: the width of the name above it; 0 for none.
    round: whether its ends are half circles.
    pitch: the distance between the lines that enter it.
    ordered: whether lines enter from top to bottom in the order of the edges, rather than as they come.
    pin: the column it belongs in, where that is the first or the last.
    """

    width: float
    height: float
    label: float = 0.0
    round: bool = False
    pitch: float = 14.0
    ordered: bool = False
    pin: Literal["", "first", "last"] = ""

    @property
    def extent(self) -> Extent:
        """The room it takes with its name."""
        half = self.height / 2
        return Extent(max(self.width, self.label), half + (LABEL_HEIGHT if self.label else 0), half)


@dataclass(frozen=True)
class Box:
    """Where a node came to stand: its centre, and its size as drawn."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Route:
    """The line of one edge: points joined by a level stretch, a bend, a level stretch, and so on."""

    start: str
    end: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Layout:
    """A placed graph. Its upper left corner is (0, 0); the routes are in the order of the edges."""

    width: float
    height: float
    boxes: Mapping[str, Box]
    routes: tuple[Route, ...]


def arrange(shapes: Mapping[str, Shape], edges: Sequence[tuple[str, str]]) -> Layout:
    """Place a graph.

    Args:
        shapes: every node by name; a node comes after those with an edge to it.
        edges: pairs of names. A pair may come twice.
    """
    column = _columns(shapes, edges)
    segments = _segments(column, edges)
    vertices = dict.fromkeys([*column.items(), *(v for segment in segments for v in segment)])
    extents = {(key, k): shapes[key].extent if column[key] == k else LINE for key, k in vertices}
    order = ordered(vertices, segments)
    heights = heights_of(order, segments, extents)
    top = min(y - extents[v].above for v, y in heights.items())
    bottom = max(y + extents[v].below for v, y in heights.items())
    heights = {v: y - top for v, y in heights.items()}

    left, right = [], [0.0]
    for k, layer in enumerate(order):
        steepest = max((abs(heights[a] - heights[b]) for a, b in segments if b[1] == k), default=0.0)
        left.append(right[-1] + (30 + min(0.2 * steepest, 60) if k else 0))
        right.append(left[k] + max((extents[v].width for v in layer), default=0.0))
    del right[0]
    boxes = {
        key: Box((left[k] + right[k]) / 2, heights[key, k], shapes[key].width, shapes[key].height)
        for key, k in column.items()
    }
    routes = []
    for (start, end), y in zip(edges, _entries(shapes, column, edges, heights), strict=True):
        points = [(boxes[start].x + boxes[start].width / 2, boxes[start].y)]
        for k in range(column[start], column[end]):
            points.append((right[k], points[-1][1]))
            points.append((left[k + 1], y if k + 1 == column[end] else heights[start, k + 1]))
        radius, off = shapes[end].height / 2, y - boxes[end].y
        inset = radius - sqrt(max(radius**2 - off**2, 0.0)) if shapes[end].round else 0.0
        routes.append(Route(start, end, (*points, (boxes[end].x - boxes[end].width / 2 + inset, y))))
    return Layout(right[-1], bottom - top, boxes, tuple(routes))


def _columns(shapes: Mapping[str, Shape], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    before, after = defaultdict(list), defaultdict(list)
    for start, end in edges:
        before[end].append(start)
        after[start].append(end)
    column: dict[str, int] = {}
    for key in shapes:
        column[key] = max((column[other] + 1 for other in before[key]), default=0)
    end_column = max(k + (shapes[key].pin != "last") for key, k in column.items())
    for key, shape in shapes.items():
        if shape.pin == "last":
            column[key] = end_column
        elif not shape.pin and not before[key] and after[key]:
            column[key] = min(column[other] for other in after[key]) - 1
    return column


def _segments(column: Mapping[str, int], edges: Sequence[tuple[str, str]]) -> list[Segment]:
    """The pieces of all edges between neighbouring columns, each once."""
    found: dict[Segment, None] = {}
    for start, end in edges:
        line = [*((start, k) for k in range(column[start], column[end])), (end, column[end])]
        found.update(dict.fromkeys(pairwise(line)))
    return list(found)


def _entries(
    shapes: Mapping[str, Shape],
    column: Mapping[str, int],
    edges: Sequence[tuple[str, str]],
    heights: Mapping[Vertex, float],
) -> list[float]:
    """The height at which each edge enters its node."""
    entering: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for k, (start, end) in enumerate(edges):
        entering[end].append((0.0 if shapes[end].ordered else heights[start, column[end] - 1], k))
    found = [0.0] * len(edges)
    for end, arriving in entering.items():
        for position, (_, k) in enumerate(sorted(arriving)):
            offset = (position - (len(arriving) - 1) / 2) * shapes[end].pitch
            found[k] = heights[end, column[end]] + offset
    return found
