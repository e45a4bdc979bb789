"""Networks with delay taps on their inputs and outputs, open or closed.

    y_t = Ψ(u_{t−d} for d in input_lags, y_{t−k} for k in output_lags)

In open loop the outputs that enter are given, as measured: there is no recurrence, and all steps are one step
on many rows. In closed loop the network reads its own outputs, which is a compiled recurrence. Both are the
same cell with the same parameters; networks differ in it alone (`unrolled.nn.narx`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from unrolled.cell import Cell
from unrolled.cells.narx import Tapped, checked_lags
from unrolled.errors import DivergedError, InputError, check_sizes
from unrolled.nn.checks import check_flags, checked_state
from unrolled.nn.initialise import Initialiser
from unrolled.nn.recurrent import Recurrent
from unrolled.nn.through_time import policy_of
from unrolled.rewrite import without_input
from unrolled.unroll.policies import Policy

STRIDE: Final = 1024
"""Steps of a free run after which it is looked at."""


class WithTaps(nn.Module):
    """What networks with delay taps share.

    Args:
        cell: of one value `y` with delays; its option `lags` is set here.
        inputs, outputs, input_lags, output_lags, batch_first: see `unrolled.nn.NARX`.
        init: initialisers by pattern.
        own_sizes: of the cell's maps with a width of their own.
    """

    def __init__(
        self,
        cell: Tapped,
        inputs: int,
        outputs: int,
        input_lags: Sequence[int],
        output_lags: Sequence[int],
        *,
        batch_first: bool,
        init: Mapping[str, Initialiser],
        own_sizes: Mapping[str, int] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        check_sizes(outputs=outputs)
        check_flags(batch_first=batch_first)
        if inputs != 0:
            check_sizes(inputs=inputs)
        self.inputs, self.outputs, self.batch_first = inputs, outputs, batch_first
        self.output_lags = checked_lags("output lags", output_lags, InputError)
        self.input_lags = checked_lags("input lags", input_lags, InputError, least=0) if inputs else ()
        if not self.output_lags or (inputs and not self.input_lags):
            raise InputError(f"no {'output' if not self.output_lags else 'input'} lags: give at least one")
        self.order = max(*self.input_lags, *self.output_lags, 1)
        of_lags: Cell = cell.with_options(lags=",".join(map(str, self.output_lags)))
        self.layer = Recurrent(
            of_lags if inputs else without_input(of_lags),
            inputs * len(self.input_lags) or 1,
            {**dict.fromkeys(of_lags.states, outputs), **(own_sizes or {})},
            init=init,
            **options,
        )
        self._widths = {f"u{k}": inputs for k in range(1, max(self.input_lags, default=0) + 1)}
        self._widths |= dict.fromkeys(of_lags.states, outputs)

    def reset_parameters(self) -> None:
        """Draw the initial values anew."""
        self.layer.reset_parameters()

    @property
    def dtype(self) -> torch.dtype:
        """What the parameters are."""
        return self.layer.dtype

    def open_loop(self, u: Tensor | None, y: Tensor, state: Mapping[str, Tensor] | None = None) -> Tensor:
        """Predict every step from the outputs measured before it.

        Args:
            u: (T, B, I), the inputs; None where there are none.
            y: (T, B, O), the outputs as measured.
            state: what was before the series. Without it its first `order` steps are the history.

        Returns:
            (T, B, O), or (T − order, B, O) without a state: what to compare with y, or with y[order:].

        Raises:
            InputError: something does not fit, the series is too short, or has a gap.
        """
        values, y, batched = self._taps(u, y, state)
        new = self.layer.cell.run(values, self.layer.parameters_of("l0"))[0]
        return self._laid_out(new.view(y.shape), batched)

    def forward(
        self,
        u: Tensor | int,
        state: Mapping[str, Tensor] | None = None,
        *,
        limit: float = 1e6,
        bptt: Policy | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Run freely, in closed loop: the outputs that enter are the network's own.

        Args:
            u: (T, B, I), the inputs; where there are none, how many steps to run.
            state: what to begin with, such as `model.state(u, y)`; zeros if not given.
            limit: an output beyond it, of either sign, has diverged.
            bptt: how gradients go through time, see `Recurrent`.

        Returns:
            the outputs (T, B, O), and the state after the last step.

        Raises:
            InputError: something does not fit, or there is a gap.
            DivergedError: an output is beyond the limit, or no number; the message says at which step.
        """
        read, T, B, batched = self._steps(u, state)
        start = self._zeros(B) if state is None else self._checked(state, B, batched)
        x = self._read(read, start, T, B)
        now = {name: start[name][None] for name in self.layer.cell.states}
        found: list[Tensor] = []
        for piece in (x,) if policy_of(bptt) is not None else torch.split(x, STRIDE):
            y, now = self.layer(piece, now, bptt=bptt)
            self._check_limit(y, limit, sum(map(len, found)), batched)
            found.append(y)
        end = {name: value[0] for name, value in now.items()}
        if "u1" in self._widths and read is not None:
            line = torch.cat([self._line("u", start), read])
            end = {name: line[-int(name[1:])] for name in self._widths if name[0] == "u"} | end
        y = torch.cat(found) if len(found) > 1 else found[0]
        return self._laid_out(y, batched), end if batched else {k: v[0] for k, v in end.items()}

    def state(self, u: Tensor | None, y: Tensor) -> dict[str, Tensor]:
        """The state that a measured series leaves: what a free run after it begins with.

        Args:
            u: (T, B, I), None where there are no inputs; only the last steps are used.
            y: (T, B, O).

        Raises:
            InputError: something does not fit, the series is shorter than the lags, or has a gap there.
        """
        u, y, batched = self._series(u, y, self.order)
        if len(y) < self.order:
            raise self._too_short("to go on from", len(y), self.order)
        state = self._state(u, y, len(y))
        return state if batched else {name: value[0] for name, value in state.items()}

    def rows(self, u: Tensor | None, y: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The steps of a measured series as rows, for a fit; see `open_loop`.

        Returns:
            what `layer.cell` reads by name, each (N, ·), and what it should give, (N, O).
        """
        values, targets, _ = self._taps(u, y, None)
        return values, targets.flatten(0, 1)

    # What the loops share

    def _taps(
        self, u: Tensor | None, y: Tensor, state: Mapping[str, Tensor] | None
    ) -> tuple[dict[str, Tensor], Tensor, bool]:
        """What the steps of a measured series read, row by row, and what each should give."""
        u, y, batched = self._series(u, y)
        if state is None:
            if len(y) <= self.order:
                raise self._too_short("to predict a step of it", len(y), self.order + 1)
            state = self._state(u, y, self.order)
            u, y = (None if u is None else u[self.order :]), y[self.order :]
        else:
            state = self._checked(state, y.shape[1], batched)
        T, B = y.shape[:2]
        values = {"x": self._read(u, state, T, B).flatten(0, 1)}
        before = torch.cat([self._line("y", state), y[:-1]])
        longest = self.output_lags[-1]
        for k in range(1, longest + 1):
            values[f"y{k}"] = before[longest - k : longest - k + T].flatten(0, 1)
        return values, y, batched

    def _steps(
        self, u: Tensor | int, state: Mapping[str, Tensor] | None
    ) -> tuple[Tensor | None, int, int, bool]:
        """What drives a free run, (T, B, I) or None, its steps, its series, and whether these are a batch."""
        if isinstance(u, Tensor):
            if not self.inputs:
                raise InputError("this network has no inputs: say how many steps to run")
            read, batched = self._laid_in("u", u, self.inputs)
            if not len(read):
                raise InputError("u has no steps: a free run needs at least one")
            return read, *read.shape[:2], batched
        if self.inputs:
            raise InputError(f"u is a {type(u).__name__}, expected a tensor with {self.inputs} inputs")
        check_sizes(steps=u)
        y = state.get("y1") if isinstance(state, Mapping) else None
        batched = isinstance(y, Tensor) and y.ndim == 2
        return None, u, len(y) if batched and y is not None else 1, batched

    def _state(self, u: Tensor | None, y: Tensor, at: int) -> dict[str, Tensor]:
        """The state before step `at` of a series."""
        of: dict[str, Tensor | None] = {"u": u, "y": y}
        found = {}
        for name in self._widths:
            series = of[name[0]]
            assert series is not None
            found[name] = series[at - int(name[1:])]
        return found

    def _line(self, letter: str, state: Mapping[str, Tensor]) -> Tensor:
        """The values of a state in the order of time, (longest lag, B, ·)."""
        return torch.stack([state[name] for name in reversed(self._widths) if name[0] == letter])

    def _read(self, u: Tensor | None, state: Mapping[str, Tensor], T: int, B: int) -> Tensor:
        """What the recurrence reads: the inputs of all lags side by side; one 0 where there are none."""
        if u is None:
            return state["y1"].new_zeros(T, B, 1)
        longest = self.input_lags[-1]
        line = torch.cat([self._line("u", state), u]) if longest else u
        return torch.cat([line[longest - d : longest - d + T] for d in self.input_lags], -1)

    def _zeros(self, batch: int) -> dict[str, Tensor]:
        like = next(self.parameters())
        return {name: like.new_zeros(batch, width) for name, width in self._widths.items()}

    def _checked(self, state: object, batch: int, batched: bool) -> dict[str, Tensor]:
        shapes = {name: (batch, width) if batched else (width,) for name, width in self._widths.items()}
        found = checked_state(state, shapes, next(self.parameters()))
        for name, value in found.items():
            if not value.isfinite().all():
                raise InputError(f"state {name!r} has a gap: a value of it is not finite")
        return found if batched else {name: value[None] for name, value in found.items()}

    def _series(
        self, u: Tensor | None, y: Tensor, last: int | None = None
    ) -> tuple[Tensor | None, Tensor, bool]:
        """Both series as (T, B, ·), and whether they have a batch; checked for gaps, in the last steps only
        where these are given."""
        y, batched = self._laid_in("y", y, self.outputs, last)
        if not self.inputs:
            if u is not None:
                raise InputError("this network has no inputs: give None for u")
            return None, y, batched
        if u is None:
            raise InputError(f"u is missing: this network has {self.inputs} inputs")
        u, also = self._laid_in("u", u, self.inputs, last)
        if u.shape[:2] != y.shape[:2] or also != batched:
            raise InputError(
                f"u has {u.shape[0]} steps of {u.shape[1]} series, but y has {y.shape[0]} of {y.shape[1]}"
            )
        return u, y, batched

    def _laid_in(self, what: str, value: object, width: int, last: int | None = None) -> tuple[Tensor, bool]:
        """A series as (T, B, ·), and whether it has a batch."""
        if not isinstance(value, Tensor):
            raise InputError(f"{what} is a {type(value).__name__}, expected a tensor")
        rows = "B, T" if self.batch_first else "T, B"
        if value.ndim not in (2, 3) or value.shape[-1] != width:
            raise InputError(
                f"{what} has shape {tuple(value.shape)}, expected ({rows}, {width}), or (T, {width}) alone"
            )
        if value.dtype != self.dtype:
            raise InputError(f"{what} is {value.dtype}, but the network is {self.dtype}")
        batched = value.ndim == 3
        laid = value.unsqueeze(1) if not batched else value.transpose(0, 1) if self.batch_first else value
        begin = 0 if last is None else max(len(laid) - last, 0)
        gaps = ~laid.detach()[begin:].isfinite()
        if gaps.any():
            t, b, k = gaps.nonzero()[0].tolist()
            of = f" of series {b}" if batched else ""
            raise InputError(
                f"{what} has a gap: {what}[{k}] at step {begin + t}{of} is {float(laid[begin + t, b, k])}; "
                "fill it in, or cut the series there"
            )
        return laid, batched

    def _laid_out(self, value: Tensor, batched: bool) -> Tensor:
        if not batched:
            return value.squeeze(1)
        return value.transpose(0, 1) if self.batch_first else value

    def _too_short(self, what: str, there: int, needed: int) -> InputError:
        lags = f"output lags up to {self.output_lags[-1]}"
        if self.inputs:
            lags = f"input lags up to {self.input_lags[-1]} and {lags}"
        return InputError(
            f"a series of {there} steps is too short {what}: {lags} take at least {needed}; give a longer "
            "one, or shorter lags"
        )

    def _check_limit(self, y: Tensor, limit: float, done: int, batched: bool) -> None:
        beyond = ~(y.detach().abs() <= limit)
        if not beyond.any():
            return
        t, b, k = beyond.nonzero()[0].tolist()
        of = f" of series {b}" if batched else ""
        raise DivergedError(
            f"the free run diverged: y[{k}]{of} is {float(y[t, b, k].detach()):.3g} at step {done + t}, "
            f"beyond {limit:g}; train in closed loop too, run fewer steps, or bound y with output='tanh'"
        )

    def extra_repr(self) -> str:
        lags = f"input_lags={self.input_lags}, " if self.inputs else ""
        return f"{self.inputs}, {self.outputs}, {lags}output_lags={self.output_lags}"
