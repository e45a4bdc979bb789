"""Memory that is used again: a fresh page costs as much as computing on it."""

from __future__ import annotations

import ctypes
import math
import mmap
import sys
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

LARGE: Final = 1 << 20
"""Bytes from which the allocator would hand out fresh pages each time."""

LOOSE: Final = 2
"""How many times as large as what is asked for a block may be: batches of sequences differ in size."""

_malloc_trim: Final = (
    None if sys.platform == "win32" else getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
)
_scratch = threading.local()
_lock = threading.Lock()
_free: list[tuple[int, Any]] = []
_returned: deque[tuple[int, Any]] = deque()  # a collection of garbage may give back in the midst of all this
_use: dict[str, int] = {"now": 0, "most": 0, "free": 0}


def scratch(elements: int, dtype: torch.dtype) -> Tensor:
    """Uninitialised memory of this thread, until it asks for some again."""
    name = str(dtype)
    found: Tensor | None = getattr(_scratch, name, None)
    if found is None or found.numel() < elements:
        setattr(_scratch, name, None)
        raw = torch.from_numpy(_fresh(elements * dtype.itemsize))  # which no counter of tensors sees
        found = raw.view(dtype)
        setattr(_scratch, name, found)
    return found


def workspace(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Uninitialised memory, from a cache line's beginning; it is used again when nobody holds the tensor."""
    size = taken = math.prod(shape) * dtype.itemsize
    if size < LARGE or torch._C._len_torch_dispatch_stack():  # or a counter would not see it
        return torch.empty(shape, dtype=dtype, device="cpu")
    grain = 1 << (size.bit_length() - 6)  # at most a thirtieth more, so that nearly the same size is the same
    size = -(-size // grain) * grain
    with _lock:
        _take_back()
        fitting = [k for k, (free, _) in enumerate(_free) if size <= free <= LOOSE * size]
        if fitting:
            size, block = _free.pop(min(fitting, key=lambda k: (_free[k][0], -k)))
            _use["free"] -= size
        else:
            block = _fresh(size)
        _use["now"] += size
        _use["most"] = max(_use["now"], _use["most"])
        _drop()
    lease = block[:taken].view("f4" if dtype == torch.float32 else "f8").reshape(shape)
    weakref.finalize(lease, _returned.append, (size, block)).atexit = False
    return torch.from_numpy(lease)


def release() -> None:
    """Let go of memory that is kept to be used again."""
    with _lock:
        _take_back()
        _free.clear()
        _use["free"], _use["most"] = 0, _use["now"]


def trim() -> None:
    """Give the system back what is free between what is not, where it can be asked for."""
    if _malloc_trim is not None:
        _malloc_trim(0)


def resident() -> int:
    """The bytes of memory that this process holds; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE
    except OSError:
        return 0


def _fresh(size: int) -> Any:
    try:
        raw = np.empty(size + 64, dtype=np.uint8)
    except MemoryError:  # which torch says in its own words
        raw = torch.empty(size + 64, dtype=torch.uint8, device="cpu").numpy()
    begin = -raw.ctypes.data % 64
    return raw[begin : begin + size]


def _take_back() -> None:
    while _returned:
        size, block = _returned.popleft()
        _use["now"] -= size
        _free.append((size, block))
        _use["free"] += size
    _drop()


def _drop() -> None:
    """Keep what was in use at once, and no more; what was given back first goes first."""
    while _use["now"] + _use["free"] > _use["most"]:
        _use["free"] -= _free.pop(0)[0]
