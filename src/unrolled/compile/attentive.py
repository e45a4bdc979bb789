"""A compiled recurrence that reads a memory at every step: one call for all steps, forward and backward.

Before each step the team has every row of the batch look at its memory (`unrolled.compile.attend`); what it
finds is the step's first input. On the way back the gradient goes through that into the state before.
What no step waits for is done for all of them at once: the other inputs' products before the loop, the
gradients of matrices behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unrolled.compile.loop import Loop, loop_of
from unrolled.compile.memory import scratch, workspace
from unrolled.compile.passes import backward_plan, column_places, forward_plan
from unrolled.compile.plan import At, Plan
from unrolled.compile.recurrence import Prepared, in_memory, prepare
from unrolled.compile.step import run_to
from unrolled.graph import Graph

PLANS = 256
"""Sizes for which plans are kept for each loop; the oldest go first."""

OF_MEMORY = ("keys", "values", "mask", "score", "matrix", "uniform")
"""What `Attentive` takes of a memory, in order; empty tensors stand for what there is none of."""


@dataclass(frozen=True)
class _Reading:
    """The sizes of a memory: A of a key, Z of a value, S places; whether the score is additive, whether
    queries go through a matrix, and whether one place is drawn."""

    A: int
    Z: int
    S: int
    additive: bool
    through: bool
    hard: bool


class _Attentive:
    """A loop that reads a memory, for one set of sizes."""

    def __init__(self, loop: Loop, reading: _Reading, prepared: Prepared) -> None:
        self.loop, self.reading, self.prepared = loop, reading, prepared
        self.sizes = replace(prepared.sizes, alone=True, needs_x=True, needs_parameters=True)
        self.asks = loop.graph.states[0]
        self.before = f"y {self.asks}", -self.sizes.B * self.sizes.widths[loop.graph.widths[self.asks]]
        self._forward: dict[bool, Plan] = {}
        self._backward: dict[frozenset[str], Plan] = {}
        self.query: At | None = None

    def _words(self) -> dict[str, int | At]:
        """What both jobs are told."""
        r, H = self.reading, self.sizes.widths[self.loop.graph.widths[self.asks]]
        at, row = (At(*self.before), H) if self.query is None else (self.query, self.loop.padded(r.A))
        return {"query": at, "query_row": row, "query_whole": 1, "keys": At("keys"), "values": At("values"),
                "score": At("score"), "additive": int(r.additive), "weights": At("weights"), "A": r.A,
                "Z": r.Z, "S": r.S, "hard": int(r.hard), "chosen": At("chosen")}  # fmt: skip

    def forward_plan(self, save: bool) -> Plan:
        if save not in self._forward:
            self._forward[save] = forward_plan(self.loop, self.sizes, save, self._look)
        return self._forward[save]

    def _look(self, plan: Plan) -> None:
        r, row = self.reading, self.loop.padded(self.reading.A)
        if r.through:
            H = self.sizes.widths[self.loop.graph.widths[self.asks]]
            self.query = plan.take("saved", self.sizes.rows * row)
            plan.times("before", At("matrix"), r.A, H, False, operand=At(*self.before), operand_row=H,
                       to=self.query, to_row=row, operand_whole=1, to_whole=1, add=0)  # fmt: skip
            plan.meet("before")
        plan.job("before", "attend", mask=At("mask"), context=At("x"), uniform=At("uniform"), **self._words())
        plan.meet("before")

    def backward_plan(self, silent: frozenset[str]) -> Plan:
        if silent not in self._backward:
            forward = self.forward_plan(True)
            self._backward[silent] = backward_plan(self.loop, forward, False, silent, self._look_back)
        return self._backward[silent]

    def _look_back(self, plan: Plan) -> None:
        r, row, sizes = self.reading, self.loop.padded(self.reading.A), self.sizes
        H = sizes.widths[self.loop.graph.widths[self.asks]]
        earlier = At(f"d_y {self.asks}", self.before[1])
        plan.meet("after")
        sums = plan.take("work", plan.workers * row)
        plan.job("begin", "clear", to=sums, count=plan.workers * row)
        query: dict[str, int | At] = {"d_query": earlier, "d_query_row": H, "d_query_add": 1}
        if r.through:
            query = {"d_query": At("d_queries"), "d_query_row": row, "d_query_add": 0}
        plan.job(
            "after", "attend_back", d_context=At("d_x"), arriving=At("d_contexts"), arriving_row=r.Z,
            d_weights=At("d_weights"), d_weights_row=r.S, room=plan.take("work", sizes.B * r.S),
            d_query_whole=1, d_keys=At("d_keys"), d_values=At("d_values"), d_score=sums, part=row, **query,
            **self._words(),
        )  # fmt: skip
        if r.through:
            plan.meet("after")
            plan.times("after", At("matrix"), H, r.A, True, operand=At("d_queries"), operand_row=row,
                       to=earlier, to_row=H, operand_whole=1, to_whole=1, add=1)  # fmt: skip
        if r.additive:
            plan.meet("end")
            plan.job("end", "gather_sums", sums=sums, slot=0, part=row, parts=plan.workers, to=At("d_score"),
                     apart=0, width=r.A, again=0)  # fmt: skip

    @property
    def names(self) -> tuple[str, ...]:
        """What `Attentive` takes, in order."""
        return (*(name for name in self.prepared.names if name != "x"), *OF_MEMORY)

    def forward(self, given: Sequence[Tensor], save: bool) -> dict[str, Tensor]:
        """Every tensor of the pass by name: `y S`, `end S`, `x` (the contexts), `weights`, and what the way
        back reads besides."""
        loop, sizes, plan = self.loop, self.sizes, self.forward_plan(save)
        tensors = dict(zip(self.names, given, strict=True)) | self.prepared.equal.tensors
        like = tensors["keys"]
        for name, shape in self.prepared.shapes.items():
            if name.startswith(("y ", "end ")):
                tensors[name] = like.new_empty(shape)
        whole = like.new_empty(sizes.T + 1, *tensors[f"start {self.asks}"].shape)
        whole[0] = tensors[f"start {self.asks}"]
        tensors[f"y {self.asks}"] = whole[1:]
        tensors["x"] = like.new_empty(sizes.T, sizes.B, self.reading.Z)
        tensors["weights"] = like.new_empty(sizes.T, sizes.B, self.reading.S)
        chosen = (sizes.T, sizes.B) if self.reading.hard else (0,)
        tensors["chosen"] = torch.empty(chosen, dtype=torch.int64)
        tensors["saved"] = workspace((plan.size["saved"],), loop.dtype)
        plan.run(plan.addresses(tensors | {"work": scratch(plan.size["work"], loop.dtype)}))
        return tensors

    def backward(
        self, tensors: dict[str, Tensor], upstream: Mapping[str, Tensor | None]
    ) -> dict[str, Tensor]:
        """The gradients of everything in `names`, by name."""
        loop, sizes, r = self.loop, self.sizes, self.reading
        silent = frozenset(n for n in loop.handed_on if n != self.asks and upstream[f"y {n}"] is None)
        plan = self.backward_plan(silent)
        like = tensors["keys"]
        rows = sizes.rows
        tensors = dict(tensors)
        for name, d in upstream.items():
            if name == f"y {self.asks}":
                continue
            of_row = slice(-1, None) if name.removeprefix("y ") in silent else slice(None)
            shape = tensors[name].shape[of_row]
            to = {"x": "d_contexts"}.get(name, f"d_{name}")
            tensors[to] = like.new_zeros(shape) if d is None else in_memory(d)
        own = like.new_zeros(sizes.T + 1, *tensors[f"start {self.asks}"].shape)
        if (arriving := upstream[f"y {self.asks}"]) is not None:
            own[1:] = arriving
        tensors[f"d_y {self.asks}"] = own[1:]
        row = loop.padded(r.A)
        tensors["d_queries"] = like.new_empty((rows, row) if r.through else (0,))
        for name in ("keys", "values", "score"):
            tensors[f"d_{name}"] = torch.zeros_like(tensors[name])
        for name, size in self.prepared.shapes.items():
            if not name.startswith(("y ", "end ")):
                begun = name.startswith(("parameter ", "before "))
                tensors[f"d_{name}"] = (like.new_zeros if begun else like.new_empty)(size)
        places = column_places(plan)
        kept = {"columns": plan.places[loop.columns[0]][1]} if loop.columns else {}
        kept |= {name: plan.places[name][1] for name in loop.operands}
        tensors |= {name: like.new_empty(rows, width) for name, width in kept.items()}
        plan.run(plan.addresses(tensors | {"work": scratch(plan.size["work"], loop.dtype)}))
        self._matrices(tensors, places)
        tensors[f"d_start {self.asks}"] = tensors[f"d_start {self.asks}"] + own[0]
        if r.through:
            asked = tensors[f"y {self.asks}"]
            before = asked.as_strided((rows, asked.shape[-1]), (asked.shape[-1], 1), 0)  # from the start on
            tensors["d_matrix"] = tensors["d_queries"][:, : r.A].t() @ before
        return tensors

    def _matrices(self, tensors: dict[str, Tensor], places: Mapping[str, int]) -> None:
        """The gradients of the cell's matrices: products of what was kept of all steps."""
        loop, sizes = self.loop, self.sizes
        wanted: dict[str, list[tuple[str, str]]] = {}
        for k in loop.projected:
            wanted.setdefault("x", []).append((loop.whole.nodes[k].name, f"d_before {k}"))
        for name, pairs in loop.adjoint.matrices.items():
            for d, k in pairs:
                wanted.setdefault(loop.operand(k), []).append((name, loop.column_of(d)))
        for operand, matrices in wanted.items():
            product = tensors["columns"].t() @ self._rows(tensors, operand)
            for name, column in matrices:
                tensor, _ = sizes.parts[name]
                to = tensors[f"d_parameter {tensor}"]
                to += product[places[column] : places[column] + len(to)]

    def _rows(self, tensors: Mapping[str, Tensor], name: str) -> Tensor:
        """What a matrix multiplies, at all steps: (T B, W)."""
        loop, rows, B = self.loop, self.sizes.rows, self.sizes.B
        if name == "x":
            return tensors["x"].flatten(0, 1)
        width = self._width(name)
        if name in loop.operands:
            return tensors[name][:, :width]
        at, row = self.forward_plan(True).places[name]
        tensor = tensors[at.tensor]
        found = tensor.as_strided((rows, width), (row, 1), tensor.storage_offset() + at.element)
        shifted = name in loop.graph.states
        return torch.cat([tensors[f"start {name}"], found[:-B]]) if shifted else found

    def _width(self, name: str) -> int:
        loop = self.loop
        for pairs in loop.adjoint.matrices.values():
            for _, k in pairs:
                if loop.operand(k) == name:
                    return self.sizes.widths[loop.step.nodes[k].width]
        raise AssertionError(name)


