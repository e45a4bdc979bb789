"""What the exact gradient of a character model takes, and what a truncated one loses."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

import torch
from torch import Tensor

from unrolled.cells import find
from unrolled.data import Segments, Streams, inputs_and_targets
from unrolled.data.encoded import EncodedText
from unrolled.errors import BudgetError, DataError, check_sizes
from unrolled.tasks.char import CharModel
from unrolled.tasks.char_config import CharConfig
from unrolled.tasks.char_time import step_of, summed_loss
from unrolled.unroll import Checkpointed, Plan, plan, truncation
from unrolled.unroll.planner import FEW
from unrolled.unroll.policies import Policy

LENGTHS: Final = (8, 16, 32, 64, 128, 256)
"""Steps of a segment that are tried."""


def plans(
    config: CharConfig, steps: int, vocabulary: int, policy: Checkpointed, segment: int | None = None
) -> dict[int, Plan]:
    """A plan for each length of a segment, in steps, that the budget has room for.

    Args:
        config: of the model.
        steps: of the sequence, whose every next character is predicted.
        vocabulary: V, how many characters there are.
        policy: Checkpointed with memory.
        segment: the only length, if not some are to be tried.

    Raises:
        BudgetError: there is none; the message says how much it takes.
        InputError: a size is not a whole number of at least 1.
    """
    check_sizes(steps=steps, vocabulary=vocabulary, segment=1 if segment is None else segment)
    torch.manual_seed(config.seed)
    model = CharModel(find(config.cell), vocabulary, config)
    lengths = [segment] if segment else [n for n in LENGTHS if n < steps] or [steps]
    found: dict[int, Plan] = {}
    refused: BudgetError | None = None
    for length in lengths:
        tokens = torch.randint(vocabulary, (FEW * length + 1, config.batch))
        segments = Segments(*inputs_and_targets(tokens), steps=length)
        try:
            found[length] = plan(step_of(model), segments, bptt=policy, count=-(-steps // length))
        except BudgetError as error:
            refused = refused or error
    if refused and not found:
        raise refused
    return found


def first_chunk(ids: Tensor | EncodedText, batch: int, steps: int) -> tuple[Tensor, Tensor]:
    """The first tokens of a text in parallel streams (T, B), and the next ones.

    Raises:
        DataError: the text is too short.
        InputError: a number is not a whole one of at least 1.
    """
    check_sizes(batch=batch, steps=steps)
    if len(ids) <= batch * steps:
        raise DataError(
            f"the text has {len(ids)} characters, and {batch} streams of {steps} steps need "
            f"{batch * steps + 1}: lower --batch or --steps, or give a longer text"
        )
    return Streams(ids, batch, steps)[0]


def lost(
    model: CharModel,
    ids: Tensor | EncodedText,
    batch: int,
    steps: int,
    k1: int | None,
    exact: Policy,
) -> list[dict[str, Any]]:
    """Records of `unrolled.truncation` for a trained model, on the first chunk of a text in parallel streams;
    None stands for what is no number.

    Args:
        ids: the text.
        batch: streams.
        steps: T, how far the exact gradient goes back.
        k1: see `unrolled.truncation`.
        exact: how it is had.

    Raises:
        DataError: the text is too short.
        InputError, BudgetError: a number or the budget does not fit.
    """
    inputs, targets = first_chunk(ids, batch, steps)

    def loss(bptt: Policy) -> Any:
        outputs, _ = model.layer(inputs, bptt=bptt)
        return summed_loss(model.head(outputs), targets) / steps

    found = truncation(loss, model.named_parameters(), steps, k1=k1, exact=exact)
    return [{key: None if value != value else value for key, value in asdict(each).items()} for each in found]
