"""Vocabularies of words and subwords give sentences back, and are the same again from JSON."""

import json
import sys

import pytest

from unrolled.data.subwords import END, PAD, SPECIAL, START, UNKNOWN, Subwords
from unrolled.errors import DataError, InputError

pytest.importorskip("tokenizers")

TEXTS = [
    "Don't you know? He's been here.",
    "„Ja“, sagte er: 3,50 € (z.B. heute).",
    "Die Größe der E-Mail's war's nicht...",
    "Er sagte: „Ich weiß nicht, was soll es bedeuten.“",
    "a <pad> b <start> c <end> d <unknown> e",
    "日本 語 – naïve café",
]  # fmt: skip


@pytest.mark.parametrize("kind", ["subwords", "words"])
@pytest.mark.parametrize("size", [120, 400])
def test_sentences_come_back(kind, size):
    """Subwords spell whatever is made of characters they know; words are given back if they are known."""
    vocabulary = Subwords.of(TEXTS * 2, kind, size)
    assert len(vocabulary) <= size
    texts = [*TEXTS, "Er sagte: heute weiß ich's nicht."] if kind == "subwords" else TEXTS * (size == 400)
    for text, ids in zip(texts, vocabulary.encode(texts), strict=True):
        assert not {PAD, START, END, UNKNOWN} & {*ids}
        assert vocabulary.decode(ids) == text
        assert "".join(vocabulary.pieces(ids)).strip() == text
        assert vocabulary.decode([START, *ids, END, PAD]) == text


@pytest.mark.parametrize("kind", ["subwords", "words"])
def test_every_token_has_its_part_of_the_sentence(kind):
    vocabulary = Subwords.of(TEXTS, kind)
    text = "Er  sagte Щука: gro\u0308ße nicht."
    parts = vocabulary.parts(text)
    assert len(parts) == len(vocabulary.encode([text])[0])
    assert "".join(parts) == "Er sagte Щука: größe nicht."
    assert "Щука" in parts or " Щука" in parts


def test_blanks_and_forms_of_letters_are_made_one():
    vocabulary = Subwords.of(TEXTS)
    plain, other = vocabulary.encode(["Die Größe war's", "  Die\tGro\u0308ße  war's\n"])
    assert plain == other
    assert vocabulary.encode(["", " \t"]) == [[], []]
    assert vocabulary.encode([]) == []


def test_lower_case_is_read_alike():
    vocabulary = Subwords.of(TEXTS, lowercase=True)
    one, other = vocabulary.encode(["ER SAGTE", "er sagte"])
    assert one == other
    assert vocabulary.decode(one) == "er sagte"


def test_what_was_never_seen_is_spelled_or_unknown():
    subwords, words = Subwords.of(TEXTS), Subwords.of(TEXTS, "words")
    text = "Er sagte Щука nicht."
    (cut,), (whole,) = subwords.encode([text]), words.encode([text])
    assert cut.count(UNKNOWN) == whole.count(UNKNOWN) == 1  # one for all of the word
    assert words.decode(whole) == "Er sagte <unknown> nicht."
    assert subwords.decode(cut) == "Er sagte <unknown> nicht."
    (spelled,) = subwords.encode(["sagterer"])
    assert UNKNOWN not in spelled
    (unseen,) = words.encode(["sagterer"])
    assert unseen == [UNKNOWN]


def test_the_most_frequent_words_are_kept():
    texts = ["a b c"] * 3 + ["a b"] * 2 + ["a"]
    assert Subwords.of(texts, "words", 6).tokens == (*SPECIAL, "▁a", "▁b")
    assert Subwords.of(["abc abd", "eab"], size=11).tokens[10:] == ("ab",)  # which is there three times


@pytest.mark.parametrize("kind", ["subwords", "words"])
def test_a_vocabulary_is_the_same_again_from_json(kind):
    vocabulary = Subwords.of(TEXTS, kind, 150, lowercase=True)
    again = Subwords.from_json(json.loads(json.dumps(vocabulary.to_json())))
    assert again == vocabulary
    assert again.sha256 == vocabulary.sha256
    assert again.encode(TEXTS) == vocabulary.encode(TEXTS)
    assert Subwords.of(TEXTS, kind, 150, lowercase=True).sha256 == vocabulary.sha256
    assert Subwords.of(TEXTS, kind, 150).sha256 != vocabulary.sha256


def test_what_is_no_vocabulary_is_refused():
    good = Subwords.of(TEXTS).to_json()
    for value, message in (
        ({}, "no vocabulary: kind, tokens"),
        ([], "no vocabulary: kind, tokens"),
        ({**good, "tokens": good["tokens"][1:]}, "no vocabulary: the tokens of a vocabulary differ"),
        ({**good, "tokens": [*good["tokens"], "a", "a"]}, "no vocabulary: the tokens"),
        ({**good, "kind": "letters"}, "no vocabulary: a vocabulary is of subwords or words"),
        ({**good, "merges": [["a"]]}, "no vocabulary: "),
        ({**good, "merges": [["q", "qq"]]}, "no vocabulary: pairs that are joined"),
    ):
        with pytest.raises(DataError, match=message):
            Subwords.from_json(value)
    with pytest.raises(InputError, match="a vocabulary is of subwords or words"):
        Subwords.of(TEXTS, "letters")
    with pytest.raises(InputError, match="size must be a whole number"):
        Subwords.of(TEXTS, size=0)
    for texts in ([], ["", " "]):
        with pytest.raises(DataError, match="there is no word"):
            Subwords.of(texts)
    with pytest.raises(InputError, match="tokens have numbers from 0 to"):
        Subwords.of(TEXTS).decode([-1])


def test_without_the_library_a_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(InputError, match=r"pip install 'unrolled\[text\]'"):
        Subwords.of(TEXTS)
