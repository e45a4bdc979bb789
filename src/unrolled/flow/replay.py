"""What a layer was called with in training, once more: a few rows and steps of it, in evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from unrolled.flow.trace import usual_losses
from unrolled.nn.deep import Deep
from unrolled.nn.stack import RecurrentStack

Call = tuple[tuple[Any, ...], Mapping[str, Any]]
"""Arguments by position and by name."""


class Remember:
    """A hook that keeps what layers were called with last in training, as it was given.

    Attributes:
        names: of the layers, by identity.
        calls: the last one of each, by its name.
    """

    def __init__(self, model: nn.Module) -> None:
        found = {name: m for name, m in model.named_modules() if isinstance(m, RecurrentStack | Deep)}
        self.names = {id(module): name for name, module in found.items()}
        self.layers = found
        self.calls: dict[str, Call] = {}

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if layer.training and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            name = self.names.get(id(layer))  # none of a shallow copy
            if name is not None:
                self.calls[name] = args, kwargs

    def __reduce__(self) -> Any:  # of a model that is copied, or saved as a whole
        return _hook_of_copies, ()


def _hook_of_copies() -> Any:
    return _nothing


def _nothing(*_: Any) -> None:
    """Does nothing."""


@dataclass(frozen=True)
class Given:
    """What a layer is given: x, lengths and resets in its layout, and the state by name; of a deep network A
    takes the place of x."""

    x: Tensor
    state: Mapping[str, Tensor] | None
    lengths: Tensor | None
    resets: Tensor | None


def given(layer: RecurrentStack | Deep, call: Call, rows: int, steps: int) -> Given:
    """The first rows and steps of a call; masks are left out, and so is what asks for more outputs."""
    args, options = call
    if isinstance(layer, Deep):
        A = args[0] if args else options["A"]
        state = args[1] if len(args) > 1 else options.get("state")
        A, *others = (
            v.detach()[:rows] if v.ndim == 2 else v.detach()[None] for v in (A, *(state or {}).values())
        )
        return Given(A.to(layer.dtype), dict(zip(state or {}, others, strict=True)) or None, None, None)
    x = args[0] if args else options["x"] if "x" in options else options["input"]
    state = args[1] if len(args) > 1 else options.get("state", options.get("hx"))
    lengths, resets = options.get("lengths"), options.get("resets")
    first = layer.batch_first
    with torch.no_grad():
        if isinstance(x, PackedSequence):
            x, lengths = pad_packed_sequence(x, batch_first=first)
        named = {} if state is None else dict(layer.by_name(state))
        if x.ndim == 2 - (not x.is_floating_point()):
            x = x.unsqueeze(0 if first else 1)
            named = {name: value.unsqueeze(1) for name, value in named.items()}

        def cut(value: Tensor) -> Tensor:
            return value[:rows, :steps] if first else value[:steps, :rows]

        def own(value: Tensor) -> Tensor:  # torch.autocast may have made something else of it
            return value.detach().to(layer.dtype) if value.is_floating_point() else value

        return Given(
            own(cut(x)),
            {name: own(value[:, :rows]) for name, value in named.items()} or None,
            None if lengths is None else torch.as_tensor(lengths)[:rows].clamp(max=steps),
            None if resets is None else cut(resets),
        )


def signed(layer: RecurrentStack | Deep, call: Given) -> Tensor:
    """The outputs of every step and sequence times random signs (T, B), or those of every row (B,)."""

    def outputs(_: None) -> Tensor:
        if isinstance(layer, Deep):
            deep: Tensor = layer(call.x, call.state)
            return deep
        y: Tensor = layer.run(call.x, call.state, lengths=call.lengths, resets=call.resets)[0]
        return y.transpose(0, 1) if layer.batch_first else y

    return usual_losses(cast(nn.Module, outputs), None)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Inside, a model is in evaluation; afterwards it and torch's random states are as they were."""
    # train() and eval() of a model may do more than this, such as merging weights.
    modes = [(module, module.training) for module in model.modules()]
    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(sorted(devices)):
        try:
            for module, _ in modes:
                module.training = False
            yield
        finally:
            for module, training in modes:
                module.training = training