class Attentive(torch.autograd.Function):
    """All steps as one differentiable operation.

    Inputs: those of `_Attentive.names`. Outputs: what the cell hands on (T, B, W), the final states, the
    contexts, the weights, and which places were drawn.
    """

    @staticmethod
    def forward(ctx: Any, attentive: _Attentive, look: Look, save: bool, *given: Tensor) -> Any:
        tensors = attentive.forward(given, save)
        names = (*attentive.prepared.results, "x", "weights", "chosen")
        results = [tensors[name] for name in names]
        ctx.mark_non_differentiable(tensors["chosen"])
        if save:
            ctx.attentive, ctx.look, ctx.given = attentive, look, len(given)
            ctx.save_for_backward(*given, *results, tensors["saved"])
            ctx.names = (*attentive.names, *names, "saved")
            ctx.set_materialize_grads(False)
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> Any:
        attentive: _Attentive = ctx.attentive
        names = (*attentive.prepared.results, "x", "weights")
        saved = ctx.saved_tensors
        if torch.is_grad_enabled():  # they will be differentiated again
            return (None, None, None, *again(attentive, ctx.look, saved[: ctx.given], upstream[:-1]))
        tensors = dict(zip(ctx.names, saved, strict=True)) | attentive.prepared.equal.tensors
        found = attentive.backward(tensors, dict(zip(names, upstream, strict=False)))
        needed = ctx.needs_input_grad[3:]
        return (
            *(None, None, None),
            *(
                found.get(f"d_{name}") if asked else None
                for name, asked in zip(attentive.names, needed, strict=True)
            ),
        )


