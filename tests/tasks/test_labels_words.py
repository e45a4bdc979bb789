"""Words as numbers, and what is reached by counting them."""

import math

import pytest
import torch

from unrolled.errors import DataError
from unrolled.measures.accuracy import Accuracy
from unrolled.tasks.labels_scores import MostFrequentTag, NaiveBayes, commonest, scores
from unrolled.tasks.labels_words import UNKNOWN, Lexicon, shape_of, words_of

SENTENCES = [["The", "walking", "dog"], ["the", "Dog", "talking"], ["a", "dog"]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It's a great, GREAT film!", ["It's", "a", "great", ",", "GREAT", "film", "!"]),
        (
            "co-writer / director's 3.50 (U.S.)",
            ["co-writer", "/", "director's", "3.50", "(", "U.S", ".", ")"],
        ),
        ("", []),
        (" \t ", []),
        ("schön…", ["schön", "…"]),
    ],
)
def test_a_text_is_cut_into_words_and_signs(text, words):
    assert words_of(text) == words


@pytest.mark.parametrize(
    ("word", "shape"),
    [("dog", 0), ("Dog", 1), ("DOG", 3), ("42", 4), ("B-52", 15), ("co-op", 8), ("-", 0), ("", 0)],
)
def test_how_a_word_is_written_is_a_number(word, shape):
    assert shape_of(word) == shape


def test_a_lexicon_knows_what_is_there_often_enough():
    lexicon = Lexicon.of(SENTENCES, lowercase=True, least=2)
    assert lexicon.words == ("dog", "the")
    assert lexicon.sizes == (3,)
    assert lexicon.encode(["THE", "cat", "Dog"]).tolist() == [[2], [UNKNOWN], [1]]
    assert lexicon.unknown(["THE", "cat", "Dog"]) == 1
    as_written = Lexicon.of(SENTENCES, lowercase=False, least=1)
    assert {*as_written.words} == {"The", "the", "walking", "talking", "dog", "Dog", "a"}
    assert as_written.unknown(["THE", "cat", "Dog"]) == 2


def test_endings_are_counted_over_words_and_tell_of_words_that_are_not_known():
    lexicon = Lexicon.of(SENTENCES, lowercase=True, least=2, endings=3)
    assert {*lexicon.endings[0]} == {"e", "g"}
    assert {*lexicon.endings[2]} == {"the", "dog", "ing"}
    assert lexicon.sizes == (3, 3, 3 + 1, 3 + 1, 16)
    known, new, short = lexicon.encode(["talking", "Baking", "g"]).tolist()
    endings = [each.index(e) + 1 for each, e in zip(lexicon.endings, ("g", "ng", "ing"), strict=True)]
    assert new[:-1] == known[:-1] == [UNKNOWN, *endings]
    assert (known[-1], new[-1]) == (0, 1)
    assert short[1] == known[1]
    assert short[2:4] == [UNKNOWN, UNKNOWN]


def test_a_lexicon_is_kept_as_json():
    lexicon = Lexicon.of(SENTENCES, lowercase=False, least=1, endings=2)
    again = Lexicon.from_json(lexicon.to_json())
    assert again == lexicon
    assert torch.equal(again.encode(["The", "dog"]), lexicon.encode(["The", "dog"]))
    for damaged in (None, [], {}, {"words": "x", "endings": [], "lowercase": True},
                    {"words": [], "endings": ["x"], "lowercase": True}):  # fmt: skip
        with pytest.raises(DataError, match="a lexicon has words, endings and lowercase"):
            Lexicon.from_json(damaged)


def test_a_lexicon_of_nothing_is_refused():
    with pytest.raises(DataError, match="no word is there 9 times: give more texts, or lower --least"):
        Lexicon.of(SENTENCES, least=9)


def test_naive_bayes_is_its_formula():
    """By hand, in a text that has a word of both labels, one of one of them, and one that is new."""
    train = [["good", "film"], ["good", "good"], ["bad", "film"]]
    model = NaiveBayes(train, [1, 1, 0])
    # parts: good, film, bad, "good film", "good good", "bad film"
    positive = math.log(2 / 3) + math.log(3 / (5 + 6)) + math.log(2 / (5 + 6)) + math.log(2 / (5 + 6))
    negative = math.log(1 / 3) + math.log(1 / (3 + 6)) + math.log(2 / (3 + 6)) + math.log(1 / (3 + 6))
    assert model(["good", "film", "new"]) == int(positive > negative)
    assert model(["bad"]) == int(math.log(2 / 3) + math.log(1 / 11) > math.log(1 / 3) + math.log(2 / 9))
    logs = model._logs
    assert logs["good"] == pytest.approx([math.log(1 / 9), math.log(3 / 11)])


def test_the_most_frequent_tag_of_a_word_is_taken_and_of_new_words_that_of_rare_ones():
    model = MostFrequentTag(
        [["the", "fly"], ["the", "fly", "fly"], ["bird", "cage"]], [[0, 2], [0, 1, 1], [2, 2]]
    )
    assert model(["the", "fly", "cage", "new"]) == [0, 1, 2, 2]
    assert MostFrequentTag([["a", "a"], ["a"]], [[1, 1], [0]])(["a", "new"]) == [1, 1]


def test_the_commonest_label_is_the_smallest_of_several():
    assert commonest([2, 1, 2, 1, 0]) == 1


def test_scores_are_accuracy_and_the_mean_of_f1():
    found, expected = [0, 0, 1, 1, 1, 2], [0, 1, 1, 1, 2, 2]
    got = scores(found, expected)
    assert (got.right, got.count) == (4, 6)
    assert (got.low, got.high) == Accuracy(4, 6).interval
    assert got.f1 == pytest.approx((2 / 3 + 2 * 2 / (4 + 1 + 1) + 2 / 3) / 3)
    assert got.f1_low <= got.f1 <= got.f1_high
    assert str(got).startswith(f"{4 / 6:.1%} (")


def test_labels_of_one_sequence_make_intervals_wider_where_errors_come_together():
    """Of 40 sequences of 25 steps half are wrong as a whole: as uncertain as 40 labels."""
    expected = [k % 2 for k in range(1000)]
    found = [label if (k // 25) % 2 else 1 - label for k, label in enumerate(expected)]
    apart, together = scores(found, expected), scores(found, expected, [k // 25 for k in range(1000)])
    assert apart.share == together.share == 0.5
    widths = [each.high - each.low for each in (apart, together)]
    assert widths[1] / widths[0] == pytest.approx(5, rel=0.15)
