"""Laws of heat maps, bars, coloured texts and tables."""

import base64
import json
import math
import re
import struct
import zlib

import numpy as np
import pytest
from parsed_page import Tree, axis, heat, show

from unrolled.report.page import Bars, Heat, Spans, Table


def shades(html):
    """The numbers of the colours of a heat map, in both schemes, and their colours."""
    tree = Tree(html)
    pictures = [e["src"] for e in tree.find("img")]
    for picture in pictures:
        data = base64.b64decode(picture.removeprefix("data:image/png;base64,"))
        assert data.startswith(b"\x89PNG\r\n\x1a\n")
        chunks, at = {}, 8
        while at < len(data):
            size, kind = struct.unpack(">I4s", data[at : at + 8])
            chunks[kind] = data[at + 8 : at + 8 + size]
            assert (
                zlib.crc32(kind + chunks[kind])
                == struct.unpack(">I", data[at + 8 + size : at + 12 + size])[0]
            )
            at += 12 + size
        columns, rows = struct.unpack(">II", chunks[b"IHDR"][:8])
        pixels = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(rows, columns + 1)
        assert not pixels[:, 0].any()
        yield pixels[:, 1:].astype(int), np.frombuffer(chunks[b"PLTE"], np.uint8).reshape(-1, 3)


def test_colours_rise_with_values_and_what_is_missing_has_its_own():
    values = [[0.0, 0.25, 0.5], [0.75, 1.0, None], [-3.0, 7.0, math.inf]]
    for pixels, palette in shades(show(heat(values))):
        assert pixels.tolist() == [[0, 63, 126], [190, 253, 254], [0, 253, 253]]
        assert len(palette) == 255
    assert "≤ 0" in show(heat(values))
    assert "no value" in show(heat(values))
    assert "no value" not in show(heat([[0, 1]]))


def test_zero_is_neutral_on_a_diverging_ramp():
    for pixels, palette in shades(show(heat([[-1.0, 0.0, 4.0]], -1, 4, diverging=True))):
        low, middle, high = pixels[0]
        assert (middle, high) == (126, 253)
        assert low == round(253 * 3 / 8)
        red, _, blue = palette[middle]
        assert abs(int(red) - int(blue)) < 25
        assert int(palette[0][2]) > int(palette[0][0])
        assert int(palette[253][0]) > int(palette[253][2])


def test_equal_limits_are_a_scale_of_one_colour():
    (pixels, _), _ = shades(show(heat([[2.0, 2.0]], 2, 2)))
    assert pixels.tolist() == [[126, 126]]


@pytest.mark.parametrize(("rows", "columns"), [(1000, 256), (256, 1000), (3, 100_000)])
def test_large_heat_maps_are_small_pages_and_show_means(rows, columns):
    values = np.random.default_rng(0).random((rows, columns))
    html = show(heat(values.tolist()))
    assert len(html) < 1_500_000
    data = json.loads(Tree(html).find("script")[0]["text"])
    found = np.array([float(text) for text in data["text"].split()]).reshape(len(data["y"]), len(data["x"]))
    down, across = map(int, re.search(r"the mean of (\d+) × (\d+) values", html).groups())
    assert found[0, 0] == pytest.approx(values[:down, :across].mean(), abs=1e-3)
    assert found[-1, -1] == pytest.approx(
        values[(len(found) - 1) * down :, (found.shape[1] - 1) * across :].mean(), abs=1e-3
    )
    assert data["x"][0] == (f"0 to {across - 1}" if across > 1 else "0")


def test_means_pass_over_what_is_missing():
    values = np.ones((1000, 256))
    values[:500] = math.nan
    values[600, 3] = math.inf
    values[601, 3] = -math.inf
    data = json.loads(Tree(show(heat(values.tolist()))).find("script")[0]["text"])
    assert {*data["text"].split()} == {"–", "1"}


def test_labels_of_a_heat_map_stand_at_the_middle_of_their_cells():
    tree = Tree(show(Heat("t", "", "x", "y", [[1, 2, 3, 4]] * 2, list("abcd"), ["p", "q"], 0, 4, "v")))
    places = {
        e["text"]: e["style"] for e in tree.find("span") if e["parents"][-1].get("class") in ("xs", "ys")
    }
    assert places == {"a": "left:12.5%", "b": "left:37.5%", "c": "left:62.5%", "d": "left:87.5%",
                      "p": "top:25%", "q": "top:75%"}  # fmt: skip
    assert json.loads(tree.find("script")[0]["text"])["text"] == "1 2 3 4 1 2 3 4"


def test_a_range_of_a_heat_map_may_run_backwards():
    tree = Tree(show(Heat("t", "", "x", "y", [[0.0] * 11], (10, 0), (0, 0), 0, 1, "v")))
    places = {e["text"]: e["style"] for e in tree.find("span") if e["parents"][-1].get("class") == "xs"}
    assert places["10"] == f"left:{round(50 / 11, 3):g}%"
    assert json.loads(tree.find("script")[0]["text"])["x"][:2] == ["10", "9"]


def test_bars_start_at_zero_and_end_at_their_values():
    values, low, high = [3.0, -1.5, None], [2.0, -2.0, None], [4.0, -1.0, None]
    tree = Tree(show(Bars("t", "", "x", ["a", "b", "c"], values, low, high)))
    across = axis(tree, "xs", False)
    ends = [sorted((float(e["x"]), float(e["x"]) + float(e["width"]))) for e in tree.find("rect")]
    for found, value in zip(ends, values[:2], strict=True):
        assert found == pytest.approx(sorted((1000 * across(0), 1000 * across(value))), abs=0.5)
    errors = [re.match(r"M([\d.]+) [\d.]+H([\d.]+)", e["d"]).groups() for e in tree.find("path", "error")]
    for found, edges in zip(errors, zip(low[:2], high[:2], strict=True), strict=True):
        assert [*map(float, found)] == pytest.approx([1000 * across(v) for v in edges], abs=0.5)
    assert json.loads(tree.find("script")[0]["text"])["text"] == [
        "3 (2 to 4)",
        "−1.5 (−2 to −1)",
        "– (– to –)",
    ]


def test_a_text_is_whole_and_its_pieces_are_coloured_by_their_values():
    pieces = [("To be", 0.5), ("\n", -1.0), ("or ", 0.0), ("<not>", None), ("!", 9.0)]
    tree = Tree(show(Spans("t", "", pieces, -1, 1, "v")))
    (text,) = tree.find("div", "text")
    assert text["text"] == "To be\nor <not>!"
    found = [e for e in tree.find("span") if e["parents"][-1] is text]
    assert [e["class"].split() for e in found] == [["p4"], ["n8", "end"], [], ["none"], ["p8"]]
    assert json.loads(tree.find("script")[0]["text"])["text"] == "0.5 −1 0 – 9"


def test_tables_write_numbers_for_readers_and_align_them():
    tree = Tree(show(Table("t", "", ["name", "n"], [["a", 1_234_567], ["b", None], ["c", 1e-40]])))
    assert [e["text"] for e in tree.find("td", "number")] == ["1,234,567", "–", "10⁻⁴⁰"]
    assert [e["text"] for e in tree.find("td", "short")] == ["a", "b", "c"]
