"""The order and the heights of vertices in columns: the two hard steps of a layered drawing.

A vertex is a node, or the line of its value, in one column; segments join vertices of neighbouring columns.
Ordering takes barycentres (Sugiyama, Tagawa & Toda 1981, doi:10.1109/TSMC.1981.4308636) and exchanges, from
the given order and from shuffled ones; the shuffles are the same every time.
Heights come from isotonic regression, column by column, reweighted to prefer few bends to small ones.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from math import inf
from random import Random
from typing import Final, NamedTuple

STARTS: Final = 12
ORDER_SWEEPS: Final = 8
HEIGHT_SWEEPS: Final = 400
ROW_GAP: Final = 14.0

Vertex = tuple[str, int]
"""The name of a node and a column: the node's own, or a later one that its line crosses."""

Segment = tuple[Vertex, Vertex]


class Extent(NamedTuple):
    """The width of a vertex, and how far it reaches above and below its height."""

    width: float
    above: float
    below: float


def ordered(vertices: Iterable[Vertex], segments: Iterable[Segment]) -> list[list[Vertex]]:
    """The vertices of each column from top to bottom, so that few segments cross."""
    before, after = defaultdict(list), defaultdict(list)
    for a, b in segments:
        after[a].append(b)
        before[b].append(a)
    order: list[list[Vertex]] = []
    for vertex in vertices:
        order.extend([] for _ in range(vertex[1] + 1 - len(order)))
        order[vertex[1]].append(vertex)
    place = {v: k for layer in order for k, v in enumerate(layer)}

    def crossings(layer: Sequence[Vertex], neighbours: Mapping[Vertex, list[Vertex]]) -> int:
        """Between these vertices, in this order, and the column of their neighbours."""
        seen: list[int] = []
        count = 0
        for vertex in layer:
            ends = sorted(place[other] for other in neighbours.get(vertex, ()))
            count += sum(len(seen) - bisect_right(seen, end) for end in ends)
            for end in ends:
                insort(seen, end)
        return count

    best, fewest = order, inf
    shuffle = Random(0).shuffle
    for sweep in range(ORDER_SWEEPS * STARTS):
        if sweep and sweep % ORDER_SWEEPS == 0:
            for layer in order:
                shuffle(layer)
                place.update((v, k) for k, v in enumerate(layer))
        neighbours = after if sweep % 2 else before
        for layer in reversed(order) if sweep % 2 else order:
            centres = {
                v: sum(place[other] for other in ends) / len(ends) if (ends := neighbours[v]) else place[v]
                for v in layer
            }
            layer.sort(key=centres.__getitem__)
            place.update((v, k) for k, v in enumerate(layer))
        for layer in order:
            for k in range(len(layer) - 1):
                pair = layer[k : k + 2]
                gain = [crossings(pair, side) - crossings(pair[::-1], side) for side in (before, after)]
                if sum(gain) > 0:
                    layer[k : k + 2] = reversed(pair)
                    place.update({pair[0]: k + 1, pair[1]: k})
        count = sum(crossings(layer, before) for layer in order)
        if count < fewest:
            best, fewest = [list(layer) for layer in order], count
    return best


def heights_of(
    order: Sequence[Sequence[Vertex]], segments: Sequence[Segment], extents: Mapping[Vertex, Extent]
) -> dict[Vertex, float]:
    """The height of every vertex: in order, apart, and level with its neighbours where that can be."""
    apart = {
        (a, b): extents[a].below + ROW_GAP + extents[b].above for layer in order for a, b in pairwise(layer)
    }
    stacks = [
        dict(zip(layer, accumulate((apart[pair] for pair in pairwise(layer)), initial=0.0), strict=False))
        for layer in order
    ]
    fan_out, fan_in = Counter(a for a, _ in segments), Counter(b for _, b in segments)
    pulls: dict[Vertex, list[tuple[Vertex, float]]] = defaultdict(list)
    for a, b in segments:
        # long lines straight first, then chains of nodes, then the rest
        weight = 8.0 if a[0] == b[0] else 4.0 if fan_out[a] == fan_in[b] == 1 else 1.0
        pulls[a].append((b, weight))
        pulls[b].append((a, weight))

    heights = {v: y - max(stack.values()) / 2 for stack in stacks for v, y in stack.items()}
    for sweep in range(HEIGHT_SWEEPS):
        # squared distances spread the vertices; then plain ones turn many slight bends into few
        power = 0.0 if sweep < HEIGHT_SWEEPS / 4 else 1.0
        for stack in reversed(stacks) if sweep % 2 else stacks:
            wanted, weights = [], []
            for vertex, offset in stack.items():
                y = heights[vertex]
                pull = [(heights[v], w / (0.1 + abs(heights[v] - y)) ** power) for v, w in pulls[vertex]]
                total = sum(weight for _, weight in pull)
                wanted.append((sum(at * weight for at, weight in pull) / total if pull else y) - offset)
                weights.append(total or 1.0)
            for (vertex, offset), y in zip(stack.items(), isotonic(wanted, weights), strict=True):
                heights[vertex] = y + offset
    _straighten(heights, apart)
    return heights


def _straighten(heights: dict[Vertex, float], apart: Mapping[tuple[Vertex, Vertex], float]) -> None:
    """Draw every long line level where it has the room, as near to the height of its source as it can."""
    above = {b: (a, distance) for (a, b), distance in apart.items()}
    below = {a: (b, distance) for (a, b), distance in apart.items()}
    lines: dict[str, list[Vertex]] = defaultdict(list)
    for vertex in sorted(heights, key=lambda vertex: vertex[1]):
        lines[vertex[0]].append(vertex)
    for source, *line in lines.values():
        least = max((heights[above[v][0]] + above[v][1] for v in line if v in above), default=-inf)
        most = min((heights[below[v][0]] - below[v][1] for v in line if v in below), default=inf)
        if least <= most:
            heights.update(dict.fromkeys(line, min(max(heights[source], least), most)))


def isotonic(wanted: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The sequence that never falls and is nearest to the wanted one, in weighted squares.

    Pool adjacent violators: Ayer et al. (1955, doi:10.1214/aoms/1177728423).
    """
    pools: list[tuple[float, float, int]] = []
    for value, weight in zip(wanted, weights, strict=True):
        mean, total, count = value, weight, 1
        while pools and pools[-1][0] > mean:
            other, other_total, other_count = pools.pop()
            mean = (mean * total + other * other_total) / (total + other_total)
            total, count = total + other_total, count + other_count
        pools.append((mean, total, count))
    return [mean for mean, _, count in pools for _ in range(count)]
