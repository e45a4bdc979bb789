import io
import re
import zipfile

import pytest
from archives import make_deb, make_sdist, make_wheel

from unrolled.data.archives import bundle, read_members
from unrolled.errors import DataError

FILES = {"p-1/a/x.txt": "é\n", "p-1/b/y.txt": "y", "p-1/a/x.py": "raise SystemExit"}


def make(path, kind):
    match kind:
        case "tgz":
            make_sdist(path, FILES)
        case "whl":
            make_wheel(path, FILES)
        case _:
            make_deb(path, FILES, kind.removeprefix("deb"))
    return path


@pytest.mark.parametrize("kind", ["tgz", "whl", "deb.xz", "deb.gz", "deb"])
def test_members_are_read_by_pattern_from_any_archive(tmp_path, kind):
    path = make(tmp_path / "any name", kind)
    root = "./" if kind.startswith("deb") else ""
    expected = {f"{root}p-1/a/x.txt": "é\n".encode(), f"{root}p-1/b/y.txt": b"y"}
    assert read_members(path, "*p-1/*/*.txt") == expected
    assert read_members(path, ("*a/x.txt", "*b/*")) == expected
    assert read_members(path, "none") == {}


@pytest.mark.parametrize("kind", ["tgz", "whl", "deb.xz", "deb.gz"])
def test_an_archive_that_is_cut_short_is_no_whole_one(tmp_path, kind):
    path = make(tmp_path / "a", kind)
    path.write_bytes(path.read_bytes()[:-120])
    with pytest.raises(DataError, match=r"/a (is no whole|cannot be read)") as caught:
        read_members(path, "*")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is no whole archive"),
        (b"not one", "cannot be read (Not a gzipped file"),
        (b"!<arch>\n", "is no whole Debian package: it has no data.tar"),
        (b"!<arch>\n" + b"x" * 60, "is no whole Debian package"),
    ],
)
def test_what_is_no_archive_is_refused(tmp_path, data, message):
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(DataError, match=re.escape(message)):
        read_members(tmp_path / "a", "*")


def test_a_debian_package_that_is_packed_otherwise_says_how(tmp_path):
    make_deb(tmp_path / "a.deb", FILES, ".zst")
    with pytest.raises(DataError, match=r"packed as data\.tar\.zst, which this library cannot read"):
        read_members(tmp_path / "a.deb", "*")


def test_a_bundle_is_the_same_bytes_for_the_same_files():
    data = bundle({"b": b"2", "a/c": b"1"})
    assert data == bundle({"a/c": b"1", "b": b"2"})
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        assert {name: file.read(name) for name in file.namelist()} == {"a/c": b"1", "b": b"2"}
        assert {entry.compress_type for entry in file.infolist()} == {zipfile.ZIP_STORED}
