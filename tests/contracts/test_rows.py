"""Sequences of different lengths give what each gives alone: in kernels, in the reference, for every cell."""

from itertools import product

import pytest
import torch
from torch import Tensor

from cases import DIVERSE, SETTINGS, Case, Setting, assert_same, flat, gradients
from conftest import Pieces
from unrolled import InputError, cells, scan
from unrolled.rows import Rows

LENGTHS = {
    "falling": [9, 7, 7, 4, 3, 1],
    "equal": [5, 5, 5],
    "none": [6, 2, 0, 0],
    "one": [8],
    "many": [13, 12, 12, 12, 11, 10, 9, 9, 7, 6, 6, 5, 3, 3, 2, 1, 1, 0],
}

each = pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.id)
ways = pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])


def packed(case: Case, rows: Rows) -> Tensor:
    """The rows of a case's x (T, B, D) that sequences have."""
    return case.x.flatten(0, 1)[rows.index_in(len(case.x), rows.B)]


def together(case: Case, rows: Rows, backend: str, reverse: bool, tokens: Tensor | None = None):
    x = packed(case, rows) if tokens is None else tokens.flatten()[rows.index_in(len(case.x), rows.B)]
    results = flat(*case.scan(x, rows=rows, backend=backend, reverse=reverse))
    return results | gradients(results, case.leaves)


def alone(case: Case, rows: Rows, reverse: bool):
    """Each sequence by itself, through the reference."""
    outputs, finals = [], []
    for b, length in enumerate(rows.lengths.tolist()):
        state = {name: value[b : b + 1] for name, value in case.state.items()}
        y, end = (case.scan(case.x[:length, b : b + 1], state, reverse=reverse)) if length else (None, state)
        outputs.append(y)
        finals.append(end)
    steps = [[y[t, 0] for y in outputs if y is not None and t < len(y)] for t in range(rows.T)]
    results = flat(
        torch.stack([row for step in steps for row in step]),
        {name: torch.cat([end[name] for end in finals]) for name in case.state},
    )
    return results | gradients(results, case.leaves)


@ways
@each
def test_together_they_give_what_each_gives_alone(setting: Setting, reverse: bool) -> None:
    rows = Rows(torch.tensor(LENGTHS["falling"]))
    case = setting.case(rows.T, rows.B)
    expected = alone(case, rows, reverse)
    assert_same(together(case, rows, "reference", reverse), expected, 1e-12)
    assert_same(together(case, rows, "cpu", reverse), expected, 1e-11)


CUTS = (
    *product((1, 2), LENGTHS, (False, True)),
    *((4, "falling", False), (4, "many", True)),  # more workers than most processors have cores
)


@pytest.mark.parametrize(("threads", "lengths", "reverse"), CUTS)
@pytest.mark.parametrize("setting", DIVERSE, ids=lambda s: s.id)
def test_however_the_work_is_cut(
    setting: Setting, reverse: bool, threads: int, lengths: str, pieces: Pieces
) -> None:
    rows = Rows(torch.tensor(LENGTHS[lengths]))
    case = setting.sized(3, 21).case(rows.T, rows.B)
    expected = together(case, rows, "reference", reverse)
    for chunk in (1000, 3 * rows.B):
        for few in (0, 100) if threads > 1 else (0,):  # workers share rows, or units
            pieces(chunk=chunk, small=1, few=few, threads=threads)
            found = together(case, rows, "cpu", reverse)
            assert_same(found, expected, 1e-10)
            again = together(case, rows, "cpu", reverse)
            assert all(torch.equal(found[name], again[name]) for name in found)


def padded(case: Case, rows: Rows, backend: str, reverse: bool, tokens: Tensor | None = None):
    """As `together`, of a padded batch in another order, with NaN where sequences have no steps."""
    columns = torch.randperm(rows.B)
    there = (torch.arange(rows.T)[:, None] < rows.lengths)[:, columns]
    batch = Rows.of_batch(rows.T, rows.lengths[columns])
    if tokens is None:
        x = case.x[: rows.T, columns].masked_fill(~there[..., None], torch.nan)
    else:
        x = tokens[: rows.T, columns].masked_fill(~there, 1 << 40)
    state = {name: value[columns] for name, value in case.state.items()}
    y, end = case.scan(x, state, rows=batch, backend=backend, reverse=reverse)
    assert not y[~there].any()
    back = columns.argsort()
    outputs = y[:, back].flatten(0, 1)[rows.index]
    results = flat(outputs, {name: value[back] for name, value in end.items()})
    return results | gradients(results, case.leaves)


