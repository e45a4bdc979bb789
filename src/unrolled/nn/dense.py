"""A dense stack: every layer reads all that was computed before it.

    A_l = f(W_l [A_0, A_1, ..., A_{l-1}] + b_l),  l = 1 ... depth

This is the fully connected form of Huang et al. 2017 (arXiv:1608.06993). The state grows by `growth` units a
layer, so it is no cell of fixed width.

Joined by `torch.cat`, the inputs of all layers would be kept, which grows with the square of the depth. Here
all layers write into one buffer and read slices of it, and on the way back they add to slices of another. The
weights do grow with the square of the depth: that is what the network is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, maximum, nn

from unrolled.cell import layer_norm, rms_norm
from unrolled.cells.rnn import POINTWISE, Activation
from unrolled.errors import InputError, check_sizes
from unrolled.graph import OPERATIONS
from unrolled.nn.autocast import in_own_dtype
from unrolled.nn.batch_norm import EPS, MOMENTUM
from unrolled.nn.initialise import Initialiser, initialise, initialise_matching
from unrolled.nn.room import check_room
from unrolled.tracing import more_than_numbers

ACTIVATIONS: Final = get_args(Activation)

OF_ROWS: Final = {"layer": layer_norm, "rms": rms_norm}

NORMS: Final = (*OF_ROWS, "batch")

TOGETHER: Final = 64
"""Units of layers that are run together."""


def started(activation: str) -> str:
    """The initialiser with which a layer's values are about as large as what it reads."""
    return "he" if activation == "relu" else "lecun"


class Map(NamedTuple):
    """One affine map of a layer: x (growth, units before it), bias and gain (growth,), and with batch norm
    running means of its products and their variance (growth,)."""

    x: Tensor
    bias: Tensor
    gain: Tensor | None
    running: tuple[Tensor, Tensor] | None


