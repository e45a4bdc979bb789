"""What the exact gradient of a character model through a long sequence takes, before it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch

from unrolled.cells import find
from unrolled.errors import BudgetError, check_sizes
from unrolled.tasks.char import CharModel, step_of
from unrolled.tasks.char_config import CharConfig
from unrolled.unroll.planner import FEW, Plan, plan
from unrolled.unroll.policies import Checkpointed

LENGTHS: Final = (8, 16, 32, 64, 128, 256)
"""Steps of a segment that are tried."""


def plans(
    cell: str, hidden: int, layers: int, batch: int, steps: int, vocabulary: int, policy: Checkpointed,
    segment: int | None = None,
) -> dict[int, Plan]:  # fmt: skip
    """A plan for each length of a segment, in steps, that the budget has room for.

    Args:
        steps: of the sequence; its loss is that of every next character.
        policy: Checkpointed with memory.
        segment: the only length, if not some are to be tried.

    Raises:
        BudgetError: there is none; the message says how much it takes.
    """
    check_sizes(steps=steps, vocabulary=vocabulary, segment=1 if segment is None else segment)
    torch.manual_seed(0)
    model = CharModel(find(cell), vocabulary, CharConfig(hidden=hidden, layers=layers, batch=batch))
    lengths: Sequence[int] = [segment] if segment else [n for n in LENGTHS if n <= steps] or [steps]
    found, refused = {}, []
    for length in lengths:
        tokens = torch.randint(vocabulary, (FEW * length + 1, batch))
        segments: list[Any] = [*zip(tokens[:-1].split(length), tokens[1:].split(length), strict=True)]
        try:
            found[length] = plan(step_of(model), segments, None, bptt=policy, count=-(-steps // length))
        except BudgetError as error:
            refused.append(error)
    if not found:
        raise refused[0]
    return found
