"""Exact gradients of a next-character loss in a budget of memory: how much is taken, and how long it takes.

`python -m benchmarks.budgets SIDE STEPS THREADS` is one such process, with SIDE as JSON.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import unrolled
from benchmarks.child import ChildError, child
from benchmarks.family import Family, Record, Settings
from benchmarks.memory import agree, forget, peak
from benchmarks.paired import quartiles
from unrolled import Checkpointed, Full, plan, through_time
from unrolled.compile.memory import release, trim
from unrolled.unroll.planner import FEW
from unrolled.unroll.policies import Policy, bytes_of

WORDS = 65

TIMES = {"2GB": 1.25, "500MB": 1.35, "200MB": 1.4, "50MB": 1.75}
"""What is asked of the time in each budget, against that of keeping all tapes."""

PEERS = (("2GB", 1600, 1.25), ("500MB", 300, 1.15), ("200MB", 90, 1.15), ("2GB", 100, None))
"""Budgets of ours; torch's chunks, which take as much but for the last, the fastest; and what is asked of its
time against ours."""

OVER = 1.05
"""Of a budget, at most."""

APART = {"memory": 0.10, "time": 0.15}
"""How far what is planned may be from what is measured."""

LONG, MILLION = 10_000, 1_000_000
LONGEST = "1GB"
GROWTH = 1.4
"""Time a step, at most, against that of a sequence that fits."""


@dataclass(frozen=True)
class Side:
    """Who computes a gradient: ours in a budget, if there is one, or torch.

    H, B: units and rows; segment: steps of a segment, or of a chunk; layer: only a layer's gradient, from
    that of its outputs.
    """

    H: int
    B: int
    segment: int
    memory: str | None = None
    ours: bool = True
    layer: bool = False

    @property
    def bptt(self) -> Policy:
        return Full() if self.memory is None else Checkpointed(memory=self.memory)


WIDE, NARROW = Side(512, 32, 25), Side(256, 1, 250)
SEGMENT = 100
"""Ours beside torch's."""


class Model(nn.Module):
    """A character model over either LSTM."""

    def __init__(self, layer: Callable[[int, int], nn.Module], H: int) -> None:
        super().__init__()
        self.embedding, self.layer, self.head = nn.Embedding(WORDS, H), layer(H, H), nn.Linear(H, WORDS)

    def forward(self, chunk: tuple[Tensor, Tensor], state: Any) -> tuple[Tensor, Any]:
        tokens, targets = chunk
        y, state = self.layer(self.embedding(tokens), state)
        return F.cross_entropy(self.head(y).flatten(0, 1), targets.flatten(), reduction="sum"), state


def chunks(tokens: Tensor, length: int) -> list[tuple[Tensor, Tensor]]:
    return [*zip(tokens[:-1].split(length), tokens[1:].split(length), strict=True)]


def ours(model: Model, segments: Sequence[Any], side: Side) -> Tensor:
    """The loss through time in a budget, or with every tape."""
    return through_time(model, segments, None, bptt=side.bptt)[0]


def torchs(model: Model, segments: Sequence[Any], side: Side) -> Tensor:
    """The loss with torch's checkpoint around every chunk."""
    zero = torch.zeros(1, side.B, side.H)
    state, total = (zero, zero), torch.zeros(())
    for chunk in segments:
        loss, state = checkpoint(model, chunk, state, use_reentrant=False)
        total = total + loss
    return total


