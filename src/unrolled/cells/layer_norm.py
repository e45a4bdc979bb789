"""Cells with layer normalisation: Ba, Kiros & Hinton 2016 ("Layer Normalization", arXiv:1607.06450).

LN(z; α) = (z − μ) / √(σ² + eps) ⊙ α, with the mean μ and the variance σ² over the units of z in each row. A
gain α starts at 1.
"""

from torch import sigmoid, tanh

from unrolled.cell import cell, layer_norm


@cell(states="h")
def layer_norm_rnn(x, h, W, *, eps: float = 1e-5):
    """Elman network with its summed inputs normalised.

        h ← tanh(LN(W_h [x, h]; gain_h) + bias_h)

    Source: Ba, Kiros & Hinton 2016, arXiv:1607.06450, equation 4.
    """
    return tanh(layer_norm(W.h(x, h, bias=False), W.gain_h, W.bias_h, eps=eps))


@cell(states="h c")
def layer_norm_lstm(x, h, c, W, *, forget_bias: float = 0.0, eps: float = 1e-5):
    """Long short-term memory with its summed inputs and its cell normalised.

        k = LN(W_k x; gain_kx) + LN(W_uk h; gain_kh) + bias_k,  for each gate k = f, i, o, g
        c ← σ(f) ⊙ c + σ(i) ⊙ tanh(g)
        h ← σ(o) ⊙ tanh(LN(c; gain_c) + bias_c)

    The paper normalises the summed inputs of the four gates together; here, as in TensorFlow's
    LayerNormBasicLSTMCell, each gate is normalised by itself. Of the paper's three biases that add up in a
    gate, one is left. `forget_bias` is where the bias of f starts.

    Source: Ba, Kiros & Hinton 2016, arXiv:1607.06450, equations 20 to 22.
    """

    def gate(k, bias=0.0):
        seen = layer_norm(W[k](x, bias=False), W[f"gain_{k}x"], eps=eps)
        remembered = layer_norm(W[f"u{k}"](h, bias=False), W[f"gain_{k}h"], eps=eps)
        return seen + remembered + W[f"bias_{k}"](init=bias)

    f = sigmoid(gate("f", forget_bias))
    i = sigmoid(gate("i"))
    g = tanh(gate("g"))
    c = f * c + i * g
    o = sigmoid(gate("o"))
    h = o * tanh(layer_norm(c, W.gain_c, W.bias_c, eps=eps))
    return h, c
