"""The Elman network and its independent form.

W [x, h] in a docstring stands for one matrix for each argument and a bias. With `activation=maxout`
(Goodfellow et al. 2013, arXiv:1302.4389) the two pieces have weights of their own.
"""

from typing import Any, Literal

from torch import maximum, relu, sigmoid, tanh
from torch.nn.functional import softplus

from unrolled.cell import cell

POINTWISE = {"tanh": tanh, "relu": relu, "sigmoid": sigmoid, "softplus": softplus}

Activation = Literal["tanh", "relu", "sigmoid", "softplus", "maxout"]


def activated(activation: Activation, W: Any, name: str, *values: Any, **options: Any) -> Any:
    """f(W_name [values]); with maxout the larger of two such maps, `name1` and `name2`."""
    if activation == "maxout":
        return maximum(W[f"{name}1"](*values, **options), W[f"{name}2"](*values, **options))
    return POINTWISE[activation](W[name](*values, **options))


@cell(states="h")
def rnn(x, h, W, *, activation: Activation = "tanh", identity: bool = False):
    """Simple recurrent network.

        h ← tanh(W_h [x, h])

    `activation` is another function instead of tanh; maxout takes the larger of two affine maps. `identity`
    starts the recurrent matrix as the identity: with relu that is the IRNN of Le, Jaitly & Hinton.

    Source: Elman 1990, doi:10.1207/s15516709cog1402_1; Le, Jaitly & Hinton 2015, arXiv:1504.00941.
    """
    return activated(activation, W, "h", x, h, init={"h": "identity"} if identity else {})


@cell(states="h")
def indrnn(x, h, W, *, activation: Literal["relu", "tanh", "sigmoid", "softplus"] = "relu"):
    """Independently recurrent network: a unit remembers only itself.

        h ← relu(W_h x + u ⊙ h)

    Source: Li et al. 2018, arXiv:1803.04831.
    """
    return POINTWISE[activation](W.h(x) + W.u * h)
