"""`docs/lectures.md` names nothing that is not there, and leaves out no experiment."""

import importlib
import re
from pathlib import Path
from typing import Any

import click
import pytest
import typer

from unrolled import cli
from unrolled.cells import find as find_cell
from unrolled.lab import EXPERIMENTS

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "lectures.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in TEXT.splitlines()
    if line.startswith("| ") and line.count(" |") >= 4
]
NAMES = re.findall(r"`([^`]+)`", TEXT)
COMMANDS = sorted({name for name in NAMES if name.startswith("unrolled ")})
FUNCTIONS = sorted({name for name in NAMES if name.startswith("unrolled.")})
FILES = sorted({name for name in NAMES if name.endswith(".py")})
JUDGED = re.findall(r"`([a-z-]+)`: (holds if|holds|fails)", TEXT)


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that words lead to, and those that are left."""
    found: Any = typer.main.get_command(cli.app)
    while words and isinstance(found, click.Group | typer.core.TyperGroup) and words[0] in found.commands:
        found, words = found.commands[words[0]], words[1:]
    return found, words


def test_it_is_long_enough_to_be_what_it_says():
    assert len(ROWS) > 60
    assert len(COMMANDS) > 20
    assert len(FUNCTIONS) > 40
    assert len(FILES) >= 5


@pytest.mark.parametrize("name", COMMANDS)
def test_its_commands_are_there(name):
    found, words = command_of(name.split()[1:])
    assert not hasattr(found, "commands"), f"there is no command {name!r}"
    options = {flag for parameter in found.params for flag in parameter.opts}
    for word in words:
        assert not word.startswith("-") or word in options, f"{name!r} has no option {word!r}"
    if found.name in ("cells", "draw") and words and not words[0].startswith("-"):
        find_cell(words[0])
    if found.name == "lab" and words:
        assert words[0] in {*EXPERIMENTS, "all", "NAME"}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_its_functions_are_there(name):
    module, found = name, []
    while True:
        try:
            here = importlib.import_module(module)
            break
        except ModuleNotFoundError:
            module, _, last = module.rpartition(".")
            found.append(last)
    for last in reversed(found):
        here = getattr(here, last)


@pytest.mark.parametrize("name", FILES)
def test_its_files_are_there(name):
    assert (ROOT / name).is_file()


def test_its_experiments_are_those_there_are_with_their_verdicts():
    assert {name for name, _ in JUDGED} == EXPERIMENTS.keys()
    for name, kind in JUDGED:
        assert EXPERIMENTS[name].verdict.kind == kind, name


def test_every_name_in_its_tables_is_one_of_these():
    for row in ROWS:
        for name in re.findall(r"`([^`]+)`", " ".join(row[1:])):
            assert name in {*COMMANDS, *FUNCTIONS, *FILES, *EXPERIMENTS}, name


def test_each_experiment_stands_with_a_lecture_it_is_from():
    parts = re.split(r"^## ", TEXT, flags=re.MULTILINE)
    by_lecture = {key: part for part in parts for key in re.findall(r"\b00\d\b", part.splitlines()[0])}
    assert len(by_lecture) == 5
    for name, each in EXPERIMENTS.items():
        for lecture in each.lectures:
            assert f"`{name}`" in by_lecture[lecture], (name, lecture)


def test_the_readme_counts_them_rightly():
    for name in ("README.md", "CHANGELOG.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert re.findall(r"(\d+) (?:such )?claims", text) == [str(len(EXPERIMENTS))], name
