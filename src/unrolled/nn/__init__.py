"""Recurrent layers as torch modules."""

from unrolled.nn.deep import Deep
from unrolled.nn.groups import decay_groups
from unrolled.nn.initialise import INITIALISERS, chrono_, initialise
from unrolled.nn.recurrent import Recurrent
from unrolled.nn.streamer import Streamer
from unrolled.nn.torch_layers import GRU, LSTM, RNN

__all__ = [
    "GRU", "INITIALISERS", "LSTM", "RNN", "Deep", "Recurrent", "Streamer", "chrono_", "decay_groups",
    "initialise",
]  # fmt: skip
