"""The noun of a caption, by the rule."""

import pytest

from unrolled import InputError
from unrolled.measures.nouns import head_noun, noun_match

NOUNS = {
    "A frog.": "frog",
    "A great blue heron.": "heron",
    "An albino peahen (a female peafowl, or peacock).": "peahen",
    "Tux—the Linux mascot!": "tux",
    "mars the red planet": "mars",
    "A spider playing computer games.": "spider",
    "A sitting gnu.": "gnu",
    "A washing machine.": "machine",
    "Knitting.": "knitting",
    "A Christmas stocking.": "stocking",
    "The baby of a gnu.": "baby",
    "A pair of cherries.": "cherries",
    "A head of red lettuce.": "lettuce",
    "A ripe, red tomato!": "tomato",
    "Bread, sliced, and shared by everyone.": "bread",
    "A Seville orange, also called a bitter orange.": "orange",
    "A hat worn by a university student.": "hat",
    "A flower covered in dew drops.": "flower",
    "A red and white anemone flower.": "flower",
    "A top and skirt.": "top",
    "A silver garbage can.": "can",
    "A dog can swim.": "dog",
    "A boxcar is used to carry livestock.": "boxcar",
    "A “Granny Smith” apple.": "apple",
    "Two wild boars": "boars",
    "A candle lit": "lit",
    "a man riding a wave on top of a surfboard": "man",
    "a group of people standing around": "people",
    "a bunch of": "bunch",
    "the": "the",
    "…": "",
    "": "",
}


@pytest.mark.parametrize(("caption", "noun"), NOUNS.items())
def test_the_noun_is_the_last_word_of_the_first_noun_phrase(caption, noun):
    assert head_noun(caption) == noun


def test_captions_match_where_their_nouns_do():
    found = noun_match(
        ["a red apple", "a dog on grass", "a cat"],
        [["An apple core."], ["A puppy.", "A small dog."], ["A cat."]],
    )
    assert (found.right, found.count) == (2, 3)
    with pytest.raises(InputError, match="give one each"):
        noun_match(["a"], [])
