"""Kernels read what they were given or wrote themselves, write what is theirs, and give memory back."""

import gc
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cases import (
    Case,
    Setting,
    assert_same,
    encoded,
    exchanged,
    flat,
    gradients,
    keyed,
    namesakes,
    predictive,
    row_numbers,
    slstm,
    tower,
    two_outputs,
    two_products,
)
from cases import direct as direct_cell
from conftest import Pieces
from unrolled import LSTM, Recurrent, cells
from unrolled.cell import EquationCell
from unrolled.compile import direct, memory, recurrence
from unrolled.nn.direct import DirectStack
from unrolled.rows import Rows
from unrolled.train.flat import flatten

TRIED = (
    *(cells.lstm.with_options(peepholes="vector", projection=True), cells.gru_cho, cells.indrnn),
    *(cells.layer_norm_lstm, slstm, namesakes, exchanged, predictive, row_numbers, encoded, keyed, tower),
    *(two_outputs, two_products),
)

each = pytest.mark.parametrize("cell", TRIED, ids=lambda cell: cell.name)


class Guarded:
    """`torch`, where `empty` and `zeros` lie between numbers that nobody may touch; what is empty is NaN."""

    GUARD = 64
    SENTINEL = 12345.678

    def __init__(self) -> None:
        self.memory: list[np.ndarray] = []

    def __getattr__(self, name: str) -> object:
        return getattr(torch, name)

    def _between(self, size: tuple[int, ...], dtype: torch.dtype, fill: float) -> Tensor:
        count = int(np.prod(size, dtype=int))
        guard = self.GUARD
        whole = np.full(count + 2 * guard + 16, self.SENTINEL, "f4" if dtype == torch.float32 else "f8")
        begin = -whole.ctypes.data % 64 // whole.itemsize  # a cache line's beginning
        whole = whole[begin : begin + count + 2 * guard]
        whole[guard : guard + count] = fill
        self.memory.append(whole)
        return torch.from_numpy(whole[guard : guard + count].reshape(size))

    def empty(self, size: int | tuple[int, ...], dtype: torch.dtype, device: str = "cpu") -> Tensor:
        return self._between((size,) if isinstance(size, int) else tuple(size), dtype, np.nan)

    def zeros(self, size: int | tuple[int, ...], dtype: torch.dtype, device: str = "cpu") -> Tensor:
        return self._between((size,) if isinstance(size, int) else tuple(size), dtype, 0.0)

    def assert_untouched(self) -> None:
        assert self.memory
        for whole in self.memory:
            sentinel = np.full(self.GUARD, self.SENTINEL, whole.dtype)
            np.testing.assert_array_equal(whole[: self.GUARD], sentinel)
            np.testing.assert_array_equal(whole[-self.GUARD :], sentinel)


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Guarded]:
    """All memory that kernels get is guarded, and nothing but NaN before they write to it."""
    made = Guarded()
    monkeypatch.setattr(recurrence, "torch", made)
    monkeypatch.setattr(recurrence, "workspace", made.empty)
    monkeypatch.setattr(recurrence, "scratch", made.empty)
    monkeypatch.setattr(direct, "torch", made)
    yield made
    made.assert_untouched()


def between_nan(tensor: Tensor) -> Tensor:
    """The same numbers with NaN before and behind them in memory."""
    around = torch.full((tensor.numel() + 64,), torch.nan, dtype=tensor.dtype)
    around[32:-32] = tensor.detach().flatten()
    return around[32:-32].view(tensor.shape).requires_grad_()


def computed(case: Case, x: Tensor | None = None, **options: Any) -> dict[str, Tensor]:
    results = flat(*case.scan(x, backend="cpu", **options))
    leaves = {name: leaf for name, leaf in case.leaves.items() if x is None or name != "x"}
    return {name: value.detach() for name, value in results.items()} | gradients(results, leaves)


@pytest.mark.parametrize("tokens", [False, True], ids=["vectors", "tokens"])
@pytest.mark.parametrize(("B", "threads"), [(1, 1), (2, 2), (9, 1), (9, 2)])
@each
def test_no_number_from_elsewhere_is_read_and_none_is_written(
    cell: EquationCell, B: int, threads: int, tokens: bool, pieces: Pieces, request: pytest.FixtureRequest
) -> None:
    """Neither outside of what kernels get, nor in it before they wrote there."""
    for H in (5, 19):
        case = Setting(cell, 3, H).case(T=5, B=B)
        x = torch.randint(3, (5, B)) if tokens else None
        pieces(chunk=2 * B, small=1, threads=threads)
        expected = computed(case, x)
        guarded = request.getfixturevalue("guarded")
        there = Case(
            case.cell,
            between_nan(case.x),
            {name: between_nan(value) for name, value in case.state.items()},
            {name: between_nan(value) for name, value in case.parameters.items()},
        )
        assert_same(computed(there, x), expected)
        with torch.no_grad():
            y, _ = there.scan(x, backend="cpu")
        assert_same({"outputs": y}, {"outputs": expected["outputs"]}, 1e-15)
        guarded.assert_untouched()