def one(side: Side, steps: int) -> dict[str, Any]:
    """A gradient in this process: its seconds, how far memory rises besides gradients, and its norms."""
    torch.manual_seed(0)
    model = Model(unrolled.LSTM if side.ours else nn.LSTM, side.H)
    for parameter in model.layer.parameters():
        nn.init.uniform_(parameter, -(side.H**-0.5), side.H**-0.5)
    tokens = torch.randint(WORDS, (steps + 1, side.B))
    segments = chunks(tokens, side.segment)
    few = chunks(tokens[: FEW * side.segment + 1], side.segment)
    loss = ours if side.ours else torchs
    loss(model, few[:2], replace(side, memory=None)).backward()  # kernels are compiled, threads started
    planned: dict[str, float] = {}
    if side.ours and side.memory:
        found = plan(model, few, None, bptt=side.bptt, count=-(-steps // side.segment))
        planned = {"planned_bytes": found.memory, "planned_seconds": found.seconds}
    return taken(model, lambda: loss(model, segments, side).backward()) | planned


def one_layer(side: Side, steps: int) -> dict[str, Any]:
    """The same for a layer: besides its inputs, its outputs, and the gradients of both."""
    torch.manual_seed(0)
    layer = unrolled.LSTM(side.H, side.H)
    x, d_y = torch.randn(2, steps, side.B, side.H)
    few = layer(x[: side.segment])[0]
    few.backward(torch.ones_like(few))
    del few
    x.requires_grad_()
    given: list[Tensor] = []

    def work() -> None:
        y, _ = layer(x, bptt=side.bptt)
        y.backward(d_y)
        given.extend([y, x.grad])

    found = taken(layer, work)
    return found | {"bytes": found["bytes"] - sum(t.nbytes for t in given)}


def taken(model: nn.Module, work: Callable[[], None]) -> dict[str, Any]:
    """What it takes to find the gradients of a model's parameters."""
    release()
    model.zero_grad(set_to_none=True)
    gc.collect()
    trim()  # so that what is taken from now on is seen
    forget()
    before, began = peak(), time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return {
        "bytes": peak() - before - sum(g.nbytes for g in gradients),
        "seconds": seconds,
        "norms": sorted(float(g.norm()) for g in gradients),
    }


def run(side: Side, steps: int, settings: Settings) -> dict[str, Any]:
    found: dict[str, Any] = child(
        "-m", "benchmarks.budgets", json.dumps(asdict(side)), steps, settings.threads
    )
    return found


def rounds(
    sides: Mapping[str, Side], steps: int, settings: Settings, least: int = 3
) -> dict[str, list[dict[str, Any]]]:
    """Every side in turn, some times.

    Raises:
        ChildError: one fails, or computes another gradient than the first.
    """
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for _ in range(min(least, settings.rounds)):
        for name, side in sides.items():
            found[name].append(run(side, steps, settings))
            first = next(iter(found.values()))[0]
            if not agree(found[name][-1]["norms"], first["norms"]):
                raise ChildError(f"{name} computes another gradient")
    return found


def record(subject: str, figures: list[float], bar: float | None, note: str = "") -> Record:
    low, median, high = quartiles(figures)
    return Record(subject, median, low, high, bar=bar, turns=len(figures), note=note)


def budgets(settings: Settings) -> Iterator[Record]:
    for layer, memories in ((False, [*TIMES]), (True, ["200MB"])):
        side = replace(WIDE, layer=layer)
        sides = {"full": side} | {memory: replace(side, memory=memory) for memory in memories}
        try:
            found = rounds(sides, 1000 if settings.quick else LONG, settings)
        except ChildError as error:
            yield Record("a fresh process", note=str(error), refused=True)
            continue
        full = found.pop("full")
        for memory, results in found.items():
            yield from records(memory, "a layer, " * layer + memory, results, full)


def records(
    memory: str, subject: str, results: list[dict[str, Any]], full: list[dict[str, Any]]
) -> Iterator[Record]:
    """Peaks and times in a budget, against those of keeping all tapes."""

    def medians(key: str, each: float = 1) -> tuple[str, str]:
        mine, all_tapes = (statistics.median(r[key] for r in side) / each for side in (results, full))
        return f"{mine:.3g}", f"{all_tapes:.3g}"

    note = "{} MB of {}".format(*medians("bytes", 1e6))
    yield record(f"{subject}: peak", [r["bytes"] / bytes_of(memory) for r in results], OVER, note)
    times = [mine["seconds"] / theirs["seconds"] for mine, theirs in zip(results, full, strict=True)]
    yield record(f"{subject}: time", times, TIMES[memory], "{} s of {}".format(*medians("seconds")))
    for what, key in (("memory", "bytes"), ("time", "seconds")):
        if f"planned_{key}" in results[0]:
            apart = [abs(r[f"planned_{key}"] / r[key] - 1) for r in results]
            yield record(f"{subject}: planned {what}, apart", apart, APART[what])


def peers(settings: Settings) -> Iterator[Record]:
    steps = 1000 if settings.quick else LONG
    for memory, chunk, bar in PEERS:
        mine = replace(WIDE, memory=memory, segment=SEGMENT)
        theirs = replace(WIDE, ours=False, segment=chunk)
        subject = f"{memory}, chunks of {chunk}"
        try:
            found = rounds({"ours": mine, "torch": theirs}, steps, settings)
        except ChildError as error:
            yield Record(subject, note=str(error), refused=True)
            continue
        pairs = [*zip(found["torch"], found["ours"], strict=True)]
        note = " and ".join(
            f"{statistics.median(r['bytes'] for r in results) / 1e6:.0f} MB" for results in found.values()
        )
        yield record(subject, [t["seconds"] / m["seconds"] for t, m in pairs], bar, note)


def million(settings: Settings) -> Iterator[Record]:
    lengths = [10**power for power in range(3, 5 if settings.quick else 7)]
    side, first = replace(NARROW, memory=LONGEST), 0.0
    for steps in lengths:
        try:
            results = rounds({"ours": side}, steps, settings, least=1 if steps == lengths[-1] else 3)["ours"]
        except ChildError as error:
            yield Record(f"T={steps:,}", note=str(error), refused=True)
            continue
        seconds = statistics.median(r["seconds"] for r in results)
        first = first or seconds / steps
        most = max(r["bytes"] for r in results)
        note = f"{seconds:.3g} s, {1e6 * seconds / steps:.1f} µs a step, {most / 1e6:.0f} MB"
        yield record(
            f"T={steps:,}: time a step", [r["seconds"] / steps / first for r in results], GROWTH, note
        )
        yield record(f"T={steps:,}: peak", [r["bytes"] / bytes_of(LONGEST) for r in results], OVER)


FAMILIES = (
    Family(
        "budgets",
        "An exact gradient in a budget of memory",
        budgets,
        unit="ratio",
        caption=f"A character model, LSTM of {WIDE.H} units, {WIDE.B} rows, {LONG:,} steps: embedding, LSTM, "
        f"head and loss go through time in segments of {WIDE.segment} steps, each case in fresh processes. "
        "Peak: how far resident memory rises, besides gradients, over the budget. Time: over that of keeping "
        "every tape. Planned: how far `unrolled.plan` is from what was measured then. A layer: the same LSTM "
        "alone, `layer(x, bptt=...)`, whose outputs, and gradients of inputs, are not counted either.",
    ),
    Family(
        "checkpoints",
        "Torch's checkpoint around chunks of nn.LSTM, against a budget of memory",
        peers,
        caption=f"The same model and loss as for budgets, in segments of {SEGMENT} steps, in a budget; "
        "beside it nn.LSTM in chunks, each in `torch.utils.checkpoint`, that take as much memory. Torch runs "
        "every chunk twice, and is no faster for more memory: the last row has it in the chunks that are "
        "its fastest, of whatever memory.",
    ),
    Family(
        "million",
        "Exact gradients through up to a million steps",
        million,
        unit="ratio",
        caption=f"A character model, LSTM of {NARROW.H} units, one row, in {LONGEST}. Time a step: over that "
        "of the shortest sequence, all of whose tapes fit; where they do not, a segment runs once more, "
        "which is a third more.",
    ),
)

if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[3]))
    side = Side(**json.loads(sys.argv[1]))
    print(json.dumps((one_layer if side.layer else one)(side, int(sys.argv[2]))))
