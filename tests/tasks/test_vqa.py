"""Answers to questions about pictures: what a network sees, how answers are counted, what is learned."""

import json
import math
import zipfile
from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch import nn

from asked import asked
from keeping import fetched
from unrolled.data.library import kept
from unrolled.data.questions import Question, VisualQuestions
from unrolled.data.subwords import Subwords
from unrolled.errors import CheckpointError, DataError, InputError
from unrolled.measures.accuracy import wilson
from unrolled.tasks import vqa
from unrolled.tasks.maps import Looker
from unrolled.tasks.vqa import VqaTask, prepare
from unrolled.tasks.vqa_answers import Choices, Classes, checked_choices, ways_from_json
from unrolled.tasks.vqa_config import VqaConfig
from unrolled.tasks.vqa_files import Files, form
from unrolled.tasks.vqa_network import Encoder
from unrolled.tasks.vqa_questions import ByPicture, Squares, checked_question, said
from unrolled.tasks.vqa_scores import Score, Scores, score

SMALL = {
    "size": 16, "channels": "8,16", "hidden": 16, "embedding": 8, "fused": 24, "batch": 16, "warmup": 0,
    "steps": 120, "rate": 0.01, "question_only": 60, "dtype": "float64",
}  # fmt: skip


def task_of(look: bool = True, **settings: object) -> VqaTask:
    config = VqaConfig(**(SMALL | settings))
    return VqaTask(prepare(asked(), config, asked(30, seed=100)), config, look)


def trained(**settings: object) -> VqaTask:
    task = task_of(**settings)
    trainer = task.trainer()
    for _ in range(task.config.steps):
        trainer.advance()
    return task


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"glimpses": 2, "fusion": "concatenation", "cell": "gru", "score": "scaled", "pooling": "attention"},
        {"answers": "choice", "bidirectional": True, "pooling": "mean"},
        {"answers": "words", "width": 8, "cell": "gru", "hidden": 32, "fused": 32, "steps": 150},
    ],
    ids=["classes", "glimpses", "choice", "words"],
)
def test_every_way_to_answer_is_learned_better_than_without_pictures(settings):
    task = trained(**settings)
    _, found = task.answered()
    others = task.baselines
    assert [*others] == ["majority", "question only"]
    assert found.share > (0.6 if settings.get("answers") == "words" else 0.75), found
    assert others["majority"].share < 0.5
    assert others["question only"].share < found.share - 0.15


@pytest.mark.parametrize("answers", ["classes", "choice", "words"])
def test_a_question_is_answered_the_same_alone_and_among_others(answers):
    """Batches, padding of questions and of words, and the order of pictures change nothing."""
    task = task_of(answers=answers, steps=3)
    trainer = task.trainer()
    for _ in range(3):
        trainer.advance()
    task.model.eval()
    together = {each.number: each for each in task.everything(best=2)}
    for row in (0, 7, 29):
        for each in task.found(task.test, torch.tensor([row]), best=2):
            other = together[each.number]
            for (text, chance), (same, again) in zip(each.answers, other.answers, strict=True):
                assert text == same
                assert chance == pytest.approx(again, rel=1e-9)
            torch.testing.assert_close(each.weights, other.weights)


def test_weights_of_every_glimpse_are_a_distribution_over_places():
    task = task_of(glimpses=3)
    (found, *_) = task.found(task.test, torch.tensor([0]))
    assert found.weights.shape == (3, 16)
    torch.testing.assert_close(found.weights.sum(1), torch.ones(3, dtype=torch.float64))
    assert (found.weights > 0).all()
    assert not torch.allclose(found.weights[0], found.weights[1])


def test_a_map_lies_over_its_picture():
    """What a place sees is, on average, around its middle: within a pixel of a place of 8 x 8 pixels."""
    torch.manual_seed(0)
    encoder = Encoder((4, 4, 4), torch.zeros(3), torch.ones(3)).double().eval()
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.ones_(module.weight)
    pixels = torch.full((1, 3, 64, 64), 100.0, dtype=torch.float64, requires_grad=True)
    features = encoder(pixels)
    assert features.shape == (1, 4, 8, 8)
    for row, column in ((3, 4), (5, 2)):
        (seen,) = torch.autograd.grad(features[0, 0, row, column], pixels, retain_graph=True)
        share = seen[0].sum(0) / seen.sum()
        at = torch.arange(64) + 0.5
        assert float((share.sum(1) * at).sum()) == pytest.approx(8 * row + 4, abs=1)
        assert float((share.sum(0) * at).sum()) == pytest.approx(8 * column + 4, abs=1)


