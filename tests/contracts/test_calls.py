"""Whatever comes in, however a layer is called: kernels compute what the reference does, or say why not."""

import copy
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from cases import (
    Case,
    Setting,
    assert_same,
    encoded,
    flat,
    gradients,
    keyed,
    namesakes,
    random,
    slstm,
    stepped,
    two_outputs,
)
from conftest import Pieces
from unrolled import GRU, LSTM, RNN, BackendError, InputError, Recurrent, cell, cells, scan
from unrolled.cell import EquationCell
from unrolled.compile import loop, recurrence
from unrolled.compile.loop import loop_of
from unrolled.parameters import Stacked

SOME = (
    *(cells.lstm.with_options(peepholes="vector"), cells.gru_cho, cells.layer_norm_rnn, slstm, two_outputs),
    *(encoded, keyed, stepped, namesakes),
)

each = pytest.mark.parametrize("cell", SOME, ids=lambda cell: cell.name)


def case_of(cell: EquationCell, T: int = 5, B: int = 3, H: int = 6) -> Case:
    return Setting(cell, 4, H).case(T, B)


def computed(case: Case, x: Tensor | None = None, backend: str = "cpu", **options: bool) -> dict[str, Tensor]:
    results = flat(*case.scan(x, backend=backend, **options))
    leaves = {name: leaf for name, leaf in case.leaves.items() if x is None or name != "x"}
    return {name: value.detach() for name, value in results.items()} | gradients(results, leaves)


def changed(case: Case, change: Callable[[Tensor], Tensor]) -> Case:
    """The same with other tensors."""
    return replace(
        case,
        x=change(case.x),
        state={name: change(value) for name, value in case.state.items()},
        parameters={name: change(value) for name, value in case.parameters.items()},
    )


# Names and equations


@pytest.mark.parametrize(("H_h", "H_c"), [(12, 3), (3, 40), (5, 5)])
def test_a_learned_vector_may_have_the_name_of_a_state_of_another_width(H_h: int, H_c: int) -> None:
    graph = namesakes.graph
    sizes = {graph.widths["x"]: 3, graph.widths["h"]: H_h, graph.widths["c"]: H_c}
    parameters = {name: random(*(sizes[s] for s in p.shape)) for name, p in graph.parameters.items()}
    case = Case(namesakes, random(4, 2, 3), {"h": random(2, H_h), "c": random(2, H_c)}, parameters)
    assert_same(computed(case), computed(case, backend="reference"), 1e-12)


def test_a_state_may_be_called_x_and_the_input_otherwise() -> None:
    @cell(states="x c")
    def named(u, x, c, W):
        return torch.tanh(W.n(u, x, c)), 0.5 * c + W.m(u, x=x)

    parameters = {
        name: random(*({"D": 3}.get(s, 4) for s in p.shape)) for name, p in named.graph.parameters.items()
    }
    case = Case(named, random(5, 2, 3), {"x": random(2, 4), "c": random(2, 4)}, parameters)
    for x in (None, torch.randint(3, (5, 2))):
        assert_same(computed(case, x), computed(case, x, backend="reference"), 1e-12)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("cell", [encoded, keyed], ids=lambda cell: cell.name)
def test_tokens_reach_a_map_of_a_map(cell: EquationCell, bias: bool) -> None:
    case = case_of(cell)
    kept = {n: p for n, p in case.parameters.items() if bias or not n.endswith(".bias")}
    case = replace(case, parameters=kept)
    tokens = torch.randint(4, (5, 3))
    for x in (tokens, None):
        assert_same(computed(case, x), computed(case, x, backend="reference"), 1e-12)


def test_shapes_of_what_only_torch_reads_are_checked_anew() -> None:
    case = case_of(encoded)
    case.scan(backend="cpu")  # which is remembered
    elsewhere = loop_of(encoded.graph, torch.float64).elsewhere
    assert "n.v" in loop_of(encoded.graph, torch.float64).parameters + elsewhere
    for name in case.parameters:
        wrong = dict(case.parameters)
        wrong[name] = wrong[name][:2].detach().clone()
        with pytest.raises(InputError, match="has shape"):
            replace(case, parameters=wrong).scan(backend="cpu")
    assert_same(computed(case), computed(case, backend="reference"), 1e-12)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_tokens_of_which_nothing_says_how_many_there_are_are_refused(backend: str) -> None:
    @cell(states="h", outputs="y")
    def copying(x, h, W):
        return torch.tanh(W.n(h)), x

    case = case_of(copying)
    with pytest.raises(InputError, match="one-hot"):
        case.scan(torch.randint(4, (5, 3)), backend=backend)


# Tensors of another kind


