"""Visual questions: a network reads a question, looks where it matters, and answers.

    what -> colour -> is -> the -> ring      a layer reads the question
     . . r .                         |
     b . . .    convolutions ->  attention   weighs the places of the picture
     . . . .                       blue

Two of three shapes, in different colours, lie on a picture. Prints a new one, where the network looked for
answers, and how many are right on new pictures, without the pictures and with them (at least 0.95).

    python examples/vqa.py
"""

import random

import torch

from unrolled.data.questions import Question, VisualQuestions
from unrolled.tasks.vqa import VqaTask, as_maps, prepare, told
from unrolled.tasks.vqa_config import VqaConfig

SHAPES = {"ring": "####.####", "cross": ".#.###.#.", "corner": "#..#..###"}
COLOURS = {"red": (230, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 255)}


def drawn(count: int, source: random.Random) -> VisualQuestions:
    """White pictures of 12 x 12 pixels, with two questions about each of the two shapes."""
    pictures, questions = torch.full((count, 3, 12, 12), 255, dtype=torch.uint8), []
    for k in range(count):
        shapes, colours, places = (source.sample([*each], 2) for each in (SHAPES, COLOURS, range(9)))
        for shape, colour, place in zip(shapes, colours, places, strict=True):
            y, x = 4 * (place // 3) + source.randrange(2), 4 * (place % 3) + source.randrange(2)
            ink = torch.tensor([mark == "#" for mark in SHAPES[shape]]).view(3, 3)
            pictures[k, :, y : y + 3, x : x + 3][:, ink] = torch.tensor(COLOURS[colour]).byte()[:, None]
            questions.append(Question(f"what colour is the {shape}?", colour, k))
            questions.append(Question(f"which shape is {colour}?", shape, k))
    return VisualQuestions("made up", tuple(questions), pictures)


def main(steps: int = 500) -> float:
    config = VqaConfig(size=12, channels="16", fused=32, score="scaled", rate=0.01, warmup=0, steps=steps)
    task = VqaTask(prepare(drawn(2000, random.Random(0)), config, drawn(300, random.Random(2))), config)
    trainer = task.trainer()
    for _ in range(steps):
        trainer.advance()
    found, scores = task.answered()
    colours = torch.where(task.test.images[0].amin(0) < 255, task.test.images[0].argmax(0), 3)  # 3 is white
    looks = [as_maps(each.weights / each.weights.max())[0].kron(torch.ones(2, 2)) for each in found[:4:2]]
    for row, *own in zip(colours, *looks, strict=True):
        seen = ("".join(" .:oO@"[int(5 * each)] * 2 for each in look) for look in own)
        print("".join("rgb."[each] * 2 for each in row), *seen, sep="   ")
    print(*(told(task.test.questions[each.number], each) for each in found[:4:2]), sep="\n")
    print(f"right without pictures {task.baselines['question only'].share:.3f}, with {scores.share:.3f}")
    return scores.share


if __name__ == "__main__":
    torch.set_num_threads(1)  # for tensors this small more threads are slower
    main()
