"""An optimiser that was put back takes the steps it would have taken, bit for bit."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

from unrolled.errors import CheckpointError
from unrolled.train.checkpoint import load, save
from unrolled.train.optimiser_state import optimizer_tensors, restore_optimizer

MAKERS: dict[str, Callable[..., optim.Optimizer]] = {
    "SGD": partial(optim.SGD, lr=0.1),
    "SGD momentum": partial(optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
    "Adagrad": partial(optim.Adagrad, lr=0.1, initial_accumulator_value=0.1),
    "RMSprop": partial(optim.RMSprop, lr=0.01, momentum=0.5, centered=True),
    "Adam": partial(optim.Adam, lr=0.01, amsgrad=True),
    "AdamW": partial(optim.AdamW, lr=0.01, betas=(0.8, 0.99)),
    "AdamW tensor lr": lambda parameters: optim.AdamW(parameters, lr=torch.tensor(0.01), foreach=False),
    "LBFGS": partial(optim.LBFGS, max_iter=3, line_search_fn="strong_wolfe"),
}


@pytest.fixture(params=MAKERS, ids=lambda name: name.replace(" ", "-"))
def make(request: pytest.FixtureRequest) -> Callable[..., optim.Optimizer]:
    return MAKERS[request.param]


def net(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).to(dtype)


def train(model: nn.Module, optimizer: optim.Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))

        def loss(x: Tensor = x) -> float:
            optimizer.zero_grad()
            value = model(x.to(next(model.parameters()).dtype)).square().sum()
            value.backward()
            return float(value.detach())

        optimizer.step(loss)


def through_disk(optimizer: optim.Optimizer, folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, facts = optimizer_tensors(optimizer)
    found = load(save(folder, 1, tensors, facts))
    return found.tensors, found.facts


def same(a: Any, b: Any) -> bool:
    """Equal in type, dtype, shape and every bit, all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def test_resumed_equals_uninterrupted(make: Callable[..., optim.Optimizer], tmp_path: Path) -> None:
    whole = net()
    optimizer = make(whole.parameters())
    train(whole, optimizer, 0, 10)

    first = net()
    before = make(first.parameters())
    train(first, before, 0, 6)
    tensors, facts = through_disk(before, tmp_path)

    second = net()
    second.load_state_dict(first.state_dict())
    after = make(second.parameters())
    restore_optimizer(after, tensors, facts)
    assert same(after.state_dict(), before.state_dict())
    train(second, after, 6, 10)
    assert same(second.state_dict(), whole.state_dict())
    assert same(after.state_dict(), optimizer.state_dict())


def test_training_on_does_not_change_what_was_loaded(
    make: Callable[..., optim.Optimizer], tmp_path: Path
) -> None:
    model = net()
    optimizer = make(model.parameters())
    train(model, optimizer, 0, 2)
    tensors, facts = through_disk(optimizer, tmp_path)
    copies = {name: tensor.clone() for name, tensor in tensors.items()}
    restore_optimizer(optimizer, tensors, facts)
    train(model, optimizer, 2, 4)
    assert same(tensors, copies)


def test_names_say_parameter_and_entry() -> None:
    model = net()
    optimizer = optim.Adagrad(model.parameters())
    tensors, facts = optimizer_tensors(optimizer)
    assert list(tensors)[:4] == ["optimizer.0.step", "optimizer.0.sum", "optimizer.1.step", "optimizer.1.sum"]
    assert json.loads(json.dumps(facts)) == facts
    assert facts["class"] == "Adagrad"


def test_a_new_optimiser_has_no_tensors_and_can_be_put_back(tmp_path: Path) -> None:
    optimizer = optim.Adam(net().parameters())
    tensors, facts = through_disk(optimizer, tmp_path)
    assert tensors == {}
    restore_optimizer(optimizer, tensors, facts)
    assert optimizer.state_dict()["state"] == {}


