"""What an exact gradient learns to remember over thousands of steps, in a budget of memory, and what one that
is truncated after a hundred does not.

Adding (Hochreiter & Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735): at each of T steps a number and a
mark; the answer behind the last is the sum of the two numbers that are marked. As there, the first mark is
among the first ten steps and the second in the first half, so T/2 steps or more lie between what is asked for
and the answer. Where marks may be anywhere, as in later papers, some sequences have one within reach of the
truncated gradient, and what it learns from those serves at every step. Numbers are from 0 to 1 as in Le et
al. 2015 (arXiv:1504.00941): who always answers 1 has a mean squared error of 1/6.

Copying (as in Arjovsky et al. 2016, arXiv:1511.06464): ten symbols of eight, T - 1 blanks, a cue, and ten
steps in which to name the symbols; at all steps before these the answer is a blank. The best without a memory
has a mean cross-entropy of 10 log 8 / (T + 20).

Both begin with chrono initialisation (Tallec & Ollivier 2018, arXiv:1804.11188), and all sequences are new in
every batch. Where gates see symbols through large weights, the layer lets in so much before it has learned
anything that the truncated gradient, too, learns to read some of it at the end; those of copying begin small.

`python -m benchmarks.long_memory PROBLEM THREADS UPDATES` measures the memory of some updates.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.child import ChildError, child
from benchmarks.family import MINUTE, Family, Record, Settings, Size
from benchmarks.memory import growth
from unrolled import Checkpointed, Recurrent, Truncated, through_time
from unrolled.nn import chrono_
from unrolled.nn.initialise import Initialiser
from unrolled.unroll.policies import Policy

MEGABYTES: Final = 300.0
MINUTES: Final = 20.0
LEARNED: Final = 0.06
"""Asked of the exact gradient: what is left of the baseline's error. Of adding that is 0.01."""
UNLEARNED: Final = 0.1
"""Asked of the truncated gradient: what is gained on the baseline."""
WRONG: Final = 0.01
"""Asked of copying: the symbols that are not those that were shown."""
POINTS: Final = 100
"""Of a curve."""

EXACT: Final = Checkpointed(memory="300MB")
TRUNCATED: Final = Truncated(k1=1, k2=1)
"""In segments."""

Batch = tuple[Tensor, Tensor]
"""What is seen at every step, and targets at the last ones."""

Segment = tuple[Tensor, Tensor, int]
"""What is seen, the targets at the end of it, and how many there are in the whole batch."""


