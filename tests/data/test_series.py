import numpy as np
import pytest

from unrolled.data import read_series
from unrolled.data.sources import SOURCES
from unrolled.errors import DataError


def test_numbers_are_read_line_by_line(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("1\n -2.5 \r\n3e4\n\n\n")
    label, values = read_series(path)
    assert label == "mine.txt"
    assert values.dtype == np.float64
    assert values.tolist() == [1.0, -2.5, 30000.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\ntwo\n3\n", "line 2 of mine.txt is 'two': a series is a text of one number a line."),
        ("1 2\n3\n", "line 1 of mine.txt is '1 2': a series is"),
        ("1\n\n3\n", "line 2 of mine.txt is empty: a series has no gaps. Fill them in, or cut it there."),
        ("1\n2\nnan\n3\n", "line 3 of mine.txt is nan: a series has no gaps."),
        ("1\n-inf\n", "line 2 of mine.txt is -inf: a series has no gaps."),
    ],
)
def test_what_is_no_number_is_told_by_its_line(tmp_path, text, message):
    path = tmp_path / "mine.txt"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read_series(path)
    assert str(caught.value).startswith(message)


def test_a_data_set_that_is_not_here_says_how_to_get_it(cache):
    with pytest.raises(
        DataError, match="the data set laser is not here yet: run `unrolled data fetch laser`"
    ):
        read_series("laser")
    assert SOURCES["laser"].kind == "text"
