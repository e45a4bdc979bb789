"""The plans of the forward and of the backward pass: which jobs, on which memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from unrolled.compile.context import Address
from unrolled.compile.loop import Loop
from unrolled.compile.plan import At, Plan, Sizes, in_lines
from unrolled.graph import PER_ROW

INPUT = "the input"
"""Its name among operands: no state can be called so."""


def forward_plan(
    loop: Loop, sizes: Sizes, save: bool, first: Callable[[Plan], None] = lambda plan: None
) -> Plan:
    """The forward pass.

    Args:
        first: adds what comes before anything else of a chunk.

    Tensors: `x`, `before K` for what is given, `start S`, `parameter N`, `y NAME`, `end S`, `saved`, `work`.
    """
    compiled = loop.forward if save else loop.inference
    plan = Plan(loop, compiled, sizes, sizes.reverse)
    if sizes.padded:
        widths = widths_of_rows(loop, sizes.widths, sizes.tokens)
        for name, width in widths.items():
            plan.inside[name] = plan.take("saved" if save else "work", sizes.rows * width)
        _take_in(plan, {name: width for name, width in widths.items() if not name.startswith("y ")}, "start ")
    plan.stage_panels()
    plan.vectors_of_step()
    first(plan)
    _project(plan, save)
    _states(plan, "saved")
    for k in loop.saved if save else ():
        if loop.step.nodes[k].kind != "read":
            row = plan.row(loop.step.nodes[k].width)
            plan.place(f"value {k}", plan.take("saved", sizes.rows * row), row)
    plan.rest()
    if sizes.padded:
        _hand_out(plan, {f"y {name}": widths[f"y {name}"] for name in loop.handed_on})
    for name in loop.graph.states:
        _copy_ends(plan, f"new {name}", f"start {name}", f"end {name}", plan.width(loop.graph.widths[name]))
    for when in ("begin", "before"):
        plan.meet(when)
    plan.finish()
    return plan


def widths_of_rows(loop: Loop, widths: Mapping[str, int], tokens: bool) -> dict[str, int]:
    """The elements that a row has of what goes in and out, by tensor; a token is as long as its bytes."""
    nodes, graph = loop.whole.nodes, loop.graph
    found: dict[str, int] = {}
    if loop.direct or loop.projected:
        found["x"] = 8 // loop.dtype.itemsize if tokens else widths[graph.widths[graph.inputs[0]]]
    found |= {f"before {k}": _elements(nodes[k].width, widths) for k in loop.given}
    results = loop.step.results
    return found | {f"y {n}": _elements(loop.step.nodes[results[n]].width, widths) for n in loop.handed_on}


def _elements(symbol: str, widths: Mapping[str, int]) -> int:
    return 1 if symbol == PER_ROW else widths[symbol]


def _take_in(plan: Plan, widths: Mapping[str, int], *states: str) -> None:
    """Pack what a chunk reads of a padded batch, and sort its states of these kinds."""
    for name, width in widths.items():
        plan.job("before", "pick", batch=At(name), rows=plan.inside[name], width=width)
    for name in (kind + state for kind in states for state in plan.loop.graph.states):
        width = plan.width(plan.loop.graph.widths[name.split()[1]])
        plan.inside[name] = plan.take("work", plan.sizes.B * width)
        plan.job("begin", "sort", source=At(name), to=plan.inside[name], width=width)
    plan.meet("before")


def _hand_out(plan: Plan, widths: Mapping[str, int]) -> None:
    """Unpack what a chunk has written into a padded batch."""
    plan.meet("after")
    for name, width in widths.items():
        plan.job("after", "put", batch=At(name), rows=plan.inside[name], width=width)


def saved_elements(
    loop: Loop, widths: Mapping[str, int], rows: int, tokens: bool = False, padded: bool = False
) -> int:
    """The size of `saved` for so many rows in all steps; sizes may be symbols."""

    def row(symbol: str) -> int:
        return 1 if symbol == PER_ROW else loop.padded(widths[symbol])

    places: list[int] = [*widths_of_rows(loop, widths, tokens).values()] if padded else []
    if not loop.reads.isdisjoint(f"before {k}" for k in loop.projected):
        places.append(sum(row(loop.whole.nodes[k].width) for k in loop.projected))
    for name in loop.graph.states:
        if name not in loop.handed_on and not loop.reads.isdisjoint((name, f"new {name}")):
            places.append(row(loop.graph.widths[name]))
    nodes = loop.step.nodes
    places += [row(nodes[k].width) for k in loop.saved if nodes[k].kind != "read"]
    return sum(in_lines(rows * elements) for elements in places)


def _copy_ends(plan: Plan, name: str, start: str, to: str, width: int) -> None:
    """What is left of a value after the last step of each sequence."""
    at, row = plan.places[name]
    turn = plan.sizes.B * row if plan.compiled.kernel.addresses[name].time == "now" else 0
    plan.job("end", "copy_ends", source=at, source_row=row, turn=turn, start=plan.at(start), start_row=width,
             to=At(to), to_row=width, width=width)  # fmt: skip


def _project(plan: Plan, save: bool) -> None:
    """The products of the input, a chunk at a time, and what else is there before the loop."""
    loop, sizes = plan.loop, plan.sizes
    for k in (*loop.direct, *loop.given):
        width = plan.width(loop.whole.nodes[k].width)
        plan.place(f"before {k}", plan.at("x" if k in loop.direct else f"before {k}"), width)
    if not loop.projected:
        return
    row = plan.projected_row
    whole = any(plan.compiled.kernel.addresses.get(f"before {k}") == Address() for k in loop.projected)
    rows = sizes.rows if whole else plan.capacity
    at = plan.take("saved" if whole and save else "work", rows * row)
    column = 0
    for k in loop.projected:
        plan.place(f"before {k}", At(at.tensor, at.element + column), row)
        column += loop.padded(plan.width(loop.whole.nodes[k].width))
    if sizes.tokens:
        plan.job(
            "before", "look_up", tokens=plan.at("x"), table=plan.table(), columns=row, words=plan.input_width,
            to=at, whole=int(whole),
        )  # fmt: skip
        return
    D = plan.input_width
    weights, panels, rest = plan.side_by_side(transposed=False)
    plan.job(
        "before", "product", operand=plan.at("x"), operand_row=D, width=D, panels=panels, rest_panels=rest,
        columns=row, weights=weights, to=at, to_row=row, operand_whole=1, to_whole=int(whole), add=0,
    )  # fmt: skip


def _states(plan: Plan, workspace: str) -> None:
    """Where states are, old and new: the outputs, the workspace, or two rows in turn."""
    loop = plan.loop
    addresses = plan.compiled.kernel.addresses
    for name in loop.graph.states:
        width = plan.width(loop.graph.widths[name])
        plan.start(name, f"start {name}", width)
        if name in loop.handed_on:
            continue
        row = loop.padded(width)
        where = addresses.get(f"new {name}") or addresses.get(name)
        if where is None:
            continue
        if where.time in ("whole", "behind"):
            at = plan.take(workspace, plan.sizes.rows * row)
            for place in (name, f"new {name}"):
                plan.place(place, at, row)
        else:
            plan.turns(f"new {name}", row, name)
    for name in loop.handed_on:
        width = plan.width(loop.step.nodes[loop.step.results[name]].width)
        for place in (f"new {name}", *((name,) if name in loop.graph.states else ())):
            plan.place(place, plan.at(f"y {name}"), width)


def backward_plan(
    loop: Loop,
    forward: Plan,
    adding: bool = False,
    silent: Collection[str] = frozenset(),
    last: Callable[[Plan], None] = lambda plan: None,
) -> Plan:
    """The backward pass after a forward pass.

    Args:
        adding: gradients of parameters are added to what is there.
        silent: what is handed on and nothing comes back to: its gradient is one row of zeros, for all steps.
        last: adds what comes after anything else of a chunk.

    Tensors: those of the forward pass, and `d_y NAME`, `d_end S`, `d_x`, `d_before K`, `d_start S`,
    `d_parameter N`. Where every step is a chunk of its own, rows would be too few for the gradients of
    matrices: what these are made of is kept for all steps instead, `columns` and each `operand K`.
    """
    sizes = forward.sizes
    compiled = loop.backward
    plan = Plan(loop, compiled, sizes, not sizes.reverse)
    if sizes.padded:
        outgoing = _open_backward(plan, forward)
    plan.stage_panels()
    plan.vectors_of_step()
    for name in loop.reads:
        if name in forward.places:
            plan.place(name, *forward.places[name])
    for name in loop.handed_on:
        width = plan.width(loop.step.nodes[loop.step.results[name]].width)
        plan.place(f"upstream {name}", plan.at(f"d_y {name}"), 0 if name in silent else width)
    for name in loop.graph.states:
        width = plan.width(loop.graph.widths[name])
        plan.start(name, f"start {name}", width)
        plan.start(f"carry {name}", f"d_end {name}", width)
        plan.turns(f"next {name}", loop.padded(width), f"carry {name}")
    for k in (*loop.direct, *loop.given):
        width = plan.width(loop.whole.nodes[k].width)
        plan.place(f"d_before {k}", plan.at("d_x" if k in loop.direct else f"d_before {k}"), width)
    columns, row = _side_by_side(plan, loop.columns)
    kept = {"columns": (columns, row)}
    for operand in loop.operands:
        kept[operand] = _side_by_side(plan, (operand,))
    for name in loop.adjoint.vectors:
        width = loop.padded(plan.width(loop.width_of[name]))
        slot = plan.workers * 2 * width
        at = plan.take("work", slot * plan.slots)
        plan.word(f"sum {name}", at)
        plan.word(f"sum {name} apart", slot)
        plan.job(plan.on_parameters, "clear", to=at, count=slot * plan.slots)
        if sizes.needs_parameters:
            to, apart = plan.parameter(name, gradient=True), plan.apart(name)
            units = plan.width(loop.width_of[name])
            plan.job("after" if apart else "end", "gather_sums", sums=at, slot=slot, part=2 * width,
                     parts=plan.workers, to=to, apart=apart, width=units, again=int(adding))  # fmt: skip
    plan.rest()
    if sizes.needs_x and loop.projected:
        weights, panels, rest = plan.side_by_side(transposed=True)
        plan.job(
            "after", "product", operand=At("work", columns), operand_row=row, width=plan.projected_row,
            panels=panels, rest_panels=rest, columns=plan.input_width, weights=weights, to=plan.at("d_x"),
            to_row=plan.input_width, operand_whole=0, to_whole=1,
            add=int(any(f"d_before {k}" in loop.adjoint.step.results for k in loop.direct)),
        )  # fmt: skip
    if sizes.alone:
        for name, (element, width) in kept.items():
            if width:
                source = At("work", element)
                plan.job("after", "keep", source=source, source_row=width, to=At(name), width=width)
    elif sizes.needs_parameters:
        _matrix_gradients(plan, columns, row, adding)
    last(plan)
    if sizes.padded:
        _hand_out(plan, outgoing)
    for name in loop.graph.states:
        width = plan.width(loop.graph.widths[name])
        _copy_ends(plan, f"next {name}", f"d_end {name}", f"d_start {name}", width)
    for when in ("begin", "before", "after"):
        plan.meet(when)
    plan.finish()
    return plan


def _open_backward(plan: Plan, forward: Plan) -> dict[str, int]:
    """Room for the packed rows of gradients, and jobs that pack those that arrive; the widths of those that
    are wanted."""
    loop, sizes = plan.loop, plan.sizes
    widths = widths_of_rows(loop, sizes.widths, sizes.tokens)
    plan.inside |= forward.inside
    for name, width in widths.items():
        if name != "x" or not sizes.tokens:
            plan.inside[f"d_{name}"] = plan.take("work", sizes.rows * width)
    arriving = {f"d_{name}": width for name, width in widths.items() if name.startswith("y ")}
    _take_in(plan, arriving, "start ", "d_end ")
    results = loop.adjoint.step.results
    written = {f"before {k}" for k in loop.given if f"d_before {k}" in results}
    if sizes.needs_x and (loop.projected or any(f"d_before {k}" in results for k in loop.direct)):
        written.add("x")
    return {f"d_{name}": width for name, width in widths.items() if name in written}


def _width_of_result(plan: Plan, name: str) -> int:
    step = plan.compiled.step
    if name in step.results:
        return plan.loop.padded(plan.width(step.nodes[step.results[name]].width))
    return plan.loop.padded(plan.width(plan.loop.whole.nodes[int(name.removeprefix("d_before "))].width))


def _side_by_side(plan: Plan, names: tuple[str, ...]) -> tuple[int, int]:
    """Room for results of the adjoint side by side in the rows of a chunk: where it begins, and a row."""
    row = sum(_width_of_result(plan, name) for name in names)
    at = plan.take("work", plan.capacity * row)
    column = 0
    for name in names:
        plan.place(name, At(at.tensor, at.element + column), row)
        column += _width_of_result(plan, name)
    if any(name not in plan.compiled.step.results for name in names):  # nothing depends on it
        plan.job("begin", "clear", to=at, count=plan.capacity * row)
    return at.element, row


def column_places(plan: Plan) -> dict[str, int]:
    """Where each of the loop's columns begins in the rows of a chunk."""
    places, begin = {}, 0
    for name in plan.loop.columns:
        places[name] = begin
        begin += _width_of_result(plan, name)
    return places


