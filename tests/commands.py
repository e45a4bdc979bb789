"""The command line in tests: words in, and what a command left behind."""

import gzip
import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from unrolled import cli


class Result(NamedTuple):
    """What a command left behind."""

    status: int
    out: str
    err: str


Call = Callable[..., Result]


def caller(capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs the command line."""

    def run(*words: object) -> Result:
        capsys.readouterr()
        status = cli.run([str(word) for word in words])
        return Result(status, *capsys.readouterr())

    return run


def refused(result: Result) -> str:
    """The one line of a command that did nothing."""
    assert result.status == 2
    assert re.fullmatch(r"unrolled: [^\n]{10,}\n", result.err), result
    return result.err


def losses(name: str) -> list[float]:
    """Of every step of a run."""
    lines = (Path("runs") / name / "metrics.jsonl").read_text().splitlines()
    return [record["loss"] for record in map(json.loads, lines) if "loss" in record]


def write_idx(path: Path, array: np.ndarray) -> None:
    """A file of bytes in the IDX format, compressed where its name says so."""
    data = (
        struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype("u1").tobytes()
    )
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