@each
def test_a_view_with_its_sign_to_be_turned_is_what_it_shows(cell: EquationCell) -> None:
    case = case_of(cell)
    expected = computed(case)
    turned = changed(case, lambda t: torch._neg_view(-t.detach()).requires_grad_())
    assert turned.x.is_neg()
    assert_same(computed(turned), expected)
    results = flat(*case.scan(backend="cpu"))
    leaves = list(case.leaves.values())
    upstream = [torch.randn_like(value) for value in results.values()]
    plain, views = (
        torch.autograd.grad(list(results.values()), leaves, d, retain_graph=True, allow_unused=True)
        for d in (upstream, [torch._neg_view(-d) for d in upstream])
    )
    for name, a, b in zip(case.leaves, plain, views, strict=True):
        assert (a is b is None) or torch.equal(a, b), name


@pytest.mark.parametrize("upstream", ["expanded", "transposed", "one number"])
def test_upstream_gradients_may_be_views(upstream: str) -> None:
    case = case_of(cells.lstm)
    y, _ = case.scan(backend="cpu")
    wide = torch.randn(5, 3, 6, dtype=torch.float64)
    d = {
        "expanded": wide[:, :1].expand_as(y),
        "transposed": wide.permute(2, 1, 0).contiguous().permute(2, 1, 0),
        "one number": torch.ones((), dtype=torch.float64).expand_as(y),
    }[upstream]
    leaves = list(case.leaves.values())
    found = torch.autograd.grad(y, leaves, d, retain_graph=True)
    expected = torch.autograd.grad(y, leaves, d.clone(memory_format=torch.contiguous_format))
    assert all(map(torch.equal, found, expected))


@each
def test_the_default_device_is_no_matter(cell: EquationCell) -> None:
    case = case_of(cell)
    expected = computed(case)
    results = flat(*case.scan(backend="cpu"))
    with torch.device("meta"):
        inside = flat(*case.scan(backend="cpu"))
        leaves = list(case.leaves.values())
        total = sum((value * value.detach()).sum() for value in inside.values())
        found = torch.autograd.grad(total, leaves, allow_unused=True)
    total = sum((value * value.detach()).sum() for value in results.values())
    wanted = torch.autograd.grad(total, leaves, allow_unused=True)
    for name in results:
        assert torch.equal(inside[name], expected[name]), name
    for name, a, b in zip(case.leaves, found, wanted, strict=True):
        assert (a is b is None) or torch.equal(a, b), name


def test_a_value_that_no_result_needs_needs_no_parameter() -> None:
    @cell(states="h")
    def wasteful(x, h, W):
        unused = torch.tanh(W.never(x, h)) * W.neither
        assert unused is not None
        return torch.tanh(W.n(x, h))

    case = case_of(wasteful)
    assert list(case.parameters) == ["n.x", "n.h", "n.bias"]
    assert_same(computed(case), computed(case, backend="reference"), 1e-12)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_fake_tensor_gives_fake_ones(backend: str) -> None:
    case = case_of(cells.gru)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        x = mode.from_tensor(case.x.detach())
        y, end = case.scan(x, backend=backend)
        for value, shape in ((y, (5, 3, 6)), (end["h"], (3, 6))):
            assert isinstance(value, FakeTensor)
            assert value.shape == shape


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_what_torch_jit_traces_is_the_reference() -> None:
    layer = Recurrent(cells.gru, 4, 6)
    traced = torch.jit.trace(layer, (torch.randn(5, 3, 4),), check_trace=False, strict=False)
    x = torch.randn(5, 3, 4)
    assert torch.allclose(traced(x)[0], layer(x)[0], atol=1e-6)
    only = Recurrent(cells.gru, 4, 6, backend="cpu")
    with pytest.raises(BackendError, match=r"torch\.jit is tracing"):
        torch.jit.trace(only, (x,), check_trace=False, strict=False)


# Gradients


@pytest.mark.parametrize("cell", [cells.gru, encoded, keyed, slstm], ids=lambda cell: cell.name)
def test_a_batch_of_gradients_is_each_of_them(cell: EquationCell) -> None:
    case = case_of(cell, 2, 2, 3)
    y, end = case.scan(backend="cpu")
    leaves = list(case.leaves.values())
    many = torch.randn(3, *y.shape, dtype=y.dtype)
    found = torch.autograd.grad(y, leaves, many, is_grads_batched=True, retain_graph=True, allow_unused=True)
    for k, d in enumerate(many):
        expected = torch.autograd.grad(y, leaves, d, retain_graph=True, allow_unused=True)
        for name, a, b in zip(case.leaves, found, expected, strict=True):
            if b is None or a is None:
                assert a is None or not a.any(), name
                assert b is None or not b.any(), name
            else:
                assert (a[k] - b).abs().max() < 1e-12, name
    del end


