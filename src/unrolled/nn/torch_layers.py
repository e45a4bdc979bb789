"""`RNN`, `LSTM` and `GRU` with the arguments, parameters and initial values of `torch.nn`.

They run the cells of the zoo on slices of torch's stacked matrices, so a `state_dict` goes either way.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from unrolled.cell import Cell
from unrolled.cells.gru import gru
from unrolled.cells.lstm import lstm
from unrolled.cells.rnn import rnn
from unrolled.errors import InputError
from unrolled.nn.masks import Masks, Regularisers
from unrolled.nn.stack import Options, RecurrentStack
from unrolled.nn.weight_norm import WeightNorms, written
from unrolled.parameters import Stacked


class _TorchLayer(RecurrentStack):
    """Parameters as `torch.nn.RNNBase` keeps them: the gates stacked in one matrix for x and one for h, and
    two biases, which add up where both belong to one gate."""

    x_gates: ClassVar[tuple[str, ...]]
    h_gates: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        cell: Cell,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        backend: str = "auto",
        learn_initial: bool = False,
        norm: str | None = None,
        batch_norm: bool = False,
        weight_norm: WeightNorms | None = None,
        **regularisers: Unpack[Regularisers],
    ) -> None:
        if proj_size and "c" not in cell.states:
            raise InputError("proj_size is for an LSTM only, as in torch")
        widths = dict.fromkeys(cell.states, hidden_size) | ({"h": proj_size} if proj_size else {})
        super().__init__(
            cell,
            input_size,
            widths,
            num_layers,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            backend=backend,
            learn_initial=learn_initial,
            norm=norm,
            batch_norm=batch_norm,
            weight_norm=weight_norm,
            device=device,
            dtype=dtype,
            **regularisers,
        )
        if dropout and num_layers == 1:
            warnings.warn(
                f"dropout={dropout} is between layers, and this {type(self).__name__} has one: "
                "nothing is dropped",
                UserWarning,
                stacklevel=3,
            )
        self.hidden_size = hidden_size
        self.proj_size = proj_size
        self.bias = bias
        rows = len(self.x_gates) * hidden_size
        for place, suffix in enumerate(self.suffixes):
            shapes = {
                "weight_ih": (rows, self.input_size_of(place // (1 + bidirectional))),
                "weight_hh": (rows, proj_size or hidden_size),
                **({"bias_ih": (rows,), "bias_hh": (rows,)} if bias else {}),
                **({"weight_hr": (proj_size, hidden_size)} if proj_size else {}),
                **({"gain": (len(self._maps) * hidden_size,)} if norm else {}),
            }
            for name, shape in shapes.items():
                tensor = torch.empty(shape, device=device, dtype=dtype)
                self.register_parameter(f"{name}_{suffix}", nn.Parameter(tensor))
        self._normalised = norm is not None
        self._parts = self._rows_of_gates()
        self._names = tuple(self._parameters)
        self.reset_parameters()
        self._normalise_weights()

    def reset_parameters(self) -> None:
        """Draw the initial values anew, as torch does: uniform within ±1/√H."""
        bound = 1 / math.sqrt(self.hidden_size)
        with written(self, self._names) as tensors:
            for tensor in tensors.values():
                nn.init.uniform_(tensor, -bound, bound)
            for suffix in self.suffixes if self._normalised else ():
                nn.init.ones_(tensors[f"gain_{suffix}"])
        self.reset_initial()

    def parameters_of(self, suffix: str) -> Stacked:
        own: dict[str, Any] = self._parameters

        def tensor(name: str) -> Tensor:  # attributes would cost as much as the rest of this
            found: Tensor = own[name] if name in own else getattr(self, name)  # one that is parametrised
            return found

        tensors = [tensor(f"weight_ih_{suffix}"), tensor(f"weight_hh_{suffix}")]
        if self.proj_size:
            tensors.append(tensor(f"weight_hr_{suffix}"))
        if self.bias:
            x_bias, h_bias = tensor(f"bias_ih_{suffix}"), tensor(f"bias_hh_{suffix}")
            if self.x_gates == self.h_gates:
                tensors.append(x_bias + h_bias)
            else:  # gates with a bias of their own for x and h come last
                rows = self._shared * self.hidden_size
                tensors += [x_bias[:rows] + h_bias[:rows], x_bias[rows:], h_bias[rows:]]
        if self._normalised:
            tensors.append(tensor(f"gain_{suffix}"))
        return Stacked(tuple(tensors), self._parts)

    def biases_of(self, suffix: str, gate: str) -> tuple[Tensor, ...]:
        H = self.hidden_size
        return tuple(
            getattr(self, f"bias_{side}_{suffix}").narrow(0, H * gates.index(gate), H)
            for side, gates in (("ih", self.x_gates), ("hh", self.h_gates))
            if self.bias and gate in gates
        )

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Any = None,
        **options: Unpack[Options],
    ) -> tuple[Any, ...]:
        """As in torch; with `options` what was asked for at every step comes third, see `run`."""
        output, end, steps = self.run(input, None if hx is None else self.by_name(hx), **options)
        return (output, self._as_torch(end), steps) if steps else (output, self._as_torch(end))

    def step(self, x_t: Tensor, hx: Any = None, *, masks: Masks | None = None) -> tuple[Tensor, Any]:
        """One step of all layers, for x_t (B, D) or token numbers (B,): what a sequence of one step gives."""
        output, end = self.run_step(x_t, None if hx is None else self.by_name(hx), masks)
        return output, self._as_torch(end)

    def by_name(self, state: Any) -> Mapping[str, Tensor]:
        return {"h": state}

    def _as_torch(self, state: Mapping[str, Tensor]) -> Any:
        """A state as torch has it."""
        return state["h"]

    @property
    def mode(self) -> str:
        """Torch's name of the kind of layer."""
        return "LSTM" if "c" in self.cell.states else "GRU"

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """The parameters of each layer and direction, in torch's order."""
        names = ["weight_ih", "weight_hh", *["bias_ih", "bias_hh"] * self.bias]
        names += ["weight_hr"] * bool(self.proj_size)
        return [[getattr(self, f"{name}_{suffix}") for name in names] for suffix in self.suffixes]

    def flatten_parameters(self) -> None:
        """Nothing: parameters need not lie side by side here. Programs that run on torch's layers call it."""

    def _matrices(self) -> Mapping[str, str]:
        return {name: name[: name.index("_l")] for name in self._names if name.startswith("weight")}

    def _recurrent(self) -> Collection[str]:
        return ("weight_hh",)

    def matrices_in(self, name: str) -> int:
        """How many gates' matrices are one below the other in a parameter."""
        gates = {"weight_ih": self.x_gates, "weight_hh": self.h_gates}.get(name[: name.index("_l")])
        return len(gates) if gates else 1

    @property
    def _maps(self) -> tuple[str, ...]:
        """The maps that have a gain, in the order of its rows."""
        return tuple(dict.fromkeys((*self.x_gates, *self.h_gates)))

    @property
    def _shared(self) -> int:
        """How many gates add up their two biases."""
        return sum(x == h for x, h in zip(self.x_gates, self.h_gates, strict=True))

    def _rows_of_gates(self) -> dict[str, tuple[int, int, int]]:
        """Which rows of which tensor belong to a gate."""
        H = self.hidden_size
        stacks = [("x", self.x_gates, H), ("h", self.h_gates, H)]
        if self.proj_size:
            stacks.append(("h", ("r",), self.proj_size))
        if self.bias:
            stacks.append(("bias", self.x_gates[: self._shared], H))
            if self.x_gates != self.h_gates:
                stacks += [("bias", gates[self._shared :], H) for gates in (self.x_gates, self.h_gates)]
        if self._normalised:
            stacks.append(("gain", self._maps, H))
        return {
            f"{gate}.{source}": (place, k * rows, rows)
            for place, (source, gates, rows) in enumerate(stacks)
            for k, gate in enumerate(gates)
        }

    @property
    def _like(self) -> Tensor:
        for tensor in self._parameters.values():  # at hand, unless all are parametrised
            assert tensor is not None
            return tensor
        return super()._like

    def extra_repr(self) -> str:
        parts = [str(self.input_size), str(self.hidden_size)]
        defaults = {"proj_size": 0, "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0}
        for name, default in (defaults | {"bidirectional": False}).items():
            if (value := getattr(self, name)) != default:
                parts.append(f"{name}={value}")
        return ", ".join((*parts, *self._beyond_torch))


class RNN(_TorchLayer):
    """Elman network with the arguments of `torch.nn.RNN`; `layer(x, h)` returns `output, h`.

    Args:
        input_size, hidden_size, num_layers, nonlinearity ("tanh" or "relu"), bias, batch_first, dropout,
            bidirectional, device, dtype: as in torch.

    Shapes: x (T, B, D), (T, D), or token numbers (T, B); h (layers · directions, B, H).

    Raises:
        InputError: an argument or an input does not fit.
    """

    x_gates = h_gates = ("h",)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        *args: Any,
        **kwargs: Any,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise InputError(
                f"nonlinearity is tanh or relu, got {nonlinearity!r}; "
                "for others use Recurrent(rnn.with_options(activation=...))"
            )
        self.nonlinearity = nonlinearity
        super().__init__(
            rnn.with_options(activation=nonlinearity), input_size, hidden_size, num_layers, *args, **kwargs
        )

    @property
    def mode(self) -> str:
        return f"RNN_{self.nonlinearity.upper()}"


class GRU(_TorchLayer):
    """Gated recurrent unit with the arguments of `torch.nn.GRU`; `layer(x, h)` returns `output, h`.

    It resets after the recurrent product, as torch and cuDNN do. For the published orders use
    `Recurrent(gru_cho, ...)` or `Recurrent(gru_chung, ...)`.

    Shapes: x (T, B, D), (T, D), or token numbers (T, B); h (layers · directions, B, H).

    Raises:
        InputError: an argument or an input does not fit.
    """

    x_gates = ("r", "z", "n")
    h_gates = ("r", "z", "m")

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, *args: Any, **kwargs: Any
    ) -> None:
        super().__init__(gru, input_size, hidden_size, num_layers, *args, **kwargs)


