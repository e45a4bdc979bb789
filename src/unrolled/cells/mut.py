"""The three best mutants of Jozefowicz, Zaremba & Sutskever 2015 ("An Empirical Exploration of Recurrent
Network Architectures", ICML).

MUT1 and MUT2 add x to a hidden vector. Where D != H, x enters through a projection of its own, v = W_v x
without bias; where D = H it is x itself, as printed.
"""

from torch import sigmoid, tanh

from unrolled.cell import cell, fit


@cell(states="h")
def mut1(x, h, W):
    """MUT1, a mutant of the GRU: the update gate sees x alone.

        z = σ(W_z x)
        r = σ(W_r [x, h])
        n = tanh(W_n (r ⊙ h) + tanh(v))
        h ← n ⊙ z + h ⊙ (1 − z)

    v is x where D = H, and its projection where D != H.

    Source: Jozefowicz, Zaremba & Sutskever 2015, ICML.
    """
    v = fit(W.v, x, like=h)
    z = sigmoid(W.z(x))
    r = sigmoid(W.r(x, h))
    n = tanh(W.n(h=r * h) + tanh(v))
    return n * z + h * (1 - z)


@cell(states="h")
def mut2(x, h, W):
    """MUT2, a mutant of the GRU: the reset gate adds x itself.

        z = σ(W_z [x, h])
        r = σ(v + W_r h)
        n = tanh(W_n [x, r ⊙ h])
        h ← n ⊙ z + h ⊙ (1 − z)

    v is x where D = H, and its projection where D != H.

    Source: Jozefowicz, Zaremba & Sutskever 2015, ICML.
    """
    v = fit(W.v, x, like=h)
    z = sigmoid(W.z(x, h))
    r = sigmoid(v + W.r(h))
    n = tanh(W.n(x, h=r * h))
    return n * z + h * (1 - z)


@cell(states="h")
def mut3(x, h, W):
    """MUT3, a mutant of the GRU: the update gate sees tanh(h).

        z = σ(W_z [x, tanh(h)])
        r = σ(W_r [x, h])
        n = tanh(W_n [x, r ⊙ h])
        h ← n ⊙ z + h ⊙ (1 − z)

    Source: Jozefowicz, Zaremba & Sutskever 2015, ICML.
    """
    z = sigmoid(W.z(x, h=tanh(h)))
    r = sigmoid(W.r(x, h))
    n = tanh(W.n(x, h=r * h))
    return n * z + h * (1 - z)
