"""How long a network remembers: what its state keeps of one input, and the recursions that decide it.

`impulse_response` measures a layer, and `bounded` how large its states become. The others are small
recursions, measured beside their closed form: `linear_recursion`, `saturation` of one unit, and
`memory_of_tanh`, a network. Records hold natural logarithms: -inf is that of exactly 0, NaN what could not be
measured; `words` say why.
"""

from unrolled.flow.forward.bounded import Bounded, bounded
from unrolled.flow.forward.fixed_points import FixedPoint
from unrolled.flow.forward.impulse import ImpulseResponse, Response, impulse_response
from unrolled.flow.forward.recursions import LinearRecursion, linear_recursion
from unrolled.flow.forward.saturation import Saturation, saturation
from unrolled.flow.forward.tanh_memory import TanhMemory, memory_of_tanh

__all__ = [
    "Bounded", "FixedPoint", "ImpulseResponse", "LinearRecursion", "Response", "Saturation", "TanhMemory",
    "bounded", "impulse_response", "linear_recursion", "memory_of_tanh", "saturation",
]  # fmt: skip
