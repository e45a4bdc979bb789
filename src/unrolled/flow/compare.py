"""Variants of a network beside each other, on the same batch: how far back their gradients reach, and what
single steps do to them.

What a norm, an initialiser or another cell does to the gradient is seen here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from torch import Tensor, nn

from unrolled.errors import InputError, check_sizes
from unrolled.flow.lag import HALF, PERCENT, LagProfile, gradient_by_lag
from unrolled.flow.records import Record, number
from unrolled.flow.spectra import StepSpectra, place_of, step_spectra
from unrolled.flow.trace import Losses, record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOW, MIDDLE, HIGH = 0.05, 0.5, 0.95
"""The quantiles of singular values over steps and sequences that are told."""

COLUMNS: Final = (
    "half at", "1% at", "halves every", "largest singular value", "smallest", "spectral radius",
)  # fmt: skip


@dataclass(frozen=True, repr=False)
class Variant(Record):
    """One of the networks.

    Attributes:
        name: as it was given.
        gradient: d loss_t / d state_{t-k} of one layer and direction by lag, see `LagProfile`.
        spectra: singular values and spectral radii of some of its steps, see `StepSpectra`.
    """

    name: str
    gradient: LagProfile
    spectra: StepSpectra

    @property
    def left(self) -> Tensor:
        """The share of the gradient at lag 0 that is left at each lag."""
        return self.gradient.norm / self.gradient.norm[0]

    def summary(self) -> str:
        return f"{self.name}\n{self.gradient.summary()}\n{self.spectra.summary()}"

    def _draw(self, ax: Axes) -> None:
        there = self.left > 0
        ax.plot(self.gradient.lags[there], self.left[there], label=self.name)

    @property
    def cells(self) -> tuple[str, ...]:
        """What a table says of it, in the order of `COLUMNS`."""
        last = int(self.gradient.lags[-1])

        def lag(left: float) -> str:
            found = self.gradient.horizon(left)
            return f"> {last}" if found is None else str(found)

        life = self.gradient.half_life
        halves = "?" if life is None else f"{number(life)} steps" if life > 0 else f"doubles: {number(-life)}"
        low, middle, high = quantiles(self.spectra.largest)
        return (
            lag(HALF),
            lag(PERCENT),
            halves,
            f"{number(middle)} ({number(low)} to {number(high)})",
            number(quantiles(self.spectra.smallest)[1]),
            number(quantiles(self.spectra.radius)[1]),
        )


@dataclass(frozen=True, repr=False)
class Comparison(Record):
    """Networks beside each other.

    Attributes:
        variants: in the order in which they were given.
    """

    variants: tuple[Variant, ...]

    def __getitem__(self, name: str) -> Variant:
        return next(each for each in self.variants if each.name == name)

    def summary(self) -> str:
        rows = [("", *COLUMNS), *((each.name, *each.cells) for each in self.variants)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        first = self.variants[0].gradient
        places = " and ".join(dict.fromkeys(each.gradient.place for each in self.variants))
        title = f"{places}: gradient by lag over {int(first.lags[-1])} steps, and Jacobians of single steps"
        return "\n".join([title, *lines])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw gradients by lag, and beside them, in a figure of its own, what single steps do.

        Args:
            ax: where gradients by lag are drawn, without the rest.

        Returns:
            the axes of gradients by lag.

        Raises:
            InputError: matplotlib is not there.
        """
        if ax is not None:
            return super().plot(ax)
        try:
            from matplotlib.figure import Figure
        except ModuleNotFoundError:
            raise InputError("drawing needs matplotlib: pip install 'unrolled[figures]'") from None
        height = max(3.6, 0.42 * len(self.variants) + 1.6)
        figure = Figure(figsize=(11, height), dpi=120, layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        super().plot(left)
        left.get_legend().remove()  # the names beside it have the colours
        self._draw_steps(right)
        return left  # type: ignore[no-any-return]

    def _draw(self, ax: Axes) -> None:
        for each in self.variants:
            each._draw(ax)
        ax.axhline(1, color="#777777", linewidth=0.8, linestyle=(0, (4, 3)))
        ax.set_yscale("log")
        low, high = ax.get_ylim()
        ax.set_ylim(max(low, 1e-12), min(high, 1e12))  # what is beyond is gone, or has exploded
        ax.set_xlabel("lag k, steps back from the loss")
        ax.set_ylabel("what is left of the gradient at lag 0")
        ax.legend(frameon=False)

    def _draw_steps(self, ax: Axes) -> None:
        """For each variant the largest singular values of its steps, down to the smallest as far as there is
        room, and the spectral radius."""
        from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

        least = 1.0
        for place, each in enumerate(self.variants):
            low, middle, high = quantiles(each.spectra.largest)
            smallest, radius = (quantiles(v)[1] for v in (each.spectra.smallest, each.spectra.radius))
            least = min([least, *(v for v in (low, radius) if v > 0)])
            style: dict[str, Any] = {"color": f"C{place % 10}"}
            ax.plot([max(smallest, 1e-9), middle], [place, place], linewidth=1, alpha=0.5, **style)
            ax.plot([low, high], [place, place], linewidth=6, alpha=0.35, **style)
            ax.plot(middle, place, "o", markersize=7, **style)
            ax.plot(radius, place, "D", markersize=7, markerfacecolor="white", **style)
        ax.axvline(1, color="#777777", linewidth=0.8, linestyle=(0, (4, 3)))
        ax.set_xscale("log")
        ax.set_xlim(left=max(least / 3, 1e-6))
        low, high = ax.get_xlim()
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 100 * low else (1.0,)))
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_yticks(range(len(self.variants)), [each.name for each in self.variants])
        for place, label in enumerate(ax.get_yticklabels()):
            label.set_color(f"C{place % 10}")
        ax.set_ylim(len(self.variants) - 0.4, -0.6)
        ax.set_xlabel("Jacobians of single steps")
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.tick_params(axis="y", length=0)
        grey = "#555555"
        ax.plot([], [], "o", color=grey, label="largest singular value, 5% to 95%")
        ax.plot([], [], "D", color=grey, markerfacecolor="white", label="spectral radius")
        ax.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)


