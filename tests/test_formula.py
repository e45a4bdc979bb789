"""Graphs as formulas."""

import re

import pytest
import torch
from torch import exp, maximum, sigmoid, tanh, where

from cases import attending, by_sign, delays, direct, oscillator, row_numbers, slstm, two_products
from unrolled.cell import cell, layer_norm
from unrolled.cells import CELLS, VARIANTS, find, gru, lstm, mut1, rnn
from unrolled.formula import formulas, leaf
from unrolled.graph import OPERATIONS, Node

PRINTED = {
    "rnn": (rnn.graph, ["hₜ = tanh(W_hx xₜ + W_hh hₜ₋₁ + b_h)"]),
    "lstm": (
        lstm.graph,
        [
            "f = σ(W_fx xₜ + W_fh hₜ₋₁ + b_f)",
            "i = σ(W_ix xₜ + W_ih hₜ₋₁ + b_i)",
            "g = tanh(W_gx xₜ + W_gh hₜ₋₁ + b_g)",
            "cₜ = f ⊙ cₜ₋₁ + i ⊙ g",
            "o = σ(W_ox xₜ + W_oh hₜ₋₁ + b_o)",
            "hₜ = o ⊙ tanh(cₜ)",
        ],
    ),
    "gru": (
        gru.graph,
        [
            "r = σ(W_rx xₜ + W_rh hₜ₋₁ + b_r)",
            "z = σ(W_zx xₜ + W_zh hₜ₋₁ + b_z)",
            "n = tanh(W_nx xₜ + b_n + r ⊙ (W_mh hₜ₋₁ + b_m))",
            "hₜ = (1 − z) ⊙ n + z ⊙ hₜ₋₁",
        ],
    ),
    "lstm_cifg": (
        find("lstm_cifg").graph,
        [
            "f = σ(W_fx xₜ + W_fh hₜ₋₁ + b_f + p_f ⊙ cₜ₋₁)",
            "i = 1 − f",
            "g = tanh(W_gx xₜ + W_gh hₜ₋₁ + b_g)",
            "cₜ = f ⊙ cₜ₋₁ + i ⊙ g",
            "o = σ(W_ox xₜ + W_oh hₜ₋₁ + b_o + p_o ⊙ cₜ)",
            "hₜ = o ⊙ tanh(cₜ)",
        ],
    ),
    "lstm_nog": (find("lstm_nog").graph, {"hₜ = tanh(cₜ)"}),
    "projection": (
        find("lstm(projection=true)").graph,
        {"hₜ = W_rh (o ⊙ tanh(cₜ))"},
    ),
    "mut1": (mut1.graph, {"v = W_vx xₜ", "n = tanh(W_nh (r ⊙ hₜ₋₁) + b_n + tanh(v))"}),
    "mut1 square": (mut1.square, {"v = xₜ", "n = tanh(W_nh (r ⊙ hₜ₋₁) + b_n + tanh(v))"}),
    "mut3": (find("mut3").graph, {"z = σ(W_zx xₜ + W_zh tanh(hₜ₋₁) + b_z)"}),
    "without biases": (rnn.graph.without_biases(), ["hₜ = tanh(W_hx xₜ + W_hh hₜ₋₁)"]),
    "delays": (
        delays.graph,
        ["aₜ = tanh(W_ax xₜ + W_aa aₜ₋₁ + W_ab bₜ₋₁ + W_ac cₜ₋₁ + b_a)", "bₜ = aₜ₋₁", "cₜ = bₜ₋₁"],
    ),
    "outputs": (
        direct.graph,
        ["hₜ = tanh(W_nh hₜ₋₁ + W_nv (gain ⊙ xₜ) + b_n)", "yₜ = W_yh hₜ + W_yx xₜ + b_y − 2"],
    ),
    "a product of a product": (
        two_products.graph,
        {"middle = tanh(W_nv inner + b_n)", "hₜ = W_nv middle + b_n + p ⊙ hₜ₋₁"},
    ),
    "where": (
        by_sign.graph,
        {"hₜ = where([pre > 0], pre, slope ⊙ expm1(pre)) / (1 + |pre|)"},
    ),
    "a maximum": (
        slstm.graph,
        {
            "log_f = −softplus(−(W_fx xₜ + W_fc cₜ₋₁ + b_f))",
            "mₜ = max(log_f + mₜ₋₁, W_ix xₜ + W_ic cₜ₋₁ + b_i)",
            "f = exp(log_f + mₜ₋₁ − mₜ)",
            "yₜ = σ(W_ox xₜ + W_oc cₜ + b_o) ⊙ cₜ / max(|nₜ|, exp(−mₜ))",
        },
    ),
    "layer norm": (
        find("layer_norm_lstm").graph,
        {
            "f = σ(LN(W_fx xₜ, 1e−05) ⊙ gain_fx + LN(W_ufh hₜ₋₁, 1e−05) ⊙ gain_fh + bias_f)",
            "cₜ = f ⊙ cₜ₋₁ + i ⊙ g",
            "hₜ = o ⊙ tanh(LN(cₜ, 1e−05) ⊙ gain_c + bias_c)",
        },
    ),
    "numbers of a row": (
        row_numbers.graph,
        {
            "mean = mean(a)",
            "variance = mean((a − mean)^2)",
            "largest = max(mean(xₜ), sum(mean) + 0.25)",
            "level = σ(sum(cₜ₋₁) − mean(q))",
        },
    ),
    "a softmax": (
        attending.graph,
        {"hₜ = e / sum(e) ⊙ tanh(W_vx xₜ + W_vh hₜ₋₁ + b_v) + keep ⊙ hₜ₋₁"},
    ),
    "numbers": (oscillator.with_options(dt=0.1).graph, {"yₜ = yₜ₋₁ + 0.1 ⊙ zₜ"}),
}