class Adding(NamedTuple):
    """The sum of two numbers, T/2 to T steps later."""

    T: int

    name = "adding"
    inputs, answers = 2, 1
    baseline = 1 / 6

    def draw(self, B: int, generator: torch.Generator) -> Batch:
        """Numbers and marks (T, B, 2), and at the last step the sum of those that are marked (1, B)."""
        numbers, rows = torch.rand(self.T, B, generator=generator), torch.arange(B)
        first = torch.randint(10, (B,), generator=generator)
        second = torch.randint(self.T // 2 - 1, (B,), generator=generator)
        marks = torch.zeros(self.T, B)
        marks[first, rows] = marks[second + (second >= first), rows] = 1
        return torch.stack([numbers, marks], -1), (numbers * marks).sum(0, keepdim=True)

    @staticmethod
    def error(answers: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(answers[..., 0], targets, reduction="sum")


class Copying(NamedTuple):
    """Ten symbols, T steps later; 0 is the blank and 9 the cue."""

    T: int

    name = "copying"
    inputs, answers = 10, 9

    @property
    def baseline(self) -> float:
        return 10 * math.log(8) / (self.T + 20)

    def draw(self, B: int, generator: torch.Generator) -> Batch:
        """What is seen and what is to be answered, both (T + 20, B)."""
        shown = torch.randint(1, 9, (10, B), generator=generator)
        seen, targets = torch.zeros(2, self.T + 20, B, dtype=torch.long)
        seen[:10], seen[self.T + 9], targets[-10:] = shown, 9, shown
        return seen, targets

    @staticmethod
    def error(answers: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(answers.flatten(0, 1), targets.flatten(), reduction="sum")


@dataclass(frozen=True)
class Recipe:
    """A problem, and how it is learned.

    cell, init: of a layer of H units, besides chrono initialisation for T steps.
    segment: the steps that run at once for the exact gradient.
    reach: the steps that the truncated gradient goes back, which run at once for it.
    rate: Adam's, which goes to 0 in the last part (`decay`) of all updates.
    """

    problem: Adding | Copying
    cell: str
    H: int
    init: Mapping[str, Initialiser]
    segment: int
    reach: int
    updates: int
    rate: float
    decay: float
    B: int = 32
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = 1.0

    @property
    def size(self) -> Size:
        return Size(self.problem.T, self.B, self.problem.inputs, self.H)


RECIPES: Final = {
    "adding": Recipe(
        Adding(2000), "lstm", 64, {"*.x": "normal:1"}, segment=500, reach=100,
        updates=800, rate=0.01, decay=0.5,
    ),
    "copying": Recipe(
        Copying(1000), "gru", 128, {"n.x": "normal:1", "*.h": "orthogonal"}, segment=510, reach=102,
        updates=17000, rate=0.008, decay=0.7, B=16, betas=(0.9, 0.98),
    ),
}  # fmt: skip


class Learner(nn.Module):
    """A recurrent layer and its answers; called, it is a step of `through_time`."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe, self.problem = recipe, recipe.problem
        self.layer = Recurrent(recipe.cell, self.problem.inputs, recipe.H, init=recipe.init)
        chrono_(self.layer, self.problem.T)
        self.head = nn.Linear(recipe.H, self.problem.answers)
        self.left_out = 0
        # What the first symbols contribute at first is far smaller than the usual eps.
        self.optimiser = torch.optim.Adam(self.parameters(), recipe.rate, recipe.betas, eps=1e-12)

    def forward(self, segment: Segment, state: Any) -> tuple[Tensor, Any]:
        answers, state = self.answers(segment, state)
        _, targets, count = segment
        if not len(targets):  # nothing to go back through
            return answers.new_zeros(()), state
        return self.problem.error(answers, targets) / count, state

    def answers(self, segment: Segment, state: Any) -> tuple[Tensor, Any]:
        """Those at the steps that have targets, and the state behind."""
        seen, targets, _ = segment
        y, state = self.layer(seen, state)
        return self.head(y[len(seen) - len(targets) :]), state

    def segments(self, batch: Batch, size: int) -> list[Segment]:
        """What is seen and what is asked, in chunks of time."""
        seen, targets = batch
        before = len(seen) - len(targets)
        return [
            (seen[t : t + size], targets[max(0, t - before) : max(0, t + size - before)], targets.numel())
            for t in range(0, len(seen), size)
        ]

    def update(self, batch: Batch, bptt: Policy, done: float = 0.0) -> float:
        """Learn from a batch, when this part of all updates is done; the error before."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.rate * min(1.0, (1.0 - done) / self.recipe.decay)
        self.optimiser.zero_grad()
        size = self.recipe.reach if bptt == TRUNCATED else self.recipe.segment
        error, _ = through_time(self, self.segments(batch, size), None, bptt=bptt)
        error.backward()
        # Through a thousand steps a gradient may be more than a number can be; such a batch is left out.
        if nn.utils.clip_grad_norm_(self.parameters(), self.recipe.clip).isfinite():
            self.optimiser.step()
        else:
            self.left_out += 1
        return error.item()

    @torch.no_grad()
    def examined(self, batch: Batch) -> tuple[float, float]:
        """The error on a batch, and the part of the last ten symbols, if it is symbols, that are wrong."""
        error, state, wrong = 0.0, None, []
        for segment in self.segments(batch, self.recipe.reach):
            answers, state = self.answers(segment, state)
            _, targets, count = segment
            error += self.problem.error(answers, targets).item() / count
            wrong += [*(answers.argmax(-1) != targets).float().mean(1)]
        return error, float(sum(wrong[-10:])) / 10 if self.problem.name == "copying" else 0.0


class Training(NamedTuple):
    """What came of a training: errors against minutes, those on sequences that were drawn afterwards, and how
    many batches had a gradient that is not finite."""

    curve: tuple[tuple[float, float], ...]
    minutes: float
    error: float
    wrong: float
    left_out: int


def train(recipe: Recipe, bptt: Policy, seed: int = 0) -> Training:
    """All updates of a recipe; the same seed draws the same weights and the same batches."""
    torch.manual_seed(seed)
    learner, generator = Learner(recipe), torch.Generator().manual_seed(seed + 1)
    errors: list[float] = []
    curve: list[tuple[float, float]] = []
    began = time.perf_counter()
    for k in range(recipe.updates):
        errors.append(learner.update(recipe.problem.draw(recipe.B, generator), bptt, k / recipe.updates))
        if POINTS * (k + 1) // recipe.updates > len(curve):
            curve.append(((time.perf_counter() - began) / 60, sum(errors) / len(errors)))
            errors.clear()
    minutes = (time.perf_counter() - began) / 60
    error, wrong = learner.examined(recipe.problem.draw(1000, generator))
    return Training(tuple(curve), minutes, error, wrong, learner.left_out)


def memory(recipe: Recipe, updates: int) -> float:
    """The megabytes (of 10^6) by which the peak of this process rises in some updates, exactly."""

    def learn(recipe: Recipe, updates: int) -> None:
        generator = torch.Generator().manual_seed(1)
        batches = [recipe.problem.draw(recipe.B, generator) for _ in range(updates)]
        learner = Learner(recipe)
        for batch in batches:
            learner.update(batch, EXACT)

    learn(short(recipe), 2)  # kernels are compiled and threads started
    return growth(lambda: learn(recipe, updates)) / 1e6


def short(recipe: Recipe) -> Recipe:
    """The same for a look: over a twentieth of the time, a twentieth of the updates."""
    T = recipe.problem.T // 20
    return replace(
        recipe, problem=recipe.problem._replace(T=T), segment=20, reach=10, updates=recipe.updates // 20
    )


def measure(settings: Settings) -> Iterator[Record]:
    for name, recipe in RECIPES.items():
        chosen = short(recipe) if settings.quick else recipe
        for kind, bptt in (("exact", EXACT), ("truncated", TRUNCATED)):
            yield from records(f"{name}, {kind}", chosen, train(chosen, bptt), kind == "exact", settings)


def records(
    subject: str, recipe: Recipe, found: Training, exact: bool, settings: Settings
) -> Iterator[Record]:
    """What is asked of one training; in a quick look nothing is."""

    def record(figure: float, bar: float, note: str, **more: Any) -> Record:
        asked = None if settings.quick else bar
        return Record(subject, figure, figure, figure, recipe.size, asked, turns=1, note=note, **more)

    left = found.error / recipe.problem.baseline
    gained = max(0.0, 1 - left)
    told = f"{recipe.updates} updates of {recipe.cell}"
    curve = tuple((minutes, error / recipe.problem.baseline) for minutes, error in found.curve)
    said = f"error {found.error:.2g}, without a memory {recipe.problem.baseline:.2g}; {told}"
    said += f", {found.left_out} left out" * bool(found.left_out)
    if exact:
        yield record(left, LEARNED, said, curve=curve)
    else:
        yield record(gained, UNLEARNED, f"gained; {said}; back {recipe.reach} steps", curve=curve)
    if recipe.problem.name == "copying":
        bar = WRONG if exact else None
        yield replace(record(found.wrong, 0.0, "of the symbols wrong"), bar=None if settings.quick else bar)
    if exact:
        yield record(found.minutes, MINUTES, "training", unit=MINUTE)
        if settings.quick:
            return  # a child learns from whole sequences
        try:
            used = child("-m", __name__, recipe.problem.name, settings.threads, 3)
        except ChildError as error:
            yield Record(subject, size=recipe.size, bar=MEGABYTES, note=str(error), refused=True)
        else:
            yield record(used, MEGABYTES, "the rise of the peak in three updates", unit="MB")


FAMILIES = (
    Family(
        "long_memory",
        "Exact gradients over thousands of steps, against truncated ones",
        measure,
        unit="of the baseline",
        caption="Errors on new sequences, in parts of the error of the best that has no memory. Adding: two "
        "numbers among 2,000, the last of them a thousand steps or more before the answer. Copying: ten "
        "symbols, a thousand steps later. Both layers begin with chrono initialisation; with the exact "
        "gradient (`Checkpointed(memory='300MB')`) and with one that goes back 100 steps they start from the "
        "same weights and see the same batches as often. Asked of the exact one: at most 0.06 of the "
        "baseline's error, which for adding is a mean squared error of 0.01, 99% of the symbols, 20 minutes "
        "of training, and 300 MB by which the peak memory of a fresh process may rise; of the truncated one, "
        "that it gains no more than a tenth on the baseline.",
    ),
)

if __name__ == "__main__":
    name, threads, updates = sys.argv[1:]
    torch.set_num_threads(int(threads))
    print(json.dumps(memory(RECIPES[name], int(updates))))
