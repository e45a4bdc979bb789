"""A step with parameters of its own at every layer, by torch's products one after the other: where layers are
wide these are faster than a kernel over all of them.

What runs is the step that kernels are printed from, and its adjoint, on tensors. The gradient of a layer's
matrix is written where it belongs, so that none is put together afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from unrolled.compile.derive import Adjoint, derive
from unrolled.compile.step import Step, lower, value_of
from unrolled.graph import Graph
from unrolled.parameters import Untied


@dataclass(frozen=True)
class _Layers:
    """What is known of a graph.

    saved: the nodes whose values the adjoint reads.
    fused: by an addition of a learned vector and a product, those two, where nobody else needs the product.
    """

    graph: Graph
    step: Step
    adjoint: Adjoint
    saved: tuple[int, ...]
    fused: Mapping[int, tuple[int, int]]

    def forward(
        self, read: Mapping[str, Tensor], own: Mapping[str, Tensor], sizes: Mapping[str, int]
    ) -> list[Any]:
        """The value of every node of a layer."""
        done: list[Any] = []
        inside = {product for _, product in self.fused.values()}
        for k, node in enumerate(self.step.nodes):
            if k in inside:
                done.append(None)
            elif k in self.fused:
                vector, product = (self.step.nodes[a] for a in self.fused[k])
                operand = done[product.args[0]]
                if vector.name in own:
                    done.append(torch.addmm(own[vector.name], operand, own[product.name].t()))
                else:  # a bias that was left out
                    done.append(operand @ own[product.name].t())
            else:
                done.append(value_of(node, [done[a] for a in node.args], read, own, sizes))
        return done


@lru_cache
def _layers(key: str) -> _Layers:
    graph = Graph.from_key(key)
    step = lower(graph)
    adjoint = derive(step)
    asked = {node.name for node in adjoint.step.nodes if node.kind == "read"}
    operands = {k for pairs in adjoint.matrices.values() for _, k in pairs}
    saved = {k for k in range(len(step.nodes)) if f"value {k}" in asked} | operands
    users: dict[int, int] = {}
    for node in step.nodes:
        for a in node.args:
            users[a] = users.get(a, 0) + 1
    fused = {}
    for k, node in enumerate(step.nodes):
        kinds = [step.nodes[a].kind for a in node.args]
        if node.kind == "add" and sorted(kinds) == ["product", "vector"]:
            product, vector = sorted(node.args, key=lambda a: step.nodes[a].kind)
            if users[product] == 1 and product not in saved and product not in step.results.values():
                fused[k] = vector, product
    return _Layers(graph, step, adjoint, tuple(sorted(saved)), fused)


def through_layers(
    graph: Graph, state: Mapping[str, Tensor], parameters: Untied, returning: Sequence[str]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What `unrolled.scan.scan` returns of a cell that reads no input: the states of `returning` at every
    layer, and the last ones."""
    states, names = graph.states, tuple(parameters)
    given = [*(state[name] for name in states), *parameters.tensors.values()]
    found = _Through.apply(graph.key, names, tuple(returning), *given)  # type: ignore[no-untyped-call]
    return dict(zip(returning, found, strict=False)), dict(zip(states, found[len(returning) :], strict=True))


class _Through(torch.autograd.Function):
    """Inputs: the first states, and the parameters of all layers. Outputs: the states asked for at every
    layer, and the last ones."""

    @staticmethod
    def forward(
        ctx: Any, key: str, names: tuple[str, ...], returning: tuple[str, ...], *given: Tensor
    ) -> Any:
        layers = _layers(key)
        states = layers.graph.states
        now = dict(zip(states, given, strict=False))
        parameters = Untied(dict(zip(names, given[len(states) :], strict=True)))
        sizes = layers.graph.sizes_with(now, parameters)
        kept: dict[str, list[Tensor]] = {name: [] for name in returning}
        saved: list[Tensor] = []
        for own in parameters.each():
            done = layers.forward(now, own, sizes)
            now = {name: done[layers.step.results[name]] for name in states}
            saved += [done[k] for k in layers.saved]
            for name in returning:
                kept[name].append(now[name])
        ctx.save_for_backward(*given, *saved)
        ctx.how = key, names, returning, sizes
        ctx.set_materialize_grads(False)
        return *(torch.stack(kept[name]) for name in returning), *(value.clone() for value in now.values())

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> Any:
        key, names, returning, sizes = ctx.how
        layers = _layers(key)
        adjoint, states = layers.adjoint, layers.graph.states
        count = len(states) + len(names)
        given, saved = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        if torch.is_grad_enabled():  # they will be differentiated again
            return None, None, None, *_again(layers, names, returning, given, upstream, sizes)
        learned = given[len(states) :]
        parameters = Untied(dict(zip(names, learned, strict=True)))
        d_at = dict(zip(returning, upstream, strict=False))
        d_now = {
            name: torch.zeros_like(value) if d is None else d
            for name, value, d in zip(states, given, upstream[len(returning) :], strict=False)
        }
        written = {*adjoint.matrices, *adjoint.vectors}
        gradients = {
            name: (torch.empty_like if name in written else torch.zeros_like)(value)
            for name, value in parameters.tensors.items()
        }
        each, size = parameters.each(), len(layers.saved)
        for t in reversed(range(len(each))):
            values = dict(zip(layers.saved, saved[t * size : (t + 1) * size], strict=True))
            read = {f"value {k}": value for k, value in values.items()}
            for name, d_state in d_now.items():
                arriving = d_at.get(name)
                read[f"d_{name}"] = d_state if arriving is None else d_state + arriving[t]
            done = adjoint.step.run(read, each[t], sizes)
            results = {name: done[k] for name, k in adjoint.step.results.items()}
            for name, pairs in adjoint.matrices.items():
                to = gradients[name][t]
                for again, (d, operand) in enumerate(pairs):
                    add = torch.Tensor.addmm_ if again else lambda to, a, b: torch.mm(a, b, out=to)
                    add(to, results[d].t(), values[operand])
            for name, sums in adjoint.vectors.items():
                if name in gradients:
                    torch.sum(sum(results[d] for d in sums[1:]) + results[sums[0]], 0, out=gradients[name][t])
            nothing = torch.zeros(())
            d_now = {
                name: results.get(f"d_{name}", nothing).expand_as(value)
                for name, value in zip(states, given, strict=False)
            }
        return None, None, None, *d_now.values(), *gradients.values()


def _again(
    layers: _Layers,
    names: Sequence[str],
    returning: Sequence[str],
    given: Sequence[Tensor],
    upstream: Sequence[Tensor | None],
    sizes: Mapping[str, int],
) -> list[Tensor | None]:
    """The gradients through the step as autograd has them, so that they can be differentiated again."""
    given = [t.view_as(t) if t.requires_grad else t for t in given]
    states = layers.graph.states
    now = dict(zip(states, given, strict=False))
    kept: list[dict[str, Tensor]] = []
    for own in Untied(dict(zip(names, given[len(states) :], strict=True))).each():
        done = layers.step.run(now, own, sizes)
        now = {name: done[layers.step.results[name]] for name in states}
        kept.append(now)
    results = [*(torch.stack([each[name] for each in kept]) for name in returning), *now.values()]
    pairs = [(value, d) for value, d in zip(results, upstream, strict=True) if d is not None]
    found = iter(
        torch.autograd.grad(
            [value for value, _ in pairs], [t for t in given if t.requires_grad], [d for _, d in pairs],
            create_graph=True, allow_unused=True,
        )
    )  # fmt: skip
    return [next(found) if t.requires_grad else None for t in given]
