"""Gradients through time: exact or truncated, in the memory there is."""

from unrolled.unroll.planner import Plan, plan
from unrolled.unroll.policies import Checkpointed, Full, Truncated
from unrolled.unroll.through_time import through_time
from unrolled.unroll.truncation import truncation

__all__ = ["Checkpointed", "Full", "Plan", "Truncated", "plan", "through_time", "truncation"]
