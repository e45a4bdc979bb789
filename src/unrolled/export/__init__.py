"""Layers as models that other programs run."""

from unrolled.export.model import export_onnx

__all__ = ["export_onnx"]
