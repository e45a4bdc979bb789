"""What a layer draws in training: which cell runs, with which masks, at which place of a sequence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple, TypedDict

import torch
from torch import Tensor
from torch.utils import _pytree as tree

from unrolled.cell import Cell
from unrolled.errors import InputError
from unrolled.leaves import Leaves, bernoulli, parts
from unrolled.nn.packing import Packed
from unrolled.parameters import Stacked
from unrolled.rewrite import (
    expected_zoneout,
    recurrent_dropout,
    recurrent_matrices,
    resetting,
    zoneout,
)
from unrolled.rows import Rows
from unrolled.tracing import constant

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

    Every draw is a function of a key, the step, the sequence and the unit (`unrolled.leaves`). So these
    chunks are masked as the whole would be with the same keys, and a mask that belongs to a sequence lasts
    through all of them, up to a reset.

    Attributes:
        keys: (layers · directions, draws) whole numbers of 64 bits.
        step: how many steps came before, a tensor of no axes.
        sequences: (B,), the place where each sequence began; None before the first chunk.
    """

    def __init__(self, keys: Tensor) -> None:
        self.keys = keys.cpu()
        self.step = torch.zeros((), dtype=torch.long)
        self.sequences: Tensor | None = None


def _of(values: Iterable[Any], _: None) -> Masks:
    masks = Masks.__new__(Masks)
    masks.keys, masks.step, masks.sequences = values
    return masks


tree.register_pytree_node(  # so that masks can be in a state, as other tensors are
    Masks,
    lambda m: ([m.keys, m.step, m.sequences], None),
    _of,
    serialized_type_name="unrolled.nn.masks.Masks",
)


class Batch(NamedTuple):
    """What a pass goes over.

    T, B: its size.
    packing: torch's packed sequences, if x is such.
    rows: the sequences of a padded batch, where not all have T steps.
    resets: (T, B), the steps before which sequences begin anew.
    learned: the states whose initial values are parameters, if there are resets.
    """

    T: int
    B: int
    packing: Packed | None = None
    rows: Rows | None = None
    resets: Tensor | None = None
    learned: tuple[str, ...] = ()


