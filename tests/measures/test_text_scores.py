"""BLEU and chrF are sacrebleu's, with its signature, and BLEU of captions is that of the paper."""

import math
import sys

import pytest

from unrolled.errors import InputError
from unrolled.measures import Accuracy, bleu, caption_bleu, chrf, exact_match
from unrolled.measures.captions import words

FOUND = ["Der Hund läuft schnell, sagt er.", "Eine Katze sitzt auf dem Dach.", "Guten Morgen!"]
EXPECTED = ["Der Hund rennt schnell, sagt er.", "Die Katze sitzt auf dem Dach.", "Guten Morgen!"]


def test_bleu_is_computed_by_its_definition():
    """Tokens are words and marks: 16 of 18 unigrams, 12 of 15 pairs, 8 of 12 triples, 5 of 9 of four."""
    found = bleu(FOUND, EXPECTED)
    assert found.detail.startswith("88.9/80.0/66.7/55.6 (BP = 1.000 ")
    assert found.score == pytest.approx(100 * (16 / 18 * 12 / 15 * 8 / 12 * 5 / 9) ** 0.25)
    assert str(found) == f"BLEU {found.score:.1f}"
    parts = dict(part.split(":") for part in found.signature.split("|"))
    assert parts.items() >= {"nrefs": "1", "case": "mixed", "tok": "13a", "smooth": "exp"}.items()


def test_a_second_reference_and_letter_case_count():
    single = bleu(FOUND, EXPECTED)
    several = [[EXPECTED[0], FOUND[0]], [EXPECTED[1]], [EXPECTED[2]]]
    assert bleu(FOUND, [[one] for one in EXPECTED]) == single
    assert bleu(FOUND, several).score > single.score
    assert "nrefs:var" in bleu(FOUND, several).signature
    assert bleu(FOUND, [one.upper() for one in FOUND]).score < 30
    assert bleu(FOUND, [one.upper() for one in FOUND], lowercase=True).score == pytest.approx(100)
    assert bleu(FOUND, EXPECTED, tokenize="none").detail.startswith("85.7/72.7/50.0/33.3 ")


def test_chrf_is_computed_by_its_definition():
    """One n-gram order in common for each of "ab" and "ac": characters 1 of 2, pairs 0 of 1."""
    p = (1 / 2 + 0 / 1) / 2
    found = chrf(["ab"], ["ac"])
    assert (found.name, found.score) == ("chrF2", pytest.approx(100 * p))
    assert "nc:6|nw:0" in found.signature
    assert chrf(FOUND, EXPECTED, word_order=2).name == "chrF2++"
    assert chrf(FOUND, FOUND).score == pytest.approx(100)


@pytest.mark.parametrize("measure", [bleu, chrf])
def test_an_interval_is_around_its_figure_and_narrower_with_more(measure):
    few, many = (measure(FOUND * n, EXPECTED * n, resamples=200) for n in (3, 60))
    for found in (few, many):
        low, high = found.interval
        assert 0 <= low < found.score < high <= 100
        assert "bs:200|seed:12345" in found.signature
        assert str(found) == f"{found.name} {found.score:.1f} ({low:.1f} to {high:.1f})"
    widths = [high - low for low, high in (few.interval, many.interval)]
    assert widths[1] == pytest.approx(widths[0] / math.sqrt(20), rel=0.5)
    assert measure(FOUND * 3, EXPECTED * 3).interval is None


def test_bleu_of_captions_is_that_of_the_paper():
    """Counts of an n-gram are clipped at its greatest count in a reference; the closest reference's length
    counts: here 7 of 6 and 7."""
    found = caption_bleu(
        ["The cat the cat, on the mat."], [["The cat is on the mat.", "There is a cat on the mat!"]]
    )
    precisions = 5 / 7, 4 / 6, 2 / 5, 1 / 4
    expected = [100 * math.prod(precisions[:n]) ** (1 / n) for n in (1, 2, 3, 4)]
    assert found.scores == pytest.approx(expected)
    assert str(found) == "BLEU-1 71.4, BLEU-2 69.0, BLEU-3 57.5, BLEU-4 46.7"
    assert "smooth:none" in found.signature


def test_short_captions_pay_and_what_has_no_n_gram_is_zero():
    found = caption_bleu(["a dog", "a cat"], [["a dog runs"], ["the dog", "a cat sits", "a white cat sits"]])
    assert found.scores[0] == pytest.approx(100 * math.exp(1 - 5 / 4))  # 2 + 2 words beside 3 and 2
    assert found.scores[1] == pytest.approx(100 * math.exp(1 - 5 / 4))
    assert found.scores[2:] == (0, 0)
    assert caption_bleu(["", "x"], [["a dog"], ["a cat"]]).scores == (0, 0, 0, 0)


def test_words_of_captions_are_lower_case_without_punctuation():
    assert words("A man's T-shirt, 2 dogs — “Élan”!") == ["a", "man's", "t-shirt", "2", "dogs", "élan"]
    assert words(" ...") == []


def test_exact_matches_are_counted():
    assert exact_match(["a b", "c", "d"], ["a b", "c", "e"]) == Accuracy(2, 3)
    assert exact_match([(1, 2), (3,)], [(1, 2), (4,)]) == Accuracy(1, 2)


@pytest.mark.parametrize("measure", [bleu, chrf, exact_match])
def test_answers_and_what_they_are_measured_by_are_as_many(measure):
    with pytest.raises(InputError, match="there are 2 answers to measure and 1 to measure them by"):
        measure(["a", "b"], ["a"])
    with pytest.raises(InputError, match="nothing to measure"):
        measure([], [])


def test_what_cannot_be_measured_is_told():
    for wrong, message in (
        (lambda: bleu(["a"], [[]]), "sentence 0 has no reference"),
        (lambda: bleu(["a"], ["a"], tokenize="nope"), "tokenize is one of 13a, intl, zh, char, none"),
        (lambda: bleu(["a"], ["a"], resamples=-1), "at least 2 resamples, or 0 for none, got -1"),
        (lambda: chrf(["a"], ["a"], resamples=1), "at least 2 resamples, or 0 for none, got 1"),
        (lambda: caption_bleu(["a"], [[]]), "picture 0 has no caption"),
        (lambda: caption_bleu(["a"], ["a"]), "references are a list for each picture"),
        (lambda: caption_bleu([], []), "nothing to measure"),
    ):
        with pytest.raises(InputError) as caught:
            wrong()
        assert message in str(caught.value)


def test_without_sacrebleu_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    with pytest.raises(InputError, match=r"pip install 'unrolled\[text\]'"):
        bleu(["a"], ["a"])


def test_there_are_intervals_where_nothing_matches():
    """Where all texts drawn have one figure, it is that; where only some have any, there is none."""
    for measure in (bleu, chrf):
        assert measure(["a b"] * 20, ["c d"] * 20, resamples=20).interval == (0.0, 0.0)
        assert measure([""] * 20, ["c d"] * 20, resamples=20).interval == (0.0, 0.0)
    found = chrf(["the dog"] * 3, ["the dog", "x", "y"], resamples=200)
    assert found.interval is None or found.interval[1] > 0
