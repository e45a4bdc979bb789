"""What truncation loses, as a record: see `unrolled.unroll.truncation`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from unrolled.flow.records import Record
from unrolled.unroll.policies import Policy
from unrolled.unroll.truncation import ALL, Loss
from unrolled.unroll.truncation import truncation as measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, repr=False)
class Truncation(Record):
    """Truncated gradients beside the exact one, as they reach further back.

    Attributes:
        losses: for each reach, one of each parameter, and one of all together.
    """

    losses: tuple[Loss, ...]

    @property
    def whole(self) -> tuple[Loss, ...]:
        """Those of all parameters together."""
        return tuple(each for each in self.losses if each.parameter == ALL)

    def enough(self, cosine: float = 0.99) -> int | None:
        """The first reach at which the truncated gradient points as the exact one does; None if none."""
        return next((each.k2 for each in self.whole if each.cosine >= cosine), None)

    def summary(self) -> str:
        lines = [
            f"reaching {each.k2} back: cosine {each.cosine:.4f}, {each.norm_ratio:.4f} of the norm"
            for each in self.whole
        ]
        enough = self.enough()
        said = f"{enough} steps are enough" if enough is not None else "no reach that was tried is enough"
        return "\n".join([*lines, f"{said} for a cosine of 0.99"])

    def _draw(self, ax: Axes) -> None:
        names = dict.fromkeys(each.parameter for each in self.losses if each.parameter != ALL)
        for name in (*names, ALL):
            points = [each for each in self.losses if each.parameter == name]
            style = {"linewidth": 2.2, "marker": "o"} if name == ALL else {"linewidth": 0.8}
            ax.plot([p.k2 for p in points], [p.cosine for p in points], label=name, **style)
        ax.set_xscale("log")
        ax.set_xlabel("steps that the gradient reaches back (k2)")
        ax.set_ylabel("cosine to the exact gradient")
        ax.legend(frameon=False, fontsize=7)


def truncation(
    loss: Callable[[Policy], Tensor],
    parameters: Iterable[tuple[str, Tensor]],
    steps: int,
    *,
    k1: int | None = None,
    reaches: Sequence[int] | None = None,
    exact: Policy | None = None,
) -> Truncation:
    """Compare truncated gradients with the exact one; arguments and errors as of
    `unrolled.unroll.truncation`."""
    return Truncation(tuple(measured(loss, parameters, steps, k1=k1, reaches=reaches, exact=exact)))
