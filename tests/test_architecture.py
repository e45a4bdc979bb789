"""Imports go one way."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import unrolled

ROOT = Path(unrolled.__file__).parent

LAYERS = (
    "graph", "trace", "cell", "cells", "compile", "scan", "attend", "unroll",
    "nn", "convert", "flow", "train", "export", "tasks", "lab",
    "cli_settings", "cli_time", "cli_training",
    "cli_digits", "cli_labels", "cli_translate", "cli_caption", "cli_vqa", "cli_narx", "cli_units",
    "cli_flow", "cli_lab", "cli",
)  # fmt: skip
"""A part may import itself and what stands to its left, besides `errors`."""

VERSION = ""
"""`import unrolled`, for its `__version__`."""

APART = {
    "errors": set(),
    "data": {"errors", "folders"},
    "measures": {"errors"},
    "folders": {"errors"},
    "options": {"errors"},
    "parameters": set(),
    "leaves": {"graph"},
    "rewrite": {"errors", "graph", "cell"},
    "rows": {"errors"},
    "tracing": set(),
    "formula": {"errors", "graph"},
    "explanation": {"errors"},
    "report": {"errors", "graph", "cell", "formula", "records"},
    "records": {"errors"},
}
"""Parts outside that order, and all they may import."""

EXTRA = {
    "graph": {"tracing"},
    "cell": {"options", "explanation", "tracing"},
    "cells": {"options"},
    "compile": {"folders", "parameters", "formula", "explanation", "rows", "leaves", "tracing"},
    "scan": {"parameters", "rows", "leaves", "tracing"},
    "attend": {"rewrite", "tracing"},
    "nn": {"parameters", "rows", "leaves", "rewrite", "tracing"},
    "flow": {"parameters", "rows", "leaves", "rewrite", "report"},
    "train": {"options"},
    "export": {"leaves", VERSION},
    "lab": {"data", "report"},
    "tasks": {"data", "folders", "measures", "options", VERSION},
    "cli_settings": {"report"},
    "cli_time": {"data", "report"},
    "cli_digits": {"report"},
    "cli_labels": {"data", "report"},
    "cli_translate": {"data", "report"},
    "cli_caption": {"data", "report"},
    "cli_vqa": {"data", "report"},
    "cli_narx": {"data", "report"},
    "cli_units": {"data", "report"},
    "cli_flow": {"data"},
    "cli_lab": {"report", VERSION},
    "cli": APART.keys() | {VERSION},
    "__main__": {"cli"},
}
"""What a part may import besides."""

DEFERRED = {"cell": {"compile"}}
"""What a part may import inside a function, when that is called and everything has long been imported: a
cell's `explain` asks the compiler, which stands on cells."""


def part_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def files() -> Iterator[tuple[str, Path]]:
    """Every source file but the package's own, by part."""
    for path in sorted(ROOT.rglob("*.py")):
        inside = path.relative_to(ROOT)
        if inside != Path("__init__.py"):
            yield inside.parts[0].removesuffix(".py"), path


def imports_of(path: Path) -> Iterator[tuple[int, str, bool]]:
    """The parts of this package that a file imports, with the line, and whether that is in a function."""
    package = ["unrolled", *path.relative_to(ROOT).parent.parts]
    tree = ast.parse(path.read_text())
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    inside = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            modules = [f"{module}.{name.name}" for name in node.names] if module == "unrolled" else [module]
        else:
            continue
        for module in modules:
            if module == "unrolled" or module.startswith("unrolled."):
                yield node.lineno, part_of(module), id(node) in inside


def allowed(part: str) -> set[str]:
    assert part in (*LAYERS, *APART, *EXTRA), f"{part} has no place in the order: give it one here"
    before = LAYERS[: LAYERS.index(part) + 1] if part in LAYERS else (part,)
    return {"errors", *before} | APART.get(part, set()) | EXTRA.get(part, set())


@pytest.mark.parametrize(
    ("part", "path"), list(files()), ids=[str(path.relative_to(ROOT)) for _, path in files()]
)
def test_imports_go_one_way(part, path):
    later = DEFERRED.get(part, set())
    wrong = [
        f"{path}:{line} imports {found}"
        for line, found, deferred in imports_of(path)
        if found not in allowed(part) | (later if deferred else set())
    ]
    assert not wrong


def test_the_reader_of_imports_reads():
    found = {part: deferred for _, part, deferred in imports_of(ROOT / "cell.py")}
    assert found.items() >= dict.fromkeys(("errors", "graph", "options", "trace"), False).items()
    assert found["compile"]
    assert {part for _, part, _ in imports_of(ROOT / "cells" / "__init__.py")} >= {"cell", "cells"}


def test_public_names_are_there_and_in_order():
    assert len(set(unrolled.__all__)) == len(unrolled.__all__)
    for name in unrolled.__all__:
        assert getattr(unrolled, name) is not None
    assert len(unrolled.__all__) <= 25