class Regulariser:
    """The cells of a layer, in training and in evaluation, and the probabilities of what it draws.

    Args:
        places: how many layers and directions there are.
        zoneout, recurrent_dropout, weight_dropout, variational: see `Regularisers`.

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
        places: int,
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
        self._places = places
        self.variational = variational
        self.training, self.evaluation, self.rates = _cells(cell, zones, recurrent_dropout)
        self._resetting: dict[tuple[bool, tuple[str, ...]], Cell] = {}
        if weight_dropout:
            self.rates["weights"] = float(weight_dropout)

    @constant
    def settle(self, learned: tuple[str, ...]) -> None:
        """See `Cell.settle`."""
        resetting = (self.resetting(training, learned) for training in (True, False))
        for cell in (self.training, self.evaluation, *resetting):
            cell.settle()

    @property
    def arguments(self) -> dict[str, Any]:
        """What this was made from, as its rates are now."""
        zones = {s: rate for s in self.training.states if (rate := self.rates.get(f"zoneout_{s}"))}
        everywhere = len(zones) == len(self.training.states) and len({*zones.values()}) == 1
        dropped = {rate for name, rate in self.rates.items() if name.startswith("dropout_")}
        return {
            "zoneout": next(iter(zones.values())) if everywhere else zones,
            "recurrent_dropout": max(dropped, default=0.0),
            "weight_dropout": self.rates.get("weights", 0.0),
            "variational": self.variational,
        }

    @property
    def draws(self) -> bool:
        """Whether anything is drawn for sure; `dropout` between layers alone is torch's affair."""
        return bool(self.rates) or self.variational

    def masks(self, generator: torch.Generator | None = None) -> Masks:
        """New masks."""
        device = "cpu" if generator is None else generator.device
        shape = self._places, self._count
        return Masks(torch.randint(-(2**63), 2**63 - 1, shape, generator=generator, device=device))

    @property
    def _count(self) -> int:
        """How many keys a layer and direction has: those of the cell's draws, then one for values between
        layers, and one for recurrent weights."""
        return len(self.training.graph.draws) + 2

    def drawing(self, masks: Masks | None, training: bool, batch: Batch) -> Drawing | None:
        """What the steps of a pass over a batch read besides x; None if that is nothing but what torch draws.

        Args:
            masks: those to go on with, if there are.

        Raises:
            InputError: the masks are none, or those of another layer.
        """
        if masks is not None and not isinstance(masks, Masks):
            raise InputError(f"masks is a {type(masks).__name__}, expected what layer.masks() gives")
        if masks is not None and masks.keys.shape != (self._places, self._count):
            raise InputError("the masks are those of another layer: use this one's layer.masks()")
        if not training:
            masks = None
        elif masks is None and self.draws:
            masks = self.masks()
        if masks is None and batch.resets is None and (training or not self.evaluation.graph.draws):
            return None
        return Drawing(self, masks, batch)

    def resetting(self, training: bool, learned: tuple[str, ...]) -> Cell:
        """The cell whose state may begin anew."""
        if (training, learned) not in self._resetting:
            cell = self.training if training else self.evaluation
            self._resetting[training, learned] = resetting(cell, learned)
        return self._resetting[training, learned]


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
    """What the steps of one pass over a batch read besides its input.

    Args:
        masks: what it begins with; None where nothing is drawn.

    Raises:
        InputError: the masks are those of another batch.
    """

    def __init__(self, regulariser: Regulariser, masks: Masks | None, batch: Batch) -> None:
        self.regulariser, self.masks, self.batch = regulariser, masks, batch
        self.resets = None if batch.resets is None else batch.resets.cpu()
        if masks is None:
            return
        T, B = batch.T, batch.B
        places = torch.arange(T * B)
        known = places[:B]
        if masks.sequences is not None:
            known = masks.sequences
            if len(known) != B:
                raise InputError(
                    f"the masks are those of {len(known)} sequences, but x has {B}: draw new ones"
                )
            places = places + masks.step * B
        self._last, origins = known, known.expand(T, B)
        if self.resets is not None:
            origins = torch.where(self._real(self.resets), places.view(T, B), known).cummax(0).values
            self._last = origins[-1]
        self.places, self.origins = self._packed(places), self._packed(origins)

    def _real(self, resets: Tensor) -> Tensor:
        """Those of steps that sequences have."""
        return resets if self.batch.rows is None else resets & self.batch.rows.there

    @property
    def _steps(self) -> Tensor:
        return torch.arange(self.batch.T)[:, None]

    def _packed(self, of_batch: Tensor) -> Tensor:
        """The rows of something for all steps, as x is packed."""
        rows = of_batch.flatten().contiguous()
        return rows if self.batch.packing is None else rows[self.batch.packing.index]

    def _resets(self, resets: Tensor, reverse: bool) -> Tensor:
        """The marks in the order of the rows; who reads from the end begins anew after a marked step."""
        if not reverse:
            return self._packed(resets)
        return self._packed(self._real(resets).roll(-1, 0) & (self._steps < self.batch.T - 1))

    def cell(self, training: bool) -> Cell:
        """The cell that runs."""
        cell = self.regulariser.training if training else self.regulariser.evaluation
        return cell if self.resets is None else self.regulariser.resetting(training, self.batch.learned)

    def leaves(self, cell: Cell, place: int, reverse: bool = False) -> Leaves | None:
        """What a cell reads for one layer and direction."""
        names = cell.graph.draws
        if not names and self.resets is None:
            return None
        thresholds = torch.tensor([parts(self.regulariser.rates[name]) for name in names], dtype=torch.long)
        keys = torch.zeros_like(thresholds) if self.masks is None else self.masks.keys[place, : len(names)]
        drawn = self.masks is not None and bool(names)
        none = thresholds[:0]
        return Leaves(
            torch.stack((keys, thresholds)),
            self.places if drawn else none,
            self.origins if drawn else none,
            none.bool() if self.resets is None else self._resets(self.resets, reverse),
        )

    def dropout(self, x: Tensor, rate: float, place: int) -> Tensor:
        """x, rows or (T, B, W), without some of its values."""
        assert self.masks is not None
        key, width = self.masks.keys[place, -2], x.shape[-1]
        if not self.regulariser.variational:
            return x * _kept(key, rate, self.places, width, x).view(x.shape)
        if self.batch.packing is None and self.resets is None:
            return x * _kept(key, rate, self._last, width, x)
        return x * _kept(key, rate, self.origins, width, x).view(x.shape)

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
            self.masks.step = self.masks.step + self.batch.T
            self.masks.sequences = self._last


def _kept(key: Tensor, rate: float, places: Tensor, units: int, like: Tensor) -> Tensor:
    """Factors (N, units): 0 with this probability, and else what keeps the mean."""
    device = like.device
    dropped = bernoulli(key.to(device), torch.tensor(parts(rate), device=device), places.to(device), units)
    return (~dropped).to(like.dtype) / ((1 - rate) or 1.0)
