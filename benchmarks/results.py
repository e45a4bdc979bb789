"""Results on disk: what was measured by family, each with the machine, the date and the versions."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import unrolled
from benchmarks.family import Record, Settings


@dataclass(frozen=True)
class Section:
    """The records of one family, and where and when they were made."""

    conditions: str
    records: tuple[Record, ...]


def conditions(settings: Settings) -> str:
    """The machine, the date and the versions, in one line."""
    jax = "".join(f", JAX {m.version}" for m in metadata.distributions(name="jax"))
    return (
        f"{processor()}, {os.cpu_count()} cores, {platform.system()}; {settings.threads} threads; "
        f"unrolled {unrolled.__version__}, torch {torch.__version__}{jax}, Python "
        f"{platform.python_version()}; {datetime.date.today()}; at least {settings.rounds} turns"
        + ", only a look (--quick)"
        * settings.quick
    )


def processor() -> str:
    """The processor's name."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    name = found[1].strip() if found else platform.processor() or "unknown processor"
    return f"{name} ({platform.machine()}, {torch.backends.cpu.get_cpu_capability()})"


def load(path: Path) -> dict[str, Section]:
    """The sections in a file, by family; none if there is no such file."""
    if not path.exists():
        return {}
    data: dict[str, Any] = json.loads(path.read_text())
    return {
        name: Section(section["conditions"], tuple(map(Record.from_json, section["records"])))
        for name, section in data.items()
    }


def save(path: Path, sections: Mapping[str, Section]) -> None:
    path.write_text(json.dumps({n: _plain(asdict(s)) for n, s in sections.items()}, indent=1) + "\n")


def _plain(value: Any) -> Any:
    """Numbers to five digits: what is below is noise."""
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value
