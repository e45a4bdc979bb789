"""Layers whose weights are known."""

import torch

from unrolled.nn.stack import RecurrentStack


def set_to(layer: RecurrentStack, **values: object) -> RecurrentStack:
    """A layer with parameters l0.NAME of these values, dots written as __, and all others 0."""
    with torch.no_grad():
        for tensor in layer.parameters():
            tensor.zero_()
        for name, value in values.items():
            target = layer.parameters_of("l0")[name.replace("__", ".")]
            target.copy_(torch.as_tensor(value, dtype=target.dtype))
    return layer
