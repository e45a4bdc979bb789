"""States come back as they were, from memory and from a file."""

import pytest
import torch
from torch import Tensor

from cases import one_line
from unrolled.errors import BudgetError
from unrolled.unroll.stored import Stored


def state(number: int) -> dict[str, object]:
    torch.manual_seed(number)
    return {"h": torch.randn(2, 3), "c": (torch.randn(5).double(), torch.randint(9, (2,))), "n": number}


@pytest.mark.parametrize("folder", ["memory", "file"])
@pytest.mark.parametrize("draws", [False, True])
def test_states_come_back(folder: str, draws: bool, tmp_path: object) -> None:
    begun = torch.get_rng_state()
    stored = Stored(3, begun, str(tmp_path) if folder == "file" else None)
    generators: dict[int, Tensor] = {}
    for number in (1, 2, 3):
        if draws:
            torch.rand(number)
        generators[number] = torch.get_rng_state() if draws else begun
        stored.put(number, state(number), generators[number])
    stored.drop(2)
    stored.put(5, state(5), begun)
    for number in (5, 1, 3):
        found, random = stored.get(number)
        expected = state(number)
        assert torch.equal(found["h"], expected["h"])
        assert all(map(torch.equal, found["c"], expected["c"]))
        assert found["n"] == number
        assert torch.equal(random, generators.get(number, begun))


def test_one_that_is_changed_is_not_the_stored_one() -> None:
    stored = Stored(1, torch.get_rng_state())
    stored.put(1, torch.ones(3), torch.get_rng_state())
    stored.get(1)[0].zero_()
    assert torch.equal(stored.get(1)[0], torch.ones(3))


def test_a_disk_without_room(tmp_path: object) -> None:
    stored = Stored(1 << 40, torch.get_rng_state(), str(tmp_path))
    with pytest.raises(BudgetError) as caught:
        stored.put(1, torch.ones(1 << 14), torch.get_rng_state())
    assert "has no room for that" in one_line(caught.value)
