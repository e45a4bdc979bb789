"""A text in a file is the text in memory, and what goes wrong with its files is told."""

import errno
import functools
import hashlib
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from unrolled.data import EncodedText, Streams, Text, Vocabulary, encoded, held_out, open_text, split, text
from unrolled.data import cache as kept
from unrolled.errors import DataError, InputError

CHARACTERS = "".join(random.Random(0).choices("abc ß漢🦜\n", k=1000))


@pytest.fixture
def path(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that counts as a long one, read in small blocks."""
    monkeypatch.setattr(encoded, "IN_MEMORY", 0)
    monkeypatch.setattr(text, "BLOCK", 7)
    (tmp_path / "long.txt").write_bytes(b"\xef\xbb\xbf" + CHARACTERS.replace("\n", "\r\n").encode())
    return tmp_path / "long.txt"


def in_file(path: Path) -> EncodedText:
    ids = Text.open(path).encode()
    assert isinstance(ids, EncodedText)
    return ids


def in_memory() -> torch.Tensor:
    ids = Text.of(CHARACTERS).encode()
    assert isinstance(ids, torch.Tensor)
    return ids


def test_a_text_in_a_file_is_the_text_in_memory(path):
    for found in (Text.open(path), open_text(path)[1], Text.of(CHARACTERS)):
        assert len(found) == 1000
        assert found.sha256 == hashlib.sha256(CHARACTERS.encode()).hexdigest()
        assert found.vocabulary == Vocabulary.of(CHARACTERS)
    assert in_file(path).read().dtype == in_memory().dtype == torch.int64
    assert torch.equal(in_file(path).read(), in_memory())
    other = Vocabulary.of(CHARACTERS + "dàμ字🦝")
    assert torch.equal(Text.open(path).encode(other).read(), other.encode(CHARACTERS))


def test_a_short_file_is_kept_in_memory(path, monkeypatch):
    monkeypatch.setattr(encoded, "IN_MEMORY", path.stat().st_size)
    ids = Text.open(path).encode()
    assert isinstance(ids, torch.Tensor)
    assert torch.equal(ids, in_memory())


def test_a_piece_of_an_encoded_text_is_that_of_its_ids(path):
    ids, expected = in_file(path), in_memory()
    for a, b in ((None, None), (0, 0), (3, 900), (-7, None), (None, -1), (990, 2000), (5, 4), (2000, None)):
        assert torch.equal(ids[a:b].read(), expected[a:b]), (a, b)
        assert ids[a:b].shape == expected[a:b].shape
    assert torch.equal(ids[100:][50:-200][3:9].read(), expected[153:159])
    train, tail = split(ids, 0.25)
    assert [len(train), len(tail)] == [750, 250]
    assert torch.equal(tail.read(), split(expected, 0.25)[1])
    for part in (3, slice(0, 10, 2), slice(None, None, -1)):
        with pytest.raises(InputError, match="gives pieces such as"):
            ids[part]


@pytest.mark.parametrize(("batch", "steps"), [(1, 1), (1, 30), (4, 7), (33, 5), (999, 1)])
def test_streams_of_a_file_are_those_of_its_ids(path, batch, steps):
    ids, expected = in_file(path), in_memory()
    for (x, y), (a, b) in zip(Streams(ids, batch, steps), Streams(expected, batch, steps), strict=True):
        assert torch.equal(x, a)
        assert torch.equal(y, b)
        assert x.is_contiguous()
        assert y.is_contiguous()


@pytest.mark.parametrize(("N", "batch"), [(2, 1), (2, 5), (1000, 1), (1000, 27), (1000, 64), (50, 64)])
def test_what_is_held_out_in_a_file_is_what_is_in_its_ids(path, N, batch):
    ids, expected = in_file(path)[-N:], in_memory()[-N:]
    for (x, y, fresh), (a, b, new) in zip(held_out(ids, batch, 8), held_out(expected, batch, 8), strict=True):
        assert torch.equal(x, a)
        assert torch.equal(y, b)
        assert fresh == new


def test_chunks_of_a_file_are_checked_as_those_of_its_ids(path):
    with pytest.raises(DataError, match=r"has 1000 characters .* needs 1001"):
        Streams(in_file(path), 10, 100)
    with pytest.raises(InputError, match=r"shape \(250, 4\)"):
        Streams(in_file(path).columns(4), 1, 1)


@pytest.mark.parametrize(
    ("symbols", "size"), [(2, 1), (256, 1), (257, 2), (65_536, 2), (65_537, 4)], ids=lambda n: str(n)
)
def test_ids_take_the_fewest_bytes_that_hold_them(path, monkeypatch, symbols, size):
    """Surrogates are no characters, so 65,536 of them go beyond the first plane."""
    characters = "".join(chr(k) for k in range(14, symbols + 2062) if not 0xD800 <= k < 0xE000)[:symbols]
    path.write_text(characters + characters[0])
    monkeypatch.setattr(text, "BLOCK", 10_000)
    found = Text.open(path)
    assert len(found.vocabulary) == symbols
    ids, real, asked = found.encode(), os.pread, []
    monkeypatch.setattr(os, "pread", lambda *given: asked.append(given[1]) or real(*given))
    assert ids.read().tolist() == [*range(symbols), 0]
    assert asked[0] == (symbols + 1) * size


def test_ids_leave_nothing_behind(path, cache):
    before = os.listdir("/proc/self/fd")
    ids = in_file(path)
    part = ids[10:20]
    assert [*cache.iterdir()] == []
    shutil.rmtree(cache)
    path.unlink()
    del ids
    assert torch.equal(part.read(), in_memory()[10:20])
    del part
    assert os.listdir("/proc/self/fd") == before


def test_a_character_the_vocabulary_lacks_is_told_before_anything_is_written(path, cache):
    with pytest.raises(DataError, match=r"2 distinct characters .*: '漢', '🦜'"):
        Text.open(path).encode(Vocabulary("\n abcß"))
    assert not cache.exists()


# Bad input


@pytest.mark.parametrize(
    "after", ["a" + CHARACTERS, CHARACTERS[:-1], CHARACTERS[::-1], CHARACTERS[:-1] + "Z", "", "aa"], ids=repr
)
def test_a_file_that_changes_between_the_passes_is_told(path, after):
    found = Text.open(path)
    path.write_text(after)
    with pytest.raises(DataError, match=r"long\.txt (changed while it was read|is empty|has no character)"):
        found.encode()


def test_a_file_that_vanishes_between_the_passes_is_told(path):
    found = Text.open(path)
    path.unlink()
    with pytest.raises(DataError, match=r"long\.txt does not exist"):
        found.encode()


def test_a_long_file_that_cannot_be_used_says_why(path):
    for data, message in (
        (CHARACTERS.encode() + b"\xe9", rf"0xe9 at offset {len(CHARACTERS.encode())} \(line "),
        (b"\r\n" * 40, r"no character but '\\n'"),
    ):
        path.write_bytes(data)
        with pytest.raises(DataError, match=message):
            Text.open(path)


def test_a_cache_that_refuses_says_so(path, cache, monkeypatch):
    found = Text.open(path)
    cache.write_text("")
    with pytest.raises(DataError, match=r"cache cannot be written \(File exists\): .* set UNROLLED_CACHE"):
        found.encode()
    cache.unlink()
    full = functools.partial(open, "/dev/full", "r+b")
    monkeypatch.setattr(encoded.tempfile, "TemporaryFile", lambda dir, buffering: full(buffering=buffering))
    with pytest.raises(DataError, match=r"cache cannot be written \(No space left on device\): make room"):
        found.encode()


def test_a_disk_that_fails_while_ids_are_read_is_told(path, monkeypatch):
    ids = in_file(path)

    def fail(*_: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(DataError, match=r"cannot be read \(Input/output error\)"):
        ids.read()


def test_a_read_that_comes_in_parts_is_joined(path, monkeypatch):
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda number, size, start: real(number, min(size, 3), start))
    assert torch.equal(in_file(path)[100:].columns(4).read(), in_memory()[100:997].unfold(0, 225, 224).t())


def test_the_error_of_the_cache_names_the_path():
    error = kept.cannot_write(Path("x/y"), OSError(errno.EROFS, "Read-only file system"))
    assert str(error).startswith("x/y cannot be written (Read-only file system): ")


def test_code_points_beyond_the_first_plane_and_lone_surrogates_are_numbers():
    for characters in ("", "ab", "a漢", "a🦜", "\udcff", "\ud83d\udd00"):
        assert np.array_equal(encoded.code_points(characters), [ord(c) for c in characters])
