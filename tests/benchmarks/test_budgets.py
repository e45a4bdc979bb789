"""What a process takes for an exact gradient stays within the budget."""

import json
import sys
from dataclasses import asdict

import pytest

from benchmarks.budgets import OVER, Side, one, one_layer
from benchmarks.child import child
from unrolled.unroll.policies import bytes_of


def taken(side: Side, steps: int) -> dict:
    return child("-m", "benchmarks.budgets", json.dumps(asdict(side)), steps, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="a peak can be begun anew on Linux only")
@pytest.mark.parametrize(
    "side", [Side(256, 16, 40, "25MB"), Side(128, 16, 10, "60MB"), Side(256, 16, 40, "40MB", layer=True)]
)
def test_a_process_takes_no_more_than_its_budget(side: Side) -> None:
    steps = 2000
    full = taken(Side(side.H, side.B, side.segment, layer=side.layer), steps)
    found = taken(side, steps)
    assert full["bytes"] > 2 * bytes_of(side.memory)
    assert found["bytes"] <= OVER * bytes_of(side.memory)
    assert found["norms"] == pytest.approx(full["norms"], rel=1e-5)


def test_a_gradient_is_the_same_on_both_sides() -> None:
    ours, torchs = (one(Side(8, 2, 5, ours=own), 20)["norms"] for own in (True, False))
    assert ours == pytest.approx(torchs, rel=1e-4)


def test_a_layer_has_its_gradient_in_a_budget() -> None:
    norms = [one_layer(Side(8, 2, 5, memory, layer=True), 40)["norms"] for memory in (None, "20KB")]
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)
