"""Recurrent layers as torch modules."""

from unrolled.nn.deep import Deep
from unrolled.nn.dense import Dense
from unrolled.nn.groups import decay_groups
from unrolled.nn.initialise import INITIALISERS, chrono_, initialise
from unrolled.nn.narx import ARX, NARX
from unrolled.nn.pooling import Pooling
from unrolled.nn.recurrent import Recurrent
from unrolled.nn.streamer import Streamer
from unrolled.nn.torch_layers import GRU, LSTM, RNN
from unrolled.nn.weight_norm import SpectralNorm, WeightNorm, normalise_weights

__all__ = [
    "ARX", "GRU", "INITIALISERS", "LSTM", "NARX", "RNN", "Deep", "Dense", "Pooling", "Recurrent",
    "SpectralNorm", "Streamer", "WeightNorm", "chrono_", "decay_groups", "initialise", "normalise_weights",
]  # fmt: skip