def test_without_pictures_nothing_of_them_is_seen_and_with_them_something():
    config = VqaConfig(**SMALL)
    first, second = asked(), asked()
    second = replace(second, images=255 - second.images)
    for look, differs in ((False, False), (True, True)):
        answers = []
        for each in (first, second):
            prepared = prepare(each, config, each)
            prepared = replace(prepared, spread=(torch.zeros(3), torch.ones(3)))
            task = VqaTask(prepared, config, look)
            task.model.eval()
            answers.append([f.answers[0][1] for f in task.found(task.test, torch.arange(5))])
        assert (answers[0] != answers[1]) == differs


def test_the_loss_of_several_peoples_answers_is_that_of_drawing_one_of_them():
    texts = ("red", "red", "dark red", "maroon")
    question = Question("What color is it?", "red", 0, answers=texts)
    ways = Classes(("red", "dark red", "blue"))
    answers, shares = ways.targets([question, Question("what", "blue", 0), Question("what", "maroon", 0)])
    assert answers.tolist() == [[0, 1], [2, 0], [0, 0]]
    np.testing.assert_allclose(shares, [[2 / 3, 1 / 3], [1, 0], [0, 0]], rtol=1e-6)
    assert ways.learnable(question)
    assert not ways.learnable(Question("what", "maroon", 0))
    task = task_of()
    batch, found = task.batch(0)
    seen = task.model(batch)
    targets = task.train.targets.at(found.questions)
    losses, right = task.losses(seen, batch, targets)
    logits = task.model.scores(seen, batch)
    by_hand = -torch.log_softmax(logits, 1)[torch.arange(len(logits)), targets.answers[:, 0]]
    torch.testing.assert_close(losses, by_hand)
    assert right == pytest.approx(float((logits.argmax(1) == targets.answers[:, 0]).double().mean()))


def test_written_answers_are_as_likely_as_the_loss_says():
    task = task_of(answers="words", steps=10)
    trainer = task.trainer()
    for _ in range(10):
        trainer.advance()
    task.model.eval()
    batch, found = task.train.batch(torch.tensor([3]))
    losses, _ = task.losses(task.model(batch), batch, task.train.targets.at(found.questions))
    written = {each.number: dict(each.answers) for each in task.found(task.train, torch.tensor([3]), best=9)}
    checked = 0
    for number, loss in zip(found.questions.tolist(), losses.tolist(), strict=True):
        answer = task.train.questions[number].answer
        if answer in written[number]:
            checked += 1
            assert written[number][answer] == pytest.approx(math.exp(-loss), rel=1e-6)
    assert checked


def test_answers_to_choose_among_are_the_right_one_and_others_of_its_kind_first():
    questions = asked(40).questions
    ways = Choices.of(questions)
    assert {*ways.known} == {"red", "green", "blue", "square", "bar", "yes", "no"}
    given = ways.given(questions, seed=3)
    assert given == ways.given(questions, seed=3)
    kinds = {"colour": {"red", "green", "blue"}, "shape": {"square", "bar"}, "yes/no": {"yes", "no"}}
    for question, choices in zip(questions, given, strict=True):
        assert len({*choices}) == 4
        assert kinds[question.kind] < {*choices}
    right = Counter(each.index(q.answer) for q, each in zip(questions, given, strict=True))
    assert max(right.values()) < 0.6 * len(questions)
    own = Question("which", "b", 0, choices=("a", "b", "c"))
    assert ways.given([own]) == [("a", "b", "c")]
    assert not ways.learnable(replace(own, answer="z"))


def test_scores_agree_with_people():
    question = Question("how many", "2", 0, answers=("2",) * 2 + ("3",) * 4 + ("4",) + ("none",) * 3)
    told = {"2": 2 / 3, "3": 1, "4": 1 / 3, "None.": 1, "5": 0}
    for answer, expected in told.items():
        assert score(question, answer) == pytest.approx(expected)
    assert score(Question("how many", "Two ", 0), "two") == 1
    assert score(Question("how many", "Two", 0, answers=("two", "2")), "2") == 0


