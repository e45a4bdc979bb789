"""Synthetic pairs are what they say, and the same for the same seed."""

import numpy as np
import pytest

from cases import one_line
from unrolled.errors import InputError
from unrolled.tasks.symbols import symbol_pairs


def test_a_sequence_is_copied_or_reversed():
    copied, reversed_ = symbol_pairs("copy(pairs=500)"), symbol_pairs("reverse(pairs=500)")
    assert [pair.source for pair in copied] == [pair.source for pair in reversed_]
    assert all(pair.target == pair.source for pair in copied)
    assert all(pair.target == pair.source[::-1] for pair in reversed_)
    assert symbol_pairs("copy(pairs=500)") == copied != symbol_pairs("copy(pairs=500)", seed=1)


def test_lengths_and_symbols_are_even():
    words = [
        pair.source.split() for pair in symbol_pairs("copy(shortest=3, longest=6, symbols=5, pairs=4000)")
    ]
    lengths = np.bincount([len(each) for each in words])
    assert lengths[:3].sum() == 0
    np.testing.assert_allclose(lengths[3:], 1000, rtol=0.12)
    letters, counts = np.unique([letter for each in words for letter in each], return_counts=True)
    assert "".join(letters) == "abcde"
    np.testing.assert_allclose(counts / counts.sum(), 0.2, rtol=0.06)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("revers", "no synthetic pairs 'revers'; there are copy, reverse"),
        ("copy(width=3)", "copy has no option 'width'; it has symbols, shortest, longest, pairs"),
        ("copy(pairs=-3)", "option pairs of copy is a whole number, got '-3'"),
        ("copy(pairs=0)", "option pairs of copy must be a whole number of at least 1"),
        ("copy(symbols=27)", "copy has from 2 to 26 symbols, got 27"),
        ("copy(shortest=50)", "copy has shortest=50, above longest=40"),
        ("copy(3)", "cannot read 'copy(3)'"),
    ],
)
def test_what_is_no_such_task_is_refused(text, message):
    with pytest.raises(InputError) as caught:
        symbol_pairs(text)
    assert one_line(caught.value).startswith(message)
