"""Matrices that are normalised where they are used: weight and spectral normalisation.

Both are parametrisations of torch's (`torch.nn.utils.parametrize`): what learns is another tensor, and every
pass computes the matrix from it. Whoever reads the matrix, be it a kernel, a stream or the microscope, sees
one like any other.

The last two axes of a tensor are a matrix (out, in), and leading ones count matrices, such as those of all
layers of a deep network. Where a tensor has matrices of gates one below the other, as torch's layouts have,
each of them is a matrix of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from unrolled.errors import InputError
from unrolled.nn.initialise import matches
from unrolled.tracing import transforms

WeightNorms = str | Mapping[str, str]
"""A kind such as "weight", "spectral" or "spectral:0.9", or one for each pattern of names."""

BLOCK: Final = 16
"""Directions that are followed together. One alone, as in the paper, loses the largest singular value where
another overtakes it, and was measured to be 10% off and more while a network trains; 16 are exact to rounding
but for the first steps at a high rate, at hardly more cost."""

ROUNDS: Final = 2
"""Products with a matrix and its transpose whenever it has changed."""


class WeightNorm(nn.Module):
    """Length and direction of the weights of each unit apart.

        W = g v / ‖v‖  for each row, so that d loss / d v is orthogonal to v

    The lengths g (..., out, 1) are `original0` and the directions v (..., out, in) `original1`, as in torch's
    own `weight_norm`; at first W is what it was.

    Source: Salimans & Kingma 2016, arXiv:1602.07868.
    """

    def forward(self, gain: Tensor, direction: Tensor) -> Tensor:
        return direction * (gain / _lengths(direction))

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return _lengths(weight), weight.clone()


def _lengths(rows: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return lengths.clamp_min(torch.finfo(rows.dtype).tiny)  # not below what can be divided by


class SpectralNorm(nn.Module):
    """Matrices whose largest singular value is `limit`.

        W = limit · V / σ(V),  σ(V) = ‖V d‖

    d is the direction that V stretches most. It is computed to rounding where V is set; whenever V has
    changed since, the next pass in training follows it by subspace iteration: the paper's power iteration
    with some directions instead of one. In evaluation it stays. So passes of which one repeats another, as
    under `Checkpointed`, see the same W.

    Args:
        weight: (..., out, in).
        limit: above 0.
        matrices: how many gates' matrices are one below the other in the axis `out`.

    Source: Miyato et al. 2018, arXiv:1802.05957.
    """

    def __init__(self, weight: Tensor, limit: float = 1.0, matrices: int = 1) -> None:
        super().__init__()
        self.limit, self.matrices = limit, matrices
        *leading, out, inputs = self._each(weight).shape
        count = min(BLOCK, out, inputs)
        # Directions, the one that is stretched most first, and what becomes of them, by which a change shows.
        for name, units in (("directions", inputs), ("images", out)):
            self.register_buffer(name, weight.new_zeros(*leading, units, count))

    def forward(self, weight: Tensor) -> Tensor:
        each = self._each(weight)
        if self.training:
            self._follow(each.detach())
        # A copy: the next pass changes what this one's backward pass reads.
        stretched = each @ self.get_buffer("directions")[..., :1].clone()
        sigma: Tensor = torch.linalg.vector_norm(stretched, dim=-2, keepdim=True)
        return (each * (self.limit / sigma)).view_as(weight)

    def right_inverse(self, weight: Tensor) -> Tensor:
        each = self._each(weight.detach())
        if not weight.is_meta:
            if not each.flatten(-2).any(-1).all():
                raise InputError("a matrix of zeros has no spectral norm: initialise it otherwise")
            directions, images = self.get_buffer("directions"), self.get_buffer("images")
            directions.copy_(most_stretched(each, directions.shape[-1]))
            images.copy_(_images(each, directions))
        return weight.clone()

    @torch.no_grad()
    def _follow(self, each: Tensor) -> None:
        """Let the directions follow the matrices, if they are others than those that they were made for."""
        if transforms():
            return  # where buffers cannot be written
        directions, images = self.get_buffer("directions"), self.get_buffer("images")
        now = _images(each, directions)
        changed = (now.to(images.dtype) != images).any()
        directions.copy_(torch.where(changed, _turned(each.to(now.dtype), now, ROUNDS)[0], directions))
        images.copy_(_images(each, directions))  # as the next pass computes them, to the last bit

    def _each(self, weight: Tensor) -> Tensor:
        if self.matrices == 1:
            return weight
        *leading, out, inputs = weight.shape
        return weight.reshape(*leading, self.matrices, out // self.matrices, inputs)

    def extra_repr(self) -> str:
        return f"limit={self.limit:g}"


def _images(each: Tensor, directions: Tensor) -> Tensor:
    """What becomes of directions, in float32 at least: torch factorises nothing narrower."""
    wide = torch.promote_types(each.dtype, torch.float32)
    return each.to(wide) @ directions.to(wide)


@torch.no_grad()
def most_stretched(matrices: Tensor, count: int) -> Tensor:
    """Directions that each matrix (..., out, in) stretches most, (..., in, count), the first to rounding.

    By subspace iteration: how fast that is depends on the gap between the first singular value and one that
    is `count` places behind, where that of power iteration depends on the first two.
    """
    each = matrices.double()
    # Anything will do; torch's own random numbers are left as they are.
    start = torch.randn(each.shape[-1], count, generator=torch.Generator().manual_seed(0), dtype=each.dtype)
    directions, images = _turned(each, each @ start.to(each.device), 1)
    before = torch.linalg.vector_norm(images[..., 0], dim=-1)
    enough = max(torch.finfo(matrices.dtype).eps, 1e-13)
    for _ in range(250):
        directions, images = _turned(each, images, 4)
        largest = torch.linalg.vector_norm(images[..., 0], dim=-1)
        if bool((largest - before <= enough * largest).all()):
            break
        before = largest
    return directions.to(matrices.dtype)


def _turned(each: Tensor, images: Tensor, rounds: int) -> tuple[Tensor, Tensor]:
    """Directions that matrices stretch more than those of these images, the most stretched one first, and
    what becomes of them."""
    directions = images
    for _ in range(rounds):
        directions = torch.linalg.qr(each.mT @ images).Q
        images = each @ directions
    gram = (images.mT @ images).nan_to_num(0.0, 0.0, 0.0)  # what is not finite goes on in the images
    order = torch.linalg.eigh(gram).eigenvectors.flip(-1)
    return directions @ order, images @ order


def normalise_weights(module: nn.Module, kind: WeightNorms, names: Mapping[str, str] | None = None) -> None:
    """Normalise matrices of a module from now on.

    Args:
        module: any; its matrices become parametrised, and what an optimiser changes are their originals.
        kind: "weight" for `WeightNorm`; "spectral" for `SpectralNorm` with the limit 1, "spectral:0.9" for
            another. Or by pattern, as in {"*.h": "spectral", "*.x": "weight"}; later patterns win.
        names: the matrices that are meant, by their full names, and what patterns call each. Without it they
            are all parameters below the module that have two axes or more and are no bias, gain or initial
            state.

    Raises:
        InputError: no such kind, a pattern matches nothing, or a matrix is used in two places.
    """
    names = {name: name for name in _matrices(module)} if names is None else names
    if not names:
        raise InputError(f"{type(module).__name__} has no matrix that could be normalised")
    chosen: dict[str, str] = {}
    for pattern, each in {"*": kind}.items() if isinstance(kind, str) else kind.items():
        _read(each)
        found = [name for name, short in names.items() if matches(short, pattern)]
        if not found:
            known = ", ".join(dict.fromkeys(names.values()))
            raise InputError(f"weight_norm pattern {pattern!r} matches no matrix; there are {known}")
        chosen |= dict.fromkeys(found, each)
    places = [id(p) for _, p in module.named_parameters(remove_duplicate=False)]
    for name, each in chosen.items():
        path, _, last = name.rpartition(".")
        owner = module.get_submodule(path)
        weight = owner.get_parameter(last)
        if places.count(id(weight)) > 1:
            raise InputError(f"{name} is used in two places, and cannot be normalised in one of them alone")
        count = getattr(owner, "matrices_in", lambda _: 1)(last)
        parametrize.register_parametrization(owner, last, _read(each)(weight, count))


@contextmanager
def written(module: nn.Module, names: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Parameters by their full names, to be filled in place: of parametrised ones copies, which are taken
    over in the end."""
    tensors: dict[str, Tensor] = {}
    copies = []
    for name in names:
        path, _, last = name.rpartition(".")
        owner = module.get_submodule(path)
        own = owner._parameters.get(last)
        tensors[name] = getattr(owner, last).detach().clone() if own is None else own.detach()
        if own is None:
            copies.append((owner, last, tensors[name]))
    yield tensors
    for owner, last, value in copies:
        setattr(owner, last, value)


def _matrices(module: nn.Module) -> list[str]:
    found = []
    for name, parameter in module.named_parameters():
        *above, last = name.split(".")
        vector = "bias" in last or "gain" in last  # of many layers, it has two axes too
        if parameter.ndim > 1 and not vector and not {"initial", "parametrizations"} & {*above}:
            found.append(name)
    return found


def _read(kind: object) -> Callable[[Tensor, int], nn.Module]:
    """What makes the parametrisation of a tensor, told how many matrices are one below the other in it."""
    name, colon, limit = kind.partition(":") if isinstance(kind, str) else ("", "", "")
    if name == "weight" and not colon:
        return lambda *_: WeightNorm()
    if name == "spectral":
        try:
            value = float(limit) if colon else 1.0
        except ValueError:
            value = math.nan
        if not 0 < value < math.inf:
            raise InputError(f"weight_norm {kind!r}: the limit must be a number above 0, as in spectral:0.9")
        return lambda weight, matrices: SpectralNorm(weight, value, matrices)
    raise InputError(f"no weight_norm {kind!r}; there are weight and spectral, the latter as in spectral:0.9")
