"""One to many: one vector to a sequence.

         y1   y2   y3
         ^    ^    ^
    x -> h -> h -> h        each letter is the next step's input

A speller of the numbers 20 to 99. The vector (which ten, which one) enters once, as the initial state; the
letters come out one by one until END. Prints a few numbers that it never saw in training as it spells them
by itself, and the share of those spelt without a mistake (at least 0.95).

    python examples/one_to_many.py
"""

import torch
import torch.nn.functional as F
from torch import nn

from unrolled import GRU

TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
ONES = "-one -two -three -four -five -six -seven -eight -nine".split()
WORDS = [ten + one for ten in TENS for one in ["", *ONES]]
END = "."  # also what comes before the first letter
LETTERS = END + "".join(sorted(set("".join(WORDS))))


def main(steps: int = 300) -> float:
    torch.manual_seed(0)
    which = torch.arange(80)
    vectors = torch.cat([F.one_hot(which // 10, 8), F.one_hot(which % 10, 10)], dim=-1).float()
    letters = torch.tensor([[LETTERS.index(a) for a in word.ljust(14, END)] for word in WORDS]).T
    train, held_out = torch.randperm(80).split([60, 20])

    enter, layer, head = nn.Linear(18, 64), GRU(len(LETTERS), 64), nn.Linear(64, len(LETTERS))
    optimiser = torch.optim.Adam(nn.ModuleList([enter, layer, head]).parameters(), lr=0.01)
    for _ in range(steps):
        before = F.pad(letters[:-1, train], (0, 0, 1, 0))  # the right letters, one step late; END is 0
        outputs, _ = layer(before, enter(vectors[train]).tanh()[None])
        loss = F.cross_entropy(head(outputs).flatten(0, 1), letters[:, train].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    said, state = letters.new_zeros(1, len(held_out)), enter(vectors[held_out]).tanh()[None]
    for _ in range(len(letters)):  # from here on it reads its own letters
        outputs, state = layer(said[-1:], state)
        said = torch.cat([said, head(outputs).argmax(-1)])
    spelt = ["".join(LETTERS[i] for i in row).partition(END)[0] for row in said[1:].T.tolist()]
    right = [WORDS[number] == word for number, word in zip(held_out.tolist(), spelt, strict=True)]
    for number, word in zip(held_out[:5].tolist(), spelt, strict=False):
        print(f"{number + 20} -> {word}")
    print(f"unseen numbers spelt without a mistake: {sum(right) / len(right):.3f}")
    return sum(right) / len(right)


if __name__ == "__main__":
    main()
