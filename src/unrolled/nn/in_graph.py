"""Packed sequences where a graph is made.

How sequences are packed depends on numbers, which a graph of torch.compile or torch.export does not have. So
`unrolled::packed` looks at them when the graph runs, and how many sequences there are is a symbol.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from unrolled.compile.registered import LIBRARY
from unrolled.errors import InputError
from unrolled.nn.packing import Packed
from unrolled.rows import Rows, rounded

LIBRARY.define(  # type: ignore[no-untyped-call]
    "packed(Tensor batch_sizes) -> Tensor[]", tags=(torch.Tag.pt2_compliant_tag,)
)


def check_mapped(lengths: object) -> None:
    """
    Raises:
        InputError: torch.func.vmap maps them.
    """
    if torch.compiler.is_compiling():  # which cannot ask this
        return
    functorch = torch._C._functorch
    while isinstance(lengths, Tensor) and functorch.is_functorch_wrapped_tensor(lengths):
        if functorch.is_batchedtensor(lengths):
            raise InputError(
                "torch.func.vmap does not map lengths, for they say which steps there are: "
                "give them without the mapped axis (in_dims=None), or more sequences in one batch"
            )
        lengths = functorch.get_unwrapped(lengths)


class PackedInGraph(Packed):
    """A `Packed` whose numbers are not known yet."""

    def __init__(self, sequence: PackedSequence) -> None:
        self.sequence = sequence
        lengths, offsets = torch.ops.unrolled.packed(sequence.batch_sizes)
        self.T, self.B = len(sequence.batch_sizes), lengths.shape[0]
        self.rows = Rows(lengths, offsets, steps=sequence.data.shape[0])


@torch.library.impl(LIBRARY, "packed", "CompositeExplicitAutograd")
def _packed(batch_sizes: Tensor) -> list[Tensor]:
    rows = Packed(PackedSequence(torch.empty(0), batch_sizes)).rows
    return [rows.lengths, _for_steps(rows.offsets, len(batch_sizes))]


def _for_steps(offsets: Tensor, T: int) -> Tensor:
    """Offsets that have a place for each of T steps, whatever the longest sequence has."""
    return torch.cat((offsets, offsets[-1:].expand(rounded(T) + 2 - len(offsets))))


@torch.library.register_fake("unrolled::packed", lib=LIBRARY)  # type: ignore[untyped-decorator]
def _(batch_sizes: Tensor) -> list[Tensor]:
    B = torch.library.get_ctx().new_dynamic_size()
    sizes = B, rounded(batch_sizes.shape[0]) + 2
    return [torch.empty(size, dtype=torch.long, device="cpu") for size in sizes]
