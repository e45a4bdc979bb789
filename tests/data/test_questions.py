import io
import json
import re
from collections import Counter

import pytest
import torch
from drawn import BLUE, RED, cut, draw
from PIL import Image

from keeping import fetched, keep
from unrolled.data.archives import bundle
from unrolled.data.questions import Question, named_questions, read_vqa
from unrolled.errors import DataError


def png(colour):
    file = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(file, "PNG")
    return file.getvalue()


def test_easy_questions_come_in_two_parts_with_kinds(cache, monkeypatch):
    train = [["is it red?", "yes", 1], ["what colour?", "teal", 0], ["what shape?", "circle", 0]]
    keep(cache, monkeypatch, "easy-vqa", bundle({
        "train/questions.json": json.dumps(train).encode(), "test/questions.json": b'[["blue?", "no", 0]]',
        "train/images/0.png": png(BLUE), "train/images/1.png": png(RED), "test/images/0.png": png(BLUE),
    }))  # fmt: skip
    first, second = named_questions("easy-vqa")
    assert first.questions == (
        Question("is it red?", "yes", 1, "yes/no"),
        Question("what colour?", "teal", 0, "colour"),
        Question("what shape?", "circle", 0, "shape"),
    )
    assert second.questions == (Question("blue?", "no", 0, "yes/no"),)
    assert first.images.shape == (2, 3, 4, 4)
    assert first.images.dtype == torch.uint8
    assert first.images[:, :, 0, 0].tolist() == [list(BLUE), list(RED)]


NAMES = {1: "1.png", 2: "000000000002.jpg", 3: "COCO_train2014_000000000003.jpg", "four": "four.png"}


def vqa(folder, questions=None, annotations=None):
    """Pictures, questions and answers in the format of VQA v2."""
    for key, name in NAMES.items():
        draw(folder / "pictures" / name, BLUE if key == "four" else RED, (300, 200))
    asked = questions or [(10 * n + k, key, f"what {k}?") for n, key in enumerate(NAMES) for k in range(2)]
    data = {
        "data_subtype": "train2014",
        "questions": [{"question_id": q, "image_id": key, "question": text} for q, key, text in asked],
    }
    (folder / "q.json").write_text(json.dumps(data))
    answers = annotations or [
        {
            "question_id": q, "image_id": key, "multiple_choice_answer": f"answer {q}",
            "answer_type": "other", "question_type": "what",
            "answers": [{"answer": f"{q}", "answer_id": 1}, {"answer": "b"}],
        }
        for q, key, _ in asked
    ]  # fmt: skip
    (folder / "a.json").write_text(json.dumps({"annotations": answers}))
    return folder / "q.json", folder / "a.json", folder / "pictures"


def test_questions_in_the_format_of_vqa_are_read_beside_their_pictures(tmp_path):
    found = read_vqa(*vqa(tmp_path))
    assert len(found) == 8
    assert found.questions[7] == Question("what 1?", "answer 31", 3, "other", ("31", "b"))
    assert [path.name for path in found.images.paths] == list(NAMES.values())
    assert found.images[3].shape == (3, 171, 256)
    assert found.images[3][2].min() > 250
    unanswered = read_vqa(tmp_path / "q.json", None, tmp_path / "pictures", size=None)
    assert unanswered.questions[0] == Question("what 0?", "", 0)
    assert unanswered.images[0].shape == (3, 200, 300)


def test_choices_and_the_kind_of_the_question_are_kept_where_they_are(tmp_path):
    paths = vqa(tmp_path, [(1, 1, "who?")], [
        {"question_id": 1, "multiple_choice_answer": "me", "question_type": "who is"},
    ])  # fmt: skip
    data = json.loads(paths[0].read_text())
    data["questions"][0]["multiple_choices"] = ["me", "you", 3]
    paths[0].write_text(json.dumps(data))
    assert read_vqa(*paths).questions == (Question("who?", "me", 0, "who is", (), ("me", "you", "3")),)


def test_what_cannot_be_used_is_listed_and_counted_and_may_be_skipped(tmp_path):
    asked = [(1, 1, "a?"), (2, 2, "b?"), (3, 3, " "), (4, "four", "d?"), (5, 2, "e?")]
    answers = [{"question_id": q, "multiple_choice_answer": "x" if q < 5 else " "} for q in range(1, 6)]
    paths = vqa(tmp_path, asked, answers)
    with pytest.raises(
        DataError, match=r"2 of 5 questions in .*: question 3 \(no word\), question 5 \(no answ"
    ):
        read_vqa(*paths)
    (tmp_path / "pictures" / "1.png").unlink()
    cut(tmp_path / "pictures" / "four.png")
    message = f"2 of 4 pictures in {tmp_path}/q.json cannot be used: 1 (missing), four.png (cannot be read as"
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        read_vqa(*paths)
    assert "--skip-broken" in str(caught.value)
    found = read_vqa(*paths, skip_broken=True)
    assert [question.text for question in found.questions] == ["b?"]
    assert found.questions[0].image == 0
    assert found.images.paths[0].name == NAMES[2]
    assert len(found.skipped) == 4


def test_nothing_left_is_an_error(tmp_path):
    paths = vqa(tmp_path, [(1, 1, "a?"), (2, 2, " ")])
    (tmp_path / "pictures" / "1.png").unlink()
    with pytest.raises(DataError, match=r"no question that can be used: 1 \(missing\)\.$"):
        read_vqa(*paths, skip_broken=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"annotations": []}', "has no list 'questions': it has 'annotations'."),
        (
            '{"questions": [{"question_id": 1, "image_id": 2}]}',
            "number 1 of 'questions' in {} has no 'question' ",
        ),
        ('{"questions": []}', "names 0 pictures, none that can be used."),
    ],
)
def test_another_format_is_named(tmp_path, text, message):
    (tmp_path / "q.json").write_text(text)
    with pytest.raises(DataError, match=re.escape(message.format(tmp_path / "q.json"))):
        read_vqa(tmp_path / "q.json", None, tmp_path)


def test_answers_and_folders_are_checked_too(tmp_path):
    questions, answers, pictures = vqa(tmp_path)
    answers.write_text('{"annotations": [{"question_id": 1}]}')
    with pytest.raises(DataError, match="has no 'multiple_choice_answer' that is text"):
        read_vqa(questions, answers, pictures)
    with pytest.raises(DataError, match=r"gone cannot be read \(No such file.*: give the folder"):
        read_vqa(questions, None, tmp_path / "gone")


def test_questions_about_a_picture_stay_together(tmp_path):
    whole = read_vqa(*vqa(tmp_path))
    train, held = whole.split(3)
    assert (len(train), len(held)) == (6, 2)
    assert len(train.images) == 3
    assert len(held.images) == 1
    for part in (train, held):
        for question in part.questions:
            original = next(each for each in whole.questions if each.answer == question.answer)
            assert part.images.paths[question.image] == whole.images.paths[original.image]


def test_the_real_questions_are_as_they_are_counted():
    train, test = fetched(named_questions, "easy-vqa")
    assert (len(train), len(test)) == (38_575, 9_673)
    assert train.images.shape == (4000, 3, 64, 64)
    assert test.images.shape == (1000, 3, 64, 64)
    assert Counter(question.kind for question in test.questions)["yes/no"] == 7136
    assert len({question.answer for question in train.questions}) == 13
