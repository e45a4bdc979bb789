import re
from collections import Counter

import pytest

from keeping import fetched, keep
from unrolled.data.extract.corpus import sentences
from unrolled.data.tagged import CLASSES, TaggedSentence, coarse, named_tagged, read_tagged, split_tagged
from unrolled.errors import DataError

DOCUMENTS = {
    "package/cb01": b"\n\n\tI'm/ppss+bem 1/2/cd ./.\n\n\n",
    "package/ca01": b"\tThe/at Hall/nn-tl\n\t--/-- (/(-hl",
}


def test_a_corpus_becomes_a_sentence_a_line():
    assert sentences(DOCUMENTS) == (
        b"ca01\tThe/at Hall/nn-tl\nca01\t--/-- (/(-hl\ncb01\tI'm/ppss+bem 1/2/cd ./.\n"
    )


def test_named_sentences_have_words_tags_and_a_document(cache, monkeypatch):
    keep(cache, monkeypatch, "brown", sentences(DOCUMENTS))
    fine = [
        TaggedSentence(("The", "Hall"), ("at", "nn-tl"), "ca01"),
        TaggedSentence(("--", "("), ("--", "(-hl"), "ca01"),
        TaggedSentence(("I'm", "1/2", "."), ("ppss+bem", "cd", "."), "cb01"),
    ]
    assert named_tagged("brown", fine=True) == fine
    assert [each.tags for each in named_tagged("brown")] == [
        ("DET", "NOUN"), ("PUNCT", "PUNCT"), ("PRON", "NUM", "PUNCT"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("tag", "name"),
    [
        ("nn", "NOUN"), ("nn$-tl-hl", "NOUN"), ("nps$", "NOUN"), ("nr", "NOUN"), ("vbn-tl", "VERB"),
        ("doz*", "VERB"), ("md+hv", "VERB"), ("vb+ppo", "VERB"), ("wps+bez-tl", "PRON"), ("pp$", "DET"),
        ("pp$-hl", "DET"), ("pp$$", "PRON"), ("wp$", "DET"), ("ap$", "ADJ"), ("*-hl", "ADV"), ("*", "ADV"),
        ("---hl", "PUNCT"), (",-tl", "PUNCT"), ("'", "PUNCT"), ("``", "PUNCT"), ("in+in", "ADP"),
        ("to-nc", "PRT"), ("cs", "CONJ"), ("cd$", "NUM"), ("rb$", "ADV"), ("wdt+ber+pp", "DET"),
        ("fw-nn-tl", "X"), ("fw-at+nn", "X"), ("uh", "X"), ("nil", "X"), ("", "X"), ("$", "X"),
    ],
)  # fmt: skip
def test_tags_collapse_to_twelve_classes(tag, name):
    assert coarse(tag) == name
    assert len(CLASSES) == 11


def test_lines_of_words_and_tags_are_read(tmp_path):
    (tmp_path / "a").write_bytes("\ufeff\r\nThe\tat\r\nend \t nn\r\n\r\n \t \n.\t.".encode())
    assert read_tagged(tmp_path / "a") == [
        TaggedSentence(("The", "end"), ("at", "nn")),
        TaggedSentence((".",), (".",)),
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "a has no words"),
        (b"\n\n", "a has no words"),
        (
            b"a\tb\nword\n",
            "line 2 of {}a is 'word': give a word, a tab and its tag, or an empty line between",
        ),
        (b"a\tb\tc\n", "line 1 of {}a is 'a\\tb\\tc'"),
        (b"\ta\n", "line 1 of {}a is '\\ta'"),
        (b"a\tb\n\xff\n", "is not UTF-8: byte 0xff at offset 4 (line 2)"),
    ],
)
def test_another_line_is_named(tmp_path, data, message):
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(DataError, match=re.escape(message.format(f"{tmp_path}/"))):
        read_tagged(tmp_path / "a")


def test_documents_stay_whole_and_so_do_equal_sentences_without_one():
    known = [TaggedSentence((str(i),), ("x",), f"d{i // 7}") for i in range(700)]
    train, held = split_tagged(known, 100)
    assert len(held) == 98
    assert not {each.document for each in train} & {each.document for each in held}
    unknown = [TaggedSentence((f"Word{i // 2}", ".!"[i % 2]), ("x", "y")) for i in range(100)]
    train, held = split_tagged(unknown, 20)
    assert len(held) == 20
    assert not {each.words[0] for each in train} & {each.words[0] for each in held}


def test_the_real_corpus_is_as_it_is_counted():
    found = fetched(named_tagged, "brown")
    assert len(found) == 57_340
    assert len({each.document for each in found}) == 500
    tags = Counter(tag for each in found for tag in each.tags)
    assert tags.total() == 1_161_192
    assert set(tags) == {*CLASSES, "X"}
    assert tags["X"] == 2012
