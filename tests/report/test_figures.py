"""The loss figure is a PNG of one size, whatever there is to draw."""

import io
from itertools import pairwise

import numpy as np
import pytest
from matplotlib import image

from unrolled.report.figures import _smoothed, loss_figure

BASELINES = {"uniform": 6.0, "3-gram": 2.5}


def training(count: int) -> list[dict[str, float]]:
    return [{"step": n, "loss": 2.0, "bits_per_character": 6 / (1 + n / 50)} for n in range(1, count + 1)]


def measured(step: int, bits: float | None = 4.0) -> dict[str, float | None]:
    return {"step": step, "held_out_bits_per_character": bits}


def pixels(png: bytes) -> np.ndarray:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    return image.imread(io.BytesIO(png), format="png")


@pytest.mark.parametrize(
    "records",
    [
        [],
        [measured(0)],
        training(1),
        [measured(0), *training(300), measured(300)],
        [{"step": 0, "shown": "to be"}],
        [measured(0), *training(3), measured(3, None)],
    ],
    ids=[
        "none",
        "only step 0",
        "one step",
        "a training",
        "only a sample",
        "a measurement that was not finite",
    ],
)
def test_a_figure_is_a_png_of_8_by_4_5_inches_at_120_dots(records):
    assert pixels(loss_figure(records, BASELINES, "lstm on a text")).shape[:2] == (540, 960)


def test_a_figure_shows_its_records_and_baselines():
    records = [measured(0), *training(300), measured(300)]
    full = loss_figure(records, BASELINES, "title")
    assert loss_figure(records, BASELINES, "title") == full
    for other in (
        loss_figure(records[1:-1], BASELINES, "title"),
        loss_figure([records[0], records[-1]], BASELINES, "title"),
        loss_figure(records, {"uniform": 6.0}, "title"),
        loss_figure(records, {}, "title"),
        loss_figure(records, BASELINES, "another"),
    ):
        assert (pixels(other) != pixels(full)).any()


def test_few_points_are_not_smoothed_and_many_are():
    few = [(n, float(n % 2)) for n in range(50)]
    assert _smoothed(few) == few
    many = [(n, float(n % 2)) for n in range(5000)]
    smooth = [value for _, value in _smoothed(many)]
    assert [step for step, _ in _smoothed(many)] == list(range(5000))
    assert abs(smooth[-1] - 0.5) < 0.01
    assert max(abs(a - b) for a, b in pairwise(smooth[500:])) < 0.011


def test_the_smoothed_line_does_not_lag_behind_a_steep_start():
    falling = [(n, 1 / (1 + n / 50)) for n in range(5000)]
    for (_, raw), (_, smooth) in zip(falling, _smoothed(falling), strict=True):
        assert raw <= smooth < 1.4 * raw


def test_a_constant_stays_what_it_is():
    assert [value for _, value in _smoothed([(n, 1.25) for n in range(200)])] == pytest.approx([1.25] * 200)
