"""Cells with delay taps: their lags, and what these make of them."""

import copy
import pickle

import pytest
import torch
from torch import tanh

from cases import Setting, assert_same, flat, one_line
from unrolled import CellError
from unrolled.cells import delayed_rnn, find, narx, rnn
from unrolled.cells.narx import read_lags, tapped, taps
from unrolled.flow import gradient_by_lag, jacobians, record
from unrolled.nn import Recurrent


@tapped("s")
def mine(x, s, W, *, lags: str = "1-3", slope: float = 0.5):
    """Learned vectors in place of matrices."""
    total = W.s(x)
    for name, value in taps(s, "s", lags).items():
        total = total + W[f"w_{name}"] * value
    return tanh(total) + slope * s[1]


@pytest.mark.parametrize(
    ("text", "lags"),
    [("1", (1,)), ("1,2,5", (1, 2, 5)), ("2-4", (2, 3, 4)), (" 1 - 3 , 8", ()), ("1-3, 8", (1, 2, 3, 8))],
)
def test_lags_are_read(text, lags):
    if lags:
        assert read_lags(text) == lags
    else:
        with pytest.raises(CellError, match="cannot read lags"):
            read_lags(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0", "lags begin with 1, got 0: a network cannot read what is not there yet"),
        ("-2,1", "lags begin with 1, got -2: a network"),
        ("1,1,2", "lags 1, 1, 2 name a number twice"),
        ("1-3,2", "lags 1, 2, 3, 2 name a number twice"),
        ("3,1", "lags 3, 1 are not in order: write 1, 3"),
        ("3-1", "lags 3, 1 are not in order: write 1, 3"),
        ("", "cannot read lags ''; write them as in 1,2,5 or 1-6"),
        ("1.5", "cannot read lags '1.5'; write"),
        ("one", "cannot read lags 'one'; write"),
    ],
)
def test_lags_that_are_none_are_refused(text, message):
    with pytest.raises(CellError) as caught:
        narx.with_options(lags=text)
    assert one_line(caught.value).startswith(message)


def test_states_are_all_steps_up_to_the_longest_lag():
    cell = find("narx(lags=2,5, output=tanh)")
    assert cell.states == ("y1", "y2", "y3", "y4", "y5")
    assert [name for name in cell.parameters if name.startswith("h.")] == ["h.x", "h.y2", "h.y5", "h.bias"]
    assert cell.options == {"lags": "2,5", "activation": "tanh", "output": "tanh"}
    assert cell.with_options(lags="1").states == ("y1",)
    assert cell.with_options(lags="1").options["output"] == "tanh"


def test_values_are_called_what_their_author_called_them():
    assert {*narx.graph.gates} == {"h", "y"}
    assert {*mine.graph.gates} == {"total", "value"}
    with pytest.raises(CellError) as caught:
        tapped("h")(wrong)
    assert f"{__file__}:{wrong.__code__.co_firstlineno + 1}: a matrix is written W.name(h)" in str(
        caught.value
    )


def wrong(x, h, W, *, lags: str = "1"):
    return h[1] @ W.a


@pytest.mark.parametrize("cell", [narx, mine, narx.with_options(lags="1,4"), mine.with_options(slope=0.25)])
def test_pickling_and_copying_keep_options_and_equations(cell):
    for kept in (pickle.loads(pickle.dumps(cell)), copy.deepcopy(cell)):
        assert kept.name == cell.name
        assert kept.options == cell.options
        assert kept.graph == cell.graph


def test_one_lag_of_one_step_is_an_elman_network():
    one = Setting(delayed_rnn.with_options(lags="1"), 3, 4).case(T=5)
    parameters = {name.replace("h1", "h"): value for name, value in one.parameters.items()}
    plain = type(one)(rnn, one.x, {"h": one.state["h1"]}, parameters)
    found, state = one.scan()
    assert_same(flat(found, {"h": state["h1"]}), flat(*plain.scan()))


def test_the_jacobian_covers_every_tap():
    """Lin et al. 1996: the state of such a network is its whole line of delays."""
    torch.manual_seed(1)
    layer = Recurrent("narx(lags=1,3)", 2, {"y1": 2, "y2": 2, "y3": 2, "N": 5}, dtype=torch.float64)
    x = torch.randn(4, 1, 2, dtype=torch.float64)
    J = torch.cat([*jacobians(record(layer, x).places[0])])
    parameters, (_, states) = layer.parameters_of("l0"), layer(x[:2])
    before = {name: value[0] for name, value in states.items()}

    def step(line):
        values = dict(zip(before, line.view(3, 1, 2), strict=True))
        return torch.cat([v.flatten() for v in layer.cell.run({"x": x[2], **values}, parameters)])

    line = torch.cat([value.flatten() for value in before.values()])
    expected = torch.autograd.functional.jacobian(step, line)
    assert J.shape[-2:] == (6, 6)
    assert torch.allclose(J[2].view(6, 6), expected, atol=1e-12)
    assert torch.equal(expected[2:4, :2], torch.eye(2, dtype=torch.float64))  # y2 is what y1 was


def test_gradients_go_back_in_jumps():
    """With a lag of D alone the gradient of D steps is that of one step without."""
    torch.manual_seed(0)
    profiles = {}
    for D in (1, 3):
        layer = Recurrent(f"delayed_rnn(lags={D})", 1, 1, dtype=torch.float64)
        with torch.no_grad():
            for name, value in layer.named_parameters():
                value.fill_(1.25 if name.endswith(f"h{D}") else 0.0)
        state = {name: torch.full((1, 1, 1), 0.7104117, dtype=torch.float64) for name in layer.cell.states}
        x = torch.zeros(13, 1, 1, dtype=torch.float64)

        def loss(model, x, state=state):
            return model(x, state)[0].squeeze(-1)

        (profile,) = gradient_by_lag(layer, x, losses=loss).profiles
        profiles[D] = profile.states["h1"] if D > 1 else profile.norm
    assert torch.allclose(profiles[3][::3], profiles[1][:5], rtol=1e-4)
    assert not profiles[3][1::3].any()
