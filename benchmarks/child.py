"""A measurement in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import unrolled

ROOTS = (Path(__file__).parents[1], Path(unrolled.__file__).parents[1])
"""Where a child finds this package and the library that is measured here."""


class ChildError(Exception):
    """The process failed; the message is the last line of what it said."""


def child(*arguments: object, environment: Mapping[str, str] | None = None) -> Any:
    """What a Python process prints in its last line, as JSON; `arguments` are Python's.

    Raises:
        ChildError: it failed.
    """
    path = os.pathsep.join([*map(str, ROOTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": path} | dict(environment or {}),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise ChildError(said[-1] if said else f"exit status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])
