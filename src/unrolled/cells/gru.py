"""Gated recurrent units and smaller relatives.

Three published orders of the GRU exist. `gru` resets after the recurrent product, as cuDNN and
`torch.nn.GRU` do, so it needs one product a step; `gru_cho` and `gru_chung` multiply by the reset state,
which takes two. In `gru` and `gru_cho` z keeps the old state; in `gru_chung` it takes the new one.
"""

from torch import sigmoid, tanh

from unrolled.cell import cell


@cell(states="h")
def gru(x, h, W):
    """Gated recurrent unit, torch's form: reset after the product.

        r = σ(W_r [x, h]),  z = σ(W_z [x, h])
        n = tanh(W_n x + r ⊙ (W_m h))
        h ← (1 − z) ⊙ n + z ⊙ h

    Source: Cho et al. 2014, arXiv:1406.1078v1, and `torch.nn.GRU`.
    """
    r = sigmoid(W.r(x, h))
    z = sigmoid(W.z(x, h))
    n = tanh(W.n(x) + r * W.m(h))
    return (1 - z) * n + z * h


@cell(states="h")
def gru_cho(x, h, W):
    """Gated recurrent unit: reset before the product, z keeps the old state.

        r = σ(W_r [x, h]),  z = σ(W_z [x, h])
        n = tanh(W_n [x, r ⊙ h])
        h ← z ⊙ h + (1 − z) ⊙ n

    Source: Cho et al. 2014, arXiv:1406.1078v3.
    """
    r = sigmoid(W.r(x, h))
    z = sigmoid(W.z(x, h))
    n = tanh(W.n(x, h=r * h))
    return z * h + (1 - z) * n


@cell(states="h")
def gru_chung(x, h, W):
    """Gated recurrent unit: reset before the product, z takes the new state.

        r = σ(W_r [x, h]),  z = σ(W_z [x, h])
        n = tanh(W_n [x, r ⊙ h])
        h ← (1 − z) ⊙ h + z ⊙ n

    Source: Chung et al. 2014, arXiv:1412.3555.
    """
    r = sigmoid(W.r(x, h))
    z = sigmoid(W.z(x, h))
    n = tanh(W.n(x, h=r * h))
    return (1 - z) * h + z * n


@cell(states="h")
def mgu(x, h, W):
    """Minimal gated unit: one gate forgets and resets.

        f = σ(W_f [x, h])
        n = tanh(W_n [x, f ⊙ h])
        h ← (1 − f) ⊙ h + f ⊙ n

    Source: Zhou et al. 2016, arXiv:1603.09420.
    """
    f = sigmoid(W.f(x, h))
    n = tanh(W.n(x, h=f * h))
    return (1 - f) * h + f * n
