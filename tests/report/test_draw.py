"""The picture of a cell shows all of it, and nothing lies on anything else."""

import math
import random
import re
from functools import cache
from itertools import combinations, pairwise, permutations
from xml.etree import ElementTree

import pytest
import torch
from torch import exp, maximum, sigmoid, tanh, where

from unrolled import InputError, cell
from unrolled.cell import Cell
from unrolled.cells import CELLS, VARIANTS, find
from unrolled.formula import formulas
from unrolled.graph import Graph
from unrolled.report.draw import draw, sign, step_edges, step_layout
from unrolled.report.layers import isotonic, ordered
from unrolled.report.layout import LABEL_HEIGHT, Shape, arrange

SVG = "{http://www.w3.org/2000/svg}"


@cell(states="h m", outputs="y q", initial={"m": -math.inf})
def busy(x, u, h, m, W):
    """Two inputs, two outputs, an initial value, constants, a square and long names."""
    gate_of_input = sigmoid(W.gate_of_input(x, u, h))
    k = 2 * W.k(x) / 3 - abs(h) ** 2
    new_m = maximum(k, m)
    chosen = where(k > 0.5, exp(k - new_m), gate_of_input)
    new = tanh(chosen + h * h + W.scale_vector * h)
    return new, new_m, W.y(h=new), torch.relu(W.q(h=new, z=new))


@cell(states="h s")
def delay(x, h, s, W):
    """A state that is passed on, and one that nothing uses."""
    return tanh(W.a(x)), h


@cell(states="h")
def free(h, W):
    """No input."""
    return tanh(W.a(h)) + W.b


@cell(states="h")
def bare(x, h, W):
    """Nothing learned."""
    return h * h - h


WIDE = "lstm(peepholes=matrix, projection=true)"
ALL: dict[str, Cell] = {name: find(name) for name in (*CELLS, *VARIANTS, WIDE, "rnn(activation=maxout)")}
ALL |= {c.name: c for c in (busy, delay, free, bare)}
picture = cache(draw)
every_cell = pytest.mark.parametrize("shown", ALL.values(), ids=ALL)


def elements(svg: str, tag: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(svg).iter(SVG + tag))


def texts(svg: str) -> list[str]:
    """What the texts say, subscripts as `_ix`."""
    found = []
    for text in elements(svg, "text"):
        for span in text.iter(SVG + "tspan"):
            if span.get("class") == "sub":
                span.text = f"_{span.text}"
        found.append("".join(text.itertext()))
    return found


def nodes(svg: str) -> dict[str, tuple[float, float, float, float]]:
    """Left, top, right and bottom of every box by its key."""
    found = {}
    for rect in elements(svg, "rect"):
        if key := rect.get("data-node"):
            left, top, width, height = (float(rect.attrib[k]) for k in ("x", "y", "width", "height"))
            assert key not in found
            found[key] = (left, top, left + width, top + height)
    return found


def edges(svg: str) -> list[str]:
    return [path.attrib["data-edge"] for path in elements(svg, "path") if "data-edge" in path.attrib]


def drawn(graph: Graph) -> dict[str, int]:
    return {str(k): k for k, node in enumerate(graph.nodes) if node.kind != "constant"}


@every_cell
def test_the_file_is_well_formed_and_says_what_it_is(shown):
    svg = picture(shown)
    root = ElementTree.fromstring(svg)
    assert root.tag == SVG + "svg"
    assert root.get("viewBox") == f"0 0 {root.get('width')} {root.get('height')}"
    assert root.find(SVG + "title").text == shown.name
    assert all(line in root.find(SVG + "desc").text for line in formulas(shown.graph))
    assert "prefers-color-scheme: dark" in root.find(SVG + "style").text
    assert not re.search(r"href|url\(|@import|@font-face|<script", svg), "the file asks for something outside"