def _matrix_gradients(plan: Plan, columns: int, row: int, adding: bool) -> None:
    """After each chunk, add to the gradient of every matrix."""
    loop, capacity, lanes = plan.loop, plan.capacity, plan.loop.lanes
    at_column = column_places(plan)
    left = plan.take("work", capacity * row)
    if loop.columns:
        plan.job(
            "after", "gather_rows", source=At("work", columns), source_row=row, start=At("work", columns),
            start_row=0, shift=0, whole=0, width=row, panels=0, rest_panels=row // lanes, to=left,
            capacity=capacity,
        )  # fmt: skip
    jobs: list[dict[str, int | At]] = []

    def gathered(name: str, width: int) -> dict[str, int | At]:
        """The rows of an operand in panels."""
        vectors = loop.vectors(width)
        to = plan.take("work", capacity * vectors * lanes)
        panels: dict[str, int | At] = {"panels": vectors // loop.group, "rest_panels": vectors % loop.group}
        if name == INPUT:
            at, stride, words = plan.at("x"), width, {"shift": 0, "whole": 1}
        else:
            at, stride = plan.places[name]
            whole = plan.loop.backward.kernel.addresses.get(name, Address()).time != "chunk"
            words = {"shift": 0, "whole": int(whole)}
        start: At = at
        if name in loop.graph.states:
            words["shift"], start = -1 if plan.sizes.reverse else 1, plan.at(f"start {name}")
        plan.job(
            "after", "gather_rows", source=at, source_row=stride, start=start,
            start_row=width if name in loop.graph.states else 0, width=width, to=to, capacity=capacity,
            **words, **panels,
        )  # fmt: skip
        return {"right": to, "width": width, "capacity": capacity, "to_row": width, **panels}

    def gradient(name: str, column: int, right: dict[str, int | At]) -> None:
        jobs.append(
            right
            | {
                "left": At(left.tensor, left.element + column * capacity),
                "units": plan.width(loop.width_of[name]),
                "to": plan.parameter(name, gradient=True),
                "apart": plan.apart(name),
            }
        )

    if loop.projected and not plan.sizes.tokens:
        right = gathered(INPUT, plan.input_width)
        for k in loop.projected:
            gradient(loop.whole.nodes[k].name, at_column[f"d_before {k}"], right)
    uses: dict[int, list[tuple[str, str]]] = {}
    for name, pairs in loop.adjoint.matrices.items():
        for d, operand in pairs:
            uses.setdefault(operand, []).append((name, d))
    for operand, matrices in uses.items():
        right = gathered(loop.operand(operand), plan.width(loop.step.nodes[operand].width))
        for name, d in matrices:
            gradient(name, at_column[loop.column_of(d)], right)
    plan.meet("after")
    seen: set[At | int] = set()
    for words in jobs:
        again = words["to"] in seen
        if again:
            plan.meet("after")
        seen.add(words["to"])
        plan.job("after", "sum_products", again=int(again or adding), **words)
    if loop.projected and plan.sizes.tokens:
        words_known = plan.input_width
        full = plan.projected_row
        table = plan.take("work", words_known * full)
        plan.job("begin", "clear", to=table, count=words_known * full)
        plan.job(
            "after", "add_up", tokens=plan.at("x"), table=table, columns=full, source=At("work", columns),
            source_row=row,
        )  # fmt: skip
        for k in loop.projected:
            name = loop.whole.nodes[k].name
            plan.job(
                "end", "turn", table=At(table.tensor, table.element + at_column[f"d_before {k}"]),
                table_row=full, words=words_known, units=plan.width(loop.width_of[name]),
                to=plan.parameter(name, gradient=True), to_row=words_known,
                add=int(adding or name in loop.adjoint.matrices),
            )  # fmt: skip
