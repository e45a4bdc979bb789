"""Split the state of a torch optimiser into tensors and JSON, and put it back exactly.

Works for any `torch.optim.Optimizer` whose state is made of tensors, numbers, strings, lists, tuples and
dictionaries: SGD, Adagrad, RMSprop, Adam, AdamW and LBFGS among them. What JSON lacks is written as an object
with one key: `{"tensor": name}`, `{"tuple": [...]}`, `{"dict": {...}}`, `{"float": "inf"}`.
"""

import math
from collections.abc import Mapping
from itertools import chain
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from unrolled.errors import CheckpointError
from unrolled.train.files import JSON


def optimizer_tensors(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, JSON]]:
    """Return the state of `optimizer` as tensors and as facts that JSON can hold.

    The tensors are named `optimizer.<parameter>.<entry>`, such as `optimizer.0.exp_avg`. They are the live
    ones, not copies: save them before the next step.

    Raises:
        CheckpointError: the state holds something that is neither a tensor nor JSON.
    """
    state = optimizer.state_dict()
    if strange := [key for key in state["state"] if not isinstance(key, int)]:
        raise CheckpointError(f"the optimiser keeps state under {strange[0]!r}, which is not a parameter")
    tensors: dict[str, Tensor] = {}
    facts: dict[str, JSON] = {
        "class": type(optimizer).__name__,
        "shapes": _shapes(optimizer),
        "groups": [
            _pack(group, f"optimizer.group{index}", tensors)
            for index, group in enumerate(state["param_groups"])
        ],
        "state": {
            str(index): _pack(entries, f"optimizer.{index}", tensors)
            for index, entries in state["state"].items()
        },
    }
    return tensors, facts


def restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Put back what `optimizer_tensors` returned; the next step is then the one not taken, bit for bit.

    `tensors` may hold others as well. They are copied to the devices of the parameters and keep their dtypes.

    Raises:
        CheckpointError: the state is of another kind of optimiser, of another number of parameters or
            other shapes, or a part of it is missing. The optimiser is then as it was.
    """
    if missing := [key for key in ("class", "shapes", "groups", "state") if key not in facts]:
        raise CheckpointError(f"the checkpoint holds no optimiser state: its facts lack {missing[0]!r}")
    _check_fit(optimizer, facts)
    groups = [_unpack(group, tensors) for group in facts["groups"]]
    state = {int(index): _unpack(entries, tensors) for index, entries in facts["state"].items()}
    for group, current in zip(groups, optimizer.param_groups, strict=True):
        for key, value in group.items():
            if isinstance(value, Tensor) and isinstance(current.get(key), Tensor):
                group[key] = value.to(current[key].device)
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, entries in state.items():
        held = optimizer.state[parameters[index]]
        for key, value in entries.items():
            if isinstance(value, Tensor):  # torch casts to the dtype of the parameter, which loses bits
                held[key] = value.to(held[key].device)


def _shapes(optimizer: Optimizer) -> list[list[list[int]]]:
    return [[list(parameter.shape) for parameter in group["params"]] for group in optimizer.param_groups]


def _check_fit(optimizer: Optimizer, facts: Mapping[str, Any]) -> None:
    kind = type(optimizer).__name__
    if facts["class"] != kind:
        raise CheckpointError(f"the optimiser state is of {facts['class']}, and this optimiser is {kind}")
    saved_groups, groups = facts["shapes"], _shapes(optimizer)
    saved_sizes, sizes = [len(group) for group in saved_groups], [len(group) for group in groups]
    if saved_sizes != sizes:
        raise CheckpointError(
            f"the optimiser state is of {_count(saved_sizes)}, and this optimiser has {_count(sizes)}"
        )
    pairs = zip(chain.from_iterable(saved_groups), chain.from_iterable(groups), strict=True)
    for index, (saved, shape) in enumerate(pairs):
        if saved != shape:
            raise CheckpointError(
                f"the optimiser state of parameter {index} is of shape {saved}, and the parameter has {shape}"
            )


def _count(sizes: list[int]) -> str:
    if len(sizes) == 1:
        return f"{sizes[0]} parameters"
    return f"{sum(sizes)} parameters in groups of {', '.join(map(str, sizes))}"


def _pack(value: object, name: str, tensors: dict[str, Tensor]) -> JSON:
    match value:
        case Tensor():
            tensors[name] = value.detach()
            return {"tensor": name}
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else {"float": str(value)}
        case list():
            return [_pack(entry, f"{name}.{index}", tensors) for index, entry in enumerate(value)]
        case tuple():
            return {"tuple": _pack(list(value), name, tensors)}
        case dict() if all(isinstance(key, str) for key in value):
            return {"dict": {key: _pack(entry, f"{name}.{key}", tensors) for key, entry in value.items()}}
    raise CheckpointError(f"{name} is a {type(value).__name__}, which a checkpoint cannot hold")


def _unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    match value:
        case {"tensor": name}:
            if name not in tensors:
                raise CheckpointError(f"the checkpoint holds no tensor {name!r}, which the optimiser needs")
            return tensors[name].clone()
        case {"float": text}:
            return float(text)
        case {"tuple": entries}:
            return tuple(_unpack(entry, tensors) for entry in entries)
        case {"dict": entries}:
            return {key: _unpack(entry, tensors) for key, entry in entries.items()}
        case list():
            return [_unpack(entry, tensors) for entry in value]
    return value
