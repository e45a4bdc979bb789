"""Draw tokens from the logits of a model, and sequences from a model of the next token, one token at a time.

Three things make a draw more careful, in this order: logits are divided by the temperature; only the k
likeliest tokens stay (top-k); of these, only the fewest that together have probability p (nucleus).

Source: Fan et al. 2018, arXiv:1805.04833 (top-k); Holtzman et al. 2020, arXiv:1904.09751 (nucleus).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

import torch
from torch import Tensor

from unrolled.errors import InputError

NUCLEUS: Final = 64
"""The likeliest tokens among which a nucleus is looked for at first."""


class NextToken(Protocol):
    """A model: tokens (T, B) and a state in, logits (T, B, V) and the state after them out."""

    def __call__(self, tokens: Tensor, state: Mapping[str, Tensor] | None) -> tuple[Tensor, Any]: ...


def check_draw(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """
    Raises:
        InputError: one of them is out of range.
    """
    if not temperature >= 0:
        raise InputError(f"temperature must be at least 0, got {temperature:g}")
    if temperature == math.inf:
        raise InputError("temperature must be a finite number: a high one, such as 100, is nearly uniform")
    if top_k is not None and not top_k >= 1:
        raise InputError(f"top-k must be at least 1, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise InputError(f"top-p is a probability above 0 and at most 1, got {top_p:g}")


def probabilities(
    logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """What tokens are drawn by: (..., V), float64.

    Args:
        logits: (..., V); a token of -inf is never drawn.
        temperature: above 0; below 1 is more careful.
        top_k: only the k likeliest; what is exactly as likely as the last of them stays too.
        top_p: of those, the fewest that together have at least this probability.
    """
    if top_k is not None and top_k < logits.shape[-1]:
        logits = logits.where(logits >= logits.topk(top_k).values[..., -1:], -torch.inf)
    # Never inf - inf, however low the temperature.
    p = ((logits.double() - logits.amax(-1, keepdim=True)) / temperature).softmax(-1)
    if top_p is None or top_p == 1:
        return p
    count = NUCLEUS
    while True:  # a whole sort takes longer than most steps of a model
        falling, tokens = p.topk(min(count, p.shape[-1]))
        sums = falling.cumsum(-1)
        if count >= p.shape[-1] or bool((sums[..., -1] >= top_p).all()):
            break
        count *= 16
    kept = falling.where(sums - falling < top_p, 0.0)
    return torch.zeros_like(p).scatter(-1, tokens, kept / kept.sum(-1, keepdim=True))


def draw(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Tokens (...) drawn from logits (..., V) by `probabilities`; at temperature 0 the likeliest.

    One number from the generator is taken for each, and the token found where the sum of the probabilities
    up to it first exceeds that.
    """
    if temperature == 0:
        return logits.argmax(-1)
    rising = probabilities(logits, temperature, top_k, top_p).cumsum(-1)
    total = rising[..., -1:]
    at = total * torch.rand(total.shape, generator=generator, dtype=total.dtype, device=total.device)
    at = torch.minimum(at, torch.nextafter(total, torch.zeros_like(total)))  # rounded up it would be no token
    return torch.searchsorted(rising, at, right=True)[..., 0]


def sample(
    model: NextToken,
    prime: Tensor,
    length: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[int]:
    """Yield `length` tokens that continue `prime`.

    Args:
        prime: (N,) token numbers, at least one.
        temperature: logits are divided by it; below 1 is more careful, 0 always takes the likeliest.
        top_k: draw only among the k likeliest tokens.
        top_p: draw only among the fewest tokens that together have this probability.
        generator: where the randomness comes from.

    Raises:
        InputError: an argument is out of range.
    """
    if len(prime) < 1:
        raise InputError("the prime is empty: give at least one character to begin with")
    if not length >= 0:
        raise InputError(f"length must be at least 0, got {length}")
    check_draw(temperature, top_k, top_p)
    return _continue(model, prime, length, temperature, top_k, top_p, generator)


def _continue(
    model: NextToken, tokens: Tensor, length: int, temperature: float, top_k: int | None,
    top_p: float | None, generator: torch.Generator | None,
) -> Iterator[int]:  # fmt: skip
    state = None
    for _ in range(length):
        with torch.no_grad():
            logits, state = model(tokens[:, None], state)
        tokens = draw(logits[-1, 0], temperature, top_k, top_p, generator)[None]
        yield int(tokens)
