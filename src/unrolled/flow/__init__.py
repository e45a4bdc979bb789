"""Gradient flow in plain sight: where a gradient dies, at which lag, in which gate."""

from unrolled.flow.gates import Clipping, GateStatistics, clipping, gate_statistics
from unrolled.flow.jacobian import jacobian_parts, jacobians
from unrolled.flow.lag import GradientByLag, LagProfile, gradient_by_lag
from unrolled.flow.spectra import (
    LagSpectrum,
    Lyapunov,
    StepSpectra,
    exponents,
    lag_spectrum,
    lyapunov,
    step_spectra,
)
from unrolled.flow.trace import Place, Recording, record

__all__ = [
    "Clipping", "GateStatistics", "GradientByLag", "LagProfile", "LagSpectrum", "Lyapunov", "Place",
    "Recording", "StepSpectra", "clipping", "exponents", "gate_statistics", "gradient_by_lag",
    "jacobian_parts", "jacobians", "lag_spectrum", "lyapunov", "record", "step_spectra",
]  # fmt: skip
