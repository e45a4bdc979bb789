import re
from collections import Counter

import pytest

from keeping import fetched, keep
from unrolled.data.extract.reviews import reviews
from unrolled.data.labelled import LabelledText, named_texts, read_texts, split_texts
from unrolled.errors import DataError

TABLE = """text,label,source
"Bad,
<br /><br />very ""bad"" .",0,b
Good!,1,a
Not of this source.,1,a
 good ? ,1,b
GOOD,1,b
Both.,1,b
both!,0,b
"""


def test_reviews_become_labelled_texts_each_once():
    data = reviews("b")({"x.csv": TABLE.encode()})
    assert data.decode().split("\n") == ['negative\tBad, very "bad" .', "positive\tgood ?", ""]


def test_named_texts_are_in_the_order_of_the_file(cache, monkeypatch):
    keep(cache, monkeypatch, "movie-reviews", "negative\tBad.\npositive\tgood\x85!\n".encode())
    assert named_texts("movie-reviews") == [
        LabelledText("Bad.", "negative"),
        LabelledText("good\x85!", "positive"),
    ]


LABELLED = [LabelledText("a, b", "x"), LabelledText('"c"', "y")]


@pytest.mark.parametrize(
    ("data", "options"),
    [
        ('text,label\n"a, b",x\n"""c""",y\n', {}),
        ('n,label,text\n1,x,"a, b"\n2, y ,"""c"""\n\n', {}),
        ('\ufefflabel\ttext\r\nx\ta, b\r\ny\t"c"\r\n', {}),
        ('x\ta, b\ny\t"c"', {}),
        ('verdict,said\nx,"a, b"\ny,"""c"""', {"text": "said", "label": "verdict"}),
    ],
)
def test_tables_and_lines_are_read(tmp_path, data, options):
    (tmp_path / "a").write_bytes(data.encode())
    assert read_texts(tmp_path / "a", **options) == LABELLED


def test_a_text_in_a_table_may_have_lines(tmp_path):
    (tmp_path / "a.csv").write_text('text,label\n"a\nb",x\nc,y\n')
    assert [each.text for each in read_texts(tmp_path / "a.csv")] == ["a\nb", "c"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "a is empty"),
        (b"good film\n", "begins with 'good film': give columns named 'label' and 'text', or a label, a tab"),
        (b"text,label\n", "has no text below the names of its columns"),
        (b"text,label\na,x\nb\n", "line 3 of {}a has 1 columns, expected 2."),
        (b'text,label\n"a\nb",x\n\nc,y,z\n', "line 5 of {}a has 3 columns, expected 2."),
        (b'text,label\na,x\n"b,y\n', "is no table at line 3 (unexpected end of data)"),
        (b"text,label\na,x\n ,y\n", "line 3 of {}a has no text: fill it in."),
        (b"x\ta\n\ta\n", "line 2 of {}a has no label: fill it in."),
        (b"x\ta\nb\n", "line 2 of {}a has 1 columns, expected 2."),
        (b"x\ta\nx\tb\xe9\n", "is not UTF-8: byte 0xe9 at offset 7 (line 2)"),
    ],
)
def test_what_is_neither_names_the_line(tmp_path, data, message):
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(DataError, match=re.escape(message.format(f"{tmp_path}/"))) as caught:
        read_texts(tmp_path / "a")
    assert "\n" not in str(caught.value)


def test_parts_are_shuffled_and_share_no_text():
    texts = [LabelledText(f"text {i // 2}" + "!" * (i % 2), "a" if i < 200 else "b") for i in range(400)]
    train, held = split_texts(texts, 100)
    assert len(held) == 100
    assert Counter(train + held) == Counter(texts)
    assert not {each.text.strip("!") for each in train} & {each.text.strip("!") for each in held}
    for part in (train, held):
        first = [each.label for each in part[: len(part) // 2]].count("a") / (len(part) // 2)
        assert 0.3 < first < 0.7
    assert (train, held) == split_texts(texts, 100)


@pytest.mark.parametrize(
    ("name", "count", "positive"), [("movie-reviews", 8528, 4264), ("imdb-reviews", 24901, 12470)]
)
def test_the_real_reviews_are_as_they_are_counted(name, count, positive):
    texts = fetched(named_texts, name)
    assert Counter(each.label for each in texts) == {"positive": positive, "negative": count - positive}
    assert not any("<br" in each.text for each in texts)