def test_intervals_count_pictures_and_not_questions():
    """Asking every question about a picture twice leaves the interval as it was; independent questions have
    that of Wilson."""
    random = np.random.default_rng(0)
    scores, pictures = (random.random(400) < 0.8).astype(float), np.arange(400)
    alone = Score.of(scores, pictures)
    assert alone.effective == pytest.approx(399)
    assert alone.interval == pytest.approx(wilson(alone.share, 399))
    twice = Score.of(np.tile(scores, 2), np.tile(pictures, 2))
    assert (twice.share, twice.count) == (alone.share, 800)
    assert twice.interval == pytest.approx(alone.interval)
    assert Score.of([1.0] * 30, [0] * 10 + [1] * 10 + [2] * 10).interval == wilson(1.0, 3)


def test_scores_go_by_kind():
    found = Scores.of(
        [Question("a", "x", 0, "one"), Question("b", "y", 0, "two"), Question("c", "x", 1, "one")], "xxy"
    )
    assert {kind: each.share for kind, each in found.rows().items()} == {"all": 1 / 3, "one": 0.5, "two": 0.0}
    assert Scores.from_json(**asdict(found)) == found


def test_questions_are_put_together_by_picture_and_none_is_lost():
    pictures = [3, 0, 3, 1, 3, 0]
    found = ByPicture(pictures, numbers=[0, 1, 2, 3, 5])
    assert found.pictures.tolist() == [0, 1, 3]
    batch = found.at(torch.tensor([2, 0, 1]))
    assert batch.pictures.tolist() == [3, 0, 1]
    assert batch.numbers.tolist() == [[0, 1, 3], [2, 5, -1]]
    assert sorted(batch.questions.tolist()) == [0, 1, 2, 3, 5]


