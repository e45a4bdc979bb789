"""A cell of one's own, for `unrolled train char ... --cell examples/mycells.py:mine`."""

from torch import sigmoid, tanh

from unrolled import cell


@cell(states="h")
def mine(x, h, W):
    keep = sigmoid(W.keep(x, h))
    new = tanh(W.new(x, h))
    return keep * h + (1 - keep) * new
