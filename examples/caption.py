"""Captions: pictures to words, with a look at the picture before each word (soft attention).

    red   ring   and   blue   bar   END      z_t = Σ α v, with weights α of what was said so far and
     h ->  h  ->  h ->  h  ->  h ->  h       of every place v of the picture, enters each step

Convolutions see a noisy picture in 3 x 3 places, and a decoder says which two shapes are on it. Prints a new
picture, beside it where each word was looked for, and the share without a mistake (at least 0.95).

    python examples/caption.py
"""

import torch

from unrolled.data.subwords import END, PAD, START, Subwords
from unrolled.nn.decoder import Decoder
from unrolled.train.decoding import Special, decode

COLOURS, SHAPES = ("red", "green", "blue"), ("ring", "cross", "bar")
INK = torch.tensor([[[1, 1, 1], [1, 0, 1], [1, 1, 1]], [[0, 1, 0], [1, 1, 1], [0, 1, 0]], 3 * [[0, 1, 0]]])


def pictures(count: int) -> tuple[torch.Tensor, list[str]]:
    """Pictures (count, 3, 12, 12) of two shapes, and what is to be said of them."""
    found, captions = 0.1 * torch.randn(count, 3, 12, 12), []
    for picture in found:
        names, colours, kinds = [], sorted(torch.randperm(3)[:2].tolist()), torch.randint(3, (2,)).tolist()
        for colour, kind, place in zip(colours, kinds, torch.randperm(9)[:2].tolist(), strict=True):
            picture[colour, 4 * (place // 3) :, 4 * (place % 3) :][:3, :3] += INK[kind]
            names.append(f"{COLOURS[colour]} {SHAPES[kind]}")
        captions.append(" and ".join(names))
    return found, captions


def main(steps: int = 150) -> float:
    torch.manual_seed(0)
    (x, said), (new, truth) = pictures(500), pictures(200)
    words = Subwords.of(said, "words")
    y = torch.tensor([[START, *caption, END] for caption in words.encode(said)]).T
    see = torch.nn.Sequential(torch.nn.Conv2d(3, 48, 4, 4), torch.nn.ReLU(), torch.nn.Flatten(2))
    decoder = Decoder("gru", len(words), 16, 64, attention="inside", memory=48, width=32)
    optimiser = torch.optim.Adam([*see.parameters(), *decoder.parameters()], lr=0.01)
    for _ in range(steps):
        features = decoder(y[:-1], decoder.begin(500, values=see(x).mT)).features
        optimiser.zero_grad()
        (decoder.loss(features, y[1:], y[1:] != PAD) / 500).backward()
        optimiser.step()
    written = decode(decoder.step, decoder.begin(200, values=see(new).mT), 200, Special(PAD, START, END))
    right = [words.decode(each.tokens) == text for each, text in zip(written, truth, strict=True)]
    looks = written[0].attention[:5].view(-1, 3, 3).kron(torch.ones(1, 4, 4))
    print(" " * 12, *(f"{word:12}" for word in words.decode(written[0].tokens).split()))
    for row, *own in zip(new[0].argmax(0).where(new[0].amax(0) > 0.5, 3), *looks, strict=True):
        print("".join("rgb."[k] for k in row), *("".join(" .:oO@"[int(5.9 * a)] for a in b) for b in own))
    print(f"new pictures captioned without a mistake: {sum(right) / 200:.3f}")
    return sum(right) / 200


if __name__ == "__main__":
    torch.set_num_threads(1)  # for tensors this small more threads are slower
    main()
