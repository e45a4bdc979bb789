"""Many to many, in step: a label at every step.

    y1    y2    y3
    ^     ^     ^
    h <-> h <-> h        one layer reads forward, another backward
    ^     ^     ^
    x1    x2    x3

A tagger of bracketed text: "(", letters and ")" in a row are inside, all else is outside. Whether a bracket
was opened is a memory of the past, whether it will be closed lies in the future, so a layer that reads one
way only has to guess. Prints the share of positions tagged rightly in new texts, reading one way and both
ways (at least 0.95), and a few texts with their tags.

    python examples/many_to_many_in_step.py
"""

import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unrolled import GRU

SYMBOLS = "abc()"


def batch(count: int) -> tuple[Tensor, Tensor, list[str]]:
    """Symbol numbers (T, B), 1 where a position is inside (T, B), and the texts."""
    tokens = torch.randint(len(SYMBOLS), (12, count))
    texts = ["".join(SYMBOLS[i] for i in column) for column in tokens.T.tolist()]
    tags = [re.sub(r"\([a-c]*\)", lambda found: "^" * len(found[0]), text) for text in texts]
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
    for text, marks in list(zip(texts, said.T.tolist(), strict=True))[4:8]:
        print(f"{text}\n{''.join(' ^'[mark] for mark in marks)}")
    return accuracy


if __name__ == "__main__":
    torch.set_num_threads(1)  # for tensors this small more threads are slower
    main()