@pytest.mark.parametrize("name", PRINTED)
def test_formulas_read_as_in_the_papers(name):
    graph, expected = PRINTED[name]
    found = formulas(graph)
    if isinstance(expected, list):
        assert found == expected
    else:
        assert set(found) >= expected


ALL = {text: find(text) for text in (*CELLS, *VARIANTS)}


@pytest.mark.parametrize("name", ALL)
def test_every_result_and_every_parameter_is_written(name):
    graph = ALL[name].graph
    text = formulas(graph)
    assert [line for state in graph.states for line in text if line.startswith(f"{state}ₜ = ")]
    for parameter in graph.parameters.values():
        assert re.search(rf"\b{parameter.symbol}\b", " ".join(text)), parameter.name


BRACKETS = {
    "sum of products": (lambda a, b: a * b + b * a, "a ⊙ b + b ⊙ a"),
    "product of sums": (lambda a, b: (a + b) * (a - b), "(a + b) ⊙ (a − b)"),
    "a difference on the left": (lambda a, b: a - b - a, "a − b − a"),
    "a difference on the right": (lambda a, b: a - (b - a), "a − (b − a)"),
    "a sum on the right of a difference": (lambda a, b: a - (b + a), "a − (b + a)"),
    "a quotient on the left": (lambda a, b: a / b / a, "a / b / a"),
    "a quotient on the right": (lambda a, b: a / (b / a), "a / (b / a)"),
    "a product below": (lambda a, b: a / (b * a), "a / (b ⊙ a)"),
    "a power of a sum": (lambda a, b: (a + b) ** 2, "(a + b)^2"),
    "a power on the right": (lambda a, b: a ** (b**2), "a^(b^2)"),
    "a power on the left": (lambda a, b: (a**b) ** 2, "(a^b)^2"),
    "a power of a sign": (lambda a, b: (-a) ** b, "(−a)^b"),
    "a sign of a power": (lambda a, b: -(a**b), "−a^b"),
    "a sign of a sum": (lambda a, b: -(a + b), "−(a + b)"),
    "a sign of a product": (lambda a, b: -(a * b), "−(a ⊙ b)"),
    "a sign in a product": (lambda a, b: -a * b, "−a ⊙ b"),
    "a sign of a sign": (lambda a, b: -(-a) + b, "−−a + b"),  # noqa: B002
    "a negative number": (lambda a, b: a * b * -2, "a ⊙ b ⊙ −2"),
    "a power of a negative number": (lambda a, b: (-2.0) ** a * b, "(−2)^a ⊙ b"),
    "calls": (lambda a, b: maximum(a + b, a) * sigmoid(a + b), "max(a + b, a) ⊙ σ(a + b)"),
    "absolute values": (lambda a, b: abs(a + b) ** 2, "|a + b|^2"),
    "comparisons": (lambda a, b: where(a <= b, exp(a), b), "where([a ≤ b], exp(a), b)"),
    "a mean": (lambda a, b: (a + b).mean(-1, keepdim=True) * b, "mean(a + b) ⊙ b"),
    "a sum": (lambda a, b: a - (a * b).sum(-1, keepdim=True) / 2, "a − sum(a ⊙ b) / 2"),
    "a largest unit": (lambda a, b: exp(a - b.amax(-1, keepdim=True)), "exp(a − max(b))"),
    "a layer norm": (lambda a, b: layer_norm(a - b, b, a, eps=0.25), "LN(a − b, 0.25) ⊙ b + a"),
    "numbers": (lambda a, b: 0.5 * a + b / 3, "0.5 ⊙ a + b / 3"),
}


