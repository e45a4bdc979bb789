"""Sentiment: from the words of a review to one label, and which word told it most.

           pooling        to one vector: an average over the steps, whose weights are learned
       ^      ^     ^
    h <->  h <-> h        one layer reads forward, another backward
    ^      ^     ^
    not   dull  film      sequences of different lengths side by side

In each review one word praises or blames, and "not" before it turns it around. Prints a few unseen reviews
with the label found and the word that counted most, and the share labelled rightly (at least 0.95).

    python examples/sentiment.py
"""

import random

import torch
from torch import nn

from unrolled.nn import Pooling, Recurrent

TELLING = {"great": 1, "funny": 1, "warm": 1, "dull": 0, "flat": 0, "silly": 0}
WORDS = ["the", "film", "is", "and", "so", "was", "a", "story", "of", "not", *TELLING]


def review(source: random.Random) -> tuple[list[str], int]:
    """A review, and whether it is good."""
    words, word = source.choices(WORDS[:9], k=source.randint(2, 10)), source.choice([*TELLING])
    place, turned = source.randrange(len(words) + 1), source.randrange(2)
    words[place:place] = ["not", word] if turned else [word]
    return words, TELLING[word] ^ turned


def main(steps: int = 120) -> float:
    torch.manual_seed(0)
    source = random.Random(0)
    embed, layer = nn.Embedding(len(WORDS), 16), Recurrent("gru", 16, 16, bidirectional=True)
    pooling, head = Pooling("attention", 32), nn.Linear(32, 2)
    optimiser = torch.optim.Adam(nn.ModuleList([embed, layer, pooling, head]).parameters(), lr=0.01)
    for step in range(steps + 1):
        texts, labels = zip(*(review(source) for _ in range(64 if step < steps else 1000)), strict=True)
        x = nn.utils.rnn.pad_sequence([torch.tensor([*map(WORDS.index, words)]) for words in texts])
        y, _ = layer(embed(x), lengths=(lengths := [*map(len, texts)]))
        scores = head(pooling(y, lengths))
        if step < steps:
            optimiser.zero_grad()
            nn.functional.cross_entropy(scores, torch.tensor(labels)).backward()
            optimiser.step()
    found, most = scores.argmax(1), pooling.weights(y, lengths).argmax(0)
    for words, label, place in list(zip(texts, found, most, strict=True))[:4]:
        print(f"{('bad', 'good')[label]:<4} by {words[place]!r:<8} {' '.join(words)}")
    accuracy = (found == torch.tensor(labels)).double().mean().item()
    print(f"unseen reviews labelled rightly: {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    torch.set_num_threads(1)  # for tensors this small more threads are slower
    main()
