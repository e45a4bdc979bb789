"""Gradients through time: exact or truncated, in the memory there is."""

from unrolled.unroll.policies import Checkpointed, Full, Truncated
from unrolled.unroll.through_time import through_time

__all__ = ["Checkpointed", "Full", "Truncated", "through_time"]
