"""Initial values of learned tensors, by name."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

import torch
from torch import Tensor, nn

from unrolled.errors import InputError

if TYPE_CHECKING:
    from unrolled.nn.stack import RecurrentStack

Initialiser: TypeAlias = float | str | Callable[[Tensor], object]
"""A number, a name such as "orthogonal" or "normal:0.01", or a function that fills a tensor in place."""


def _identity(tensor: Tensor, scale: float = 1.0) -> None:
    if tensor.ndim != 2:
        raise InputError(f"identity needs a matrix, got a vector of {tensor.shape[0]}")
    with torch.no_grad():
        nn.init.eye_(tensor).mul_(scale)


def _uniform(tensor: Tensor, bound: float) -> None:
    nn.init.uniform_(tensor, -bound, bound)


def _chrono(tensor: Tensor, longest: float) -> None:
    if not longest > 2:
        raise InputError(f"chrono:{longest:g} makes no sense: the longest span must be more than 2 steps")
    with torch.no_grad():
        tensor.uniform_(1.0, longest - 1).log_()


def _he(tensor: Tensor, scale: float = 1.0) -> None:
    _by_inputs(tensor, scale * math.sqrt(2))


def _by_inputs(tensor: Tensor, scale: float = 1.0) -> None:
    if tensor.ndim != 2:
        raise ValueError("the width of its input says how large the values of a matrix are")
    nn.init.normal_(tensor, 0.0, scale / math.sqrt(tensor.shape[1]))


def _scaled(tensor: Tensor, branches: float, power: float = 0.5) -> None:
    if not branches >= 1:
        raise InputError(f"scaled:{branches:g} makes no sense: there must be at least 1 residual branch")
    _he(tensor, branches**-power)


def _radius(tensor: Tensor, radius: float) -> None:
    if tensor.ndim != 2 or tensor.shape[0] != tensor.shape[1]:
        raise ValueError("eigenvalues are those of a square matrix")
    if not 0 < radius < math.inf:
        raise InputError(f"radius:{radius:g} makes no sense: a spectral radius is a number above 0")
    with torch.no_grad():
        largest = torch.linalg.eigvals(tensor.normal_().double()).abs().max()
        tensor.mul_(radius / largest)


INITIALISERS: Final[dict[str, Callable[..., object]]] = {
    "zeros": nn.init.zeros_,
    "ones": nn.init.ones_,
    "constant": nn.init.constant_,
    "normal": lambda tensor, std: nn.init.normal_(tensor, 0.0, std),
    "uniform": _uniform,
    "identity": _identity,
    "orthogonal": nn.init.orthogonal_,
    "xavier": nn.init.xavier_uniform_,
    "xavier_normal": nn.init.xavier_normal_,
    "kaiming": lambda tensor: nn.init.kaiming_uniform_(tensor, a=math.sqrt(5)),
    "he": _he,
    "lecun": _by_inputs,
    "scaled": _scaled,
    "radius": _radius,
    "chrono": _chrono,
}
"""By name; `normal:STD`, `uniform:BOUND`, `constant:VALUE`, `chrono:LONGEST` (see `chrono_`), `scaled` and
`radius` need a number, `identity`, `orthogonal`, `xavier_normal`, `he` and `lecun` may have a scale.

By the widths m of the output and n of the input of a matrix, so that values and gradients keep their size:

- `xavier`, `xavier_normal`: variance 2 / (m + n), uniform and normal (Glorot & Bengio 2010)
- `lecun`: normal of variance 1 / n (LeCun et al. 1998)
- `he`: normal of variance 2 / n, for relu (He et al. 2015, arXiv:1502.01852)
- `kaiming`: uniform of variance 1 / (3n), what torch's linear layers start from

For residual branches, which add up: `scaled:L` is `he` times 1 / √L for L branches, so that all together add
as much as one (De & Smith 2020, arXiv:2002.10444), and `scaled:L:P` is `he` times L^(−P): P is 1 for 1 / L,
and 1 / (2m − 2) in branches of m matrices (Zhang et al. 2019, arXiv:1901.09321).

