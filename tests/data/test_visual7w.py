import json
import re

import pytest
from drawn import RED, cut, draw

from unrolled.data.questions import Question
from unrolled.data.visual7w import read_visual7w
from unrolled.errors import DataError


def asked(question="what?", answer="a cat", wrong=("a dog", "rain", "two"), **more):
    return {"question": question, "answer": answer, "multiple_choices": list(wrong), **more}


def visual7w(folder, *pictures):
    """A file of questions about pictures, each given as its part and its questions; and their folder."""
    about = []
    for place, (part, pairs) in enumerate(pictures):
        draw(folder / "pictures" / f"v7w_{place}.jpg", RED, (300, 200))
        about.append({"filename": f"v7w_{place}.jpg", "split": part, "qa_pairs": pairs})
    (folder / "v7w.json").write_text(json.dumps({"dataset": "visual7w-telling", "images": about}))
    return folder / "v7w.json", folder / "pictures"


def test_questions_come_by_part_with_their_choices_in_alphabetical_order(tmp_path):
    found = read_visual7w(*visual7w(
        tmp_path,
        ("train", [asked("what?", type="what", qa_id=1), asked(" how many? ", "two", ("one", "one", "six"))]),
        ("test", [asked("who?")]),
        ("train", [asked("where?")]),
    ))  # fmt: skip
    assert [*found] == ["train", "test"]
    assert found["train"].questions == (
        Question("what?", "a cat", 0, "what", (), ("a cat", "a dog", "rain", "two")),
        Question("how many?", "two", 0, "", (), ("one", "six", "two")),
        Question("where?", "a cat", 1, "", (), ("a cat", "a dog", "rain", "two")),
    )
    assert [path.name for path in found["train"].images.paths] == ["v7w_0.jpg", "v7w_2.jpg"]
    assert found["test"].questions[0].image == 0
    assert found["test"].images[0].shape == (3, 171, 256)
    assert found["test"].name == "v7w.json, test"


def test_the_place_of_the_right_answer_tells_nothing(tmp_path):
    pairs = [asked(answer=name, wrong=sorted({*"abcd"} - {name})) for name in "abcd"]
    found = read_visual7w(*visual7w(tmp_path, ("train", pairs)))["train"]
    assert [each.choices.index(each.answer) for each in found.questions] == [0, 1, 2, 3]


def test_what_cannot_be_used_is_listed_and_counted_and_may_be_skipped(tmp_path):
    paths = visual7w(
        tmp_path,
        ("train", [asked(" ", qa_id=7), asked("why?", " "), asked("when?")]),
        ("train", [asked("who?")]),
        ("val", [asked("where?")]),
    )
    with pytest.raises(DataError, match=r"2 of 5 questions in .*: question 7 \(no word or no answer\), qu"):
        read_visual7w(*paths)
    (tmp_path / "pictures" / "v7w_1.jpg").unlink()
    cut(tmp_path / "pictures" / "v7w_2.jpg")
    message = f"2 of 3 pictures in {tmp_path}/v7w.json cannot be used: v7w_1.jpg (missing), v7w_2.jpg (cannot"
    with pytest.raises(DataError, match=re.escape(message)):
        read_visual7w(*paths)
    found = read_visual7w(*paths, skip_broken=True)
    assert [*found] == ["train"]
    assert [each.text for each in found["train"].questions] == ["when?"]
    assert len(found["train"].skipped) == 4


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"images": {}}, "has no list 'images'"),
        ({"images": [{"filename": "a.jpg", "split": "val"}]}, "number 1 of 'images' in .* has no 'qa_pairs'"),
        (
            {"images": [{"filename": "v7w_0.jpg", "split": "train", "qa_pairs": [{"question": "what?"}]}]},
            "number 1 of 'qa_pairs' in .* has no 'answer' that is text",
        ),
        (
            {"images": [{"filename": "v7w_0.jpg", "split": "train", "qa_pairs": [asked(wrong=[1, 2])]}]},
            "has answers that are no texts: give telling questions",
        ),
        (
            {"images": [{"filename": "v7w_0.jpg", "split": "train", "qa_pairs": []}]},
            "has no question that can be used",
        ),
    ],
)  # fmt: skip
def test_another_format_is_named(tmp_path, about, message):
    file, pictures = visual7w(tmp_path, ("train", []))
    file.write_text(json.dumps(about))
    with pytest.raises(DataError, match=message):
        read_visual7w(file, pictures)


def test_a_missing_folder_is_named(tmp_path):
    file, _ = visual7w(tmp_path, ("train", [asked()]))
    with pytest.raises(DataError, match="is no folder: give the folder of the pictures"):
        read_visual7w(file, tmp_path / "nothing")
