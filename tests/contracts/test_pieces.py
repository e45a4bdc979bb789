"""However the work is cut, by chunks of time or among workers, the numbers are those of the whole."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cases import (
    Case,
    Setting,
    assert_same,
    attending,
    by_sign,
    carried,
    chained,
    delays,
    driven,
    encoded,
    exchanged,
    flat,
    gradients,
    keyed,
    log_sum,
    many_gates,
    namesakes,
    predictive,
    row_numbers,
    siamese,
    slstm,
    spherical,
    stepped,
    tower,
    two_products,
)
from conftest import Pieces
from unrolled import cells
from unrolled.cell import EquationCell

ROUNDING = {torch.float64: 1e-12, torch.float32: 2e-4}

CUT = (
    *(cells.lstm.with_options(peepholes="vector"), cells.gru_cho, cells.mut1, cells.layer_norm_lstm),
    *(slstm, two_products, namesakes, exchanged, predictive, row_numbers, encoded, siamese, keyed, tower),
)

SHARED = (
    *(cells.gru_cho, cells.mut1, cells.lstm, cells.lstm.with_options(projection=True), cells.mgu),
    *(cells.layer_norm_rnn, cells.layer_norm_lstm, row_numbers, attending, spherical, log_sum),
    *(
        chained,
        exchanged,
        carried,
        driven,
        two_products,
        tower,
        many_gates,
        namesakes,
        stepped,
        by_sign,
        delays,
        siamese,
    ),
)
"""Cells whose workers may share the units: nothing goes over the units of a row but a matrix."""


def case_of(cell: EquationCell, T: int, B: int, D: int, H: int, dtype: torch.dtype = torch.float64) -> Case:
    """Random numbers at which rounding does not grow."""
    case = Setting(cell, D, H).case(T, B)

    def cast(value: Tensor) -> Tensor:
        small = value.detach() / max(value.shape[-1], 2) ** 0.5 if value.ndim == 2 else value.detach()
        return small.to(dtype).requires_grad_()

    return replace(
        case,
        x=cast(case.x),
        state={name: cast(value) for name, value in case.state.items()},
        parameters={name: cast(value) for name, value in case.parameters.items()},
    )


def computed(case: Case, x: Tensor | None = None, **options: bool | str) -> dict[str, Tensor]:
    """Results, and the gradient of a random sum of them with respect to every leaf."""
    results = flat(*case.scan(x, **{"backend": "cpu", **options}))
    leaves = {name: leaf for name, leaf in case.leaves.items() if x is None or name != "x"}
    return {name: value.detach() for name, value in results.items()} | gradients(results, leaves)


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("tokens", [False, True], ids=["vectors", "tokens"])
@pytest.mark.parametrize("B", [1, 3, 8])
@pytest.mark.parametrize("cell", CUT, ids=lambda cell: cell.name)
def test_several_chunks_are_one(
    cell: EquationCell, B: int, tokens: bool, reverse: bool, pieces: Pieces
) -> None:
    """Eight rows are more than a chunk needs; 11 steps leave a shorter chunk at the end."""
    case = case_of(cell, 11, B, 5, 9)
    x = torch.randint(5, (11, B)) if tokens else None
    pieces(chunk=1000)
    expected = computed(case, x, reverse=reverse)
    assert_same(expected, computed(case, x, reverse=reverse, backend="reference"), 1e-11)
    for chunk in (1, 6):
        pieces(chunk=chunk)
        assert_same(computed(case, x, reverse=reverse), expected, ROUNDING[torch.float64])


@pytest.mark.parametrize("threads", [2, 3, 4])
@pytest.mark.parametrize("H", [17, 20, 31, 33, 48])
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("cell", [cells.gru_cho, cells.mut1, cells.lstm], ids=lambda cell: cell.name)
def test_workers_that_share_the_units_cut_no_tile(
    cell: EquationCell, dtype: torch.dtype, H: int, threads: int, pieces: Pieces
) -> None:
    """A pass with two destinations has other tiles than one with three, forwards or backwards."""
    case = case_of(cell, 6, 2, 3, H, dtype)
    pieces()
    expected = computed(case)
    pieces(small=1, threads=threads)
    assert_same(computed(case), expected, ROUNDING[dtype])


@pytest.mark.parametrize("cell", SHARED, ids=lambda cell: cell.name)
def test_workers_that_share_the_units_wait_for_each_other(cell: EquationCell, pieces: Pieces) -> None:
    case = case_of(cell, 12, 2, 5, 40)
    expected = computed(case, backend="reference")
    pieces(small=1, threads=2, chunk=8)
    first = computed(case)
    assert_same(first, expected, 1e-11)
    for _ in range(20):
        assert_same(computed(case), first)
        with torch.no_grad():  # states then have two rows in turn
            found = flat(*case.scan(backend="cpu"))
        assert_same(found, {name: expected[name] for name in found}, 1e-11)


@pytest.mark.parametrize("threads", [2, 3, 4])
@pytest.mark.parametrize("cell", [cells.lstm, cells.layer_norm_rnn, slstm], ids=lambda cell: cell.name)
def test_workers_that_share_the_rows_wait_for_each_other(
    cell: EquationCell, threads: int, pieces: Pieces
) -> None:
    case = case_of(cell, 12, 17, 5, 20)
    expected = computed(case, backend="reference")
    pieces(small=1, threads=threads, chunk=8)
    first = computed(case)
    assert_same(first, expected, 1e-11)
    for _ in range(20):
        assert_same(computed(case), first)


def test_more_workers_than_rows_or_units(pieces: Pieces) -> None:
    for cell in (cells.gru_cho, cells.layer_norm_rnn):
        for B, H in ((1, 1), (1, 40), (2, 3)):
            case = case_of(cell, 3, B, 2, H)
            expected = computed(case, backend="reference")
            pieces(small=1, threads=4)
            assert_same(computed(case), expected, 1e-11)
