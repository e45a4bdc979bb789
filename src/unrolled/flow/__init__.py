"""Gradient flow in plain sight: where a gradient dies, at which lag, in which gate, and what to do about it.

from unrolled import flow

flow.diagnose(model, batch)
flow.report(model, batch, "flow.html")
"""

from unrolled.flow.compare import Comparison, Variant, compare
from unrolled.flow.diagnose import Diagnosis, diagnose
from unrolled.flow.findings import Finding
from unrolled.flow.forward import (
    bounded,
    impulse_response,
    linear_recursion,
    memory_of_tanh,
    saturation,
)
from unrolled.flow.gates import Clipping, GateStatistics, clipping, gate_statistics
from unrolled.flow.jacobian import jacobian_parts, jacobians
from unrolled.flow.lag import GradientByLag, LagProfile, gradient_by_lag
from unrolled.flow.measurement import Measurement, PlaceMeasurement
from unrolled.flow.monitor import Monitor
from unrolled.flow.nan import NanSource, nan_source
from unrolled.flow.reports import Report, report
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
from unrolled.flow.truncated import Truncation, truncation

__all__ = [
    "Clipping", "Comparison", "Diagnosis", "Finding", "GateStatistics", "GradientByLag", "LagProfile",
    "LagSpectrum", "Lyapunov", "Measurement", "Monitor", "NanSource", "Place", "PlaceMeasurement",
    "Recording", "Report", "StepSpectra", "Truncation", "Variant", "bounded", "clipping", "compare",
    "diagnose", "exponents", "gate_statistics", "gradient_by_lag", "impulse_response", "jacobian_parts",
    "jacobians", "lag_spectrum", "linear_recursion", "lyapunov", "memory_of_tanh", "nan_source", "record",
    "report", "saturation", "step_spectra", "truncation",
]  # fmt: skip
