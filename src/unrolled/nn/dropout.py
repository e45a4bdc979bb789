"""Dropout whose masks are drawn several at once.

On a processor torch draws a number of 64 bits for every value; here one gives the masks of four. So the
probability is kept to 1/65536.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from unrolled.nn.masks import check_probability

LEVELS: Final = 1 << 16


class Dropout(nn.Dropout):
    """In training every value is 0 with probability p, and else 1/(1 − p) times itself, as torch has it.

    Raises:
        InputError: p is no probability below 1.

    Source: Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a.html.
    """

    def __init__(self, p: float) -> None:
        check_probability("dropout", p, below_one=True)
        super().__init__(p)

    def forward(self, input: Tensor) -> Tensor:
        dropped = round(self.p * LEVELS)
        if not self.training or not dropped:
            return input
        count = input.numel()
        numbers = torch.empty(-(-count // 4), dtype=torch.int64, device=input.device).random_(-(2**63), None)
        parts = numbers.view(torch.int16)[:count].view(input.shape)
        kept = (parts >= dropped - LEVELS // 2).to(input.dtype)
        return input * kept.mul_(LEVELS / (LEVELS - dropped))

    def extra_repr(self) -> str:
        return f"p={self.p}"
