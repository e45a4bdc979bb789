"""NARX networks in open and in closed loop."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor

from cases import assert_same, gradients, one_line
from unrolled import Checkpointed, InputError
from unrolled.errors import CellError, DivergedError
from unrolled.flow import gradient_by_lag
from unrolled.nn import ARX, NARX
from unrolled.nn import taps as module

DOUBLE = torch.float64
T, B, I, O, N = 9, 3, 2, 3, 5
LAGS = {"input_lags": (0, 2), "output_lags": (1, 3)}


def model(inputs: int = I, **options) -> NARX:
    torch.manual_seed(1)
    made = NARX(inputs, O, N, **(LAGS | options), dtype=DOUBLE)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0, 0.5)
    return made


def series(inputs: int = I, T: int = T) -> tuple[Tensor | None, Tensor]:
    torch.manual_seed(2)
    u = torch.randn(T, B, inputs, dtype=DOUBLE) if inputs else None
    return u, torch.randn(T, B, O, dtype=DOUBLE)


def part(u: Tensor | None, begin: int, end: int | None = None) -> Tensor | None:
    return None if u is None else u[begin:end]


def by_hand(made: NARX, u: Tensor, y: Tensor) -> np.ndarray:
    """Equation 1 of Lin et al. 1996, in NumPy: what each step from the third on makes of those before."""
    W = {name.removeprefix("layer.l0."): value.detach().numpy() for name, value in made.named_parameters()}
    u, y = u.numpy(), y.numpy()
    found = []
    for t in range(3, len(y)):
        read = np.concatenate([u[t], u[t - 2]], -1)
        h = np.tanh(read @ W["h.x"].T + y[t - 1] @ W["h.y1"].T + y[t - 3] @ W["h.y3"].T + W["h.bias"])
        found.append(h @ W["y.h"].T + W["y.bias"])
    return np.stack(found)


def test_open_loop_computes_what_the_paper_prints():
    made, (u, y) = model(), series()
    np.testing.assert_allclose(made.open_loop(u, y).detach().numpy(), by_hand(made, u, y), atol=1e-14)


@pytest.mark.parametrize("inputs", [0, I])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_closed_loop_is_open_loop_on_its_own_outputs(inputs, backend):
    made, (u, y) = model(inputs, backend=backend), series(inputs)
    free, end = made(T - 4 if u is None else u[4:], made.state(part(u, 0, 4), y[:4]))
    whole = torch.cat([y[:4], free])
    assert torch.allclose(made.open_loop(u, whole)[1:], free, atol=1e-13)
    assert_same(end, made.state(u, whole), 1e-15)


@pytest.mark.parametrize("inputs", [0, I])
def test_gradients_go_through_the_taps(inputs):
    """They equal those of calling the cell step by step."""
    made, (u, y) = model(inputs), series(inputs)
    state = {name: value.clone().requires_grad_() for name, value in made.state(u, y).items()}
    leaves = dict(made.named_parameters()) | state | ({} if u is None else {"u": u.requires_grad_()})
    found = gradients(
        dict(zip(("y", "end"), _ended(made(T if u is None else u, state)), strict=True)), leaves
    )

    outputs, line = [], {name: state[name] for name in made.layer.cell.states}
    inputs_before = None if u is None else torch.cat([state["u2"][None], state["u1"][None], u])
    for t in range(T):
        if inputs_before is None:
            x = y.new_zeros(B, 1)
        else:
            x = torch.cat([inputs_before[t + 2], inputs_before[t]], -1)
        new = made.layer.cell.run({"x": x, **line}, made.layer.parameters_of("l0"))
        line = dict(zip(line, new, strict=True))
        outputs.append(new[0])
    assert_same(found, gradients({"y": torch.stack(outputs), "end": line["y3"]}, leaves), 1e-12)


def _ended(run: tuple[Tensor, dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
    return run[0], run[1]["y3"]


@pytest.mark.parametrize("inputs", [0, I])
def test_a_whole_run_equals_its_parts_with_the_state_passed_on(inputs):
    made, (u, y) = model(inputs), series(inputs)
    state = made.state(u, y)
    whole, end = made(T if u is None else u, state)
    found = []
    for begin, stop in ((0, 1), (1, 3), (3, T)):
        piece, state = made(stop - begin if u is None else u[begin:stop], state)
        found.append(piece)
    assert torch.allclose(torch.cat(found), whole, atol=1e-14)
    assert_same(state, end, 1e-14)


@pytest.mark.parametrize("inputs", [0, I])
def test_open_loop_goes_on_from_a_state(inputs):
    made, (u, y) = model(inputs), series(inputs)
    found = made.open_loop(part(u, 4), y[4:], made.state(part(u, 0, 4), y[:4]))
    assert torch.allclose(found, made.open_loop(u, y)[1:], atol=1e-14)


def zeros() -> dict[str, Tensor]:
    widths = {"u": I, "y": O}
    return {name: torch.zeros(B, widths[name[0]], dtype=DOUBLE) for name in ("u1", "u2", "y1", "y2", "y3")}


def test_a_run_without_a_state_begins_with_zeros():
    made, (u, _) = model(), series()
    assert_same(
        dict(zip("ab", _ended(made(u)), strict=True)),
        dict(zip("ab", _ended(made(u, zeros())), strict=True)),
    )


@pytest.mark.parametrize("inputs", [0, I])
def test_layouts_are_those_of_recurrent_layers(inputs):
    made, (u, y) = model(inputs), series(inputs)
    state = made.state(u, y)
    expected, end = made(T if u is None else u, state)
    swapped = copy.deepcopy(made)
    swapped.batch_first = True
    turned = None if u is None else u.transpose(0, 1)
    assert torch.equal(swapped.open_loop(turned, y.transpose(0, 1)), made.open_loop(u, y).transpose(0, 1))
    assert_same(swapped.state(turned, y.transpose(0, 1)), state)
    free, last = swapped(T if turned is None else turned, state)
    assert torch.equal(free, expected.transpose(0, 1))
    assert_same(last, end)
    alone = None if u is None else u[:, 1]
    assert torch.allclose(made.open_loop(alone, y[:, 1]), made.open_loop(u, y)[:, 1], atol=1e-14)
    state_alone = made.state(alone, y[:, 1])
    assert_same(state_alone, {name: value[1] for name, value in state.items()})
    free, last = made(T if alone is None else alone, state_alone)
    assert torch.allclose(free, expected[:, 1], atol=1e-14)
    assert_same(last, {name: value[1] for name, value in end.items()}, 1e-14)


def test_options_are_those_of_the_cell():
    made = model(activation="maxout", output="sigmoid")
    assert made.layer.cell.name == "narx(lags=1,3, activation=maxout, output=sigmoid)"
    u, y = series()
    found = made.open_loop(u, y)
    assert 0 < float(found.detach().min()) < float(found.detach().max()) < 1
    assert {n.split(".")[2] for n, _ in made.named_parameters()} == {"h1", "h2", "y"}
    with pytest.raises(CellError, match="option activation of cell 'narx' cannot be 'sine'"):
        model(activation="sine")


def test_initial_values():
    made = NARX(2, 1, 400, (0, 1), (1, 2, 5), init={"y.bias": 3.0})
    parameters = {name: value.detach() for name, value in made.layer.parameters_of("l0").items()}
    assert 0.98 / 7**0.5 < float(parameters["h.x"].abs().max()) <= 1 / 7**0.5
    assert float(parameters["h.y5"].abs().max()) <= 1 / 7**0.5
    assert 0.045 < float(parameters["y.h"].abs().max()) <= 0.05
    assert not parameters["h.bias"].any()
    assert torch.equal(parameters["y.bias"], torch.tensor([3.0]))
    before = parameters["h.x"].clone()
    made.reset_parameters()
    assert not torch.equal(before, parameters["h.x"])


def test_copies_compute_the_same():
    made, (u, y) = model(), series()
    other = NARX(I, O, N, **LAGS, dtype=DOUBLE)
    other.load_state_dict(made.state_dict())
    for kept in (other, copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert torch.equal(kept(u, kept.state(u, y))[0], made(u, made.state(u, y))[0])
    assert repr(made).startswith("NARX(\n  2, 3, input_lags=(0, 2), output_lags=(1, 3)\n")


def test_gradients_may_be_checkpointed():
    made, (u, y) = model(), series()
    state = made.state(u, y)
    plain, tight = (
        gradients({"y": made(u, state, bptt=bptt)[0]}, dict(made.named_parameters()))
        for bptt in (None, Checkpointed(every=2))
    )
    assert_same(tight, plain, 1e-13)


def test_the_microscope_sees_every_tap():
    made, (u, _) = model(), series()
    (profile,) = gradient_by_lag(made, u, losses=lambda m, u: m(u)[0].square().sum(-1)).profiles
    assert {*profile.states} == {"y1", "y2", "y3"}
    assert bool((profile.norm[:-1] > 0).all())


def test_training_in_either_loop_finds_the_system():
    """y_t = 0.5 y_{t-1} + u_{t-1}, from its data."""
    torch.manual_seed(0)
    u = torch.rand(60, 1, dtype=DOUBLE) - 0.5
    y = torch.zeros_like(u)
    for t in range(1, len(u)):
        y[t] = 0.5 * y[t - 1] + u[t - 1]
    for closed in (False, True):
        made = NARX(1, 1, 4, (1,), (1,), dtype=DOUBLE)
        optimiser = torch.optim.LBFGS(
            made.parameters(),
            max_iter=400,
            tolerance_change=0.0,
            history_size=20,
            line_search_fn="strong_wolfe",
        )

        def loss(made=made, closed=closed, optimiser=optimiser) -> Tensor:
            optimiser.zero_grad()
            found = made(u[1:], made.state(u[:1], y[:1]))[0] if closed else made.open_loop(u, y)
            error = (found - y[1:]).square().mean()
            error.backward()
            return error

        optimiser.step(loss)
        free, _ = made(u[1:], made.state(u[:1], y[:1]))
        assert float((free - y[1:]).square().mean().detach()) < 1e-5 * float(y.var())


@pytest.mark.parametrize("inputs", [0, I])
def test_a_linear_network_has_the_least_squares(inputs):
    """They are those of NumPy, and of a linear system the truth."""
    u, y = series(inputs, T=40)
    fitted = ARX(inputs, O, **LAGS, dtype=DOUBLE)
    assert not fitted.open_loop(u, y).detach().any()
    fitted.fit(u, y)
    read = [] if u is None else [u[3:], u[1:-2]]
    rows = torch.cat([*read, y[2:-1], y[:-3], torch.ones(37, B, 1, dtype=DOUBLE)], -1).flatten(0, 1).numpy()
    expected = rows @ np.linalg.lstsq(rows, y[3:].flatten(0, 1).numpy(), rcond=None)[0]
    np.testing.assert_allclose(fitted.open_loop(u, y).detach().flatten(0, 1).numpy(), expected, atol=1e-12)

    truth = ARX(inputs, O, **LAGS, dtype=DOUBLE)
    with torch.no_grad():
        for parameter in truth.parameters():
            parameter.uniform_(-0.25, 0.25)
    drive = None if u is None else torch.randn(60, B, I, dtype=DOUBLE)
    data, _ = truth(20 if drive is None else drive, truth.state(u, y))
    fitted.fit(drive, data.detach())
    for name, value in fitted.named_parameters():
        assert torch.allclose(value, truth.get_parameter(name), atol=1e-6), name


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"output_lags": (0, 1)},
            "output lags begin with 1, got 0: a network cannot read what is not there yet",
        ),
        ({"output_lags": (1, -3)}, "output lags begin with 1, got -3"),
        ({"output_lags": (2, 1)}, "output lags 2, 1 are not in order: write 1, 2"),
        ({"output_lags": (1, 2, 2)}, "output lags 1, 2, 2 name a number twice"),
        ({"output_lags": ()}, "no output lags: give at least one"),
        ({"output_lags": (1, 2.5)}, "output lags are whole numbers, not 1, 2.5"),
        ({"input_lags": (-1, 0)}, "input lags begin with 0, got -1"),
        ({"input_lags": (1, 0)}, "input lags 1, 0 are not in order: write 0, 1"),
        ({"input_lags": ()}, "no input lags: give at least one"),
        ({"hidden": 0}, "hidden must be a whole number of at least 1, got 0"),
        ({"outputs": 0}, "outputs must be a whole number of at least 1, got 0"),
        ({"inputs": -1}, "inputs must be a whole number of at least 1, got -1"),
        ({"batch_first": 1}, "batch_first must be True or False, got 1"),
    ],
)
def test_networks_that_are_none_are_refused(options, message):
    with pytest.raises(InputError) as caught:
        NARX(**({"inputs": I, "outputs": O, "hidden": N} | options))
    assert one_line(caught.value).startswith(message)


def refused(run, *arguments, **options) -> str:
    with pytest.raises(InputError) as caught:
        run(*arguments, **options)
    return one_line(caught.value)


def test_series_that_do_not_fit_are_refused():
    made, (u, y) = model(), series()
    assert refused(made.open_loop, u, y[:5]) == "u has 9 steps of 3 series, but y has 5 of 3"
    assert refused(made.open_loop, u[:, 0], y) == "u has 9 steps of 1 series, but y has 9 of 3"
    assert refused(made.open_loop, None, y) == "u is missing: this network has 2 inputs"
    assert refused(made.open_loop, u, y[..., :2]) == (
        "y has shape (9, 3, 2), expected (T, B, 3), or (T, 3) alone"
    )
    assert refused(made.open_loop, u, y.float()) == "y is torch.float32, but the network is torch.float64"
    assert refused(made.open_loop, u, y.tolist()) == "y is a list, expected a tensor"
    assert refused(made, 5) == "u is a int, expected a tensor with 2 inputs"
    assert refused(made, u[:0]) == "u has no steps: a free run needs at least one"
    assert refused(made, u, {"y1": y[0]}) == "the state has y1, expected u1, u2, y1, y2, y3"
    assert refused(made, u, zeros() | {"y2": y[0, :2]}) == "state 'y2' has shape (2, 3), expected (3, 3)"
    free = model(0)
    assert refused(free.open_loop, u, y) == "this network has no inputs: give None for u"
    assert refused(free, u) == "this network has no inputs: say how many steps to run"
    assert refused(free, 0) == "steps must be a whole number of at least 1, got 0"


def test_series_shorter_than_the_lags_are_refused():
    made, (u, y) = model(), series()
    assert refused(made.open_loop, u[:3], y[:3]) == (
        "a series of 3 steps is too short to predict a step of it: input lags up to 2 and output lags up "
        "to 3 take at least 4; give a longer one, or shorter lags"
    )
    assert refused(made.state, u[:2], y[:2]).startswith(
        "a series of 2 steps is too short to go on from: input"
    )
    assert refused(model(0).state, None, y[:2]).endswith(
        "output lags up to 3 take at least 3; give a longer one, or shorter lags"
    )
    assert made.open_loop(u[:4], y[:4]).shape == (1, B, O)


@pytest.mark.parametrize("gap", [torch.nan, torch.inf])
def test_gaps_are_named(gap):
    made, (u, y) = model(), series()
    broken, driven = y.clone(), u.clone()
    broken[4, 1, 2] = driven[6, 0, 1] = gap
    assert refused(made.open_loop, u, broken) == (
        f"y has a gap: y[2] at step 4 of series 1 is {gap}; fill it in, or cut the series there"
    )
    assert refused(made.open_loop, driven, y).startswith(f"u has a gap: u[1] at step 6 of series 0 is {gap}")
    assert refused(made, driven).startswith("u has a gap: u[1] at step 6 of series 0")
    assert refused(made.open_loop, u[:, 1], broken[:, 1]).startswith("y has a gap: y[2] at step 4 is")
    assert refused(made.state, u[:6], broken[:6]).startswith("y has a gap: y[2] at step 4 of series 1")
    made.state(u[:8], broken[:8])  # the gap is out of reach
    state = zeros()
    state["y3"][0, 0] = gap
    assert refused(made, u, state) == "state 'y3' has a gap: a value of it is not finite"


def test_a_run_that_diverges_is_stopped_and_named(monkeypatch):
    made = NARX(0, 1, 2, activation="relu", init={"*.bias": 0.0, "h.y1": 1.0, "y.h": 1.0}, dtype=DOUBLE)
    state = {"y1": torch.tensor([[0.5], [1.0]], dtype=DOUBLE)}  # y doubles at each step
    monkeypatch.setattr(module, "STRIDE", 8)
    runs = []
    made.layer.register_forward_hook(lambda *_: runs.append(1))
    with pytest.raises(DivergedError) as caught:
        made(1000, state, limit=1000.0)
    assert one_line(caught.value) == (
        "the free run diverged: y[0] of series 1 is 1.02e+03 at step 9, beyond 1000; train in closed loop "
        "too, run fewer steps, or bound y with output='tanh'"
    )
    assert len(runs) == 2  # it does not run on
    alone = {"y1": torch.tensor([0.95], dtype=DOUBLE)}  # twice that after the first step
    with pytest.raises(DivergedError, match=r"y\[0\] is 1.99e\+06 at step 20, beyond 1e\+06"):
        made(1000, alone)
    assert made(20, alone)[0].shape == (20, 1)
