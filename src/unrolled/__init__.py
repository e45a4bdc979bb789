"""Recurrent networks from their equations.

from torch import sigmoid, tanh
from unrolled import cell, Recurrent

@cell(states="h")
def mine(x, h, W):
    z = sigmoid(W.z(x, h))
    return z * h + (1 - z) * tanh(W.n(x, h))

layer = Recurrent(mine, input_size=32, hidden_size=64)
outputs, state = layer(x)
"""

from unrolled import cells
from unrolled.cell import Cell, cell, fit, layer_norm, rms_norm
from unrolled.errors import (
    BackendError,
    BudgetError,
    CellError,
    CheckpointError,
    DataError,
    DivergedError,
    InputError,
    UnrolledError,
)
from unrolled.nn import GRU, LSTM, RNN, Recurrent, Streamer
from unrolled.scan import scan
from unrolled.unroll import Checkpointed, Full, Truncated, plan, through_time

__version__ = "0.1.0"

__all__ = [
    "GRU", "LSTM", "RNN", "BackendError", "BudgetError", "Cell", "CellError", "CheckpointError",
    "Checkpointed", "DataError", "DivergedError", "Full", "InputError", "Recurrent", "Streamer", "Truncated",
    "UnrolledError", "cell", "cells", "fit", "layer_norm", "plan", "rms_norm", "scan", "through_time",
]  # fmt: skip