Look = Callable[[Mapping[str, Tensor], Tensor, int], tuple[Tensor, Tensor]]
"""From a memory's tensors, a state (B, H) and the number of the step to a context and weights, on tensors."""


def again(
    attentive: _Attentive, look: Look, given: Sequence[Tensor], upstream: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """The gradients through the step on tensors, so that they can be differentiated again."""
    loop = attentive.loop
    results = loop.step.results
    with torch.enable_grad():
        given = [t.view_as(t) if t.requires_grad else t for t in given]
        tensors = dict(zip(attentive.names, given, strict=True))
        own = {name: tensors[f"parameter {k}"] for name, (k, _) in attentive.sizes.parts.items()}
        shapes = {n: [attentive.sizes.widths[s] for s in loop.graph.parameters[n].shape] for n in own}
        own = {name: value[: shapes[name][0]] for name, value in own.items()}  # of biases that are left out
        now = {name: tensors[f"start {name}"] for name in loop.graph.states}
        steps = []
        for t in range(attentive.sizes.T):
            context, weights = look(tensors, now[attentive.asks], t)
            read = {f"before {k}": F.linear(context, own[loop.whole.nodes[k].name]) for k in loop.projected}
            read |= {f"before {k}": tensors[f"before {k}"][t] for k in loop.given}
            done = loop.step.run({**now, **read, **{f"before {k}": context for k in loop.direct}}, own)
            now = {name: done[results[name]] for name in now}
            steps.append([*(done[results[name]] for name in loop.handed_on), context, weights])
        *ys, contexts, all_weights = (torch.stack(each) for each in zip(*steps, strict=True))
        pairs = zip([*ys, *now.values(), contexts, all_weights], upstream, strict=True)
        outputs, arriving = zip(*((y, d) for y, d in pairs if d is not None), strict=True)
        needing = [t for t in given if t.requires_grad]
        found = iter(torch.autograd.grad(outputs, needing, arriving, create_graph=True, allow_unused=True))
    return [next(found) if t.requires_grad else None for t in given]


def attentive_of(
    graph: Graph,
    context: tuple[int, int, int],
    start: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
    handed_on: tuple[str, ...],
    reading: tuple[int, int, bool, bool, bool],
) -> _Attentive:
    """What runs a graph whose first input is read off a memory.

    Args:
        context: T, B, Z.
        reading: A, S, and whether the score is additive, queries go through a matrix, one place is drawn.
    """
    A, S, additive, through, hard = reading
    dtype = next(iter(start.values())).dtype
    loop = loop_of(graph, dtype, handed_on)
    shapes = tuple((name, tuple(value.shape)) for name, value in parameters.items())
    key = "attentive", context, reading, shapes, torch.get_num_threads()
    found: _Attentive | None = loop.prepared.get(key)
    if found is None:
        x = torch.empty(1, dtype=dtype).expand(context)
        prepared = prepare(loop, x, start, parameters, None, False, True, True)
        found = _Attentive(loop, _Reading(A, context[2], S, additive, through, hard), prepared)
        loop.prepared[key] = found
        if len(loop.prepared) > PLANS:
            loop.prepared.pop(next(iter(loop.prepared)), None)
    return found


def run_attentive(
    attentive: _Attentive,
    look: Look,
    others: Mapping[str, Tensor],
    start: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
    memory: Mapping[str, Tensor | None],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Outputs by name, with "x" for the contexts, "weights" and "chosen"; and the final states.

    Args:
        look: the same on tensors, for second derivatives.
        others: the cell's inputs but the first, by name.
        memory: by the names of `OF_MEMORY`.
    """
    loop = attentive.loop
    before = [run_to(loop.whole, k, others, parameters).contiguous() for k in loop.given]
    like = next(iter(start.values()))
    given = [*before, *(start[name] for name in loop.graph.states)]
    given += [parameters[name] for name in loop.parameters if name in parameters]
    given = attentive.prepared.complete([like.new_empty(0), *given])[1:]
    given += [like.new_empty(0) if memory[name] is None else memory[name] for name in OF_MEMORY]  # type: ignore[misc]
    given = [in_memory(value) for value in given]
    save = torch.is_grad_enabled() and any(value.requires_grad for value in given)
    results = Attentive.apply(attentive, look, save, *given)  # type: ignore[no-untyped-call]
    names = (*attentive.prepared.results, "x", "weights", "chosen")
    tensors = dict(zip(names, results, strict=True))
    ends = {name: tensors[f"end {name}"] for name in loop.graph.states}
    return {name.removeprefix("y "): v for name, v in tensors.items() if not name.startswith("end ")}, ends