@each
def test_gradients_that_are_differentiated_again_are_the_same(cell: EquationCell) -> None:
    """Also where what goes into a pass depends on what else does: its state on the same parameters."""
    case = case_of(cell)

    def two_passes(backend: str, **options: bool) -> dict[str, Tensor]:
        _, middle = case.scan(backend=backend)
        y, end = case.scan(case.x * middle[case.cell.states[0]].mean(), middle, backend=backend)
        total = sum(value.square().sum() for value in flat(y, end).values())
        found = torch.autograd.grad(total, list(case.leaves.values()), allow_unused=True, **options)
        return {
            name: torch.zeros_like(leaf) if d is None else d
            for (name, leaf), d in zip(case.leaves.items(), found, strict=True)
        }

    expected = two_passes("reference")
    assert_same(two_passes("cpu"), expected, 1e-12)
    again = two_passes("cpu", create_graph=True)
    assert_same(again, expected, 1e-12)
    penalties = (again, two_passes("reference", create_graph=True))
    second = [
        gradients({"penalty": sum(d.square().sum() for d in found.values())}, case.leaves)
        for found in penalties
    ]
    assert_same(*second, 1e-10)


def test_a_jacobian_may_be_vectorised() -> None:
    case = case_of(cells.gru, 2, 2, 3)

    def outputs(x: Tensor) -> Tensor:
        return case.scan(x, backend="cpu")[0]

    x = case.x.detach()
    one_by_one = torch.autograd.functional.jacobian(outputs, x)
    at_once = torch.autograd.functional.jacobian(outputs, x, vectorize=True)
    assert (one_by_one - at_once).abs().max() < 1e-12


@each
def test_a_second_backward_pass_equals_the_first(cell: EquationCell) -> None:
    case = case_of(cell)
    results = flat(*case.scan(backend="cpu"))
    first = gradients(results, case.leaves)  # which keeps the graph
    case.scan(backend="cpu")
    for _ in range(3):
        assert_same(gradients(results, case.leaves), first)


@each
def test_passes_may_go_back_in_another_order(cell: EquationCell) -> None:
    one, other = case_of(cell), case_of(cell)
    expected = computed(one), computed(other)
    forward = flat(*one.scan(backend="cpu")), flat(*other.scan(backend="cpu"))
    second = gradients(forward[1], other.leaves)
    first = gradients(forward[0], one.leaves)
    for found, wanted in ((first, expected[0]), (second, expected[1])):
        assert_same(found, {name: wanted[name] for name in found})


@each
def test_a_pass_may_go_back_in_another_thread(cell: EquationCell) -> None:
    case = case_of(cell)
    expected = computed(case)
    results = flat(*case.scan(backend="cpu"))
    found: dict[str, Tensor] = {}
    thread = threading.Thread(target=lambda: found.update(gradients(results, case.leaves)))
    thread.start()
    thread.join()
    assert_same(found, {name: expected[name] for name in found})


@each
def test_what_needs_no_gradient_changes_no_other(cell: EquationCell) -> None:
    case = case_of(cell)
    expected = computed(case)
    for name in case.leaves:
        with torch.no_grad():
            alone = changed(case, lambda t: t.detach().clone())
        alone.leaves[name].requires_grad_()
        results = flat(*alone.scan(backend="cpu"))
        if not any(value.requires_grad for value in results.values()):
            continue
        (found,) = gradients(results, {name: alone.leaves[name]}).values()
        assert (found - expected[f"d {name}"]).abs().max() <= 1e-12, name


def test_a_tensor_that_is_several_parameters_gets_the_sum() -> None:
    case = case_of(cells.lstm)
    tied = dict(case.parameters)
    tied["f.h"] = tied["i.h"] = tied["o.h"]
    tied["f.bias"] = tied["i.bias"]
    case = replace(case, parameters=tied)
    for T in (1, 5):
        x = case.x[:T].detach()
        assert_same(computed(case, x), computed(case, x, backend="reference"), 1e-12)
    h = case.state["h"]
    both = replace(case, state={"h": h, "c": h})
    y, _ = both.scan(backend="cpu")
    expected, _ = both.scan()
    found, wanted = (torch.autograd.grad(v.sum(), h)[0] for v in (y, expected))
    assert (found - wanted).abs().max() < 1e-12


# Parameters that are rows of one tensor


@pytest.mark.parametrize("kind", [LSTM, GRU, RNN])
@pytest.mark.parametrize("tokens", [False, True], ids=["vectors", "tokens"])
def test_rows_of_one_tensor_are_parameters_by_gate(kind: type, tokens: bool) -> None:
    layer = kind(5, 7, dtype=torch.float64)
    stacked = layer.parameters_of(layer.suffixes[0])
    assert isinstance(stacked, Stacked)
    x = torch.randint(5, (6, 3)) if tokens else torch.randn(6, 3, 5, dtype=torch.float64)
    state = {name: torch.randn(3, 7, dtype=torch.float64) for name in layer.cell.states}
    apart = {name: value.detach().clone().requires_grad_() for name, value in stacked.items()}
    found = flat(*scan(layer.cell, x, state, stacked, backend="cpu"))
    expected = flat(*scan(layer.cell, x, state, apart, backend="cpu"))
    assert_same(found, expected)
    d = gradients(found, dict(enumerate(stacked.tensors)))
    wanted = gradients(expected, apart)
    for name, (place, first, rows) in stacked.parts.items():
        part = d[f"d {place}"][first : first + rows]
        assert (part - wanted[f"d {name}"]).abs().max() < 1e-12, name


