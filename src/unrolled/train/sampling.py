"""Draw sequences from a model of the next token, one token at a time, each fed back as the next input."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from unrolled.errors import InputError


class NextToken(Protocol):
    """A model: tokens (T, B) and a state in, logits (T, B, V) and the state after them out."""

    def __call__(self, tokens: Tensor, state: Mapping[str, Tensor] | None) -> tuple[Tensor, Any]: ...


def sample(
    model: NextToken,
    prime: Tensor,
    length: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[int]:
    """Yield `length` tokens that continue `prime`.

    Args:
        prime: (N,) token numbers, at least one.
        temperature: logits are divided by it; below 1 is more careful, 0 always takes the likeliest.
        top_k: draw only among the k likeliest tokens.
        generator: where the randomness comes from.

    Raises:
        InputError: an argument is out of range.
    """
    if len(prime) < 1:
        raise InputError("the prime is empty: give at least one character to begin with")
    for name, value, least in (("length", length, 0), ("temperature", temperature, 0), ("top-k", top_k, 1)):
        if value is not None and not value >= least:
            raise InputError(f"{name} must be at least {least}, got {value:g}")
    return _continue(model, prime, length, temperature, top_k, generator)


def _continue(
    model: NextToken,
    tokens: Tensor,
    length: int,
    temperature: float,
    top_k: int | None,
    generator: torch.Generator | None,
) -> Iterator[int]:
    state = None
    for _ in range(length):
        with torch.no_grad():
            logits, state = model(tokens[:, None], state)
        tokens = draw(logits[-1, 0], temperature, top_k, generator)[None]
        yield int(tokens)


def draw(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator | None) -> Tensor:
    """One token number drawn from logits (V,)."""
    if temperature == 0:
        return logits.argmax()
    if top_k is not None and top_k < len(logits):
        logits = logits.where(logits >= logits.topk(top_k).values[-1], -torch.inf)
    scaled = (logits.double() - logits.max()) / temperature  # never inf - inf, however low the temperature
    probabilities = torch.softmax(scaled, 0)
    return torch.multinomial(probabilities, 1, generator=generator)[0]