By what a matrix does over many steps: `orthogonal` keeps every length (Saxe et al. 2014, arXiv:1312.6120),
and `radius:R` is normal, scaled to the spectral radius R (Jaeger 2001)."""


def initialise(tensor: Tensor, how: Initialiser) -> None:
    """Fill a tensor in place; one of three axes holds matrices, which are filled one by one.

    Raises:
        InputError: no such initialiser, or it does not fit the tensor's shape.
    """
    if tensor.ndim == 3:
        with torch.no_grad():
            for k in range(len(tensor)):
                initialise(tensor[k], how)
    elif callable(how):
        with torch.no_grad():
            how(tensor)
    elif isinstance(how, str) and not _is_number(how):
        name, *numbers = how.split(":")
        if name not in INITIALISERS:
            raise InputError(
                f"no initialiser {how!r}; there are {', '.join(INITIALISERS)}, as in normal:0.01"
            )
        try:
            INITIALISERS[name](tensor, *map(float, numbers))
        except InputError:
            raise
        except (TypeError, ValueError, RuntimeError) as error:
            shape = tuple(tensor.shape)
            raise InputError(
                f"initialiser {how!r} does not fit a tensor of shape {shape}: {error}"
            ) from error
    elif isinstance(how, str | int | float):
        nn.init.constant_(tensor, float(how))
    else:
        raise InputError(f"an initialiser is a number, a name or a function, not {how!r}")


GATES: Final[dict[str, tuple[str | None, str | None]]] = {
    "lstm": ("f", "i"),
    "lstm_fgr": ("f", "i"),
    "layer_norm_lstm": ("f", "i"),
    "gru": ("z", None),
    "gru_cho": ("z", None),
    "gru_chung": (None, "z"),
    "mgu": (None, "f"),
    "highway": (None, "b"),
    "mut1": (None, "z"),
    "mut2": (None, "z"),
    "mut3": (None, "z"),
}
"""By cell, the gate that keeps the old state where it is open, and the one that lets in the new."""


def chrono_(
    layer: RecurrentStack, longest: float, *, keep: str | None = None, write: str | None = None
) -> None:
    """Start the gates of every layer so that units remember for 1 to `longest` steps.

        b_keep = log u,  b_write = −log u,  u ~ U(1, longest − 1) for each unit

    A gate of bias log u is open by u / (u + 1), so that what it keeps fades within u + 1 steps, and as much
    is let in as is let go. In an LSTM f keeps and i writes; a GRU's one gate does both.

    Args:
        layer: `Recurrent`, `LSTM` or `GRU`, of a cell of the zoo, or of any if its gates are named.
        longest: the steps over which there is something to be remembered, more than 2.
        keep: the gate that keeps the old state where it is 1.
        write: the gate that lets in the new where it is 1. Without both: those of the cell in `GATES`.

    Raises:
        InputError: the gates of the cell are not known, or have no bias; or `longest` is not above 2.

    Source: Tallec & Ollivier 2018, arXiv:1804.11188.
    """
    name = layer.cell.name.partition("(")[0]
    if keep is None and write is None:
        if name not in GATES:
            raise InputError(
                f"which gates of cell {layer.cell.name!r} keep and write? Say so with keep= and write=; "
                f"known are those of {', '.join(GATES)}"
            )
        keep, write = GATES[name]
        if keep and ("coupled", True) in getattr(layer.cell, "options", {}).items():
            write = None
    for suffix in layer.suffixes:
        biases = {gate: layer.biases_of(suffix, gate) for gate in (keep, write) if gate}
        for gate, found in biases.items():
            if not found:
                raise InputError(f"{layer.cell.name!r} has no gate {gate!r} with a bias in this layer")
        with torch.no_grad():
            drawn = torch.empty_like(next(iter(biases.values()))[0])
            initialise(drawn, f"chrono:{longest}")
            for gate, (bias, *rest) in biases.items():
                bias.copy_(drawn if gate == keep else -drawn)
                for other in rest:
                    other.zero_()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def initialise_matching(tensors: Sequence[tuple[str, Tensor]], patterns: Mapping[str, Initialiser]) -> None:
    """Fill the tensors whose name matches a pattern such as "f.bias", "*.h" or "f"; later patterns win.

    A pattern that is a gate's name stands for all its tensors.

    Raises:
        InputError: a pattern matches nothing.
    """
    for pattern, how in patterns.items():
        chosen = [t for name, t in tensors if matches(name, pattern)]
        if not chosen:
            raise InputError(
                f"init pattern {pattern!r} matches no parameter; there are {', '.join(dict(tensors))}"
            )
        for tensor in chosen:
            initialise(tensor, how)


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern means the tensor of this name; a gate's name means all its tensors."""
    return fnmatch.fnmatchcase(name, pattern) or name.partition(".")[0] == pattern
