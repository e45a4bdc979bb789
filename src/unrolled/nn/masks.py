"""What a layer draws in training: which cell runs, with which masks, at which place of a sequence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypedDict

import torch
from torch import Tensor

from unrolled.cell import Cell
from unrolled.draws import Draws, bernoulli, parts
from unrolled.errors import InputError
from unrolled.nn.packing import Packed, Packing
from unrolled.parameters import Stacked
from unrolled.rewrite import expected_zoneout, recurrent_dropout, recurrent_matrices, zoneout

MATRIX: Final = 1 << 32
"""How far apart the places of two matrices' rows are."""


class Regularisers(TypedDict, total=False):
    """What a layer may do in training besides; all of it is absent by default.

    zoneout: the probability that a unit of a state keeps its old value; one for all states, or by name, as in
        {"h": 0.05, "c": 0.5}. In evaluation states are what that makes of them on average (Krueger et al.
        2017, arXiv:1606.01305).
    recurrent_dropout: the probability that recurrent matrices do not see a unit of the old state, the same
        units at every step of a sequence (Gal & Ghahramani 2016, arXiv:1512.05287).
    weight_dropout: the probability that an element of a recurrent matrix is 0, in all of a sequence
        (DropConnect, Wan et al. 2013; Merity et al. 2018, arXiv:1708.02182).
    variational: `dropout` between layers drops the same units at every step of a sequence (Gal & Ghahramani
        2016).
    """

    zoneout: float | Mapping[str, float]
    recurrent_dropout: float
    weight_dropout: float
    variational: bool


class Masks:
    """The masks of a batch of sequences that come in chunks.

        masks = layer.masks(generator)
        for chunk in chunks:
            output, state = layer(chunk, state, masks=masks)

    Every draw is a function of a key, the step, the sequence and the unit (`unrolled.draws`). So these chunks
    are masked as the whole would be with the same keys, and a mask that belongs to a sequence lasts through
    all of them, up to a reset.

    Attributes:
        keys: (layers · directions, draws) whole numbers of 64 bits.
        step: how many steps came before, a tensor of no axes.
        sequences: (B,), the place where each sequence began. Both are None before the first chunk.
    """

    def __init__(self, keys: Tensor) -> None:
        self.keys = keys.cpu()
        self.step: Tensor | None = None
        self.sequences: Tensor | None = None


class Regulariser:
    """The cells of a layer, in training and in evaluation, and the probabilities of what it draws.

    Attributes:
        training, evaluation: the cells.
        rates: the probability of each draw by name: `zoneout_h`, `dropout_h`, `weights`. They may be changed.
        variational: see `Regularisers`.

    Raises:
        InputError: a probability is none, or a state or a matrix does not exist.
    """

    def __init__(
        self,
        cell: Cell,
        zoneout: float | Mapping[str, float] = 0.0,
        recurrent_dropout: float = 0.0,
        weight_dropout: float = 0.0,
        variational: bool = False,
    ) -> None:
        if not isinstance(variational, bool):
            raise InputError(f"variational must be True or False, got {variational!r}")
        zones = dict(zoneout) if isinstance(zoneout, Mapping) else dict.fromkeys(cell.states, zoneout)
        if unknown := [name for name in zones if name not in cell.states]:
            raise InputError(f"zoneout names {unknown[0]!r}; the states are {', '.join(cell.states)}")
        for name, rate in zones.items():
            check_probability(f"zoneout of {name}", rate)
        check_probability("recurrent_dropout", recurrent_dropout, below_one=True)
        check_probability("weight_dropout", weight_dropout, below_one=True)
        self.matrices = recurrent_matrices(cell.graph)
        for what, rate in {"recurrent_dropout": recurrent_dropout, "weight_dropout": weight_dropout}.items():
            if rate and not self.matrices:
                raise InputError(f"{what} needs a matrix that reads a state, and cell {cell.name!r} has none")
        self.variational = variational
        self.training, self.evaluation, self.rates = _cells(cell, zones, recurrent_dropout)
        if weight_dropout:
            self.rates["weights"] = float(weight_dropout)

    def settle(self) -> None:
        """See `Cell.settle`."""
        self.training.settle()
        self.evaluation.settle()

    @property
    def draws(self) -> bool:
        """Whether anything is drawn for sure; `dropout` between layers alone is torch's affair."""
        return bool(self.rates) or self.variational

    def masks(self, places: int, generator: torch.Generator | None = None) -> Masks:
        """New masks for so many layers and directions."""
        device = "cpu" if generator is None else generator.device
        shape = places, self._count
        return Masks(torch.randint(-(2**63), 2**63 - 1, shape, generator=generator, device=device))

    @property
    def _count(self) -> int:
        """How many keys a layer and direction has: those of the cell's draws, then one for values between
        layers, and one for recurrent weights."""
        return len(self.training.graph.draws) + 2

    def drawing(
        self,
        masks: Masks | None,
        training: bool,
        places: int,
        T: int,
        B: int,
        packing: Packing | Packed | None = None,
    ) -> Drawing | None:
        """What a pass over a batch draws, or None if that is nothing, or only what torch draws.

        Args:
            masks: those to go on with, if there are.
            places: layers and directions.

        Raises:
            InputError: the masks are none, or those of another layer.
        """
        if masks is not None and not isinstance(masks, Masks):
            raise InputError(f"masks is a {type(masks).__name__}, expected what layer.masks() gives")
        if masks is not None and masks.keys.shape != (places, self._count):
            raise InputError("the masks are those of another layer: use this one's layer.masks()")
        if not training:
            return Drawing(self, None, T, B, packing) if self.evaluation.graph.draws else None
        if masks is None and self.draws:
            masks = self.masks(places)
        return None if masks is None else Drawing(self, masks, T, B, packing)