def test_every_question_is_read_once_in_a_pass():
    task = task_of()
    seen = [n for step in range(len(task.train) // 16) for n in task.batch(step)[1].questions.tolist()]
    assert len({*seen}) == len(seen)
    assert len(seen) > 0.7 * len(task.train.questions)


def test_pictures_become_squares_once(monkeypatch):
    reads: list[int] = []

    class Counted(list):
        def __getitem__(self, place):
            reads.append(place)
            return super().__getitem__(place)

    images = Counted([torch.full((3, 8, 4), 10 * k, dtype=torch.uint8) for k in range(3)])
    squares = Squares(images, 8)
    first = squares.at(torch.tensor([2, 0]))
    assert first.shape == (2, 3, 8, 8)
    assert first[0, 0, 0].tolist() == [255, 255, 20, 20, 20, 20, 255, 255]
    assert torch.equal(squares.at(torch.tensor([0, 2])), first.flip(0))
    assert sorted(reads) == [0, 2]
    monkeypatch.setattr("unrolled.tasks.vqa_questions.ROOM", 100)
    again = Squares(images, 8)
    assert torch.equal(again.at(torch.tensor([2, 0])), first)
    again.at(torch.tensor([2]))
    assert sorted(reads) == [0, 0, 2, 2, 2]


def test_features_from_elsewhere_take_the_place_of_the_small_encoder(monkeypatch, tmp_path):
    def look(squares):
        maps = torch.nn.functional.adaptive_avg_pool2d(squares.float() / 255, 7)
        return torch.cat([maps, torch.zeros(len(squares), 1277, 7, 7)], 1)

    monkeypatch.setattr(vqa, "efficientnet", lambda: Looker("a network", 28, look))
    monkeypatch.setenv("UNROLLED_CACHE", str(tmp_path))
    config = VqaConfig(**{**SMALL, "encoder": "efficientnet-lite0", "size": 64, "channels": "32,64,64"})
    task = VqaTask(prepare(asked(20), config, asked(10)), config)
    assert task.model.encoder is None
    before = task.trainer().advance()["loss"]
    assert before == pytest.approx(math.log(7), abs=0.5)
    assert next(task.found(task.test, torch.tensor([0]))).weights.shape == (1, 49)


def test_easy_questions_have_four_forms():
    assert form("what is the color of the circle?") == "which colour"
    assert form("what shape is present?") == form("what is the red shape?") == "which shape"
    assert form("is there not a triangle in the image?") == "shape, yes or no"
    assert form("does the image not contain a teal shape?") == "colour, yes or no"
    with zipfile.ZipFile(fetched(kept, "easy-vqa", "visual questions")) as file:
        train, test = (json.loads(file.read(f"{part}/questions.json")) for part in ("train", "test"))
    assert Counter(form(text) for text, _, _ in test) == {
        "colour, yes or no": 5201, "shape, yes or no": 1935, "which colour": 1280, "which shape": 1257,
    }  # fmt: skip
    for text, answer, _ in train:
        assert form(text).endswith("yes or no") == (answer in ("yes", "no"))


def test_gradient_flow_is_that_of_the_loss():
    task = task_of()
    batch = task.few(0, 4, 40)
    losses = task.flow_losses(task.model, batch)
    assert losses.shape == batch[0].texts.lengths.shape
    own, _ = task.losses(task.model(batch[0]), batch[0], task.train.targets.at(batch[1].questions))
    assert losses.sum().item() == pytest.approx(own.sum().item())


@pytest.mark.parametrize("answers", ["classes", "choice", "words"])
def test_ways_are_kept_as_json(answers):
    ways = task_of(answers=answers).ways
    assert ways_from_json(answers, ways.to_json()) == ways
    with pytest.raises(CheckpointError):
        ways_from_json(answers, {"known": []})
    with pytest.raises(CheckpointError):
        ways_from_json("words", {"vocabulary": {"kind": "words"}, "known": ["a"], "longest": 1})


def test_questions_must_have_words_that_were_seen():
    vocabulary = Subwords.of([said("What color is it?"), "is it red"], "words", 100, lowercase=True)
    assert checked_question("  IS it... red?!", vocabulary) == "is it red"
    with pytest.raises(InputError, match="has no words"):
        checked_question(" ?! ", vocabulary)
    with pytest.raises(InputError, match="has 'zebra', 'mauve'; ask with words it knows: "):
        checked_question("is the zebra mauve", Subwords.of(["is the"], "words", 100))


def test_what_does_not_fit_is_said():
    with pytest.raises(InputError, match="give two or more"):
        checked_choices(["red", "Red "])
    assert checked_choices(["Red", "blue", "red"]) == ("red", "blue")
    for given in ({}, {"name": "easy-vqa", "questions": "q.json"}):
        with pytest.raises(InputError, match="give the name of a data set, such as easy-vqa, or --questions"):
            Files(**given)
    with pytest.raises(InputError, match="give all"):
        Files(questions="q.json")
    with pytest.raises(InputError, match="give all"):
        Files(questions="q", annotations="a", images="i", test_annotations="a")
    unanswered = VisualQuestions(
        "none", (Question("what", "", 0), Question("what", "", 1)), torch.zeros(2, 3, 8, 8)
    )
    with pytest.raises(DataError, match="no question has an answer"):
        prepare(unanswered, VqaConfig(**SMALL))
    among = tuple(Question("what", "red", k, choices=("blue", "green")) for k in range(2))
    given = VisualQuestions("given", among, torch.zeros(2, 3, 16, 16))
    with pytest.raises(DataError, match="no question with an answer that can be given"):
        prepare(given, VqaConfig(**SMALL, answers="choice"), given)
    one = VisualQuestions("one", asked(1).questions, asked(1).images)
    with pytest.raises(DataError, match="asks about 1 picture"):
        prepare(one, VqaConfig(**SMALL))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"answers": "essay"}, "--answers is one of classes, choice, words"),
        ({"score": "location"}, "--score is one of additive"),
        ({"channels": "8,x"}, "--channels are numbers"),
        ({"channels": "8,8,8,8,8,8,8"}, "halve a picture 7 times"),
        ({"size": 4}, "--size must be from 8 to 1024"),
        ({"width": 8, "score": "dot"}, "--width is for --score additive"),
        ({"encoder": "efficientnet-lite0", "size": 32}, "--size is for --encoder small"),
        ({"answers": "words", "most_answers": 3}, "--most-answers is for --answers classes"),
        ({"dropout": 1.0}, "--dropout is a probability"),
        ({"holdout": 0}, "--holdout is a share"),
        ({"words": 4}, "--words must be above 4"),
    ],
)
def test_settings_that_do_not_fit_are_said(settings, said):
    with pytest.raises(InputError, match=said):
        VqaConfig(**settings)
