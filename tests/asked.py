"""Pictures of one coloured square or bar, and questions about them."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unrolled.data.questions import Question, VisualQuestions

COLOURS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 220)}
SHAPES = ("square", "bar")


def picture(colour: str, shape: str, size: int = 16, seed: int = 0) -> Tensor:
    """uint8 (3, size, size), the shape somewhere on white."""
    y, x = np.random.default_rng(seed).integers(1, size // 2, 2)
    found = np.full((3, size, size), 255, dtype=np.uint8)
    high, wide = (size // 3, size // 3) if shape == "square" else (size // 2 - 1, 2)
    found[:, y : y + high, x : x + wide] = np.array(COLOURS[colour])[:, None, None]
    return torch.from_numpy(found)


def asked(count: int = 60, size: int = 16, seed: int = 0) -> VisualQuestions:
    """Three or four questions about each picture; a fourth where its number is even."""
    random = np.random.default_rng(seed)
    questions, pictures = [], []
    for k in range(count):
        colour, shape = random.choice([*COLOURS]), random.choice(SHAPES)
        other = random.choice([*COLOURS])
        pictures.append(picture(colour, shape, size, seed=seed + k))
        questions += [
            Question("What color is it?", str(colour), k, "colour"),
            Question("what is it", str(shape), k, "shape"),
            Question(f"Is it {other}?", "yes" if other == colour else "no", k, "yes/no"),
        ]
        if k % 2 == 0:
            questions.append(Question(f"Is it not {other}?", "no" if other == colour else "yes", k, "yes/no"))
    order = random.permutation(len(questions))
    return VisualQuestions("drawn", tuple(questions[p] for p in order), torch.stack(pictures))


def write_vqa(folder: Path, found: VisualQuestions) -> tuple[str, ...]:
    """The same in the format of VQA v2; returns the options of the command."""
    from PIL import Image

    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for k in range(len(found.images)):
        pixels = found.images[k].movedim(0, -1).numpy()
        Image.fromarray(pixels).resize((40, 40), Image.Resampling.NEAREST).save(
            folder / "pictures" / f"{k}.png"
        )
    questions = [
        {"question_id": n, "image_id": q.image, "question": q.text} for n, q in enumerate(found.questions)
    ]
    annotations = [
        {"question_id": n, "multiple_choice_answer": q.answer, "answer_type": q.kind}
        for n, q in enumerate(found.questions)
    ]
    (folder / "q.json").write_text(json.dumps({"questions": questions}))
    (folder / "a.json").write_text(json.dumps({"annotations": annotations}))
    paths = (folder / "q.json", folder / "a.json", folder / "pictures")
    options = ("--questions", "--annotations", "--images")
    return tuple(str(part) for pair in zip(options, paths, strict=True) for part in pair)