@pytest.mark.parametrize("tokens", [False, True], ids=["vectors", "tokens"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_padded_batch_keeps_to_its_memory(
    threads: int, dtype: torch.dtype, tokens: bool, pieces: Pieces, request: pytest.FixtureRequest
) -> None:
    rows = Rows.of_batch(6, torch.tensor([2, 5, 0, 4, 5]))  # there is a step that none has
    for cell in (cells.lstm, cells.gru_cho, cells.layer_norm_lstm, row_numbers, encoded, direct_cell):
        case = Setting(cell, 3, 19).case(T=6, B=5)
        case = Case(
            cell,
            between_nan(case.x.to(dtype)),
            {name: between_nan(value.to(dtype)) for name, value in case.state.items()},
            {name: between_nan(value.to(dtype)) for name, value in case.parameters.items()},
        )
        x = torch.randint(3, (6, 5)) if tokens and cell is not direct_cell else None
        pieces(chunk=7, small=1, threads=threads)
        expected = computed(case, x, rows=rows)
        guarded = request.getfixturevalue("guarded")
        assert_same(computed(case, x, rows=rows), expected)
        guarded.assert_untouched()


def test_a_layer_without_autograd_keeps_to_its_memory(guarded: Guarded) -> None:
    for cell in (cells.lstm, cells.gru_cho, cells.layer_norm_rnn):
        stack = Recurrent(cell, 9, 21, 2, dtype=torch.float64)
        whole = flatten(stack)
        made = DirectStack(stack, 6, 4)
        made.x.copy_(torch.randint(9, (6, 4)))
        d_y = torch.randn(6, 4, 21, dtype=torch.float64)
        whole.grad.zero_()
        made.d_y.copy_(d_y)
        made.forward(None)
        made.backward()
        found, y = whole.grad.clone(), made.y.clone()
        whole.grad.zero_()
        expected, _ = stack(made.x)
        expected.backward(d_y)
        assert torch.equal(y, expected)
        assert torch.equal(found, whole.grad)


@pytest.mark.parametrize("cell", [cells.lstm, slstm, row_numbers], ids=lambda cell: cell.name)
def test_memory_that_is_used_again_reaches_no_result(
    cell: EquationCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of a megabyte and more come back with the numbers of whoever had them."""
    case = Setting(cell, 20, 70).case(T=40, B=12)
    expected = computed(case)
    for _ in range(3):
        for size in {size for size, _ in memory._free}:
            lease = memory.workspace((size // 8,), torch.float64)
            lease.fill_(torch.nan)
            del lease
        assert_same(computed(case), expected)


def test_the_memory_of_training_does_not_grow_and_is_given_back() -> None:
    gc.collect()
    with memory._lock:
        memory._take_back()
    before = memory._use["now"]
    layer = LSTM(24, 96)
    x = torch.randn(64, 32, 24)
    seen: set[tuple[int, int]] = set()

    def blocks() -> set[tuple[int, int]]:
        with memory._lock:
            memory._take_back()
            return {(size, block.ctypes.data) for size, block in memory._free}

    for step in range(104):
        y, _ = layer(x)
        y.square().mean().backward()
        layer.zero_grad()
        del y
        if step < 4:
            seen |= blocks()
        assert blocks() <= seen
        assert memory._use["now"] == before
        assert memory._use["free"] == sum(size for size, _ in blocks())
    assert seen, "no block is large enough to be kept"


def test_what_is_kept_was_in_use_at_once() -> None:
    most = memory._use["most"]
    large = [memory.workspace((most // 4 + (k << 20),), torch.float64) for k in range(3)]
    del large
    for k in range(40):  # of ever other sizes
        memory.workspace(((2 + k) << 18,), torch.float64)
        with memory._lock:
            memory._take_back()
        assert memory._use["now"] + memory._use["free"] <= memory._use["most"]


def test_giving_back_waits_for_nobody() -> None:
    """A collection of garbage may give memory back in the midst of a request for some."""
    lease = [memory.workspace((1 << 18,), torch.float64)]
    thread = threading.Thread(target=lease.clear, daemon=True)
    with memory._lock:
        thread.start()
        thread.join(20)
        assert not thread.is_alive()
