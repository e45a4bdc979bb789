import math
import re

import pytest

from unrolled.data import read_blocks, read_text, split, text
from unrolled.errors import DataError, InputError

MIXED = "\ufeff\ufeffa\r\r\nß\r\n漢\r字\ufeff🦜\n\r\n\r".encode()
"""Characters of one to four bytes, line ends of all sorts at both ends of them, two byte order marks."""

sizes = pytest.mark.parametrize("size", [*range(1, len(MIXED) + 2)])


def test_a_text_is_read_as_it_is(tmp_path):
    (tmp_path / "a.txt").write_bytes("naïve\n\n🦜\ttail \n".encode())
    assert read_text(tmp_path / "a.txt") == "naïve\n\n🦜\ttail \n"
    assert read_text(str(tmp_path / "a.txt")) == read_text(tmp_path / "a.txt")


def test_windows_line_ends_and_the_byte_order_mark_go(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    assert read_text(tmp_path / "a.txt") == "one\ntwo\rthree\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"x", "no character but 'x'"),
        (b"\n\r\n\n", r"no character but '\n'"),
        (
            b"one\ntwo caf\xe9\n",
            "byte 0xe9 at offset 11 (line 2). Convert it, for example with `iconv -f latin1",
        ),
        ("text".encode("utf-16"), "at offset 0 (line 1). Convert it, for example with `iconv -f utf-16"),
    ],
)
def test_a_text_that_cannot_be_used_says_why(tmp_path, data, message):
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        read_text(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_path_that_cannot_be_read_says_why(tmp_path):
    (tmp_path / "file").write_text("ab")
    with pytest.raises(DataError, match="does not exist"):
        read_text(tmp_path / "missing")
    with pytest.raises(DataError, match="is a folder"):
        read_text(tmp_path)
    with pytest.raises(DataError, match=r"cannot be read \(Not a directory\)"):
        read_text(tmp_path / "file" / "below")


@pytest.mark.parametrize("holdout", [0.01, 0.1, 0.5, 0.99])
def test_the_held_out_part_is_the_tail(holdout):
    text = "".join(chr(i) for i in range(1000))
    train, tail = split(text, holdout)
    assert train + tail == text
    assert len(tail) == round(1000 * holdout)


@pytest.mark.parametrize("holdout", [0, 1, -0.1, 1.5, math.nan])
def test_the_fraction_is_between_nought_and_one(holdout):
    with pytest.raises(InputError, match="above 0 and below 1"):
        split("a long enough text", holdout)


@pytest.mark.parametrize(
    ("text", "holdout"), [("abcdefghij", 0.1), ("abcdefghij", 0.9), ("abc", 0.5), ("", 0.5)]
)
def test_both_parts_need_something_to_predict(text, holdout):
    with pytest.raises(DataError, match="each part needs two"):
        split(text, holdout)
    assert split("abcd", 0.5) == ("ab", "cd")


@sizes
def test_where_blocks_end_is_of_no_meaning(tmp_path, monkeypatch, size):
    (tmp_path / "a.txt").write_bytes(MIXED)
    monkeypatch.setattr(text, "BLOCK", size)
    assert read_text(tmp_path / "a.txt") == MIXED.decode().removeprefix("\ufeff").replace("\r\n", "\n")
    assert "" not in read_blocks(tmp_path / "a.txt")


@pytest.mark.parametrize("wrong", [b"\xff", b"\xf0\x9f\xa6", b"\xe6\xbc"], ids=["one", "three", "two"])
@pytest.mark.parametrize("at", range(len(MIXED) + 1))
def test_where_blocks_end_a_mistake_has_the_same_place(tmp_path, monkeypatch, at, wrong):
    data = MIXED[:at] + wrong + MIXED[at:]
    with pytest.raises(UnicodeDecodeError) as mistake:
        data.decode()
    place = mistake.value.start
    line = data.count(b"\n", 0, place) + 1
    expected = f"byte 0x{data[place]:02x} at offset {place} (line {line})"
    (tmp_path / "a.txt").write_bytes(data)
    for size in range(1, len(data) + 2):
        monkeypatch.setattr(text, "BLOCK", size)
        with pytest.raises(DataError, match=re.escape(expected)):
            read_text(tmp_path / "a.txt")


@pytest.mark.parametrize("size", [2, 3, 100])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xef\xbb\xbf", "is empty"),
        (b"\n\r\n\n\r\n", r"no character but '\\n'"),
        ("text".encode("utf-16"), r"at offset 0 \(line 1\).*iconv -f utf-16"),
    ],
)
def test_where_blocks_end_a_text_of_no_use_is_one(tmp_path, monkeypatch, size, data, message):
    (tmp_path / "a.txt").write_bytes(data)
    monkeypatch.setattr(text, "BLOCK", size)
    with pytest.raises(DataError, match=message):
        read_text(tmp_path / "a.txt")
