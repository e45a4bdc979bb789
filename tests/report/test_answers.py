"""Answers to questions as figures and a page: pictures are lit where was looked, and mistakes are told."""

import io
from itertools import pairwise

import numpy as np
import pytest
from matplotlib import image
from parsed_page import Tree

from unrolled.errors import InputError
from unrolled.report.answers import DARK, Answer, answers_figure, answers_sheet, asked_figure, spotlight
from unrolled.report.answers_page import Mistake, Share, answers_page
from unrolled.report.page import Part

PICTURE = np.full((40, 60, 3), 200, dtype=np.uint8)
LEFT = np.array([[0.97, 0.01], [0.01, 0.01]])
METRICS = [
    {"step": 0, "test_accuracy": 0.1, "low": 0.05, "high": 0.2},
    *({"step": n, "loss": 2 / n, "accuracy": 0.5} for n in range(1, 21)),
    {"step": 20, "test_accuracy": 0.8, "low": 0.75, "high": 0.85},
]


def kinds(*names: str, **shares: float) -> dict[str, dict[str, Share]]:
    """Of all questions and of these kinds, by who answers."""
    return {
        name: {who: Share(share, share - 0.05, share + 0.05, 100) for who, share in shares.items()}
        for name in ("all", *names)
    }


KINDS = kinds("colour", "shape", majority=0.3, blind=0.5, network=0.8)


def example(answer: str = "red", right: str = "", weights: np.ndarray | None = LEFT) -> Answer:
    return Answer("what color is the shape?", PICTURE, weights, answer, 0.9, right)


def pixels(png: bytes) -> np.ndarray:
    return image.imread(io.BytesIO(png), format="png")


def test_a_picture_is_lit_where_was_looked_and_dark_elsewhere():
    found = spotlight(PICTURE, LEFT)
    assert found.shape == PICTURE.shape
    assert found.max() == pytest.approx(200 / 255)
    assert np.unravel_index(found[..., 0].argmax(), (40, 60))[0] < 20
    assert found[:15, :20].mean() > 2 * found[25:, 40:].mean()
    assert found.min() >= DARK * 200 / 255
    even = spotlight(PICTURE, np.full((2, 2), 0.25))
    np.testing.assert_allclose(even, PICTURE / 255)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_question_is_drawn_with_every_glimpse(count):
    answers = [("red", 0.7), ("dark blue", 0.2), ("", 0.1)]
    wide = pixels(asked_figure("what?", PICTURE, [LEFT] * count, answers)).shape
    more = pixels(asked_figure("what?", PICTURE, [LEFT] * (count + 1), answers)).shape
    assert wide[0] == more[0]
    assert more[1] - wide[1] == 338


def test_a_figure_shows_what_it_is_given():
    answers = [("red", 0.7), ("blue", 0.3)]
    drawn = [
        asked_figure("what?", PICTURE, [LEFT], answers),
        asked_figure("which?", PICTURE, [LEFT], answers),
        asked_figure("what?", 255 - PICTURE, [LEFT], answers),
        asked_figure("what?", PICTURE, [LEFT.T[::-1]], answers),
        asked_figure("what?", PICTURE, [LEFT], answers[:1]),
        answers_sheet([example()]),
        answers_sheet([example("blue")]),
        answers_sheet([example(right="blue")]),
        answers_sheet([example(weights=None)]),
        answers_figure(METRICS, KINDS, [example()], "title"),
        answers_figure(METRICS[:-1], KINDS, [example()], "title"),
        answers_figure(METRICS, kinds("colour", majority=0.3, network=0.8), [example()], "title"),
        answers_figure(METRICS, KINDS, [], "title"),
        answers_figure(METRICS, {}, [example()], "title"),
        answers_figure([], KINDS, [example()] * 9, "title"),
    ]
    assert len({*drawn}) == len(drawn)
    assert asked_figure("what?", PICTURE, [LEFT], answers) == drawn[0]


def test_a_sheet_grows_by_lines_and_nothing_on_it_is_cut_off():
    sheets = [pixels(answers_sheet([example(right="blue")] * count, 3)) for count in (3, 6, 9)]
    assert {sheet.shape[1] for sheet in sheets} == {630}
    assert {after.shape[0] - before.shape[0] for before, after in pairwise(sheets)} == {294}
    for sheet in sheets:
        for edge in (sheet[:3], sheet[-3:], sheet[:, :3], sheet[:, -3:]):
            assert edge[..., :3].min() == 1


def test_nothing_to_draw_is_an_error():
    with pytest.raises(InputError, match="no question to draw"):
        answers_sheet([])
    with pytest.raises(InputError, match="no answer to draw"):
        asked_figure("what?", PICTURE, [LEFT], [])


def drawn_page(found: dict[str, dict[str, Share]], mistakes: list[Mistake], sheets: dict[str, bytes]) -> Tree:
    return Tree(answers_page("lstm", "after 20 steps", METRICS, found, mistakes, sheets, Part(), "a run"))


def test_a_page_tells_accuracy_by_kind_and_mistakes():
    mistake = Mistake("what is <it>?", "a cat", 0.75, "a dog", "what")
    tree = drawn_page(KINDS, [mistake], {"Right answers": answers_sheet([example()])})
    (text,) = (each["text"] for each in tree.elements if each["tag"] == "body")
    for said in (
        "80.0% of the questions are answered rightly",
        "without looking: majority 30.0%, blind 50.0%",
        "80.0% (75.0% to 85.0%)",
        "what is <it>?",
        "0.75",
        "Right answers",
    ):
        assert said in text
    assert sum(each["tag"] == "img" for each in tree.elements) == 1
    bare = drawn_page(KINDS, [], {})
    assert not any(each["tag"] == "img" for each in bare.elements)


@pytest.mark.parametrize(
    ("network", "said"), [(0.52, "Train longer, or take another encoder of pictures"), (0.8, "")]
)
def test_a_page_warns_of_a_network_that_does_not_look(network, said):
    tree = drawn_page(kinds(majority=0.3, blind=0.5, network=network), [], {})
    (text,) = (each["text"] for each in tree.elements if each["tag"] == "body")
    assert ("Train longer" in text) == bool(said)
    assert said in text


def test_a_page_names_kinds_of_questions_that_pictures_do_not_help_with():
    found = kinds("colour", majority=0.3, blind=0.5, network=0.8)
    found["colour"]["blind"] = Share(0.79, 0.75, 0.85, 100)
    (text,) = (each["text"] for each in drawn_page(found, [], {}).elements if each["tag"] == "body")
    assert "Pictures do not help with: colour" in text
