"""Questions with four answers to choose among, from a file in the format of Visual7W.

Source: Zhu et al. 2016, arXiv:1511.03416.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unrolled.data.captions import left_out
from unrolled.data.images import ImageFiles, broken_ones
from unrolled.data.json_files import Fields, read_json, records
from unrolled.data.questions import Question, VisualQuestions
from unrolled.errors import DataError


def read_visual7w(
    questions: Path, images: Path, *, skip_broken: bool = False, size: int | None = 256
) -> dict[str, VisualQuestions]:
    """The telling questions of a JSON file in the format of Visual7W, by part: train, val and test.

    The file has `images`, each with `filename`, `split` and `qa_pairs`, and each of these `question`,
    `answer` and `multiple_choices`, the wrong answers, and maybe `type`. Choices are in alphabetical order.
    Every picture is looked at once, so that a broken one is known before training.

    Args:
        questions: the JSON file.
        images: the folder of the pictures.
        skip_broken: leave out questions whose picture is missing or broken, or without a word or an answer.
        size: the longer side of a picture is at most that, when it is read.

    Raises:
        DataError: the file is not in this format, or there are such questions; the message lists and counts
            them.
    """
    questions, images = Path(questions), Path(images)
    data = read_json(questions)
    about = list(records(questions, data, "images", {"filename": str, "split": str, "qa_pairs": list}))
    if not images.is_dir():
        raise DataError(f"{images} is no folder: give the folder of the pictures.")
    paths = [images / record["filename"] for record in about]
    broken = broken_ones(paths)
    lines = {paths[place].name: reason for place, reason in broken.items()}
    skipped = left_out(questions, "pictures", lines, len(about), skip_broken)
    fields: Fields = {"question": str, "answer": str, "multiple_choices": list}
    parts: dict[str, tuple[list[Question], list[Path]]] = {}
    unfit, count = {}, 0
    for place, record in enumerate(about):
        if place in broken:
            continue
        asked, files = parts.setdefault(record["split"], ([], []))
        for pair in records(questions, record, "qa_pairs", fields):
            count += 1
            if not all(isinstance(choice, str) for choice in pair["multiple_choices"]):
                raise DataError(f"{questions} has answers that are no texts: give telling questions.")
            if not pair["question"].strip() or not pair["answer"].strip():
                unfit[f"question {pair.get('qa_id', count)}"] = "no word or no answer"
                continue
            asked.append(_question(pair, len(files)))
        files.append(paths[place])
    skipped += left_out(questions, "questions", unfit, count, skip_broken) if count else ()
    name = questions.name
    found = {
        part: VisualQuestions(f"{name}, {part}", tuple(asked), ImageFiles(tuple(files), size), skipped)
        for part, (asked, files) in parts.items()
        if asked
    }
    if not found:
        raise DataError(f"{questions} has no question that can be used.")
    return found


def _question(pair: dict[str, Any], image: int) -> Question:
    answer = pair["answer"].strip()
    choices = {answer, *(choice.strip() for choice in pair["multiple_choices"])}
    return Question(
        pair["question"].strip(), answer, image, str(pair.get("type", "")), choices=tuple(sorted(choices))
    )
