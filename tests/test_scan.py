"""`scan`, beyond what tests/contracts asks of every cell."""

import pytest
import torch
import torch.nn.functional as F

from cases import Setting, assert_same, delays, direct, flat, gradients, one_line, slstm
from unrolled import InputError, cell, scan
from unrolled.cell import Cell
from unrolled.cells import gru, lstm, mut1, mut2
from unrolled.rewrite import nudged
from unrolled.rows import Rows


def test_outputs_are_the_first_state_where_nothing_else_is_declared():
    case = Setting(delays).case(T=5)
    outputs, final = case.scan()
    assert torch.equal(outputs[-1], final["a"])
    assert torch.equal(outputs[-2], final["b"])
    assert torch.equal(outputs[-3], final["c"])


def test_outputs_are_the_declared_output():
    case = Setting(slstm).case(T=4)
    outputs, final = case.scan()
    assert list(final) == ["c", "n", "m"]
    last = case.x[-1], case.scan(case.x[:-1])[1]
    assert torch.equal(outputs[-1], case.step(*last)[0])


def test_reverse_keeps_outputs_in_the_order_of_x():
    case = Setting(gru).case(T=4)
    outputs, final = case.scan(reverse=True)
    assert torch.equal(outputs[0], final["h"])
    first, _ = case.step(case.x[-1], case.state)
    assert torch.equal(outputs[-1], first)


def test_the_order_of_states_and_unknown_entries_do_not_matter():
    case = Setting(lstm).case()
    turned = dict(reversed(case.state.items())) | {"other": torch.zeros(1)}
    parameters = dict(reversed(case.parameters.items())) | {"other": torch.zeros(1)}
    found = scan(case.cell, case.x, turned, parameters)
    assert_same(flat(*found), flat(*case.scan()))
    assert list(found[1]) == ["h", "c"]


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8], ids=str)
@pytest.mark.parametrize(
    "setting", [Setting(gru), Setting(mut1), Setting(mut1, 3, 3), Setting(mut2, 3, 3), Setting(direct)],
    ids=lambda s: s.id,
)  # fmt: skip
def test_tokens_of_other_integers(setting, dtype):
    case = setting.case()
    tokens = torch.tensor([[0, 2], [2, 1]])
    found, expected = case.scan(tokens.to(dtype)), case.scan(F.one_hot(tokens, 3).double())
    assert_same(flat(*found), flat(*expected), 1e-12)


@pytest.mark.parametrize("D", [3, 2], ids=["D != H", "D = H"])
@pytest.mark.parametrize("cell", [mut1, mut2], ids=lambda cell: cell.name)
def test_a_cell_without_its_source_needs_no_biases(cell, D):
    """Which of its two graphs a cell runs does not hang on biases that a layer left out."""
    case = Setting(cell, D, 2).case()
    linear = {name: value for name, value in case.parameters.items() if not name.endswith(".bias")}
    bare = Cell(cell.name, cell.graph, cell.square)
    found, expected = (flat(*scan(c, case.x, case.state, linear)) for c in (bare, cell))
    assert_same(found, expected)
    assert_same(gradients(found, linear), gradients(expected, linear))


def test_second_derivatives_equal_differences():
    case = Setting(gru, 2, 2).case(T=2, B=1)
    names = list(case.leaves)

    def run(*values):
        given = dict(zip(names, values, strict=True))
        x, state = given.pop("x"), {"h": given.pop("state h")}
        outputs, final = scan(gru, x, state, given)
        return outputs.sum() + final["h"].square().sum()

    assert torch.autograd.gradgradcheck(run, tuple(case.leaves.values()), atol=1e-7, rtol=1e-4)


def test_an_unknown_backend_is_refused():
    case = Setting(gru).case()
    with pytest.raises(InputError) as caught:
        case.scan(backend="triton")
    assert one_line(caught.value) == "no backend 'triton'; there are auto, cpu, reference"
    assert_same(flat(*case.scan(backend="reference")), flat(*case.scan(backend="auto")), 1e-12)


@cell(states="h")
def alone(h, W):
    return torch.tanh(W.h(h))


