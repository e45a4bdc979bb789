"""Compiled kernels agree with the reference for every cell: outputs, final states, every gradient by name."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, tanh

from cases import SETTINGS, Case, Setting, flat, gradients
from unrolled import BackendError, InputError, cell, cells, scan

each = pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.id)


def computed(case: Case, backend: str, **options: bool) -> dict[str, Tensor]:
    """Results, and the gradient of a random sum of them with respect to every leaf."""
    results = flat(*case.scan(backend=backend, **options))
    return {name: value.detach() for name, value in results.items()} | gradients(results, case.leaves)


def in_dtype(case: Case, dtype: torch.dtype) -> Case:
    def cast(value: Tensor) -> Tensor:
        return value.detach().to(dtype).requires_grad_()

    return replace(
        case,
        x=cast(case.x),
        state={name: cast(value) for name, value in case.state.items()},
        parameters={name: cast(value) for name, value in case.parameters.items()},
    )


def relative_error(found: Tensor, truth: Tensor) -> float:
    found, truth = found.detach(), truth.detach()
    return float((found.double() - truth).norm() / truth.norm().clamp_min(1e-30))


def calm(case: Case) -> Case:
    """The same with smaller numbers: rounding then stays what it is, also over many steps."""
    with torch.no_grad():
        for value in case.parameters.values():
            value *= 1.5 / max(value.shape[-1], 2) ** 0.5
    return case


SIZES = {"ones": (1, 1, 1, 1), "odd": (5, 3, 7, 5), "one row": (9, 1, 3, 18), "tiles": (3, 13, 9, 70)}


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize(("T", "B", "D", "H"), SIZES.values(), ids=SIZES)
@each
def test_in_double_precision_everything_is_equal_up_to_rounding(
    setting: Setting, T: int, B: int, D: int, H: int, reverse: bool
) -> None:
    case = calm(setting.sized(H if setting.D == setting.H else D, H).case(T, B))
    expected = computed(case, "reference", reverse=reverse)
    found = computed(case, "cpu", reverse=reverse)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        error = (found[name] - value).abs().max().item()
        assert error <= 1e-11 * max(1.0, value.abs().max().item()), name


@each
def test_in_single_precision_errors_are_at_most_four_times_the_reference_s(setting: Setting) -> None:
    double = calm(setting.sized(20 if setting.D == setting.H else 7, 20).case(T=20, B=7))
    single = in_dtype(double, torch.float32)
    truth = computed(in_dtype(single, torch.float64), "reference")
    plain, tested = computed(single, "reference"), computed(single, "cpu")
    for name, value in truth.items():
        allowed = 4 * max(relative_error(plain[name], value), 1e-7)
        assert relative_error(tested[name], value) <= allowed, name


@each
def test_without_gradients_the_numbers_are_the_same(setting: Setting) -> None:
    case = setting.case(T=6, B=3)
    expected = flat(*case.scan(backend="cpu"))
    with torch.no_grad():
        found = flat(*case.scan(backend="cpu"))
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@each
def test_uninitialised_memory_reaches_no_result(setting: Setting) -> None:
    case = setting.sized(5, 5).case(4, 3) if setting.D == setting.H else setting.sized(4, 5).case(4, 3)
    expected = computed(case, "cpu")
    torch.use_deterministic_algorithms(True)  # fills what torch.empty returns with NaN
    try:
        found = computed(case, "cpu")
    finally:
        torch.use_deterministic_algorithms(False)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.fixture
def lstm_case() -> Case:
    return calm(Setting(cells.lstm.with_options(peepholes="vector"), 40, 70).case(T=30, B=11))


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_number_of_threads_changes_nothing_but_rounding(
    lstm_case: Case, threads: None, count: int
) -> None:
    torch.set_num_threads(1)
    expected = computed(lstm_case, "cpu")
    torch.set_num_threads(count)
    found, again = computed(lstm_case, "cpu"), computed(lstm_case, "cpu")
    for name, value in expected.items():
        assert relative_error(found[name], value) < 1e-13, name
        assert torch.equal(found[name], again[name]), f"{name} differs from run to run"


def test_more_products_than_a_register_tile_holds() -> None:
    @cell(states="h")
    def many(x, h, W):
        parts = [W[f"u{k}"](v=tanh(W[k](x, h)), bias=False) for k in "abcdefg"]
        return tanh(sum(parts, 0.5 * h))

    case = Setting(many, 3, 21).case(T=5, B=3)
    expected = computed(case, "reference")
    for name, found in computed(case, "cpu").items():
        assert relative_error(found, expected[name]) < 1e-12, name


def test_a_whole_equals_its_parts(lstm_case: Case) -> None:
    whole, end = lstm_case.scan(backend="cpu")
    first, middle = lstm_case.scan(lstm_case.x[:13], backend="cpu")
    second, last = lstm_case.scan(lstm_case.x[13:], middle, backend="cpu")
    assert relative_error(torch.cat([first, second]), whole) < 1e-14
    assert relative_error(last["c"], end["c"]) < 1e-14


def test_strides_of_what_comes_in_do_not_matter(lstm_case: Case) -> None:
    expected = computed(lstm_case, "cpu")
    transposed = lstm_case.x.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    wide = torch.stack([lstm_case.state["h"].detach()] * 2, -1)
    state = {**lstm_case.state, "h": wide[..., 0].requires_grad_()}
    found = computed(replace(lstm_case, x=transposed, state=state), "cpu")
    for name, value in expected.items():
        assert relative_error(found[name], value) < 1e-13, name
    alike = lstm_case.x[:, :1].expand(-1, 11, -1)
    assert torch.equal(
        lstm_case.scan(alike, backend="cpu")[0], lstm_case.scan(alike.clone(), backend="cpu")[0]
    )


def test_tokens_are_one_hot_vectors() -> None:
    case = Setting(cells.gru, 7, 5).case(T=6, B=3)
    tokens = torch.randint(7, (6, 3))
    dense = torch.nn.functional.one_hot(tokens, 7).double()
    y, end = case.scan(tokens, backend="cpu")
    expected, _ = case.scan(dense, backend="cpu")
    assert relative_error(y, expected) < 1e-14
    matrices = list(case.parameters.values())
    found = torch.autograd.grad(y.sum() + end["h"].sum(), matrices)
    wanted = torch.autograd.grad(expected.sum() + expected[-1].sum(), matrices)
    for name, a, b in zip(case.parameters, found, wanted, strict=True):
        assert relative_error(a, b) < 1e-13, name


def test_second_derivatives_are_those_of_the_reference() -> None:
    case = Setting(cells.lstm, 2, 3).case(T=3, B=2)

    def run(*leaves: Tensor) -> Tensor:
        x, h, c, *parameters = leaves
        given = dict(zip(case.parameters, parameters, strict=True))
        y, end = scan(cells.lstm, x, {"h": h, "c": c}, given, backend="cpu")
        return y.sum() + (end["c"] ** 2).sum()

    leaves = (case.x, *case.state.values(), *case.parameters.values())
    assert torch.autograd.gradgradcheck(run, leaves, atol=1e-7, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own, in its first jvp
def test_transforms_and_forward_mode_take_the_reference_and_are_never_silently_zero() -> None:
    case = Setting(cells.gru, 3, 4).case(T=4, B=2)
    tangent = torch.randn_like(case.x)

    def outputs(x: Tensor, backend: str = "auto") -> Tensor:
        return case.scan(x, backend=backend)[0]

    _, found = torch.func.jvp(outputs, (case.x.detach(),), (tangent,))
    step = 1e-6
    with torch.no_grad():
        expected = (outputs(case.x + step * tangent) - outputs(case.x - step * tangent)) / (2 * step)
    assert relative_error(found, expected) < 1e-6
    gradient = torch.func.grad(lambda x: outputs(x).sum())(case.x.detach())
    assert relative_error(gradient, torch.autograd.grad(outputs(case.x).sum(), case.x)[0]) < 1e-12
    with pytest.raises(BackendError, match=r"torch\.func is at work; 'reference' can"):
        torch.func.grad(lambda x: outputs(x, "cpu").sum())(case.x.detach())


def test_what_kernels_cannot_run_is_refused_with_the_reason() -> None:
    case = in_dtype(Setting(cells.gru).case(), torch.bfloat16)
    with pytest.raises(BackendError, match=r"it computes in float32 or float64, not torch\.bfloat16"):
        case.scan(backend="cpu")
    assert case.scan(backend="auto")[0].dtype == torch.bfloat16
    good = Setting(cells.gru).case()
    with pytest.raises(InputError, match="state 'h' has shape"):
        good.scan(state={"h": good.state["h"][:1]}, backend="cpu")
    with pytest.raises(InputError, match="none of them 0"):
        good.scan(good.x[:0], backend="cpu")


def test_denormals_are_as_the_caller_had_them_afterwards() -> None:
    tiny = torch.tensor([1e-40])
    Setting(cells.lstm, 40, 70).case(T=30, B=11).scan(backend="cpu")
    assert (tiny * 0.5).item() > 0


def test_nan_and_infinity_pass_through() -> None:
    case = Setting(cells.gru, 3, 4).case(T=4, B=2)
    for bad in (torch.nan, torch.inf):
        x = case.x.detach().clone()
        x[1, 0, 0] = bad
        expected, found = (case.scan(x, backend=b)[0] for b in ("reference", "cpu"))
        assert torch.equal(found.isnan(), expected.isnan())
        assert torch.allclose(found[~found.isnan()], expected[~found.isnan()], rtol=1e-10)


def test_changing_an_output_in_place_is_noticed_before_it_spoils_a_gradient() -> None:
    y, _ = Setting(cells.rnn, 3, 8).case(T=4, B=2).scan(backend="cpu")
    with torch.no_grad():
        y.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


FORKED = """
import os, torch, unrolled

torch.set_num_threads(2)
lstm = unrolled.LSTM(40, 70)
x = torch.randn(30, 11, 40)
with torch.no_grad():
    expected = lstm(x)[0]
    child = os.fork()
    if not child:
        torch.set_num_threads(1)  # as a DataLoader's workers do: torch's own threads do not survive a fork
        os._exit(0 if torch.equal(lstm(x)[0], expected) else 1)
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_child_computes_the_same() -> None:
    # In a process of its own: threads that are just ending, those of other tests, can hold MKL's lock.
    assert subprocess.run([sys.executable, "-c", FORKED], timeout=300).returncode == 0


def test_under_autocast_kernels_compute_in_the_dtype_of_what_they_are_given() -> None:
    case = in_dtype(Setting(cells.lstm, 3, 4).case(T=4, B=2), torch.float32)
    expected = computed(case, "cpu")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results = flat(*case.scan(backend="cpu"))
    found = results | gradients(results, case.leaves)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