@every_cell
def test_every_map_vector_name_and_formula_appears(shown):
    found = texts(picture(shown))
    for node in shown.graph.nodes:
        if node.kind == "affine":
            assert f"W_{node.name}" in found
            assert (f"b_{node.name}" in found) == (node.bias is not None)
            assert set(node.sources) <= set(found)
        elif node.kind in ("vector", "input", "state"):
            assert any(text.startswith(node.name) for text in found)
    for name in shown.graph.names.values():
        assert name in found
    plain = [text.replace("_", "") for text in found]
    for line in formulas(shown.graph):
        assert line.replace("ₜ₋₁", "t−1").replace("ₜ", "t").replace("_", "") in plain


@every_cell
def test_every_node_and_every_edge_of_the_graph_is_drawn_once(shown):
    graph, svg = shown.graph, picture(shown)
    results = [*graph.states, *graph.outputs]
    expected = [(str(a), str(k)) for k, n in enumerate(graph.nodes) for a in n.args if str(a) in drawn(graph)]
    expected += [(str(k), f"new {name}") for name, k in zip(results, graph.results, strict=True)]
    assert sorted(e for e in edges(svg) if "weights" not in e) == sorted(f"{a} > {b}" for a, b in expected)
    assert {*drawn(graph), *(f"new {name}" for name in results)} <= nodes(svg).keys()


@every_cell
def test_an_edge_goes_from_its_source_to_its_target(shown):
    layout = step_layout(shown.graph)
    assert [(route.start, route.end) for route in layout.routes] == step_edges(shown.graph)
    for route in layout.routes:
        start, end = layout.boxes[route.start], layout.boxes[route.end]
        assert route.points[0] == (start.x + start.width / 2, start.y)
        x, y = route.points[-1]
        assert 0 <= x - (end.x - end.width / 2) < end.height / 2
        assert abs(y - end.y) < end.height / 2
        assert all(a[0] <= b[0] + 1e-9 for a, b in pairwise(route.points)), "a line runs backwards"
        assert all(a[1] == b[1] for a, b in zip(route.points[::2], route.points[1::2], strict=True))


@every_cell
def test_lines_enter_a_map_at_the_source_they_belong_to(shown):
    svg = picture(shown)
    boxes = nodes(svg)
    ports = [(t.text or "".join(t.itertext()), float(t.attrib["x"]), float(t.attrib["y"]))
             for t in elements(svg, "text") if t.get("class") == "port"]  # fmt: skip
    ends: dict[str, list[float]] = {}
    for path in elements(svg, "path"):
        if "data-edge" in path.attrib and "weights" not in path.attrib["data-edge"]:
            numbers = re.findall(r"-?[\d.]+", path.attrib["d"])
            ends.setdefault(path.attrib["data-edge"].partition(" > ")[2], []).append(float(numbers[-1]))
    for key, k in drawn(shown.graph).items():
        node = shown.graph.nodes[k]
        if node.kind == "affine":
            left, top, _, bottom = boxes[key]
            inside = {name: y for name, x, y in ports if left < x < left + 10 and top < y < bottom}
            for source, y in zip(node.sources, ends[key], strict=True):
                assert inside[source] == pytest.approx(y, abs=0.1)


@every_cell
def test_no_two_boxes_overlap(shown):
    for (a, (left, top, right, bottom)), (b, other) in combinations(nodes(picture(shown)).items(), 2):
        apart = right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top
        assert apart, f"{a} and {b}"


@every_cell
def test_no_line_runs_through_a_box_or_a_name(shown):
    graph = shown.graph
    layout = step_layout(graph)
    for route in layout.routes:
        bends = list(zip(route.points[1:-1:2], route.points[2:-1:2], strict=True))
        levels = list(zip(route.points[::2], route.points[1::2], strict=True))
        for key, box in layout.boxes.items():
            named = key.isdigit() and int(key) in graph.names
            left, right = box.x - box.width / 2, box.x + box.width / 2
            top, bottom = box.y - box.height / 2 - LABEL_HEIGHT * named, box.y + box.height / 2
            for (x0, _), (x1, _) in bends:
                assert right <= x0 + 1e-9 or x1 <= left + 1e-9, f"{route.start} > {route.end} bends at {key}"
            for (x0, y), (x1, _) in levels:
                if key not in (route.start, route.end) and x0 < right and left < x1:
                    assert not top < y < bottom, f"{route.start} > {route.end} crosses {key}"


