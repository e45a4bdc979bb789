"""Timing in turns, on a clock that only the sides move; and nothing is timed that is not the same."""

import pytest
import torch
from torch import Tensor

from benchmarks import paired
from benchmarks.family import GRID, Record, Settings
from benchmarks.paired import Comparison, MismatchError, compare, interleave, quartiles, refusal, same


class Clock:
    """Stands still unless a side works."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def perf_counter(self) -> float:
        return self.now


class Work:
    """A side that takes the given times, the last of them for ever, and computes one tensor."""

    def __init__(self, clock: Clock, name: str, seconds: list[float], value: float = 1.0) -> None:
        self.clock = clock
        self.name = name
        self.seconds = list(seconds)
        self.value = value

    def __call__(self) -> None:
        self.clock.calls.append(self.name)
        self.clock.now += self.seconds.pop(0) if len(self.seconds) > 1 else self.seconds[0]

    def tensors(self) -> dict[str, Tensor]:
        return {"y": torch.tensor([self.value, -2.0])}


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(paired, "time", clock)
    return clock


def test_sides_take_turns_and_every_second_turn_goes_the_other_way(clock):
    sides = [Work(clock, name, [2.0]) for name in "abc"]
    times = interleave(*sides, rounds=4)
    assert times == [(2.0,) * 4] * 3
    assert "".join(clock.calls).endswith("abc" + "cba" + "abc" + "cba")


def test_short_sides_are_repeated_and_get_more_turns(clock):
    """Five calls of 1 ms are a turn, or two of 2.5 ms; ten times the rounds are the most."""
    times = interleave(Work(clock, "a", [0.001]), Work(clock, "b", [0.0025]), rounds=3)
    assert [len(taken) for taken in times] == [30, 30]
    assert times[0][0] == pytest.approx(0.001)
    assert "".join(clock.calls).endswith("aaaaabb" + "bbaaaaa")


def test_long_cases_get_their_rounds_and_no_more(clock):
    times = interleave(Work(clock, "a", [0.4]), Work(clock, "b", [0.8]), rounds=10)
    assert [len(taken) for taken in times] == [10, 10]


def test_the_ratio_is_the_median_over_the_turns_of_peer_over_ours():
    record = Comparison((1.0, 2.0, 4.0), (3.0, 4.0, 10.0)).record("LSTM", GRID[0], 0.95)
    assert (record.low, record.figure, record.high) == (2.25, 2.5, 2.75)
    assert record.ours == (1.0, 2.0)
    assert record.peer == (3.0, 4.0)
    assert record.turns == 3
    assert record.note == ""


def test_a_machine_that_slows_down_slows_both(clock):
    slower = [0.1 * 1.3**k for k in range(20)]
    record = compare(
        "a", None, Work(clock, "a", slower), Work(clock, "b", [3 * s for s in slower]), Settings(10), None
    )
    assert record.figure == pytest.approx(3.0)
    assert record.high == pytest.approx(3.0)


def test_an_unsteady_measurement_says_so():
    assert "unsteady" in Comparison((1.0, 1.0, 1.0), (1.0, 2.0, 4.0)).record("a", None, None).note


def test_quartiles_of_one_value_are_that_value():
    assert quartiles([2.0]) == (2.0, 2.0, 2.0)
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 3.0, 4.0)


def test_sides_that_differ_are_run_once_and_not_timed(clock):
    ours, peer = Work(clock, "a", [1.0]), Work(clock, "b", [1.0], value=1.001)
    record = compare("LSTM", GRID[0], ours, peer, Settings(10), 0.95)
    assert record == Record("LSTM", size=GRID[0], bar=0.95, note="y differs by 5.0e-04", refused=True)
    assert clock.calls == ["a", "b"]


def test_sides_that_are_the_same_are_not_refused(clock):
    assert refusal("a", None, None, Work(clock, "a", [1.0]), Work(clock, "b", [1.0])) is None


@pytest.mark.parametrize(
    ("mine", "message"),
    [
        ({"y": torch.tensor([1.0, 2.0]), "d": torch.tensor([1.0, 0.999])}, "d differs by 1.0e-03"),
        ({"y": torch.tensor([1.0, torch.nan]), "d": torch.ones(2)}, "y differs by nan"),
        ({"y": torch.tensor([[1.0, 2.0]]), "d": torch.ones(2)}, r"y is \(1, 2\) and \(2,\)"),
        ({"y": torch.tensor([1.0, 2.0])}, r"one side has \['y'\], the other \['d', 'y'\]"),
    ],
)
def test_a_difference_is_named(mine, message):
    with pytest.raises(MismatchError, match=message):
        same(mine, {"y": torch.tensor([1.0, 2.0]), "d": torch.ones(2)})


def test_where_rounding_is_magnified_ours_may_be_as_far_from_exact_as_theirs(clock):
    """And no further than twice as far, nor further than 5 in a thousand."""

    def judge(mine: float, theirs: float) -> bool:
        try:
            same(
                {"y": torch.tensor([mine, -2.0])},
                {"y": torch.tensor([theirs, -2.0])},
                lambda: Work(clock, "exact", [0.0], value=1.0),
            )
        except MismatchError:
            return False
        return True

    assert judge(1.001, 0.999)
    assert not judge(1.003, 0.999)
    assert not judge(1.1, 0.9)
    clock.calls.clear()
    assert judge(1.00001, 1.0)
    assert not clock.calls, "the exact result is made only where it is needed"
