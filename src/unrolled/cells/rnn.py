"""The Elman network and its independent form.

    rnn        h_t = f(W_hx x_t + W_hh h_{t-1} + b_h)
    indrnn     h_t = f(W_hx x_t + u ⊙ h_{t-1} + b_h)

With `activation=maxout` (Goodfellow et al. 2013, arXiv:1302.4389) the two pieces of h have weights of their
own and no further nonlinearity.
"""

from typing import Literal

from torch import maximum, relu, sigmoid, tanh
from torch.nn.functional import softplus

from unrolled.cell import cell

POINTWISE = {"tanh": tanh, "relu": relu, "sigmoid": sigmoid, "softplus": softplus}

Activation = Literal["tanh", "relu", "sigmoid", "softplus", "maxout"]


@cell(states="h")
def rnn(x, h, W, *, activation: Activation = "tanh", identity: bool = False):
    """Simple recurrent network (Elman 1990, doi:10.1207/s15516709cog1402_1).

        h_t = tanh(W_hx x_t + W_hh h_{t-1} + b_h)

    `identity` starts the recurrent matrix as the identity; with `activation=relu` that is the IRNN of
    Le, Jaitly & Hinton 2015, arXiv:1504.00941.
    """
    init = {"h": "identity"} if identity else {}
    if activation == "maxout":
        return maximum(W.a(x, h, init=init), W.b(x, h, init=init))
    return POINTWISE[activation](W.h(x, h, init=init))


@cell(states="h")
def indrnn(x, h, W, *, activation: Literal["relu", "tanh", "sigmoid", "softplus"] = "relu"):
    """Independently recurrent network (Li et al. 2018, arXiv:1803.04831): every unit remembers only itself.

    h_t = relu(W_h x_t + u ⊙ h_{t-1} + b_h)
    """
    return POINTWISE[activation](W.h(x) + W.u * h)
