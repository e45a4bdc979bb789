import dataclasses
import errno
import hashlib
import os
import re
import tempfile
from pathlib import Path

import pytest
from archives import TEXT

from unrolled.data import SOURCES, Status, fetch, load, resolve_text, status
from unrolled.errors import DataError


def test_what_was_fetched_loads(parrot, cache):
    path = fetch("parrot")
    assert path == cache / "texts" / "parrot.txt"
    assert load("parrot") == TEXT
    assert os.listdir(path.parent) == ["parrot.txt"]


def test_fetching_again_does_nothing(parrot, cache, index):
    fetch("parrot")
    (index / parrot.release.filename).unlink()
    assert fetch("parrot").read_text() == TEXT


def test_a_local_archive_needs_no_pip_and_any_cache_folder_will_do(parrot, tmp_path, index, monkeypatch):
    monkeypatch.setattr("unrolled.data.library.download", None)
    renamed = (index / parrot.release.filename).rename(tmp_path / "download (1)")
    path = fetch("parrot", tmp_path / "elsewhere", archive=renamed)
    assert path == tmp_path / "elsewhere" / "texts" / "parrot.txt"
    assert load("parrot", tmp_path / "elsewhere") == TEXT


def test_an_archive_with_another_checksum_is_refused_and_nothing_kept(parrot, cache, tmp_path):
    (tmp_path / "other").write_bytes(b"other")
    found = hashlib.sha256(b"other").hexdigest()
    with pytest.raises(
        DataError, match=rf"sha256 is {found} and should be {parrot.release.sha256}\. Nothing was kept"
    ):
        fetch("parrot", archive=tmp_path / "other")
    assert not cache.exists()


def test_an_archive_that_gives_another_text_is_refused_and_nothing_kept(parrot, cache, index, monkeypatch):
    monkeypatch.setitem(SOURCES, "parrot", dataclasses.replace(parrot, extract=lambda members: b"other"))
    with pytest.raises(DataError, match="please report it"):
        fetch("parrot", archive=index / parrot.release.filename)
    assert not cache.exists()


def test_an_archive_that_cannot_be_read_is_refused(parrot, cache, tmp_path):
    for path, reason in ((tmp_path / "missing", "No such file"), (tmp_path, "directory")):
        with pytest.raises(DataError, match=rf"cannot be read \(.*{reason}"):
            fetch("parrot", archive=path)


def test_a_data_set_that_is_not_here_says_how_to_get_it(parrot, cache):
    message = "the data set parrot is not here yet: run `unrolled data fetch parrot`."
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        load("parrot")


def test_a_damaged_text_is_found_out_and_fetched_again(parrot, cache):
    path = fetch("parrot")
    path.write_text(TEXT[:-1])
    with pytest.raises(DataError, match="run `unrolled data fetch parrot` to get it again"):
        load("parrot")
    assert fetch("parrot") == path
    assert load("parrot") == TEXT


@pytest.mark.parametrize("call", [fetch, load])
def test_an_unknown_name_lists_the_known_ones(call, cache):
    with pytest.raises(DataError, match=r"'Sonets' \(did you mean 'sonnets'\?\): there are sonnets, shakesp"):
        call("Sonets")
    with pytest.raises(DataError, match="'zzz': there are sonnets, shakespeare, kjv"):
        call("zzz")


def test_a_cache_that_cannot_be_written_says_so(parrot, index, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    archive = index / parrot.release.filename
    with pytest.raises(DataError, match=r"file/texts/parrot\.txt cannot be written \(Not a directory\)"):
        fetch("parrot", tmp_path / "file", archive=archive)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"\(No space left on device\): make room .* set UNROLLED_CACHE"):
        fetch("parrot", tmp_path / "cache", archive=archive)
    assert os.listdir(tmp_path / "cache" / "texts") == []


def test_a_text_that_cannot_be_read_says_so(parrot, cache):
    (cache / "texts" / "parrot.txt").mkdir(parents=True)
    with pytest.raises(DataError, match=r"parrot\.txt cannot be read \(Is a directory\)"):
        load("parrot")


def test_no_temporary_folder_says_so(parrot, cache, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(cache / "missing"))
    with pytest.raises(DataError, match="set TMPDIR"):
        fetch("parrot")


def test_status_lists_every_data_set(parrot, cache):
    assert [row.source.name for row in status()] == list(SOURCES)
    assert {row.state for row in status()} == {"not fetched"}
    path = fetch("parrot")
    assert status()[-1] == Status(parrot, "here", path)
    path.write_text("")
    assert status()[-1].state == "damaged"


def test_a_file_and_a_data_set_are_told_apart(parrot, cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fetch("parrot")
    assert resolve_text("parrot") == ("parrot", TEXT)
    Path("parrot").mkdir()  # a folder is not a text: no ambiguity
    assert resolve_text("parrot") == ("parrot", TEXT)
    Path("parrot").rmdir()
    Path("parrot").write_text("another")
    with pytest.raises(DataError, match=r"both a file here and a data set: write \./parrot for the file"):
        resolve_text("parrot")
    assert resolve_text("./parrot") == ("parrot", "another")
    assert resolve_text(Path("parrot")) == ("parrot", "another")


def test_a_text_that_is_neither_says_both(cache, tmp_path):
    with pytest.raises(
        DataError, match=r"'sonets' is neither a file nor the name of a data set \(did you mean"
    ):
        resolve_text("sonets")
    with pytest.raises(DataError, match="neither a file nor"):
        resolve_text("a pasted text " * 1000)
    with pytest.raises(DataError, match="is a folder"):
        resolve_text(str(tmp_path))


def test_the_registry_is_pinned():
    for name, source in SOURCES.items():
        assert source.name == name
        release = source.release
        assert release.version in release.filename
        assert release.filename.startswith((release.package, release.package.replace("-", "_")))
        for checksum in (source.sha256, release.sha256):
            assert re.fullmatch("[0-9a-f]{64}", checksum)
        assert Path(source.kept).stem == name
    assert len({source.kept for source in SOURCES.values()}) == len(SOURCES)