@every_cell
def test_everything_is_inside_the_picture(shown):
    svg = picture(shown, steps=9)
    _, _, width, height = map(float, ElementTree.fromstring(svg).get("viewBox").split())
    for left, top, right, bottom in nodes(svg).values():
        assert left >= 0
        assert top >= 0
        assert right <= width
        assert bottom <= height


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
@every_cell
def test_unrolled_shows_each_step_with_its_input_states_and_the_one_set_of_weights(shown, steps):
    graph, svg = shown.graph, picture(shown, steps)
    boxes, times = nodes(svg), [str(t) for t in range(1, steps + 1)]

    def keys(prefix: str) -> list[str]:
        return [key.removeprefix(prefix) for key in boxes if key.startswith(prefix)]

    assert keys("step ") == times
    assert keys("input at ") == (times if graph.inputs else [])
    assert keys("output at ") == times
    shared = [f"weights > step {t}" for t in times] if graph.parameters else []
    assert [edge for edge in edges(svg) if edge.startswith("weights")] == shared
    dashed = [path for path in elements(svg, "path") if "shared" in path.get("class")]
    for t, path in zip(times, (p for p in dashed if "data-edge" in p.attrib), strict=bool(shared)):
        left, _, right, bottom = boxes[f"step {t}"]
        x, end = re.fullmatch(r"M.*H([\d.]+)q10 0 10 -10V([\d.]+)", path.attrib["d"]).groups()
        assert left < float(x) + 10 < right
        assert float(end) == pytest.approx(bottom, abs=0.01)
    if graph.parameters:
        assert f"W: {len(graph.parameters)} tensor{'s' * (len(graph.parameters) > 1)}," in texts(svg)
    found = texts(svg)
    for name in graph.states:
        assert all(any(text.startswith(f"{name}_{t}") for text in found) for t in ["0", *times])
        assert {f"{name} at 0", f"{name} at {steps}"} <= boxes.keys()


@every_cell
def test_the_same_cell_gives_the_same_text(shown):
    again = Cell(shown.name, Graph.from_json(shown.graph.to_json()))
    assert draw(shown) == draw(shown) == draw(again)


def test_a_state_that_starts_elsewhere_says_where():
    assert "m_0 = −∞" in texts(draw(busy))


def test_constants_are_part_of_the_sign():
    signs = [sign(busy.graph, node) for node in busy.graph.nodes if node.args and node.kind != "affine"]
    assert [s for s in signs if any(c.isdigit() for c in s)] == ["2⊙", "/3", "^2", ">0.5"]
    assert {"|·|", "max", "−", "where", "σ", "tanh", "+", "exp", "relu"} <= set(signs)
    gru = CELLS["gru"].graph
    assert "1−" in [sign(gru, node) for node in gru.nodes if node.kind == "sub"]


@pytest.mark.parametrize("ordered", [True, False])
def test_operands_enter_from_top_to_bottom_where_their_order_counts_and_else_without_crossing(ordered):
    """The second operand stands above the first."""
    shapes = {"b": Shape(40, 30), "a": Shape(40, 30), "a / b": Shape(36, 36, round=True, ordered=ordered)}
    layout = arrange(shapes, [("a", "a / b"), ("b", "a / b")])
    (*_, (_, first)), (*_, (_, second)) = (route.points for route in layout.routes)
    assert layout.boxes["b"].y < layout.boxes["a"].y
    assert (first < second) == ordered


def test_only_sums_products_and_extremes_take_their_operands_as_they_come():
    """a − b and b − a have their operands from top to bottom, so lines cross in one of them."""

    @cell(states="h")
    def both(x, h, W):
        a, b = W.a(x, h), W.b(x, h)
        return tanh(a - b) * tanh(b - a) * tanh(a + b) * tanh(b + a)

    layout = step_layout(both.graph)
    rising = {"sub": [], "add": []}
    for k, node in enumerate(both.graph.nodes):
        ends = [route.points[-1][1] for route in layout.routes if route.end == str(k)]
        if node.kind in rising:
            rising[node.kind].append(ends == sorted(ends))
    assert rising["sub"] == [True, True]
    assert sorted(rising["add"]) == [False, True]