def quantiles(values: Tensor) -> tuple[float, float, float]:
    """5%, half and 95% of what is a finite number."""
    known = values[values.isfinite()]
    low, middle, high = (
        float(known.quantile(q)) if len(known) else float("nan") for q in (LOW, MIDDLE, HIGH)
    )
    return low, middle, high


def compare(
    models: Mapping[str, nn.Module],
    batch: Any,
    losses: Losses | None = None,
    *,
    place: str | None = None,
    at: int | str = -1,
    steps: int = 16,
    sequences: int = 4,
) -> Comparison:
    """Measure several networks on the same batch.

        flow.compare({"plain": RNN(16, 32), "layer norm": RNN(16, 32, norm="layer")}, x)

    Args:
        models: by name; each is seen as it is, so in evaluation after `model.eval()`.
        batch, losses: see `unrolled.flow.record`; the same for all.
        place: which layer and direction; of each the first, if not given.
        at: the step of the loss, see `unrolled.flow.gradient_by_lag`.
        steps: of about so many, evenly spread, the Jacobians are decomposed.
        sequences: of so many at most, and the spectral radius of one.

    Raises:
        InputError: there is no network, a layer of that name did not run, or see `unrolled.flow.record`.
    """
    check_sizes(steps=steps, sequences=sequences)
    if not isinstance(models, Mapping) or not models:
        raise InputError("compare takes networks by name, as in {'plain': model, 'layer norm': another}")
    found = []
    for name, model in models.items():
        recording = record(model, batch, losses)
        where = place_of(recording, None, None, place)
        profile = gradient_by_lag(recording, at=at)[where.name]
        spectra = step_spectra(where.of_sequences(sequences), every=-(-where.T // steps))
        found.append(Variant(str(name), profile, spectra))
    return Comparison(tuple(found))
