"""Many to many, in step: a label at every step.

    y1    y2    y3
    ^     ^     ^
    h <-> h <-> h        one layer reads forward, another backward
    ^     ^     ^
    x1    x2    x3

A tagger of bracketed text: a position is inside if the nearest bracket before it opens and the nearest one
after it closes. The first half is a memory of the past, the second lies in the future, so a layer that reads
one way only has to guess. Prints a few new texts with their tags, and the share of positions tagged rightly
reading one way and both ways (at least 0.95).

    python examples/many_to_many_in_step.py
"""

import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unrolled import GRU

SYMBOLS = "abcd()"


def batch(count: int) -> tuple[Tensor, Tensor, list[str]]:
    """Symbol numbers (T, B), 1 where a position is inside (T, B), and the texts."""
    tokens = torch.randint(len(SYMBOLS), (12, count))
    texts = ["".join(SYMBOLS[i] for i in column) for column in tokens.T.tolist()]
    tags = [re.sub(r"\([a-d]*\)", lambda found: "^" * len(found[0]), text) for text in texts]
    return tokens, torch.tensor([[mark == "^" for mark in row] for row in tags]).T.long(), texts


def main(steps: int = 150) -> float:
    torch.manual_seed(0)
    for bidirectional in (False, True):
        layer = GRU(len(SYMBOLS), 16, bidirectional=bidirectional)
        head = nn.Linear(layer.output_size, 2)
        optimiser = torch.optim.Adam([*layer.parameters(), *head.parameters()], lr=0.03)
        for _ in range(steps):
            tokens, inside, _ = batch(64)
            loss = F.cross_entropy(head(layer(tokens)[0]).flatten(0, 1), inside.flatten())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        tokens, inside, texts = batch(500)
        said = head(layer(tokens)[0]).argmax(-1)
        accuracy = (said == inside).double().mean().item()
        print(f"reading {'both ways' if bidirectional else 'one way'}: {accuracy:.3f} of the positions")
    for text, marks in zip(texts[:3], said.T.tolist(), strict=False):
        print(f"{text}\n{''.join(' ^'[mark] for mark in marks)}")
    return accuracy


if __name__ == "__main__":
    main()
