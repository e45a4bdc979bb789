"""Packing as operators of torch, where a graph is made or tensors are more than their numbers.

How sequences are packed depends on numbers, which a graph of torch.compile or torch.export does not have. So
`unrolled::packing` looks at them when the graph runs, and how many rows and pieces there are is a symbol.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from unrolled.compile.registered import LIBRARY
from unrolled.errors import InputError
from unrolled.nn.packing import Packed, Packing, check_steps
from unrolled.rows import Rows, rounded

for _schema in (
    "packing(Tensor? lengths, Tensor? resets, SymInt T, SymInt B) -> Tensor[]",
    "packed(Tensor batch_sizes) -> Tensor[]",
):
    LIBRARY.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))  # type: ignore[no-untyped-call]


class PackingInGraph(Packing):
    """A `Packing` whose numbers are not known yet."""

    def __init__(self, T: int, B: int, lengths: Tensor | None, resets: Tensor | None) -> None:
        self.T, self.B = T, B
        sizes, offsets, self.index, self.sequence, self.begins, *rest = torch.ops.unrolled.packing(
            lengths, resets, T, B
        )
        self._takes, self._leaves = (rest[0], rest[1]), (rest[2], rest[3])
        self.rows = Rows(sizes, offsets, self.index.shape[0])

    # Torch has the derivatives of these, of every order and in every mode.

    def pack(self, x: Tensor) -> Tensor:
        return x.flatten(0, 1).index_select(0, self.index.to(x.device))

    def unpack(self, y: Tensor) -> Tensor:
        nothing = y.new_zeros(self.T * self.B, *y.shape[1:])
        return nothing.index_copy(0, self.index.to(y.device), y).view(self.T, self.B, *y.shape[1:])


@torch.library.impl(LIBRARY, "packing", "CompositeExplicitAutograd")
def _packing(lengths: Tensor | None, resets: Tensor | None, T: int, B: int) -> list[Tensor]:
    if lengths is not None:
        check_steps(lengths, T)
    packing = Packing(T, B, lengths, resets)
    rows = packing.rows
    return [
        rows.lengths, _for_steps(rows.offsets, T), packing.index, packing.sequence, packing.begins,
        *packing._takes, *packing._leaves,
    ]  # fmt: skip


def _for_steps(offsets: Tensor, T: int) -> Tensor:
    """Offsets that have a place for each of T steps, whatever the longest sequence has."""
    return torch.cat((offsets, offsets[-1:].expand(rounded(T) + 2 - len(offsets))))


@torch.library.register_fake("unrolled::packing", lib=LIBRARY)  # type: ignore[untyped-decorator]
def _(lengths: Tensor | None, resets: Tensor | None, T: int, B: int) -> list[Tensor]:
    of = torch.library.get_ctx()
    rows = of.new_dynamic_size()
    pieces = B if resets is None else of.new_dynamic_size()
    sizes = (pieces, rounded(T) + 2, rows, pieces, pieces)
    numbers = [torch.empty(size, dtype=torch.long, device="cpu") for size in sizes]
    takes = [torch.empty(pieces, dtype=torch.bool, device="cpu") for _ in range(2)]
    return [*numbers, *takes, *(torch.empty(B, dtype=torch.long, device="cpu") for _ in range(2))]


def _mapped(info: Any, in_dims: Any, *values: Any) -> Any:
    raise InputError(
        "torch.func.vmap does not map lengths or resets, for they say which steps there are: "
        "give them without the mapped axis (in_dims=None), or more sequences in one batch"
    )


torch.library.register_vmap("unrolled::packing", _mapped, lib=LIBRARY)


class PackedInGraph(Packed):
    """A `Packed` whose numbers are not known yet."""

    def __init__(self, sequence: PackedSequence) -> None:
        self.sequence = sequence
        lengths, offsets = torch.ops.unrolled.packed(sequence.batch_sizes)
        self.T, self.B = len(sequence.batch_sizes), lengths.shape[0]
        self.rows = Rows(lengths, offsets, sequence.data.shape[0])


@torch.library.impl(LIBRARY, "packed", "CompositeExplicitAutograd")
def _packed(batch_sizes: Tensor) -> list[Tensor]:
    rows = Packed(PackedSequence(torch.empty(0), batch_sizes)).rows
    return [rows.lengths, _for_steps(rows.offsets, len(batch_sizes))]


@torch.library.register_fake("unrolled::packed", lib=LIBRARY)  # type: ignore[untyped-decorator]
def _(batch_sizes: Tensor) -> list[Tensor]:
    B = torch.library.get_ctx().new_dynamic_size()
    sizes = B, rounded(batch_sizes.shape[0]) + 2
    return [torch.empty(size, dtype=torch.long, device="cpu") for size in sizes]
