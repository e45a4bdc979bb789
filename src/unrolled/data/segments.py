"""Sequences longer than memory as segments of time, each read when it is used.

    text = Text.open("novel.txt")
    segments = Segments(*inputs_and_targets(text.encode(), batch=32), steps=50)
    loss, state = through_time(step, segments, state, bptt=Checkpointed(memory="200MB"))

A file that is mapped into memory (`numpy.memmap`, `numpy.load(..., mmap_mode="r")`) is mapped anew for each
segment, and only until that is copied: otherwise every page ever used would stay memory of the process.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unrolled.data.encoded import EncodedText
from unrolled.errors import DataError, InputError, check_sizes

Array = TypeVar("Array", Tensor, npt.NDArray[Any], EncodedText)


class Segments(Sequence[Any]):
    """Rows k * steps to (k + 1) * steps of arrays, for k = 0, 1, ...; the last segment may be shorter.

    A segment is a tensor (t, ...), or a tuple of tensors where there are several arrays. A piece of a tensor
    shares its memory, that of an array is a copy, and that of an encoded text is int64.

    Args:
        arrays: tensors, NumPy arrays, mapped files or encoded texts, (T, ...) each, of the same T.
        steps: rows of a segment.

    Raises:
        InputError: there is no array or no row, one is something else or of another length, or `steps` is
            below 1.
        DataError: when a segment is read, and its file is gone or shorter than it was.

    Example:
        >>> [len(segment) for segment in Segments(torch.arange(7), steps=3)]
        [3, 3, 1]
    """

    def __init__(self, *arrays: Tensor | npt.NDArray[Any] | EncodedText, steps: int) -> None:
        check_sizes(steps=steps)
        if not arrays:
            raise InputError("there are no arrays to take segments of")
        for number, array in enumerate(arrays):
            _check(f"array {number}", array)
        lengths = [len(array) for array in arrays]
        if len(set(lengths)) > 1:
            raise InputError(f"the arrays have {lengths} rows: time, the first axis, must be as long in all")
        if not lengths[0]:
            raise InputError("the arrays have no rows: time, the first axis, must have at least one")
        self.arrays, self.steps = arrays, steps

    def __len__(self) -> int:
        return -(-len(self.arrays[0]) // self.steps)

    def __getitem__(self, k: Any) -> Any:
        start = range(len(self))[k] * self.steps
        pieces = tuple(_read(array[start : start + self.steps]) for array in self.arrays)
        return pieces if len(pieces) > 1 else pieces[0]


def inputs_and_targets(tokens: Array, batch: int | None = None) -> tuple[Array, Array]:
    """All tokens but the last, and all but the first: what to predict from. Nothing is copied.

    Args:
        tokens: (N, ...).
        batch: cut (N,) into B streams side by side, of which each continues from segment to segment; the
            (N - 1) % B last targets are left out.

    Returns:
        two times (N - 1, ...), or (L, B) with L = (N - 1) // B, where column b of the inputs is
        tokens[b * L : b * L + L].

    Raises:
        InputError: it is no array, there are fewer than B + 1 tokens, `batch` is below 1, or there is one and
            tokens are not (N,).
    """
    _check("tokens", tokens)
    streams = 1 if batch is None else batch
    check_sizes(batch=streams)
    if len(tokens) <= streams:
        raise InputError(f"there are {len(tokens)} tokens, and {streams} at once need at least {streams + 1}")
    if batch is None:
        return tokens[:-1], tokens[1:]
    if tokens.ndim != 1:
        raise InputError(f"tokens have shape {tuple(tokens.shape)}: a batch is made of one sequence, (N,)")
    if isinstance(tokens, EncodedText):
        rows = tokens.columns(batch)
        return rows[:-1], rows[1:]
    covered = (len(tokens) - 1) // batch * batch
    return tokens[:covered].reshape(batch, -1).T, tokens[1 : covered + 1].reshape(batch, -1).T


def _check(name: str, array: object) -> None:
    if not isinstance(array, Tensor | np.ndarray | EncodedText):
        raise InputError(
            f"{name} is a {type(array).__name__}, expected a tensor, a NumPy array or an encoded text"
        )
    if not array.ndim:
        raise InputError(f"{name} is a single number, expected time as its first axis")
    if isinstance(array, np.ndarray):
        try:
            _tensor(np.zeros(0, array.dtype))
        except TypeError:
            raise InputError(f"{name} holds {array.dtype}, which no tensor can") from None


def _tensor(array: npt.NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.array(array, array.dtype.newbyteorder("="), order="C"))


def _read(rows: Tensor | npt.NDArray[Any] | EncodedText) -> Tensor:
    if isinstance(rows, Tensor):
        return rows
    return rows.read() if isinstance(rows, EncodedText) else _tensor(_mapped_anew(rows))


def _mapped_anew(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same part of a file in a mapping of its own, where `rows` are of a mapped file; else `rows`."""
    mapped: Any = rows
    while mapped is not None and not (isinstance(mapped, np.memmap) and isinstance(mapped.base, mmap.mmap)):
        mapped = getattr(mapped, "base", None)
    # Mode "c" keeps changes in memory only; without a name there is nothing to open.
    if mapped is None or mapped.filename is None or mapped.mode == "c" or not rows.size:
        return rows
    reach = [(n - 1) * stride for n, stride in zip(rows.shape, rows.strides, strict=True)]
    before = -sum(min(0, distance) for distance in reach)
    size = before + sum(max(0, distance) for distance in reach) + rows.itemsize
    offset = mapped.offset + rows.ctypes.data - before - mapped.ctypes.data
    try:
        part = np.memmap(mapped.filename, np.uint8, "r", offset, size)
    except OSError as error:
        raise DataError(f"{mapped.filename} cannot be read any more ({error.strerror})") from None
    except ValueError:
        raise DataError(f"{mapped.filename} is shorter than it was: put it back, or begin anew") from None
    return np.ndarray(rows.shape, rows.dtype, part, before, rows.strides)
