"""Which parameters weight decay is for."""

from __future__ import annotations

from typing import Any

from torch import nn

from unrolled.errors import InputError
from unrolled.nn.deep import Deep


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups for an optimiser of torch: matrices decay, biases, gains and other vectors do not, nor
    do learned initial states. Of a matrix under `WeightNorm` the directions decay, and the lengths do not.

    Args:
        model: any module; parameters that do not learn are left out.
        weight_decay: of the matrices.

    Returns:
        two groups, each with its `params` and `weight_decay`; one that is empty is left out.

    Raises:
        InputError: weight_decay is below 0.
    """
    if weight_decay < 0:
        raise InputError(f"weight_decay must be at least 0, got {weight_decay}")
    # Where a parameter holds all layers, the first axis is that of the layers.
    layered = {id(p) for m in model.modules() if isinstance(m, Deep) and not m.tied for p in m.parameters()}
    decays: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_state = "initial" in name.split(".")
            is_gain = name.endswith(".original0") and parameter.shape[-1] == 1
            is_matrix = parameter.ndim > 1 + (id(parameter) in layered)
            (decays if is_matrix and not (is_state or is_gain) else rest).append(parameter)
    groups = {"params": decays, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}
    return [group for group in groups if group["params"]]
