"""Laws of line charts: numbers, ticks, points, gaps, bands, marks."""

import json
import math
import random
import re
from itertools import combinations

import numpy as np
import pytest
from parsed_page import Tree, axis, drawn, line_chart, parsed, show

from unrolled.report.lines import MOST_POINTS, spread, thinned
from unrolled.report.page import Mark, Series
from unrolled.report.scales import number, scale_over, ticks


@pytest.mark.parametrize(
    "value", [0, 1, -1, 1234567, 0.5, -0.25, 1e-300, 5e-324, 1.7e308, 123.456, 9999.96, 1e-4]
)
def test_a_number_says_its_value_to_four_digits(value):
    assert parsed(number(value)) == pytest.approx(value, rel=5.1e-4, abs=0)


def test_numbers_of_any_size_say_their_value():
    draws = random.Random(0)
    for _ in range(2000):
        value = draws.choice((-1, 1)) * 10 ** draws.uniform(-300, 300)
        assert parsed(number(value)) == pytest.approx(value, rel=5.1e-4)
        assert len(number(value)) < 14


def test_numbers_are_written_for_readers():
    written = (
        (1_050_624, "1,050,624"), (0.1 + 0.2, "0.3"), (1e-40, "10⁻⁴⁰"), (-1.25e-40, "−1.25×10⁻⁴⁰"),
        (None, "–"), (math.nan, "–"), (math.inf, "∞"), (-math.inf, "−∞"), (np.float32(2), "2"),
        (10**9, "1,000,000,000"), (0.0, "0"), (-0.0, "0"), (1e9, "10⁹"),
        (12345.6, "12,346"), (-1e-5, "−10⁻⁵"), (20e8, "2×10⁹"),
    )  # fmt: skip
    for value, text in written:
        assert number(value) == text


@pytest.mark.parametrize("log_y", [False, True])
@pytest.mark.parametrize("log_x", [False, True])
def test_every_point_stands_where_its_values_are_on_the_axes(log_x, log_y):
    """To half a pixel, by what the labels of the axes say."""
    draws = random.Random(1)
    x = [0.001 * 1.2**k for k in range(100)] if log_x else [draws.uniform(-50, 900) for _ in range(100)]
    y = [10 ** draws.uniform(-300, 3) if log_y else draws.uniform(-3, 7) for _ in x]
    tree = Tree(show(line_chart(Series("a", x, y), log_x=log_x, log_y=log_y)))
    (points,) = drawn(tree)
    height = float(tree.find("svg")[-1]["viewbox"].split()[3])
    across, down = axis(tree, "xs", log_x), axis(tree, "ys", log_y)
    assert len(points) == len(x)
    for (px, py), a, b in zip(points, x, y, strict=True):
        assert px == pytest.approx(1000 * across(a), abs=0.5)
        assert py == pytest.approx(height * down(b), abs=0.5)
        assert -0.5 <= px <= 1000.5
        assert -0.5 <= py <= height + 0.5


@pytest.mark.parametrize("missing", [None, math.nan, math.inf, -math.inf])
def test_what_is_missing_is_a_gap_and_points_alone_are_seen(missing):
    tree = Tree(show(line_chart(Series("a", range(7), [1, 2, missing, 3, missing, 5, 6]))))
    assert [len(run) for run in drawn(tree)] == [2, 1, 2]
    assert re.search(r"M[\d. ]+h0", next(e for e in tree.find("path", "line") if "h0" in e["d"])["d"])
    data = json.loads(tree.find("script")[0]["text"])
    assert [y is None for y in data["series"][0]["y"]] == [False, False, True, False, True, False, False]


def test_zero_has_no_place_on_a_logarithmic_axis_and_the_page_says_so():
    html = show(line_chart(Series("a", range(4), [1, 0, -1, 0.1]), log_y=True))
    assert "2 values are zero or less and so not drawn." in html
    assert [len(run) for run in drawn(Tree(html))] == [1, 1]
    assert "so not drawn" not in show(line_chart(Series("a", range(4), [1, 0, -1, None])))


def test_a_band_follows_its_edges_and_goes_to_the_foot_where_it_reaches_zero():
    tree = Tree(show(line_chart(Series("a", [0, 1, 2], [1, 2, 3], [0, 1, 2], [2, 3, 4]))))
    (outline,) = drawn(tree, style="band")
    down = axis(tree, "ys", False)
    assert [y for _, y in outline] == pytest.approx([300 * down(v) for v in (2, 3, 4, 2, 1, 0)], abs=0.5)
    tree = Tree(show(line_chart(Series("a", [0, 1], [1, 2], [0, 1], [2, 3]), log_y=True)))
    assert drawn(tree, style="band")[0][-1] == (0, 300)
    tree = Tree(show(line_chart(Series("a", range(5), [1] * 5, [0, 0, None, 0, 0], [2, 2, 2, 2, 2]))))
    assert len(tree.find("path", "band")) == 2


