"""Weight decay is for matrices."""

import pytest
import torch
from torch import nn

from unrolled import InputError, Recurrent
from unrolled.cells import find
from unrolled.nn import decay_groups
from unrolled.nn.deep import Deep


def model() -> nn.Module:
    layer = Recurrent(find("lstm(peepholes=vector)"), 3, 4, learn_initial=True)
    return nn.ModuleDict({"layer": layer, "norm": nn.LayerNorm(4), "head": nn.Linear(4, 2)})


def test_matrices_decay_and_nothing_else_does() -> None:
    whole = model()
    decays, rest = decay_groups(whole, 0.1)
    names = {id(p): name for name, p in whole.named_parameters()}
    found = {names[id(p)] for p in decays["params"]}
    assert found == {f"layer.l0.{gate}.{source}" for gate in "figo" for source in "xh"} | {"head.weight"}
    assert found | {names[id(p)] for p in rest["params"]} == set(names.values())
    assert (decays["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)


@pytest.mark.parametrize("tied", [False, True])
def test_vectors_that_hold_all_layers_of_a_deep_network_do_not_decay(tied: bool) -> None:
    deep = Deep("residual", 3, 5, norm="batch", tied=tied)
    decays, rest = decay_groups(nn.Sequential(nn.Linear(2, 3), deep), 0.1)
    assert [tuple(p.shape) for p in decays["params"]] == [(3, 2), (3, 3) if tied else (5, 3, 3)]
    assert {id(p) for p in rest["params"]} >= {id(deep.layers.f.bias), id(deep.layers.f.gain)}


def test_an_optimiser_takes_them() -> None:
    whole = model()
    before = {name: p.detach().clone() for name, p in whole.named_parameters()}
    optimiser = torch.optim.SGD(decay_groups(whole, 0.5), lr=0.1)
    for parameter in whole.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    for name, p in whole.named_parameters():
        factor = 0.95 if p.ndim > 1 and "initial" not in name else 1.0
        assert torch.allclose(p, factor * before[name]), name


def test_what_does_not_learn_is_left_out() -> None:
    whole = model().requires_grad_(False)
    whole["head"].bias.requires_grad_(True)
    (group,) = decay_groups(whole, 0.1)
    assert group["params"] == [whole["head"].bias]
    with pytest.raises(InputError, match="at least 0, got -1"):
        decay_groups(whole, -1)