@cell(states="h")
def pair(x, u, h, W):
    return torch.tanh(W.h(x, u, h))


@pytest.mark.parametrize("cell", [alone, pair], ids=lambda cell: cell.name)
def test_a_cell_of_no_or_two_inputs_is_refused(cell):
    with pytest.raises(InputError) as caught:
        scan(cell, torch.ones(2, 1, 3), {"h": torch.zeros(1, 3)}, {})
    assert "one input" in one_line(caught.value)
    assert cell.name in str(caught.value)


def test_a_missing_parameter_or_state_is_named():
    case = Setting(lstm).case()
    without = {name: value for name, value in case.parameters.items() if name != "f.h"}
    with pytest.raises(InputError, match=r"f\.h"):
        scan(lstm, case.x, case.state, without)
    with pytest.raises(InputError, match="'c'"):
        scan(lstm, case.x, {"h": case.state["h"]}, case.parameters)


def test_an_input_of_another_width_is_named():
    case = Setting(gru).case()
    with pytest.raises(InputError) as caught:
        case.scan(case.x[..., :2])
    assert one_line(caught.value) == "W.r multiplies 'x' of width 3, but got width 2"


@cell(states="h")
def told(x, z, h, W):
    """A second input of a width of its own."""
    return torch.tanh(W.a(x, h) + W.b(z, bias=False) * torch.sigmoid(W.c(z, h)))


@pytest.mark.parametrize("lengths", [None, [5, 2, 0]])
@pytest.mark.parametrize("tokens", [False, True])
def test_further_inputs_and_their_gradients(lengths, tokens):
    """By kernels as by the equations step by step."""
    torch.manual_seed(0)
    T, B, D, H = 5, 3, 4, 6
    parameters = {
        name: torch.randn(
            [{"D": D, "D_z": 2}.get(s, H) for s in p.shape], dtype=torch.float64
        ).requires_grad_()
        for name, p in told.parameters.items()
    }
    x = torch.randint(D, (T, B)) if tokens else torch.randn(T, B, D, dtype=torch.float64)
    z = torch.randn(T, B, 2, dtype=torch.float64).requires_grad_()
    rows = None if lengths is None else Rows.of_batch(T, torch.tensor(lengths))
    found = {}
    for backend in ("cpu", "reference"):
        y, end = scan(told, x, None, parameters, others={"z": z}, rows=rows, backend=backend)
        weight = torch.arange(1.0, y.numel() + 1, dtype=torch.float64).view(y.shape).sin()
        total = (y * weight).sum() + end["h"].sum()
        found[backend] = (y, end["h"], *torch.autograd.grad(total, [z, *parameters.values()]))
    for one, other in zip(*found.values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_further_inputs_are_named():
    x, z = torch.randn(2, 2, 3), torch.randn(2, 2, 3)
    with pytest.raises(InputError, match="one input, and nothing of `others`, but 'told' takes x, z"):
        scan(told, x, None, {})
    with pytest.raises(InputError, match="one input, and z of `others`, but 'lstm' takes x"):
        scan(lstm, x, None, {}, others={"z": z})


def test_a_nudge_is_added_to_the_old_state():
    """0 changes no bit; something is as if the state had been that much larger."""
    torch.manual_seed(0)
    sizes = {"D": 3, "H": 4}
    parameters = {n: torch.randn([sizes[s] for s in p.shape]) for n, p in lstm.parameters.items()}
    x, state = torch.randn(6, 2, 3), {name: torch.randn(2, 4) for name in "hc"}
    nudges = {f"nudge_{name}": torch.zeros(6, 2, 4) for name in "hc"}
    plain = scan(lstm, x, state, parameters)[0]
    assert torch.equal(scan(nudged(lstm), x, state, parameters, others=nudges)[0], plain)
    nudges["nudge_c"][0] = 0.5
    moved = scan(lstm, x, {**state, "c": state["c"] + 0.5}, parameters)[0]
    torch.testing.assert_close(scan(nudged(lstm), x, state, parameters, others=nudges)[0], moved)