def test_thinning_keeps_the_extremes_of_every_column_and_gaps():
    draws = random.Random(2)
    y = [draws.gauss(0, 1) for _ in range(10_000)]
    y[1234], y[7001] = 99.0, -99.0
    gaps = {5000, 5001, 8000}
    y = [math.nan if k in gaps else v for k, v in enumerate(y)]
    across = [k / 10 for k in range(10_000)]
    down = [None if math.isnan(v) else v for v in y]
    kept = thinned(across, down)
    assert len(kept) <= MOST_POINTS + 12
    assert kept == sorted(set(kept))
    assert {0, 1234, 5000, 7001, 8000, 9999} <= set(kept)
    width = 1000 / (MOST_POINTS / 4)
    for column in range(MOST_POINTS // 4):
        inside = [
            k for k in range(10_000) if column * width <= across[k] < (column + 1) * width and k not in gaps
        ]
        left = [y[k] for k in kept if k in set(inside)]
        assert min(left) == min(y[k] for k in inside)
        assert max(left) == max(y[k] for k in inside)
    html = show(line_chart(Series("a", across, y)))
    assert [len(run) > 0 for run in drawn(Tree(html))] == [True] * 3
    assert len(html) < 250_000


def test_short_lines_are_drawn_whole():
    places = [float(k) for k in range(MOST_POINTS)]
    assert thinned(places, places) == list(range(MOST_POINTS))


def test_names_beside_lines_keep_their_distance_and_their_order():
    draws = random.Random(3)
    for _ in range(200):
        heights = [draws.uniform(0, 300) for _ in range(draws.randint(1, 8))]
        found = spread(heights, 18, 300)
        assert all(abs(a - b) >= 18 - 1e-9 for a, b in combinations(found, 2))
        assert all(-1e-9 <= place <= 300 + 1e-9 for place in found)
        assert sorted(range(len(found)), key=found.__getitem__) == sorted(
            range(len(heights)), key=heights.__getitem__
        )
    assert spread([10, 50, 90], 18, 300) == [10, 50, 90]


def test_every_series_is_in_the_legend_or_many_are_a_ramp():
    for count in (1, 2, 8):
        html = show(line_chart(*(Series(f"line {k}", [0, 1], [k, 0]) for k in range(count))))
        assert [
            e["text"] for e in Tree(html).find("span", "series") if "legend" in e["parents"][-1]["class"]
        ] == [f"line {k}" for k in range(count)]
    tree = Tree(show(line_chart(*(Series(f"line {k}", [0, 1], [k, 0]) for k in range(30)))))
    assert tree.find("div", "legend")[0]["text"] == "line 0line 29"
    assert len({e["style"] for e in tree.find("g", "fan")}) == 30


@pytest.mark.parametrize(("axis_", "at", "log"), [("x", 3, False), ("y", 1e-7, True)])
def test_a_mark_stands_at_its_value(axis_, at, log):
    tree = Tree(
        show(line_chart(Series("a", [0, 10], [1, 1e-12]), log_y=log, marks=[Mark(axis_, at, "here")]))
    )
    (mark,) = tree.find("path", "mark")
    x, y = map(float, re.match(r"M([\d.]+) (-?[\d.]+)", mark["d"]).groups())
    if axis_ == "x":
        assert x == pytest.approx(1000 * axis(tree, "xs", False)(at), abs=0.5)
    else:
        assert y == pytest.approx(300 * axis(tree, "ys", log)(at), abs=0.5)
    assert tree.find("span", "mark-label")[0]["text"] == "here"


def test_marks_without_a_place_are_left_out():
    marks = [Mark("y", 0, "zero"), Mark("x", math.nan, "nowhere"), Mark("y", math.inf, "beyond")]
    assert not Tree(show(line_chart(Series("a", [0, 1], [1, 2]), log_y=True, marks=marks))).find(
        "path", "mark"
    )


def test_labels_of_marks_at_the_same_height_do_not_cover_each_other():
    marks = [Mark("y", 1.0, f"mark {k}") for k in range(4)]
    tree = Tree(show(line_chart(Series("a", [0, 1], [0, 2]), marks=marks)))
    assert len({e["style"] for e in tree.find("span", "mark-label")}) == 4


@pytest.mark.parametrize("log", [False, True])
def test_ticks_are_few_round_and_rising(log):
    draws = random.Random(4)
    for _ in range(500):
        low = 10 ** draws.uniform(-290, 280) if log else draws.uniform(-1, 1) * 10 ** draws.uniform(-250, 250)
        high = low * 10 ** draws.uniform(0.05, 20) if log else low + 10 ** draws.uniform(-3, 3) * abs(low)
        for rounded in (0, 5):
            scale = scale_over([low, high], log, rounded)
            found = ticks(scale, 6)
            assert 2 <= len(found) <= 9, (low, high)
            assert [t.at for t in found] == sorted({t.at for t in found})
            assert len({t.label for t in found}) == len(found), (low, high, found)
            for tick in found:
                assert scale.at(parsed(tick.label)) == pytest.approx(tick.at, abs=1e-3), (low, high, tick)