def test_state_finer_than_its_parameter_keeps_its_dtype() -> None:
    model = net(torch.bfloat16)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    parameter = next(model.parameters())
    optimizer.state[parameter]["master"] = torch.full(parameter.shape, 1 + 2**-20)
    tensors, facts = optimizer_tensors(optimizer)
    other = optim.SGD(net(torch.bfloat16).parameters(), lr=0.1)
    restore_optimizer(other, tensors, facts)
    assert same(other.state_dict(), optimizer.state_dict())


def test_values_that_json_lacks_come_back(tmp_path: Path) -> None:
    optimizer = optim.SGD(net().parameters(), lr=0.1)
    odd = {"limit": float("inf"), "nested": {"pair": (1, [None, "s", torch.ones(2)])}, "on": True}
    optimizer.param_groups[0].update(odd)
    tensors, facts = through_disk(optimizer, tmp_path)
    optimizer.param_groups[0].update(limit=0.0, nested=None, on=None)
    restore_optimizer(optimizer, tensors, facts)
    assert same({key: optimizer.param_groups[0][key] for key in odd}, odd)


def test_a_tensor_of_a_group_goes_to_the_device_it_had(tmp_path: Path) -> None:
    optimizer = optim.Adam(net().parameters(), lr=torch.tensor(0.1), foreach=False)
    tensors, facts = through_disk(optimizer, tmp_path)
    optimizer.param_groups[0]["lr"] = torch.tensor(0.2, device="meta")
    restore_optimizer(optimizer, tensors, facts)
    assert optimizer.param_groups[0]["lr"].device.type == "meta"


@pytest.mark.parametrize("value", [object(), {1: 2}, {1, 2}])
def test_what_cannot_be_held_is_named(value: object) -> None:
    optimizer = optim.SGD(net().parameters(), lr=0.1)
    optimizer.param_groups[0]["odd"] = value
    with pytest.raises(CheckpointError, match=r"optimizer\.group0\.odd is a (object|dict|set)"):
        optimizer_tensors(optimizer)


def test_state_of_no_parameter_is_refused() -> None:
    optimizer = optim.SGD(net().parameters(), lr=0.1)
    optimizer.state["calls"] = 3  # type: ignore[index]
    with pytest.raises(CheckpointError, match="keeps state under 'calls'"):
        optimizer_tensors(optimizer)


def saved() -> tuple[dict[str, Tensor], dict[str, Any]]:
    model = net()
    optimizer = optim.Adam(model.parameters())
    train(model, optimizer, 0, 1)
    return optimizer_tensors(optimizer)


def refuses(optimizer: optim.Optimizer, tensors: Any, facts: Any, match: str) -> None:
    before = optimizer.state_dict()
    with pytest.raises(CheckpointError, match=match) as caught:
        restore_optimizer(optimizer, tensors, facts)
    assert "\n" not in str(caught.value)
    assert same(optimizer.state_dict(), before)


def test_state_that_does_not_fit_is_refused() -> None:
    tensors, facts = saved()
    refuses(optim.AdamW(net().parameters()), tensors, facts, "is of Adam, and this optimiser is AdamW")
    one = optim.Adam(net()[0].parameters())
    refuses(one, tensors, facts, "is of 4 parameters, and this optimiser has 2 parameters")
    weights, biases = list(net().parameters())[::2], list(net().parameters())[1::2]
    two = optim.Adam([{"params": weights}, {"params": biases}])
    refuses(two, tensors, facts, "is of 4 parameters, and this optimiser has 4 parameters in groups of 2, 2")
    wide = optim.Adam(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1)).parameters())
    refuses(wide, tensors, facts, r"parameter 2 is of shape \[2, 4\], and the parameter has \[1, 4\]")


def test_a_part_that_is_missing_is_named() -> None:
    tensors, facts = saved()
    optimizer = optim.Adam(net().parameters())
    refuses(optimizer, tensors, {}, "holds no optimiser state: its facts lack 'class'")
    del tensors["optimizer.1.exp_avg"]
    refuses(optimizer, tensors, facts, r"holds no tensor 'optimizer\.1\.exp_avg'")