def test_where_rows_are_is_not_mistaken_for_where_others_were() -> None:
    """Descriptions of rows come and go, at the same place in memory."""
    case = case_of(cells.gru)
    expected, _ = case.scan(backend="cpu")
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, value in case.parameters.items():
        groups.setdefault(tuple(value.shape[1:]), []).append(name)
    for turn in range(60):  # the tensors have one shape, and their rows another order
        orders = [members[turn % 3 :] + members[: turn % 3] for members in groups.values()]
        rows = {n: (place, k * 6, 6) for place, order in enumerate(orders) for k, n in enumerate(order)}
        tensors = tuple(torch.cat([case.parameters[n].detach() for n in order]) for order in orders)
        stacked = Stacked(tensors, rows)
        found, _ = scan(cells.gru, case.x, case.state, stacked, backend="cpu")
        assert torch.equal(found, expected), turn
        del stacked, rows


# Many calls


def test_many_threads_at_once_compute_what_one_does_after_another() -> None:
    def build() -> LSTM:
        torch.manual_seed(1)
        return LSTM(6, 20, num_layers=2, bidirectional=True, dtype=torch.float64)

    inputs = [torch.randn(3 + k % 4, 4, 6, dtype=torch.float64) for k in range(24)]

    def run(x: Tensor) -> tuple[Tensor, ...]:
        x = x.clone().requires_grad_()
        y, _ = layer(x)
        return (y.detach(), *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()]))

    layer = build()
    expected = [run(x) for x in inputs]
    layer = copy.deepcopy(layer)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(run, inputs))
    finally:
        sys.setswitchinterval(before)
    for one, other in zip(found, expected, strict=True):
        assert all(map(torch.equal, one, other))


def test_the_first_call_may_come_from_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of(cells.mut2)
    expected, _ = case.scan()
    monkeypatch.setattr(loop, "_loops", {})
    with ThreadPoolExecutor(8) as pool:
        for y in pool.map(lambda _: case.scan(backend="cpu")[0].detach(), range(16)):
            assert (y - expected).abs().max() < 1e-12


def test_more_shapes_than_are_kept(monkeypatch: pytest.MonkeyPatch, pieces: Pieces) -> None:
    pieces()
    monkeypatch.setattr(recurrence, "PLANS", 3)
    tried = [case_of(cells.gru, T) for T in range(1, 9)]
    expected = [computed(case, backend="reference") for case in tried]
    for _ in range(2):
        for case, wanted in zip(tried, expected, strict=True):
            assert_same(computed(case), wanted, 1e-12)
            assert len(loop_of(cells.gru.graph, torch.float64).prepared) <= 3
    waiting = flat(*tried[0].scan(backend="cpu"))  # its plans are dropped before it goes back
    for case in tried[1:]:
        case.scan(backend="cpu")
    assert_same(gradients(waiting, tried[0].leaves), {
        name: value for name, value in computed(tried[0]).items() if name.startswith("d ")
    })  # fmt: skip
    monkeypatch.setattr(recurrence, "PLANS", 1)
    with ThreadPoolExecutor(8) as pool:
        for k, y in enumerate(pool.map(lambda k: tried[k % 8].scan(backend="cpu")[0].detach(), range(400))):
            assert (y - expected[k % 8]["outputs"]).abs().max() < 1e-12


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("learning", [True, False], ids=["learning", "inference"])
@pytest.mark.parametrize("bad", [-1, 4, 1 << 40])
def test_a_token_that_is_none_is_refused_and_the_next_call_is_right(
    bad: int, learning: bool, threads: int, pieces: Pieces
) -> None:
    pieces(small=1, threads=threads, chunk=6)
    for tried in (cells.gru, cells.layer_norm_rnn):
        case = case_of(tried)
        for place in ((0, 0), (4, 2)):
            tokens = torch.randint(4, (5, 3))
            tokens[place] = bad
            with torch.set_grad_enabled(learning):
                with pytest.raises(InputError, match="token numbers go from 0 to 3"):
                    case.scan(tokens, backend="cpu")
                tokens[place] = 3
                found = flat(*case.scan(tokens, backend="cpu"))
            assert_same(found, flat(*case.scan(tokens)), 1e-12)
