"""Many to many, one after the other: an encoder, then a decoder.

                   y1   y2   y3
                   ^    ^    ^
    h -> h -> h -> s -> s -> s        the encoder's last state is the decoder's first
    ^    ^    ^
    x1   x2   x3

A reverser: many to one reads a word of 2 to 5 letters into a state, one to many writes it backwards to END.
About a fifth of all words is kept out of training. Prints a few of those as the decoder writes them by
itself (the dot is END), and the share reversed without a mistake (at least 0.95).

    python examples/encoder_decoder.py
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unrolled import LSTM

LETTERS = ".abcdef"  # number 0 is END, and what comes before the first letter


def words(length: int, count: int, held_out: bool) -> tuple[Tensor, Tensor]:
    """Words of one length (T, B), none twice, and what to say (T + 1, B): the word backwards, then END."""
    x = torch.randint(1, len(LETTERS), (length, count)).unique(dim=1)
    x = x[:, (x.sum(0) % 5 == 0) == held_out]
    return x, F.pad(x.flip(0), (0, 0, 0, 1))


def main(steps: int = 800) -> float:
    torch.manual_seed(0)
    encoder, decoder, head = LSTM(len(LETTERS), 64), LSTM(len(LETTERS), 64), nn.Linear(64, len(LETTERS))
    optimiser = torch.optim.Adam(nn.ModuleList([encoder, decoder, head]).parameters(), lr=0.01)
    for step in range(steps):
        x, y = words(2 + step % 4, 128, held_out=False)
        outputs, _ = decoder(F.pad(y[:-1], (0, 0, 1, 0)), encoder(x)[1])  # fed the right letter before
        loss = F.cross_entropy(head(outputs).flatten(0, 1), y.flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    right = []
    for length in (2, 3, 4, 5):
        x, y = words(length, 1000, held_out=True)
        said, state = torch.zeros_like(x[:1]), encoder(x)[1]
        for _ in y:  # from here on the decoder reads its own letters
            outputs, state = decoder(said[-1:], state)
            said = torch.cat([said, head(outputs).argmax(-1)])
        right.append((said[1:] == y).all(0))
        print(*("".join(LETTERS[i] for i in word) for word in (x[:, 5], said[1:, 5])), sep=" -> ")
    accuracy = torch.cat(right).double().mean().item()
    print(f"unseen words reversed without a mistake: {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    torch.set_num_threads(1)  # for tensors this small more threads are slower
    main()
