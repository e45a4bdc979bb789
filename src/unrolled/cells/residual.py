"""Residual and highway layers: cells that run through depth (`unrolled.nn.Deep`) and through time alike.

Through depth h is what one layer hands to the next, and there is no x. Through time a highway layer is a GRU
without its reset gate.
"""

from typing import Any, Literal

from torch import sigmoid

from unrolled.cell import cell
from unrolled.cells.rnn import Activation, activated
from unrolled.errors import CellError


@cell(states="h")
def residual(x, h, W, *, activation: Activation = "relu", products: Literal["one", "two"] = "one"):
    """Residual layer: what is learned is added to what is there.

        h ← relu(W_f [x, h]) + h

    `activation` is another function instead of relu. With `products=two` the branch ends in a matrix,
    W_g relu(W_f [x, h]), so that it can be of either sign.

    Source: He et al. 2015, arXiv:1512.03385.
    """
    f = activated(activation, W, "f", x, h)
    return (W.g(f=f) if products == "two" else f) + h


def passed(n: Any, b: Any, h: Any, c: Any = None) -> Any:
    """What a highway layer hands on: the new through its gate, and the old through a carry, or through what
    the gate leaves."""
    return n * b + h * (1 - b if c is None else c)


@cell(states="h")
def highway(x, h, W, *, activation: Activation = "tanh", coupled: bool = True, carry_bias: float = 0.0):
    """Highway layer: a gate lets the new through, another carries the old on.

        n = tanh(W_n [x, h]),  b = σ(W_b [x, h]),  c = 1 − b
        h ← n ⊙ b + h ⊙ c

    Without `coupled` the carry has a gate of its own, c = σ(W_c [x, h]). `carry_bias` is how far the carry is
    open at first: b's bias starts at minus it, and that of c at it. Through time it is a minimal gated
    recurrence.

    Source: Srivastava, Greff & Schmidhuber 2015, arXiv:1505.00387.
    """
    n = activated(activation, W, "n", x, h)
    b = sigmoid(W.b(x, h, bias=-carry_bias))
    return passed(n, b, h, None if coupled else sigmoid(W.c(x, h, bias=carry_bias)))


@cell(states="h")
def rhn(
    x, h, W, *,
    activation: Activation = "tanh", layers: int = 3, coupled: bool = True, carry_bias: float = 0.0,
):  # fmt: skip
    """Recurrent highway network: several highway layers inside a step, the first of which sees the input.

        n = tanh(W_n1 [x, h]),  b = σ(W_b1 [x, h]),  h ← n ⊙ b + h ⊙ (1 − b)
        n = tanh(W_n2 h),  b = σ(W_b2 h),  h ← n ⊙ b + h ⊙ (1 − b)
        and so on, `layers` times

    Options are those of a highway layer.

    Source: Zilly et al. 2017, arXiv:1607.03474.
    """
    if layers < 1:
        raise CellError(f"rhn(layers={layers}) has no layer: it takes a whole number from 1")
    for k in range(1, layers + 1):
        seen = (x,) if k == 1 else ()
        n = activated(activation, W, f"n{k}", *seen, h=h)
        b = sigmoid(W[f"b{k}"](*seen, h=h, bias=-carry_bias))
        h = passed(n, b, h, None if coupled else sigmoid(W[f"c{k}"](*seen, h=h, bias=carry_bias)))
    return h
