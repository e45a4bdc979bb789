"""One to one: a fixed-size input to a fixed-size output.

    y
    ^
    h        one step, T = 1
    ^
    x

A single step of an Elman cell from a zero state is a plain network with one hidden layer, tanh(W x + b). It
learns which of two rings around the origin a point lies on; no straight line can tell them apart. Prints a
few points with the answers, and the share of new points answered rightly (at least 0.95).

    python examples/one_to_one.py
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unrolled import Recurrent, cells

RINGS = ("inner", "outer")


def points(count: int) -> tuple[Tensor, Tensor]:
    """Points (1, B, 2), one step each, and their rings (B,): radii 0 to 0.5 are inner, 0.7 to 1.2 outer."""
    ring = torch.randint(2, (count,))
    radius = 0.5 * torch.rand(count) + 0.7 * ring
    angle = 2 * math.pi * torch.rand(count)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)[None], ring


def main(steps: int = 1000) -> float:
    torch.manual_seed(0)
    layer = Recurrent(cells.rnn, input_size=2, hidden_size=16)
    head = nn.Linear(16, 2)
    optimiser = torch.optim.Adam([*layer.parameters(), *head.parameters()], lr=0.03)
    for _ in range(steps):
        x, ring = points(64)
        outputs, _ = layer(x)
        loss = F.cross_entropy(head(outputs[-1]), ring)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    x, ring = points(1000)
    answer = head(layer(x)[0][-1]).argmax(-1)
    for (a, b), said, true in zip(x[0, :5].tolist(), answer.tolist(), ring.tolist(), strict=False):
        print(f"({a:+.2f}, {b:+.2f}) -> {RINGS[said]}  (truly {RINGS[true]})")
    accuracy = (answer == ring).double().mean().item()
    print(f"accuracy on new points: {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    torch.set_num_threads(1)  # for tensors this small more threads are slower
    main()
