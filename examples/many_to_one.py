"""Many to one: a sequence to one answer.

                   y
                   ^
    h -> h -> h -> h        only the output at the last word is asked
    ^    ^    ^    ^
    x1   x2   x3   x4

A reader of small reviews: three remarks, each good or bad, "not" turning the word after it; the review is
what most remarks are. Prints a few unseen reviews with the answers, and the share of them answered rightly
(at least 0.95) beside the baseline, which always gives the commoner answer.

    python examples/many_to_one.py
"""

import random

import torch
import torch.nn.functional as F
from torch import nn

from unrolled import LSTM

NOUNS, GOOD, BAD = ["plot", "cast", "music"], ["good", "funny", "moving"], ["bad", "dull", "awful"]
WORDS = ["-", "not", *NOUNS, *GOOD, *BAD]


def review(draw: random.Random) -> tuple[str, bool]:
    remarks = [(draw.choice(NOUNS), draw.choice([" ", " not "]), draw.choice(GOOD + BAD)) for _ in range(3)]
    good = [(word in GOOD) != (turn == " not ") for _, turn, word in remarks]
    return ", ".join("".join(remark) for remark in remarks), sum(good) >= 2


def main(steps: int = 200) -> float:
    torch.manual_seed(0)
    draw = random.Random(0)
    texts, answers = zip(*dict(review(draw) for _ in range(4000)).items(), strict=True)  # none twice
    words = [(["-"] * 9 + text.replace(",", "").split())[-9:] for text in texts]  # all end at the last step
    x, y = torch.tensor([[WORDS.index(w) for w in row] for row in words]).T, torch.tensor(answers).long()
    layer, head = LSTM(len(WORDS), 32), nn.Linear(32, 2)
    optimiser = torch.optim.Adam([*layer.parameters(), *head.parameters()], lr=0.02)
    for _ in range(steps):
        rows = torch.randint(3000, (64,))
        outputs, _ = layer(x[:, rows])
        loss = F.cross_entropy(head(outputs[-1]), y[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    said, true = head(layer(x[:, 3000:])[0][-1]).argmax(-1), y[3000:]
    print("\n".join(f"{texts[3000 + i]} -> {('bad', 'good')[said[i]]}" for i in range(5)))
    accuracy, share = (said == true).double().mean().item(), true.double().mean().item()
    print(f"accuracy on unseen reviews: {accuracy:.3f} (baseline {max(share, 1 - share):.3f})")
    return accuracy


if __name__ == "__main__":
    torch.set_num_threads(1)  # for tensors this small more threads are slower
    main()
