"""A dense stack computes what `torch.cat` would, in memory that grows with its depth, not with its square."""

import copy
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from unrolled.errors import BudgetError, InputError
from unrolled.nn import dense as module
from unrolled.nn import room
from unrolled.nn.dense import ACTIVATIONS, Dense, plain
from unrolled.unroll.meter import Meter

SHAPE = {"width": 5, "depth": 4, "growth": 3}
FUNCTIONS = {
    "relu": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "softplus": nn.functional.softplus,
}  # fmt: skip


def make(activation: str = "tanh", norm: str | None = None, **changes: int) -> Dense:
    """A stack in float64 with biases that are not 0."""
    init = {"*.bias": "normal:0.3"} | ({"*.gain": "uniform:1"} if norm else {})
    return Dense(**{**SHAPE, **changes}, activation=activation, norm=norm, init=init, dtype=torch.float64)


def as_published(dense: Dense, A: Tensor) -> Tensor:
    """A_l = f(W_l [A_0, ..., A_{l-1}] + b_l), with lists and concatenations."""
    values = [A]
    for layer in range(dense.form.depth):
        summed = []
        for each in dense.get_submodule(f"l{layer}").children():
            z = torch.cat(values, 1) @ each.x.T
            if dense.form.norm == "layer":
                z = z - z.mean(1, keepdim=True)
            if dense.form.norm == "batch":
                z = each.gain * (z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt()
            elif dense.form.norm:
                z = each.gain * z / (z.square().mean(1, keepdim=True) + 1e-5).sqrt()
            summed.append(z + each.bias)
        f = FUNCTIONS.get(dense.form.activation, torch.maximum)
        values.append(f(*summed))
    return torch.cat(values, 1)


@pytest.mark.parametrize("norm", [None, "layer", "rms", "batch"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_it_is_the_published_network_with_its_gradients(activation, norm, monkeypatch):
    dense, A = make(activation, norm), torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    wanted = [A, *dense.parameters()]
    d = torch.randn(7, dense.output_size, dtype=torch.float64)
    expected = as_published(dense, A)
    gradients = torch.autograd.grad(expected, wanted, d)
    for together in (3, 7, 9, 64):  # one layer at a time, two, three, and all four
        monkeypatch.setattr(module, "TOGETHER", together)
        found = dense(A)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        for ours, theirs in zip(torch.autograd.grad(found, wanted, d), gradients, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("norm", [None, "layer", "batch"])
@pytest.mark.parametrize("activation", ["tanh", "maxout"])
def test_first_and_second_derivatives_are_those_of_finite_differences(activation, norm):
    dense = make(activation, norm, depth=3, growth=2)
    A = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    parameters = [*dense.parameters()]

    def run(A: Tensor, *given: Tensor) -> Tensor:
        names = [name for name, _ in dense.named_parameters()]
        return torch.func.functional_call(dense, dict(zip(names, given, strict=True)), (A,))

    def buffered(A: Tensor, *given: Tensor) -> Tensor:
        return dense(A)

    assert torch.autograd.gradcheck(buffered, (A, *parameters))
    assert torch.autograd.gradgradcheck(buffered, (A, *parameters))
    assert torch.autograd.gradcheck(run, (A, *parameters))


def test_where_the_two_maps_of_maxout_are_equal_each_has_half_the_gradient():
    dense = Dense(3, 2, 2, "maxout", init={"*": 0.25}, dtype=torch.float64)
    A = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    ours = torch.autograd.grad(dense(A).sum(), [A, *dense.parameters()])
    theirs = torch.autograd.grad(as_published(dense, A).sum(), [A, *dense.parameters()])
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("together", [3, 7, 64])
def test_frozen_parameters_and_inputs_without_a_gradient_change_no_other_gradient(together, monkeypatch):
    monkeypatch.setattr(module, "TOGETHER", together)
    dense = make("relu")
    A = torch.randn(4, 5, dtype=torch.float64)
    every = dict(
        zip(dense.state_dict(), torch.autograd.grad(dense(A).sum(), [*dense.parameters()]), strict=True)
    )
    frozen = {"l1.h.x", "l2.h.bias"}
    for name, parameter in dense.named_parameters():
        parameter.requires_grad_(name not in frozen)
    dense(A).sum().backward()
    for name, parameter in dense.named_parameters():
        if name in frozen:
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, every[name])


def test_a_row_alone_and_no_rows_are_taken_too():
    dense, A = make(), torch.randn(4, 5, dtype=torch.float64)
    torch.testing.assert_close(dense(A[1]), dense(A)[1])
    nothing = dense(A[:0])
    assert nothing.shape == (0, dense.output_size)
    nothing.sum().backward()
    assert all(not p.grad.any() for p in dense.parameters())


def test_a_graph_can_be_gone_back_through_twice_and_gradients_are_added():
    dense, A = make(), torch.randn(4, 5, dtype=torch.float64)
    out = dense(A).square().sum()
    out.backward(retain_graph=True)
    once = [p.grad.clone() for p in dense.parameters()]
    out.backward()
    for p, first in zip(dense.parameters(), once, strict=True):
        torch.testing.assert_close(p.grad, 2 * first)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")
def test_transforms_and_torch_compile_see_the_same_network():
    dense, A = make("softplus", "rms"), torch.randn(4, 5, dtype=torch.float64)
    expected = torch.autograd.functional.jacobian(dense, A[0])
    torch.testing.assert_close(torch.func.jacrev(dense)(A[0]), expected)
    torch.testing.assert_close(torch.func.jacfwd(dense)(A[0]), expected)
    torch.testing.assert_close(torch.func.vmap(dense)(A), dense(A))
    compiled = torch.compile(dense, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(A), dense(A))


def test_several_gradients_at_once_are_those_one_by_one():
    dense, A = make("sigmoid"), torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    out = dense(A)
    d = torch.randn(3, *out.shape, dtype=torch.float64)
    together = torch.autograd.grad(out, A, d, is_grads_batched=True, retain_graph=True)[0]
    for k in range(3):
        torch.testing.assert_close(together[k], torch.autograd.grad(out, A, d[k], retain_graph=True)[0])


def test_copies_and_saved_parameters_compute_the_same():
    dense, A = make(), torch.randn(4, 5, dtype=torch.float64)
    twin = copy.deepcopy(dense)
    torch.testing.assert_close(twin(A), dense(A), rtol=0, atol=0)
    other = make()
    other.load_state_dict(dense.state_dict())
    torch.testing.assert_close(other(A), dense(A), rtol=0, atol=0)
    with torch.no_grad():
        twin.l0.h.x.add_(1.0)  # which is no part of the other
    assert not torch.equal(twin(A), dense(A))


def kept(depth: int, cat: bool) -> int:
    """Bytes that tensors of a training pass take at most, without the weights and their gradients."""
    dense = Dense(8, depth, 4)
    for p in dense.parameters():
        p.grad = torch.zeros_like(p)
    A = torch.randn(64, 8)
    with Meter() as meter:
        out = plain(dense.form, A, [*dense.parameters()]) if cat else dense(A)
        now = meter.now
    del out
    return now


def test_memory_grows_with_the_depth_and_that_of_concatenation_with_its_square():
    ours, theirs = ([kept(depth, cat) for depth in (50, 100, 200)] for cat in (False, True))
    assert ours[2] - ours[1] == pytest.approx(2 * (ours[1] - ours[0]), rel=0.01)
    assert theirs[2] - theirs[1] > 3.5 * (theirs[1] - theirs[0])
    assert ours[2] < 2.1 * 64 * (8 + 200 * 4) * 4 < theirs[2] / 20


def test_initial_values_keep_the_size_of_what_is_read():
    """With relu the mean square of what a layer adds is that of the units it reads."""
    torch.manual_seed(1)
    dense = Dense(256, 20, 256)
    out = dense(torch.randn(256, 256)).square().mean(0).view(21, 256).mean(1)
    assert out.max() / out.min() < 1.6
    assert not Dense(4, 3, 2, init={"h.x": 0.0})(torch.ones(1, 4))[:, 4:].any()
    assert (Dense(4, 3, 2, "maxout", init={"h2": 2.0}).l1.h2.bias == 2).all()


def test_batch_norm_counts_each_batch_once_in_running_means_and_uses_them_afterwards():
    dense = make("tanh", "batch")
    A = torch.randn(50, 5, dtype=torch.float64) + 1
    z = A @ dense.l0.h.x.T
    out = dense(A)
    torch.testing.assert_close(dense.l0.h.mean, 0.1 * z.mean(0))
    torch.testing.assert_close(dense.l0.h.variance, 0.9 + 0.1 * z.var(0))
    out.square().sum().backward(retain_graph=True)
    torch.autograd.grad(out.square().sum(), dense.l0.h.x, create_graph=True)
    torch.testing.assert_close(dense.l0.h.mean, 0.1 * z.mean(0))
    dense.eval()
    mean, variance, gain = dense.l0.h.mean, dense.l0.h.variance, dense.l0.h.gain
    expected = (gain * (z - mean) / (variance + 1e-5).sqrt() + dense.l0.h.bias).tanh()
    torch.testing.assert_close(dense(A)[:, 5:8], expected)
    assert torch.autograd.gradcheck(dense, torch.randn(3, 5, dtype=torch.float64, requires_grad=True))
    assert torch.autograd.gradgradcheck(dense, torch.randn(2, 5, dtype=torch.float64, requires_grad=True))
    torch.testing.assert_close(dense(A[3]), dense(A)[3])
    dense.train()
    with pytest.raises(InputError, match="at least 2 rows, for one has no variance"):
        dense(A[3])


def test_autocast_converts_the_input_and_nothing_inside():
    dense, A = Dense(5, 3, 4), torch.randn(2, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = dense(A.bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, dense(A.bfloat16().float()), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"depth": 0}, "depth must be a whole number of at least 1"),
        ({"growth": 2.5}, "growth must be a whole number"),
        ({"width": True}, "width must be a whole number"),
        ({"activation": "swish"}, "there are tanh, relu, sigmoid, softplus, maxout"),
        ({"norm": "weight"}, "no norm 'weight'; there are layer, rms, batch"),
        ({"norm": "layer", "growth": 1}, "always 0"),
        ({"init": {"f.*": 0.0}}, "pattern 'f.*' matches no parameter"),
    ],
)
def test_arguments_that_do_not_fit_are_named(arguments, said):
    with pytest.raises(InputError, match=said.replace("*", r"\*")):
        Dense(**{**SHAPE, **arguments})


@pytest.mark.parametrize(
    ("A", "said"),
    [
        (torch.zeros(3, 6), "expected \\(B, 5\\)"),
        (torch.zeros(1, 3, 5), "expected \\(B, 5\\)"),
        (torch.zeros(3, 5, dtype=torch.float64), "use A.to"),
        (torch.zeros(3, 5, device="meta"), "A is on meta"),
        ([1.0], "A is a list"),
    ],
)
def test_inputs_that_do_not_fit_are_named(A, said):
    with pytest.raises(InputError, match=said):
        Dense(**SHAPE)(A)


def test_growth_beyond_memory_is_refused_before_anything_is_made():
    """The weights of these are 2 · 10¹⁸ numbers; what they take and what there is stands in the message."""
    with pytest.raises(BudgetError, match=r"growth 2000: that takes 8e\+06TB, and .*B are available"):
        Dense(1000, 10**6, 2000)


def test_a_batch_beyond_memory_is_refused(monkeypatch):
    monkeypatch.setattr(room, "available", lambda device: 100 * 2**20)
    dense = Dense(16, 10, 16)
    with torch.no_grad():
        dense(torch.zeros(100_000, 16))  # 70 MB
    with pytest.raises(BudgetError, match=r"100,000 rows .* 176 units: that takes 204\.\dMB, and 104\.9MB"):
        dense(torch.zeros(100_000, 16))


def test_what_a_container_leaves_is_its_limit_less_what_it_takes_and_cannot_give_back(tmp_path):
    files = tuple(str(tmp_path / name) for name in ("max", "current", "stat"))
    for file, text in zip(files, ("5000", "1200", "anon 9\ninactive_file 300\n"), strict=True):
        Path(file).write_text(text)
    assert room._of_group(files) == 5000 - 1200 + 300
    Path(files[0]).write_text("max\n")
    assert room._of_group(files) is None
    assert room._of_group(("nowhere", *files[1:])) is None


def test_where_the_system_does_not_say_it_is_all_that_the_machine_has(monkeypatch):
    def nowhere(path: Path) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(room.Path, "read_text", nowhere)
    assert room.available(torch.device("cpu")) == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    monkeypatch.setattr(room.os, "sysconf", lambda name: (_ for _ in ()).throw(ValueError))
    assert room.available(torch.device("cpu")) is None


def test_what_is_available_is_no_more_than_the_machine_has():
    there = room.available(torch.device("cpu"))
    assert there is None or 0 < there < 1 << 50
    assert room.available(torch.device("meta")) is None
