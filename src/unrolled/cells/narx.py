"""Networks with delay taps: what they gave out some steps ago comes in again.

Option `lags` says which outputs enter, of how many steps ago, as text: "1,2,5", "1-6", "1-3,8". The states
are the whole line of delays up to the longest, for that is what the network remembers: y1 is the output of
the step before, y2 that of two steps before, and so on. A longer lag is a shorter way through time: over T
steps a gradient may go back in T / D jumps of D steps, not only in T of one.

Taps of the input are no memory of the network's own, and are made before the loop (`unrolled.nn.NARX`): x is
the input, and beside it those of earlier steps.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from unrolled.cell import Cell, EquationCell, find_again
from unrolled.cells.rnn import POINTWISE, Activation, activated
from unrolled.errors import CellError


def read_lags(
    text: str, what: str = "lags", error: type[Exception] = CellError, least: int = 1
) -> tuple[int, ...]:
    """The lags, or other whole numbers in order, in text such as "1,2,5" or "1-3,8".

    Raises:
        error: the text is not of this form, or see `checked_lags`.
    """
    lags: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(-?\d+)(?:-(\d+))?\s*", part)
        if found is None:
            raise error(f"cannot read {what} {text!r}; write them as in 1,2,5 or 1-6")
        first, last = int(found[1]), int(found[2] or found[1])
        lags += range(first, last + 1) if first <= last else (first, last)
    return checked_lags(what, lags, error, least)


def checked_lags(what: str, lags: Sequence[int], error: type[Exception], least: int = 1) -> tuple[int, ...]:
    """Lags in order.

    Raises:
        error: one is below `least`, is given twice, or stands after a longer one.
    """
    whole = [lag for lag in lags if isinstance(lag, int) and not isinstance(lag, bool)]
    shown = ", ".join(map(str, lags))
    if len(whole) != len(lags):
        raise error(f"{what} are whole numbers, not {shown}")
    if low := [lag for lag in whole if lag < least]:
        why = ": a network cannot read what is not there yet" if "lags" in what else ""
        raise error(f"{what} begin with {least}, got {low[0]}{why}")
    if len({*whole}) != len(whole):
        raise error(f"{what} {shown} name a number twice")
    if sorted(whole) != whole:
        raise error(f"{what} {shown} are not in order: write {', '.join(map(str, sorted(whole)))}")
    return tuple(whole)


class Tapped(EquationCell):
    """A cell of one value that comes in again with delays.

    Attributes:
        equations: (x, taps, W, **options) -> the new value. `taps` has the value of k steps ago at k. One of
            the options is `lags`.
        letter: what the value is called: its states are `y1`, `y2`, ...
    """

    def __init__(
        self, equations: Callable[..., Any], letter: str, options: Mapping[str, Any] | None = None
    ) -> None:
        self.equations, self.letter = equations, letter
        default = inspect.signature(equations).parameters["lags"].default
        self.lags = read_lags(str((options or {}).get("lags", default)))
        states = tuple(f"{letter}{lag}" for lag in range(1, self.lags[-1] + 1))

        @functools.wraps(equations)
        def step(x: Any, *values: Any, **options: Any) -> Any:
            *line, W = values
            return equations(x, dict(enumerate(line, 1)), W, **options), *line[:-1]

        kept = inspect.signature(equations).parameters.values()
        given = (inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD) for n in ("x", *states, "W"))
        step.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            (*given, *(p for p in kept if p.kind is p.KEYWORD_ONLY))
        )
        super().__init__(step, states, options=options)

    def with_options(self, **options: Any) -> Tapped:
        return Tapped(self.equations, self.letter, self._changed | options)

    def __reduce__(self) -> Any:
        home = self.equations.__module__
        found = getattr(sys.modules.get(home), self.base_name, None)
        if isinstance(found, Tapped) and found.equations is self.equations:
            return find_again, (home, self.base_name, self._changed)
        return Cell.__reduce__(self)


def tapped(letter: str) -> Callable[[Callable[..., Any]], Tapped]:
    """Make a cell of equations with taps; see `Tapped`."""
    return lambda equations: Tapped(equations, letter)


def taps(y: Mapping[int, Any], letter: str, lags: str) -> dict[str, Any]:
    """The values of these lags, by the names of their matrices."""
    return {f"{letter}{lag}": y[lag] for lag in read_lags(lags)}


@tapped("y")
def narx(
    x, y, W, *,
    lags: str = "1,2", activation: Activation = "tanh",
    output: Literal["linear", "tanh", "sigmoid"] = "linear",
):  # fmt: skip
    """Nonlinear autoregressive network with exogenous inputs: a perceptron that reads its own last outputs.

        h = tanh(W_h [x, y_{t−k} for k in lags])
        y ← W_y h

    The hidden layer h has a width of its own, N, and remembers nothing. `output` puts another function on y,
    `activation` another one on h.

    Source: Leontaritis & Billings 1985, doi:10.1080/0020718508961129; Chen, Billings & Grant 1990,
    doi:10.1080/00207179008934126; Lin, Horne, Tiňo & Giles 1996, doi:10.1109/72.548162.
    """
    h = activated(activation, W, "h", x, width="N", **taps(y, "y", lags))
    y = W.y(h=h)
    return y if output == "linear" else POINTWISE[output](y)


@tapped("y")
def arx(x, y, W, *, lags: str = "1,2"):
    """Linear autoregressive network with exogenous inputs.

        y ← W_y [x, y_{t−k} for k in lags]

    Source: Ljung 1999, System Identification, section 4.2.
    """
    return W.y(x, **taps(y, "y", lags))


@tapped("h")
def delayed_rnn(x, h, W, *, lags: str = "1,2", activation: Activation = "tanh"):
    """Elman network that also reads its states of longer ago.

        h_t = tanh(W_h [x, h_{t−k} for k in lags])

    With `lags=1` it is `rnn`.

    Source: Lin, Horne, Tiňo & Giles 1998, doi:10.1016/S0893-6080(98)00018-5; as "higher order RNN" Soltani &
    Jiang 2016, arXiv:1605.00064.
    """
    return activated(activation, W, "h", x, **taps(h, "h", lags))
