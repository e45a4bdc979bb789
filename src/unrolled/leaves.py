"""What a step reads besides inputs, states and parameters: where a state begins anew, and random masks
as a function of where they are, by a counter-based generator.

A draw depends on a key, on a place in a batch of sequences and on a unit, not on what was drawn before it.
So a backward pass, a part of a sequence or another backend draws the same again, and nothing is stored.

    z = splitmix64(key + place · φ64)                        64 bits for a row
    b = mix32(unit · φ32 + low z, high z)                    32 bits for a unit
    a draw is true where the first 24 of them are below 2^24 times the probability

φ is the golden ratio's fraction in so many bits.

Sources: Steele, Lea & Flood 2014, doi:10.1145/2714064.2660195 (SplitMix); Salmon et al. 2011,
doi:10.1145/2063384.2063405 (counter-based generators); the constants of mix32 are Wellons' "lowbias32".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

if TYPE_CHECKING:
    from unrolled.graph import Graph

GOLDEN64: Final = 0x9E3779B97F4A7C15
GOLDEN32: Final = 0x9E3779B9
SPLITMIX: Final = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, None))
"""Of splitmix64: z ^= z >> shift, and z *= factor if there is one."""
MIX: Final = ((16, 0x7FEB352D), (15, 0x846CA68B), (16, None))
"""Of mix32, likewise; the high half of z comes in after the first factor."""
BITS: Final = 24
"""Of a probability, so that it is a number of float32."""


def parts(probability: float) -> int:
    """A probability as a whole number of parts."""
    return round(probability * (1 << BITS))


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _shifted(z: Tensor, by: int) -> Tensor:
    """The bits of a whole number of 64, moved down; torch would repeat the first."""
    return (z >> by) & ((1 << (64 - by)) - 1)


def bernoulli(key: Tensor, threshold: Tensor, places: Tensor, units: int) -> Tensor:
    """Draws (N, units), true with the probability of a threshold.

    Args:
        key: a whole number of 64 bits.
        threshold: `parts` of the probability.
        places: (N,) whole numbers.
    """
    z = key + places * _signed(GOLDEN64)
    for shift, factor in SPLITMIX:
        z = z ^ _shifted(z, shift)
        if factor is not None:
            z = z * _signed(factor)
    low, high, mask = z & 0xFFFFFFFF, _shifted(z, 32), 0xFFFFFFFF
    b = (torch.arange(units, device=places.device) * GOLDEN32 + low[:, None]) & mask
    for step, (shift, factor) in enumerate(MIX):
        b = b ^ (b >> shift)
        if factor is not None:
            b = (b * factor) & mask
        if not step:
            b = b ^ high[:, None]
    return (b >> (32 - BITS)) < threshold


@dataclass(frozen=True)
class Leaves:
    """What a step reads besides inputs, states and learned tensors, for all rows of a pass.

    chances: (2, n), keys, and probabilities in parts, for the names in the order of `Graph.draws`.
    places, origins: (N,), where each row is, and where its sequence began, for what is drawn at every step
        and once a sequence; none where nothing is drawn.
    resets: (N,) bools, whether the state is another before a row's step; none where it never is.
    """

    chances: Tensor
    places: Tensor
    origins: Tensor
    resets: Tensor

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What kernels read, by name."""
        return {
            "chances": self.chances,
            "places": self.places,
            "origins": self.origins,
            "resets": self.resets,
        }

    def packed(self, index: Tensor | slice) -> Leaves:
        """Those of these rows."""
        return Leaves(
            self.chances, *(t[index] if len(t) else t for t in (self.places, self.origins, self.resets))
        )

    def on(self, graph: Graph, sizes: Mapping[str, int], like: Tensor) -> dict[str, Tensor]:
        """The values of a graph's leaves, on the device of a tensor and in its dtype: (N, units), or a number
        for all rows."""
        found: dict[str, Tensor] = {}
        chances = dict(zip(graph.draws, self.chances.to(like.device).t(), strict=True))
        for node in graph.nodes:
            if node.kind == "reset":
                found[node.leaf] = self.resets.to(like.device)[:, None]
            elif node.kind == "rate":
                found[node.leaf] = chances[node.name][1].to(like.dtype) / (1 << BITS)
            elif node.kind == "bernoulli":
                key, threshold = chances[node.name]
                places = (self.origins if node.sources else self.places).to(like.device)
                found[node.leaf] = bernoulli(key, threshold, places, sizes[node.width])
        return found


def leaves_of_step(leaves: Mapping[str, Tensor], first: int, end: int) -> dict[str, Tensor]:
    """Those of `Leaves.on` for a step that has these rows."""
    return {name: value[first:end] if value.ndim else value for name, value in leaves.items()}
