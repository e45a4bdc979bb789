"""IDX files are read whole and right, or refused with what is wrong."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from idx_files import KINDS, as_idx

from unrolled.data import idx
from unrolled.data.idx import read_idx
from unrolled.errors import DataError


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(7,), (3, 4, 5), (2, 1, 3, 1), (0, 4)])
def test_every_kind_and_shape_comes_back(tmp_path, kind, shape, packed):
    array = (np.random.default_rng(0).random(shape) * 200 - (kind != "u1") * 100).astype(kind)
    path = tmp_path / "file"  # told by its bytes, not by its name
    path.write_bytes(gzip.compress(as_idx(array)) if packed else as_idx(array))
    np.testing.assert_array_equal(read_idx(path), array)


def damaged() -> dict[str, tuple[bytes, str]]:
    whole = as_idx(np.arange(24, dtype="u1").reshape(2, 3, 4))
    packed = gzip.compress(whole)
    return {
        "empty": (b"", "begins with nothing"),
        "three bytes": (whole[:3], "begins with 00 00 08, and should with 00 00"),
        "a png": (b"\x89PNG\r\n" + whole, "no IDX file: it begins with 89 50 4e 47"),
        "unknown kind": (b"\0\0\x0a\3" + whole[4:], "begins with 00 00 0a 03"),
        "no axes": (b"\0\0\x08\0" + whole[4:], "the number of axes"),
        "cut head": (whole[:10], "cut short in its head"),
        "cut": (
            whole[:-1],
            "announces 2 x 3 x 4 numbers of 1 bytes, and has 23 bytes of 24: it is cut short",
        ),
        "longer": (whole + b"\0", "goes on behind them"),
        "cut gzip": (packed[:-9], "no whole gzip file"),
        "broken gzip": (packed[:20] + b"\xff\xff\xff" + packed[23:], "no whole gzip file|is it damaged"),
        "gzip of a cut file": (gzip.compress(whole[:-5]), "has 19 bytes of 24"),
        "wrong checksum": (packed[:-8] + b"\0\0\0\0" + packed[-4:], "no whole gzip file"),
    }


@pytest.mark.parametrize("name", damaged())
def test_damaged_files_are_refused(tmp_path, name):
    data, said = damaged()[name]
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(DataError, match=said) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


def test_what_a_head_announces_takes_no_memory_unless_it_is_there(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"\0\0\x08\2" + struct.pack(">II", 2**31, 2**31))
    with pytest.raises(DataError, match="more than 8 GiB: is it damaged"):
        read_idx(path)
    path.write_bytes(b"\0\0\x08\1" + struct.pack(">I", 2**32 - 1) + b"abc")
    with pytest.raises(DataError, match=r"3 bytes of 4,294,967,295: it is cut short"):
        read_idx(path)
    monkeypatch.setattr(idx, "_PIECE", 5)
    path.write_bytes(as_idx(np.arange(23, dtype="i2")))
    np.testing.assert_array_equal(read_idx(path), np.arange(23))


def test_the_number_of_axes_is_checked(tmp_path):
    path = tmp_path / "labels"
    path.write_bytes(as_idx(np.zeros(4, "u1")))
    with pytest.raises(DataError, match=r"has 1 axes, expected 3: pictures are \(number, height, width\)"):
        read_idx(path, axes=3)
    assert read_idx(path, axes=1).shape == (4,)


def test_files_that_cannot_be_opened_are_named(tmp_path):
    for path, said in ((tmp_path / "nothing", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(DataError, match=said):
            read_idx(Path(path))
