"""One to many: one vector to a sequence.

         y1   y2   y3
         ^    ^    ^
    x -> h -> h -> h        each letter is the next step's input

A writer of Roman numerals. The vector (three digits, one-hot) enters once, as the initial state; the letters
come out one by one until END. Prints a few numbers that were not in training as it writes them by itself,
and the share of those written without a mistake (at least 0.95).

    python examples/one_to_many.py
"""

import torch
import torch.nn.functional as F
from torch import nn

from unrolled import GRU

LETTERS = ".IVXLCDM"  # number 0 is END, and what comes before the first letter
DIGITS = ["", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX"]
TENS, HUNDREDS = str.maketrans("IVX", "XLC"), str.maketrans("IVX", "CDM")


def roman(n: int) -> str:
    return DIGITS[n // 100].translate(HUNDREDS) + DIGITS[n // 10 % 10].translate(TENS) + DIGITS[n % 10]


def main(steps: int = 400) -> float:
    torch.manual_seed(0)
    n = torch.randperm(999) + 1
    digits = F.one_hot(torch.stack([n // 100, n // 10 % 10, n % 10], dim=-1), 10).flatten(1).float()
    letters = torch.tensor([[LETTERS.index(a) for a in roman(m).ljust(13, ".")] for m in n.tolist()]).T
    enter, layer, head = nn.Linear(30, 64), GRU(len(LETTERS), 64), nn.Linear(64, len(LETTERS))
    optimiser = torch.optim.Adam(nn.ModuleList([enter, layer, head]).parameters(), lr=0.01)
    for _ in range(steps):
        rows = torch.randint(800, (128,))  # the other 199 are held out
        y = letters[:, rows]
        before = F.pad(y[:-1], (0, 0, 1, 0))  # the right letters, one step late
        outputs, _ = layer(before, enter(digits[rows]).tanh()[None])
        loss = F.cross_entropy(head(outputs).flatten(0, 1), y.flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    state, said = enter(digits[800:]).tanh()[None], torch.zeros_like(letters[:1, 800:])
    for _ in range(13):  # from here on it reads its own letters
        outputs, state = layer(said[-1:], state)
        said = torch.cat([said, head(outputs).argmax(-1)])
    written = ["".join(LETTERS[i] for i in row).partition(".")[0] for row in said[1:].T.tolist()]
    right = [roman(m) == text for m, text in zip(n[800:].tolist(), written, strict=True)]
    print("\n".join(f"{m} -> {text}" for m, text in zip(n[800:805].tolist(), written, strict=False)))
    print(f"unseen numbers written without a mistake: {sum(right) / len(right):.3f}")
    return sum(right) / len(right)


if __name__ == "__main__":
    torch.set_num_threads(1)  # for tensors this small more threads are slower
    main()
