"""Long short-term memory, with the variants of Greff et al. 2015 ("LSTM: A Search Space Odyssey",
arXiv:1503.04069) as options.

    i = σ(W_ix x + W_ih h + p_i ⊙ c + b_i)      input gate
    f = σ(W_fx x + W_fh h + p_f ⊙ c + b_f)      forget gate
    g = tanh(W_gx x + W_gh h + b_g)             what may be written
    c ← f ⊙ c + i ⊙ g
    o = σ(W_ox x + W_oh h + p_o ⊙ c + b_o)      output gate; it looks at the new c
    h ← o ⊙ tanh(c)

The peepholes p are absent by default. Greff's base network has them, so its ablations do here too
(`VARIANTS` in `unrolled.cells`).
"""

from typing import Literal

from torch import sigmoid, tanh

from unrolled.cell import cell


@cell(states="h c")
def lstm(
    x, h, c, W, *,
    forget_bias: float = 0.0, peepholes: Literal["none", "vector", "matrix"] = "none", coupled: bool = False,
    input_gate: bool = True, forget_gate: bool = True, output_gate: bool = True,
    input_activation: bool = True, output_activation: bool = True, projection: bool = False,
):  # fmt: skip
    """Long short-term memory.

        i = σ(W_i [x, h]),  f = σ(W_f [x, h]),  o = σ(W_o [x, h]),  g = tanh(W_g [x, h])
        c ← f ⊙ c + i ⊙ g
        h ← o ⊙ tanh(c)

    `forget_bias` is where the bias of f starts; 1 keeps the cell open at first (Jozefowicz et al. 2015).
    `peepholes` let the gates see the cell, through a vector (Gers & Schmidhuber 2000) or a full matrix; the
    output gate sees the new one. `coupled` sets i = 1 − f. The `…_gate` options take a gate away (it is 1),
    the `…_activation` options a tanh. `projection` makes h a learned projection, of a width of its own
    (Sak et al. 2014, arXiv:1402.1128).

    Source: Hochreiter & Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735; the forget gate is due to Gers,
    Schmidhuber & Cummins 2000, doi:10.1162/089976600300015015; variants: Greff et al. 2015, arXiv:1503.04069.
    """

    def gate(name, c, bias=0.0):
        if peepholes == "matrix":
            return sigmoid(W[name](x, h, c=c, bias=bias))
        seen = W[name](x, h, bias=bias)
        return sigmoid(seen + W[f"p_{name}"] * c if peepholes == "vector" else seen)

    f = gate("f", c, forget_bias) if forget_gate else 1
    i = 1 - f if coupled else gate("i", c) if input_gate else 1
    g = tanh(W.g(x, h)) if input_activation else W.g(x, h)
    c = f * c + i * g
    o = gate("o", c) if output_gate else 1
    h = o * (tanh(c) if output_activation else c)
    return (W.r(h=h, bias=False) if projection else h), c


@cell(states="h c i f o")
def lstm_fgr(x, h, c, i, f, o, W):
    """LSTM whose gates also see all gates of the step before.

        i ← σ(W_i [x, h, i, f, o] + p_i ⊙ c),  f ← σ(W_f [x, h, i, f, o] + p_f ⊙ c)
        c ← f ⊙ c + i ⊙ tanh(W_g [x, h])
        o ← σ(W_o [x, h, i, f, o] + p_o ⊙ c)
        h ← o ⊙ tanh(c)

    Source: Hochreiter & Schmidhuber 1997; "full gate recurrence" in Greff et al. 2015, arXiv:1503.04069.
    """
    before = {"i": i, "f": f, "o": o}
    i = sigmoid(W.i(x, h, **before) + W.p_i * c)
    f = sigmoid(W.f(x, h, **before) + W.p_f * c)
    g = tanh(W.g(x, h))
    c = f * c + i * g
    o = sigmoid(W.o(x, h, **before) + W.p_o * c)
    h = o * tanh(c)
    return h, c, i, f, o
