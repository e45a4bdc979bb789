"""Schedules go back through every segment once, within the budget, with the fewest passes there can be."""

from functools import lru_cache
from math import comb

import pytest

from unrolled import InputError
from unrolled.unroll.schedule import Budget, Schedule


def replayed(schedule: Schedule) -> int:
    """Carry out a schedule on a chain that knows what it holds; returns how often segments were passed."""
    N, budget = schedule.segments, schedule.budget
    stored, taped, at, passed, gone_back = {0}, set(), 0, 0, []
    for action in schedule.actions():
        first, end = action.first, action.end
        if action.kind == "load":
            assert first in stored
            at = first
        elif action.kind == "pass":
            assert at == first < end
            at, passed = end, passed + end - first
        elif action.kind == "store":
            assert at == first
            stored.add(first)
        elif action.kind == "tape":
            assert at == first
            at, taped = end, taped | {*range(first, end)}
        else:
            assert taped == {*range(first, end)}
            gone_back += reversed(range(first, end))
            taped = set()
            stored.remove(first)
        assert budget.state * (len(stored - {0})) + budget.tape * len(taped) <= budget.memory
    assert gone_back == [*reversed(range(N))]
    assert not stored
    return passed


def fewest(segments: int, budget: Budget) -> float:
    """By trying everything: store a state somewhere, or keep the tape of the first segment."""

    @lru_cache(None)
    def best(n: int, free: int) -> float:
        if n * budget.tape <= free:
            return 0
        if budget.tape > free:
            return float("inf")
        stored = (y + best(n - y, free - budget.state) + best(y, free) for y in range(1, n))
        return min(best(n - 1, free - budget.tape), *stored)

    return best(segments, budget.memory)


@pytest.mark.parametrize("tape", [1, 2, 3, 5])
@pytest.mark.parametrize("state", [0, 1, 2, 3])
def test_a_schedule_has_the_fewest_passes_and_keeps_to_the_budget(state: int, tape: int) -> None:
    for segments in range(1, 15):
        for memory in range(1, 40):
            budget = Budget(memory, state, tape)
            expected = fewest(segments, budget)
            if expected == float("inf"):
                with pytest.raises(InputError, match="is too small: it takes"):
                    Schedule(segments, budget)
                continue
            schedule = Schedule(segments, budget)
            assert schedule.passes == replayed(schedule) == expected


@pytest.mark.parametrize("slots", [1, 2, 3, 7])
def test_where_one_tape_fits_it_is_binomial_checkpointing(slots: int) -> None:
    """Griewank & Walther's count: of comb(c + r, c) segments each is passed at most r times."""
    for segments in range(2, 60):
        times = next(r for r in range(segments) if comb(slots + r, slots) >= segments)
        schedule = Schedule(segments, Budget(2 * slots + 1, state=1, tape=slots + 1))
        assert replayed(schedule) == times * segments - comb(slots + times, slots + 1)


def test_the_square_root_rule() -> None:
    """With room for 2√N states or tapes no segment is passed twice; groups grow as states are let go of."""
    schedule = Schedule(100, Budget(9 * 10 + 10 * 10, state=10, tape=10))
    actions = [*schedule.actions()]
    assert schedule.passes == sum(a.end - a.first for a in actions if a.kind == "pass") <= 90
    passed = [s for a in actions if a.kind == "pass" for s in range(a.first, a.end)]
    assert len({*passed}) == len(passed)


def test_with_room_for_all_nothing_is_stored_or_passed() -> None:
    schedule = Schedule(1000, Budget(10**6, 10, 1000))
    assert [(a.kind, a.first, a.end) for a in schedule.actions()] == [("tape", 0, 1000), ("back", 0, 1000)]
