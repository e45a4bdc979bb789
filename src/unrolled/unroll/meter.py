"""How much memory tensors take while something runs."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils import _pytree as tree
from torch.utils._python_dispatch import TorchDispatchMode


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the memory of tensors that are made inside and still there.

        with Meter() as meter:
            y = layer(x)
        meter.now, meter.peak

    What an operation takes and gives back within itself is not seen.

    Attributes:
        now, peak: bytes.
    """

    takes_tensors_as_they_are = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or the first use would import torch's compiler, in 80 MB and a second

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        given = {t.untyped_storage()._cdata for t in _tensors((args, kwargs))}
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            if storage._cdata not in given and storage._cdata not in self._sizes:
                self._sizes[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                weakref.finalize(storage, self._gone, storage._cdata).atexit = False
        self.peak = max(self.now, self.peak)
        return result

    def _gone(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


def _tensors(values: Any) -> list[Tensor]:
    return [t for t in tree.tree_leaves(values) if isinstance(t, Tensor)]
