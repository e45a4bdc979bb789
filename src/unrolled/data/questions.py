"""Questions about pictures: of a data set, or of files of one's own in the format of VQA v2."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from unrolled.data.captions import left_out, picked
from unrolled.data.images import ImageFiles, Images, broken_ones, decode
from unrolled.data.json_files import Fields, read_json, records
from unrolled.data.library import kept
from unrolled.data.splits import hold_out
from unrolled.errors import DataError


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a picture, and its answer."""

    text: str
    answer: str
    """Empty where none is known."""
    image: int
    """The place of its picture."""
    kind: str = ""
    """What sort of question or answer it is, as in `yes/no`."""
    answers: tuple[str, ...] = ()
    """What each of several people answered, where that is known."""
    choices: tuple[str, ...] = ()
    """The answers to choose among, where they are given."""


@dataclass(frozen=True, eq=False)
class VisualQuestions:
    """Questions, and the pictures that they are about."""

    name: str
    questions: tuple[Question, ...] = field(repr=False)
    images: Images = field(repr=False)
    """Each uint8 (3, H, W)."""
    skipped: tuple[str, ...] = ()
    """What was left out, and why."""

    def __len__(self) -> int:
        return len(self.questions)

    def split(self, held_out: int, seed: int = 0) -> tuple[VisualQuestions, VisualQuestions]:
        """Two parts drawn at random, of which the second has about so many questions; all questions about a
        picture are in the same part.

        Raises:
            DataError: one of them is empty.
        """
        keys = [(question.image,) for question in self.questions]
        train, held = hold_out(self.questions, keys, held_out, seed)
        return self._with(train), self._with(held)

    def _with(self, questions: Sequence[Question]) -> VisualQuestions:
        places = sorted({question.image for question in questions})
        new = {place: number for number, place in enumerate(places)}
        moved = tuple(replace(question, image=new[question.image]) for question in questions)
        return VisualQuestions(self.name, moved, picked(self.images, places), self.skipped)


def named_questions(name: str, cache: Path | None = None) -> tuple[VisualQuestions, VisualQuestions]:
    """The questions of a data set that was fetched: those to train on and those to test on.

    Args:
        name: such as "easy-vqa", whose kinds of questions are `yes/no`, `colour` and `shape`, after the
            answer; its pictures are one tensor (N, 3, 64, 64).

    Raises:
        DataError: no data set of questions has this name, it was not fetched, or its file was changed; or
            Pillow is not installed.
    """
    with zipfile.ZipFile(kept(name, "visual questions", cache)) as file:
        return _easy_part(name, file, "train"), _easy_part(name, file, "test")


def read_vqa(
    questions: Path,
    annotations: Path | None,
    images: Path,
    *,
    skip_broken: bool = False,
    size: int | None = 256,
) -> VisualQuestions:
    """Questions from JSON files in the format of VQA v2, and a folder of pictures.

    The one file has `questions`, each with `question_id`, `image_id` and `question`, and maybe
    `multiple_choices`; the other has `annotations`, each with `question_id` and `multiple_choice_answer`,
    and maybe `answers`, `answer_type` and `question_type`. The picture 42 is the file `42.png`,
    `000000000042.jpg` or `COCO_train2014_000000000042.jpg`, whatever its ending. Every picture is looked at
    once, so that a broken one is known before training.

    Args:
        questions: the JSON file of questions.
        annotations: the JSON file of answers; None for questions without answers.
        images: the folder.
        skip_broken: leave out questions whose picture is missing or broken, or without a word or an answer.
        size: the longer side of a picture is at most that, when it is read.

    Raises:
        DataError: a file is not in this format, or there are such questions; the message lists and counts
            them.
    """
    questions, images = Path(questions), Path(images)
    data = read_json(questions)
    fields: Fields = {"question_id": (int, str), "image_id": (int, str), "question": str}
    asked = list(records(questions, data, "questions", fields))
    answers = _answers(Path(annotations)) if annotations is not None else {}
    files = _files(images)
    paths: dict[object, Path] = {}
    for record in asked:
        key = record["image_id"]
        names = [f"COCO_{data.get('data_subtype', '')}_{key:0>12}", f"{key:0>12}", str(key)]
        paths.setdefault(key, next((files[name] for name in names if name in files), images / str(key)))
    known = list(paths)
    broken = {known[place]: reason for place, reason in broken_ones(paths[key] for key in known).items()}
    lines = {paths[key].name: reason for key, reason in broken.items()}
    skipped = left_out(questions, "pictures", lines, len(known), skip_broken)
    unfit = {}
    for record in asked:
        if not record["question"].strip():
            unfit[record["question_id"]] = "no word"
        elif annotations is not None and record["question_id"] not in answers:
            unfit[record["question_id"]] = "no answer"
    lines = {f"question {key}": reason for key, reason in unfit.items()}
    skipped += left_out(questions, "questions", lines, len(asked), skip_broken)
    good = [key for key in known if key not in broken]
    place_of = {key: place for place, key in enumerate(good)}
    found = tuple(
        Question(
            record["question"].strip(),
            image=place_of[record["image_id"]],
            choices=tuple(map(str, record.get("multiple_choices", ()))),
            **answers.get(record["question_id"], {"answer": ""}),
        )
        for record in asked
        if record["question_id"] not in unfit and record["image_id"] in place_of
    )
    if not found:
        raise DataError(
            f"{questions} has no question that can be used: {skipped[0] if skipped else 'none at all'}."
        )
    return VisualQuestions(
        questions.name, found, ImageFiles(tuple(paths[key] for key in good), size), skipped
    )


def _answers(path: Path) -> dict[object, dict[str, Any]]:
    """What a `Question` takes of each question's answer, by the question's id."""
    fields: Fields = {"question_id": (int, str), "multiple_choice_answer": str}
    return {
        record["question_id"]: {
            "answer": answer,
            "kind": str(record.get("answer_type") or record.get("question_type") or ""),
            "answers": tuple(each["answer"] for each in record.get("answers", ()) if "answer" in each),
        }
        for record in records(path, read_json(path), "annotations", fields)
        if (answer := record["multiple_choice_answer"].strip())
    }


def _files(folder: Path) -> dict[str, Path]:
    """The files of a folder by their names without endings, and by their names."""
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(
            f"{folder} cannot be read ({error.strerror}): give the folder of the pictures."
        ) from None
    return {path.stem: path for path in paths} | {path.name: path for path in paths}


def _easy_part(name: str, file: zipfile.ZipFile, part: str) -> VisualQuestions:
    asked = json.loads(file.read(f"{part}/questions.json"))
    count = sum(path.startswith(f"{part}/images/") for path in file.namelist())
    pictures = [decode(file.read(f"{part}/images/{place}.png"))[0] for place in range(count)]
    questions = (Question(text, answer, image, _easy_kind(answer)) for text, answer, image in asked)
    return VisualQuestions(f"{name}, {part}", tuple(questions), torch.stack(pictures))


def _easy_kind(answer: str) -> str:
    if answer in ("yes", "no"):
        return "yes/no"
    return "shape" if answer in ("circle", "rectangle", "triangle") else "colour"
