"""Whether there is memory for what is about to be made."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import torch

from unrolled.errors import BudgetError
from unrolled.unroll.policies import amount

SMALL: Final = 64 << 20
"""Bytes below which nobody asks: that takes longer than to find out."""

_GROUPS: Final = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)
"""Where Linux says what a container may take, takes, and could give back, in the second and the first version
of its interface."""


def available(device: torch.device) -> int | None:
    """The bytes that could be had on a device now; None where nobody says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    found = [size for size in (_of_machine(), *map(_of_group, _GROUPS)) if size is not None]
    return min(found, default=None)


def check_room(what: str, size: int, device: torch.device, remedy: str) -> None:
    """
    Args:
        what: needs it, in a few words.
        size: in bytes.
        remedy: what would take less, as a sentence ends.

    Raises:
        BudgetError: there is not so much memory; the message says how much there is.
    """
    if size < SMALL:
        return
    there = available(device)
    if there is not None and size > there:
        told = f"that takes {amount(size)}, and {amount(max(there, 0))} are available"
        raise BudgetError(f"not enough memory for {what}: {told}; {remedy}")


def _of_machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _of_group(files: tuple[str, str, str]) -> int | None:
    try:
        limit, taken, told = (Path(file).read_text() for file in files)
        facts = dict(line.split() for line in told.splitlines())
        back = int(facts.get("total_inactive_file", facts.get("inactive_file", 0)))
        return int(limit) - int(taken) + back
    except (OSError, ValueError):  # there is no container, or "max": no limit
        return None
