"""Frames: a label for every frame of a picture sequence, also where nothing is to be seen.

    y1    y2    y3    y4       which of three shapes is there
    ^     ^     ^     ^
    h ->  h ->  h ->  h        what was seen is remembered
    ^     ^     ^     ^
    f     f     f     f        a convolutional network sees one frame
    ^     ^     ^     ^
    x     #     .     #        frames; "." is one in which the shape hides

A cross, a ring or a corner moves over a noisy picture, gives way to another one and hides now and then: what
is hidden is still there. Prints new frames, the labels of a few sequences, and the share of frames labelled
rightly, those in sight, those where the shape hides, and altogether (at least 0.95).

    python examples/frames.py
"""

import torch

from unrolled.data.pictures import Pictures
from unrolled.tasks.labels import LabelTask
from unrolled.tasks.labels_config import FramesConfig
from unrolled.tasks.labels_data import Frames

SHAPES = ("#.#.#.#.#", "####.####", "###..#..#")


def shapes() -> Pictures:
    """The three shapes, ten times each."""
    each = torch.tensor([[mark == "#" for mark in shape] for shape in SHAPES]).float().view(3, 3, 3)
    return Pictures("shapes", each.repeat(10, 1, 1), torch.arange(30) % 3, 3)


def main(steps: int = 150) -> float:
    config = FramesConfig(
        hidden=24, channels=8, frames=10, canvas=8, noise=0.1, hide=0.3, rate=0.01, warmup=0, steps=steps
    )
    data = Frames.moving(shapes(), config)
    task = LabelTask("frames", data, config)
    trainer = task.trainer()
    for _ in range(steps):
        trainer.advance()
    batch, sight = data.test.drawn(200, 0)
    for row in batch.x[:5, 0].transpose(0, 1):  # five frames side by side
        print("  ".join("".join(" #"[int(pixel > 0.5)] for pixel in frame) for frame in row))
    print(task.show(steps))
    right = task.label(batch).argmax(-1) == batch.labels
    print(f"in sight {right[sight].double().mean():.3f}, hidden {right[~sight].double().mean():.3f}")
    accuracy = right.double().mean().item()
    print(f"new frames labelled rightly: {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    torch.set_num_threads(1)  # for tensors this small more threads are slower
    main()