@pytest.mark.parametrize("name", BRACKETS)
def test_brackets_say_what_is_computed_and_no_more(name):
    function, expected = BRACKETS[name]

    @cell(states="h")
    def mine(x, h, W):
        a = tanh(W.a(x, h))
        b = tanh(W.b(x, h))
        return function(a, b)

    assert formulas(mine.graph)[-1] == f"hₜ = {expected}"


SIGNS = {"ₜ₋₁": "0", "ₜ": "1", "⊙": "*", "−": "-", "^": "**", "σ": "sigmoid", "max": "maximum"}


@pytest.mark.parametrize("name", BRACKETS)
def test_a_formula_computes_what_the_graph_does(name):
    """Read as Python, with its usual precedence, the text gives the value of the step."""
    rows = {name: row.run for name, row in OPERATIONS.items()}

    def largest(*values):
        return maximum(*values) if len(values) == 2 else rows["amax"](*values)

    function, _ = BRACKETS[name]

    @cell(states="h")
    def mine(x, h, W):
        a = W.p * h
        b = W.q * h
        return function(a, b)

    known = {"sigmoid": sigmoid, "maximum": largest, "exp": exp, "where": where, "LN": rows["layer_norm"]}
    known |= {"mean": rows["mean"], "sum": rows["sum"]}
    a, b = torch.tensor([[0.5, 1.25], [0.75, 1.75]], dtype=torch.float64)
    text = formulas(mine.graph)[-1].removeprefix("hₜ = ")
    text = re.sub(r"\[(.*?)\]", r"(\1)", re.sub(r"\|(.*?)\|", r"abs(\1)", text)).replace("≤", "<=")
    for sign, python in SIGNS.items():
        text = text.replace(sign, python)
    found = eval(text, known | {"a": a, "b": b})
    torch.testing.assert_close(found, function(a, b), rtol=1e-12, atol=0, equal_nan=True)


def test_two_results_of_one_value_are_both_written():
    @cell(states="h", outputs="y")
    def mine(x, h, W):
        h = tanh(W.a(x, h))
        return h, h

    assert formulas(mine.graph) == ["hₜ = tanh(W_ax xₜ + W_ah hₜ₋₁ + b_a)", "yₜ = hₜ"]


def test_two_states_that_keep_one_old_value_are_both_written():
    @cell(states="a b c")
    def mine(x, a, b, c, W):
        return tanh(W.n(x, a, b, c)), a, a

    assert formulas(mine.graph)[1:] == ["bₜ = aₜ₋₁", "cₜ = aₜ₋₁"]


@pytest.mark.parametrize(
    ("node", "text"),
    [
        (Node("input", name="x"), "xₜ"),
        (Node("state", name="h"), "hₜ₋₁"),
        (Node("vector", name="p_i"), "p_i"),
        (Node("constant", value=-0.5), "−0.5"),
        (Node("constant", value=2.0), "2"),
        (Node("constant", value=float("-inf")), "−inf"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.kind,
)
def test_leaves(node, text):
    assert leaf(node) == text
