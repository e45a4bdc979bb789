"""A perceptron with delay taps, and the linear network that it is measured against.

    NARX   y_t = W_y tanh(W_h [u_{t−d}, y_{t−k}])
    ARX    y_t = W_y [u_{t−d}, y_{t−k}]

How they run, in open and in closed loop, is in `unrolled.nn.taps`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from unrolled.cells.narx import arx, narx
from unrolled.errors import check_sizes
from unrolled.nn.initialise import Initialiser
from unrolled.nn.taps import WithTaps


class NARX(WithTaps):
    """Nonlinear autoregressive network with exogenous inputs: a perceptron with delay taps.

        h = tanh(W_h [u_{t−d} for d in input_lags, y_{t−k} for k in output_lags])
        y_t = W_y h

    `model.open_loop(u, y)` predicts one step ahead from measured outputs, `model(u, state)` runs freely from
    a state, and `model.state(u, y)` is the state that a measured series leaves. Both can be trained through.

    Args:
        inputs: I, the inputs u; 0 for a series that nothing drives.
        outputs: O, the outputs y.
        hidden: N, the units of the hidden layer.
        input_lags: which inputs enter, of how many steps ago, in order; 0 is the one of the step itself.
        output_lags: which outputs enter, in order from 1 up.
        activation, output: of the hidden layer and of y, see `unrolled.cells.narx`.
        batch_first: series are (B, T, ·) instead of (T, B, ·).
        init: initialisers by pattern, as in {"y.h": "normal:0.1"}; see `unrolled.nn.initialise`. Without:
            uniform within ±1/√n in a map of n numbers, biases 0.
        backend: see `unrolled.scan.scan`.

    Attributes:
        order: the steps of history that a step needs, which is the longest lag.
        layer: the recurrence, with parameters `l0.h.x`, `l0.h.y1`, ..., `l0.y.h`; the columns of `h.x` are
            those of the first input lag, then those of the second, and so on.

    Shapes: u (T, B, I), y (T, B, O), also without B; states by name, `u1` to `uP` (B, I) and `y1` to `yK`
        (B, O), those of 1 to P and of 1 to K steps before the next one.

    Raises:
        InputError: lags are no lags, not in order, or named twice; or something does not fit.

    Source: Lin, Horne, Tiňo & Giles 1996, doi:10.1109/72.548162; Narendra & Parthasarathy 1990,
    doi:10.1109/72.80202, who call the loops series-parallel and parallel.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: int,
        input_lags: Sequence[int] = (0,),
        output_lags: Sequence[int] = (1,),
        *,
        activation: str = "tanh",
        output: str = "linear",
        batch_first: bool = False,
        init: Mapping[str, Initialiser] | None = None,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_sizes(hidden=hidden)
        read = max(inputs * len(input_lags) + outputs * len(output_lags), 1)
        maps = ["h1.*", "h2.*"] if activation == "maxout" else ["h.*"]
        start: dict[str, Initialiser] = dict.fromkeys(maps, f"uniform:{1 / math.sqrt(read)}")
        start |= {"y.h": f"uniform:{1 / math.sqrt(hidden)}", "*.bias": 0.0}
        super().__init__(
            narx.with_options(activation=activation, output=output),
            inputs,
            outputs,
            input_lags,
            output_lags,
            batch_first=batch_first,
            init=start | dict(init or {}),
            own_sizes={"N": hidden},
            backend=backend,
            device=device,
            dtype=dtype,
        )


class ARX(WithTaps):
    """Linear autoregressive network with exogenous inputs: what a NARX network is measured against.

        y_t = W_y [u_{t−d} for d in input_lags, y_{t−k} for k in output_lags]

    `fit` has the least squares of one step ahead in one go; before it the network is all zeros.

    Args:
        inputs, outputs, input_lags, output_lags, batch_first, backend: see `NARX`.

    Source: Ljung 1999, System Identification, section 4.2.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        input_lags: Sequence[int] = (0,),
        output_lags: Sequence[int] = (1,),
        *,
        batch_first: bool = False,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            arx,
            inputs,
            outputs,
            input_lags,
            output_lags,
            batch_first=batch_first,
            init={"*": 0.0},
            backend=backend,
            device=device,
            dtype=dtype,
        )

    @torch.no_grad()
    def fit(self, u: Tensor | None, y: Tensor) -> None:
        """Take the parameters with which the squares of one step's errors on a measured series are least.

        Args:
            u: (T, B, I), or None where there are no inputs.
            y: (T, B, O).

        Raises:
            InputError: see `open_loop`.
        """
        values, targets = self.rows(u, y)
        parameters = self.layer.parameters_of("l0")
        matrices = [name for name in parameters if not name.endswith(".bias")]
        columns = [values[name.partition(".")[2]] for name in matrices]
        ones = targets.new_ones(len(columns[0]), 1)
        found = torch.linalg.lstsq(torch.cat([*columns, ones], 1), targets).solution.t()
        parts = found.split([value.shape[1] for value in (*columns, ones)], 1)
        for name, part in zip(matrices, parts, strict=False):
            parameters[name].copy_(part)
        parameters["y.bias"].copy_(parts[-1].squeeze(1))
