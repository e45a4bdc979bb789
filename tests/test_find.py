"""From the text of a command line to a cell."""

from pathlib import Path

import pytest
import torch

from cases import one_line
from unrolled import CellError, InputError, UnrolledError
from unrolled.cells import CELLS, VARIANTS, find, gru, lstm

MINE = """\
from dataclasses import dataclass
from torch import tanh
from unrolled import cell


@cell(states="h")
def mine(x, h, W, *, slope: float = 0.5):
    return tanh(W.a(x, h)) + slope * h


@cell(states="h")
def other(x, h, W):
    return tanh(W.a(x, h))


three = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mycells.py"
    path.write_text(MINE)
    return path


@pytest.mark.parametrize("name", CELLS)
def test_a_name_of_the_zoo(name):
    assert find(name) is CELLS[name]
    assert find(f"  {name} () ") is CELLS[name]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_a_cell_with_options(name):
    assert find(name).graph == find(VARIANTS[name]).graph
    assert find(name).base_name == VARIANTS[name].partition("(")[0]
    assert find(find(name).name).options == find(name).options


def test_options_in_brackets():
    found = find(" lstm ( peepholes = vector , forget_bias=1.5, coupled=true,) ")
    assert found.graph == lstm.with_options(peepholes="vector", forget_bias=1.5, coupled=True).graph


def test_a_variant_takes_further_options():
    assert (
        find("lstm_nog(forget_bias=2)").name == "lstm(forget_bias=2.0, peepholes=vector, output_gate=false)"
    )
    assert find("lstm_peephole(peepholes=none)").graph == lstm.graph


def test_a_file_of_ones_own(file):
    found = find(f"{file}:mine(slope=0.25)")
    assert found.name == "mine(slope=0.25)"
    h = torch.ones(1, 2)
    W = {"a.x": torch.zeros(2, 3), "a.h": torch.zeros(2, 2), "a.bias": torch.zeros(2)}
    assert torch.equal(found(torch.ones(1, 3), h, W), h / 4)
    assert find(f"{file}:other").options == {}


def test_a_path_with_brackets_and_blanks(tmp_path):
    folder = tmp_path / "my cells (1)"
    folder.mkdir()
    (folder / "mycells.py").write_text(MINE)
    assert find(f"{folder}/mycells.py:mine").name == "mine"
    assert find(f"{folder}/mycells.py:mine(slope=0.25)").name == "mine(slope=0.25)"


def test_a_file_with_a_dataclass_of_quoted_types(tmp_path):
    path = tmp_path / "mycells.py"
    extra = "\n@dataclass\nclass Sizes:\n    width: int = 3\n"
    path.write_text("from __future__ import annotations\n" + MINE + extra)
    assert find(f"{path}:mine").name == "mine"


def refused(text: str) -> str:
    with pytest.raises(CellError) as caught:
        find(text)
    return one_line(caught.value)


def test_a_near_miss_is_suggested():
    assert refused("lstn") == "no cell 'lstn': did you mean 'lstm'? (a cell of your own is FILE.py:NAME)"
    assert "did you mean 'lstm_peephole'?" in refused("lstm_peepholes(coupled=true)")


def test_a_far_miss_lists_all():
    message = refused("transformer")
    assert message.startswith("no cell 'transformer': there are rnn, indrnn, lstm")
    for name in (*CELLS, *VARIANTS):
        assert name in message


@pytest.mark.parametrize("text", ["(", "lstm)(", "lstm(a=1)b", "lstm(a=1", "lstm a=1"])
def test_what_is_no_cell_is_refused(text):
    with pytest.raises(UnrolledError) as caught:
        find(text)
    assert repr(text) in one_line(caught.value)


@pytest.mark.parametrize(
    "text", ["", "  ", "lstm(coupled)", "lstm(a=b=c)", "lstm(peepholes=vector; coupled=true)"]
)
def test_what_cannot_be_read_is_refused(text):
    with pytest.raises(InputError) as caught:
        find(text)
    assert f"cannot read {text!r}; write NAME or NAME(option=value" in one_line(caught.value)


def test_an_option_given_twice_is_refused():
    with pytest.raises(UnrolledError, match="coupled"):
        find("lstm(coupled=true, coupled=false)")


def test_an_unknown_option_or_value_is_refused():
    assert "cell 'lstm' has no option 'peephole'; its options: forget_bias, peepholes" in refused(
        "lstm(peephole=vector)"
    )
    assert refused("gru(bias=1)") == "cell 'gru' has no option 'bias'; it has none"
    assert refused("lstm(peepholes=all)") == (
        "option peepholes of cell 'lstm' cannot be 'all'; it takes none | vector | matrix"
    )
    assert refused("lstm(forget_bias=much)").endswith("cannot be 'much'; it takes a number")


def test_a_file_that_is_not_there(tmp_path):
    assert refused(f"{tmp_path}/none.py:mine") == (
        f"no file '{tmp_path}/none.py' to take the cell 'mine' from"
    )
    assert refused(f"{tmp_path}:mine").startswith("no file")


def test_a_file_that_is_not_python(tmp_path):
    (tmp_path / "mine.txt").write_text(MINE)
    assert "is not a Python file" in refused(f"{tmp_path}/mine.txt:mine")


@pytest.mark.parametrize(
    ("text", "kind"), [("import nothing_of_that_name", "ModuleNotFoundError"), ("def (", "SyntaxError"),
                       ("1 / 0", "ZeroDivisionError")],
)  # fmt: skip
def test_a_file_that_does_not_run(tmp_path, text, kind):
    (tmp_path / "mine.py").write_text(text)
    assert f"{tmp_path}/mine.py does not run: {kind}: " in refused(f"{tmp_path}/mine.py:mine")


def test_a_mistake_in_the_file_is_told_with_its_line(tmp_path):
    (tmp_path / "mine.py").write_text(MINE.replace("tanh(W.a(x, h)) + slope * h", "h @ W.a"))
    message = refused(f"{tmp_path}/mine.py:mine")
    assert message.startswith(f"cell 'mine', {tmp_path}/mine.py:8: a matrix is written W.name(h)")


def test_a_name_that_is_not_in_the_file(file):
    assert refused(f"{file}:yours") == f"{file} has no cell 'yours'; it has mine, other"
    assert refused(f"{file}:three").endswith("it has mine, other")
    file.write_text("three = 3\n")
    assert refused(f"{file}:three") == f"{file} has no cell 'three'; it has none (use @unrolled.cell)"


def test_the_zoo_is_complete():
    from unrolled import cells

    assert {name for name in cells.__all__ if name in CELLS} == CELLS.keys()
    assert all(CELLS[name] is getattr(cells, name) for name in CELLS)
    assert not CELLS.keys() & VARIANTS.keys()
    assert gru in CELLS.values()


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_of_the_zoo_is_documented_with_its_source(name):
    text = CELLS[name].__doc__
    assert any(year in text for year in map(str, range(1990, 2030)))
    assert "←" in text or "h_t =" in text
