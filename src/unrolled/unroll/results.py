"""What comes out of a chain as autograd sees it: one function of inputs, parameters and the first state.

So hooks fire once, and what comes after the results may be anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from unrolled.unroll.chain import Chain
from unrolled.unroll.tape import tensors_of, with_tensors


class Run(Protocol):
    """A chain that has run forwards.

    Attributes:
        end: the state behind the last segment.
    """

    chain: Chain
    end: Any

    def back(self, d_outs: Sequence[Tensor | None], d_end: Sequence[Tensor | None]) -> list[Tensor | None]:
        """The gradients of inputs, leaves and the first state, from those of what came out and of `end`."""


def results_of(run: Run, leaves: Iterable[Tensor], start: Any) -> tuple[list[Tensor], Any]:
    """What came out of all segments, and the state behind the last, differentiable.

    Args:
        leaves: the parameters, in the order in which `run` gives their gradients.
        start: the state before the first segment.
    """
    given = *run.chain.inputs, *map(run.chain.behind, leaves), *tensors_of(start)
    results = _Results.apply(run, *given)  # type: ignore[no-untyped-call]
    outs = len(results) - len(tensors_of(run.end))
    return list(results[:outs]), with_tensors(run.end, results[outs:])


class _Results(Function):
    @staticmethod
    def forward(ctx: Any, run: Run, *given: Tensor) -> Any:
        ctx.run = run
        ctx.set_materialize_grads(False)
        # What is returned gets a history that holds the run, so the run may not hold it.
        outs = [t.detach() for t in run.chain.outs()]
        end = [t.clone() for t in tensors_of(run.end)]
        ctx.outs = len(outs)
        ctx.mark_non_differentiable(*(t for t in (*outs, *end) if not t.is_floating_point()))
        return (*outs, *end)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor | None) -> Any:
        return (None, *ctx.run.back(upstream[: ctx.outs], upstream[ctx.outs :]))
