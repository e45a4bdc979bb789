import sys
from pathlib import Path

import pytest

from unrolled.data import cache_folder
from unrolled.errors import DataError


@pytest.fixture(autouse=True)
def bare(monkeypatch, tmp_path):
    for name in ("UNROLLED_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: Path("/home/me"))


@pytest.mark.parametrize(
    ("platform", "variables", "folder"),
    [
        ("linux", {}, "/home/me/.cache/unrolled"),
        ("darwin", {}, "/home/me/Library/Caches/unrolled"),
        ("win32", {}, "/home/me/AppData/Local/unrolled"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/unrolled"),
        ("linux", {"LOCALAPPDATA": "/local"}, "/home/me/.cache/unrolled"),
        ("linux", {"XDG_CACHE_HOME": "/xdg"}, "/xdg/unrolled"),
        ("darwin", {"XDG_CACHE_HOME": "/xdg"}, "/xdg/unrolled"),
        ("linux", {"XDG_CACHE_HOME": "/xdg", "UNROLLED_CACHE": "/mine"}, "/mine"),
        ("linux", {"XDG_CACHE_HOME": "", "UNROLLED_CACHE": ""}, "/home/me/.cache/unrolled"),
    ],
)
def test_the_folder_follows_the_system_and_the_users_wish(monkeypatch, platform, variables, folder):
    monkeypatch.setattr(sys, "platform", platform)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(folder)


def test_a_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("UNROLLED_CACHE", "~/data")
    monkeypatch.setenv("HOME", "/home/you")
    assert cache_folder() == Path("/home/you/data")


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(DataError, match="set UNROLLED_CACHE"):
        cache_folder()
