import re

import pytest

from keeping import fetched, keep
from unrolled.data.extract import dictionary
from unrolled.data.library import kept
from unrolled.data.pairs import Pair, named_pairs, read_pairs, split_pairs
from unrolled.errors import DataError

ENTRIES = """# Version :: 1
Zweck {m} [phil.] | Das ist nicht der Zweck.; Dazu ist es nicht da. :: purpose <aim> | That’s not the purpose .
Wahl /W./ {f} (meist (oft) so) | die freie Wahl; die Qual | Hat er die Wahl? :: choice | free will; choice of | Has he a choice?
Er geht/läuft. | Er geht … fort. | Er gibt es jdm. gern. | Geh! | Eins. / Er kam. :: He goes. | He goes away. | He gives. | Go! | Two. / He came.
bitte (schön) | bitte sehr :: you are welcome | please
Er geht. :: He goes.
Er geht. :: He goes.
"""  # noqa: E501


def test_a_dictionary_becomes_pairs():
    assert dictionary.pairs({"de-en": ENTRIES.encode()}).decode().split("\n") == [
        "Das ist nicht der Zweck.\tThat's not the purpose.",
        "Dazu ist es nicht da.\tThat's not the purpose.",
        "die freie Wahl\tfree will",
        "Hat er die Wahl?\tHas he a choice?",
        "Er kam.\tHe came.",
        "Er geht.\tHe goes.",
        "",
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Er geht.", True),
        ("3 sind da!", True),
        ("„Geh nun!“", True),
        ("Über Land?", True),
        ("er geht.", False),
        ("Er geht", False),
        ("Geht.", False),
        ("", False),
    ],
)
def test_a_sentence_begins_and_ends_as_one(text, sentence):
    assert dictionary.is_sentence(text) is sentence


@pytest.fixture
def small(cache, monkeypatch):
    keep(cache, monkeypatch, "german-english", dictionary.pairs({"de-en": ENTRIES.encode()}))


def test_named_pairs_are_sentences_unless_phrases_are_asked_for(small):
    assert Pair("Er geht.", "He goes.") in named_pairs("german-english")
    assert len(named_pairs("german-english")) == 5
    assert set(named_pairs("german-english", phrases=True)) - set(named_pairs("german-english")) == {
        Pair("die freie Wahl", "free will")
    }


def test_a_text_is_no_set_of_pairs(parrot, cache):
    with pytest.raises(
        DataError, match=r"the data set parrot is text, not sentence pairs: there are german-e"
    ):
        named_pairs("parrot")
    with pytest.raises(DataError, match="german-english is sentence pairs, not text: there are sonnets"):
        kept("german-english", "text")


def test_two_files_are_read_line_by_line(tmp_path):
    (tmp_path / "de").write_bytes("\ufeffEins \r\nZwei\u2028drei\n".encode())
    (tmp_path / "en").write_bytes(b"one\n two\x0cthree")
    assert read_pairs(tmp_path / "de", str(tmp_path / "en")) == [
        Pair("Eins", "one"),
        Pair("Zwei\u2028drei", "two\x0cthree"),
    ]


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (b"a\nb\n", b"a\n", "de has 2 lines and {0}en has 1 lines: line n of the one must translate"),
        (b"a\n\nb\n \n", b"a\nb\nc\nd\n", "line 2 of {0}de is empty, as are 1 more: delete it in both"),
        (b"a\nb\n", b"a\n\n", "line 2 of {0}en is empty: delete it in both files, or fill it in."),
        (b"", b"", "de has no lines"),
        (b"a\nb\xff\n", b"a\nb\n", "de is not UTF-8: byte 0xff at offset 3 (line 2)"),
        (None, b"a\n", "de does not exist"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(tmp_path, source, target, message):
    for name, data in (("de", source), ("en", target)):
        if data is not None:
            (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=re.escape(message.format(f"{tmp_path}/"))) as caught:
        read_pairs(tmp_path / "de", tmp_path / "en")
    assert "\n" not in str(caught.value)


def test_no_held_out_sentence_is_seen_in_training():
    pairs = [Pair(f"Satz {i}", f"sentence {i}") for i in range(300)]
    pairs += [Pair(f"satz {i}!", f"another {i}") for i in range(100)]
    pairs += [Pair(f"noch {i}", f"Another {i}.") for i in range(50)]
    train, held = split_pairs(pairs, 60)
    assert len(held) == 60
    for side in ("source", "target"):
        seen = {getattr(pair, side).strip("!.").lower() for pair in train}
        assert not seen & {getattr(pair, side).strip("!.").lower() for pair in held}
    assert (train, held) == split_pairs(pairs, 60)
    with pytest.raises(DataError, match="450 records cannot be held out"):
        split_pairs(pairs)


def test_the_real_pairs_are_as_they_are_counted():
    pairs = fetched(named_pairs, "german-english")
    assert (len(pairs), len(fetched(named_pairs, "german-english", phrases=True))) == (
        19_856,
        19_856 + 58_533,
    )
    train, held = split_pairs(pairs)
    assert (len(train), len(held)) == (18_856, 1000)