def _cells(cell: Cell, zones: Mapping[str, float], dropped: float) -> tuple[Cell, Cell, dict[str, float]]:
    """The cells in training and in evaluation, and the probabilities of what they draw."""
    kept = [name for name, rate in zones.items() if rate]
    training = recurrent_dropout(cell) if dropped else cell
    rates = dict.fromkeys(training.graph.draws, float(dropped))
    rates |= {f"zoneout_{name}": float(zones[name]) for name in kept}
    if not kept:
        return training, cell, rates
    return zoneout(training, kept), expected_zoneout(cell, kept), rates


def check_probability(what: str, rate: object, below_one: bool = False) -> None:
    """
    Raises:
        InputError: it is no number between 0 and 1, or not below 1.
    """
    fits = isinstance(rate, int | float) and not isinstance(rate, bool) and 0 <= rate <= 1
    if not fits or (below_one and rate == 1):
        raise InputError(f"{what} must be a number between 0 and 1{', below 1' * below_one}, got {rate!r}")


class Drawing:
    """The draws of one pass over a batch.

    Args:
        masks: what it begins with; None in evaluation, where only probabilities enter.
        T, B: the size of the batch.
        packing: how its rows are packed, if they are.

    Raises:
        InputError: the masks are those of another batch.
    """

    def __init__(
        self,
        regulariser: Regulariser,
        masks: Masks | None,
        T: int,
        B: int,
        packing: Packing | Packed | None,
    ) -> None:
        self.regulariser = regulariser
        self.masks = masks
        self.T, self.B, self.packing = T, B, packing
        begin: Tensor | int = 0
        places = torch.arange(T * B)
        known = places[:B]
        if masks is not None and masks.step is not None and masks.sequences is not None:
            begin, known = masks.step * B, masks.sequences
            if len(known) != B:
                raise InputError(
                    f"the masks are those of {len(known)} sequences, but x has {B}: draw new ones"
                )
            places = places + begin
        self.places = places if packing is None else begin + packing.index
        self.sequences = known if packing is None else packing.origins(known, begin)

    def draws(self, cell: Cell, place: int) -> Draws | None:
        """Those of a cell for one layer and direction."""
        if not (names := cell.graph.draws):
            return None
        thresholds = torch.tensor([parts(self.regulariser.rates[name]) for name in names])
        keys = torch.zeros_like(thresholds) if self.masks is None else self.masks.keys[place, : len(names)]
        return Draws(torch.stack((keys, thresholds)), self.places, self.sequences)

    def dropout(self, x: Tensor, rate: float, place: int) -> Tensor:
        """x, rows or (T, B, W), without some of its values."""
        assert self.masks is not None
        key, width = self.masks.keys[place, -2], x.shape[-1]
        if not self.regulariser.variational:
            return x * _kept(key, rate, self.places, width, x).view(x.shape)
        kept = _kept(key, rate, self.sequences, width, x)
        return x * (kept if self.packing is None else kept[self.packing.rows.sequence_of_row.to(x.device)])

    def weights(self, parameters: Mapping[str, Tensor], place: int) -> Mapping[str, Tensor]:
        """The parameters, recurrent matrices without some of their elements."""
        rate = self.regulariser.rates.get("weights", 0.0)
        if self.masks is None or not rate:
            return parameters
        key, recurrent = self.masks.keys[place, -1], self.regulariser.matrices

        def dropped(matrix: Tensor, number: int) -> Tensor:
            rows = number * MATRIX + torch.arange(len(matrix))
            return matrix * _kept(key, rate, rows, matrix.shape[1], matrix)

        if isinstance(parameters, Stacked):
            stacks = {parameters.parts[name][0] for name in recurrent}
            tensors = (dropped(t, k) if k in stacks else t for k, t in enumerate(parameters.tensors))
            return Stacked(tuple(tensors), parameters.parts)
        return {**parameters, **{name: dropped(parameters[name], k) for k, name in enumerate(recurrent)}}

    def finish(self) -> None:
        """The next chunk goes on from here."""
        if self.masks is not None:
            self.masks.step = (
                torch.zeros(()).long() if self.masks.step is None else self.masks.step
            ) + self.T
            ends = self.sequences if self.packing is None else self.packing.end(self.sequences, False)
            self.masks.sequences = ends


def _kept(key: Tensor, rate: float, places: Tensor, units: int, like: Tensor) -> Tensor:
    """Factors (N, units): 0 with this probability, and else what keeps the mean."""
    device = like.device
    dropped = bernoulli(key.to(device), torch.tensor(parts(rate), device=device), places.to(device), units)
    return (~dropped).to(like.dtype) / ((1 - rate) or 1.0)