class LSTM(_TorchLayer):
    """Long short-term memory with the arguments of `torch.nn.LSTM`; `layer(x, (h, c))` returns
    `output, (h, c)`.

    Args:
        proj_size: the width of h where it is a projection (Sak et al. 2014); 0 for none. Others as in torch.

    Shapes: x (T, B, D), (T, D), or token numbers (T, B); h (layers · directions, B, H or proj_size),
        c (layers · directions, B, H).

    Raises:
        InputError: an argument or an input does not fit.
    """

    x_gates = h_gates = ("i", "f", "g", "o")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        **kwargs: Any,
    ) -> None:
        if proj_size and not 0 < proj_size < hidden_size:
            raise InputError(f"proj_size must be from 0 to hidden_size - 1, got {proj_size} of {hidden_size}")
        super().__init__(
            lstm.with_options(projection=bool(proj_size)), input_size, hidden_size, num_layers, bias,
            batch_first, dropout, bidirectional, proj_size=proj_size, **kwargs,
        )  # fmt: skip

    def by_name(self, state: Any) -> Mapping[str, Tensor]:
        if not isinstance(state, tuple | list) or len(state) != 2:
            kind = f"a {type(state).__name__}" + f" of {len(state)}" * isinstance(state, tuple | list)
            raise InputError(f"the state of an LSTM is a pair (h, c), but came as {kind}")
        return dict(zip("hc", state, strict=True))

    def _as_torch(self, state: Mapping[str, Tensor]) -> Any:
        return state["h"], state["c"]
