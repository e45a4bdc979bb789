"""A cell as a picture: the graph of one step, and the same cell unrolled over time.

Learned things are orange, inputs blue, states green; the sign of a pointwise operation stands in a circle.
Where the order of its operands counts, they enter it from top to bottom.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from unrolled.cell import Cell
from unrolled.errors import InputError
from unrolled.formula import NOW, formulas, leaf
from unrolled.graph import OPERATIONS, Graph, Node
from unrolled.report.layout import Box, Layout, Shape, arrange
from unrolled.report.svg import MARGIN, SUBSCRIPTS, Canvas, path_along, pill_width, text_width

MOST_STEPS: Final = 50


def draw(cell: Cell, steps: int = 4) -> str:
    """The picture of a cell, as the text of an SVG file.

    Above: the name, the formulas and the computational graph of one step. Below: the cell repeated over
    `steps` steps of time, with the states it passes on and the one set of weights all steps use.

    Args:
        cell: any cell.
        steps: how many steps to unroll, 1 to 50.

    Raises:
        InputError: `steps` is out of range.
    """
    if not 1 <= steps <= MOST_STEPS:
        raise InputError(f"cannot draw {steps} steps of {cell.name!r}; give 1 to {MOST_STEPS}")
    lines = formulas(cell.graph)
    canvas = Canvas()
    canvas.text(MARGIN, 46, cell.name, "title", maths=False)
    for k, line in enumerate(lines):
        canvas.text(MARGIN, 86 + 25 * k, line, "formula")
    top = 114.0 + 25 * len(lines)
    canvas.heading(top, "One step", f"Boxes are learned; circles act on each element{_on_rows(cell.graph)}.")
    layout = step_layout(cell.graph)
    _draw_step(canvas, cell.graph, layout, MARGIN, top + 26)
    top += 26 + layout.height + 56
    canvas.heading(top, "Unrolled over time", "Every step runs the same cell with the same weights.")
    _draw_unrolled(canvas, cell, steps, top + 30)
    description = f"The computational graph of one step, and the cell unrolled over time (T = {steps}). "
    return canvas.finish(cell.name, description + "; ".join(lines))


def _on_rows(graph: Graph) -> str:
    """What of the operations looks at more than one element."""
    rows = (OPERATIONS[node.kind] for node in graph.nodes if node.kind in OPERATIONS)
    names = dict.fromkeys(row.text.partition("(")[0] for row in rows if not row.pointwise)
    return f", {' and '.join(names)} on a whole row" if names else ""


# One step


def step_layout(graph: Graph) -> Layout:
    """Where everything of one step stands.

    Nodes are called by their index and new values by `new NAME`. Constants are part of their operation.
    """
    shapes = {
        str(k): _shape(graph, node, graph.names.get(k, ""))
        for k, node in enumerate(graph.nodes)
        if node.kind != "constant"
    }
    shapes |= {f"new {name}": Shape(pill_width(name + NOW), 30, pin="last") for name in _results(graph)}
    return arrange(shapes, step_edges(graph))


def step_edges(graph: Graph) -> list[tuple[str, str]]:
    """The lines of one step, from each operand to its use, in the order of the operands."""
    pairs = [(arg, str(k)) for k, node in enumerate(graph.nodes) for arg in node.args]
    pairs += [(k, f"new {name}") for name, k in _results(graph).items()]
    return [(str(arg), end) for arg, end in pairs if graph.nodes[arg].kind != "constant"]


def sign(graph: Graph, node: Node) -> str:
    """What stands in the circle of an operation: its sign, with the constants among its operands."""
    text = OPERATIONS[node.kind].text
    operands = [graph.nodes[arg] for arg in node.args]
    if any(operand.kind == "constant" for operand in operands):
        text = text.format(*(leaf(operand) if operand.kind == "constant" else "·" for operand in operands))
        return text if "(" in text or "|" in text else text.strip("[]").replace("·", "").replace(" ", "")
    bare = re.sub(r"\{\d\}|[\s(),\[\]]", "", text)
    return "|·|" if bare == "||" else bare


def _results(graph: Graph) -> dict[str, int]:
    return dict(zip((*graph.states, *graph.outputs), graph.results, strict=True))


def _shape(graph: Graph, node: Node, name: str) -> Shape:
    label = text_width(name) if name else 0.0
    if node.kind in ("input", "state"):
        return Shape(pill_width(leaf(node)), 30, pin="first")
    if node.kind == "vector":
        return Shape(max(text_width(node.name) + 20, 38), 32, label)
    if node.kind == "affine":
        ports = max(text_width(source, 11) for source in node.sources)
        height = max(18.0 * len(node.sources), 52 if node.bias is not None else 32) + 6
        return Shape(text_width(f"W_{node.name}") + ports + 34, height, label, pitch=18)
    text = sign(graph, node)
    ordered = node.kind not in ("add", "mul", "maximum", "minimum")
    return Shape(max(36.0, text_width(text, 14) + 16), 36, label, round=True, ordered=ordered)


def _draw_step(canvas: Canvas, graph: Graph, layout: Layout, x: float, y: float) -> None:
    entering: dict[str, list[float]] = {}
    for route in layout.routes:
        kind = graph.nodes[int(route.start)].kind
        colour = kind if kind in ("input", "state") else "learned" if kind == "vector" else ""
        points = [(px + x, py + y) for px, py in route.points]
        entering.setdefault(route.end, []).append(points[-1][1])
        canvas.line(path_along(points), points[-1], colour, f"{route.start} > {route.end}")
    for key, box in layout.boxes.items():
        placed = Box(box.x + x, box.y + y, box.width, box.height)
        if not key.isdigit():
            canvas.node(placed, key[4:] + NOW, "state" if key[4:] in graph.states else "plain", key)
            continue
        node, name = graph.nodes[int(key)], graph.names.get(int(key), "")
        if node.kind == "affine":
            _draw_affine(canvas, graph, node, placed, entering[key], key)
        elif node.kind == "vector":
            canvas.node(placed, node.name, "learned", key, hint=_shapes(graph, [node.name]))
        elif node.kind in ("input", "state"):
            canvas.node(placed, leaf(node), node.kind, key)
        else:
            text = sign(graph, node)
            canvas.node(placed, text, "plain", key, radius=18, size="sign" if len(text) == 1 else "small")
        if name:
            canvas.text(placed.x, placed.y - placed.height / 2 - 12, name, "name")


def _draw_affine(
    canvas: Canvas, graph: Graph, node: Node, box: Box, entering: Sequence[float], key: str
) -> None:
    names = [f"{node.name}.{source}" for source in node.sources]
    biased = node.bias is not None
    hint = _shapes(graph, [*names, f"{node.name}.bias"] if biased else names)
    canvas.node(box, "", "learned", key, hint=hint)
    left = box.x - box.width / 2
    ports = max(text_width(source, 11) for source in node.sources)
    middle = left + ports + 8 + (box.width - ports - 8) / 2
    canvas.open("learned")
    for source, y in zip(node.sources, entering, strict=True):
        canvas.text(left + 6, y, source, "port")
    canvas.text(middle, box.y - (10 if biased else 0), f"W_{node.name}")
    if biased:
        canvas.text(middle, box.y + 12, f"b_{node.name}", "small")
    canvas.close()


def _shapes(graph: Graph, names: Iterable[str]) -> str:
    found = graph.parameters
    return ", ".join(f"{name} ({', '.join(found[name].shape)})" for name in names)


# Over time


def _draw_unrolled(canvas: Canvas, cell: Cell, steps: int, top: float) -> None:
    """The row of cells: outputs above, states between, inputs and the weights below."""
    graph = cell.graph
    title = cell.name.partition("(")[0]
    inputs, handed_on = graph.inputs, graph.outputs or graph.states[:1]
    output_colour = "plain" if graph.outputs else "state"
    starts = {name: _start(graph, name) for name in graph.states}

    widest = max(pill_width(_at(names, steps)) for names in (inputs, handed_on))
    width = max(100.0, text_width(title, 17) + 28, widest + 64)
    height = max(72.0, 30.0 * len(graph.states) + 18)
    gap = max(text_width(_at([name], steps), 13) for name in graph.states) + 44
    first = MARGIN + max(180.0, max(pill_width(text) for text in starts.values()) + 40)
    upper = top + 64
    lower, middle = upper + height, upper + height / 2
    rows = {name: middle + 30 * (k - (len(starts) - 1) / 2) for k, name in enumerate(starts)}

    for name, y in rows.items():
        size = pill_width(starts[name])
        canvas.node(
            Box(first - 36 - size / 2, y, size, 24), starts[name], "state", f"{name} at 0", size="small"
        )
        canvas.arrow((first - 36, y), (first, y), "state")
    for t in range(1, steps + 1):
        left = first + (t - 1) * (width + gap)
        centre, right = left + width / 2, left + width
        canvas.node(Box(centre, middle, width, height), title, "plain", f"step {t}", maths=False)
        text = _at(handed_on, t)
        canvas.arrow((centre, upper), (centre, top + 30), output_colour)
        canvas.node(Box(centre, top + 15, pill_width(text), 30), text, output_colour, f"output at {t}")
        if inputs:
            text = _at(inputs, t)
            canvas.arrow((centre + 12, lower + 34), (centre + 12, lower), "input")
            canvas.node(Box(centre + 12, lower + 49, pill_width(text), 30), text, "input", f"input at {t}")
        for name, y in rows.items():
            text, size = _at([name], t), pill_width(_at([name], t))
            if t < steps:
                canvas.arrow((right, y), (right + gap, y), "state")
                canvas.text(right + gap / 2, y - 12, text, "small state")
            else:
                canvas.arrow((right, y), (right + 36, y), "state")
                canvas.node(
                    Box(right + 36 + size / 2, y, size, 24), text, "state", f"{name} at {t}", size="small"
                )
    ports = [first + t * (width + gap) + 20 for t in range(steps)]
    _draw_weights(canvas, graph, lower + (110 if inputs else 60), lower, ports)


def _draw_weights(canvas: Canvas, graph: Graph, y: float, end: float, ports: Sequence[float]) -> None:
    """One box for everything learned, and a dashed line to each step."""
    count = len(graph.parameters)
    if not count:
        return
    box = Box(MARGIN + 80, y, 160, 48)
    canvas.node(box, "", "learned", "weights", hint=_shapes(graph, graph.parameters))
    canvas.open("learned")
    canvas.text(box.x, y - 10, f"W: {count} tensor{'s' * (count > 1)},")
    canvas.text(box.x, y + 11, "the same at every step", "note", maths=False)
    canvas.close()
    for t, x in enumerate(ports, 1):
        path = f"M{box.x + 80:g} {y:g}H{x - 10:g}q10 0 10 -10V{end:g}"
        canvas.line(path, (x, end), "learned shared", f"weights > step {t}", upwards=True)


def _at(names: Iterable[str], t: int) -> str:
    """The names with the time as their subscript."""
    return ", ".join(name + str(t).translate(SUBSCRIPTS) for name in names)


def _start(graph: Graph, name: str) -> str:
    """The first state, with its value where that is not 0."""
    value = f"{graph.initial.get(name, 0.0):g}".replace("-", "−").replace("inf", "∞")
    return _at([name], 0) + (f" = {value}" if name in graph.initial else "")
