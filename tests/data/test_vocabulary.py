import re

import numpy as np
import pytest
import torch

from unrolled.data import Vocabulary
from unrolled.errors import DataError, InputError

TEXTS = [
    "ab",
    "to be, or not to be\n",
    "naïve — Ωλ 🦜🦜 \x00",
    "\U0010ffff\U0010fffe",
    "\udcff lone surrogate",
]


@pytest.mark.parametrize("text", TEXTS)
def test_decoding_what_was_encoded_gives_the_text_back(text):
    vocabulary = Vocabulary.of(text)
    ids = vocabulary.encode(text)
    assert ids.dtype == torch.int64
    assert vocabulary.decode(ids) == text
    assert vocabulary.decode(ids.tolist()) == text


@pytest.mark.parametrize("text", TEXTS)
def test_an_id_is_the_place_among_the_sorted_symbols(text):
    vocabulary = Vocabulary.of(text)
    assert vocabulary.symbols == "".join(sorted(set(text)))
    assert vocabulary.encode(vocabulary.symbols).tolist() == list(range(len(vocabulary)))


def test_nothing_encodes_to_nothing():
    vocabulary = Vocabulary("ab")
    assert vocabulary.encode("").shape == (0,)
    assert vocabulary.decode([]) == ""


def test_vocabularies_of_the_same_symbols_are_equal():
    assert Vocabulary.of("abba") == Vocabulary("ab")
    assert hash(Vocabulary.of("abba")) == hash(Vocabulary("ab"))


def test_ids_can_be_trained_on_in_place():
    ids = Vocabulary("ab").encode("ab")
    ids += 1
    assert Vocabulary("ab").encode("ab").tolist() == [0, 1]


@pytest.mark.parametrize("symbols", ["", "ba", "aab"])
def test_symbols_must_be_distinct_and_sorted(symbols):
    with pytest.raises(InputError, match=r"Vocabulary\.of"):
        Vocabulary(symbols)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cabc", "1 distinct character that the model never saw in training: 'c'."),
        ("\n é", "3 distinct characters that the model never saw in training: '\\n', ' ', 'é'."),
        (
            "zyxwvu",
            "6 distinct characters that the model never saw in training: 'z', 'y', 'x', 'w', 'v', ....",
        ),
        ("a\udcff", "'\\udcff'"),
        ("`", "'`'"),
    ],
)
def test_unknown_characters_are_named_and_counted(text, message):
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        Vocabulary("ab").encode(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ids", [[2], [-1], [0.5], np.array([0, 2])])
def test_an_id_outside_the_vocabulary_is_refused(ids):
    with pytest.raises(InputError, match="from 0 to 1"):
        Vocabulary("ab").decode(ids)
