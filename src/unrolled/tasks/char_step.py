"""Loss and gradients of a character model without autograd."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from unrolled.nn.direct import DirectStack
from unrolled.nn.stack import RecurrentStack


class CharStep:
    """A chunk of one size: the layers, the linear head, and the cross-entropy.

    Gradients go where each parameter's `grad` is when this is made.

    Args:
        T, B: the size of the chunk.
        scale: what the loss summed over all characters is multiplied by, for the gradients.
    """

    def __init__(self, stack: RecurrentStack, head: nn.Linear, T: int, B: int, scale: float) -> None:
        self.stack = DirectStack(stack, T, B)
        self.y, self.d_y = (each.view(T * B, -1) for each in (self.stack.y, self.stack.d_y))
        self.weight, self.bias = head.weight.detach(), head.bias.detach()
        self.d_weight, self.d_bias = head.weight.grad, head.bias.grad
        self.logits = self.y.new_zeros(T * B, head.out_features)
        self.d_logits = torch.zeros_like(self.logits)
        self.scale = scale
        self.minus = self.logits.new_full((T * B, 1), -scale)

    def __call__(
        self, inputs: Tensor, targets: Tensor, state: Mapping[str, Tensor] | None
    ) -> tuple[float, dict[str, Tensor]]:
        """Write every gradient; returns the cross-entropy in nats, summed, and the state after the chunk.

        Args:
            inputs, targets: tokens (T, B).
            state: by name, each (layers, B, H); None for the start.
        """
        self.stack.x.copy_(inputs)
        after = self.stack.forward(state)
        torch.addmm(self.bias, self.y, self.weight.t(), out=self.logits)
        torch.log_softmax(self.logits, 1, out=self.logits)
        wanted = targets.reshape(-1, 1)
        total = -self.logits.gather(1, wanted).sum().item()
        torch.exp(self.logits, out=self.d_logits)
        if self.scale != 1:
            self.d_logits.mul_(self.scale)
        self.d_logits.scatter_add_(1, wanted, self.minus)
        torch.mm(self.d_logits.t(), self.y, out=self.d_weight)
        torch.sum(self.d_logits, 0, out=self.d_bias)
        torch.mm(self.d_logits, self.weight, out=self.d_y)
        self.stack.backward()
        return total, after
