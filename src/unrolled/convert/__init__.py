"""Weights from and to other libraries: torch's modules, Keras's lists, the tensors of ONNX's operators.

Layers, directions and biases are carried over. Initial states that a layer has learned are no weights
elsewhere: `layer.initial_state(B)` gives them, to be handed to each call. What is drawn in training alone,
but for `dropout` between layers, is left behind.
"""

from unrolled.convert.keras_weights import from_keras, to_keras
from unrolled.convert.onnx_operators import from_onnx_operator, to_onnx_operator
from unrolled.convert.torch_modules import from_torch, to_torch

__all__ = ["from_keras", "from_onnx_operator", "from_torch", "to_keras", "to_onnx_operator", "to_torch"]
