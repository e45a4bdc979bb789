"""CIDEr by hand: log(2) weighs every n-gram of one picture of two, and nothing what both have."""

import math
import random

import pytest

from unrolled.errors import InputError
from unrolled.measures import cider, cider_d
from unrolled.measures.captions import words

LEXICON = words("a man dog cat on the red big sits runs table park in with ball of and")

REFERENCES = [["a dog runs"], ["A cat sits."]]


def test_one_word_of_three_is_another():
    """ "a dog sits": unigrams {dog, sits} and {dog, runs}, pairs {a dog, dog sits} and {a dog, dog runs}: 1/2
    each; of three and four words nothing is alike."""
    found = ["a dog sits", "a cat sits"]
    assert cider(found, REFERENCES).each == pytest.approx([(1 / 2 + 1 / 2) / 4, 3 / 4])
    assert cider_d(found, REFERENCES).each == pytest.approx([10 * 1 / 4, 10 * 3 / 4])
    assert cider_d(found, REFERENCES).score == pytest.approx(5)
    assert str(cider_d(found, REFERENCES)) == "CIDEr-D 5.000"


def test_repeated_words_are_clipped_and_length_counts_in_cider_d():
    """Words (cat 3, sits 1) and (cat 1, sits 1); pairs (a cat 1, cat cat 2, cat sits 1) and (a cat 1,
    cat sits 1); no more is alike."""
    found = ["a dog runs", "a cat cat cat sits"]
    pairs = 2 / math.sqrt(6 * 2)
    assert cider(found, REFERENCES).each[1] == pytest.approx((4 / math.sqrt(10 * 2) + pairs) / 4)
    short = math.exp(-(2**2) / (2 * 6**2))
    assert cider_d(found, REFERENCES).each[1] == pytest.approx(
        10 * short * (2 / math.sqrt(10 * 2) + pairs) / 4
    )


def test_several_references_are_averaged_and_words_weigh_by_their_pictures():
    """log 3 weighs what one picture has or none, log 3/2 what two have, in any of their references."""
    references = [["red dog", "red cat"], ["red bird", "big bird"], ["big fish"]]
    one, two = math.log(3), math.log(3 / 2)  # red and big: two pictures each
    word = {"red": two, "dog": one, "cat": one, "fox": one}

    def cosine(c, r):
        dot = sum(word[w] ** 2 for w in set(c) & set(r))
        return dot / math.sqrt(sum(word[w] ** 2 for w in c) * sum(word[w] ** 2 for w in r))

    found = ["red dog", "x", "y"]
    against = [(["red", "dog"], ["red", "dog"], 1), (["red", "dog"], ["red", "cat"], 0)]
    expected = sum((cosine(c, r) + pair) / 4 for c, r, pair in against) / 2
    assert cider(found, references).each == pytest.approx([expected, 0, 0])
    found = ["red fox", "x", "y"]
    expected = cosine(["red", "fox"], ["red", "dog"]) / 4
    assert cider_d(found, references).each == pytest.approx([10 * expected, 0, 0])


def test_figures_are_those_of_the_common_evaluation():
    """Values of CIDEr-D by pycocoevalcap 1.2 on captions that are made here."""
    draw = random.Random(5)
    references = [
        [" ".join(draw.choices(LEXICON, k=draw.randint(1, 12))) for _ in range(draw.randint(1, 5))]
        for _ in range(6)
    ]
    found = [
        " ".join(each[0].split()[: draw.randint(1, 9)]) + " " + draw.choice(LEXICON) for each in references
    ]
    expected = [1.0984673277385255, 2.543774352195027, 2.651704152835391,
                0.7977573157735318, 1.7683575609121296, 1.5185319511794395]  # fmt: skip
    assert cider_d(found, references).each == pytest.approx(expected, rel=1e-12)


def test_a_caption_of_no_words_or_of_none_that_matter_is_worth_nothing():
    found = ["", "a"]
    assert cider(found, REFERENCES).each == cider_d(found, REFERENCES).each == [0, 0]
    assert cider_d(["a dog runs", "."], [["...", "a dog runs"], ["a cat"]]).each == pytest.approx([3.75, 0])


def test_the_best_caption_reaches_the_top():
    references = [["a dog runs fast", "a dog runs fast"], ["one cat sits there"]]
    found = [each[0] for each in references]
    assert cider(found, references).each == pytest.approx([1, 1])
    assert cider_d(found, references).score == pytest.approx(10)


def test_the_interval_is_that_of_a_mean_over_pictures():
    references = [[f"w{n} x{n} y{n} z{n}"] for n in range(400)]
    found = [each[0] if n % 4 else "nothing" for n, each in enumerate(references)]
    measured = cider_d(found, references)
    low, high = measured.interval
    half = 1.96 * 10 * math.sqrt(0.25 * 0.75 / 400)
    assert measured.score == pytest.approx(7.5)
    assert (low, high) == (pytest.approx(7.5 - half, abs=0.06), pytest.approx(7.5 + half, abs=0.06))


@pytest.mark.parametrize("measure", [cider, cider_d])
def test_what_cannot_be_weighed_is_refused(measure):
    for found, references, message in (
        (["a"], [["a"]], "at least two pictures"),
        (["a", "b"], [["a"]], "there are 2 answers to measure and 1"),
        (["a", "b"], [["a"], []], "picture 1 has no caption"),
        (["a", "b"], ["a", "b"], "references are a list for each picture"),
    ):
        with pytest.raises(InputError, match=message):
            measure(found, references)
