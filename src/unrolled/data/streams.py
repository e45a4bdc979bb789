"""A long text as chunks for truncated backpropagation with the state carried.

Training reads B parallel streams, each a contiguous piece of the text, T steps at a time. Row b of a
chunk continues row b of the chunk before, so the final state of one chunk is the right initial state of
the next. All B streams start from the zero state: only the first text has a true beginning.

Chunks of an `EncodedText` are read from its file when they are asked for.
"""

from collections.abc import Iterator

import torch

from unrolled.data.encoded import EncodedText
from unrolled.errors import DataError, InputError

Ids = torch.Tensor | EncodedText


def _check(ids: Ids, batch: int, steps: int) -> None:
    if ids.ndim != 1:
        raise InputError(f"ids has shape {tuple(ids.shape)}: one text is a tensor of shape (N,).")
    if batch < 1 or steps < 1:
        raise InputError(f"batch={batch} and steps={steps} must both be at least 1.")


def _rows(ids: Ids, batch: int) -> Ids:
    """(L + 1, B): column b is ids[b * L : b * L + L + 1], L = (N - 1) // B; the last id is only a target."""
    if isinstance(ids, EncodedText):
        return ids.columns(batch)
    length = (len(ids) - 1) // batch
    return ids[: batch * length + 1].unfold(0, length + 1, length).t().contiguous()


def _chunk(rows: Ids, start: int, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets from row `start` on: `steps` rows, or as many as there are."""
    rows = rows[start : start + steps + 1]
    if isinstance(rows, EncodedText):
        rows = rows.read()
    return rows[:-1], rows[1:]


class Streams:
    """The training chunks of one epoch.

    Stream b covers ids[b * L : b * L + L + 1] with L = (N - 1) // B. An epoch has L // T chunks; only
    whole chunks are made, so the last L % T characters of each stream are left out.

    Args:
        ids: (N,) one text, in memory or encoded in a file.
        batch: B streams side by side.
        steps: T steps a chunk, the distance gradients can travel.

    Raises:
        DataError: the text is too short for one chunk; the message says how long it must be.
        InputError: `ids` is not (N,), or `batch` or `steps` is below 1.

    Example:
        >>> inputs, targets = Streams(torch.arange(9), batch=2, steps=3)[0]
        >>> inputs.tolist()
        [[0, 4], [1, 5], [2, 6]]
    """

    def __init__(self, ids: Ids, batch: int, steps: int) -> None:
        _check(ids, batch, steps)
        needed = batch * steps + 1
        if len(ids) < needed:
            raise DataError(
                f"the text has {len(ids)} characters and one chunk of --batch {batch} and --bptt {steps} "
                f"needs {needed}: lower --batch or --bptt, or give a longer text."
            )
        self.batch, self.steps = batch, steps
        self._rows = _rows(ids, batch)

    def __len__(self) -> int:
        """Chunks an epoch."""
        return (len(self._rows) - 1) // self.steps

    def __getitem__(self, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs (T, B) and targets (T, B) of chunk k; targets are the inputs one step later."""
        return _chunk(self._rows, range(len(self))[k] * self.steps, self.steps)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return (self[k] for k in range(len(self)))


def held_out(ids: Ids, batch: int, steps: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, bool]]:
    """Chunks in which every character but the first is predicted exactly once.

    First come B streams of L = (N - 1) // B steps in chunks of T, the last of them shorter. The
    (N - 1) % B targets that remain follow as one more stream of batch 1, whose first input is the last
    target of stream B. A text of fewer than B + 1 characters is that one stream.

    Every stream starts from the zero state, so B + 1 predictions are made without context: a larger B
    is faster and gives a slightly higher loss.

    Args:
        ids: (N,) one text, in memory or encoded in a file, N at least 2.
        batch: B streams side by side.
        steps: T steps a chunk.

    Yields:
        inputs (t, b), targets (t, b) and `fresh`: whether the state starts at zero here. Where it is
        false the state carries over from the chunk before. t <= T; b is B, or 1 in the last stream.

    Raises:
        DataError: the text has fewer than two characters.
        InputError: `ids` is not (N,), or `batch` or `steps` is below 1.
    """
    _check(ids, batch, steps)
    if len(ids) < 2:
        raise DataError(f"the held-out text has {len(ids)} characters and a prediction needs 2.")
    covered = (len(ids) - 1) // batch * batch
    streams = [_rows(ids, batch)] if covered else []
    if covered < len(ids) - 1:
        streams.append(_rows(ids[covered:], 1))
    return (
        (*_chunk(stream, start, steps), start == 0)
        for stream in streams
        for start in range(0, len(stream) - 1, steps)
    )
