"""`cell.explain()` says what the kernels do, what they save, and what that costs."""

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, tanh
from torch.utils.flop_counter import FlopCounterMode

from cases import SETTINGS, Setting, delays, direct, projected, random, slstm, two_products
from unrolled import InputError, cell, cli, formula
from unrolled.cell import Cell
from unrolled.cells import CELLS, find, gru_cho, indrnn, lstm, mut1, rnn
from unrolled.compile.loop import Loop, loop_of
from unrolled.compile.machine import Machine
from unrolled.compile.names import Names
from unrolled.compile.passes import forward_plan
from unrolled.compile.plan import Sizes
from unrolled.explanation import BACKWARD, FORWARD, Count, Explanation, Pass

each = pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.id)


@pytest.fixture(autouse=True)
def _any_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unrolled.compile.explain.host_cannot", lambda: None)


@pytest.fixture
def registers(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Set how many registers there are, which decides how many products run together."""

    def of(features: str) -> None:
        here = Machine("a processor", features, "x86_64")
        monkeypatch.setattr("unrolled.compile.schedule.machine", lambda: here)

    of("+avx512f")
    return of


def sized(setting: Setting, D: int = 32, H: int = 16, **options) -> Explanation:
    """States of other widths are 16 units wider each: whole vectors of every processor."""
    symbols = sorted({setting.cell.graph.widths[name] for name in setting.cell.states}, reverse=True)
    hidden = {name: H + 16 * symbols.index(setting.cell.graph.widths[name]) for name in setting.cell.states}
    hidden |= dict.fromkeys(setting.cell.graph.own_widths, H + 32)
    return setting.cell.explain(H if setting.D == setting.H else D, hidden, **options)


# Text

GRU_CHO = """\
gru_cho, float32 (D: width of x; H: width of h)

Before the loop, for all steps at once
    one product (of tokens: a look-up)   W_rx xₜ, W_zx xₜ, W_nx xₜ

Forward loop
        products that run together   what follows
    1   W_rh hₜ₋₁, W_zh hₜ₋₁         r, z, r ⊙ hₜ₋₁, z ⊙ hₜ₋₁, 1 − z
    2   W_nh (r ⊙ hₜ₋₁)              n, hₜ

Backward loop: δ_z is the gradient of what W.z(…) gives, ∂ of other values
        products that run together   what follows
    1                                δ_z, δ_n, r ⊙ hₜ₋₁
    2   W_nhᵀ δ_n                    δ_r, a part of ∂hₜ₋₁
    3   W_rhᵀ δ_r + W_zhᵀ δ_z        ∂hₜ₋₁

Gradients, after each chunk of steps
    W_rx, W_zx, W_nx          sums of products of δ and xₜ
    W_rh, W_zh                sums of products of δ and hₜ₋₁
    W_nh                      sums of products of δ and r ⊙ hₜ₋₁
    b_r, b_z, b_n             added up in the backward loop
    the input, if asked for   W_rxᵀ δ_r + W_zxᵀ δ_z + W_nxᵀ δ_n

Saved for the backward pass (bytes a row and step)
    r, z, n                4 H each
    in all                 12 H
    there without saving   xₜ, hₜ
    computed again         r ⊙ hₜ₋₁, 1 − z

Operations a row and step (a multiply-add is 2, a function such as tanh 1)
                                    products   pointwise
    before the loop                    6 D H           0
    forward loop                        6 H²        14 H
    backward loop                       6 H²        21 H
    gradients of parameters     6 D H + 6 H²         3 H
    gradient of the input              6 D H           0
    in all                    18 D H + 18 H²        38 H

Bytes moved at each step
                                 forward loop   backward loop
    weights, once for all rows   12 H + 12 H²           12 H²
    saved values, a row                  12 H            12 H
    other values, a row                  20 H            32 H"""

LSTM_COSTS = """\
Saved for the backward pass (bytes a row and step)
    f, i, g, o, cₜ         1,024 each
    in all                 5,120
    there without saving   xₜ, hₜ
    computed again         tanh(cₜ)

Operations a row and step (a multiply-add is 2, a function such as tanh 1)
                               products   pointwise
    before the loop           1,048,576           0
    forward loop                524,288       4,352
    backward loop               524,288       6,144
    gradients of parameters   1,572,864       1,024
    gradient of the input     1,048,576           0
    in all                    4,718,592      11,520

Bytes moved at each step
                                   forward loop   backward loop
    weights, once for all rows        1,052,672       1,048,576
    saved values, a row                   5,120           6,144
    other values, a row                   7,168           9,216
    operations a byte at 64 rows           18.4            16.7"""


def test_the_text_in_symbols():
    assert str(gru_cho.explain()) == GRU_CHO


def test_the_text_in_numbers():
    text = str(lstm.explain(input_size=512, hidden_size=256, batch=64))
    heading = "lstm, float32 (D = 512: width of x; H = 256: width of h, c; B = 64: rows of the batch)\n\n"
    assert text.startswith(heading)
    assert text.endswith("\n\n" + LSTM_COSTS)


@each
def test_lines_are_short_and_say_something(setting):
    for found in (setting.cell.explain(), sized(setting, batch=1024)):
        for line in str(found).splitlines():
            assert len(line) <= 100, line
            assert line == line.rstrip()
            assert not re.search(r"of the step|value \d|before \d", line), line
    assert repr(found) == str(found)


# What was derived by hand


def test_lstm(registers):
    found = lstm.explain()
    assert found.reason is None
    assert found.before == ("W_fx xₜ", "W_ix xₜ", "W_gx xₜ", "W_ox xₜ")
    recurrent = ("W_fh hₜ₋₁", "W_ih hₜ₋₁", "W_gh hₜ₋₁", "W_oh hₜ₋₁")
    assert found.forward == (Pass(recurrent, ("f", "i", "g", "cₜ", "o", "hₜ")),)
    assert found.backward == (
        Pass((), ("δ_f", "δ_i", "δ_g", "δ_o", "∂cₜ₋₁")),
        Pass(("W_fhᵀ δ_f + W_ihᵀ δ_i + W_ghᵀ δ_g + W_ohᵀ δ_o",), ("∂hₜ₋₁",)),
    )
    assert found.summed == {
        "xₜ": ("W_fx", "W_ix", "W_gx", "W_ox"),
        "hₜ₋₁": ("W_fh", "W_ih", "W_gh", "W_oh"),
    }
    assert found.added == ("b_f", "b_i", "b_g", "b_o")
    assert dict(found.saved) == dict.fromkeys(("f", "i", "g", "o", "cₜ"), Count({("H",): 4}))
    assert found.present == ("xₜ", "hₜ")
    assert found.again == ("tanh(cₜ)",)
    D, H, B = 12, 20, 7
    found = lstm.explain(D, H, B)
    assert int(found.work["before the loop"].products) == 2 * 4 * H * D
    assert int(found.work[FORWARD].products) == int(found.work[BACKWARD].products) == 2 * 4 * H * H
    assert int(found.work["gradients of parameters"].products) == 2 * 4 * H * (D + H)
    assert int(found.work["gradient of the input"].products) == 2 * 4 * H * D
    # two additions to each product with h, three σ and two tanh, f ⊙ c + i ⊙ g, and o ⊙ tanh(c)
    assert int(found.work[FORWARD].pointwise) == (4 * 2 + 5 + 3 + 1) * H
    assert int(found.saved_bytes) == 5 * 4 * H
    # it reads four products of x, h and c, and writes h besides what is saved
    forward = found.traffic[FORWARD]
    assert int(forward.weights) == 4 * (4 * H * H + 4 * H)
    assert (int(forward.saved), int(forward.others)) == (5 * 4 * H, 7 * 4 * H)
    operations = B * (2 * 4 * H * H + 17 * H)
    assert found.intensity(FORWARD) == operations / (4 * (4 * H * H + 4 * H) + B * 12 * 4 * H)


def test_with_fewer_registers_fewer_products_run_together(registers):
    registers("+avx2")
    first, second = lstm.explain().forward
    assert first.products == ("W_fh hₜ₋₁", "W_oh hₜ₋₁")
    assert second == Pass(("W_ih hₜ₋₁", "W_gh hₜ₋₁"), ("f", "i", "g", "cₜ", "o", "hₜ"))


def test_a_product_of_a_reset_state_waits_for_the_reset():
    found = gru_cho.explain()
    assert [p.products for p in found.forward] == [("W_rh hₜ₋₁", "W_zh hₜ₋₁"), ("W_nh (r ⊙ hₜ₋₁)",)]
    assert [name for name, _ in found.saved] == ["r", "z", "n"]


def test_a_cell_without_recurrent_matrices():
    found = indrnn.explain()
    assert found.forward == (Pass((), ("hₜ",)),)
    assert found.backward == (Pass((), ("δ_h", "∂hₜ₋₁", "∂u")),)
    assert (found.saved, found.present) == ((), ("xₜ", "hₜ"))
    assert str(found.work[FORWARD].products) == "0"
    assert re.search(r"nothing +0\n", str(found))


def test_a_cell_without_any_matrix():
    @cell(states="a b")
    def turning(x, a, b, W):
        return W.p * a - W.q * b, W.q * a + W.p * b

    found = turning.explain()
    assert (found.before, found.summed, found.input_gradient) == ((), {}, ())
    assert found.added == ("p", "q")
    assert str(found.work_in_all.products) == "0"
    assert str(found.work[FORWARD].pointwise) == "6 H"


def test_values_without_a_name_are_written_out_or_are_parts_of_named_ones():
    found = dict(slstm.explain().saved)
    assert list(found) == [
        "W_ix xₜ + W_ic cₜ₋₁ + b_i",
        "−(W_fx xₜ + W_fc cₜ₋₁ + b_f)",
        "tanh(W_zx xₜ + W_zc cₜ₋₁ + b_z)",
        "σ(W_ox xₜ + W_oc cₜ + b_o)",
        "cₜ",
        "nₜ",
        "mₜ",
    ]
    normalised = find("layer_norm_rnn").explain()
    assert [(name, str(count)) for name, count in normalised.saved] == [
        ("a part of hₜ", "4 H"),
        ("a part of hₜ", "4"),
    ]


def test_what_is_there_before_the_loop():
    found = direct.explain()
    assert (found.before, found.given) == (("W_yx xₜ",), ("W_nv (gain ⊙ xₜ)",))
    assert found.summed["gain ⊙ xₜ"] == ("W_nv",)
    assert found.input_gradient == ("W_yxᵀ δ_y", "what comes through W_nv (gain ⊙ xₜ)")
    assert find("mut2").explain().before == ("v = W_vx xₜ", "W_zx xₜ", "W_nx xₜ")


def test_states_that_move_on_and_maps_that_are_used_twice():
    assert delays.explain().forward[0] == Pass((), ("bₜ", "cₜ"))
    found = two_products.explain()
    assert [p.products for p in found.backward] == [
        (),
        ("W_nvᵀ δ_n",),
        ("W_nvᵀ δ_n′",),
        ("W_innerhᵀ δ_inner",),
    ]
    assert found.work[FORWARD].products.terms == {("H", "H"): 3 * 2}


def test_where_the_input_is_as_wide_as_the_state_it_is_not_projected():
    assert "v = W_vx xₜ" in mut1.explain(4, 5).before
    assert mut1.explain(5, 5).before == ("W_zx xₜ", "W_rx xₜ")


def test_states_of_two_widths():
    found = projected.explain(8, {"h": 16, "c": 32})
    assert found.sizes == {"D": 8, "H_h": 16, "H_c": 32}
    assert int(found.work[FORWARD].products) == 2 * (32 * 16 + 16 * 32)
    assert projected.explain(hidden_size={"h": 16}).sizes == {"H_h": 16}


# What it is held to


@each
def test_products_count_what_pytorch_counts(setting):
    D = 3 if setting.D != setting.H else 5
    setting = setting.sized(D, 5)
    case = setting.case(T=1, B=2)
    found = setting.cell.explain(D, setting.state_sizes | setting.own_sizes)
    with FlopCounterMode(display=False) as counter:
        outputs, states = case.scan()
        forward = counter.get_total_flops()
        sum(value.sum() for value in (outputs, *states.values())).backward()
    in_all = counter.get_total_flops()
    # PyTorch multiplies a learned vector once a step, not once a row, and computes outputs that nobody takes.
    row = 2 * 5 * 5
    aside = {"keyed": -2 * row, "two_outputs": 2 * row}.get(setting.id, 0)
    ours = int(found.work["before the loop"].products) + int(found.work[FORWARD].products)
    assert 2 * ours == forward - aside
    assert 2 * int(found.work_in_all.products) == in_all - aside * (3 if setting.id == "keyed" else 1)


@pytest.mark.parametrize("name", CELLS)
def test_forward_products_are_twice_the_matrices(name):
    found = CELLS[name].explain()
    matrices = [Count.of(*p.shape) for p in CELLS[name].parameters.values() if len(p.shape) == 2]
    forward = found.work["before the loop"].products + found.work[FORWARD].products
    assert forward == sum(matrices, Count()) * 2
    assert found.work["gradients of parameters"].products == forward
    assert found.work[BACKWARD].products + found.work["gradient of the input"].products == forward


def plan_of(loop: Loop, found: Explanation, T: int, B: int, tokens: bool):
    parts = dict.fromkeys(loop.parameters, (0, 0))
    return forward_plan(loop, Sizes(T, B, found.sizes, parts, tokens, False, 1, False, True), save=True)


def summands(text: str) -> int:
    """How many products a sum has; sums that are in brackets are operands."""
    while text != (text := re.sub(r"\([^()]*\)", "", text)):
        pass
    return text.count(" + W_") + 1


@each
def test_the_kernels_have_these_passes_and_save_these_bytes(setting):
    for H in (16, 48):
        found = sized(setting, H=H, dtype=torch.float64)
        loop = loop_of(setting.cell.graph_for(H if setting.D == setting.H else 32, H), torch.float64)
        for compiled, passes in ((loop.forward, found.forward), (loop.backward, found.backward)):
            sums = [[len(d.terms) for d in stage.destinations] for stage in compiled.stages]
            assert [sorted(s) for s in sums] == [
                sorted(summands(text) for text in p.products) for p in passes
            ]
        for T, B in ((4, 4), (2, 24)):
            plan = plan_of(loop, found, T, B, tokens=not loop.direct)
            assert plan.size["saved"] * 8 == T * B * int(found.saved_bytes)


@each
def test_a_name_is_that_of_the_value(setting):
    """A value is what the equations compute under its name, and a gradient is what autograd gives."""
    D = 5 if setting.D == setting.H else 3
    case = setting.sized(D, 5).case(T=1, B=1)
    graph, parameters = setting.cell.graph_using(case.parameters), case.parameters
    loop = Loop(graph, torch.float64)
    names, sizes = Names(loop), graph.sizes(parameters)
    read = {"x": case.x[0], **case.state}

    whole = loop.whole.run(read, parameters, sizes)
    called: dict[str, list[Tensor]] = {}
    for k, name in formula.names(graph).items():
        probe = replace(graph, outputs=("probe",), results=(*graph.results[: len(graph.states)], k))
        called.setdefault(name, []).append(probe.run(read, parameters)[-1])
    assert names.told
    for k in names.told:
        assert any(torch.allclose(whole[k], value) for value in called[names.whole[k]]), names.whole[k]

    read |= {f"before {k}": value for k, value in enumerate(whole)}
    step = loop.step.run(read, parameters, sizes)
    assert names.origin.keys() == set(range(len(step)))
    for k, origin in names.origin.items():
        assert same(step[k], whole[origin])

    read |= {loop.place_of(k): value for k, value in enumerate(step)}
    read |= {f"new {name}": step[k] for name, k in loop.step.results.items()}
    total = torch.zeros((), dtype=torch.float64)
    for name, k in loop.step.results.items():
        for source, arrives in (("carry", name in graph.states), ("upstream", name in loop.handed_on)):
            if arrives:
                gradient = read[f"{source} {name}"] = random(*step[k].shape)
                total = total + (step[k] * gradient).sum()
    adjoint = loop.adjoint.step.run(read, parameters, sizes)
    for k, there in names.again.items():
        assert same(adjoint[there], step[k])
    found: dict[str, Tensor] = {}
    for k, text in names.adjoint.items():
        for name in text.replace("′", "").split(" = "):
            if not name.startswith("a part of"):
                found[name] = found.get(name, 0) + torch.as_tensor(adjoint[k])
    leaves = {f"δ_{name.removesuffix('.bias')}": v for name, v in parameters.items() if ".bias" in name}
    leaves |= {f"∂{name}": v for name, v in parameters.items() if "." not in name}
    leaves |= {f"∂{name}ₜ₋₁": value for name, value in case.state.items()}
    if setting.id == "siamese":  # both applications of a have one gradient, and b_a is in both
        found["δ_a"] = 2 * found["δ_a"]
    for name, leaf in leaves.items():
        if name in found:
            (expected,) = torch.autograd.grad(total, leaf, retain_graph=True)
            assert same(found[name].reshape(expected.shape), expected), name


def same(a: Tensor | float, b: Tensor | float) -> bool:
    a, b = (torch.as_tensor(v, dtype=torch.float64) for v in (a, b))
    return torch.allclose(a, b, rtol=1e-9, atol=1e-12)


def test_nothing_is_compiled(monkeypatch):
    def refuse(*_):
        raise AssertionError

    for name in ("print_kernel", "Program", "load", "team_of"):
        monkeypatch.setattr(f"unrolled.compile.loop.{name}", refuse)
    assert str(lstm.explain())


# What cannot be compiled, and what cannot be asked


def test_what_is_not_compiled_says_why(monkeypatch):
    @cell(states="h")
    def two(x, u, h, W):
        return tanh(W.a(x, u, h))

    found = two.explain(input_size=3, hidden_size=4)
    assert found.reason == "a sequence feeds a cell one input, and this one takes 2"
    assert str(found.work["before the loop"].products) == "8 D_u + 24"
    assert "Not compiled: a sequence feeds a cell one input" in str(found)
    assert rnn.explain(dtype=torch.float16).reason == "kernels compute in float32 or float64, not float16"
    assert str(lstm.explain(dtype=torch.float16).saved_bytes) == "10 H"
    monkeypatch.setattr("unrolled.compile.explain.host_cannot", lambda: "there is no processor")
    assert rnn.explain().reason == "there is no processor"


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"input_size": 0}, "input_size must be a whole number from 1, got 0"),
        ({"hidden_size": -1}, "hidden_size must be a whole number from 1, got -1"),
        ({"hidden_size": {"c": 1.5}}, r"hidden_size of c must be a whole number from 1, got 1\.5"),
        ({"batch": "64"}, "batch must be a whole number from 1, got '64'"),
        ({"hidden_size": {"z": 3}}, "hidden_size names 'z'; the states are h, c"),
        ({"hidden_size": {"h": 3, "c": 4}}, "states of cell 'lstm' must be of one width, got"),
    ],
)
def test_sizes_that_are_none(sizes, message):
    with pytest.raises(InputError, match=message):
        lstm.explain(**sizes)


def test_counts():
    count = Count.of("H", "D") * 2 + Count.of("H") * 1000 + Count.of() + Count.of("H", "H")
    assert str(count) == "2 D H + 1,000 H + H² + 1"
    assert str(count.at({"D": 3})) == "1,006 H + H² + 1"
    assert int(count.at({"D": 3, "H": 2})) == 2 * 3 * 2 + 1000 * 2 + 1 + 4
    with pytest.raises(TypeError, match="before D, H is known"):
        int(count)
    assert (str(Count()), int(Count())) == ("0", 0)
    assert lstm.explain(3, 4).intensity(FORWARD) is None


def test_a_cell_of_plain_data_explains_itself():
    plain = Cell("plain", lstm.graph)
    assert str(plain.explain(3, 4)).splitlines()[1:] == str(lstm.explain(3, 4)).splitlines()[1:]


# The command line


def test_the_command_line_prints_it(capsys):
    assert cli.run(["cells", "lstm(peepholes=vector)", "--explain"]) == 0
    out, hint = capsys.readouterr().out.rstrip("\n").rsplit("\n\n", 1)
    assert out == str(lstm.with_options(peepholes="vector").explain())
    assert hint == "For numbers: --input 512 --hidden 512 --batch 64"
    assert cli.run(["cells", "gru_cho", "--explain", "--hidden", "8", "--input", "4", "--batch", "2"]) == 0
    assert capsys.readouterr().out == f"{gru_cho.explain(4, 8, 2)}\n"
