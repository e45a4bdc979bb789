"""Every example learns what it says it learns, says so in print, and stays short."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[1] / "examples"
EXAMPLES = [
    FOLDER / f"{shape}.py"
    for shape in (
        "one_to_one", "one_to_many", "many_to_one", "many_to_many_in_step", "encoder_decoder", "translate",
        "sentiment", "tags", "frames", "caption", "vqa",
    )
]  # fmt: skip

pytestmark = pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"examples_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def promised(path: Path) -> float:
    """The accuracy that the module's docstring states."""
    found = re.search(r"at least (\d\.\d+)", " ".join((load(path).__doc__ or "").split()))
    assert found is not None
    return float(found[1])


def test_an_example_reaches_the_accuracy_that_it_states(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accuracy = load(path).main()
    printed = capsys.readouterr().out
    assert promised(path) >= 0.95
    assert accuracy >= promised(path)
    assert f"{accuracy:.3f}" in printed
    assert len(printed.splitlines()) >= 4


def test_an_example_needs_its_training_and_repeats_itself(path: Path) -> None:
    """Guards against an answer that leaks into the input, and against unseeded random numbers."""
    first, second = (load(path).main(steps=2) for _ in range(2))
    assert first < promised(path)
    assert first == second


def test_an_example_is_short_and_introduced(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 60
    assert f"python examples/{path.name}" in (load(path).__doc__ or "")
    assert f"python examples/{path.name}" in (FOLDER / "README.md").read_text(encoding="utf-8")