def test_markup_in_a_name_is_text():
    svg = draw(Cell('<b>&"lstm"', CELLS["lstm"].graph))
    assert ElementTree.fromstring(svg).find(SVG + "title").text == '<b>&"lstm"'


@pytest.mark.parametrize("steps", [0, -1, 51])
def test_too_few_or_too_many_steps_are_refused_in_one_line(steps):
    with pytest.raises(InputError, match=rf"^cannot draw {steps} steps of 'gru'; give 1 to 50$"):
        draw(CELLS["gru"], steps)


def test_long_lines_with_room_are_level():
    """A line that nothing stands in the way of has no bend but its last."""
    shapes = {key: Shape(40, 30) for key in "abcd"}
    layout = arrange(shapes, [("a", "b"), ("b", "c"), ("c", "d"), ("a", "d")])
    long = layout.routes[-1].points
    assert len({y for _, y in long[2:-3]}) == 1


def test_columns_uncross():
    """Two chains given in opposite orders are drawn without a crossing."""
    shapes = {key: Shape(40, 30) for key in ("a", "b", "y", "x")}
    boxes = arrange(shapes, [("a", "x"), ("b", "y")]).boxes
    assert (boxes["a"].y < boxes["b"].y) == (boxes["x"].y < boxes["y"].y)
    assert boxes["a"].y == pytest.approx(boxes["x"].y, abs=0.5)


def test_columns_are_ordered_nearly_as_well_as_can_be():
    """Against every order of the right column, for forty random graphs of 5 + 5 nodes."""
    draws, found, best = random.Random(0), 0, 0
    for _ in range(40):
        pairs = [(a, b) for a in range(5) for b in range(5) if draws.random() < 0.4]
        left, right = [(str(k), 0) for k in range(5)], [(f"{k}'", 1) for k in range(5)]
        order = ordered([*left, *right], [(left[a], right[b]) for a, b in pairs])
        assert [sorted(layer) for layer in order] == [left, right]
        places = [{int(key[0]): k for k, (key, _) in enumerate(layer)} for layer in order]

        def crossings(pairs):
            return sum((a - c) * (b - d) < 0 for (a, b), (c, d) in combinations(pairs, 2))

        found += crossings([(places[0][a], places[1][b]) for a, b in pairs])
        best += min(
            crossings([(places[0][a], p[b]) for a, b in pairs]) for p in permutations(range(5))
        )  # fmt: skip
    assert best <= found <= 1.01 * best


def test_the_lstm_has_no_crossings_but_those_of_two_sources_in_four_maps():
    layout = step_layout(CELLS["lstm"].graph)
    bends = {
        (a, b) for route in layout.routes
        for a, b in zip(route.points[1:-1:2], route.points[2:-1:2], strict=True)
    }  # fmt: skip
    crossings = sum(
        a[0] == c[0] and (a[1] - c[1]) * (b[1] - d[1]) < 0 for (a, b), (c, d) in combinations(bends, 2)
    )
    assert crossings == 4 * 3 / 2


@pytest.mark.parametrize("name", ["lstm", "gru", "mut1"])
def test_gates_are_level_with_their_maps(name):
    graph = CELLS[name].graph
    boxes = step_layout(graph).boxes
    pairs = [(k, n.args[0]) for k, n in enumerate(graph.nodes) if n.kind in ("sigmoid", "tanh")]
    maps = [(k, arg) for k, arg in pairs if graph.nodes[arg].kind == "affine"]
    level = sum(abs(boxes[str(k)].y - boxes[str(arg)].y) < 1 for k, arg in maps)
    assert level >= len(maps) - 1


def test_isotonic_is_the_nearest_sequence_that_never_falls():
    assert isotonic([1, 3, 2, 4], [1, 1, 1, 1]) == [1, 2.5, 2.5, 4]
    assert isotonic([3, 0], [1, 2]) == [1, 1]
    assert isotonic([], []) == []
