"""What elementary functions know of the floating-point types: bounds, constants in parts, and coefficients.

Coefficients are minimax fits (Remez) of the function each comment names, highest power first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Format:
    """What the functions know of a floating-point type.

    fraction, bias: bits of the fraction, and the exponent's bias.
    root_half: the bits of sqrt(1/2).
    smallest: the smallest normal number.
    exp_low, exp_high: exp is a normal number between them; each a number of the type and what it lacks.
    expm1_low, tanh_high: expm1 is -1 below, tanh 1 above.
    ln2, two_thirds, pi: in parts; an integer of the reduction times any part but the last is exact.
    exp, log, log_tail, sin: coefficients.
    """

    fraction: int
    bias: int
    root_half: int
    smallest: float
    exp_low: tuple[float, float]
    exp_high: tuple[float, float]
    expm1_low: float
    tanh_high: float
    ln2: tuple[float, float]
    two_thirds: tuple[float, float]
    pi: tuple[float, float, float]
    exp: tuple[float, ...]
    log: tuple[float, ...]
    log_tail: tuple[float, ...]
    sin: tuple[float, ...]

    @property
    def one(self) -> int:
        """The bits of 1.0."""
        return self.bias << self.fraction

    @property
    def rounding(self) -> float:
        """Adding it to a number leaves the nearest integer in the last bits."""
        return 1.5 * 2.0**self.fraction


FORMATS: Final = {
    "float": Format(
        fraction=23,
        bias=127,
        root_half=0x3F3504F3,
        smallest=2.0**-126,
        exp_low=(-87.33654022216797, -4.52e-06),
        exp_high=(88.72283172607422, 7.38e-06),
        expm1_low=-20.0,
        tanh_high=10.0,
        ln2=(0.693145751953125, 1.4286068203094173e-06),
        two_thirds=(0.6666666865348816, -1.9868214925130207e-08),
        pi=(3.140625, 0.0009675025939941406, 1.5099579909783765e-07),
        # (exp(r) - 1 - r) / r^2 on |r| <= 0.3473; relative error of exp(r) - 1: 1.3e-8
        exp=(0.00138824992, 0.00836664718, 0.0416672044, 0.16666542, 0.49999997),
        # (log((1 + s) / (1 - s)) / s - 2) / z, z = s^2 <= 0.02944; relative error of the logarithm: 4.8e-12
        log=(0.235816121, 0.28537339, 0.400003344, 0.666666627),
        # the same without 2/3, over z; relative error of the logarithm: 8.4e-12
        log_tail=(0.234181821, 0.285471529, 0.400001526),
        # (sin(r) / r - 1) / r^2 in powers of r^2, |r| <= 1.5709; relative error of the sine: 6.1e-9
        sin=(2.60576098e-06, -0.00019809595, 0.00833306648, -0.166666597),
    ),
    "double": Format(
        fraction=52,
        bias=1023,
        root_half=0x3FE6A09E667F3BCD,
        smallest=2.0**-1022,
        exp_low=(-708.3964185322641, -2.74e-14),
        exp_high=(709.782712893384, 2.375e-14),
        expm1_low=-40.0,
        tanh_high=20.0,
        ln2=(0.693147180559663, 2.8235290563031577e-13),
        two_thirds=(0.6666666666666666, 3.700743415417188e-17),
        pi=(3.141592651605606, 1.984187159194406e-09, 1.6667485837041758e-19),
        # As above; relative error of exp(r) - 1: 1.9e-17
        exp=(
            2.505379574423334e-08,
            2.76262985770965e-07,
            2.755740816868526e-06,
            2.480150465077323e-05,
            0.00019841269717659878,
            0.0013888888932051626,
            0.008333333333390388,
            0.04166666666657538,
            0.16666666666666588,
            0.5000000000000006,
        ),
        # As above; relative error of the logarithm: 1.3e-18
        log=(
            0.1479562991850752,
            0.15314084207514392,
            0.1818356294269388,
            0.22222198601129606,
            0.2857142874210249,
            0.39999999999416014,
            0.6666666666666734,
        ),
        # As above; relative error of the logarithm: 1.1e-20
        log_tail=(
            0.1319596727466874,
            0.13256858013633188,
            0.1538675554198462,
            0.18181784407334056,
            0.22222222519446952,
            0.28571428570102336,
            0.4000000000000225,
        ),
        # As above; relative error of the sine: 2.8e-19
        sin=(
            2.721163228148476e-15,
            -7.642990398083734e-13,
            1.6058939664890445e-10,
            -2.5052106872005542e-08,
            2.7557319211128788e-06,
            -0.00019841269841209172,
            0.008333333333333194,
            -0.16666666666666666,
        ),
    ),
}
