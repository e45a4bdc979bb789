"""Who looks on while the layers of a model run."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor

from unrolled.attend import Attended, Memory
from unrolled.cell import Cell
from unrolled.leaves import Leaves
from unrolled.rows import Rows


class Watchable(Protocol):
    """A module whose scans may be watched.

    Attributes:
        suffixes: the name of each of its layers and directions.
    """

    suffixes: tuple[str, ...]


class Watcher(Protocol):
    """Runs all layers in place of `unrolled.scan.scan` and `unrolled.attend.attend`, whose arguments and
    results it has."""

    def __call__(
        self,
        stack: Watchable,
        place: int,
        cell: Cell,
        x: Tensor,
        state: Mapping[str, Tensor] | None,
        parameters: Mapping[str, Tensor],
        *,
        rows: Rows | None,
        leaves: Leaves | None,
        returning: Sequence[str],
        reverse: bool,
        backend: str,
    ) -> tuple[Any, dict[str, Tensor]]: ...

    def attend(
        self,
        stack: Watchable,
        cell: Cell,
        x: Tensor,
        state: Mapping[str, Tensor],
        parameters: Mapping[str, Tensor],
        memory: Memory,
        *,
        last: Tensor | None,
        uniform: Tensor | None,
    ) -> Attended: ...


_local = threading.local()


def watcher() -> Watcher | None:
    """Who looks on in this thread."""
    return getattr(_local, "watcher", None)


@contextmanager
def watched(by: Watcher) -> Iterator[None]:
    """Inside, layers that this thread runs are run by somebody else, as a whole: their `bptt` is ignored."""
    before = watcher()
    _local.watcher = by
    try:
        yield
    finally:
        _local.watcher = before