@dataclass(frozen=True)
class Form:
    """What a dense stack computes, without its parameters."""

    width: int
    depth: int
    growth: int
    activation: str
    norm: str | None
    training: bool = True

    @property
    def maps(self) -> tuple[str, ...]:
        """The maps of a layer, named as in the cell `rnn`."""
        return ("h1", "h2") if self.activation == "maxout" else ("h",)

    @property
    def total(self) -> int:
        """The width of the output."""
        return self.width + self.depth * self.growth

    def units(self, layer: int) -> slice:
        """Where a layer, counted from 0, puts what it computes."""
        begin = self.width + layer * self.growth
        return slice(begin, begin + self.growth)

    def blocks(self) -> list[range]:
        """Layers that are run together."""
        several = max(1, TOGETHER // self.growth)
        return [range(k, min(k + several, self.depth)) for k in range(0, self.depth, several)]

    def normal(self, z: Tensor, own: Map, counted: bool = False) -> Tensor:
        """What a map's product becomes before the activation; without a norm the bias is in it already.

        Args:
            counted: the batch counts in running means.
        """
        if self.norm != "batch":
            return OF_ROWS[self.norm](z, own.gain, own.bias) if self.norm else z
        running = own.running if counted or not self.training else None
        mean, variance = running or (None, None)
        return F.batch_norm(z, mean, variance, own.gain, own.bias, self.training, MOMENTUM, EPS)

    def activate(self, summed: Sequence[Tensor]) -> Tensor:
        """f of what the maps give."""
        return maximum(*summed) if len(summed) == 2 else POINTWISE[self.activation](*summed)

    def layers(
        self, parameters: Sequence[Tensor], running: Sequence[tuple[Tensor, Tensor]]
    ) -> list[list[Map]]:
        """The maps of every layer, from the parameters and running statistics in their order."""
        each, count = 3 if self.norm else 2, len(self.maps)
        found = []
        for k in range(self.depth * count):
            x, bias, *gain = parameters[k * each : (k + 1) * each]
            found.append(Map(x, bias, gain[0] if gain else None, running[k] if running else None))
        return [found[k : k + count] for k in range(0, len(found), count)]


class Dense(nn.Module):
    """Layers that each read the input and all layers before them.

    Args:
        width: units of the input, A_0.
        depth: layers.
        growth: units that each adds.
        activation: f; "relu", "tanh", "sigmoid", "softplus", or "maxout", the larger of two affine maps.
        norm: "layer", "rms" or "batch" normalises what the matrices give, with a gain, before the bias;
            "batch" by mean and variance of the batch in training, and by running means of these afterwards.
        init: initialisers by pattern, as in {"h.bias": 0.1, "*.x": "orthogonal"}, over all layers; see
            `unrolled.nn.initialise`. Without: "he" for relu and "lecun" for others, and biases 0.

    Parameters: `l0.h.x` (growth, units before), `l0.h.bias`, `l0.h.gain` with a norm, and so on; of maxout
        `l0.h1.x` and `l0.h2.x`.

    Shapes: A (B, width), or (width,) alone; the output (B, width + depth * growth), the input first.

    Memory: of activations and their gradients 2 + maps times the output, however deep; of weights
        maps * growth * depth * (width + growth * (depth - 1) / 2).

    Raises:
        InputError: an argument or an input does not fit.
        BudgetError: the weights, or a batch, do not fit into memory; the message says how much they take.

    Source: Huang et al. 2017, arXiv:1608.06993.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        growth: int,
        activation: str = "relu",
        *,
        norm: str | None = None,
        init: Mapping[str, Initialiser] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_sizes(width=width, depth=depth, growth=growth)
        if activation not in ACTIVATIONS:
            raise InputError(f"no activation {activation!r}; there are {', '.join(ACTIVATIONS)}")
        if norm is not None and norm not in NORMS:
            raise InputError(f"no norm {norm!r}; there are {', '.join(NORMS)}")
        if norm == "layer" and growth == 1:
            raise InputError("layer normalisation of one unit is always 0: take a growth of 2 or more")
        self.form = Form(width, depth, growth, activation, norm)
        self.init = dict(init or {})
        where = torch.empty(0, device=device, dtype=dtype)
        read = depth * width + growth * depth * (depth - 1) // 2
        check_room(
            f"the weights of dense layers with width {width}, depth {depth} and growth {growth}",
            len(self.form.maps) * growth * read * where.itemsize,
            where.device,
            "they grow with the square of depth and growth: lower one of these",
        )
        self._maps: list[nn.Module] = []  # to walk through modules takes long
        for layer in range(depth):
            self.add_module(f"l{layer}", self._layer(self.form.units(layer).start, where))
        self.reset_parameters()

    def _layer(self, before: int, like: Tensor) -> nn.Module:
        module, growth = nn.Module(), self.form.growth
        shapes = {"x": (growth, before), "bias": (growth,)} | ({"gain": (growth,)} if self.form.norm else {})
        for name in self.form.maps:
            own = nn.Module()
            for each, shape in shapes.items():
                own.register_parameter(each, nn.Parameter(like.new_empty(shape)))
            if self.form.norm == "batch":
                own.register_buffer("mean", like.new_zeros(growth))
                own.register_buffer("variance", like.new_ones(growth))
            self._maps.append(own)
            module.add_module(name, own)
        return module

    def reset_parameters(self) -> None:
        """Draw the initial values anew."""
        starts: dict[str, Initialiser] = {"x": started(self.form.activation), "bias": 0.0, "gain": 1.0}
        everything: list[tuple[str, Tensor]] = []
        for layer in range(self.form.depth):
            for name, tensor in self.get_submodule(f"l{layer}").named_parameters():
                initialise(tensor, starts[name.rpartition(".")[2]])
                everything.append((name, tensor))
        initialise_matching(everything, self.init)

    @property
    def output_size(self) -> int:
        """The width of the output."""
        return self.form.total

    def forward(self, A: Tensor) -> Tensor:
        """All that was computed, side by side; see the class for shapes."""
        if not isinstance(A, Tensor):
            raise InputError(f"A is a {type(A).__name__}, expected a tensor (B, {self.form.width})")
        return self._run(A, None)

    @property
    def dtype(self) -> torch.dtype:
        """What the parameters are."""
        return next(self._maps[0].parameters()).dtype

    @in_own_dtype
    def _run(self, A: Tensor, state: None) -> Tensor:
        form = replace(self.form, training=self.training)
        names = ("x", "bias", "gain") if form.norm else ("x", "bias")
        parameters: list[Tensor] = [getattr(own, name) for own in self._maps for name in names]
        running = [
            (own.get_buffer("mean"), own.get_buffer("variance")) for own in self._maps if form.norm == "batch"
        ]
        like = parameters[0]
        if A.ndim not in (1, 2) or A.shape[-1] != form.width:
            raise InputError(f"A has shape {tuple(A.shape)}, expected (B, {form.width}), or ({form.width},)")
        if A.dtype != like.dtype:
            raise InputError(f"A is {A.dtype}, but the layers are {like.dtype}; use A.to({like.dtype})")
        if A.device != like.device:
            raise InputError(f"A is on {A.device}, but the layers are on {like.device}")
        rows = A if A.ndim == 2 else A[None]
        if form.norm == "batch" and form.training and len(rows) < 2:
            raise InputError("batch norm in training takes at least 2 rows, for one has no variance")
        if more_than_numbers(A, *parameters):
            found = plain(form, rows, parameters, running, counted=True)
        else:
            self._check_room(rows, parameters)
            found = _Buffered.apply(form, running, rows, *parameters)  # type: ignore[no-untyped-call]
        return found if A.ndim == 2 else found[0]

    def _check_room(self, A: Tensor, parameters: Sequence[Tensor]) -> None:
        form = self.form
        learning = torch.is_grad_enabled() and any(t.requires_grad for t in (A, *parameters))
        units = form.total + (form.total + form.depth * form.growth * len(form.maps)) * learning
        check_room(
            f"a dense pass of {len(A):,} rows through {form.total:,} units",
            len(A) * units * A.itemsize,
            A.device,
            "give fewer rows at once, or lower depth or growth",
        )

    def extra_repr(self) -> str:
        form = self.form
        told = f"{form.width}, {form.depth}, {form.growth}, activation={form.activation!r}"
        return told + (f", norm={form.norm!r}" if form.norm else "")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"  # a thousand layers tell no more


def plain(
    form: Form,
    A: Tensor,
    parameters: Sequence[Tensor],
    running: Sequence[tuple[Tensor, Tensor]] = (),
    counted: bool = False,
) -> Tensor:
    """The same with `torch.cat`: what is differentiated again, transformed or compiled by torch."""
    for maps in form.layers(parameters, running):
        products = [F.linear(A, own.x, None if form.norm else own.bias) for own in maps]
        summed = [form.normal(z, own, counted) for z, own in zip(products, maps, strict=True)]
        A = torch.cat([A, form.activate(summed)], -1)
    return A


class _Buffered(torch.autograd.Function):
    """All layers as one differentiable operation. Inputs: A, and the parameters in their order.

    A few layers at a time: what they read of all before these is one product for all of them, which is much
    faster than many narrow ones; within these each layer adds what it reads of the others.
    """

    @staticmethod
    def forward(
        ctx: Any, form: Form, running: list[tuple[Tensor, Tensor]], A: Tensor, *parameters: Tensor
    ) -> Tensor:
        buffer = A.new_empty(len(A), form.total)
        buffer[:, : form.width] = A
        kept = [A.new_empty(len(A), form.depth * form.growth) for _ in form.maps]
        layers = form.layers(parameters, running)
        for block in form.blocks():
            begin = form.units(block.start).start
            for k, z in enumerate(kept):
                own = [layers[layer][k] for layer in block]
                earlier, z = buffer[:, :begin], z[:, block.start * form.growth : block.stop * form.growth]
                if form.norm:
                    torch.mm(earlier, _side_by_side(own, begin).t(), out=z)
                else:
                    bias = torch.cat([each.bias for each in own])
                    torch.addmm(bias, earlier, _side_by_side(own, begin).t(), out=z)
            for layer in block:
                at, summed = form.units(layer), []
                for z, one in zip(_of_layer(form, kept, layer), layers[layer], strict=True):
                    if begin < at.start:
                        z.addmm_(buffer[:, begin : at.start], one.x[:, begin:].t())
                    summed.append(form.normal(z, one, counted=True))
                buffer[:, at] = form.activate(summed)
        ctx.form, ctx.running = form, running
        ctx.save_for_backward(A, buffer, *kept, *parameters)
        return buffer

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> Any:
        form: Form = ctx.form
        A, buffer, *rest = ctx.saved_tensors
        kept, parameters = rest[: len(form.maps)], rest[len(form.maps) :]
        # They will be differentiated, or there is a batch of gradients.
        if torch.is_grad_enabled() or not torch._C._has_storage(d_out) or more_than_numbers(d_out):
            return (None, None, *_again(form, ctx.running, [A, *parameters], d_out))
        d = d_out.clone(memory_format=torch.contiguous_format)
        first = 0 if ctx.needs_input_grad[2] else form.width
        layers, growth = form.layers(parameters, ctx.running), form.growth
        found: dict[tuple[int, int], Sequence[Tensor]] = {}  # by layer and map: x, bias, and gain if any
        adjoint = OPERATIONS["maximum" if len(form.maps) == 2 else form.activation].adjoint
        assert adjoint is not None
        for block in reversed(form.blocks()):
            begin, end = form.units(block.start).start, form.units(block.stop - 1).start
            d_block = [d.new_empty(len(d), len(block) * growth) for _ in form.maps]
            vectors: dict[tuple[int, int], Sequence[Tensor]] = {}
            for layer in reversed(block):
                at, zs = form.units(layer), _of_layer(form, kept, layer)
                summed = [form.normal(z, one) for z, one in zip(zs, layers[layer], strict=True)]
                d_summed = adjoint(d[:, at], buffer[:, at], *summed)
                for k, (z, one, d_z) in enumerate(zip(zs, layers[layer], d_summed, strict=True)):
                    if form.norm:
                        d_z, *vectors[layer, k] = _back_through_norm(form, z, one, d_z)
                    d_block[k][:, at.start - begin : at.stop - begin] = d_z
                    if begin < at.start:
                        d[:, begin : at.start].addmm_(d_z, one.x[:, begin:])
            for k, d_z in enumerate(d_block):
                if first < begin:
                    own = [layers[layer][k] for layer in block]
                    d[:, first:begin].addmm_(d_z, _side_by_side(own, begin)[:, first:])
                d_x = (d_z.t() @ buffer[:, :end]).view(len(block), growth, end).unbind()
                d_bias = d_z.sum(0).view(len(block), growth).unbind()
                for layer, rows, bias in zip(block, d_x, d_bias, strict=True):
                    own_vectors = vectors.get((layer, k), (bias,))
                    found[layer, k] = (rows[:, : form.units(layer).start], *own_vectors)
        d_A = d[:, : form.width].clone() if ctx.needs_input_grad[2] else None
        return (None, None, d_A, *(t for key in sorted(found) for t in found[key]))


def _side_by_side(own: Sequence[Map], before: int) -> Tensor:
    """What maps of several layers make of the first units: their matrices, one below the other."""
    return torch.cat([each.x[:, :before] for each in own])


def _of_layer(form: Form, kept: Iterable[Tensor], layer: int) -> list[Tensor]:
    begin = layer * form.growth
    return [z[:, begin : begin + form.growth] for z in kept]


def _back_through_norm(form: Form, z: Tensor, own: Map, d: Tensor) -> tuple[Tensor, ...]:
    """The gradients of a map's product, bias and gain."""
    with torch.enable_grad():
        z, bias, gain = (t.detach().requires_grad_() for t in (z, own.bias, own.gain) if t is not None)
        return torch.autograd.grad(form.normal(z, own._replace(bias=bias, gain=gain)), (z, bias, gain), d)


def _again(
    form: Form, running: Sequence[tuple[Tensor, Tensor]], given: Sequence[Tensor], d_out: Tensor
) -> tuple[Tensor | None, ...]:
    """The gradients with a graph of their own."""
    with torch.enable_grad(), torch.autocast(d_out.device.type, enabled=False):
        # Views, since one may have been computed from another: their gradients are along this pass alone.
        given = [t.view_as(t) if t.requires_grad else t for t in given]
        needing = [t for t in given if t.requires_grad]
        out = plain(form, given[0], given[1:], running)
        gradients = iter(torch.autograd.grad(out, needing, d_out, create_graph=True))
    return tuple(next(gradients) if t.requires_grad else None for t in given)
