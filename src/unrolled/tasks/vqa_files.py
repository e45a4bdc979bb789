"""Where questions about pictures come from, and of which kind they are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from unrolled.data.json_files import read_json
from unrolled.data.questions import VisualQuestions, named_questions, read_vqa
from unrolled.data.visual7w import read_visual7w
from unrolled.errors import DataError, InputError
from unrolled.measures import captions

SHAPES: Final = ("circle", "rectangle", "triangle")


@dataclass(frozen=True)
class Files:
    """Where questions come from: a data set by name, or files in the format of VQA v2 or of Visual7W, which
    has questions and answers in one file."""

    name: str | None = None
    questions: Path | None = None
    annotations: Path | None = None
    images: Path | None = None
    test_questions: Path | None = None
    test_annotations: Path | None = None
    test_images: Path | None = None

    def __post_init__(self) -> None:
        own = "--questions JSON --annotations JSON --images FOLDER"
        given = [key for key, value in vars(self).items() if value is not None and key != "name"]
        if (self.name is None) == (not given):
            raise InputError(f"give the name of a data set, such as easy-vqa, or {own}")
        for prefix in ("", "test_"):
            parts = {part for part in ("questions", "annotations", "images") if f"{prefix}{part}" in given}
            if (parts or (given and not prefix)) and not {"questions", "images"} <= parts:
                raise InputError(f"files of your own are {own}, and --test-questions and so on: give all")

    def read(self, size: int, skip_broken: bool = False) -> tuple[VisualQuestions, VisualQuestions | None]:
        """The questions, and those to test on if they come apart.

        Args:
            size: the longer side of a picture is at most that, when it is read from a file of its own.
            skip_broken: leave out what cannot be used, as in `unrolled.data.questions.read_vqa`.

        Raises:
            DataError: they cannot be read.
        """
        if self.name is not None:
            train, test = named_questions(self.name)
            return formed(train), formed(test)
        assert self.questions is not None
        assert self.images is not None
        options = {"skip_broken": skip_broken, "size": size}
        first = _read(self.questions, self.annotations, self.images, options)
        second: dict[str, VisualQuestions] = {}
        if self.test_questions is not None and self.test_images is not None:
            second = _read(self.test_questions, self.test_annotations, self.test_images, options)
        train = first.get("train") or next(iter(first.values()))
        held = second.get("test") or next(iter(second.values()), None)
        return train, held or first.get("test") or first.get("val")

    def to_json(self) -> dict[str, str]:
        return {
            key: str(value.resolve() if isinstance(value, Path) else value)
            for key, value in vars(self).items()
            if value is not None
        }

    @classmethod
    def from_json(cls, value: dict[str, str]) -> Files:
        return cls(**{key: text if key == "name" else Path(text) for key, text in value.items()})  # type: ignore[arg-type]


def _read(
    questions: Path, annotations: Path | None, images: Path, options: Any
) -> dict[str, VisualQuestions]:
    """By part, of which files in the format of VQA v2 have one."""
    if annotations is None:
        if "questions" in read_json(questions):
            raise DataError(f"{questions} has questions without answers: give --annotations too.")
        return read_visual7w(questions, images, **options)
    return {"train": read_vqa(questions, annotations, images, **options)}


def formed(asked: VisualQuestions) -> VisualQuestions:
    """The same, where questions about one shape have a kind that says what they ask and what about."""
    return replace(asked, questions=tuple(replace(q, kind=form(q.text)) for q in asked.questions))


def form(text: str) -> str:
    """What a question about one coloured shape asks, told by its form: yes or no, or which, and of what."""
    said = captions.words(text)
    if said[:1] == ["what"]:
        return "which colour" if "color" in said else "which shape"
    return "shape, yes or no" if {*SHAPES} & {*said} else "colour, yes or no"


def split(asked: VisualQuestions, share: float, seed: int) -> tuple[VisualQuestions, VisualQuestions]:
    """A part to train on, and one to test on with about this share of the questions and pictures of its own.

    Raises:
        DataError: there are too few.
    """
    pictures = len({question.image for question in asked.questions})
    if pictures < 2:
        raise DataError(f"{asked.name} asks about {pictures} picture: give two or more, one to test on.")
    return asked.split(max(1, round(share * len(asked))), seed)
