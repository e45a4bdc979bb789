"""What a training would take: shapes, parameters, memory and time, from a few steps that are thrown away."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as tree

from unrolled.compile.memory import resident
from unrolled.errors import check_sizes
from unrolled.train.loop import Plan, Trainer
from unrolled.unroll.meter import Meter
from unrolled.unroll.planner import duration
from unrolled.unroll.policies import amount

TIMED: Final = 5
"""Steps that are timed."""


@dataclass(frozen=True)
class Part:
    """A module that the model is made of, as it ran in a step.

    Attributes:
        name: in the model.
        kind: its class.
        reads, gives: the shapes of tensors, as text; empty if it was not called, as where a step is made
            without autograd.
        parameters: numbers that are learned in it.
    """

    name: str
    kind: str
    reads: str
    gives: str
    parameters: int


@dataclass(frozen=True)
class DryRun:
    """What was seen in a few steps.

    Attributes:
        parts: the modules of the model.
        weights: the shape of every parameter, by name.
        kept: bytes of parameters, gradients and what the optimiser keeps.
        working: bytes of tensors that one step had at once besides, at most.
        process: bytes of the whole process now, the data and the libraries among them.
        first: seconds of the first step, which compiles what is not compiled yet.
        step: seconds of a step, on average.
        evaluation: seconds of one measurement on what is held out.
        steps, evaluations: how many the training would make.
    """

    parts: tuple[Part, ...]
    weights: dict[str, tuple[int, ...]]
    kept: int
    working: int
    process: int
    first: float
    step: float
    evaluation: float
    steps: int
    evaluations: int

    @property
    def parameters(self) -> int:
        return sum(torch.Size(shape).numel() for shape in self.weights.values())

    @property
    def seconds(self) -> float:
        """Of the whole training."""
        return self.steps * self.step + self.evaluations * self.evaluation

    def __str__(self) -> str:
        rows = [("part", "kind", "reads", "gives", "parameters")]
        rows += [(p.name, p.kind, p.reads or "·", p.gives or "·", f"{p.parameters:,}") for p in self.parts]
        shapes = [(name, " x ".join(map(str, shape)) or "1") for name, shape in self.weights.items()]
        return "\n".join(
            [
                *_table(rows),
                "",
                *_table([("parameter", "shape"), *shapes]),
                "",
                f"parameters  {self.parameters:,}",
                f"memory      {amount(self.kept)} for parameters, their gradients and the optimiser, "
                f"{amount(self.working)} more in a step; the process has {amount(self.process)}",
                f"time        {duration(self.step)} a step (the first {duration(self.first)}), "
                f"{duration(self.evaluation)} a measurement: about {duration(self.seconds)} for "
                f"{self.steps:,} steps and {self.evaluations:,} measurements",
            ]
        )


def dry_run(trainer: Trainer, plan: Plan, timed: int = TIMED) -> DryRun:
    """Make a few steps and one measurement, and say what all of them would take.

    Steps are taken from all over the training, as batches differ. The model and the trainer are of no use
    afterwards; nothing is written.

    Args:
        timed: steps whose time is taken, behind a first one.

    Raises:
        DivergedError: a loss or a gradient is not finite.
    """
    check_sizes(timed=timed)
    model = trainer.task.model
    seen: dict[nn.Module, tuple[str, str]] = {}

    def look(module: nn.Module, given: Any, result: Any) -> None:
        seen.setdefault(module, (_shapes(given), _shapes(result)))

    began = time.perf_counter()
    trainer.advance()
    first = time.perf_counter() - began
    parts = [*model.named_children()]
    handles = [module.register_forward_hook(look) for _, module in parts]
    trainer.step = 0
    with Meter() as meter:
        trainer.advance()
    for handle in handles:
        handle.remove()
    times = []
    for k in range(timed):
        trainer.step = k * max(plan.steps - 1, 1) // timed
        began = time.perf_counter()
        trainer.advance()
        times.append(time.perf_counter() - began)
    began = time.perf_counter()
    trainer.task.evaluate()
    evaluation = time.perf_counter() - began
    every = plan.evaluate_every
    state = [value for each in trainer.optimiser.state.values() for value in each.values()]
    found = [
        Part(
            name,
            type(module).__name__,
            *seen.get(module, ("", "")),
            sum(p.numel() for p in module.parameters()),
        )
        for name, module in parts
    ]
    return DryRun(
        tuple(found),
        {name: tuple(value.shape) for name, value in model.named_parameters()},
        2 * trainer.whole.nbytes + sum(value.nbytes for value in state if isinstance(value, Tensor)),
        meter.peak,
        resident(),
        first,
        sum(times) / len(times),
        evaluation,
        plan.steps,
        len({0, plan.steps} | ({*range(0, plan.steps, every)} if every else set())),
    )


def _shapes(values: Any) -> str:
    return ", ".join(
        " x ".join(map(str, value.shape)) or "1"
        for value in tree.tree_leaves(values)
        if isinstance(value, Tensor)
    )


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Lines with columns as wide as what stands in them."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
