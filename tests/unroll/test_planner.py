"""What is planned is what happens."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from cases import one_line
from unrolled import LSTM, Checkpointed, Full, InputError, plan, through_time
from unrolled.errors import BudgetError
from unrolled.unroll.meter import Meter
from unrolled.unroll.policies import amount, bytes_of

N, H = 40, 16


def case() -> tuple[nn.Module, Callable, list[Tensor]]:
    torch.manual_seed(0)
    layer = LSTM(H, H)

    def step(x: Tensor, state: object) -> tuple[Tensor, object]:
        y, state = layer(x, state)
        return y.square().sum(), state

    return layer, step, list(torch.randn(N * 8, 4, H).split(8))


def test_a_meter_counts_what_is_there() -> None:
    a = torch.ones(100)
    with Meter() as meter:
        b = a + 1
        assert meter.now == meter.peak == 400
        c = b.view(10, 10).t()
        b.add_(1)
        assert meter.now == 400
        del b
        assert meter.now == 400
        d = torch.cat([a, a])
        del c, d
        assert (meter.now, meter.peak) == (0, 1200)


@pytest.mark.parametrize("memory", ["200KB", "400KB", "10MB"])
def test_memory_and_passes_are_as_planned(memory: str) -> None:
    layer, step, segments = case()
    policy = Checkpointed(memory=memory)
    planned = plan(step, segments[:6], bptt=policy, count=N)
    runs = []

    def counting(x: Tensor, state: object) -> tuple[Tensor, object]:
        runs.append(torch.is_grad_enabled())
        return step(x, state)

    with Meter() as meter:
        loss, _ = through_time(counting, segments, bptt=policy)
        loss.backward()
    assert sum(runs) == N + (planned.passes > 0)  # the first one is measured first
    assert len(runs) == N + planned.passes
    gradients = sum(p.nbytes for p in layer.parameters())
    assert planned.memory <= bytes_of(memory)
    assert abs(meter.peak - gradients - planned.memory) < 0.1 * planned.memory


class Counted(torch.autograd.Function):
    """The identity, whose way back is counted."""

    count = 0

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, d: Tensor) -> Tensor:
        Counted.count += 1
        return d


def test_what_a_segment_takes_is_measured_once() -> None:
    """A step that is used again costs no more than its gradient, and takes as little memory."""
    _, step, segments = case()
    policy = Checkpointed(memory="400KB")

    def counted(x: Tensor, state: object) -> tuple[Tensor, object]:
        loss, state = step(x, state)
        return Counted.apply(loss), state

    ways = []
    step(segments[0], None)  # what a layer makes for its first batch is there
    for given in (segments, segments, [s[:, :3].clone() for s in segments]):
        Counted.count = 0
        with Meter() as meter:
            through_time(counted, given, bptt=policy)[0].backward()
        assert meter.peak < 1.1 * bytes_of("400KB") + 20_000
        ways.append(Counted.count)
    assert ways == [N + 1, N, N + 1]


def test_a_plan_leaves_nothing_behind() -> None:
    layer, step, segments = case()
    before = torch.get_rng_state()
    text = str(plan(step, segments, bptt=Checkpointed(memory="300KB")))
    assert "40 segments, exact gradient in" in text
    assert torch.equal(before, torch.get_rng_state())
    assert all(p.grad is None for p in layer.parameters())


def test_what_is_said_to_be_needed_is_enough_and_no_less() -> None:
    _, step, segments = case()
    with pytest.raises(BudgetError) as caught:
        plan(step, segments, bptt=Checkpointed(memory=1))
    needed = bytes_of(one_line(caught.value).rpartition(" ")[2])
    plan(step, segments, bptt=Checkpointed(memory=needed))
    with pytest.raises(BudgetError):
        plan(step, segments, bptt=Checkpointed(memory=round(0.99 * needed) - 100))


def test_a_plan_is_for_a_budget() -> None:
    _, step, segments = case()
    for policy in (Full(), Checkpointed(every=3)):
        with pytest.raises(InputError, match=r"a plan is for Checkpointed\(memory"):
            plan(step, segments, bptt=policy)


@pytest.mark.parametrize(
    ("size", "text"),
    [(1, "1B"), (999, "999B"), (1001, "1.1KB"), (12_340_000, "12.4MB"), (10**13, "10TB")],
)
def test_amounts_are_rounded_up(size: int, text: str) -> None:
    assert amount(size) == text
    assert bytes_of(text) >= size
