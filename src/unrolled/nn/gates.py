"""Where a module has the parameters of a cell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn


class Gates(nn.Module):
    """Parameters by gate."""

    def __repr__(self) -> str:
        return ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in self.named_parameters())


def by_gate(tensors: Mapping[str, nn.Parameter]) -> nn.Module:
    """A module whose parameter names are `gate.source`, or a learned vector's own."""
    module = Gates()
    for name, tensor in tensors.items():
        gate, _, source = name.partition(".")
        if source:
            if gate not in dict(module.named_children()):
                module.add_module(gate, nn.Module())
            module.get_submodule(gate).register_parameter(source, tensor)
        else:
            module.register_parameter(gate, tensor)
    return module


def parameters_by_gate(module: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """The parameters of these names in what `by_gate` made, as they are now."""
    found: dict[str, Tensor] = {}
    for name in names:
        gate, _, source = name.partition(".")
        found[name] = getattr(module.get_submodule(gate) if source else module, source or gate)
    return found