@ways
@each
def test_a_padded_batch_gives_what_its_packed_rows_give(
    setting: Setting, reverse: bool, pieces: Pieces
) -> None:
    for name in LENGTHS if setting in DIVERSE else ("falling", "none"):
        rows = Rows(torch.tensor(LENGTHS[name]))
        case = setting.sized(5, 5).case(rows.T, rows.B)
        expected = together(case, rows, "reference", reverse)
        for chunk, few, threads in ((1000, 0, 1), (2 * rows.B, 0, 2), (1, 100, 2)):
            pieces(chunk=chunk, small=1, few=few, threads=threads)
            assert_same(padded(case, rows, "cpu", reverse), expected, 1e-10)
        assert_same(padded(case, rows, "reference", reverse), expected, 1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@ways
def test_a_padded_batch_of_tokens(reverse: bool, dtype: torch.dtype, pieces: Pieces) -> None:
    """What is no token is not looked at where there is no step."""
    rows = Rows(torch.tensor(LENGTHS["many"]))
    case = Setting(cells.lstm, 4, 5).case(rows.T, rows.B)
    tokens = torch.randint(4, (rows.T, rows.B))
    with torch.no_grad():
        state, parameters = ({n: t.to(dtype) for n, t in p.items()} for p in (case.state, case.parameters))
    case = Case(
        case.cell,
        case.x,
        {name: value.requires_grad_() for name, value in state.items()},
        {name: value.requires_grad_() for name, value in parameters.items()},
    )
    expected = together(case, rows, "cpu", reverse, tokens)
    pieces(chunk=2 * rows.B, small=1, threads=2)
    assert_same(padded(case, rows, "cpu", reverse, tokens), expected, 1e-5 if dtype.itemsize == 4 else 1e-12)


@pytest.mark.parametrize("name", ["lstm", "gru_cho", "mut1"])
@ways
def test_tokens(name: str, reverse: bool) -> None:
    rows = Rows(torch.tensor(LENGTHS["falling"]))
    case = Setting(cells.find(name), 4, 5).case(rows.T, rows.B)
    tokens = torch.randint(4, (rows.T, rows.B))
    found, expected = (together(case, rows, backend, reverse, tokens) for backend in ("cpu", "reference"))
    assert_same(found, expected, 1e-12)


def test_gradients_of_gradients_are_those_of_the_reference() -> None:
    rows = Rows(torch.tensor([3, 2, 0]))
    case = Setting(cells.gru, 2, 3).case(3, 3)

    def second(backend: str) -> dict[str, Tensor]:
        y, _ = scan(case.cell, packed(case, rows), case.state, case.parameters, rows=rows, backend=backend)
        (d_x,) = torch.autograd.grad(y.square().sum(), case.x, create_graph=True)
        return gradients({"d_x": d_x}, case.leaves)

    assert_same(second("cpu"), second("reference"), 1e-12)


def test_sequences_of_equal_length_are_a_batch() -> None:
    case = Setting(cells.lstm, 3, 5).case(4, 6)
    rows = Rows(torch.full((6,), 4))
    found, expected = together(case, rows, "cpu", False), flat(*case.scan(backend="cpu"))
    assert torch.equal(found["outputs"].view(4, 6, 5), expected["outputs"])
    for name, value in gradients(expected, case.leaves).items():
        if name == "d h.bias":
            assert torch.equal(found[name], value)


def test_no_steps_at_all_leave_states_as_they_are() -> None:
    rows = Rows(torch.zeros(3, dtype=torch.long))
    case = Setting(cells.lstm, 3, 5).case(2, 3)
    for backend in ("cpu", "reference"):
        y, end = case.scan(case.x.flatten(0, 1)[:0], rows=rows, backend=backend)
        assert y.shape == (0, 5)
        assert all(torch.equal(end[name], value) for name, value in case.state.items())


def test_rows_that_do_not_fit_are_refused() -> None:
    rows = Rows(torch.tensor([3, 1]))
    case = Setting(cells.gru, 3, 5).case(2, 2)
    with pytest.raises(InputError, match="x has 5 rows, but its sequences have 4 steps together"):
        case.scan(torch.randn(5, 3).double(), rows=rows)
    with pytest.raises(InputError, match=r"x has shape \(4, 1, 3\), expected \(N, D\)"):
        case.scan(torch.randn(4, 1, 3).double(), rows=rows, backend="cpu")
    for backend in ("cpu", "reference"):
        with pytest.raises(InputError, match=r"x has shape \(4, 2, 3\), but .* padded to \(3, 2\)"):
            case.scan(torch.randn(4, 2, 3).double(), rows=Rows.of_batch(3, rows.lengths), backend=backend)
