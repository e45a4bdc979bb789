"""Optimisers by name, schedules and clipping."""

import math

import pytest
import torch

from unrolled import InputError
from unrolled.train.optimisers import OPTIMISERS, Clip, Schedule, make_optimiser


def test_the_norm_is_the_root_of_the_sum_of_squares_over_all_parameters() -> None:
    """The lecture's sum(grad * grad), without the root, is 25 here and would clip; the norm is 5."""
    gradients = [torch.tensor([3.0, 0.0]), torch.tensor([4.0])]
    assert Clip(norm=6.0)(gradients) == pytest.approx(5.0)
    assert [g.tolist() for g in gradients] == [[3.0, 0.0], [4.0]]


def test_clipping_by_norm_keeps_the_direction() -> None:
    gradients = [torch.tensor([3.0, 0.0]), torch.tensor([4.0])]
    assert Clip(norm=2.5)(gradients) == pytest.approx(5.0), "it returns the norm before clipping"
    assert gradients[0] == pytest.approx(torch.tensor([1.5, 0.0]), rel=1e-6)
    assert gradients[1] == pytest.approx(torch.tensor([2.0]), rel=1e-6)


def test_clipping_by_value_is_elementwise_and_comes_first() -> None:
    gradients = [torch.tensor([30.0, 0.1]), torch.tensor([-40.0])]
    Clip(value=5.0)(gradients)
    assert [g.tolist() for g in gradients] == [[5.0, pytest.approx(0.1)], [-5.0]]
    gradients = [torch.tensor([30.0]), torch.tensor([-40.0])]
    assert Clip(value=5.0, norm=1.0)(gradients) == pytest.approx(50.0)
    assert torch.cat(gradients) == pytest.approx(torch.tensor([1.0, -1.0]) / math.sqrt(2), rel=1e-6)


@pytest.mark.parametrize("limits", [{"norm": 0.0}, {"value": -1.0}, {"norm": math.nan}])
def test_a_limit_is_above_zero(limits: dict[str, float]) -> None:
    with pytest.raises(InputError, match="needs a limit above 0"):
        Clip(**limits)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_optimiser_goes_downhill(name: str) -> None:
    x = torch.tensor([3.0], requires_grad=True)
    optimiser = make_optimiser(name, [x], rate=0.1)
    (x**2).sum().backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    assert 0 < x.item() < 3.0
    assert optimiser.param_groups[0]["lr"] == 0.1


def test_options_are_those_of_torch() -> None:
    x = torch.zeros(1, requires_grad=True)
    group = make_optimiser("sgd(momentum=0.9, nesterov=true)", [x], 0.1).param_groups[0]
    assert (group["momentum"], group["nesterov"]) == (0.9, True)
    assert make_optimiser("adam(betas=0.8/0.95, eps=1e-6)", [x], 0.1).param_groups[0]["betas"] == (0.8, 0.95)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("adamm", "no optimiser 'adamm'; there are sgd, adagrad"),
        ("sgd(momentun=1)", "no option 'momentun'; it has momentum"),
        ("sgd(momentum=fast)", "cannot be 'fast'; it takes a number"),
        ("sgd(nesterov=2)", "it takes true or false"),
        ("adam(betas=0.9)", "two numbers as in 0.9/0.99"),
        ("sgd(momentum)", "cannot read 'sgd(momentum)'"),
        ("sgd(momentum=-1)", "Invalid momentum"),
    ],
)
def test_what_is_misspelt_is_named(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says.replace("(", r"\(").replace(")", r"\)")):
        make_optimiser(text, [torch.zeros(1, requires_grad=True)], 0.1)


def test_schedules_rise_and_fall_as_they_say() -> None:
    for kind, middle in (("constant", 1.0), ("linear", 0.5), ("cosine", 0.5)):
        rate = Schedule(2.0, kind, warmup=10, steps=110)
        assert [rate(0), rate(4), rate(9), rate(10)] == pytest.approx([0.2, 1.0, 2.0, 2.0])
        assert rate(60) == pytest.approx(2.0 * middle)
        assert rate(110) == pytest.approx(2.0 if kind == "constant" else 0.0)
    assert Schedule(1.0, "cosine", steps=100)(25) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    with pytest.raises(InputError, match="there are constant, linear, cosine"):
        Schedule(1.0, "step")
